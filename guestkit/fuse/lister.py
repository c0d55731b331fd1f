"""Directories listed ahead of the client, in the order in which a walk comes to them.

After a directory has been listed its subdirectories come next, and theirs after them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

from guestkit.fuse.directory import PIECE, Directory
from guestkit.namespace import Entry

_LARGE = 1 << 16  # bytes of a directory that is listed by itself
_TOGETHER = 16  # directories that are listed together
_MOST_WANTED = 8192  # subdirectories
_MOST_PREPARED = 768  # entries of one directory


class Lister:
    """What is wanted, and the listing of it piece by piece."""

    def __init__(
        self,
        listing: Callable[[int, int], Directory],
        scan_small: Callable[[Sequence[int]], Generator[None, None, dict[int, list[Entry]]]],
    ) -> None:
        """`listing` begins a listing; `scan_small` is Namespace.scan_small."""
        self.done: list[Directory] = []  # for whoever uses this to take away
        self.largest: int | None = None  # bytes of a directory that is listed at all
        self.longest = _MOST_PREPARED  # entries of a directory that are listed
        self._listing = listing
        self._scan_small = scan_small
        # with sizes in bytes; the last is done first: that is where a client goes next
        self._wanted: dict[int, int] = {}
        self._group: list[int] = []  # what `_work` is about to list
        self._alone = False  # it is one large directory
        self._current: Directory | None = None  # is being listed by `_work`
        self._work: Iterator[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether directories are being listed just now."""
        return self._work is not None

    def want(self, nodes: dict[int, int]) -> None:
        """List these, with their sizes in bytes, before what was wanted earlier."""
        wanted = self._wanted
        for node in reversed(nodes):
            wanted.pop(node, None)
            if self.largest is None or nodes[node] <= self.largest:
                wanted[node] = nodes[node]
        while len(wanted) > _MOST_WANTED:
            del wanted[next(iter(wanted))]

    def wants(self, node: int) -> bool:
        return node in self._wanted

    def drop(self, node: int) -> None:
        """Somebody else lists `node`."""
        self._wanted.pop(node, None)

    def step(self) -> bool:
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
            while not listing.ended and len(listing.pending) < self.longest:
                listing.fill(PIECE)
                yield
            self._current = None
            subs |= listing.subs
            listing.subs = {}
            self.done.append(listing)
        self.want(subs)

    def at_once(self, node: int) -> None:
        """Have `node` in `done`, if it is being listed."""
        if self._work is None or node not in self._group:
            return
        if self._alone:  # what there is of it will do: its first entries need not wait for the last
            if self._current is not None:
                self.done.append(self._current)
            self._current = self._work = None
        while self._work is not None and all(listing.node != node for listing in self.done):
            self.step()
