"""Handle: what every category of the Guestfs class stands on: state, the mounted tree, nodes by path, events."""

from __future__ import annotations

import errno
import stat
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

from guestkit.errors import GuestkitError, NotFound
from guestkit.fs.base import DT_LNK, DT_UNKNOWN, Stat
from guestkit.guestfs import events
from guestkit.guestfs.call import CLOSED, CONFIG, to_stderr
from guestkit.guestfs.errors import READ_ONLY, Failure
from guestkit.namespace import MAX_NAME, MountTable
from guestkit.source import Source

if TYPE_CHECKING:
    from guestkit.guest import Device, Disk, Guest
    from guestkit.inspect import OperatingSystem
    from guestkit.synthetic import SyntheticFS

_WORTH_LISTING = 64  # lookups in one directory
_MOST_LISTED = 100_000  # names
_MOST_IN_MEMORY = 1 << 31  # bytes of one result, as libguestfs has it


class _Recent:
    """The directory that paths were last looked up in; listed once many of its names are asked for.

    It holds what needs no look at the filesystem to be resolved: names that are there once and are no links.
    """

    __slots__ = ("count", "names", "path")

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.names: dict[bytes, int] = {}
        self.count = 0

    def fill(self, table: MountTable) -> None:
        names: dict[bytes, int] = {}
        seen: set[bytes] = set()
        doubled: set[bytes] = set()
        try:
            node = table.resolve((self.path or "").encode() + b"/")
            for entry in table.scan(node):
                if entry.name in seen:
                    doubled.add(entry.name)
                seen.add(entry.name)
                if entry.type not in (DT_LNK, DT_UNKNOWN):
                    names[entry.name] = entry.node
                if len(seen) > _MOST_LISTED:
                    return
        except GuestkitError:  # a directory that cannot be listed: each name is looked up by itself
            return
        for name in doubled:
            names.pop(name, None)
        self.names = names


@dataclass(frozen=True)
class Drive:
    """One add_drive. `size` is that of an empty disk, 0 for an image file."""

    path: str
    format: str | None
    label: str
    sector_size: int | None
    size: int = 0

    def add_to(self, guest: Guest) -> None:
        if self.size:
            guest.add_empty(self.size, label=self.label, sector_size=self.sector_size)
        else:
            guest.add(self.path, format=self.format, label=self.label, sector_size=self.sector_size)


