"""L1 and L2 tables: which bytes of the guest's disk stand where.

Specification: QEMU, docs/interop/qcow2, "Cluster mapping" and "Extended L2 Entries". Reserved bits of entries
are ignored, as QEMU ignores them; what QEMU reports as corruption is Corrupt here.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from guestkit.errors import Corrupt, GuestkitError, SourceError
from guestkit.image.qcow2.header import DATA_FILE, EXTENDED_L2, Header
from guestkit.limits import Limits
from guestkit.source import Extent, FileSource, Leaf, Source

OFFSET = 0x00FF_FFFF_FFFF_FE00
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
_ALL = 0xFFFF_FFFF  # the 32 subclusters of a cluster
_L1_PAGE_BITS = 12  # entries that are read and kept together
_L1_PAGE = 1 << _L1_PAGE_BITS

_ABSENT = 0  # kinds of a run: read from below,
_ZEROS = 1  # zeros,
_STORED = 2  # stands in the data file,
_PACKED = 3  # compressed


class Clusters(Source):
    """The guest's disk as one L1 table maps it: the active disk or a snapshot."""

    def __init__(
        self,
        source: Source,
        header: Header,
        limits: Limits,
        *,
        size: int,
        l1_table_offset: int,
        data: Source,
        backing: Source | None,
    ) -> None:
        """`source` holds the tables and compressed clusters, `data` the others; `backing` has what neither has.

        Raises: Corrupt when the L1 table lies outside the file.
        """
        self.size = size
        self.sector_size = 512
        self._source = source
        self._header = header
        self._cache = limits.cache
        self._token = limits.token()
        self._l1_offset = l1_table_offset
        self._l1_size = header.l1_needed(size)
        self._data = data
        self._file = data if isinstance(data, FileSource) and data.dense else None
        self._backing = backing
        self._bits = header.cluster_bits
        self._span_bits = header.cluster_bits + header.l2_bits
        self._extended = bool(header.incompatible & EXTENDED_L2)
        self._external = bool(header.incompatible & DATA_FILE)
        self.packed: Leaf | None = None  # what inflates the compressed clusters, by the guest's offsets
        if l1_table_offset + self._l1_size * 8 > source.size:
            raise Corrupt("qcow2 L1 table", "offset", found=l1_table_offset, expected="within the file")

    # tables

    def _l1_page(self, page: int) -> array[int]:
        """One page of the L1 table; empty when all its entries are zero."""
        key = (self._token, -1 - page)
        kept: array[int] | None = self._cache.get(key)
        if kept is None:
            first = page << _L1_PAGE_BITS
            data = self._source.read(self._l1_offset + first * 8, min(_L1_PAGE, self._l1_size - first) * 8)
            kept = _entries(data if data != bytes(len(data)) else b"")
            self._cache.put(key, kept, len(kept) * 8 + 200)
        return kept

    def _table(self, index: int) -> array[int] | None:
        """The L2 table that L1 entry `index` names; None when it names none."""
        page = self._l1_page(index >> _L1_PAGE_BITS)
        offset = page[index & _L1_PAGE - 1] & OFFSET if page else 0
        if not offset:
            return None
        key = (self._token, offset)
        table: array[int] | None = self._cache.get(key)
        if table is None:
            if offset & (1 << self._bits) - 1:
                raise Corrupt(
                    f"qcow2 L1 entry {index}", "offset", found=offset, expected="a multiple of the cluster size"
                )
            if offset + (1 << self._bits) > self._source.size:
                raise SourceError(f"qcow2 L2 table at {offset} lies beyond the end of the file: truncated image")
            table = _entries(self._source.read(offset, 1 << self._bits))
            self._cache.put(key, table, len(table) * 8 + 200)
        return table

    def _skip(self, index: int, last: int) -> int:
        """The first of the L1 entries index .. last that names a table, or last + 1."""
        while index <= last:
            page = self._l1_page(index >> _L1_PAGE_BITS)
            stop = min(last, index | _L1_PAGE - 1) + 1
            if page:
                start = index & _L1_PAGE - 1
                for at, entry in enumerate(page[start : start + stop - index]):
                    if entry & OFFSET:
                        return index + at
            index = stop
        return index

    def entry(self, cluster: int) -> int:
        """The L2 entry of guest cluster `cluster`, 0 when there is none."""
        l2_bits = self._header.l2_bits
        table = self._table(cluster >> l2_bits)
        if table is None:
            return 0
        at = cluster & (1 << l2_bits) - 1
        return table[at << 1] if self._extended else table[at]

    # extents

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        end = offset + length
        runs = self._runs_extended if self._extended else self._runs
        while offset < end:
            index = offset >> self._span_bits
            table = self._table(index)
            if table is None:
                stop = min(end, self._skip(index + 1, (end - 1) >> self._span_bits) << self._span_bits)
                yield from self._below(offset, stop)
                offset = stop
                continue
            stop = min(end, (index + 1) << self._span_bits)
            for kind, upto, host in runs(table, index, offset, stop):
                if kind == _STORED:
                    if self._file is not None and host + upto - offset <= self._file.size:
                        yield Extent(offset, upto - offset, self._file, host)
                    else:
                        yield from self._stored(offset, upto, host)
                elif kind == _ABSENT:
                    yield from self._below(offset, upto)
                else:
                    yield Extent(offset, upto - offset, None if kind == _ZEROS else self.packed, offset)
                offset = upto

    def _below(self, offset: int, end: int) -> Iterator[Extent]:
        backing = self._backing
        if backing is not None and offset < backing.size:
            inside = min(end, backing.size)
            try:
                yield from backing.extents(offset, inside - offset)
            except GuestkitError as error:
                error.within("backing file")
                raise
            offset = inside
        if offset < end:
            yield Extent(offset, end - offset, None, 0)

    def _stored(self, offset: int, end: int, host: int) -> Iterator[Extent]:
        shift = offset - host
        inside = min(end - offset, max(0, self._data.size - host))
        if inside:
            for extent in self._data.extents(host, inside):
                yield Extent(extent.offset + shift, extent.length, extent.source, extent.source_offset)
        if offset + inside < end:
            raise SourceError(f"qcow2 cluster at {host + inside} lies beyond the end of the file: truncated image")

    def _runs(self, table: array[int], index: int, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(kind, end in the guest, place in the data file) of what one L2 table says of [offset, end)."""
        bits, size = self._bits, 1 << self._bits
        base = index << self._span_bits
        at = (offset - base) >> bits
        last = (end - 1 - base) >> bits
        marks = OFFSET | COMPRESSED | ZERO
        while at <= last:
            entry = table[at]
            begin = at
            at += 1
            host = entry & OFFSET
            if entry & COMPRESSED:
                kind = _PACKED
                if self._external:
                    raise Corrupt("qcow2 L2 entry: compressed, in an image with an external data file")
                while at <= last and table[at] & COMPRESSED:
                    at += 1
            elif entry & ZERO:
                kind = _ZEROS
                if self._header.version < 3:
                    raise Corrupt("qcow2 L2 entry", "zero flag", found=1, expected="0 in version 2")
                while at <= last and table[at] & (COMPRESSED | ZERO) == ZERO:
                    at += 1
            elif host or (self._external and entry & COPIED):
                kind = _STORED
                self._check_host(base + (begin << bits), host)
                host += size
                while at <= last and table[at] & marks == host:
                    at += 1
                    host += size
                host = (entry & OFFSET) + max(0, offset - base - (begin << bits))
            else:
                kind = _ABSENT
                if self._external:
                    marks |= COPIED
                while at <= last and not table[at] & marks:
                    at += 1
                marks = OFFSET | COMPRESSED | ZERO
            yield kind, min(end, base + (at << bits)), host

    def _check_host(self, guest: int, host: int) -> None:
        if host & (1 << self._bits) - 1:
            raise Corrupt("qcow2 L2 entry", "offset", found=host, expected="a multiple of the cluster size")
        if self._external and host != guest:
            raise Corrupt("qcow2 L2 entry", "offset in the external data file", found=host, expected=guest)

    def _runs_extended(self, table: array[int], index: int, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """As _runs, with 32 subclusters to a cluster; neighbours that go together are joined."""
        begin, shift = offset, 0  # of the run that is being gathered; shift: place - guest offset
        kind = -1
        for now, start, here in self._pieces(table, index, offset, end):
            if now != kind or (now == _STORED and here != shift):
                if kind >= 0:
                    yield kind, start, begin + shift
                kind, begin, shift = now, max(start, offset), here
        if kind >= 0:
            yield kind, end, begin + shift

    def _pieces(self, table: array[int], index: int, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(kind, start, place - guest offset) of every piece of a cluster in [offset, end)."""
        bits = self._bits
        base = index << self._span_bits
        sub_bits = bits - 5
        for at in range((offset - base) >> bits, ((end - 1 - base) >> bits) + 1):
            entry, bitmap = table[at << 1], table[at << 1 | 1]
            guest = base + (at << bits)
            if entry & COMPRESSED:
                if self._external:
                    raise Corrupt("qcow2 L2 entry: compressed, in an image with an external data file")
                yield _PACKED, guest, 0
                continue
            host = entry & OFFSET
            stored, zeros = bitmap & _ALL, bitmap >> 32
            if stored & zeros:
                raise Corrupt("qcow2 L2 entry", "subclusters both allocated and zero", found=stored & zeros)
            if host or (self._external and entry & COPIED):
                self._check_host(guest, host)
            elif stored:
                raise Corrupt("qcow2 L2 entry", "subclusters allocated in no cluster", found=stored)
            shift = host - guest
            if stored == _ALL:
                yield _STORED, guest, shift
                continue
            sub = max(0, offset - guest) >> sub_bits
            stop = (min(end - guest, 1 << bits) - 1 >> sub_bits) + 1
            while sub < stop:
                left, clear = stored >> sub, zeros >> sub
                if left & 1:
                    kind, same = _STORED, ~left
                elif clear & 1:
                    kind, same = _ZEROS, ~clear
                else:
                    kind, same = _ABSENT, left | clear | 1 << 32 - sub
                yield kind, guest + (sub << sub_bits), shift if kind == _STORED else 0
                sub += (same & -same).bit_length() - 1


def _entries(data: bytes) -> array[int]:
    table = array("Q")
    table.frombytes(data)
    if sys.byteorder == "little":
        table.byteswap()
    return table
