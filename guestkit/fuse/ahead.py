"""Listings in progress, and useful work for the time in which the kernel asks nothing.

After a directory has been listed its subdirectories are listed ahead, one level deep, and the start of a file is
read as soon as it has been opened. Both are bounded, and rest when what they prepare is not asked for.
"""

from __future__ import annotations

import stat as _stat
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pyfuse3

from guestkit.errors import GuestkitError, WouldBlock
from guestkit.fs.base import Stat
from guestkit.namespace import Entry, Namespace
from guestkit.source import Source

_DOT, _DOT_DOT = (1 << 63) - 2, (1 << 63) - 1  # cookies: readers' end below them
READY = 192  # entries, about one reply
_PIECE = 48  # entries prepared before the descriptor is looked at again
_LONGEST_NAME = 1024  # bytes; with a longer one the kernel refuses the whole listing
_NO_NAMES = (b"", b".", b"..")
_MOST_SUBDIRECTORIES = 256
_MOST_WANTED = 512  # subdirectories
_MOST_ABOVE = 4096  # directories whose parent is known without reading them
_MOST_PREPARED = 768  # entries of one directory
_MOST_HELD = 6144  # entries of all prepared directories
_FILE_START = 128 << 10  # bytes, the kernel's first buffered read
_MOST_STARTS = 8  # files whose start is held
_CREDIT = 64.0

EntryMaker = Callable[[int, int, Stat | None, int], Any]


class Directory:
    """A listing in progress. `pending` holds (name, attributes, cookie); `cookie` is that of the last one replied."""

    __slots__ = (
        "_above",
        "_behind",
        "_entry",
        "_error",
        "_iterator",
        "_namespace",
        "cookie",
        "ended",
        "node",
        "pending",
        "subs",
    )

    def __init__(
        self, namespace: Namespace, node: int, cookie: int, entry: EntryMaker, above: dict[int, int] | None = None
    ) -> None:
        """`above` is shared: the parents of directories that were listed and not yet entered."""
        self.node = node
        self.cookie = cookie
        self.pending: list[tuple[bytes, Any, int]] = []
        self.subs: list[int] = []
        self.ended = False
        self._namespace = namespace
        self._entry = entry
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
        made: list[tuple[bytes, Any, int]] = []
        try:
            if self._behind in (0, _DOT):
                made += self._dots(self._behind == _DOT)
                self._behind = _DOT_DOT
            if self._iterator is None:
                start = 0 if self._behind == _DOT_DOT else self._behind
                self._iterator = iter(self._namespace.scan_stat(self.node, start))
            taken = 0
            node = self.node
            for name, child, kind, cookie, status in islice(self._iterator, count):
                taken += 1
                self._behind = cookie
                if len(name) > _LONGEST_NAME or b"/" in name or b"\0" in name or name in _NO_NAMES:
                    continue
                try:
                    entry = self._entry(node, child, status, kind)
                except OverflowError:  # getattr refuses it
                    entry = self._entry(node, child, None, kind)
                made.append((name, entry, cookie))
                if status is not None and status.mode & 0xF000 == 0x4000 and len(self.subs) < _MOST_SUBDIRECTORIES:
                    self.subs.append(child)
                    self._above[child] = node
            self.ended = taken < count
        except WouldBlock:
            self._restart(made)
            if not made:
                raise
        except GuestkitError as error:
            self._iterator = None
            self._error = error
            if not made:
                raise
        except Exception:
            self._restart([])
            raise
        self.pending = self.pending + made if self.pending else made

    def _restart(self, made: list[tuple[bytes, Any, int]]) -> None:
        """Go on behind the last entry that was made; the one that would have waited comes again."""
        self._iterator = None
        self._behind = made[-1][2] if made else self.pending[-1][2] if self.pending else self.cookie

    def _dots(self, only_second: bool) -> list[tuple[bytes, Any, int]]:
        known = self._above
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
        dots = [(b"..", self._directory(above), _DOT_DOT)]
        return dots if only_second else [(b".", self._directory(self.node), _DOT), *dots]

    @staticmethod
    def _directory(node: int) -> Any:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node & (1 << 64) - 1
        entry.st_mode = _stat.S_IFDIR
        return entry


class Ahead:
    """What is prepared. Used by the FUSE thread only, but for opened()."""

    def __init__(self, listing: Callable[[int, int], Directory]) -> None:
        self._listing = listing
        self._wanted: dict[int, None] = {}  # the last is done first: that is where a client goes next
        self._current: Directory | None = None
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
        current = self._current
        if current is None:
            if not self._wanted or self._credit <= 0:
                return False
            node, _ = self._wanted.popitem()
            if node in self._ready:
                return True
            current = self._current = self._listing(node, 0)
        try:
            current.fill(_PIECE)
        except Exception:  # the request itself will meet it again and tell
            self._current = None
            return True
        if current.ended or len(current.pending) >= _MOST_PREPARED:
            self._current = None
            self._credit -= 1
            self._ready[current.node] = current
            self._held += len(current.pending)
            while self._held > _MOST_HELD:
                self._held -= len(self._ready.pop(next(iter(self._ready))).pending)
        return True

    # directories

    def listed(self, listing: Directory) -> None:
        """A client has read `listing` to its end: its subdirectories are likely to be next."""
        if not listing.subs:
            return
        wanted = self._wanted
        for node in reversed(listing.subs):
            wanted.pop(node, None)
            wanted[node] = None
        listing.subs = []
        while len(wanted) > _MOST_WANTED:
            del wanted[next(iter(wanted))]

    def goes_on(self, listing: Directory | None) -> None:
        """A client has read a part of `listing`; None: the one it was is being read just now."""
        self._going_on = listing

    def listing(self, node: int) -> Directory | None:
        """What is prepared of directory `node`."""
        self._wanted.pop(node, None)
        ready = self._ready.pop(node, None)
        if ready is not None:
            self._held -= len(ready.pending)
        elif self._current is not None and self._current.node == node:
            ready, self._current = self._current, None
        self._credit = min(_CREDIT, self._credit + (2 if ready is not None else 0.25))
        return ready

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
