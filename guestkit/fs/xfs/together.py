"""Small directories listed many at a time: their blocks read in runs, no object made for each of them.

Only what is plain is listed here: directories that stand in their inode or in one block, whole in every byte.
Everything else is left to Directories, which looks with care and tells what is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence

from guestkit.errors import Corrupt, GuestkitError
from guestkit.fs.xfs.blocks import Blocks
from guestkit.fs.xfs.columns import NREXT64_2
from guestkit.fs.xfs.dirdata import Raw, directory_format, parse_names, parse_short, verify_data
from guestkit.fs.xfs.inode import CORES, EXTENTS, LOCAL, InodeTable

_MOST_BYTES = 1 << 14  # of a directory's block
_GAP_BYTES = 1 << 14  # not asked for that are read along rather than starting another read
_RUN_BYTES = 1 << 18  # that one read takes at most
_PIECE = 16  # entries

_extents = struct.Struct(">Q44xI2xB").unpack_from  # from 24 on: the two counts of extents, and where the next fork is
_extent = struct.Struct(">QQ").unpack_from


class Together:
    """Lists the plain ones among directories."""

    def __init__(self, blocks: Blocks, table: InodeTable) -> None:
        sup = blocks.superblock
        self._blocks = blocks
        self._table = table
        self._form = directory_format(sup)
        self._size = sup.dir_block_size
        self._count = sup.dir_block_blocks
        self._gap = _GAP_BYTES >> sup.block_log
        self._run = _RUN_BYTES >> sup.block_log
        self._blocks_too = self._size <= _MOST_BYTES

    def entries(self, inos: Sequence[int]) -> Generator[None, None, dict[int, list[Raw]]]:
        """The entries of those directories among `inos` that are plain; nothing of the others. Pauses now and then."""
        found: dict[int, list[Raw]] = {}
        wanted: list[tuple[int, int]] = []  # block, inode
        form, record, count = self._form, self._table.record, self._count
        met = 0
        for ino in inos:
            try:
                raw, status = record(ino)
            except GuestkitError:  # whoever lists it with care is told
                continue
            size = status[6]
            core = CORES[raw[4] == 3]
            large, extents, fork = _extents(raw, 24)
            end = core + 8 * fork if fork else len(raw)
            if status[1] & 0xF000 != 0x4000 or end > len(raw):
                continue
            if raw[5] == LOCAL:
                if size > end - core:
                    continue
                entries, flaw = parse_short(raw[core : core + size], form)
                if flaw is None:
                    found[ino] = entries
                    met += len(entries)
                    if met >= _PIECE:
                        met = 0
                        yield
            elif raw[5] == EXTENTS and size == self._size and self._blocks_too and core + 16 <= end:
                if raw[4] == 3 and raw[127] & NREXT64_2:
                    extents = large
                high, low = _extent(raw, core)
                # one extent, written, that begins the directory and is all of it: there is no index apart
                if extents == 1 and status[8] and not high >> 9 and low & 0x1FFFFF == count:
                    try:
                        wanted.append((self._blocks.number(high << 43 | low >> 21, count), ino))
                    except Corrupt:
                        continue
        wanted.sort()
        at = 0
        while at < len(wanted):
            first = end = wanted[at][0]
            stop = at
            while stop < len(wanted) and wanted[stop][0] <= end + self._gap and wanted[stop][0] - first < self._run:
                end = max(end, wanted[stop][0] + count)
                stop += 1
            try:
                run = self._blocks.read(first, end - first)
            except GuestkitError:
                run = b""
            for block, ino in wanted[at:stop] if run else ():
                names = self._parse(run, (block - first) * self._blocks.block_size, block, ino)
                if names is not None:
                    found[ino] = names
                    if len(names) > _PIECE:
                        yield
            at = stop
            yield
        return found

    def _parse(self, run: bytes, at: int, block: int, ino: int) -> list[Raw] | None:
        """The entries of the block that begins at `at` of `run`; None when anything is wrong with it."""
        buf = run[at : at + self._size]
        try:
            verify_data(buf, block, ino, self._blocks, True)
        except Corrupt:
            return None
        entries, flaw = parse_names(buf, 0, self._form, True)
        return entries if flaw is None else None
