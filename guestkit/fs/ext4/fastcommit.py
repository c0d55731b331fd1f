"""Fast commits of ext4: the logical changes that follow a journal's last transaction, as patched blocks.

Specification: Documentation/filesystems/ext4/journal.rst "Fast Commits". What the kernel's replay writes into inode
tables, extent trees and directories is made here in memory: inodes are patched where they stand, a changed
directory is written anew without its hash index, and blocks that are missing for that are taken from the journal
itself, which nothing reads any more. Bitmaps and the counters of groups stay as they were; what the changes take is
told besides, but for blocks by which the kernel's replay lets a directory's index grow. The kernel stamps changed
directories with the time of its replay; here they keep theirs. Refused, and then reported by the state: changes to
inline, indirectly mapped or very large directories.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, GuestkitError, SourceError, Unsupported, WouldBlock
from guestkit.fs.base import Problems, State
from guestkit.fs.ext4 import features as f
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.ext4.extents import ExtentTree
from guestkit.fs.ext4.groups import Groups
from guestkit.fs.ext4.inode import HUGE_FILE_FL
from guestkit.fs.ext4.journal import Recovery
from guestkit.fs.ext4.superblock import Superblock
from guestkit.limits import Limits
from guestkit.source import BytesSource, Overlay, Patch, Source

ADD_RANGE, DEL_RANGE, CREATE, LINK, UNLINK, INODE, PAD, TAIL, HEAD = range(1, 10)

_EXTENTS, _INLINE, _INDEX = 0x80000, 0x10000000, 0x1000  # i_flags
_DIRECTORY = 0x4000
_END = 1 << 32
_MOST_EXTENTS = 1 << 18  # of all inodes that change
_MOST_DIRECTORIES = 8 << 20  # bytes of all directories that change
_MOST_LOG = 32 << 20  # bytes of fast commits
_FILE_TYPES = {0x8000: 1, 0x4000: 2, 0x2000: 3, 0x6000: 4, 0x1000: 5, 0xC000: 6, 0xA000: 7}


class Tag(NamedTuple):
    kind: int
    value: bytes


def scan(blocks: Iterable[bytes], sequence: int, inode_size: int) -> tuple[list[Tag], str]:
    """Return the changes of all fast commits of transaction `sequence`, and what was wrong if none was good.

    A fast commit ends with a checksum of its tags; what follows the last good one does not count.
    """
    tags: list[Tag] = []
    good = 0
    crc = 0
    for number, data in enumerate(blocks):
        if number == 0 and int.from_bytes(data[:2], "little") != HEAD:
            break
        if (number + 1) * len(data) > _MOST_LOG:
            return [], f"fast commits of more than {_MOST_LOG} bytes are not replayed"
        at = 0
        while at < len(data) - 4:
            kind, length = struct.unpack_from("<HH", data, at)
            value = data[at + 4 : at + 4 + length]
            if len(value) < length or not _length_valid(kind, length, inode_size):
                return tags[:good], "" if good else f"fast commit tag {kind} of {length} bytes"
            if kind == HEAD:
                features, tid = struct.unpack_from("<II", value)
                if features:
                    return tags[:good], f"fast commit features 0x{features:x}"
                if tid != sequence:
                    return tags[:good], ""
            if kind == TAIL:
                tid, stored = struct.unpack_from("<II", value)
                crc = crc32c(data[at : at + 8], crc)
                if tid != sequence or stored != crc:
                    return tags[:good], "" if good else "the first fast commit has a bad checksum"
                good = len(tags)
                crc = 0
            else:
                crc = crc32c(data[at : at + 4 + length], crc)
                if kind not in (HEAD, PAD):
                    tags.append(Tag(kind, value))
            at += 4 + length
    return tags[:good], ""


def _length_valid(kind: int, length: int, inode_size: int) -> bool:
    if kind in (CREATE, LINK, UNLINK):
        return 9 <= length <= 8 + 255
    if kind == INODE:
        return 4 + 128 <= length <= 4 + inode_size
    if kind == TAIL:
        return length >= 8
    return kind == PAD or {ADD_RANGE: 16, DEL_RANGE: 12, HEAD: 8}.get(kind) == length


def apply(recovery: Recovery, device: Source, superblock: Superblock, sb_block: int, limits: Limits) -> Recovery:
    """Put the fast commits that follow `recovery` on top of it.

    `device` is what the journal stands on; `superblock` that of recovery.source, in block `sb_block`.
    """
    if not recovery.fast or not recovery.complete:
        return recovery
    found = (device.read(place, superblock.block_size) for place in recovery.fast)
    tags, wrong = scan(found, recovery.next_sequence, superblock.inode_size)
    if not tags:
        return _left_out(recovery, wrong) if wrong else recovery
    blocks = Blocks(recovery.source, superblock, limits)
    groups = Groups(blocks, sb_block, Problems())
    replay = _Replay(recovery.source, blocks, groups, recovery.fast)
    try:
        for tag in tags:
            replay.change(tag)
        patches = replay.patches()
    except (SourceError, WouldBlock):
        raise
    except GuestkitError as error:
        return _left_out(recovery, f"fast commits not replayed, {len(tags)} tags: {error}")
    return replace(recovery, source=Overlay(recovery.source, patches), fast=(), taken=replay.taken())


def _left_out(recovery: Recovery, text: str) -> Recovery:
    return replace(
        recovery, state=State("dirty-not-replayed", text), problems=(*recovery.problems, text), complete=False
    )


class _Directory:
    """The entries of a directory that changes: name -> (inode, file type), "." and ".." among them."""

    def __init__(self, places: list[int]) -> None:
        self.places = places  # device offset of each block
        self.entries: dict[bytes, tuple[int, int]] = {}


class _Replay:
    def __init__(self, source: Source, blocks: Blocks, groups: Groups, scratch: Sequence[int]) -> None:
        self._source = source
        self._blocks = blocks
        self._groups = groups
        self._super = blocks.superblock
        self._size = blocks.block_size
        self._scratch = list(reversed(scratch))
        self._inodes: dict[int, bytearray] = {}
        self._used: list[int] = [0, 0]  # 512-byte sectors and inodes, by those of `_inodes` as they were found
        self._extents: dict[int, list[tuple[int, int, int]]] = {}  # (logical, physical, count) ascending
        self._changed: set[int] = set()  # inodes whose extents changed
        self._directories: dict[int, _Directory] = {}
        self._written: dict[int, bytes] = {}  # device offset -> bytes
        self._room = _MOST_EXTENTS
        self._directory_room = _MOST_DIRECTORIES

    def change(self, tag: Tag) -> None:
        """Apply one change, as the kernel does; one that names what is not there changes nothing."""
        kind, value = tag
        if kind == INODE:
            self._put_inode(int.from_bytes(value[:4], "little"), value[4:])
        elif kind == ADD_RANGE:
            ino, logical, length, high, low = struct.unpack("<IIHHI", value)
            written = length <= 32768
            count = length if written else length - 32768
            self._map(ino, logical, count, (high << 32 | low) if written else 0)
        elif kind == DEL_RANGE:
            ino, logical, count = struct.unpack("<III", value)
            self._map(ino, logical, count, 0)
        elif kind in (CREATE, LINK, UNLINK):
            parent, ino = struct.unpack_from("<II", value)
            name = value[8:]
            if kind == UNLINK:
                self._unlink(parent, ino, name)
            elif kind == LINK:
                self._link(parent, ino, name)
            else:
                self._create(parent, ino, name)

    def _place(self, ino: int) -> int:
        sup = self._super
        if not 0 < ino <= sup.inodes_count:
            raise Corrupt("fast commit", "inode", found=ino, expected=f"1 to {sup.inodes_count}")
        group, index = divmod(ino - 1, sup.inodes_per_group)
        return self._groups.inode_table(group) * self._size + index * sup.inode_size

    def _inode(self, ino: int) -> bytearray:
        raw = self._inodes.get(ino)
        if raw is None:
            raw = self._inodes[ino] = bytearray(self._source.read(self._place(ino), self._super.inode_size))
            self._count(raw, self._used)
        return raw

    def _count(self, raw: bytearray, used: list[int]) -> None:
        """Add what an inode uses to `used`."""
        if not int.from_bytes(raw[:2], "little") or not _links(raw):
            return
        sectors = int.from_bytes(raw[28:32], "little")
        if self._super.ro_compat & f.HUGE_FILE:
            sectors |= int.from_bytes(raw[116:118], "little") << 32
            if _flags(raw) & HUGE_FILE_FL:
                sectors *= self._size >> 9
        used[0] += sectors
        used[1] += 1

    def taken(self) -> tuple[int, int]:
        """(clusters, inodes) that are in use after all changes and were not before; below 0: they were freed."""
        now = [0, 0]
        for raw in self._inodes.values():
            self._count(raw, now)
        return (now[0] - self._used[0]) // (self._super.cluster_size >> 9), now[1] - self._used[1]

    def _in_use(self, ino: int) -> bool:
        raw = self._inode(ino)
        return bool(int.from_bytes(raw[:2], "little")) and bool(_links(raw))

    def _put_inode(self, ino: int, new: bytes) -> None:
        raw = self._inode(ino)
        raw[:40] = new[:40]
        raw[100 : len(new)] = new[100:]
        flags = _flags(raw)
        if flags & _EXTENTS:
            if raw[40:42] != b"\x0a\xf3":
                raw[40:52] = struct.pack("<HHHHI", 0xF30A, 0, 4, 0, 0)
                self._extents.pop(ino, None)
        elif flags & _INLINE:
            raw[40:100] = new[40:100]

    def _tree(self, ino: int) -> list[tuple[int, int, int]]:
        """Return the mapped extents of an inode, unwritten ones left out: they read as holes."""
        known = self._extents.get(ino)
        if known is None:
            raw = self._inode(ino)
            if not _flags(raw) & _EXTENTS:
                raise Unsupported(f"a fast commit to inode {ino}, which has no extents")
            known = []
            tree = ExtentTree(self._blocks, bytes(raw[40:100]), ino, self._seed(ino))
            for logical, physical, count in tree.runs(0, _END):
                if physical:
                    known.append((logical, physical, count))
                    self._take_extents(1)
            self._extents[ino] = known
        return known

    def _map(self, ino: int, logical: int, count: int, physical: int) -> None:
        """Map `count` blocks from `logical` to `physical`; 0 takes the mapping away."""
        if not self._in_use(ino):
            return
        end = min(logical + count, _END)
        if logical >= end:
            return
        if physical:
            self._blocks.check(physical, end - logical)
        tree = self._tree(ino)
        first = bisect_left(tree, (logical,))
        if first and tree[first - 1][0] + tree[first - 1][2] > logical:
            first -= 1
        last = first
        pieces = []
        while last < len(tree) and tree[last][0] < end:
            old, place, length = tree[last]
            if old < logical:
                pieces.append((old, place, logical - old))
            if old + length > end:
                pieces.append((end, place + end - old, old + length - end))
            last += 1
        if physical:
            pieces.append((logical, physical, end - logical))
        tree[first:last] = sorted(pieces)
        self._take_extents(2)
        self._changed.add(ino)

    def _take_extents(self, count: int) -> None:
        self._room -= count
        if self._room < 0:
            raise Unsupported(f"a fast commit to inodes of more than {_MOST_EXTENTS} extents")

    def _directory(self, ino: int) -> _Directory:
        known = self._directories.get(ino)
        if known is not None:
            return known
        raw = self._inode(ino)
        flags = _flags(raw)
        if flags & _INLINE or not flags & _EXTENTS:
            raise Unsupported(f"a fast commit to the directory of inode {ino}, which has no extents")
        size = int.from_bytes(raw[4:8], "little")
        self._directory_room -= size
        if self._directory_room < 0 or size % self._size:
            raise Unsupported(f"a fast commit to the directory of inode {ino}, of {size} bytes")
        places = []
        for logical, physical, count in self._tree(ino):
            places += [(physical + n) * self._size for n in range(min(count, max(0, size // self._size - logical)))]
        directory = _Directory(places)
        for number, place in enumerate(places):
            data = self._source.read(place, self._size)
            for child, kind, name in _entries(data, self._super.inodes_count, number == 0 and bool(flags & _INDEX)):
                directory.entries[name] = (child, kind)
        self._directories[ino] = directory
        return directory

    def _is_directory(self, ino: int) -> bool:
        return self._in_use(ino) and int.from_bytes(self._inode(ino)[:2], "little") & 0xF000 == _DIRECTORY

    def _link(self, parent: int, ino: int, name: bytes) -> None:
        if not self._in_use(ino) or not self._is_directory(parent):
            return
        entries = self._directory(parent).entries
        if name not in entries:
            entries[name] = (ino, self._type(ino))
            _set_links(self._inode(ino), _links(self._inode(ino)) + 1)

    def _create(self, parent: int, ino: int, name: bytes) -> None:
        if not self._in_use(ino):
            raise Corrupt("fast commit", f"creates {name!r} for inode {ino}, which is not in use")
        if not self._is_directory(parent):
            return
        if self._is_directory(ino):
            directory = self._directories[ino] = _Directory([self._new_block()])
            directory.entries = {b".": (ino, self._type(ino)), b"..": (parent, self._type(parent))}
            self._inode(ino)[4:8] = self._size.to_bytes(4, "little")
            self._extents[ino] = []
        self._link(parent, ino, name)
        _set_links(self._inode(ino), 1)  # of a directory too: so Linux 5.10 to 6.18 show one made in a fast commit

    def _unlink(self, parent: int, ino: int, name: bytes) -> None:
        if not self._in_use(ino) or not self._is_directory(parent):
            return
        entries = self._directory(parent).entries
        if name in entries and entries[name][0] == ino and name not in (b".", b".."):
            del entries[name]
            _set_links(self._inode(ino), max(0, _links(self._inode(ino)) - 1))

    def _type(self, ino: int) -> int:
        if not self._super.incompat & f.FILETYPE:
            return 0
        return _FILE_TYPES.get(int.from_bytes(self._inode(ino)[:2], "little") & 0xF000, 0)

    def _new_block(self) -> int:
        if not self._scratch:
            raise Unsupported("a fast commit that needs more new blocks than the journal has")
        return self._scratch.pop()

    def _seed(self, ino: int) -> int:
        generation = bytes(self._inode(ino)[100:104])
        return crc32c(ino.to_bytes(4, "little") + generation, self._super.checksum_seed)

    def patches(self) -> list[Patch]:
        """Return what the changes amount to, in ascending order."""
        for ino, directory in self._directories.items():
            self._write_directory(ino, directory)
        for ino in self._changed:
            if _flags(self._inode(ino)) & _EXTENTS:
                self._write_tree(ino)
        tables: dict[int, bytearray] = {}
        for ino, raw in self._inodes.items():
            self._sum_inode(ino, raw)
            block, at = divmod(self._place(ino), self._size)
            if block not in tables:
                tables[block] = bytearray(self._source.read(block * self._size, self._size))
            tables[block][at : at + len(raw)] = raw
        self._written.update({block * self._size: bytes(data) for block, data in tables.items()})
        return [Patch(place, len(data), BytesSource(data), 0) for place, data in sorted(self._written.items())]

    def _write_directory(self, ino: int, directory: _Directory) -> None:
        """Write a directory as a list; what its blocks do not hold goes into blocks of the journal."""
        size = self._size
        room = size - (12 if self._super.metadata_csum else 0)
        filled: list[list[tuple[bytes, int, int]]] = [[]]
        used = 0
        entries = directory.entries
        first = [name for name in (b".", b"..") if name in entries]
        for name in (*first, *(name for name in entries if name not in (b".", b".."))):
            need = 8 + len(name) + 3 & ~3
            if used + need > room:
                filled.append([])
                used = 0
            filled[-1].append((name, *entries[name]))
            used += need
        while len(directory.places) < len(filled):
            directory.places.append(self._new_block())
        filled += [[] for _ in range(len(directory.places) - len(filled))]
        seed = self._seed(ino)
        for place, block in zip(directory.places, filled, strict=True):
            self._written[place] = self._directory_block(block, room, seed)
        self._extents[ino] = _joined([place // size for place in directory.places])
        self._changed.add(ino)
        raw = self._inode(ino)
        raw[4:8] = (len(directory.places) * size).to_bytes(4, "little")
        raw[32:36] = (_flags(raw) & ~_INDEX).to_bytes(4, "little")

    def _directory_block(self, entries: Sequence[tuple[bytes, int, int]], room: int, seed: int) -> bytes:
        data = bytearray()
        for index, (name, child, kind) in enumerate(entries):
            length = 8 + len(name) + 3 & ~3
            if index == len(entries) - 1:
                length = room - len(data)
            data += struct.pack("<IHBB", child, _stored_length(length), len(name), kind) + name
            data += bytes(-len(data) % 4)
        if not entries:
            data += struct.pack("<IHBB", 0, _stored_length(room), 0, 0)
        data += bytes(room - len(data))
        if room < self._size:
            data += struct.pack("<IHBBI", 0, 12, 0, 0xDE, crc32c(data, seed))
        return bytes(data)

    def _write_tree(self, ino: int) -> None:
        entries = [
            struct.pack("<IHHI", logical, count, physical >> 32, physical & 0xFFFFFFFF)
            for logical, physical, count in _cut(self._extents[ino])
        ]
        seed = self._seed(ino)
        most = (self._size - 12) // 12
        depth = 0
        while len(entries) > 4:
            above = []
            for at in range(0, len(entries), most):
                part = entries[at : at + most]
                node = struct.pack("<HHHHI", 0xF30A, len(part), most, depth, 0) + b"".join(part)
                node = node.ljust(12 + 12 * most, b"\0")
                node += crc32c(node, seed).to_bytes(4, "little")
                place = self._new_block()
                self._written[place] = node.ljust(self._size, b"\0")[: self._size]
                block = place // self._size
                above.append(part[0][:4] + struct.pack("<IHH", block & 0xFFFFFFFF, block >> 32, 0))
            entries = above
            depth += 1
        root = struct.pack("<HHHHI", 0xF30A, len(entries), 4, depth, 0) + b"".join(entries)
        self._inode(ino)[40:100] = root.ljust(60, b"\0")

    def _sum_inode(self, ino: int, raw: bytearray) -> None:
        if not self._super.metadata_csum:
            return
        wide = len(raw) > 128 and int.from_bytes(raw[128:130], "little") >= 4
        raw[124:126] = b"\0\0"
        if wide:
            raw[130:132] = b"\0\0"
        total = crc32c(raw, self._seed(ino))
        raw[124:126] = (total & 0xFFFF).to_bytes(2, "little")
        if wide:
            raw[130:132] = (total >> 16).to_bytes(2, "little")


def _flags(raw: bytearray) -> int:
    return int.from_bytes(raw[32:36], "little")


def _links(raw: bytearray) -> int:
    return int.from_bytes(raw[26:28], "little")


def _set_links(raw: bytearray, count: int) -> None:
    raw[26:28] = min(count, 0xFFFF).to_bytes(2, "little")


def _stored_length(length: int) -> int:
    """rec_len as it is stored where 16 bits do not reach."""
    return length if length < 0x10000 else length & 0xFFFC | length >> 16 & 3


def _entries(data: bytes, most: int, root: bool) -> Iterator[tuple[int, int, bytes]]:
    """Yield (inode, file type, name) of a directory block; of the root of a hash index only "." and ".."."""
    at = 0
    while at + 8 <= len(data):
        ino, length, name_length, kind = struct.unpack_from("<IHBB", data, at)
        if len(data) > 0xFFFF:
            length = len(data) if length in (0, 0xFFFF) else length & 0xFFFC | (length & 3) << 16
        if length < 12 or length & 3 or at + length > len(data) or (ino and 8 + name_length > length) or ino > most:
            raise Corrupt(f"directory entry at {at}", "rec_len", found=length)
        if ino:
            yield ino, kind, data[at + 8 : at + 8 + name_length]
        if root and at:
            return
        at += length


def _joined(numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (logical, physical, count) of blocks that follow one another."""
    runs: list[tuple[int, int, int]] = []
    for logical, physical in enumerate(numbers):
        if runs and runs[-1][1] + runs[-1][2] == physical:
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((logical, physical, 1))
    return runs


def _cut(runs: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Cut runs to what one extent can name."""
    for logical, physical, count in runs:
        for at in range(0, count, 32768):
            yield logical + at, physical + at, min(32768, count - at)
