"""Group descriptors: where each group's inode table stands, and the free counts.

Descriptors are read a block at a time when first needed and verified when used; a damaged one is taken from a
backup. Spec: Documentation/filesystems/ext4/group_descr.rst, blockgroup.rst (meta_bg, sparse_super).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from guestkit.checksum import crc16, crc32c
from guestkit.errors import Corrupt, GuestkitError
from guestkit.fs.base import Problems
from guestkit.fs.ext4 import features as f
from guestkit.fs.ext4.blocks import Blocks
from guestkit.layout import Layout

_DESC = Layout(
    "ext4_group_desc",
    32,
    "<",
    bg_block_bitmap_lo=(0x0, "I"),
    bg_inode_bitmap_lo=(0x4, "I"),
    bg_inode_table_lo=(0x8, "I"),
    bg_free_blocks_count_lo=(0xC, "H"),
    bg_free_inodes_count_lo=(0xE, "H"),
    bg_used_dirs_count_lo=(0x10, "H"),
    bg_flags=(0x12, "H"),
    bg_checksum=(0x1E, "H"),
)
_KEPT = 1 << 16  # inode table places remembered
_BACKUPS_TRIED = 8


class Groups:
    """The descriptors of one filesystem. `sb_block` is the block of the superblock copy that was used."""

    def __init__(self, blocks: Blocks, sb_block: int, damage: Problems) -> None:
        self._blocks = blocks
        self._super = blocks.superblock
        self._sb_block = sb_block
        self._damage = damage
        self._tables: dict[int, int] = {}
        self.per_block = self._super.block_size // self._super.desc_size
        self.table_blocks = (self._super.group_count + self.per_block - 1) // self.per_block
        self.itb_per_group = -(-self._super.inodes_per_group * self._super.inode_size // self._super.block_size)

    def first_block(self, group: int) -> int:
        """The first block of `group`."""
        return self._super.first_data_block + group * self._super.blocks_per_group

    def inode_table(self, group: int) -> int:
        """Return the first block of a group's inode table. Raises: Corrupt (EUCLEAN), SourceError."""
        block = self._tables.get(group)
        if block is None:
            block = self._find_table(group)
            if len(self._tables) >= _KEPT:
                self._tables.clear()
            self._tables[group] = block
        return block

    def _find_table(self, group: int) -> int:
        index, slot = divmod(group, self.per_block)
        try:
            return self._checked_table(group, self._block(self._place(index)), slot)
        except Corrupt as error:
            error.within(f"group {group}")
            for place in self._backups(index):
                try:
                    block = self._checked_table(group, self._block(place), slot)
                except GuestkitError:  # the next copy may serve; the primary's error is raised when none does
                    continue
                self._damage.add(f"group {group}", f"{error}; a backup was used")
                return block
            raise

    def _checked_table(self, group: int, block: bytes, slot: int) -> int:
        size = self._super.desc_size
        desc = block[slot * size : (slot + 1) * size]
        self._verify(group, desc)
        place = int.from_bytes(desc[8:12], "little")
        if size >= 64:
            place |= int.from_bytes(desc[0x28:0x2C], "little") << 32
        if place <= self._super.first_data_block or place + self.itb_per_group > self._super.blocks_count:
            raise Corrupt("group descriptor", "bg_inode_table", found=place)
        return place

    def _verify(self, group: int, desc: bytes) -> None:
        stored = desc[0x1E] | desc[0x1F] << 8
        number = group.to_bytes(4, "little")
        if self._super.ro_compat & f.METADATA_CSUM:
            found = crc32c(number + desc[:0x1E] + b"\0\0" + desc[0x20:], self._super.checksum_seed) & 0xFFFF
        elif self._super.ro_compat & f.GDT_CSUM:
            found = crc16(self._super.uuid + number + desc[:0x1E] + desc[0x20:])
        else:
            return
        if found != stored:
            raise Corrupt("group descriptor", "bg_checksum", found=stored, expected=found)

    def _place(self, index: int) -> int:
        """The block that holds block `index` of the descriptor table."""
        sup = self._super
        if not sup.incompat & f.META_BG or index < sup.first_meta_bg:
            return self._sb_block + index + 1
        group = self.per_block * index
        behind = int(sup.has_super(group))
        if sup.block_size == 1024 and index == 0 and sup.first_data_block == 0:
            behind += 1  # bigalloc with 1 KiB blocks: the boot block takes one more
        return self.first_block(group) + behind

    def _backups(self, index: int) -> list[int]:
        sup = self._super
        if sup.incompat & f.META_BG and index >= sup.first_meta_bg:
            group = self.per_block * index
            groups = [group + 1, group + self.per_block - 1]
            return [self.first_block(g) + int(sup.has_super(g)) for g in groups if g < sup.group_count]
        found = []
        power = 1
        candidates = list(sup.backup_groups) if sup.compat & f.SPARSE_SUPER2 else [1, 3, 5, 7, 9, 25, 27, 49, 81]
        for group in candidates:
            if power > _BACKUPS_TRIED:
                break
            if 0 < group < sup.group_count and sup.has_super(group):
                found.append(self.first_block(group) + 1 + index)
                power += 1
        return found

    def _block(self, place: int) -> bytes:
        blocks = self._blocks
        key = (blocks.token, "g", place)
        data: bytes | None = blocks.cache.get(key)
        if data is None:
            if place >= blocks.count:
                raise Corrupt("group descriptor block", found=place, expected=f"below {blocks.count}")
            data = blocks.device.read(place * blocks.block_size, blocks.block_size)
            blocks.cache.put(key, data, len(data) + 100)
        return data

    def _tables_in_order(self) -> Iterator[bytes]:
        """All descriptor blocks; neighbours in one read."""
        blocks, size = self._blocks, self._blocks.block_size
        index = 0
        while index < self.table_blocks:
            start = self._place(index)
            run = 1
            while index + run < self.table_blocks and run < 256 and self._place(index + run) == start + run:
                run += 1
            if start + run > blocks.count:
                raise Corrupt("group descriptor table", found=start + run, expected=f"at most {blocks.count}")
            yield blocks.device.read(start * size, run * size)
            index += run

    def free_counts(self) -> tuple[int, int]:
        """Return (free clusters, free inodes), summed over all groups. Raises: SourceError, Corrupt."""
        size, left = self._super.desc_size, self._super.group_count
        clusters = inodes = 0
        for table in self._tables_in_order():
            here = min(left, len(table) // size)
            words = array("H", table[: here * size])
            if sys.byteorder == "big":
                words.byteswap()
            step = size // 2
            clusters += sum(words[6::step])
            inodes += sum(words[7::step])
            if size >= 64:
                clusters += sum(words[0x16::step]) << 16
                inodes += sum(words[0x17::step]) << 16
            left -= here
        return clusters, inodes

    def gdt_blocks(self, group: int) -> int:
        """How many descriptor blocks `group` holds."""
        sup = self._super
        if sup.incompat & f.META_BG:
            index = group // self.per_block
            if index >= sup.first_meta_bg:
                return int(group % self.per_block in (0, 1, self.per_block - 1))
            return sup.first_meta_bg if sup.has_super(group) else 0
        return self.table_blocks if sup.has_super(group) else 0

    def places(self) -> list[tuple[int, int, int]]:
        """(block bitmap, inode bitmap, inode table) of every group."""
        size, left = self._super.desc_size, self._super.group_count
        found = []
        for table in self._tables_in_order():
            for at in range(0, min(left, len(table) // size) * size, size):
                values = list(_DESC.unpack_from(table, at)[:3])
                if size >= 64:
                    for number, high in enumerate((0x20, 0x24, 0x28)):
                        values[number] |= int.from_bytes(table[at + high : at + high + 4], "little") << 32
                found.append((values[0], values[1], values[2]))
            left -= len(table) // size
        return found