class Handle:
    """State and helpers without names of the API. `_state` is CONFIG, READY or CLOSED."""

    _dictionaries = False

    def __init__(self) -> None:
        self._lock = RLock()
        self._state = CONFIG
        self._added: list[Drive] = []
        self._guest: Guest | None = None
        self._table = MountTable()
        self._base: SyntheticFS | None = None  # gives mkmountpoint's directories while nothing is mounted on /
        self._systems: list[OperatingSystem] | None = None
        self._settings: dict[str, Any] = {}
        self._callbacks: dict[int, tuple[events.Callback, int]] = {}
        self._next_callback = 0
        self._trace = False
        self._verbose = False
        self._observed = False  # whether calls must be told to anybody
        self._cancelled = False
        self._recent = _Recent()

    # results

    def _hashtable(self, pairs: Any) -> Any:
        if isinstance(pairs, dict):
            pairs = list(pairs.items())
        return dict(pairs) if self._dictionaries else pairs

    # devices

    def _opened(self) -> Guest:
        assert self._guest is not None
        return self._guest

    def _device(self, name: str) -> Device:
        """Find a device that a parameter names."""
        if not name.startswith("/dev/"):
            raise Failure(f"{name}: expecting a device name", errno.EINVAL, stub=True)
        try:
            return self._opened().device(name)
        except NotFound:
            raise Failure(f"{name}: No such file or directory", errno.ENOENT, stub=True) from None

    def _disk(self, name: str) -> Disk:
        """Find a whole disk."""
        device = self._device(name)
        for disk in self._opened().disks:
            if disk is device:
                return disk
        raise Failure(f"{name}: not a whole disk", errno.EINVAL)

    def _source(self, device: Device) -> Source:
        return device.open(self._opened()._keys)

    def _mountable(self, name: str) -> tuple[Device, str | None]:
        """(device, subvolume or None) of a mountable."""
        rest = name.removeprefix("btrfsvol:")
        if rest == name:
            if not name.startswith("/dev/"):
                raise Failure(f"{name}: No such file or directory", errno.ENOENT, stub=True)
            return self._device(name), None
        if not rest.startswith("/dev/"):
            raise Failure(f"{name}: expecting a btrfs volume", errno.EINVAL, stub=True)
        try:
            device, volume = self._opened().split(name)
        except NotFound:
            volume = ""
        if not volume:
            raise Failure(f"{name}: expecting a btrfs volume", errno.EINVAL, stub=True)
        return device, volume

    # paths

    def _need_root(self, path: str) -> bytes:
        if not path.startswith("/"):
            raise Failure("path must start with a / character", errno.EINVAL, stub=True)
        if not self._table.mounts or (self._base is not None and len(self._table.mounts) == 1):
            raise Failure("you must call 'mount' first to mount the root filesystem", errno.EINVAL, stub=True)
        return path.encode()

    def _node(self, path: str, *, follow: bool = True) -> int:
        recent = self._recent
        head, slash, last = path.rpartition("/")
        if slash and head == recent.path:
            name = last.encode()
            node = recent.names.get(name)
            if node is not None:
                return node
            if recent.count == _WORTH_LISTING:
                self._need_root(path)
                recent.fill(self._table)
            recent.count += 1
        elif slash:
            self._recent = _Recent(head)
        return self._table.resolve(self._need_root(path), follow=follow)

    def _real(self, path: bytes) -> bytes:
        """The path without links; ".." stops at the root. Raises: as resolve."""
        table = self._table
        table.resolve(path)  # all of it must be there, and links must end
        names: list[bytes] = []
        pending = path.split(b"/")[::-1]
        node = table.root
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del names[-1:]
                node = table.parent(node)
                continue
            child = table.named(node, name)
            if stat.S_ISLNK(table.stat(child).mode):
                target = table.readlink(child)
                if target.startswith(b"/"):
                    names, node = [], table.root
                pending.extend(target.split(b"/")[::-1])
                continue
            names.append(name)
            node = child
        return b"/" + b"/".join(names)

    def _stat(self, path: str, *, follow: bool = True) -> Stat:
        return self._table.stat(self._node(path, follow=follow))

    def _open(self, path: str) -> Source:
        return self._table.open(self._node(path))

    def _read(self, path: str) -> bytes:
        """A whole file."""
        source = self._table.open(self._node(path))
        size = source.size
        if size > _MOST_IN_MEMORY:
            raise Failure(f"{path}: file is too large to be returned; use download", errno.EFBIG)
        return source.read(0, size)

    def _walk(self, directory: int) -> Iterator[tuple[bytes, int, Stat]]:
        """Every name below a directory. Raises: Failure at the end for what could not be listed or looked at."""
        first: list[tuple[bytes, GuestkitError]] = []

        def failed(path: bytes, error: GuestkitError) -> None:
            if not first:
                first.append((path, error))

        for path, node, status in self._table.walk(directory, failed):
            if status is None:
                try:
                    status = self._table.stat(node)
                except GuestkitError as error:
                    failed(path, error)
                    continue
            yield path, node, status
        if first:
            place, reason = first[0]
            raise Failure(f"{place.decode('utf-8', 'replace')}: {reason}", reason.errno or errno.EIO) from reason

    def _dev_or_path(self, name: str) -> Source:
        """The bytes of a device, or of a file of the guest."""
        return self._source(self._device(name)) if name.startswith("/dev/") else self._open(name)

    def _names(self, names: Sequence[str]) -> list[bytes]:
        """Check the names of a filename list."""
        for name in names:
            if "/" in name:
                raise Failure(f"'{name}' is not a file name", errno.EINVAL, stub=True)
        return [name.encode() for name in names]

    def _child(self, directory: int, name: bytes) -> int:
        """The node of a name that a caller gave, which may be anything without a slash."""
        if name == b".":
            return directory
        if name == b"..":
            return self._table.parent(directory)
        if not name or len(name) > 4 * MAX_NAME:
            raise NotFound
        return self._table.named(directory, name)

    def _read_only(self, path: str = "") -> Failure:
        """The failure of every function that would change the guest."""
        if path:
            self._need_root(path)
        return Failure(f"{path}: {READ_ONLY}" if path else READ_ONLY, errno.EROFS)

    def _tree_changed(self) -> None:
        self._recent = _Recent()

    # events

    def _event(self, event: int, text: bytes = b"", numbers: Sequence[int] = ()) -> None:
        """Call who asked for `event`; without anybody, trace and library messages go to stderr as asked for."""
        heard = False
        for number, (callback, mask) in list(self._callbacks.items()):
            if mask & event:
                heard = True
                try:
                    callback(event, number, text, list(numbers))
                except Exception:  # libguestfs prints it and goes on: a callback cannot fail the call
                    traceback.print_exc()
        if heard:
            return
        if event == events.EVENT_TRACE:
            to_stderr("trace: " + text.decode("utf-8", "replace"))
        elif (event == events.EVENT_LIBRARY and self._verbose) or event == events.EVENT_WARNING:
            to_stderr(text.decode("utf-8", "replace").rstrip("\n"))

    def _say(self, text: str) -> None:
        """Tell a message of the library, when anybody listens."""
        if self._verbose or self._callbacks:
            self._event(events.EVENT_LIBRARY, text.encode("utf-8", "surrogateescape"))

    def _watch(self) -> None:
        """Note whether calls must be told to anybody; otherwise the frame skips it."""
        calls = events.EVENT_ENTER | events.EVENT_TRACE
        self._observed = self._trace or any(mask & calls for _, mask in self._callbacks.values())

    def _closed(self) -> bool:
        return self._state == CLOSED
