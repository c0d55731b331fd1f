"""Data by logical address: verified against the checksum tree, or as it stands where a file keeps no checksums.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "EXTENT_CSUM". A sector whose copy is bad is taken from the
next copy, or made again from the rest of its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from struct import Struct, unpack

from guestkit.checksum import crc32c_extend
from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.btrfs.assembly import CSUM_TREE, Trees
from guestkit.fs.btrfs.chunks import Chunk, Piece
from guestkit.source import Extent, Leaf, Source

_CSUM_OBJECT = (1 << 64) - 10
_CSUM_ITEM = 128
_STEP = 1 << 18  # bytes that are read and verified at once: what stays in the processor's cache ...
_RUN = 1 << 20  # ... and where they would have to be joined
_EVERYTHING = 1 << 64


class Verified(Leaf):
    """All data of the filesystem by logical address; each sector that is read has its checksum verified."""

    def __init__(self, trees: Trees) -> None:
        self.size = _EVERYTHING
        self._trees = trees
        self._pool = trees.pool
        self._sector = trees.pool.superblock.sector_size
        self._width = trees.pool.csum.size
        self._differing = _comparison(trees.pool.csum.name, trees.pool.csum.digest, self._sector)
        self._last = (0, 0, b"")  # the checksums used last: first address, end, bytes

    def read(self, offset: int, length: int) -> bytes:
        sector = self._sector
        start = offset // sector * sector
        end = -(-(offset + length) // sector) * sector
        parts = []
        at = start
        while at < end:
            part = self._sectors(at, min(end - at, _RUN))
            at += len(part)
            parts.append(part)
        made = parts[0] if len(parts) == 1 else b"".join(parts)
        return made if len(made) == length else made[offset - start : offset - start + length]

    def read_into(self, offset: int, buf: memoryview) -> None:
        done, length = 0, len(buf)
        sector = self._sector
        while done < length:
            inside = (offset + done) % sector
            left = length - done
            if not inside and (left >= _STEP or not left % sector):
                done += self._sectors_into(offset + done, buf[done : done + _STEP])
                continue
            part = self._sectors(offset + done - inside, min(-(-(inside + left) // sector) * sector, _STEP))
            take = min(len(part) - inside, left)
            buf[done : done + take] = part if take == len(part) else memoryview(part)[inside : inside + take]
            done += take

    def _sectors(self, start: int, length: int) -> bytes:
        """Return whole sectors, verified: `length` bytes, or less where a chunk ends. Raises: Corrupt, SourceError."""
        chunk = self._pool.chunk(start)
        length = min(length, chunk.end - start)
        sums = self._sums(start, length)
        try:
            data = self._pool.read(chunk, start, length)
        except GuestkitError:  # a copy is not there
            return self._one_by_one(chunk, start, length, sums)
        bad = self._differing(data, sums)
        if not bad:
            return data
        fixed = bytearray(data)
        self._mend(chunk, start, memoryview(fixed), sums, bad)
        return bytes(fixed)

    def _sectors_into(self, start: int, buf: memoryview) -> int:
        """As _sectors(), into the begin of `buf`; return how many bytes."""
        chunk = self._pool.chunk(start)
        length = min(len(buf), chunk.end - start)
        buf = buf[:length]
        sums = self._sums(start, length)
        try:
            self._pool.read_into(chunk, start, buf)
        except GuestkitError:  # a copy is not there
            buf[:] = self._one_by_one(chunk, start, length, sums)
            return length
        bad = self._differing(buf, sums)
        if bad:
            self._mend(chunk, start, buf, sums, bad)
        return length

    def _one_by_one(self, chunk: Chunk, start: int, length: int, sums: bytes) -> bytes:
        """Whole sectors, each from where it is."""
        return b"".join(
            self._repaired(chunk, at, sums[(at - start) // self._sector * self._width :][: self._width], 0)
            for at in range(start, start + length, self._sector)
        )

    def _mend(self, chunk: Chunk, start: int, data: memoryview, sums: bytes, bad: list[int]) -> None:
        """Replace the sectors `bad` of `data` by what another copy has."""
        for index in bad:
            at = index * self._sector
            sum = sums[index * self._width : (index + 1) * self._width]
            data[at : at + self._sector] = self._repaired(chunk, start + at, sum, 1)

    def _repaired(self, chunk: Chunk, address: int, sum: bytes, first: int) -> bytes:
        """A sector from the first of the ways from `first` on that gives the right bytes."""
        flaw = Corrupt("data: bad checksum", where=f"logical address {address}")

        def check(data: bytes) -> GuestkitError | None:
            return flaw if self._differing(data, sum) else None

        if first >= self._pool.ways(chunk):
            raise flaw
        try:
            data = self._pool.good(chunk, address, self._sector, check, first)
        except SourceError:
            if first:  # a copy was there and was bad; that the others are missing explains less
                raise flaw from None
            raise
        if first:
            self._pool.replaced(address, flaw)
        return data

    def _sums(self, start: int, length: int) -> bytes:
        """The checksums of whole sectors. Raises: Corrupt where there is none."""
        first, end, sums = self._last
        sector, width = self._sector, self._width
        if first <= start and start + length <= end:
            begin = (start - first) // sector * width
            return sums[begin : begin + length // sector * width]
        found = bytearray()
        at = start
        for first, sums in self._items(start, start + length):
            if first > at:
                break
            begin = (at - first) // sector * width
            need = (start + length - at) // sector * width
            piece = sums[begin : begin + need]
            found += piece
            at += len(piece) // width * sector
            self._last = (first, first + len(sums) // width * sector, sums)
            if at >= start + length:
                break
        if at < start + length:
            raise Corrupt("data: no checksum", where=f"logical address {at}")
        return bytes(found)

    def _items(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """(first address, checksums) of the items that touch the range, in order. Raises: Corrupt."""
        try:
            tree = self._trees.tree(CSUM_TREE)
        except NotFound:
            raise Corrupt("the checksum tree is not there") from None
        first = tree.before((_CSUM_OBJECT, _CSUM_ITEM, start + 1))
        if first is not None and first[:2] == (_CSUM_OBJECT, _CSUM_ITEM):
            yield first[2], self._checked(first[2], first[3])
        for _, _, offset, item in tree.items((_CSUM_OBJECT, _CSUM_ITEM, start + 1), (_CSUM_OBJECT, _CSUM_ITEM, end)):
            yield offset, self._checked(offset, item)

    def _checked(self, offset: int, item: bytes) -> bytes:
        if len(item) % self._width or offset % self._sector or not item:
            raise Corrupt("checksum item", "length", found=len(item), where=f"logical address {offset}")
        return item


class Unverified(Leaf):
    """All data of the filesystem by logical address, for files without checksums, by the first way that can be read."""

    def __init__(self, trees: Trees) -> None:
        self.size = _EVERYTHING
        self._pool = trees.pool

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            chunk = self._pool.chunk(offset)
            take = min(length, chunk.end - offset, _STEP)
            parts.append(self._pool.good(chunk, offset, take, lambda data: None))
            offset += take
            length -= take
        return b"".join(parts)

    def read_into(self, offset: int, buf: memoryview) -> None:
        done = 0
        while done < len(buf):
            take = min(_STEP, len(buf) - done)
            buf[done : done + take] = self.read(offset + done, take)
            done += take

    def places(self, start: int, length: int) -> Iterator[Extent]:
        """Yield extents, with offsets that are logical addresses, in host files as far as the devices are there.

        Raises: Corrupt.
        """
        pool = self._pool
        for chunk, piece in pool.pieces(start, length):
            device = self._device(chunk, piece)
            if device is None:
                yield Extent(piece.logical, piece.length, self, piece.logical)
                continue
            source, shift = device
            for at, take, leaf, place in source.extents(piece.logical + shift, piece.length):
                yield Extent(at - shift, take, leaf, place)

    def _device(self, chunk: Chunk, wanted: Piece) -> tuple[Source, int] | None:
        """The first device that has a copy, and what a logical address is off there."""
        for copy in range(chunk.copies):
            piece = next(chunk.pieces(wanted.logical, wanted.length, copy))
            try:
                device = self._pool.device(piece.stripe)
            except SourceError:
                continue
            if piece.offset + piece.length <= device.size:
                return device, piece.offset - piece.logical
        return None


Comparison = Callable[[bytes | memoryview, bytes], list[int]]


def _comparison(name: str, digest: Callable[[bytes], bytes], sector: int) -> Comparison:
    """A function that gives the numbers of the sectors whose checksums differ from those given."""
    cut = Struct(f"{sector}s").iter_unpack

    if name == "crc32c":
        extend = crc32c_extend()

        def differing_crc32c(data: bytes | memoryview, sums: bytes) -> list[int]:
            count = len(data) // sector
            wanted = unpack(f"<{count}I", sums)
            made = tuple(map(extend, repeat(0), unpack(f"{sector}s" * count, data)))
            if made == wanted:
                return []
            return [index for index in range(count) if made[index] != wanted[index]]

        return differing_crc32c

    def differing(data: bytes | memoryview, sums: bytes) -> list[int]:
        made = [digest(part) for (part,) in cut(data)]
        if b"".join(made) == sums:
            return []
        width = len(sums) // len(made)
        return [index for index, each in enumerate(made) if each != sums[index * width : (index + 1) * width]]

    return differing
