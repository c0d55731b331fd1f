"""Directories: their entries in disk order, and one name by the index, by blocks that are remembered, or by search.

Spec: Documentation/filesystems/ext4/directory.rst. A cookie is the byte position of the following entry. Blocks that
hold damage are reported when the listing ends, so that it is never silently shorter.
"""

from __future__ import annotations

import stat as _stat
from collections.abc import Callable, Iterator

from guestkit.errors import Corrupt, NameTooLong, NeedKey, NotADirectory, NotFound
from guestkit.fs.base import Problems
from guestkit.fs.ext4 import features as f
from guestkit.fs.ext4 import htree
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.ext4.content import BLOCK_BYTES, Mapping, inline_data, is_inline, mapping
from guestkit.fs.ext4.directory import (
    Names,
    Shown,
    directory_format,
    index_place,
    parse_names,
    second_entry,
    verify_block,
    verify_index,
)
from guestkit.fs.ext4.inode import CASEFOLD_FL, ENCRYPT_FL, EXTENTS_FL, INDEX_FL, Inode, InodeTable
from guestkit.fs.ext4.xattr import parse_body

Raw = tuple[bytes, int, int, int]  # name, inode, DT_*, cookie

_MOST_MAPPED = 1 << 32  # bytes of a directory without extents
_READ = 1 << 18  # bytes of a directory that one read takes at most
_INLINE_START = 4  # the number of the parent stands before
_WHOLE = 4  # blocks of a directory whose names are kept together
_LONGEST = 255
_LARGEST_NOKEY = 336  # what a name without its key can be shown as


class Directory:
    """What is known of one directory, kept while it is in use."""

    __slots__ = ("blocks", "checked", "folded", "hashed", "indexed", "inline", "inode", "map", "seed", "shown")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.inline: bytes | None = None
        self.map: Mapping | None = None
        self.blocks = 0  # logical ones
        self.seed = 0
        self.checked = False
        self.indexed = False
        self.folded = False
        self.hashed = False  # the hash of each name stands behind it
        self.shown: Shown | None = None


