"""Attributes compressed by LZNT1: units of clusters that are holes, stored as they are, or decoded.

Spec: libfsntfs documentation, "Compressed data"; MS-XCA, section 2.5. A unit with a cluster of hole at its end is
compressed into the clusters before it; one without holes is stored; one of holes alone is zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestkit.decoded import Decoded
from guestkit.errors import Corrupt
from guestkit.fs.ntfs.record import Piece
from guestkit.fs.ntfs.runs import Run, RunMap
from guestkit.fs.ntfs.volume import Volume
from guestkit.source import Extent, Source

_MOST_UNIT = 1 << 20  # bytes: 16 clusters of 64 KiB


class _Units(Decoded):
    """The compressed units of one attribute; only those are ever asked for."""

    def __init__(self, volume: Volume, map: RunMap, unit: int, size: int, where: str) -> None:
        super().__init__(size, unit, volume.limits)
        self._volume = volume
        self.map = map
        self._where = where

    def unit_runs(self, index: int) -> list[Run]:
        """The runs of unit `index`, neighbours apart."""
        clusters = self.unit // self._volume.cluster
        first = index * clusters
        return list(self.map.runs(first, min(first + clusters, self.map.end)))

    def wanted(self, index: int) -> bool:
        try:
            return _is_compressed(self.unit_runs(index))
        except Corrupt:
            return False

    def decode(self, index: int) -> bytes:
        from guestkit.codec.lznt1 import decompress

        cluster = self._volume.cluster
        parts = []
        ended = False
        try:
            for _, lcn, count in self.unit_runs(index):
                if lcn < 0:
                    ended = True
                elif ended:
                    raise Corrupt("compression unit", "runs", found="data behind a hole")
                else:
                    parts.append(self._volume.device.read(lcn * cluster, count * cluster))
            data = decompress(b"".join(parts), self.unit)
        except Corrupt as error:
            error.within(self._where, f"compression unit {index}")
            raise
        length = min(self.unit, self.size - index * self.unit)
        return data[:length] if len(data) >= length else data + bytes(length - len(data))


def _is_compressed(runs: list[Run]) -> bool:
    holes = sum(1 for run in runs if run[1] < 0)
    return 0 < holes < len(runs)


class Compressed(Source):
    """A compressed attribute; behind the initialised size all is zeros."""

    __slots__ = ("_initialized", "_units", "_volume", "_where", "size")

    def __init__(self, volume: Volume, units: _Units, size: int, where: str) -> None:
        self._volume = volume
        self._units = units
        self._initialized = units.size
        self._where = where
        self.size = size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        end = offset + length
        stop = min(end, self._initialized)
        units = self._units
        cluster = self._volume.cluster
        device = self._volume.device
        per = units.unit // cluster
        while offset < stop:
            index = offset // units.unit
            try:
                first = next(units.map.runs(index * per, units.map.end))
                # units that are holes, or stored, in one run are told together
                runs = [first] if first[2] >= per else units.unit_runs(index)
            except Corrupt as error:
                error.within(self._where)
                raise
            high = min(stop, (index + max(1, first[2] // per)) * units.unit)
            if _is_compressed(runs):
                yield Extent(offset, high - offset, units, offset)
            else:
                for vcn, lcn, count in runs:
                    low = max(offset, vcn * cluster)
                    top = min(high, (vcn + count) * cluster)
                    if low >= top:
                        continue
                    if lcn < 0:
                        yield Extent(low, top - low, None, 0)
                        continue
                    shift = (lcn - vcn) * cluster
                    for at, take, leaf, place in device.extents(low + shift, top - low):
                        yield Extent(at - shift, take, leaf, place)
            offset = high
        if offset < end:
            yield Extent(offset, end - offset, None, 0)


def compressed_source(volume: Volume, map: RunMap, first: Piece, where: str) -> Source:
    """Return the bytes of a compressed attribute whose first piece is `first`. Raises: Corrupt."""
    unit = volume.cluster << first.unit if 0 < first.unit <= 16 else 0
    if not 0 < unit <= _MOST_UNIT:
        raise Corrupt("attribute", "compression_unit", found=first.unit, expected="1 to 16", where=where)
    if map.end * volume.cluster < first.initialized:
        raise Corrupt("attribute", "highest_vcn", found=map.end - 1, where=where)
    return Compressed(volume, _Units(volume, map, unit, first.initialized, where), first.size, where)
