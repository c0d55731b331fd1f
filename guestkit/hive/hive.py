"""Hive: a registry file opened, its logs replayed, its keys found by path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestkit.errors import Corrupt, GuestkitError, LinkLoop, NameTooLong, NotFound, Unsupported
from guestkit.hive.cells import Cells
from guestkit.hive.header import HEAD, PRIMARY, SIZE, Base, check_bins, parse_base
from guestkit.hive.keys import LEAST_CELL, LINK, REG_LINK, Key, Value, fold
from guestkit.hive.log import limited, recover
from guestkit.limits import Limits
from guestkit.source import Source

_MOST_LINKS = 32
_MOST_KEYS = 1 << 22
_MOST_DEPTH = 512  # keys above a key, as Windows has it
_MOST_PATH = 1 << 16  # characters


class Hive:
    """The keys of one hive. `state`: "clean", "replayed" or "dirty-not-replayed", with a reason where there is one."""

    def __init__(self, source: Source, base: Base, limits: Limits, state: tuple[str, str], mount: str) -> None:
        """Raises: Corrupt when the root key cannot be read; Unsupported."""
        self.base = base
        self.state, self.reason = state
        self._mount = fold(mount.rstrip("\\"))
        self._cells = Cells(limited(source, base.bins), base.bins, limits)
        self.root = Key(self._cells, base.minor, base.root)

    def key(self, path: str) -> Key:
        r"""The key at `path` ("Select", "ControlSet001\Services"), without regard to case; links are followed.

        CurrentControlSet, which exists only while Windows runs, is the one that Select names.
        Raises: NotFound; LinkLoop; Unsupported for a link into another hive; Corrupt.
        """
        if len(path) > _MOST_PATH:
            raise NameTooLong("registry path is too long")
        links = 0
        key = self.root
        parts = [part for part in path.split("\\") if part][::-1]
        while parts:
            name = parts.pop()
            try:
                below = key.subkey(name)
            except NotFound:
                if key.offset != self.root.offset or fold(name) != "CURRENTCONTROLSET":
                    raise
                below = key.subkey(self.current_control_set)
            if below.flags & LINK:
                links += 1
                if links > _MOST_LINKS:
                    raise LinkLoop
                target = self._target(below)
                if target is not None:
                    parts.extend([part for part in target.split("\\") if part][::-1])
                    key = self.root
                    continue
            key = below
        return key

    @property
    def current_control_set(self) -> str:
        """The name of the control set that Windows would start with. Raises: NotFound, Corrupt."""
        return f"ControlSet{self.root.subkey('Select').value('Current').number:03}"

    def _target(self, key: Key) -> str | None:
        """Where a link leads, from the root of this hive; None when it has no target."""
        try:
            value: Value = key.value("SymbolicLinkValue")
        except NotFound:
            return None
        if value.type != REG_LINK:
            return None
        data = value.data  # without a NUL
        target = data[: len(data) & ~1].decode("utf-16-le", "surrogatepass").rstrip("\0")
        mount = self._mount
        if not mount or fold(target[: len(mount)]) != mount or target[len(mount) : len(mount) + 1] not in ("", "\\"):
            raise Unsupported(f"a registry link to {target!r}, in another hive,", where=key.where)
        return target[len(mount) :]

    def walk(self) -> Iterator[tuple[tuple[str, ...], Key]]:
        """Yield (names from the root, key) for every key, the root first, not following links.

        Raises: Corrupt, Unsupported at the end for the first that could not be read.
        """
        flaw: GuestkitError | None = None
        pending: list[tuple[tuple[str, ...], Key]] = [((), self.root)]
        seen = {self.root.offset}
        # keys that there can be, so that shared lists do not multiply
        left = min(self._cells.end // LEAST_CELL, _MOST_KEYS)
        while pending:
            path, key = pending.pop()
            yield path, key
            below = []
            left -= key.count
            if left < 0:
                flaw = flaw or Corrupt("key node", "number of subkeys", found=key.count, where=key.where)
                break
            try:
                for each in key.subkeys():
                    if each.offset in seen or len(path) >= _MOST_DEPTH:
                        flaw = flaw or Corrupt("key node", "offset", found=each.offset, expected="one key above it")
                        continue
                    seen.add(each.offset)
                    below.append(((*path, each.name), each))
            except (Corrupt, Unsupported) as error:
                flaw = flaw or error
            pending.extend(reversed(below))
        if flaw is not None:
            raise flaw


def open_hive(source: Source, logs: Sequence[Source] = (), limits: Limits | None = None, mount: str = "") -> Hive:
    r"""Open a hive. `logs`: its .LOG1, .LOG2 or .LOG, those that there are, in this order.

    A dirty hive is read as its logs leave it; without logs that can be applied it is read as it stands, and `state`
    says so. `mount`: where the guest has it ("\Registry\Machine\System"), so that links into itself are followed.
    Raises: Corrupt when it is no hive, or its base block is damaged and no log has a copy; Unsupported; SourceError.
    """
    limits = limits or Limits()
    if source.size < SIZE:
        raise Corrupt("hive", "size", found=source.size, expected=f"at least {SIZE}")
    base: Base | None = None
    problem: Corrupt | None = None
    try:
        base = parse_base(source.read(0, HEAD))
        if not base.whole:
            raise Corrupt("hive base block: bad checksum")
        check_bins(base)
        if base.type != PRIMARY:
            raise Corrupt("hive base block", "file type", found=base.type, expected=PRIMARY)
    except Corrupt as error:
        base, problem = None, error
    if base is not None and base.primary == base.secondary:
        return Hive(source, base, limits, ("clean", ""), mount)
    reason = "the base block is damaged" if base is None else "the last write did not end"
    found = recover(source, base, logs)
    if found is not None:
        state = ("replayed", f"{reason}; {found.sectors} sectors from the logs")
        return Hive(found.source, found.base, limits, state, mount)
    if base is None:
        assert problem is not None
        raise problem
    reason += ", and no log can be applied" if logs else ", and there is no log"
    return Hive(source, base, limits, ("dirty-not-replayed", reason), mount)
