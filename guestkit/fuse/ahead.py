"""Listings in progress, and useful work for the time in which the kernel asks nothing.

After a directory has been listed its subdirectories are listed ahead, in the order in which a walk comes to them, and
theirs after them; the start of a file is read as soon as it has been opened. Both are bounded, and rest when what they
prepare is not asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from guestkit.errors import GuestkitError, WouldBlock
from guestkit.fs.base import Stat
from guestkit.fuse.nodes import ROOT, TABLE
from guestkit.namespace import KEY_BITS, Entry, Namespace
from guestkit.source import Source

_DOT, _DOT_DOT = (1 << 63) - 2, (1 << 63) - 1  # cookies: readers' end below them
READY = 192  # entries, about one reply
_PIECE = 32  # entries prepared before the descriptor is looked at again
_LONGEST_NAME = 1024  # bytes; with a longer one the kernel refuses the whole listing
_NUMBER = (1 << 64) - 1
_NO_NAMES = (b"", b".", b"..")
_MOST_SUBDIRECTORIES = 4096
_LARGE = 1 << 16  # bytes of a directory that is listed by itself
_TOGETHER = 16  # directories that are listed together
_MOST_WANTED = 8192  # subdirectories
_MOST_ABOVE = 4096  # directories whose parent is known without reading them
_MOST_PREPARED = 768  # entries of one directory
_MOST_HELD = 24576  # entries of all prepared directories
_FILE_START = 128 << 10  # bytes, the kernel's first buffered read
_MOST_STARTS = 8  # files whose start is held
_CREDIT = 512.0

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
        """Be the listing of a directory that consists of `entries`; with a pause now and then."""
        self.pending = self._dots(False)
        for at in range(0, len(entries), _PIECE):
            self.pending += self._encoded(entries[at : at + _PIECE])
            yield
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


class Ahead:
    """What is prepared. Used by the FUSE thread only, but for opened()."""

    def __init__(
        self,
        listing: Callable[[int, int], Directory],
        scan_small: Callable[[Sequence[int]], Generator[None, None, dict[int, list[Entry]]]],
    ) -> None:
        """`listing` begins a listing; `scan_small` is Namespace.scan_small."""
        self._listing = listing
        self._scan_small = scan_small
        self._group: list[int] = []  # what `_work` is about to list
        self._alone = False  # it is one large directory
        self._current: Directory | None = None  # is being listed by `_work`
        self._work: Iterator[None] | None = None
        # with sizes in bytes; the last is done first: that is where a client goes next
        self._wanted: dict[int, int] = {}
        self._going_on: Directory | None = None
        self._ready: dict[int, Directory] = {}
        self._held = 0
        self._credit = _CREDIT
        self._opened: deque[tuple[int, Source]] = deque(maxlen=_MOST_STARTS)
        self._starts: dict[int, bytes] = {}
        self._file_credit = _CREDIT

    def idle(self) -> bool:
        """Do one piece of work; False when there is none."""
        if self._opened:
            handle, source = self._opened.popleft()
            try:
                self._starts[handle] = source.read(0, min(source.size, _FILE_START))
            except Exception:  # the request itself will meet it again and tell
                return True
            self._file_credit -= 1
            if len(self._starts) > _MOST_STARTS:
                del self._starts[next(iter(self._starts))]
            return True
        going_on = self._going_on
        if going_on is not None:
            try:
                going_on.fill(_PIECE)
            except Exception:  # the request itself will meet it again and tell
                self._going_on = None
                return True
            if going_on.ended or len(going_on.pending) >= READY:
                self._going_on = None
            return True
        if self._work is None and (self._credit <= 0 or self._held >= _MOST_HELD):
            return False
        return self._prepare()

    def _prepare(self) -> bool:
        """Do a piece of listing those that are wanted next; False when there are none."""
        if self._work is None:
            self._group = []
            self._alone = False
            while self._wanted and len(self._group) < _TOGETHER and not self._alone:
                node, size = self._wanted.popitem()
                if size > _LARGE and self._group:
                    self._wanted[node] = size
                    break
                self._group.append(node)
                self._alone = size > _LARGE
            if not self._group:
                return False
            self._work = self._listed_together(self._group)
        try:
            next(self._work)
        except StopIteration:
            self._work = None
        except Exception:  # the requests themselves will meet it again and tell
            self._work = self._current = None
        return True

    def _listed_together(self, group: list[int]) -> Iterator[None]:
        small = yield from self._scan_small(group)
        subs: dict[int, int] = {}
        for node in group:
            self._current = listing = self._listing(node, 0)
            if node in small:
                yield from listing.take(small[node])
            while not listing.ended and len(listing.pending) < _MOST_PREPARED:
                listing.fill(_PIECE)
                yield
            self._current = None
            subs |= listing.subs
            listing.subs = {}
            self._keep(listing)
        self._want(subs)

    def _keep(self, listing: Directory) -> None:
        self._credit -= 1
        self._ready[listing.node] = listing
        self._held += len(listing.pending)

    # directories

    def listed(self, listing: Directory) -> None:
        """The whole of a directory is listed: its subdirectories come next, before what was wanted earlier."""
        self._want(listing.subs)
        listing.subs = {}

    def _want(self, nodes: dict[int, int]) -> None:
        wanted = self._wanted
        for node in reversed(nodes):
            wanted.pop(node, None)
            wanted[node] = nodes[node]
        while len(wanted) > _MOST_WANTED:
            del wanted[next(iter(wanted))]

    def goes_on(self, listing: Directory | None) -> None:
        """A client has read a part of `listing`; None: the one it was is being read just now."""
        self._going_on = listing

    def listing(self, node: int) -> Directory | None:
        """What is prepared of directory `node`."""
        self._wanted.pop(node, None)
        if self._work is not None and node in self._group and node not in self._ready:
            if self._alone:  # what there is of it will do: its first entries need not wait for the last
                ready, self._current, self._work = self._current, None, None
                self._credit = min(_CREDIT, self._credit + 2)
                return ready
            while self._work is not None and node not in self._ready:
                self._prepare()
        ready = self._ready.pop(node, None)
        if ready is not None:
            self._held -= len(ready.pending)
        elif self._ready:  # a client goes another way: what was prepared longest ago makes room
            self._held -= len(self._ready.pop(next(iter(self._ready))).pending)
        self._credit = min(_CREDIT, self._credit + (2 if ready is not None else 0.25))
        return ready

    def listing_now(self, node: int) -> Directory | None:
        """As listing(), for a loop that is never idle: those that are wanted next are listed together with it."""
        if node in self._wanted:
            self._prepare()
            while self._work is not None:
                self._prepare()
        return self.listing(node)

    # files

    def opened(self, handle: int, source: Source) -> None:
        """A client has opened a file and is likely to read its start."""
        if source.size and self._file_credit > 0:
            self._opened.append((handle, source))

    def content(self, handle: int) -> bytes | None:
        """The start of a file, if it is there; once."""
        data = self._starts.pop(handle, None)
        self._file_credit = min(_CREDIT, self._file_credit + (2 if data is not None else 0.25))
        return data

    def closed(self, handle: int) -> None:
        self._starts.pop(handle, None)
