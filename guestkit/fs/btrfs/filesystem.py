"""Btrfs: the FileSystem, put together from the rooms of this package.

What a name, a link or a figure shows is what the kernel shows. Left out: writing, quotas, verification against Merkle
trees.
"""

from __future__ import annotations

import stat as _stat
from collections.abc import Iterator, Sequence

from guestkit.errors import (
    Corrupt,
    GuestkitError,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NotADirectory,
    NotFound,
    SourceError,
)
from guestkit.fs.base import SKIPPED, DirEntry, Failed, FileSystem, Link, Problems, Stat, State, StatVfs, Subvolume
from guestkit.fs.btrfs.assembly import ROOT_ITEM, Trees
from guestkit.fs.btrfs.content import BtrfsFile, Data, small_file
from guestkit.fs.btrfs.diritem import LONGEST_NAME, DirItem, name_hash, parse_dir_items
from guestkit.fs.btrfs.extents import ExtentMap, parse_extent
from guestkit.fs.btrfs.features import feature_names
from guestkit.fs.btrfs.inode import (
    DIR_ITEM,
    EXTENT_DATA,
    FIRST_FREE,
    INODE_ITEM,
    LAST_FREE,
    NODATASUM,
    XATTR_ITEM,
    Inode,
    parse_inode,
)
from guestkit.fs.btrfs.keys import make_key, split_key
from guestkit.fs.btrfs.listing import Batch, Listing, Raw
from guestkit.fs.btrfs.statfs import statvfs
from guestkit.fs.btrfs.subvolumes import Subvolumes, inode_parent
from guestkit.fs.btrfs.tree import Items
from guestkit.limits import Limits
from guestkit.source import Source

_new = tuple.__new__
_STUB_INODE = 2  # what the kernel gives a directory that leads nowhere
_STUB_MODE = _stat.S_IFDIR | 0o755
_MOST_LINK = 4095


