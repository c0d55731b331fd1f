"""Files as filesystems map them: runs of blocks or clusters of a device, as the extents of a Source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guestkit.source import Extent, Leaf, Source


def mapped(
    device: Source, runs: Iterable[tuple[int, int, int]], unit: int, offset: int, end: int, *, data: int, base: int = 0
) -> Iterator[Extent]:
    """Yield the extents of bytes [offset, end) of a file of which `runs` tell the place.

    A run is (number in the file, number on the device, count) in units of `unit` bytes; together they tile the
    units from that of `offset` to that of `end`. A number on the device below `data` means a hole; unit 0 of the
    device stands at byte `base` of `device`.
    """
    for number, place, count in runs:
        low = number * unit
        high = low + count * unit
        if low < offset:
            low = offset
        if high > end:
            high = end
        if place < data:
            yield Extent(low, high - low, None, 0)
            continue
        shift = base + (place - number) * unit
        for at, take, leaf, leaf_offset in device.extents(low + shift, high - low):
            yield Extent(at - shift, take, leaf, leaf_offset)


class Contiguous(Leaf):
    """A file in one run: its bytes are `size` of the device's at `start`, so there is nothing to resolve."""

    __slots__ = ("_device", "_start", "size")

    def __init__(self, device: Source, start: int, size: int) -> None:
        self._device = device
        self._start = start
        self.size = size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        start = self._start
        for at, take, leaf, place in self._device.extents(start + offset, length) if length else ():
            yield Extent(at - start, take, leaf, place)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        self._device.read_into(self._start + offset, buf)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            self.check(offset, length)
        return self._device.read(self._start + offset, length)
