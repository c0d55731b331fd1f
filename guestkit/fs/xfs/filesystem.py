"""Xfs: the FileSystem, put together from the rooms of this package.

Spec: XFS Algorithms & Data Structures; what a name, a link or a figure shows is what the kernel shows. Left out:
writing, quotas, the realtime device, zoned storage.
"""

from __future__ import annotations

import stat as _stat
from collections.abc import Iterator, Sequence

from guestkit.errors import (
    Corrupt,
    InvalidArgument,
    IsADirectory,
    NoAttribute,
    NotFound,
    SourceError,
    Unsupported,
)
from guestkit.fs.base import (
    DirEntry,
    FileSystem,
    Link,
    Small,
    Stat,
    State,
    StatVfs,
    gathered,
)
from guestkit.fs.xfs import features as f
from guestkit.fs.xfs.blocks import Blocks
from guestkit.fs.xfs.content import file_source, link_target
from guestkit.fs.xfs.dirdata import Raw
from guestkit.fs.xfs.groups import MOST_SUMMED, Sums, sums
from guestkit.fs.xfs.inode import REALTIME, Found, Inode, InodeTable
from guestkit.fs.xfs.listing import Directories
from guestkit.fs.xfs.statfs import statvfs
from guestkit.fs.xfs.superblock import Superblock
from guestkit.fs.xfs.together import Together
from guestkit.fs.xfs.xattr import Attribute, attributes, kernel_acl, value_of
from guestkit.limits import Limits
from guestkit.source import Source

# entries of a directory that are listed first: so few at a time that the garbage collector does not look at their stats
_FIRST = 128
_new = tuple.__new__


