"""Files compressed by the Windows Overlay Filter (CompactOS): chunks of XPRESS or LZX in a stream of their own.

Spec: ntfs-3g-system-compression's description of the format; MS-XCA for XPRESS. The stream WofCompressedData begins
with the ends of all chunks but the last, in 4 bytes each (8 where the file has 4 GiB or more), counted from the
table's end. A chunk that is as long as what it stands for is not compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from guestkit.decoded import Decoded
from guestkit.errors import Corrupt, GuestkitError, Unsupported
from guestkit.limits import Limits
from guestkit.source import Source, ZeroSource

_PROVIDER_WIM, _PROVIDER_FILE = 1, 2
# algorithm -> (bytes of a chunk, module)
_ALGORITHMS = {0: (4096, "xpress"), 1: (32768, "lzx"), 2: (8192, "xpress"), 3: (16384, "xpress")}
_READ = 1 << 18  # bytes of chunks read at once


class _Chunks(Decoded):
    """The bytes of one such file."""

    def __init__(self, stream: Source, size: int, chunk: int, codec: str, limits: Limits, where: str) -> None:
        super().__init__(size, chunk, limits)
        self._stream = stream
        self._codec = codec
        self._where = where
        self._count = -(-size // chunk)
        self._entry = 8 if size >> 32 else 4
        self._table = (self._count - 1) * self._entry
        if self._table >= stream.size:
            raise Corrupt("WofCompressedData", "size", found=stream.size, expected=f"above {self._table}", where=where)

    def _bounds(self, first: int, count: int) -> list[int]:
        """Where chunks begin in the stream, from `first`, and the end of the last of `count`. Raises: Corrupt."""
        low = max(0, first - 1)
        high = min(first + count, self._count - 1)
        raw = self._stream.read(low * self._entry, max(0, high - low) * self._entry)
        found = list(struct.unpack(f"<{len(raw) // self._entry}{'Q' if self._entry == 8 else 'I'}", raw))
        if not first:
            found.insert(0, 0)
        if first + count == self._count:
            found.append(self._stream.size - self._table)
        for index in range(count):
            if not 0 < found[index + 1] - found[index] <= self._length(first + index):
                raise Corrupt("WofCompressedData", "chunk length", found=found[index + 1] - found[index])
        if found[count] + self._table > self._stream.size:
            raise Corrupt("WofCompressedData", "chunk offset", found=found[count])
        return [self._table + place for place in found]

    def _length(self, index: int) -> int:
        return min(self.unit, self.size - index * self.unit)

    def decode(self, index: int) -> bytes:
        try:
            begin, end = self._bounds(index, 1)
            return self._expand(self._stream.read(begin, end - begin), index)
        except GuestkitError as error:
            error.within(self._where, f"chunk {index}")
            raise

    def _expand(self, data: bytes, index: int) -> bytes:
        length = self._length(index)
        if len(data) == length:
            return data
        return _codec(self._codec)(data, length)

    def decode_some(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at < len(indices):
            stop = at + 1
            most = max(1, _READ // self.unit)
            while stop < len(indices) and indices[stop] == indices[stop - 1] + 1 and stop - at < most:
                stop += 1
            try:
                bounds = self._bounds(indices[at], stop - at)
                data = self._stream.read(bounds[0], bounds[-1] - bounds[0])
            except GuestkitError:
                yield from super().decode_some(indices[at:stop])
            else:
                for number, index in enumerate(indices[at:stop]):
                    try:
                        made = self._expand(data[bounds[number] - bounds[0] : bounds[number + 1] - bounds[0]], index)
                    except GuestkitError:  # whoever reads that chunk decodes it again and is told
                        continue
                    yield index, made
            at = stop


def _codec(name: str) -> Callable[[bytes, int], bytes]:
    if name == "lzx":
        from guestkit.codec.lzx import decompress as lzx

        return lzx
    from guestkit.codec.xpress import decompress as xpress

    return xpress


def wof_source(data: bytes, stream: Source | None, size: int, limits: Limits, where: str) -> Source:
    """Return the bytes of a file of `size` whose reparse point holds `data`.

    `stream`: its WofCompressedData. Raises: Corrupt; Unsupported for a provider or an algorithm that is not read.
    """
    if len(data) < 8:
        raise Corrupt("WOF reparse point", "length", found=len(data), where=where)
    version, provider = struct.unpack_from("<II", data)
    if version != 1:
        raise Unsupported("WOF version", bit=version, where=where)
    if provider == _PROVIDER_WIM:
        raise Unsupported("a file backed by a WIM image (WOF provider 1)", where=where)
    if provider != _PROVIDER_FILE:
        raise Unsupported("WOF provider", bit=provider, where=where)
    if len(data) < 16:
        raise Corrupt("WOF reparse point", "length", found=len(data), where=where)
    version, algorithm = struct.unpack_from("<II", data, 8)
    if version != 1 or algorithm not in _ALGORITHMS:
        raise Unsupported("WOF compression", bit=algorithm, where=where)
    if not size:
        return ZeroSource(0)
    if stream is None:
        raise Corrupt("WOF file", "WofCompressedData", expected="a stream of that name", where=where)
    chunk, codec = _ALGORITHMS[algorithm]
    return _Chunks(stream, size, chunk, codec, limits, where)
