"""Cluster chains: files whose clusters are linked through a file allocation table (FAT12, FAT16, FAT32, exFAT).

Owns the table, read window by window, the following of chains run by run, and the Source of a chained file. A window
is compared as one large number with "each cluster is followed by the next", so that a run costs a search and not a
step a cluster.

Spec: Microsoft fatgen103, "FAT Data Structure"; exFAT specification, section 4.1. What the entries 0 and 1 say of the
volume belongs to the readers.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from threading import Lock

from guestkit.errors import Corrupt, GuestkitError, Unsupported
from guestkit.limits import Limits
from guestkit.mapped import Contiguous, mapped
from guestkit.source import Extent, Source

FIRST = 2  # the number of the first cluster
_PER = 1 << 14  # entries a window
_MOST_PIECES = 1 << 23  # that one chain may have; more than a file of 4 GiB in clusters of 512 bytes
_MOST_PIECES_WIDE = 1 << 20  # the same on volumes with more clusters than FAT32 can have
_FEW = 1 << 16  # ends of runs that are kept one by one
_MOST_TRIED = 4096  # clusters that contiguous() looks at
_GAP = 1 << 14  # bytes between two places that are read rather than skipped
_RUN = 1 << 17  # bytes that one read takes, about
_ENTRY = struct.Struct("<I")
_BREAK = re.compile(rb"[^\0]").search

Run = tuple[int, int, int]  # number in the file, cluster, count
Window = tuple["array[int]", bytes]


@cache
def _ramp() -> tuple[int, int]:
    """(1, 2, 3, ... and 1, 1, 1, ...) as little-endian lanes of 32 bits, one an entry of a window."""
    ramp = b"".join((number + 1).to_bytes(4, "little") for number in range(_PER))
    return int.from_bytes(ramp, "little"), int.from_bytes(b"\1\0\0\0" * _PER, "little")


class Chains:
    """The table at byte `offset` of `device`; its entries 2 to `clusters` + 1 are clusters. Several threads may ask.

    `bits`: 12, 16, 28 (FAT32, whose upper four bits mean nothing) or 32 (exFAT).
    """

    __slots__ = ("_cache", "_device", "_offset", "_token", "bad", "bits", "end", "most_pieces")

    def __init__(self, device: Source, offset: int, bits: int, clusters: int, limits: Limits) -> None:
        self._device = device
        self._offset = offset
        self._cache = limits.cache
        self._token = limits.token()
        self.bits = bits
        self.end = clusters + FIRST
        self.bad = (1 << bits) - 9
        self.most_pieces = _MOST_PIECES if self.end <= 1 << 28 else _MOST_PIECES_WIDE

    def valid(self, cluster: int) -> bool:
        return FIRST <= cluster < self.end

    def entry(self, cluster: int) -> int:
        """Return what stands in the table for a valid cluster, or for 0 and 1. Raises: SourceError."""
        return self._window(cluster // _PER)[0][cluster % _PER]

    def _raw(self, index: int) -> tuple[bytes, int]:
        """(bytes, number of entries) of a window."""
        first = index * _PER
        count = min(_PER, self.end - first)
        width = 32 if self.bits == 28 else self.bits
        return self._device.read(self._offset + first * width // 8, (count * width + 7) // 8), count

    def _window(self, index: int) -> Window:
        """The entries of a window, and bytes that are not zero where an entry is not its own number and one."""
        key = (self._token, index)
        known: Window | None = self._cache.get(key)
        if known is not None:
            return known
        raw, count = self._raw(index)
        if self.bits == 12:
            # three bytes hold two entries
            padded = raw + bytes(-len(raw) % 3)
            values: array[int] = array("I")
            for at in range(0, len(padded), 3):
                pair = int.from_bytes(padded[at : at + 3], "little")
                values.append(pair & 0xFFF)
                values.append(pair >> 12)
            raw = _little(values[:count])
        elif self.bits == 16:
            narrow = array("H", raw)
            if sys.byteorder == "big":
                narrow.byteswap()
            raw = _little(array("I", narrow))
        ramp, ones = _ramp()
        number = int.from_bytes(raw, "little")
        if self.bits == 28:
            number &= ones * 0x0FFFFFFF
        values = array("I", number.to_bytes(4 * _PER, "little")[: 4 * count])
        if sys.byteorder == "big":
            values.byteswap()
        breaks = (number ^ ramp + ones * (index * _PER)).to_bytes(4 * _PER + 4, "little")[: 4 * count]
        known = values, breaks
        self._cache.put(key, known, 8 * _PER + 200)
        return known

    def run(self, cluster: int) -> tuple[int, int]:
        """(count, entry of the last): how many clusters follow each other from a valid `cluster`, within a window."""
        index, at = divmod(cluster, _PER)
        values, breaks = self._window(index)
        found = _BREAK(breaks, 4 * at)
        last = found.start() // 4 if found else len(values) - 1
        return last - at + 1, values[last]

    def ends(self, entry: int) -> bool:
        """Whether an entry marks the last cluster of a chain."""
        return entry > self.bad

    def free(self) -> int:
        """Count the free clusters in the whole table. Raises: SourceError."""
        mask = 0x0FFFFFFF if self.bits == 28 else 0xFFFFFFFF
        total = -sum(not self.entry(number) & mask for number in range(FIRST))  # these are no clusters
        for index in range(-(-self.end // _PER)):
            if self.bits < 28:
                total += self._window(index)[0].count(0)
                continue
            raw, count = self._raw(index)  # not kept: it would push everything else out
            if raw.count(0) == len(raw):
                total += count
            elif self.bits == 28 and any(raw[3::4].count(high << 4) for high in range(1, 16)):
                total += sum(not value & mask for (value,) in _ENTRY.iter_unpack(raw))
            else:
                total += array("I", raw).count(0)
        return total


def _little(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array("I", values)
        values.byteswap()
    return values.tobytes()


class Chain:
    """One chain, followed as far as somebody asked. Several threads may ask."""

    __slots__ = ("_ended", "_ends", "_lock", "_map", "_next", "_pieces", "clusters", "length", "starts", "table")

    def __init__(self, table: Chains, first: int) -> None:
        self.table = table
        self.starts: array[int] = array("Q")  # number in the file of each run's first cluster
        self.clusters: array[int] = array("Q")
        self.length = 0  # clusters that are known
        self._next = first
        self._ended = False
        self._pieces = 0
        # the last cluster of each run: whoever comes to a cluster again comes to the end of its run again
        self._ends: set[int] = set()
        self._map: bytearray | None = None
        self._lock = Lock()

    @classmethod
    def contiguous(cls, table: Chains, first: int, count: int) -> Chain:
        """`count` clusters from `first` that the table does not tell. Raises: Corrupt when they are not all there."""
        if not table.valid(first) or count > table.end - first:
            raise Corrupt("contiguous clusters", found=f"{count} from {first}", expected=f"below {table.end}")
        chain = cls(table, first)
        chain.starts.append(0)
        chain.clusters.append(first)
        chain.length = count
        chain._ended = True
        return chain

    @property
    def held(self) -> int:
        """Bytes of memory, about."""
        return 16 * len(self.starts) + 100 * len(self._ends) + (0 if self._map is None else len(self._map))

    def extend(self, count: int) -> None:
        """Follow until `count` clusters are known. Raises: Corrupt when the chain breaks before, SourceError."""
        if count > self.length:
            with self._lock:
                while self.length < count:
                    if self._ended:
                        raise Corrupt("cluster chain", "length", found=self.length, expected=f"at least {count}")
                    self._step()

    def follow(self, most: int) -> None:
        """Follow to the end. Raises: Corrupt when it breaks, or is longer than `most` clusters; SourceError."""
        with self._lock:
            while not self._ended:
                if self.length > most:
                    raise Corrupt("cluster chain", "length", found=self.length, expected=f"at most {most}")
                self._step()
        if self.length > most:
            raise Corrupt("cluster chain", "length", found=self.length, expected=f"at most {most}")

    def _step(self) -> None:
        table = self.table
        cluster = self._next
        if not table.valid(cluster):
            what = (
                "bad cluster" if cluster == table.bad else "free cluster" if not cluster and self.length else "cluster"
            )
            raise Corrupt(f"cluster chain after {self.length}", what, found=cluster, expected=f"2 to {table.end - 1}")
        count, value = table.run(cluster)
        last = cluster + count - 1
        if self._met(last):
            raise Corrupt("cluster chain", f"loop after {self.length} clusters at cluster {cluster}")
        if self._pieces >= table.most_pieces:
            raise Unsupported(f"a cluster chain in more than {table.most_pieces} pieces")
        if not self.starts or self.clusters[-1] + self.length - self.starts[-1] != cluster:
            self.starts.append(self.length)
            self.clusters.append(cluster)
        self._pieces += 1
        if self._map is not None:
            self._map[last >> 3] |= 1 << (last & 7)
        else:
            self._ends.add(last)
            if len(self._ends) > _FEW and table.end <= 1 << 28:
                self._map = bytearray((table.end >> 3) + 1)
                for end in self._ends:
                    self._map[end >> 3] |= 1 << (end & 7)
                self._ends = set()
        self.length += count
        if table.ends(value):
            self._ended = True
        self._next = value

    def _met(self, last: int) -> bool:
        if self._map is not None:
            return bool(self._map[last >> 3] >> (last & 7) & 1)
        return last in self._ends

    def runs(self, first: int, stop: int) -> Iterator[Run]:
        """Yield the known runs that cover the file's clusters `first` to `stop` - 1."""
        stop = min(stop, self.length)
        index = max(0, bisect_right(self.starts, first) - 1)
        while first < stop and index < len(self.starts):
            start = self.starts[index]
            end = self.starts[index + 1] if index + 1 < len(self.starts) else self.length
            take = min(end, stop) - first
            yield first, self.clusters[index] + first - start, take
            first += take
            index += 1