class Xfs(FileSystem):
    """One XFS filesystem on `device`, any recovery already below it."""

    kind = "xfs"

    def __init__(self, device: Source, superblock: Superblock, state: State, limits: Limits, *, counted: bool) -> None:
        """`counted`: the counters in the superblock are current."""
        super().__init__()
        self.superblock = superblock
        self.state = state
        self.root = superblock.root_ino
        self.label = superblock.label.decode("utf-8", "surrogateescape")
        digits = superblock.uuid.hex()
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        self.uuid = "-".join(parts) if any(superblock.uuid) else ""
        self.case_sensitive = not superblock.ascii_ci
        self.blocks = Blocks(device, superblock, limits)
        self.table = InodeTable(self.blocks)
        self._counted = counted
        self._directories = Directories(self.blocks, self.table, self.damage)
        self._together = Together(self.blocks, self.table)

    # inodes

    def stat(self, ino: int) -> Stat:
        return self.table.read(ino).stat

    def lookup(self, directory: int, name: bytes) -> int:
        return self._directories.lookup(directory, name)

    def parent(self, directory: int) -> int:
        found = self._directories.parent(directory)
        return directory if directory == self.root else found

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for batch in self._directories.batches(self._directories.open(directory), cookie):
            for entry in batch:
                yield _new(DirEntry, entry)

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        for batch, stats in self.scan_lists(directory, cookie):
            for entry, status in zip(batch, stats, strict=True):
                yield _new(DirEntry, entry), status

    def scan_lists(self, directory: int, cookie: int = 0) -> Iterator[tuple[list[Raw], list[Stat | None]]]:
        for batch in gathered(self._directories.batches(self._directories.open(directory), cookie), _FIRST):
            stats = self._stats({entry[1] for entry in batch})
            yield batch, [stats[entry[1]] for entry in batch]

    def scan_small(self, directories: Sequence[int]) -> Small:
        plain = yield from self._together.entries(directories)
        found = Found({}, {})
        yield from self.table.stat_pieces({entry[1] for entries in plain.values() for entry in entries}, found)
        return plain, self._told(found)

    def _stats(self, inos: set[int]) -> dict[int, Stat | None]:
        """The stat of each inode; None, and a problem, where stat() would raise."""
        return self._told(self.table.stat_many(inos))

    def _told(self, found: Found) -> dict[int, Stat | None]:
        for ino, error in found.bad.items():
            self.damage.add(f"inode {ino}", error)
            found.stats[ino] = None
        return found.stats

    # contents

    def open(self, ino: int, stream: bytes = b"") -> Source:
        inode = self.table.read(ino)
        kind = inode.mode & 0xF000
        if kind != 0x8000:
            if kind == 0x4000:
                raise IsADirectory(where=f"inode {ino}")
            raise InvalidArgument("not a regular file", where=f"inode {ino}")
        if stream:
            raise NotFound("XFS has no named streams")
        if inode.flags & REALTIME:
            raise Unsupported("XFS realtime device", where=f"inode {ino}")
        try:
            return file_source(self.blocks, inode)
        except Corrupt as error:
            error.within(f"inode {ino}")
            raise

    def readlink(self, ino: int) -> Link:
        inode = self.table.read(ino)
        if not _stat.S_ISLNK(inode.mode):
            raise InvalidArgument("not a symbolic link", where=f"inode {ino}")
        try:
            return Link("posix", link_target(self.blocks, inode))
        except Corrupt as error:
            error.within(f"inode {ino}")
            raise

    # extended attributes

    def xattr_names(self, ino: int) -> Sequence[bytes]:
        inode = self.table.read(ino)
        if not inode.attr_start:
            return ()
        found = []
        for attribute in self._attributes(inode):
            for name in (attribute.acl_name, attribute.full_name):
                if name:
                    found.append(name)
        return found

    def xattr(self, ino: int, name: bytes) -> bytes:
        inode = self.table.read(ino)
        for attribute in self._attributes(inode) if inode.attr_start else ():
            own = attribute.full_name == name
            if own or (attribute.acl_name and attribute.acl_name == name):
                try:
                    value = value_of(self.blocks, inode, attribute)
                    return value if own else kernel_acl(value)
                except Corrupt as error:
                    error.within(f"inode {ino}", name.decode("utf-8", "surrogateescape"))
                    raise
        raise NoAttribute

    def may_refuse_open(self) -> bool:
        return self.superblock.realtime

    def has_xattrs(self) -> bool:
        return bool(self.superblock.version_bits & f.ATTR)

    def _attributes(self, inode: Inode) -> list[Attribute]:
        key = (self.blocks.token, "a", inode.ino)
        found: list[Attribute] | None = self.blocks.cache.get(key)
        if found is None:
            try:
                found = attributes(self.blocks, inode)
            except Corrupt as error:
                error.within(f"inode {inode.ino}")
                raise
            size = sum(250 + len(attribute.name) + len(attribute.value) for attribute in found)
            self.blocks.cache.put(key, found, size + 200)
        return found

    # the whole

    def statvfs(self) -> StatVfs:
        sup = self.superblock
        counts = Sums(sup.free_blocks, sup.inode_count, sup.free_inodes, 0)
        sane = sup.free_inodes <= sup.inode_count and sup.free_blocks <= sup.data_blocks
        trust = self._counted and sane
        # a mount reads the groups' headers when one of these must be looked after, or the counters be added up
        if sup.ag_count <= MOST_SUMMED and (not trust or sup.ro_compat & (f.FINOBT | f.RMAPBT | f.REFLINK)):
            try:
                found = sums(self.blocks)
                counts = counts._replace(tree_blocks=found.tree_blocks) if trust else found
            except (Corrupt, SourceError) as error:
                self.damage.add("allocation groups", error)
        return statvfs(sup, counts)

    def details(self) -> dict[str, object]:
        sup = self.superblock
        return {
            "version": sup.version,
            "features": f.feature_names(sup.version_bits, sup.features2, sup.ro_compat, sup.incompat),
            "block_size": sup.block_size,
            "sector_size": sup.sector_size,
            "inode_size": sup.inode_size,
            "directory_block_size": sup.dir_block_size,
            "blocks": sup.data_blocks,
            "allocation_groups": sup.ag_count,
            "allocation_group_blocks": sup.ag_blocks,
            "realtime_blocks": sup.rt_blocks,
            "log": "external" if sup.external_log else "internal",
        }
