"""Directories: their entries in disk order, and one name by the index, by blocks that are remembered, or by search.

Spec: XFS Algorithms & Data Structures, "Directories". The blocks of entries stand at the start of a directory's address
space, the index from 32 GiB on, a table of free space, which nobody here needs, from 64 GiB on. A cookie is the byte
position of the following entry. Blocks that hold damage are reported when the listing ends, so that it is never
silently shorter.
"""

from __future__ import annotations

import stat as _stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from guestkit.errors import Corrupt, NameTooLong, NotADirectory, NotFound
from guestkit.fs.base import Problems
from guestkit.fs.extents import Extents
from guestkit.fs.xfs import dabtree
from guestkit.fs.xfs.blocks import Blocks
from guestkit.fs.xfs.dirdata import (
    Raw,
    directory_format,
    dots,
    parse_names,
    parse_short,
    short_parent,
    verify_data,
)
from guestkit.fs.xfs.extents import data_map
from guestkit.fs.xfs.inode import LOCAL, Inode, InodeTable

_SPACE = 1 << 35  # bytes of the address space that each of the three parts has
_READ = 1 << 18  # bytes of a directory that one read takes at most
_WHOLE = 4  # blocks of a directory whose names are kept together
_LONGEST = 255
_MOST_BAD = 4096  # damaged blocks of one listing; more are no directory


class Directory:
    """What is known of one directory, kept while it is in use."""

    __slots__ = ("blocks", "inode", "map", "short", "single")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.short: bytes | None = None
        self.map: Extents | None = None
        self.blocks = 0  # directory blocks that hold entries
        self.single = False  # one block with its index


