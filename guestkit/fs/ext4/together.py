"""Small directories listed many at a time: their blocks read in runs, no object made for each of them.

Only what is plain is listed here: directories of a few blocks in one extent, without encryption, whole in every
byte. Everything else is left to Directories, which looks with care and tells what is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence

from guestkit.checksum import crc32c_extend
from guestkit.errors import GuestkitError
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.ext4.directory import directory_format, parse_names
from guestkit.fs.ext4.inode import CASEFOLD_FL, ENCRYPT_FL, EXTENTS_FL, INDEX_FL, INLINE_DATA_FL, InodeTable
from guestkit.fs.ext4.listing import Raw

_MOST_BLOCKS = 4  # of one directory
_GAP = 4  # blocks not asked for that are read along rather than starting another read
_RUN = 64  # blocks that one read takes at most
_PIECE = 8  # entries

_LEFT = INDEX_FL | CASEFOLD_FL | ENCRYPT_FL | INLINE_DATA_FL | EXTENTS_FL  # EXTENTS_FL alone must be set
_one_extent = struct.Struct("<HHHH4xIHHI").unpack_from  # a header and the extent behind it
_flags = struct.Struct("<I").unpack_from
_number = struct.Struct("<I").pack
_TAIL = b"\0\0\0\0\x0c\0\0\xde"


class Together:
    """Lists the plain ones among directories."""

    def __init__(self, blocks: Blocks, table: InodeTable) -> None:
        sup = blocks.superblock
        self._blocks = blocks
        self._table = table
        self._form = directory_format(sup)
        self._size = sup.block_size
        self._extend = crc32c_extend() if sup.metadata_csum else None
        self._seed = sup.checksum_seed ^ 0xFFFFFFFF

    def entries(self, inos: Sequence[int]) -> Generator[None, None, dict[int, list[Raw]]]:
        """The entries of those directories among `inos` that are plain; nothing of the others. Pauses now and then."""
        wanted: list[tuple[int, int, int, int]] = []  # first block, count, inode, checksum seed
        size, low, high = self._size, self._blocks.first, self._blocks.count
        extend, seed = self._extend, self._seed
        record = self._table.record
        for ino in inos:
            try:
                raw, status = record(ino)
            except GuestkitError:  # whoever lists it with care is told
                continue
            if _flags(raw, 32)[0] & _LEFT != EXTENTS_FL or status[1] & 0xF000 != 0x4000:
                continue
            count, rest = divmod(status[6], size)
            magic, entries, most, depth, logical, length, upper, lower = _one_extent(raw, 40)
            block = upper << 32 | lower
            if (
                rest or not 0 < count <= _MOST_BLOCKS or length != count or logical or depth or entries != 1
                or most != 4 or magic != 0xF30A or not low < block <= high - count
            ):  # fmt: skip
                continue
            own = extend(seed, _number(ino) + raw[0x64:0x68]) if extend is not None else 0
            wanted.append((block, count, ino, own))
        wanted.sort()
        found: dict[int, list[Raw]] = {}
        at = 0
        while at < len(wanted):
            first = wanted[at][0]
            end = first + wanted[at][1]
            stop = at + 1
            while stop < len(wanted) and wanted[stop][0] <= end + _GAP and wanted[stop][0] - first < _RUN:
                end = max(end, wanted[stop][0] + wanted[stop][1])
                stop += 1
            try:
                run = self._blocks.read(first, end - first)
            except GuestkitError:
                run = b""
            for block, count, ino, own in wanted[at:stop] if run else ():
                names = self._parse(run, (block - first) * size, count, own)
                if names is not None:
                    found[ino] = names
                    if len(names) > _PIECE:
                        yield
            at = stop
            yield
        return found

    def _parse(self, run: bytes, at: int, count: int, seed: int) -> list[Raw] | None:
        """The entries of `count` blocks that begin at `at` of `run`; None when anything is wrong with them."""
        size, extend, form = self._size, self._extend, self._form
        found: list[Raw] = []
        for base in range(0, count * size, size):
            buf = run[at + base : at + base + size]
            end = size
            if extend is not None:
                end -= 12
                if (
                    buf[end : end + 8] != _TAIL
                    or (extend(seed, buf[:end]) ^ 0xFFFFFFFF).to_bytes(4, "little") != buf[end + 8 :]
                ):
                    return None
            entries, flaw = parse_names(buf, 0, end, base, form)
            if flaw is not None:
                return None
            found = found + entries if found else entries
        return found
