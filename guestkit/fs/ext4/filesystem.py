"""Ext4: the FileSystem of ext2, ext3 and ext4, put together from the rooms of this package.

Spec: Documentation/filesystems/ext4/; what a name, a link or a figure shows is what the kernel shows. Left out:
writing, quotas, project ids, decryption, verification against Merkle trees.
"""

from __future__ import annotations

import stat as _stat
from collections.abc import Iterator, Sequence
from itertools import repeat

from guestkit.errors import (
    Corrupt,
    GuestkitError,
    InvalidArgument,
    IsADirectory,
    NeedKey,
    NoAttribute,
    NotFound,
)
from guestkit.fs.base import (
    SKIPPED,
    DirEntry,
    FileSystem,
    Link,
    Small,
    Stat,
    State,
    StatVfs,
    gathered,
)
from guestkit.fs.ext4 import features as f
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.ext4.content import file_source, inline_data, inline_source, is_inline, mapping
from guestkit.fs.ext4.groups import Groups
from guestkit.fs.ext4.inode import EA_INODE_FL, ENCRYPT_FL, ROOT_INO, Inode, InodeTable
from guestkit.fs.ext4.listing import Directories, Raw
from guestkit.fs.ext4.statfs import statvfs
from guestkit.fs.ext4.superblock import Superblock
from guestkit.fs.ext4.together import Together
from guestkit.fs.ext4.xattr import Attribute, kernel_value, parse_block, parse_body, verify_external
from guestkit.limits import Limits
from guestkit.source import Source

_new = tuple.__new__
_FIRST = 1024  # entries of a directory that are listed first; up to 16 times as many of a huge one
_COLUMN = 256  # inodes that are decoded together, so that their records stay in the processor's cache


