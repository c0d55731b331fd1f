"""What is remembered of a directory of FAT.

A directory is read whole: the format bounds it to 2 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestkit.errors import Corrupt
from guestkit.fs.fat.boot import ENTRY
from guestkit.fs.fat.entries import cluster_of
from guestkit.fs.fat.names import ShortNames, fold
from guestkit.fs.fat.sets import DecodedSets, Found, Set
from guestkit.fs.plain import Names, without

MOST_BYTES = 2 << 20  # of a directory


class Shape:
    """What a directory is, whatever names are in it."""

    __slots__ = ("dot", "dotdot", "flaw", "label", "size", "subdirectories")

    def __init__(self, size: int, found: Found, flaw: Corrupt | None = None) -> None:
        """`size`: bytes that it takes; `flaw`: why it is not all there."""
        self.size = size
        self.subdirectories = found.subdirectories
        self.dot = found.dot
        self.dotdot = found.dotdot
        self.label = found.label
        self.flaw = flaw

    def complain(self) -> None:
        """Raises: Corrupt when the directory goes on where it could not be read."""
        if self.flaw is not None:
            raise Corrupt(self.flaw.message, where=self.flaw.where)  # a new one, which callers may add to


class Listing(Names[bytes]):
    """A directory as it was read. Not changed after it was made but for its indexes.

    `shorts`: the 32 bytes of each entry; those of directories are in `late`.
    """

    __slots__ = ("_exact", "_folded", "_named", "shape", "shorts")

    def __init__(self, shape: Shape, sets: Sequence[Set], decoded: DecodedSets, begin: int) -> None:
        """Its sets begin at number `begin` of `decoded`."""
        end = begin + len(sets)
        entries, late, hidden = decoded.part(begin, end)
        super().__init__(entries, late)
        self.shape = shape
        self.shorts = b"".join(without([data[-ENTRY:] for _, _, data in sets], hidden))
        self._exact: dict[bytes, int] | None = None
        self._folded: dict[str, int] = {}
        self._named: dict[int, bytes] | None = None

    def naming(self, cluster: int, wide: bool) -> bytes | None:
        """The entry of the subdirectory that begins at `cluster`."""
        if self._named is None:
            named: dict[int, bytes] = {}
            for _, raw in self.late:
                named.setdefault(cluster_of(raw, wide), raw)
            self._named = named
        return self._named.get(cluster)

    def find(self, name: bytes, names: ShortNames) -> int | None:
        """The key of a name: as it is written, else without regard to case, else by its short name."""
        if self._exact is None:
            folded: dict[str, int] = {}
            exact: dict[bytes, int] = {}
            for shown, key, _, _ in self.entries:
                exact.setdefault(shown, key)
                folded.setdefault(fold(shown.decode("utf-8", "surrogatepass")), key)
            for (_, key, _, _), raw in zip(self.entries, self._raws(), strict=True):
                folded.setdefault(fold(names.text(raw[:11], raw[12])), key)
            self._folded = folded
            self._exact = exact
        found = self._exact.get(name)
        if found is None:
            try:
                found = self._folded.get(fold(name.decode("utf-8", "surrogatepass")))
            except UnicodeDecodeError:  # no name is stored so
                return None
        return found

    def _raws(self) -> Iterator[bytes]:
        return (self.shorts[at : at + ENTRY] for at in range(0, len(self.shorts), ENTRY))