class Directories:
    """Reads all directories of one filesystem."""

    def __init__(self, blocks: Blocks, table: InodeTable, damage: Problems) -> None:
        self._blocks = blocks
        self._table = table
        self._damage = damage
        sup = blocks.superblock
        self._form = directory_format(sup)
        self._size = sup.dir_block_size
        self._per = sup.dir_block_blocks
        self._folds = sup.ascii_ci

    def open(self, ino: int) -> Directory:
        """Raises: NotADirectory, NotFound, Corrupt."""
        key = (self._blocks.token, "D", ino)
        directory: Directory | None = self._blocks.cache.get(key)
        if directory is not None:
            return directory
        inode = self._table.read(ino)
        if not _stat.S_ISDIR(inode.mode):
            raise NotADirectory(where=f"inode {ino}")
        directory = Directory(inode)
        try:
            if inode.format == LOCAL:
                fork = inode.data_fork
                if inode.size > len(fork):
                    raise Corrupt("directory", "di_size", found=inode.size, expected=f"at most {len(fork)}")
                directory.short = fork[: inode.size]
            else:
                if inode.size % self._size or inode.size > _SPACE:
                    raise Corrupt("directory", "di_size", found=inode.size, expected="whole directory blocks")
                directory.map = data_map(self._blocks, inode)
                directory.blocks = inode.size // self._size
                directory.single = directory.blocks == 1 and self._is_single(directory.map)
        except Corrupt as error:
            error.within(f"inode {ino}")
            raise
        self._blocks.cache.put(key, directory, 1500)
        return directory

    def _is_single(self, map: Extents) -> bool:
        """Whether a directory of one block has no index apart."""
        first = _SPACE // self._blocks.block_size
        for _, physical, _ in map.runs(first, first + 1):
            return not physical
        return True

    # listing

    def batches(self, directory: Directory, cookie: int = 0) -> Iterator[list[Raw]]:
        """Yield the entries behind `cookie` in lists. Raises: Corrupt at the end when something was damaged."""
        where = f"directory inode {directory.inode.ino}"
        first: Corrupt | None = None
        if directory.short is not None:
            names = parse_short(directory.short, self._form)
            batch = _behind(names.entries, cookie) if cookie else names.entries
            if batch:
                yield batch
            if names.flaw is not None:
                names.flaw.within(where)
                self._damage.add(where, names.flaw)
                raise names.flaw
            return
        bad = 0
        size, single, form, ino = self._size, directory.single, self._form, directory.inode.ino
        stored = self._stored(directory, cookie // size, directory.blocks)
        while True:
            try:
                piece = next(stored, None)
            except Corrupt as error:
                error.within(where)
                self._damage.add(where, error)
                raise first or error from None
            if piece is None:
                break
            number, block, data = piece
            for at in range(0, len(data), size):
                buf = data[at : at + size]
                entries: list[Raw] = []
                try:
                    verify_data(buf, block, ino, self._blocks, single)
                    entries, flaw = parse_names(buf, number * size, form, single)
                except Corrupt as error:
                    flaw = error
                if entries:
                    yield _behind(entries, cookie) if cookie else entries
                if flaw is not None:
                    flaw.within(where, f"block {number}")
                    self._damage.add(where, flaw)
                    first = first or flaw
                    bad += 1
                    if bad == _MOST_BAD:
                        raise first
                number += 1
                block += self._per
        if first is not None:
            raise first

    def _stored(self, directory: Directory, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield (number of a directory block, its first block, the bytes of it and of those that follow it).

        Holes are left out. Raises: Corrupt; SourceError.
        """
        assert directory.map is not None
        per, size = self._per, self._blocks.block_size
        most = max(per, _READ // size)
        lows: list[int] = []
        highs: list[int] = []
        parts: list[bytes] = []  # of a directory block that stands in several extents
        begun = begun_at = missing = 0
        for logical, physical, count in directory.map.runs(start * per, end * per):
            if not physical:
                if parts or (logical % per or count % per):
                    raise Corrupt("directory", "extent", found=logical, expected="whole directory blocks")
                continue
            _once(lows, highs, physical, count)
            while count:
                if parts:
                    take = min(missing, count)
                    parts.append(self._blocks.read(physical, take))
                    missing -= take
                    if not missing:
                        yield begun, begun_at, b"".join(parts)
                        parts = []
                elif count < per:
                    take = count
                    begun, begun_at, missing = logical // per, physical, per - count
                    parts.append(self._blocks.read(physical, take))
                else:
                    take = min(count - count % per, most)
                    yield logical // per, physical, self._blocks.read(physical, take)
                logical += take
                physical += take
                count -= take
        if parts:
            raise Corrupt("directory", "extent", found=begun * per, expected="whole directory blocks")

    def parent(self, ino: int) -> int:
        """Return what ".." names. Raises: NotADirectory, Corrupt."""
        directory = self.open(ino)
        try:
            if directory.short is not None:
                found = short_parent(directory.short)
            else:
                found = dots(self._block(directory, 0), self._form)
            if not 0 < found < self._form.limit:
                raise Corrupt("directory", "parent", found=found)
        except Corrupt as error:
            error.within(f"directory inode {ino}")
            raise
        return found

    def _block(self, directory: Directory, number: int) -> bytes:
        """A block of entries, checked. Raises: Corrupt for a hole too."""
        for _, block, buf in self._stored(directory, number, number + 1):
            verify_data(buf, block, directory.inode.ino, self._blocks, directory.single)
            return buf
        raise Corrupt("directory block", "number", found=number, expected="no hole")

    # one name

    def lookup(self, ino: int, name: bytes) -> int:
        """Return the inode that `name` leads to.

        Raises: NotFound, NotADirectory, NameTooLong, Corrupt where damage may hide the name.
        """
        whole: dict[bytes, int] | None = self._blocks.cache.get((self._blocks.token, "N", ino))
        if whole is not None:
            known = whole.get(name)
            if known:
                return known
        directory = self.open(ino)
        if len(name) > _LONGEST:
            raise NameTooLong
        if whole is not None:
            found = _pick_folded(whole, name) if self._folds else 0
        elif directory.blocks > _WHOLE:
            try:
                found = self._by_index(directory, name)
            except Corrupt as error:
                self._damage.add(f"directory inode {ino}", f"{error}; all blocks were searched")
                found = self._search(directory, name)
        else:
            found = self._search(directory, name)
            self._remember_whole(directory)
        if found:
            return found
        raise NotFound

    def _remember_whole(self, directory: Directory) -> None:
        """Keep all names of a small directory in one table, unless some of it is damaged."""
        names: dict[bytes, int] = {}
        try:
            for batch in self.batches(directory):
                for name, ino, _, _ in batch:
                    names.setdefault(name, ino)
        except Corrupt:
            return
        self._blocks.cache.put((self._blocks.token, "N", directory.inode.ino), names, 300 + 180 * len(names))

    def _search(self, directory: Directory, name: bytes) -> int:
        """0 when it is not there. Raises: Corrupt."""
        flaw: Corrupt | None = None
        folded = 0
        batches = self.batches(directory)
        while True:
            try:
                batch = next(batches, None)
            except Corrupt as error:
                flaw = error
                break
            if batch is None:
                break
            names = {entry[0]: entry[1] for entry in reversed(batch)}
            if name in names:
                return names[name]
            if self._folds and not folded:
                folded = _pick_folded(names, name)
        if not folded and flaw is not None:
            raise flaw
        return folded

    def _by_index(self, directory: Directory, name: bytes) -> int:
        """0 when it is not there. Raises: Corrupt when the index or a block is damaged."""
        wanted = dabtree.name_hash(name.translate(dabtree.FOLD) if self._folds else name)
        size = self._size
        folded = 0

        def read(number: int) -> dabtree.Block:
            return self._index_block(directory, number)

        seen: set[int] = set()
        for leaf in dabtree.candidates(_SPACE // self._blocks.block_size, wanted, read):
            low, high = bisect_left(leaf.hashes, wanted), bisect_right(leaf.hashes, wanted)
            for place in leaf.values[low:high]:
                if not place:  # an entry that was removed
                    continue
                number = place * 8 // size
                if number in seen:
                    continue
                if number >= directory.blocks:
                    raise Corrupt("index leaf", "address", found=place, expected="inside the directory")
                seen.add(number)
                names = self._remembered(directory, number)
                found = names.get(name)
                if found:
                    return found
                if self._folds and not folded:
                    folded = _pick_folded(names, name)
        return folded

    def _remembered(self, directory: Directory, number: int) -> dict[bytes, int]:
        """The names of one block. Raises: Corrupt when some of it is damaged."""
        key = (self._blocks.token, "n", directory.inode.ino, number)
        names: dict[bytes, int] | None = self._blocks.cache.get(key)
        if names is None:
            entries, flaw = parse_names(self._block(directory, number), 0, self._form, directory.single)
            if flaw is not None:
                raise flaw
            names = {}
            for name, ino, _, _ in entries:
                names.setdefault(name, ino)
            self._blocks.cache.put(key, names, 300 + 180 * len(names))
        return names

    def _index_block(self, directory: Directory, number: int) -> dabtree.Block:
        """The index block that begins at block `number` of the directory. Raises: Corrupt."""
        blocks = self._blocks
        ino = directory.inode.ino
        key = (blocks.token, "h", ino, number)
        block: dabtree.Block | None = blocks.cache.get(key)
        if block is None:
            first = _SPACE // blocks.block_size
            if not first <= number < 2 * first or number % self._per:
                raise Corrupt("index node", "before", found=number, expected="a block of the index")
            for _, at, buf in self._stored(directory, number // self._per, number // self._per + 1):
                expected = (dabtree.NODE, dabtree.DIR_LEAF1, dabtree.DIR_LEAFN)
                block = dabtree.parse(buf, at, ino, blocks, expected)
                blocks.cache.put(key, block, 300 + 80 * len(block.hashes))
                return block
            raise Corrupt("index block", "number", found=number, expected="no hole")
        return block


def _once(lows: list[int], highs: list[int], block: int, count: int) -> None:
    """Raises: Corrupt when a directory names blocks again: it could do so without end."""
    at = bisect_right(lows, block)
    if (at and highs[at - 1] > block) or (at < len(lows) and lows[at] < block + count):
        raise Corrupt("directory", "block", found=block, expected="one that was not met before")
    lows.insert(at, block)
    highs.insert(at, block + count)


def _behind(batch: list[Raw], cookie: int) -> list[Raw]:
    """The entries that begin at `cookie` or later."""
    # an entry ends where its own cookie says, so those up to and with the one that ends at `cookie` are over
    return [entry for entry in batch if entry[3] > cookie]


def _pick_folded(names: dict[bytes, int], name: bytes) -> int:
    wanted = name.translate(dabtree.FOLD)
    for other, ino in names.items():
        if other.translate(dabtree.FOLD) == wanted:
            return ino
    return 0
