"""Compressed clusters: a leaf whose address space is the guest's, so that neighbours are one extent.

Specification: QEMU, docs/interop/qcow2, "Compressed Clusters Descriptor". The data of a cluster starts at any
byte, may cross host clusters, and its last sector may lie beyond the end of the file.
"""

from __future__ import annotations

from collections.abc import Callable

from guestkit.decoded import Decoded
from guestkit.errors import Corrupt, GuestkitError, SourceError, Unsupported
from guestkit.image.qcow2.header import Header
from guestkit.image.qcow2.mapping import COMPRESSED, Clusters
from guestkit.limits import Limits
from guestkit.source import Source


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
            return self._decode(index)
        except GuestkitError as error:
            error.within(f"compressed cluster {index}")
            raise

    def _decode(self, index: int) -> bytes:
        entry = self._clusters.entry(index)
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
        data = self._inflate(self._source.read(host, length), self.unit)
        if len(data) != self.unit:
            raise Corrupt("compressed data", "bytes", found=len(data), expected=self.unit)
        rest = self.size - index * self.unit
        return data if rest >= self.unit else data[:rest]


def _library(compression: str) -> Callable[[bytes, int], bytes]:
    if compression == "zlib":
        from guestkit.codec import deflate

        return deflate.decompress
    if compression == "zstd":
        from guestkit.codec import zstd

        return zstd.decompress
    raise Unsupported(f"qcow2 compression {compression}")
