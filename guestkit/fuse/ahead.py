"""Useful work for the time in which the kernel asks nothing.

Directories are listed before a client comes to them, and the start of a file is read as soon as it has been opened.
Both are bounded, and rest when what they prepare is not asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from guestkit.fuse.directory import PIECE, READY, Directory
from guestkit.fuse.lister import Lister
from guestkit.fuse.lister_process import Frame, ListerProcess
from guestkit.source import Source

_MOST_HELD = 24576  # entries of all prepared directories
_FILE_START = 128 << 10  # bytes, the kernel's first buffered read
_MOST_STARTS = 8  # files whose start is held
_CREDIT = 512.0


class Ahead:
    """What is prepared. Used by the FUSE thread only, but for opened()."""

    def __init__(self, lister: Lister, begin: Callable[[int, int], Directory]) -> None:
        """`begin` begins a listing."""
        self._lister = lister
        self._begin = begin
        self._process: ListerProcess | None = None
        self._going_on: Directory | None = None
        self._ready: dict[int, tuple[int, Directory | Frame]] = {}  # with the number of their entries
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
                going_on.fill(PIECE)
            except Exception:  # the request itself will meet it again and tell
                self._going_on = None
                return True
            if going_on.ended or len(going_on.pending) >= READY:
                self._going_on = None
            return True
        lister = self._working()
        if not lister.busy and (self._credit <= 0 or self._held >= _MOST_HELD):
            return False
        moved = lister.step()
        self._keep(lister)
        return moved

    def share(self, process: ListerProcess | None) -> None:
        """Have `process` list, for as long as it lives."""
        self._process = process

    def close(self) -> None:
        """End the process that lists."""
        if self._process is not None:
            self._process.close()

    # directories

    @property
    def shared(self) -> bool:
        """Whether another process lists."""
        return self._process is not None and not self._process.ended

    def _working(self) -> Lister | ListerProcess:
        process = self._process
        return self._lister if process is None or process.ended else process

    def _keep(self, lister: Lister | ListerProcess) -> None:
        for listing in lister.done:
            count = len(listing.lengths) if isinstance(listing, Frame) else len(listing.pending)
            self._credit = max(0, self._credit - 1)
            self._forget(listing.node)  # it may have been wanted, and listed, twice
            self._ready[listing.node] = count, listing
            self._held += count
        lister.done.clear()

    def _forget(self, node: int) -> Directory | Frame | None:
        count, listing = self._ready.pop(node, (0, None))
        self._held -= count
        return listing

    def listed(self, listing: Directory) -> None:
        """The whole of a directory is listed: its subdirectories come next, before what was wanted earlier."""
        self._working().want(listing.subs)
        listing.subs = {}

    def goes_on(self, listing: Directory | None) -> None:
        """A client has read a part of `listing`; None: the one it was is being read just now."""
        self._going_on = listing

    def prepared(self, node: int) -> Directory | Frame | None:
        """What is prepared of directory `node`."""
        lister = self._working()
        if node not in self._ready and (lister.busy or self._credit > 0):
            lister.at_once(node)
            self._keep(lister)
        ready = self._forget(node)
        if ready is None:
            lister.drop(node)
            if self._ready:  # a client goes another way: what was prepared longest ago makes room
                self._forget(next(iter(self._ready)))
            while self._held > _MOST_HELD:
                self._forget(next(iter(self._ready)))
        self._credit = min(_CREDIT, self._credit + (2 if ready is not None else 0.25))
        return ready

    def listing(self, node: int) -> Directory:
        """A listing from its start, prepared or not."""
        return self.begun(node, self.prepared(node))

    def begun(self, node: int, ready: Directory | Frame | None) -> Directory:
        """A listing from its start, of what is prepared."""
        if isinstance(ready, Directory):
            return ready
        listing = self._begin(node, 0)
        if ready is not None:
            listing.receive(ready.split())
        return listing

    def listing_now(self, node: int) -> Directory:
        """As listing(), for a loop that is never idle: those that are wanted next are listed together with it."""
        lister = self._working()
        if isinstance(lister, Lister) and lister.wants(node):
            while lister.step() and lister.busy:
                pass
            self._keep(lister)
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