class Ext4(FileSystem):
    """One ext2, ext3 or ext4 filesystem on `device`, any recovery already below it."""

    root = ROOT_INO

    def __init__(
        self,
        device: Source,
        superblock: Superblock,
        sb_block: int,
        state: State,
        limits: Limits,
        taken: tuple[int, int] = (0, 0),
    ) -> None:
        """`sb_block`: the block of the superblock copy in use; `taken`: clusters and inodes that no group counts."""
        super().__init__()
        self.superblock = superblock
        self.state = state
        self._taken = taken
        self.kind = superblock.kind
        self.label = superblock.label.decode("utf-8", "surrogateescape")
        digits = superblock.uuid.hex()
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        self.uuid = "-".join(parts) if any(superblock.uuid) else ""
        self.blocks = Blocks(device, superblock, limits)
        self.groups = Groups(self.blocks, sb_block, self.damage)
        self.table = InodeTable(self.blocks, self.groups)
        self._directories = Directories(self.blocks, self.table, self.damage)
        self._together = Together(self.blocks, self.table)
        self._external = bool(superblock.incompat & f.EA_INODE)
        self._encrypts = bool(superblock.incompat & f.ENCRYPT)

    # inodes

    def stat(self, ino: int) -> Stat:
        inode = self.table.read(ino)
        if inode.flags & ENCRYPT_FL and _stat.S_ISLNK(inode.mode):
            return inode.stat._replace(size=len(self._target(inode)))
        return inode.stat

    def lookup(self, directory: int, name: bytes) -> int:
        return self._directories.lookup(directory, name)

    def parent(self, directory: int) -> int:
        return ROOT_INO if directory == ROOT_INO else self._directories.parent(directory)

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for batch in self._directories.batches(self._directories.open(directory), cookie):
            for entry in batch:
                yield _new(DirEntry, entry)

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        for entries, stats in self.scan_lists(directory, cookie):
            yield from zip(map(_new, repeat(DirEntry), entries), stats, strict=True)

    def scan_lists(self, directory: int, cookie: int = 0) -> Iterator[tuple[list[Raw], list[Stat | None]]]:
        for batch in self._batches(directory, cookie):
            at = 0
            for stats in self._stats([entry[1] for entry in batch]):
                yield batch[at : at + len(stats)], stats
                at += len(stats)

    def scan_small(self, directories: Sequence[int]) -> Small:
        plain = yield from self._together.entries(directories)
        found: dict[int, Stat | None] = {}
        inos = list({entry[1] for entries in plain.values() for entry in entries})
        at = 0
        for stats in self._stats(inos):
            found.update(zip(inos[at:], stats, strict=False))
            at += len(stats)
            yield
        return plain, found

    def _batches(self, directory: int, cookie: int = 0) -> Iterator[list[Raw]]:
        opened = self._directories.open(directory)
        # the inodes of a few of very many names lie so far apart that each costs a read
        first = min(max(_FIRST, opened.inode.size >> 9), _FIRST << 4)
        yield from gathered(self._directories.batches(opened, cookie), first, self.table.most)

    def _stats(self, inos: Sequence[int]) -> Iterator[list[Stat | None]]:
        """The stat of each of `inos`, a column at a time; None, and a problem, where stat() would raise."""
        most = self.table.most
        for at in range(0, len(inos), most):
            for stats in self.table.stat_pieces(inos[at : at + most], _COLUMN, self._failed):
                yield self._shown(stats) if self._encrypts else stats

    def _failed(self, ino: int, error: GuestkitError) -> None:
        self.damage.add(f"inode {ino}", error)

    def _shown(self, stats: list[Stat | None]) -> list[Stat | None]:
        """`stats` with the sizes that links have as they are shown."""
        for slot, status in enumerate(stats):
            if status is not None and _stat.S_ISLNK(status.mode):
                try:
                    stats[slot] = self.stat(status.ino)
                except SKIPPED as error:
                    self._failed(status.ino, error)
                    stats[slot] = None
        return stats

    # contents

    def open(self, ino: int, stream: bytes = b"") -> Source:
        inode = self.table.read(ino)
        kind = inode.mode & 0xF000
        if kind != 0x8000:
            if kind == 0x4000:
                raise IsADirectory(where=f"inode {ino}")
            raise InvalidArgument("not a regular file", where=f"inode {ino}")
        if stream:
            raise NotFound("ext filesystems have no named streams")
        if inode.flags & ENCRYPT_FL:
            raise NeedKey("the file is encrypted", where=f"inode {ino}")
        return self._content(inode)

    def _content(self, inode: Inode) -> Source:
        try:
            if is_inline(inode):
                return inline_source(inline_data(inode, self._body(inode)), inode.size)
            return file_source(self.blocks, self.table, inode)
        except Corrupt as error:
            error.within(f"inode {inode.ino}")
            raise

    def readlink(self, ino: int) -> Link:
        inode = self.table.read(ino)
        if not _stat.S_ISLNK(inode.mode):
            raise InvalidArgument("not a symbolic link", where=f"inode {ino}")
        return Link("posix", self._target(inode))

    def _target(self, inode: Inode) -> bytes:
        try:
            stored = self._stored_target(inode)
            if not inode.flags & ENCRYPT_FL:
                return stored.split(b"\0", 1)[0]
            from guestkit.fs.ext4.nokey import encode

            length = int.from_bytes(stored[:2], "little")
            if not length or 2 + length > len(stored):
                raise Corrupt("encrypted symlink", "length", found=length, expected=f"1 to {len(stored) - 2}")
            return encode(stored[2 : 2 + length], 0, 0)
        except Corrupt as error:
            error.within(f"inode {inode.ino}")
            raise

    def _stored_target(self, inode: Inode) -> bytes:
        size, block_size = inode.size, self.superblock.block_size
        if is_inline(inode):
            return inline_data(inode, self._body(inode))[:size]
        if self._is_fast(inode):
            target = inode.i_block[:size]
            plain = not inode.flags & ENCRYPT_FL
            if not 0 < size < 60 or (plain and (b"\0" in target or inode.i_block[size])):
                raise Corrupt("fast symlink", "i_size", found=size, expected="1 to 59, its target's length")
            return target
        if not 0 < size < block_size:
            raise Corrupt("symlink", "i_size", found=size, expected=f"1 to {block_size - 1}")
        for _, physical, _ in mapping(self.blocks, self.table, inode).runs(0, 1):
            if physical:
                return self.blocks.read(physical)[:size]
        raise Corrupt("symlink", "block 0", expected="no hole")

    def _is_fast(self, inode: Inode) -> bool:
        """Whether the target stands in i_block: no block is in use but that of attributes."""
        if inode.flags & EA_INODE_FL:
            return 0 < inode.size < 60
        attributes = self.superblock.cluster_size >> 9 if inode.file_acl else 0
        return inode.stat.blocks == attributes

    # extended attributes

    def xattr_names(self, ino: int) -> Sequence[bytes]:
        return [name for attribute in self._attributes(self.table.read(ino)) if (name := attribute.full_name)]

    def xattr(self, ino: int, name: bytes) -> bytes:
        inode = self.table.read(ino)
        for attribute in self._attributes(inode):
            if attribute.full_name == name:
                try:
                    value = self._external_value(attribute, inode) if attribute.inum else attribute.value
                    return kernel_value(attribute, value)
                except Corrupt as error:
                    error.within(f"inode {ino}", name.decode("utf-8", "surrogateescape"))
                    raise
        raise NoAttribute

    def may_refuse_open(self) -> bool:
        return self._encrypts

    def has_xattrs(self) -> bool:
        return bool(self.superblock.compat & f.EXT_ATTR)

    def _body(self, inode: Inode) -> list[Attribute]:
        return parse_body(inode.raw, inode.extra, external=self._external)

    def _attributes(self, inode: Inode) -> list[Attribute]:
        try:
            found = self._body(inode) if inode.extra else []
            return found + self._block_attributes(inode.file_acl) if inode.file_acl else found
        except Corrupt as error:
            error.within(f"inode {inode.ino}")
            raise

    def _block_attributes(self, block: int) -> list[Attribute]:
        """Several inodes may share a block."""
        key = (self.blocks.token, "a", block)
        found: list[Attribute] | None = self.blocks.cache.get(key)
        if found is None:
            try:
                seed = self.superblock.checksum_seed if self.superblock.metadata_csum else None
                found = parse_block(self.blocks.read(block), block, seed, external=self._external)
            except Corrupt as error:
                error.within(f"xattr block {block}")
                raise
            size = sum(300 + len(attribute.name) + len(attribute.value) for attribute in found)
            self.blocks.cache.put(key, found, size + 200)
        return found

    def _external_value(self, attribute: Attribute, owner: Inode) -> bytes:
        try:
            inode = self.table.read(attribute.inum)
        except NotFound:
            raise Corrupt("xattr entry", "e_value_inum", found=attribute.inum) from None
        if not inode.flags & EA_INODE_FL or inode.mode & 0xF000 != 0x8000 or inode.flags & ENCRYPT_FL:
            raise Corrupt("xattr inode", "i_flags", found=inode.flags, expected=EA_INODE_FL)
        if inode.size != attribute.size:
            raise Corrupt("xattr inode", "i_size", found=inode.size, expected=attribute.size)
        value = self._content(inode).read(0, attribute.size)
        raw = inode.raw
        back = int.from_bytes(raw[0x10:0x14], "little") == owner.ino and inode.generation == owner.generation
        if not back:  # Lustre's values name their owner where others keep a hash
            verify_external(attribute, value, int.from_bytes(raw[8:12], "little"), self.superblock.checksum_seed)
        return value

    # the whole

    def statvfs(self) -> StatVfs:
        size = 0
        if self.superblock.has_journal and self.superblock.journal_inum:
            try:
                size = self.table.read(self.superblock.journal_inum, special=True).size
            except GuestkitError as error:
                self.damage.add("journal inode", error)
        return statvfs(self.superblock, self.groups, size, self._taken)

    def details(self) -> dict[str, object]:
        sup = self.superblock
        return {
            "features": f.feature_names(sup.compat, sup.incompat, sup.ro_compat),
            "block_size": sup.block_size,
            "cluster_size": sup.cluster_size,
            "inode_size": sup.inode_size,
            "blocks": sup.blocks_count,
            "inodes": sup.inodes_count,
            "last_mounted": sup.last_mounted.decode("utf-8", "surrogateescape"),
            "last_mount_time": sup.mount_time,
            "last_write_time": sup.write_time,
            "created": sup.mkfs_time,
            "mount_count": sup.mount_count,
            "errors": bool(sup.state & 2),
            "creator": {0: "Linux", 1: "Hurd", 2: "Masix", 3: "FreeBSD", 4: "Lites"}.get(sup.creator_os, "unknown"),
            "journal": "internal" if sup.journal_inum else "external" if sup.has_journal else "none",
            "group_of_superblock": sup.group_number,
        }
