"""Directories of exFAT, read in pieces: small ones are remembered with an index, large ones searched by name hash.

Spec: Microsoft's exFAT specification, section 6 and 7.4. Nothing in a directory names its parent, and nothing keeps two
entries from naming the same clusters: who owns a directory's first cluster is kept here, first come, first served.
"""

from __future__ import annotations

import copy
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from guestkit.chains import Chain, Heap
from guestkit.errors import Corrupt, GuestkitError, Unsupported
from guestkit.fs.base import Problems
from guestkit.fs.exfat.entries import DIRECTORY, END, ENTRY, FILE, Record, Sets

MOST_BYTES = 256 << 20  # of a directory
_STEP = 1 << 16  # bytes that one read takes
_SMALL = 1 << 20  # bytes of a directory that may be remembered
_MOST_CLAIMS = 1 << 18


class Directory:
    """Where one directory stands. `flaw`: why it is not all there."""

    __slots__ = ("_heap", "chain", "flaw", "size", "where")

    def __init__(self, heap: Heap, chain: Chain, size: int, where: str, flaw: Corrupt | None = None) -> None:
        self._heap = heap
        self.chain = chain
        self.size = size
        self.where = where
        self.flaw = flaw

    @property
    def small(self) -> bool:
        return self.size <= _SMALL

    def data(self, number: int = 0) -> Iterator[tuple[bytes, int]]:
        """Yield (bytes, place of the first entry) from entry `number` on. Raises: SourceError."""
        heap = self._heap
        start = number * ENTRY
        for first, cluster, count in self.chain.runs(start // heap.size, -(-self.size // heap.size)):
            low = max(start, first * heap.size)
            high = min(self.size, (first + count) * heap.size) // ENTRY * ENTRY
            shift = heap.place(cluster) - first * heap.size
            for at in range(low, high, _STEP):
                yield heap.device.read(at + shift, min(_STEP, high - at)), (at + shift) // ENTRY

    def records(self, damage: Problems, number: int = 0) -> Iterator[list[Record]]:
        """Yield the files from entry `number` on. Raises: Corrupt or Unsupported at the end, SourceError."""
        sets = Sets(number)
        for data, place in self.data(number):
            found = sets.feed(data, place)
            if found:
                yield found
            if sets.ended:
                break
        sets.finish()
        flaws: list[GuestkitError] = [error.within(self.where, f"entry {at}") for at, error in sets.flaws]
        if self.flaw is not None:
            flaws.append(copy.copy(self.flaw))
        for error in flaws:
            damage.add(self.where, error)
        if flaws:
            raise flaws[0]

    def subdirectories(self) -> int:
        """Count the entries of directories without reading their sets."""
        count = 0
        for data, _ in self.data():
            kinds = data[::ENTRY]
            end = kinds.find(END)
            at = kinds.find(FILE, 0, end if end >= 0 else len(kinds))
            while at >= 0:
                count += bool(data[at * ENTRY + 4] & DIRECTORY)
                at = kinds.find(FILE, at + 1, end if end >= 0 else len(kinds))
            if end >= 0:
                break
        return count


class Listing:
    """All files of a small directory. `flaw`: what a listing ends with."""

    __slots__ = ("exact", "flaw", "folded", "records")

    def __init__(self, records: list[Record], flaw: GuestkitError | None) -> None:
        self.records = records
        self.flaw = flaw
        self.exact: dict[bytes, Record] = {}
        self.folded: dict[bytes, Record] | None = None  # made when a name is first looked up
        for record in records:
            self.exact.setdefault(record.file.name, record)

    def behind(self, cookie: int) -> list[Record]:
        if not cookie:
            return self.records
        return self.records[bisect_right(self.records, cookie, key=lambda record: record.number) :]

    def complain(self) -> None:
        """Raises: Corrupt, Unsupported when something was not readable."""
        if self.flaw is not None:
            raise copy.copy(self.flaw)  # a new one, which callers may add to


class Hashes:
    """Where the names of a large directory stand, by their hash. `flaw`: as in Listing."""

    __slots__ = ("_sorted", "flaw")

    def __init__(self, batches: Iterator[list[Record]]) -> None:
        """`batches`: as Directory.records yields them. Raises: SourceError."""
        found = array("Q")  # the hash above 48 bits of the place
        self.flaw: GuestkitError | None = None
        try:
            for batch in batches:
                found.extend([file.hash << 48 | file.place for _, file in batch])
        except (Corrupt, Unsupported) as error:
            self.flaw = error
        self._sorted = array("Q", sorted(found))

    def __len__(self) -> int:
        return len(self._sorted)

    def places(self, hash: int) -> list[int]:
        """The places of the entry sets with this name hash."""
        found = self._sorted
        begin, end = bisect_left(found, hash << 48), bisect_left(found, hash + 1 << 48) if hash < 0xFFFF else len(found)
        return [each & (1 << 48) - 1 for each in found[begin:end]]

    def complain(self) -> None:
        """Raises: Corrupt, Unsupported when something was not readable."""
        if self.flaw is not None:
            raise copy.copy(self.flaw)


class Claims:
    """Which directory has a cluster as its first, and which directory names it. Forgets nothing, remembers so many."""

    __slots__ = ("_keys", "_parents")

    def __init__(self, root_cluster: int, root: int) -> None:
        self._keys = {root_cluster: root}
        self._parents = {root: root}

    def check(self, cluster: int, key: int, parent: int = 0) -> None:
        """`parent`: the key of the directory that names it, where it is known.

        Raises: Corrupt when the cluster is another directory's.
        """
        owner = self._keys.get(cluster)
        if owner is None:
            if len(self._keys) < _MOST_CLAIMS and parent:
                self._keys[cluster] = key
        elif owner != key:
            raise Corrupt("directory", "first cluster", found=cluster, expected=f"not that of inode {owner}")
        if parent and key not in self._parents and len(self._parents) < _MOST_CLAIMS:
            self._parents[key] = parent

    def parent(self, key: int) -> int:
        """The directory that names `key`, 0 where that is not known."""
        return self._parents.get(key, 0)