class Btrfs(FileSystem):
    """One Btrfs filesystem, on all of its devices that are there, any log already replayed in its trees."""

    kind = "btrfs"

    def __init__(self, trees: Trees, state: State, limits: Limits, damage: Problems) -> None:
        """Raises: Corrupt, SourceError when the default subvolume cannot be found."""
        super().__init__()
        self.damage = damage
        self.trees = trees
        self.state = state
        superblock = trees.pool.superblock
        self.superblock = superblock
        self.label = superblock.label.decode("utf-8", "surrogateescape")
        digits = superblock.fsid.hex()
        self.uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        self.volumes = Subvolumes(trees, damage)
        self._block = superblock.sector_size
        self._listing = Listing(self.volumes, self._block, damage)
        self._data = Data(trees, limits)
        try:
            self.root = self.volumes.root_key(self.volumes.default())
        except NotFound as error:
            raise Corrupt(f"default subvolume: {error.message}") from None

    # inodes

    def _tree(self, index: int) -> Items:
        return self.volumes.tree(index)

    def _inode(self, index: int, number: int) -> Inode:
        """Raises: NotFound, Corrupt, SourceError."""
        item = None
        if FIRST_FREE <= number <= LAST_FREE:
            item = self._tree(index).get((number, INODE_ITEM, 0))
        if item is None:
            raise NotFound("no such inode", where=f"inode {number}")
        try:
            return parse_inode(number, item, self._block)
        except Corrupt as error:
            error.within(f"inode {number}")
            raise

    def stat(self, ino: int) -> Stat:
        index, number, stub = split_key(ino)
        if stub:
            return self._stub(index, number)
        return self._inode(index, number).stat

    def _stub(self, index: int, number: int) -> Stat:
        """Of a directory that leads nowhere; for its times of change, which never were, the kernel has the present."""
        above = self._inode(index, number).stat
        return above._replace(ino=_STUB_INODE, mode=_STUB_MODE, nlink=1, size=0, blocks=0, btime_ns=None)

    def _directory(self, ino: int) -> tuple[int, int, bool]:
        """Raises: NotADirectory, NotFound, Corrupt."""
        place = split_key(ino)
        if not place.stub and not _stat.S_ISDIR(self._inode(place.volume, place.number).stat.mode):
            raise NotADirectory(where=f"inode {place.number}")
        return place

    def lookup(self, directory: int, name: bytes) -> int:
        index, number, stub = split_key(directory)
        if len(name) > LONGEST_NAME:
            raise NameTooLong
        if stub:
            raise NotFound
        item = self._tree(index).get((number, DIR_ITEM, name_hash(name)))
        try:
            for entry in parse_dir_items(item) if item is not None else ():
                if entry.name == name:
                    return self._target(index, number, entry)
        except Corrupt as error:
            error.within(f"directory inode {number}")
            raise
        self._directory(directory)
        raise NotFound

    def _target(self, index: int, number: int, entry: DirItem) -> int:
        """The key of what an entry of directory `number` leads to. Raises: Corrupt, SourceError."""
        if entry.kind == INODE_ITEM:
            if not FIRST_FREE <= entry.location <= LAST_FREE:
                raise Corrupt("directory item", "inode", found=entry.location)
            return make_key(index, entry.location)
        if entry.kind == ROOT_ITEM:
            return self.volumes.cross(index, number, entry.name, entry.location)
        raise Corrupt("directory item", "key type", found=entry.kind, expected="an inode or a subvolume")

    def parent(self, directory: int) -> int:
        index, number, stub = self._directory(directory)
        if stub:
            return make_key(index, number)
        if number != FIRST_FREE:
            above, _ = inode_parent(self._tree(index), number)
            return make_key(index, above)
        place = self.volumes.parent(self.volumes.number(index))
        return directory if place is None else make_key(self.volumes.index(place[0]), place[1])

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for batch, _ in self._batches(directory, cookie):
            for entry in batch:
                yield _new(DirEntry, entry)

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        for batch, stats in self.scan_lists(directory, cookie):
            for entry, status in zip(batch, stats, strict=True):
                yield _new(DirEntry, entry), status

    def scan_lists(self, directory: int, cookie: int = 0) -> Iterator[tuple[list[Raw], list[Stat | None]]]:
        index = split_key(directory)[0]
        for batch, numbers in self._batches(directory, cookie):
            yield batch, self._stats(index, batch, numbers)

    def _batches(self, directory: int, cookie: int) -> Iterator[Batch]:
        index, number, stub = self._directory(directory)
        if not stub:
            yield from self._listing.batches(index, number, cookie)

    def _stats(self, index: int, batch: list[tuple[bytes, int, int, int]], numbers: list[int]) -> list[Stat | None]:
        """The Stat of each entry; None, and a problem, where stat() would raise."""
        wanted = sorted({number for number in numbers if number})
        found = self._listing.stat_many(self._tree(index), wanted) if wanted else {}
        stats = [found.get(number) for number in numbers]
        if 0 in numbers:
            for at, number in enumerate(numbers):
                if not number:
                    try:
                        stats[at] = self.stat(batch[at][1])
                    except SKIPPED as error:
                        self.damage.add(f"inode {batch[at][1]}", error)
        return stats

    def walk(
        self, directory: int | None = None, failed: Failed | None = None
    ) -> Iterator[tuple[bytes, int, Stat | None]]:
        start = self.root if directory is None else directory
        pending: list[tuple[bytes, int]] = [(b"", start)]
        entered = {start}
        while pending:
            prefix, current = pending.pop()
            index = split_key(current)[0]
            below: list[tuple[bytes, int]] = []
            try:
                for batch, numbers in self._batches(current, 0):
                    stats = self._stats(index, batch, numbers)
                    for (name, ino, _, _), status in zip(batch, stats, strict=True):
                        path = prefix + name
                        yield path, ino, status
                        if status is None or status[1] & 0xF000 != 0x4000 or status[0] == _STUB_INODE:
                            continue
                        if self.enters(ino, path, entered, failed):
                            below.append((path + b"/", ino))
            except SKIPPED as error:
                self.passed_over(current, prefix, error, failed)
            pending += reversed(below)  # in the order of the tree, where neighbours lie together

    # contents

    def open(self, ino: int, stream: bytes = b"") -> Source:
        index, number, stub = split_key(ino)
        if stub:
            raise IsADirectory
        tree = self._tree(index)
        inode = self._inode(index, number)
        kind = inode.stat.mode & 0xF000
        if kind != 0x8000:
            if kind == 0x4000:
                raise IsADirectory(where=f"inode {number}")
            raise InvalidArgument("not a regular file", where=f"inode {number}")
        if stream:
            raise NotFound("Btrfs has no named streams")
        return self._content(tree, inode)

    def _content(self, tree: Items, inode: Inode) -> Source:
        number, size = inode.stat.ino, inode.stat.size
        block = self._block
        known = None
        for buffer, entries in tree.runs((number, EXTENT_DATA, 0), (number, EXTENT_DATA + 1, 0)):
            known = buffer, entries
            break
        try:
            if known is not None:
                buffer, entries = known
                _, _, start, at, length = entries[0]
                first = parse_extent(start, buffer, at, length, block)
                if first.inline is not None and len(entries) == 1 and size <= block:
                    return small_file(self._data, first, size)
                last = parse_extent(*_fields(buffer, entries[-1]), block)
                if last.start + last.length < size:  # there may be more, in the leaf behind
                    known = None
        except GuestkitError as error:
            error.within(f"inode {number}")
            raise
        extents = ExtentMap(tree, number, block, known)
        return BtrfsFile(self._data, extents, number, size, not inode.flags & NODATASUM)

    def readlink(self, ino: int) -> Link:
        index, number, stub = split_key(ino)
        inode = None if stub else self._inode(index, number)
        if inode is None or not _stat.S_ISLNK(inode.stat.mode):
            raise InvalidArgument("not a symbolic link", where=f"inode {number}")
        if not 0 < inode.stat.size <= _MOST_LINK:
            raise Corrupt("symlink", "size", found=inode.stat.size, where=f"inode {number}")
        target = self._content(self._tree(index), inode).read(0, inode.stat.size)
        return Link("posix", target.split(b"\0", 1)[0])

    # extended attributes

    def _attributes(self, ino: int) -> Iterator[DirItem]:
        """In the order of the tree, as the kernel lists them. Raises: NotFound, Corrupt."""
        index, number, stub = split_key(ino)
        if stub:
            return
        found = False
        for _, _, _, item in self._tree(index).items((number, XATTR_ITEM, 0), (number, XATTR_ITEM + 1, 0)):
            found = True
            yield from self._parsed(number, item)
        if not found:
            self._inode(index, number)

    def _parsed(self, number: int, item: bytes) -> Iterator[DirItem]:
        try:
            yield from parse_dir_items(item)
        except Corrupt as error:
            error.within(f"inode {number}", "extended attributes")
            raise

    def may_refuse_open(self) -> bool:
        return False

    def xattr_names(self, ino: int) -> Sequence[bytes]:
        return [attribute.name for attribute in self._attributes(ino)]

    def xattr(self, ino: int, name: bytes) -> bytes:
        index, number, stub = split_key(ino)
        if stub or len(name) > LONGEST_NAME:
            raise NoAttribute
        item = self._tree(index).get((number, XATTR_ITEM, name_hash(name)))
        for attribute in self._parsed(number, item) if item is not None else ():
            if attribute.name == name:
                return attribute.value
        self._inode(index, number)
        raise NoAttribute

    # the whole

    def roots(self) -> Sequence[Subvolume]:
        return self.volumes.roots()

    def statvfs(self) -> StatVfs:
        return statvfs(self.trees)

    def details(self) -> dict[str, object]:
        sup = self.superblock
        try:
            profiles = self.trees.profiles()
        except (Corrupt, SourceError) as error:
            self.damage.add("chunk tree", error)
            profiles = {}
        return {
            "features": feature_names(sup.incompat, sup.compat_ro),
            "checksum": self.trees.pool.csum.name,
            "sector_size": sup.sector_size,
            "node_size": sup.node_size,
            "generation": sup.generation,
            "devices": sup.device_count,
            "devices_present": sorted(self.trees.pool.members),
            "total_bytes": sup.total_bytes,
            "used_bytes": sup.bytes_used,
            "profiles": profiles,
            "log": bool(sup.log_root),
        }


def _fields(buffer: bytes, entry: tuple[int, int, int, int, int]) -> tuple[int, bytes, int, int]:
    return entry[2], buffer, entry[3], entry[4]
