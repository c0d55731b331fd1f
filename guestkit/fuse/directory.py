"""A directory's listing in progress, as the kernel will be told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from guestkit.errors import GuestkitError, WouldBlock
from guestkit.fs.base import Stat
from guestkit.fuse.nodes import ROOT, TABLE
from guestkit.namespace import KEY_BITS, Entry, Namespace

READY = 192  # entries, about one reply
PIECE = 32  # entries prepared before the descriptor is looked at again
_DOT, _DOT_DOT = (1 << 63) - 2, (1 << 63) - 1  # cookies: readers' end below them
_LONGEST_NAME = 1024  # bytes; with a longer one the kernel refuses the whole listing
_NUMBER = (1 << 64) - 1
_NO_NAMES = (b"", b".", b"..")
_MOST_SUBDIRECTORIES = 4096
_MOST_ABOVE = 4096  # directories whose parent is known without reading them

# (directory, node, stat, DT_*, name, cookie) -> (number, encoded entry)
EntryMaker = Callable[[int, int, Stat | None, int, bytes, int], tuple[int, Any]]


class EntryForm(Protocol):
    """How entries are encoded for the kernel."""

    overflow: type[Exception]  # what of() raises for a Stat that does not fit

    def of(self, number: int, status: Stat, name: bytes = b"", cookie: int = 0) -> Any:
        """`status` under `number`; with a name: as an entry of a listing."""

    def listed(self, entries: Iterable[Entry]) -> list[tuple[bytes, Any, int, int]]:
        """(name, encoded entry, cookie, 0) of entries whose numbers are their nodes and which have a Stat."""

    def unknown(self, number: int, kind: int, name: bytes = b"", cookie: int = 0) -> Any:
        """An entry of a listing whose inode cannot be read: getattr or lookup tells why."""

    def dots(self, number: int, kind: int, name: bytes, cookie: int) -> Any:
        """ "." or "..", of which only number and type count."""

    def received(self, records: Iterable[bytes]) -> list[tuple[bytes, Any, int, int]]:
        """(name, encoded entry, cookie, 0) of entries that another process has encoded, as fuse_direntplus."""


class Directory:
    """A listing in progress; `cookie` is that of the last entry replied.

    `pending` holds (name, encoded entry, cookie, number); the number is 0 where the kernel need not count it.
    """

    __slots__ = (
        "_above",
        "_behind",
        "_entry",
        "_error",
        "_form",
        "_iterator",
        "_namespace",
        "cookie",
        "ended",
        "node",
        "pending",
        "portable",
        "subs",
    )

    def __init__(
        self,
        namespace: Namespace,
        node: int,
        cookie: int,
        entry: EntryMaker,
        form: EntryForm,
        above: dict[int, int] | None = None,
    ) -> None:
        """`entry` makes what `form` alone does not; `above` is shared: the parents of directories not yet entered."""
        self.node = node
        self.cookie = cookie
        self.pending: list[tuple[bytes, Any, int, int]] = []
        self.subs: dict[int, int] = {}  # with their sizes in bytes
        self.ended = False
        self.portable = True  # its entries are the same for another process, and none of them is damaged
        self._namespace = namespace
        self._entry = entry
        self._form = form
        self._above = {} if above is None else above
        self._iterator: Iterator[Entry] | None = None
        self._behind = cookie
        self._error: GuestkitError | None = None

    def fill(self, count: int = READY) -> None:
        """Add up to `count` entries to `pending`; none when the listing has ended.

        Raises: WouldBlock, or what scan_stat raised, when there is nothing more to give before it; both leave the
        listing so that it can be gone on with.
        """
        if self._error is not None:
            raise self._error
        if self.ended:
            return
        made: list[tuple[bytes, Any, int, int]] = []
        try:
            if self._behind in (0, _DOT):
                made += self._dots(self._behind == _DOT)
                self._behind = _DOT_DOT
            if self._iterator is None:
                start = 0 if self._behind == _DOT_DOT else self._behind
                self._iterator = iter(self._namespace.scan_stat(self.node, start))
            entries: list[Entry] = []
            try:
                for entry in islice(self._iterator, count):
                    entries.append(entry)
            finally:  # what came before an error is good
                if entries:
                    made += self._encoded(entries)
                    self._behind = entries[-1].cookie
            self.ended = len(entries) < count  # not before: encoding a link may have to wait, and comes again then
        except WouldBlock:
            self._restart(made)
            if not made:
                raise
        except GuestkitError as error:
            self._iterator = None
            self._error = error
            if not made:
                raise
        except Exception:  # a defect: whoever asked is told, and the listing can be gone on with
            self._restart([])
            raise
        self.pending = self.pending + made if self.pending else made

    def take(self, entries: list[Entry]) -> Iterator[None]:
        """Be the listing of a directory that consists of `entries`; with pauses, after which it can be gone on with."""
        self.pending = self._dots(False)
        self._behind = _DOT_DOT
        for at in range(0, len(entries), PIECE):
            piece = entries[at : at + PIECE]
            self.pending += self._encoded(piece)
            self._behind = piece[-1].cookie
            yield
        self.ended = True

    def receive(self, records: Iterable[bytes]) -> None:
        """Be a listing that another process has made."""
        self.pending = self._form.received(records)
        self.ended = True

    def _encoded(self, entries: list[Entry]) -> list[tuple[bytes, Any, int, int]]:
        """`entries` as `pending` holds them, without the names that may not be shown."""
        names = [entry[0] for entry in entries]
        lengths = list(map(len, names))
        joined = b"".join(names)
        if min(lengths) < 3 or max(lengths) > _LONGEST_NAME or b"/" in joined or b"\0" in joined:
            entries = [
                entry
                for entry in entries
                if len(entry[0]) <= _LONGEST_NAME and not (b"/" in entry[0] or b"\0" in entry[0])
                if entry[0] not in _NO_NAMES
            ]
        node, root, subs = self.node, self._namespace.root, self.subs
        low = max(node >> KEY_BITS << KEY_BITS, ROOT + 1)
        high = min((node >> KEY_BITS) + 1 << KEY_BITS, TABLE)
        made: list[tuple[bytes, Any, int, int]] = []
        run: list[Entry] = []
        for entry in entries:
            _, child, _, _, status = entry
            mode = 0 if status is None else status[1] & 0xF000
            # most are numbered by their node and told by their Stat alone
            if mode != 0xA000 and low <= child < high and child != root and mode:
                run.append(entry)
            else:
                made += self._usual(run)
                run = []
                made.append(self._one(entry))
            if mode == 0x4000 and len(subs) < _MOST_SUBDIRECTORIES:
                subs[child] = status[6]  # type: ignore[index]  # a mode comes from a Stat
                self._above[child] = node
        return made + self._usual(run) if made else self._usual(run)

    def _usual(self, entries: list[Entry]) -> list[tuple[bytes, Any, int, int]]:
        try:
            return self._form.listed(entries)
        except self._form.overflow:
            return [self._one(entry) for entry in entries]

    def _one(self, entry: Entry) -> tuple[bytes, Any, int, int]:
        name, child, kind, cookie, status = entry
        try:
            number, encoded = self._entry(self.node, child, status, kind, name, cookie)
        except self._form.overflow:  # getattr refuses it
            number, encoded = self._entry(self.node, child, None, kind, name, cookie)
            status = None
        if status is None or number >= TABLE or (child ^ self.node) >> KEY_BITS:
            self.portable = False
        return name, encoded, cookie, number if number >= TABLE else 0

    def _restart(self, made: list[tuple[bytes, Any, int, int]]) -> None:
        """Go on behind the last entry that was made; the one that would have waited comes again."""
        self._iterator = None
        self._behind = made[-1][2] if made else self.pending[-1][2] if self.pending else self.cookie

    def _dots(self, only_second: bool) -> list[tuple[bytes, Any, int, int]]:
        known, form = self._above, self._form
        above = known.pop(self.node, None)
        if above is None:
            above = self.node
            try:
                above = self._namespace.parent(self.node)
            except GuestkitError:  # a damaged directory may not tell; only d_ino of ".." depends on it
                pass
        while len(known) > _MOST_ABOVE:
            try:
                del known[next(iter(known))]
            except (StopIteration, KeyError, RuntimeError):  # another thread was quicker
                break
        dots = [(b"..", form.dots(above & _NUMBER, 4, b"..", _DOT_DOT), _DOT_DOT, 0)]
        return dots if only_second else [(b".", form.dots(self.node & _NUMBER, 4, b".", _DOT), _DOT, 0), *dots]
