"""Directories of exFAT, read in pieces: small ones are remembered with an index, large ones searched by name hash.

Spec: Microsoft's exFAT specification, section 6 and 7.4. Nothing in a directory names its parent, and nothing keeps two
entries from naming the same clusters: who owns a directory's first cluster is kept here, first come, first served.
"""

from __future__ import annotations

import copy
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import itemgetter

from guestkit.chains import Chain, Heap
from guestkit.errors import Corrupt, GuestkitError, Unsupported
from guestkit.fs.base import Problems, whole
from guestkit.fs.exfat import upcase
from guestkit.fs.exfat.entries import DIRECTORY, END, ENTRY, FILE, File, name_hash_of
from guestkit.fs.exfat.sets import MOST_FLAWS, DecodedSets, Decoder, Finder, Set
from guestkit.fs.plain import Names, without

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

    def pieces(self, decoder: Decoder, damage: Problems, number: int = 0) -> Iterator[tuple[list[Set], DecodedSets]]:
        """Yield the entry sets from entry `number` on, with what they say: all of a small directory at once.

        Raises: Corrupt or Unsupported at the end, SourceError.
        """
        finder = Finder(number)
        flaws: list[tuple[int, GuestkitError]] = []
        sets: list[Set] = []
        for data, place in self.data(number):
            sets += finder.feed(data, place)
            if sets and not self.small:
                yield sets, self._decoded(decoder, sets, flaws)
                sets = []
            if finder.ended:
                break
        finder.finish()
        if sets:
            yield sets, self._decoded(decoder, sets, flaws)
        flaws = sorted(finder.flaws + flaws, key=itemgetter(0))
        errors = [error.within(self.where, f"entry {at}") for at, error in flaws]
        if self.flaw is not None:
            errors.append(copy.copy(self.flaw))
        for error in errors:
            damage.add(self.where, error)
        if errors:
            raise errors[0]

    def _decoded(self, decoder: Decoder, sets: list[Set], flaws: list[tuple[int, GuestkitError]]) -> DecodedSets:
        decoded = whole(decoder.decode(sets))
        for at, error in decoded.errors.items():
            number, _, data = sets[at]
            if len(flaws) < MOST_FLAWS:
                flaws.append((number - len(data) // ENTRY, error))
        return decoded

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


class Listing(Names[File]):
    """Files of a directory: all of a small one, or a piece. `flaw`: what a listing ends with; `stats`: None if late."""

    __slots__ = ("_index", "flaw", "hidden", "stats", "subdirectories")

    def __init__(self, decoded: DecodedSets, begin: int, end: int) -> None:
        """The sets `begin` to `end` - 1 of `decoded`."""
        entries, late, left_out = decoded.part(begin, end)
        super().__init__(entries, late)
        self.stats = without(decoded.stats[begin:end], left_out)
        self.flaw: GuestkitError | None = None
        unnamed = [decoded.unnamed[begin + at] for at in left_out if begin + at in decoded.unnamed]
        self.hidden = [file.name for file in unnamed]  # names that may not be shown
        self.subdirectories = sum(bool(file.attributes & DIRECTORY) for file in (*unnamed, *(file for _, file in late)))
        self._index: tuple[dict[bytes, int], dict[bytes, int], dict[int, File]] | None = None

    def find(self, name: bytes, folded: Sequence[bytes], table: array[int]) -> tuple[int, File | None] | None:
        """(place, what is in `late`) of `name`, else of the first of `folded` that is there."""
        if self._index is None:
            exact: dict[bytes, int] = {}
            alike: dict[bytes, int] = {}
            for number, (shown, _, _, _) in enumerate(self.entries):
                exact.setdefault(shown, number)
                alike.setdefault(upcase.fold(shown.decode("utf-8", "surrogatepass"), table), number)
            self._index = exact, alike, dict(self.late)
        exact, alike, late = self._index
        for found in (exact.get(name), *map(alike.get, folded)):
            if found is not None:
                return self.entries[found][1], late.get(found)
        return None

    def complain(self) -> None:
        """Raises: Corrupt, Unsupported when something was not readable."""
        if self.flaw is not None:
            raise copy.copy(self.flaw)  # a new one, which callers may add to


class Hashes:
    """Where the names of a large directory stand, by their hash. `flaw`: as in Listing."""

    __slots__ = ("_sorted", "flaw")

    def __init__(self, pieces: Iterator[tuple[list[Set], DecodedSets]]) -> None:
        """`pieces`: as Directory.pieces yields them. Raises: SourceError."""
        found = array("Q")  # the hash above 48 bits of the place
        self.flaw: GuestkitError | None = None
        try:
            for sets, decoded in pieces:
                for at, (_, place, data) in enumerate(sets):
                    if at not in decoded.errors:
                        found.append(name_hash_of(data) << 48 | place)
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
