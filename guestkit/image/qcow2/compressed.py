"""Compressed clusters: a leaf whose address space is the guest's, so that neighbours are one extent.

Specification: QEMU, docs/interop/qcow2, "Compressed Clusters Descriptor". The data of a cluster starts at any
byte, may cross host clusters, and its last sector may lie beyond the end of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from guestkit.decoded import Decoded
from guestkit.errors import Corrupt, GuestkitError, SourceError, Unsupported
from guestkit.image.qcow2.header import Header
from guestkit.image.qcow2.mapping import COMPRESSED, Clusters
from guestkit.limits import Limits
from guestkit.source import Source

_GAP = 1 << 14  # bytes between the data of two clusters that are read over
_RUN = 1 << 22  # bytes read at once


class CompressedClusters(Decoded):
    """The compressed clusters of one disk; other offsets raise Corrupt."""

    def __init__(self, source: Source, header: Header, clusters: Clusters, limits: Limits) -> None:
        super().__init__(clusters.size, header.cluster_size, limits)
        self._source = source
        self._clusters = clusters
        self._offset_bits = 62 - (header.cluster_bits - 8)
        self._inflate = _library(header.compression)

    def wanted(self, index: int) -> bool:
        try:
            return bool(self._clusters.entry(index) & COMPRESSED)
        except GuestkitError:  # whoever reads it is told
            return False

    def decode(self, index: int) -> bytes:
        try:
            host, length = self._place(self._clusters.entry(index))
            return self._unpack(index, self._source.read(host, length))
        except GuestkitError as error:
            error.within(f"compressed cluster {index}")
            raise

    def decode_some(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        run: list[tuple[int, int, int]] = []  # index, host, length: ascending without a wide gap
        start = end = 0
        for index in indices:
            try:
                host, length = self._place(self._clusters.entry(index))
            except GuestkitError:  # whoever reads that cluster is told
                continue
            if run and not (end - 512 <= host <= end + _GAP and host + length - start <= _RUN):
                yield from self._unpack_run(run, start, end)
                run = []
            if not run:
                start = host
            run.append((index, host, length))
            end = host + length
        if run:
            yield from self._unpack_run(run, start, end)

    def _unpack_run(self, run: list[tuple[int, int, int]], start: int, end: int) -> Iterator[tuple[int, bytes]]:
        try:
            data = memoryview(self._source.read(start, end - start))
        except GuestkitError:  # whoever reads one of these clusters is told
            return
        for index, host, length in run:
            try:
                yield index, self._unpack(index, data[host - start : host - start + length])
            except GuestkitError:
                continue

    def _place(self, entry: int) -> tuple[int, int]:
        """(offset, length) in the file of the data that an L2 entry means."""
        if not entry & COMPRESSED:
            raise Corrupt("qcow2 L2 entry changed while it was read")
        bits = self._offset_bits
        host = entry & (1 << bits) - 1
        if host >> 56:
            raise Corrupt("qcow2 L2 entry", "offset of compressed data", found=host, expected="below 2^56")
        sectors = ((entry ^ COMPRESSED) & (1 << 62) - 1) >> bits
        length = min((sectors + 1) * 512 - (host & 511), self._source.size - host)
        if length <= 0:
            raise SourceError(f"compressed data at {host} lies beyond the end of the file: truncated image")
        return host, length

    def _unpack(self, index: int, packed: bytes | memoryview) -> bytes:
        data = self._inflate(packed, self.unit)
        if len(data) != self.unit:
            raise Corrupt("compressed data", "bytes", found=len(data), expected=self.unit)
        rest = self.size - index * self.unit
        return data if rest >= self.unit else data[:rest]


def _library(compression: str) -> Callable[[bytes | memoryview, int], bytes]:
    if compression == "zlib":
        from guestkit.codec import deflate

        return deflate.decompress
    if compression == "zstd":
        from guestkit.codec import zstd

        return zstd.decompress
    raise Unsupported(f"qcow2 compression {compression}")
