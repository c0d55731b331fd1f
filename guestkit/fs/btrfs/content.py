"""What a file holds, as a Source: extents by map, and windows of it that are decompressed.

Uncompressed data with checksums goes through one leaf by logical address; without, it stands in host files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestkit.decoded import Decoded
from guestkit.errors import Corrupt, GuestkitError
from guestkit.fs.btrfs.assembly import Trees
from guestkit.fs.btrfs.compression import LZO, MOST, decompress
from guestkit.fs.btrfs.data import Unverified, Verified
from guestkit.fs.btrfs.extents import ExtentMap, FileExtent
from guestkit.limits import Limits
from guestkit.source import BytesSource, Extent, Leaf, Source


class Data:
    """What all files of one filesystem read through."""

    def __init__(self, trees: Trees, limits: Limits) -> None:
        self.verified = Verified(trees)
        self.unverified = Unverified(trees)
        self.sector = trees.pool.superblock.sector_size
        self.limits = limits


class BtrfsFile(Source):
    """A file's bytes: each extent where the map says, zeros where it says nothing."""

    __slots__ = ("_data", "_decoded", "_map", "_sums", "_where", "size")

    def __init__(self, data: Data, map: ExtentMap, number: int, size: int, sums: bool) -> None:
        """`sums`: whether the file's data has checksums."""
        self._data = data
        self._map = map
        self._where = f"inode {number}"
        self._sums = sums
        self._decoded: dict[int, Decompressed] = {}  # by how far its windows begin before those of the file
        self.size = size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if not length:
            return
        end = offset + length
        at = offset
        try:
            for extent in self._map.extents(offset, end):
                begin = max(extent.start, offset)
                if begin > at:
                    yield Extent(at, begin - at, None, 0)
                at = min(extent.start + extent.length, end)
                yield from self._extent(extent, begin, at - begin)
            if at < end:
                yield Extent(at, end - at, None, 0)
        except GuestkitError as error:
            error.within(self._where)
            raise

    def _extent(self, extent: FileExtent, begin: int, length: int) -> Iterator[Extent]:
        if extent.inline is not None or extent.method:
            lead = window_lead(extent)
            decoded = self._decoded.get(lead)
            if decoded is None:
                # LZO's pieces are too short for threads: they would make a reader slower
                made = Decompressed(
                    self._data, self._map, self.size, self._sums, self._where, lead, in_threads=extent.method != LZO
                )
                decoded = self._decoded.setdefault(lead, made)
            yield Extent(begin, length, decoded, begin + lead)
        elif not extent.address:
            yield Extent(begin, length, None, 0)
        else:
            place = extent.address + extent.skip + begin - extent.start
            if self._sums:
                yield Extent(begin, length, self._data.verified, place)
                return
            shift = place - begin
            for at, take, leaf, leaf_offset in self._data.unverified.places(place, length):
                yield Extent(at - shift, take, leaf, leaf_offset)


def window_lead(extent: FileExtent) -> int:
    """How many bytes before a multiple of MOST the windows begin of which this extent fills one.

    Extents are as long as they can be, but begin wherever it was that the file was written on: were the windows at
    multiples of MOST, each extent would be wanted for two of them. Shorter ones are left in the windows there.
    """
    return (extent.skip - extent.start) % MOST if extent.whole == MOST and extent.inline is None else 0


class Decompressed(Decoded):
    """The compressed and inline parts of one file that have one `lead`, in windows as long as an extent can be.

    Its byte `lead` is the file's first. What stands elsewhere reads as zeros here, and nobody asks for it.
    """

    batch_bytes = 1 << 21  # all of one file, and likely to be wanted

    def __init__(
        self, data: Data, map: ExtentMap, size: int, sums: bool, where: str, lead: int, *, in_threads: bool
    ) -> None:
        super().__init__(size + lead, MOST, data.limits, in_threads=in_threads)
        self._map = map
        self._input: Leaf = data.verified if sums else data.unverified
        self._sector = data.sector
        self._where = where
        self._lead = lead

    def decode(self, index: int) -> bytes:
        start = index * MOST - self._lead
        end = min(start + MOST, self.size - self._lead)
        made: bytearray | None = None
        try:
            for extent in self._map.extents(max(0, start), end):
                if (extent.inline is None and not extent.method) or window_lead(extent) != self._lead:
                    continue
                low, high = max(extent.start, start), min(extent.start + extent.length, end)
                content = self._content(extent, low <= extent.start and high == extent.start + extent.length)
                skip = extent.skip + low - extent.start
                piece = content if high - low == len(content) else content[skip : skip + high - low]
                if len(piece) == end - start:
                    return piece
                if made is None:
                    made = bytearray(end - start)
                made[low - start : high - start] = piece
        except GuestkitError as error:
            error.within(self._where)
            raise
        return bytes(end - start) if made is None else bytes(made)

    def decode_some(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """As Decoded's; of windows that one extent fills each, those that lie behind one another are read at once."""
        begin, end = indices[0] * MOST - self._lead, (indices[-1] + 1) * MOST - self._lead
        alone: list[int] = []
        try:
            filling = {
                (extent.start + self._lead) // MOST: extent
                for extent in self._map.extents(max(0, begin), min(end, self.size - self._lead))
                if extent.method and extent.inline is None and extent.length == MOST
                if window_lead(extent) == self._lead
            }
        except GuestkitError:  # whoever reads what it is about is told
            filling = {}
        run: list[tuple[int, FileExtent]] = []
        for index in indices:
            extent = filling.get(index)
            if extent is None:
                alone.append(index)
                continue
            if run and extent.address != run[-1][1].address + run[-1][1].size:
                yield from self._unpacked(run)
                run = []
            run.append((index, extent))
        if run:
            yield from self._unpacked(run)
        if alone:
            yield from super().decode_some(alone)

    def _unpacked(self, run: list[tuple[int, FileExtent]]) -> Iterator[tuple[int, bytes]]:
        """The windows of extents that lie behind one another."""
        start, (_, last) = run[0][1].address, run[-1]
        try:
            data = self._input.read(start, last.address + last.size - start)
        except GuestkitError:  # one of them is damaged
            yield from super().decode_some([index for index, _ in run])
            return
        for index, extent in run:
            at = extent.address - start
            try:
                yield index, decompress(extent.method, data[at : at + extent.size], MOST, self._sector)
            except GuestkitError:  # whoever reads that window is told
                continue

    def _content(self, extent: FileExtent, once: bool) -> bytes:
        """All bytes of an extent, kept for the next window unless this one wants them `once`."""
        if extent.inline is not None:
            return inline_content(extent, self._sector)
        key = (self._token, "x", extent.address, extent.size, extent.whole, extent.method)
        content: bytes | None = None if once else self._cache.get(key)
        if content is None:
            data = self._input.read(extent.address, extent.size)
            try:
                content = decompress(extent.method, data, extent.whole, self._sector)
            except Corrupt as error:
                error.within(f"extent at logical address {extent.address}")
                raise
            if not once:
                self._cache.put(key, content, len(content) + 200)
        return content


def inline_content(extent: FileExtent, sector: int) -> bytes:
    """The bytes of an inline extent. Raises: Corrupt, Unsupported."""
    assert extent.inline is not None
    if not extent.method:
        return extent.inline[: extent.length]
    return decompress(extent.method, extent.inline, extent.length, sector, inline=True)


def small_file(data: Data, extent: FileExtent, size: int) -> Source:
    """A file of which all stands inline. Raises: Corrupt, Unsupported."""
    return BytesSource(inline_content(extent, data.sector)[:size].ljust(size, b"\0"))
