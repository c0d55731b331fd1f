"""Cells: the pieces that all of a hive is made of, by their offsets from the first bin, each inside its own bin.

Spec: regf, "Hive bin", "Cell".
"""

from __future__ import annotations

import struct

from guestkit.errors import Corrupt
from guestkit.hive.header import PAGE, SIZE
from guestkit.limits import Limits
from guestkit.source import Source

NONE = 0xFFFFFFFF  # an offset that leads nowhere
_CHUNK = 1 << 16
_MOST_BACK = 1024  # pages from a cell to the head of its bin
_HEAD = 32  # bytes of a bin's header
_bin = struct.Struct("<4sII").unpack


class Cells:
    """Reads the cells of one hive."""

    def __init__(self, source: Source, bins: int, limits: Limits) -> None:
        """`bins`: bytes of bins that the base block tells; the file may have fewer."""
        self._source = source
        self.end = min(bins, source.size - SIZE)
        self._cache = limits.cache
        self._token = limits.token()
        self._bins: dict[int, tuple[int, int] | None] = {}  # page -> (begin, end) of its bin

    def _bytes(self, at: int, length: int) -> bytes:
        """`length` bytes of the bins, all of which are there."""
        number, within = divmod(at, _CHUNK)
        if within + length > _CHUNK:
            return self._source.read(SIZE + at, length)
        key = (self._token, number)
        chunk: bytes | None = self._cache.get(key)
        if chunk is None:
            start = number * _CHUNK
            chunk = self._source.read(SIZE + start, min(_CHUNK, self.end - start))
            self._cache.put(key, chunk, len(chunk) + 100)
        return chunk[within : within + length]

    def _bin_of(self, offset: int) -> tuple[int, int] | None:
        """(begin, end) of the bin that holds `offset`, None when no bin does."""
        page = offset & -PAGE
        if page in self._bins:
            return self._bins[page]
        found = None
        for begin in range(page, max(-1, page - _MOST_BACK * PAGE), -PAGE):
            if begin + _HEAD > self.end:
                break
            signature, told, size = _bin(self._bytes(begin, 12))
            if signature == b"hbin" and told == begin:
                if size and not size % PAGE and page < begin + size <= self.end:
                    found = begin, begin + size
                break
        self._bins[page] = found
        return found

    def read(self, offset: int, least: int, most: int) -> bytes:
        """At most the first `most` bytes of the cell in use at `offset`; what follows a record is padding.

        Raises: Corrupt when there is no such cell, or one with less than `least` bytes.
        """
        where = f"cell 0x{offset:x}"
        if offset & 7 or not _HEAD <= offset <= self.end - 8:
            raise Corrupt(
                "hive cell", "offset", found=offset, expected=f"a multiple of 8 below {self.end}", where=where
            )
        bounds = self._bin_of(offset)
        if bounds is None or offset < bounds[0] + _HEAD:
            raise Corrupt("hive bin", "header", expected="one before the cell", where=where)
        size = -int.from_bytes(self._bytes(offset, 4), "little", signed=True)
        if size < 8 or size & 7 or offset + size > bounds[1]:
            raise Corrupt("hive cell", "size", found=-size, expected="a cell in use inside its bin", where=where)
        if size - 4 < least:
            raise Corrupt("hive cell", "size", found=size, expected=f"at least {least + 4}", where=where)
        return self._bytes(offset + 4, min(size - 4, most))