class Directories:
    """Reads all directories of one filesystem."""

    def __init__(self, blocks: Blocks, table: InodeTable, damage: Problems) -> None:
        self._blocks = blocks
        self._table = table
        self._damage = damage
        self._super = blocks.superblock
        self._form = directory_format(blocks.superblock)
        self._levels = 3 if blocks.superblock.incompat & f.LARGEDIR else 2

    def open(self, ino: int) -> Directory:
        """Raises: NotADirectory, NotFound, Corrupt."""
        key = (self._blocks.token, "D", ino)
        directory: Directory | None = self._blocks.cache.get(key)
        if directory is not None:
            return directory
        inode = self._table.read(ino)
        if not _stat.S_ISDIR(inode.mode):
            raise NotADirectory(where=f"inode {ino}")
        sup = self._super
        directory = Directory(inode)
        try:
            if is_inline(inode):
                directory.inline = inline_data(inode, parse_body(inode.raw, inode.extra, external=True))
            else:
                directory.map = mapping(self._blocks, self._table, inode)
                # a block map could name one block for each byte of a directory that claims to be huge
                most = 1 << 32 if inode.flags & EXTENTS_FL else _MOST_MAPPED // sup.block_size
                directory.blocks = min(-(-inode.size // sup.block_size), most)
        except Corrupt as error:
            error.within(f"inode {ino}")
            raise
        directory.checked = sup.metadata_csum
        directory.seed = self._table.seed(inode) if sup.metadata_csum else 0
        directory.indexed = bool(inode.flags & INDEX_FL) and not is_inline(inode)
        directory.folded = bool(inode.flags & CASEFOLD_FL)
        if inode.flags & ENCRYPT_FL:
            directory.hashed = directory.folded
            directory.shown = self._nokey(directory)
        self._blocks.cache.put(key, directory, 1500)
        return directory

    def _nokey(self, directory: Directory) -> Shown:
        """How the kernel shows names that it has no key for: their bytes and hash, encoded."""
        from guestkit.fs.ext4.hash import dirhash, effective_version
        from guestkit.fs.ext4.nokey import encode

        sup = self._super
        single = directory.inline is not None or directory.blocks == 1
        by_hash = bool(sup.compat & f.DIR_INDEX) and (directory.indexed or single)
        version = sup.hash_version
        if directory.indexed and not directory.hashed:
            try:
                version = self._root(directory).version
            except Corrupt:  # the listing itself reports the damaged block
                pass

        def shown(name: bytes, behind: bytes) -> bytes:
            if directory.hashed:
                major, minor = int.from_bytes(behind[:4], "little"), int.from_bytes(behind[4:], "little")
            elif by_hash:
                major, minor = dirhash(name, effective_version(version, sup.hash_unsigned), sup.hash_seed)
            else:
                major = minor = 0
            return encode(name, major, minor)

        return shown

    # listing

    def batches(self, directory: Directory, cookie: int = 0) -> Iterator[list[Raw]]:
        """Yield the entries behind `cookie` in lists. Raises: Corrupt at the end when something was damaged."""
        if directory.inline is not None:
            yield from self._inline(directory, directory.inline, cookie)
            return
        assert directory.map is not None
        size = self._super.block_size
        where = f"directory inode {directory.inode.ino}"
        first: Corrupt | None = None
        met: set[int] = set()
        most = max(1, _READ // size)
        runs = directory.map.runs(cookie // size, directory.blocks)
        while True:
            try:
                run = next(runs, None)
            except Corrupt as error:
                self._damage.add(where, error)
                raise first or error from None
            if run is None:
                break
            logical, physical, count = run
            if not physical:  # a hole holds no names
                continue
            self._once(met, physical, where)
            for at in range(0, count, most):
                take = min(most, count - at)
                data = self._blocks.read(physical + at, take)
                batch: list[Raw] = []
                for index in range(take):
                    begin = (logical + at + index) * size
                    try:
                        names = self._parse(directory, data[index * size : (index + 1) * size], begin)
                        flaw = names.flaw
                        batch += names.entries
                    except Corrupt as error:
                        flaw = error
                    if flaw is not None:
                        flaw.within(where, f"block {logical + at + index}")
                        self._damage.add(where, flaw)
                        first = first or flaw
                if cookie and batch:
                    batch = _behind(batch, cookie)
                if batch:
                    yield batch
        if first is not None:
            raise first

    @staticmethod
    def _once(met: set[int], block: int, where: str) -> None:
        """Raises: Corrupt when a directory names a block again: a few tables can do so without end."""
        if block in met:
            raise Corrupt("directory", "block", found=block, expected="one that was not met before", where=where)
        met.add(block)

    def _parse(self, directory: Directory, buf: bytes, base: int) -> Names:
        end = len(buf)
        if directory.checked:
            if not verify_block(buf, directory.seed, directory.indexed):
                return Names([], None)
            end -= 12  # the tail that holds the checksum
        return parse_names(buf, 0, end, base, self._form, directory.shown, directory.hashed)

    def _inline(self, directory: Directory, data: bytes, cookie: int) -> Iterator[list[Raw]]:
        first: Corrupt | None = None
        where = f"directory inode {directory.inode.ino}"
        for start, end in ((_INLINE_START, BLOCK_BYTES), (BLOCK_BYTES, len(data))):
            names = parse_names(data, start, end, 0, self._form, directory.shown, directory.hashed)
            if names.flaw is not None:
                names.flaw.within(where)
                self._damage.add(where, names.flaw)
                first = first or names.flaw
            batch = _behind(names.entries, cookie) if cookie else names.entries
            if batch:
                yield batch
        if first is not None:
            raise first

    def parent(self, ino: int) -> int:
        """Return what ".." names. Raises: NotADirectory, Corrupt."""
        directory = self.open(ino)
        try:
            if directory.inline is not None:
                found = int.from_bytes(directory.inline[:4], "little")
            else:
                buf = self._block(directory, 0)
                if directory.checked:
                    verify_block(buf, directory.seed, directory.indexed)
                name, found = second_entry(buf)
                if name != b"..":
                    raise Corrupt("directory", "second entry", found=name, expected=b"..")
            if found != 2 and not self._super.first_ino <= found <= self._super.inodes_count:
                raise Corrupt("directory", "parent", found=found)
        except Corrupt as error:
            error.within(f"directory inode {ino}")
            raise
        return found

    def _block(self, directory: Directory, logical: int) -> bytes:
        """Raises: Corrupt for a hole."""
        assert directory.map is not None
        for _, physical, _ in directory.map.runs(logical, logical + 1):
            if physical:
                return self._blocks.read(physical)
        raise Corrupt("directory block", "number", found=logical, expected="no hole")

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
        if len(name) > (_LARGEST_NOKEY if directory.shown else _LONGEST):
            raise NameTooLong
        if whole is not None and not directory.folded:
            raise NotFound
        if directory.indexed and directory.blocks > _WHOLE and not directory.shown:
            try:
                found = self._by_index(directory, name)
            except NotFound:
                raise
            except Corrupt as error:
                self._damage.add(f"directory inode {ino}", f"{error}; all blocks were searched")
                found = self._search(directory, name)
        else:
            found = self._search(directory, name)
            if directory.blocks <= _WHOLE:
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
        if directory.inline is not None:
            return self._pick(directory, self._remembered(directory, 0), name)
        assert directory.map is not None
        flaw: Corrupt | None = None
        met: set[int] = set()
        for logical, physical, count in directory.map.runs(0, directory.blocks):
            if not physical:
                continue
            self._once(met, physical, f"directory inode {directory.inode.ino}")
            for index in range(count):
                try:
                    found = self._pick(directory, self._remembered(directory, logical + index, physical + index), name)
                except Corrupt as error:
                    flaw = flaw or error
                    continue
                if found:
                    return found
        if flaw is not None:
            raise flaw
        return 0

    def _pick(self, directory: Directory, known: tuple[dict[bytes, int], Corrupt | None], name: bytes) -> int:
        """The inode of `name` among the names of one block, 0 for none. Raises: Corrupt when the block is damaged."""
        names, flaw = known
        found = names.get(name, 0)
        if not found and directory.folded and not directory.shown:
            found = self._pick_folded(names, name)
        if not found and flaw is not None:
            raise flaw
        return found

    def _pick_folded(self, names: dict[bytes, int], name: bytes) -> int:
        from guestkit.fs.ext4.casefold import fold

        wanted = fold(name)
        for other, ino in names.items():
            if fold(other) == wanted:
                return ino
        return 0

    def _remembered(
        self, directory: Directory, logical: int, physical: int = 0
    ) -> tuple[dict[bytes, int], Corrupt | None]:  # fmt: skip
        """The names of one block (of the whole directory when it is inline), and the damage in it."""
        key = (self._blocks.token, "n", directory.inode.ino, logical)
        known: tuple[dict[bytes, int], Corrupt | None] | None = self._blocks.cache.get(key)
        if known is not None:
            return known
        flaw: Corrupt | None = None
        entries: list[Raw] = []
        if directory.inline is not None:
            try:
                for batch in self._inline(directory, directory.inline, 0):
                    entries += batch
            except Corrupt as error:
                flaw = error
        else:
            buf = self._blocks.read(physical) if physical else self._block(directory, logical)
            try:
                entries, flaw = self._parse(directory, buf, 0)
            except Corrupt as error:
                flaw = error
            if flaw is not None:
                flaw.within(f"directory inode {directory.inode.ino}", f"block {logical}")
        names: dict[bytes, int] = {}
        for name, ino, _, _ in entries:
            names.setdefault(name, ino)
        known = names, flaw
        self._blocks.cache.put(key, known, 300 + 180 * len(names))
        return known

    # the index

    def _by_index(self, directory: Directory, name: bytes) -> int:
        """Raises: NotFound; Corrupt when the index or a leaf is damaged."""
        from guestkit.fs.ext4.hash import dirhash, effective_version

        root = self._root(directory)
        version = effective_version(root.version, self._super.hash_unsigned)
        wanted = name
        if directory.folded:
            from guestkit.fs.ext4.casefold import fold

            wanted = fold(name)
        try:
            major, _ = dirhash(wanted, version, self._super.hash_seed)
        except NeedKey:
            return self._search(directory, name)
        read = self._reader(directory)
        for leaf in htree.candidate_leaves(root, major, read, directory.blocks):
            found = self._pick(directory, self._remembered(directory, leaf), name)
            if found:
                return found
        raise NotFound

    def _root(self, directory: Directory) -> htree.Root:
        key = (self._blocks.token, "h", directory.inode.ino, 0)
        root: htree.Root | None = self._blocks.cache.get(key)
        if root is None:
            buf = self._block(directory, 0)
            if directory.checked:
                verify_index(buf, 32, directory.seed)
            root = htree.parse_root(buf, self._levels, directory.checked)
            self._blocks.cache.put(key, root, 300 + 72 * len(root.node.blocks))
        return root

    def _reader(self, directory: Directory) -> Callable[[int], htree.IndexNode]:
        def read(logical: int) -> htree.IndexNode:
            key = (self._blocks.token, "h", directory.inode.ino, logical)
            node: htree.IndexNode | None = self._blocks.cache.get(key)
            if node is None:
                buf = self._block(directory, logical)
                if index_place(buf) != 8:
                    raise Corrupt("htree node", "fake entry", found=buf[:8])
                if directory.checked:
                    verify_index(buf, 8, directory.seed)
                node = htree.parse_node(buf, 8, directory.checked)
                self._blocks.cache.put(key, node, 300 + 72 * len(node.blocks))
            return node

        return read


def _behind(batch: list[Raw], cookie: int) -> list[Raw]:
    """The entries that begin at `cookie` or later."""
    # an entry ends where its own cookie says, so those up to and with the one that ends at `cookie` are over
    return [entry for entry in batch if entry[3] > cookie]
