"""Plain: what the readers of FAT and exFAT share, formats of clusters with nothing but files and directories.

A listing is read and decoded as a whole, or with those of other small directories; what is kept of it is Names.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from guestkit.errors import InvalidArgument
from guestkit.fs.base import (
    SKIPPED,
    SMALL,
    TOGETHER,
    DirEntry,
    FileSystem,
    Link,
    RawEntry,
    Small,
    Stat,
    StatVfs,
    whole,
)

T = TypeVar("T")
MOST_TOGETHER = 1 << 14  # bytes of a directory that is read together with others
_PIECE = 64  # entries between two pauses
_new = tuple.__new__


class Names(Generic[T]):
    """Entries of a directory; of those in `late`, by their number in `entries`, what their Stat takes a look at."""

    __slots__ = ("entries", "late")

    def __init__(self, entries: list[RawEntry], late: list[tuple[int, T]]) -> None:
        """`late` is ascending."""
        self.entries = entries
        self.late = late


class Decoded(Generic[T]):
    """What entries of one directory or of several say, in their order; by the number of the entry there:

    `late`: what the Stat of some takes a look at; `hidden`: those that are not shown, which have no name here.
    """

    __slots__ = ("_hidden", "_late", "entries", "hidden", "late")

    def __init__(self, count: int) -> None:
        self.entries: list[RawEntry] = [(b"", 0, 0, 0)] * count
        self.late: dict[int, T] = {}
        self.hidden: set[int] = set()
        self._late: list[int] = []
        self._hidden: list[int] = []

    def part(self, begin: int, end: int) -> tuple[list[RawEntry], list[tuple[int, T]], list[int]]:
        """What is shown of those from `begin` to before `end`: entries, and Names.late; and the numbers of the others.

        Those numbers count from `begin`.
        """
        if len(self._late) != len(self.late) or len(self._hidden) != len(self.hidden):
            self._late, self._hidden = sorted(self.late), sorted(self.hidden)
        hidden = [at - begin for at in _within(self._hidden, begin, end)]
        late = [(at - begin, self.late[at]) for at in _within(self._late, begin, end)]
        if hidden:
            late = [(number - bisect_left(hidden, number), told) for number, told in late]
        return without(self.entries[begin:end], hidden), late, hidden


def _within(numbers: list[int], begin: int, end: int) -> list[int]:
    """Those of ascending `numbers` from `begin` to before `end`."""
    return numbers[bisect_left(numbers, begin) : bisect_left(numbers, end)]


def without(values: list[T], numbers: Sequence[int]) -> list[T]:
    """`values` but for those at `numbers`."""
    if not numbers:
        return values
    gone = set(numbers)
    return [value for number, value in enumerate(values) if number not in gone]


N = TypeVar("N", bound=Names[Any])


class Plain(FileSystem, Generic[T, N]):
    """A format of clusters that knows files and directories alone, no links, attributes or streams.

    A file's entry tells all of its Stat; a directory's Stat takes the directory itself (T is what tells of it), so
    those that a listing names are read with it, many together. A directory has one name, so a second one is damage.
    N is what is kept of a listing.
    """

    @abstractmethod
    def _pieces(self, directory: int, cookie: int = 0) -> Iterator[N]:
        """Yield what may be shown behind `cookie`, and perhaps some before it. Raises as scan() does."""

    @abstractmethod
    def _gather(self, keys: Iterable[int], told: Mapping[int, T]) -> Generator[None, None, dict[int, N]]:
        """Read those directories together that are small and without a flaw. `told`: what is known of some."""

    @abstractmethod
    def _stats(self, names: N, begin: int, end: int) -> list[Stat | None]:
        """A list of the Stat of the entries of `names` from number `begin` to before `end`, None for the late ones."""

    @abstractmethod
    def _late(self, directory: int, names: N, number: int, told: T, known: Mapping[int, N]) -> Stat:
        """The Stat of entry `number` of `names`, which is in `directory`; `known`: directories that were read.

        Raises: what stat() does.
        """

    def readlink(self, ino: int) -> Link:
        self.stat(ino)
        raise InvalidArgument("not a symbolic link", where=f"inode {ino}")

    def has_xattrs(self) -> bool:
        return False

    def may_refuse_open(self) -> bool:
        return False

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for names in self._pieces(directory, cookie):
            for entry in names.entries[_begin(names, cookie) :]:
                yield _new(DirEntry, entry)

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        for entries, stats in self.scan_lists(directory, cookie):
            for entry, status in zip(entries, stats, strict=True):
                yield _new(DirEntry, entry), status

    def scan_lists(self, directory: int, cookie: int = 0) -> Iterator[tuple[list[RawEntry], list[Stat | None]]]:
        for names in self._pieces(directory, cookie):
            for begin in range(_begin(names, cookie), len(names.entries), SMALL):
                end = begin + SMALL
                first, last = (bisect_left(names.late, at, key=lambda each: each[0]) for at in (begin, end))
                stats = {directory: self._stats(names, begin, end)}
                whole(self._look([(directory, names, *each) for each in names.late[first:last]], stats, begin))
                yield names.entries[begin:end], stats[directory]

    def scan_small(self, directories: Sequence[int]) -> Small:
        listed: dict[int, list[RawEntry]] = {}
        stats: dict[int, Stat | None] = {}
        for directory, (entries, found) in (yield from self._together(directories)).items():
            listed[directory] = entries
            stats.update(zip([entry[1] for entry in entries], found, strict=True))
        return listed, stats

    def _together(
        self, directories: Iterable[int]
    ) -> Generator[None, None, dict[int, tuple[list[RawEntry], list[Stat | None]]]]:
        """The whole of those that are small and without a flaw; the directories that they name are read together."""
        found = yield from self._gather(directories, {})
        small = {directory: names for directory, names in found.items() if len(names.entries) <= SMALL}
        stats: dict[int, list[Stat | None]] = {}
        for directory, names in small.items():
            own = stats[directory] = []
            for begin in range(0, len(names.entries), _PIECE):
                own += self._stats(names, begin, begin + _PIECE)
                yield
        late = [(directory, names, *each) for directory, names in small.items() for each in names.late]
        yield from self._look(late, stats)
        return {directory: (names.entries, stats[directory]) for directory, names in small.items()}

    def _look(
        self, late: Sequence[tuple[int, N, int, T]], stats: dict[int, list[Stat | None]], first: int = 0
    ) -> Generator[None, None, None]:
        """Put into `stats`, which begin at entry `first`, what takes a look at the directory that an entry names."""
        for at in range(0, len(late), TOGETHER):
            part = late[at : at + TOGETHER]
            told = {names.entries[number][1]: each for _, names, number, each in part}
            known = yield from self._gather(told, told)
            for directory, names, number, each in part:
                try:
                    stats[directory][number - first] = self._late(directory, names, number, each, known)
                except SKIPPED as error:
                    self.damage.add(f"inode {names.entries[number][1]}", error)
                yield

    @staticmethod
    def figures(cluster: int, clusters: int, free: int, serial: str, longest: int) -> StatVfs:
        """statvfs() of a volume of `clusters` of `cluster` bytes; `serial`: "1234-ABCD"; `longest`: name in bytes."""
        number = int(serial.replace("-", "") or "0", 16)
        return StatVfs(cluster, cluster, clusters, free, free, 0, 0, 0, longest, number)


def _begin(names: Names[Any], cookie: int) -> int:
    """The number of the first entry behind `cookie`."""
    return bisect_right(names.entries, cookie, key=lambda entry: entry[3]) if cookie else 0