class Heap:
    """The clusters themselves: `size` bytes each, the first (number 2) at byte `start` of `device`."""

    __slots__ = ("device", "size", "start")

    def __init__(self, device: Source, start: int, size: int) -> None:
        self.device = device
        self.start = start
        self.size = size

    def place(self, cluster: int) -> int:
        """The byte at which a cluster begins."""
        return self.start + (cluster - FIRST) * self.size

    def together(self, wanted: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (key, place, bytes) for each of `wanted`, (place, length, key); neighbours are read at once.

        What cannot be read is left out.
        """
        ordered = sorted(wanted)
        at = 0
        while at < len(ordered):
            first, length, _ = ordered[at]
            end = first + length
            stop = at + 1
            while stop < len(ordered) and ordered[stop][0] <= end + _GAP and ordered[stop][0] - first < _RUN:
                end = max(end, ordered[stop][0] + ordered[stop][1])
                stop += 1
            try:
                run = self.device.read(first, end - first)
            except GuestkitError:  # one by one, so that only those are left out that cannot be read
                run = b""
            for place, length, key in ordered[at:stop]:
                if run:
                    yield key, place, run[place - first : place - first + length]
                    continue
                try:
                    yield key, place, self.device.read(place, length)
                except GuestkitError:
                    continue
            at = stop


class ChainedFile(Source):
    """`size` bytes in the clusters of `chain`. What the chain does not reach raises Corrupt."""

    __slots__ = ("_chain", "_heap", "_where", "size")

    def __init__(self, heap: Heap, chain: Chain, size: int, where: str) -> None:
        self._heap = heap
        self._chain = chain
        self._where = where
        self.size = size

    @property
    def held(self) -> int:
        return self._chain.held

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if not length:
            return
        heap, chain = self._heap, self._chain
        size = heap.size
        end = offset + length
        stop = -(-end // size)
        flaw: Corrupt | None = None
        try:
            chain.extend(stop)
        except Corrupt as error:
            flaw = error.within(self._where)
        yield from mapped(
            heap.device, chain.runs(offset // size, stop), size, offset, end, data=FIRST, base=heap.place(0)
        )
        if flaw is not None:
            raise flaw


def content(heap: Heap, chain: Chain, size: int, where: str) -> Source:
    """Return the Source of a file of `size` bytes, more than none, in the simplest form."""
    clusters = -(-size // heap.size)
    if clusters <= _MOST_TRIED:
        try:
            chain.extend(clusters)
        except Corrupt:  # raised again by the reads that it concerns
            pass
        if chain.length >= clusters and (len(chain.starts) == 1 or chain.starts[1] >= clusters):
            return Contiguous(heap.device, heap.place(chain.clusters[0]), size)
    return ChainedFile(heap, chain, size, where)
