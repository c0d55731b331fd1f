"""qcow2 images, versions 2 and 3: the guest's disk, its backing chain and its internal snapshots.

Specification: QEMU, docs/interop/qcow2. Not read: encrypted images (refused by name), dirty bitmaps, the saved
state of running machines, refcounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestkit.errors import GuestkitError, NotFound
from guestkit.image.base import Image, Snapshot
from guestkit.image.qcow2.compressed import CompressedClusters
from guestkit.image.qcow2.header import (
    CORRUPT,
    DATA_FILE,
    DATA_FILE_RAW,
    DIRTY,
    EXTENDED_L2,
    LAZY_REFCOUNTS,
    V3_LENGTH,
    Header,
    check_l1,
    header_cluster_bits,
    parse_header,
)
from guestkit.image.qcow2.mapping import Clusters
from guestkit.image.qcow2.snapshots import Stored, read_snapshots
from guestkit.limits import Limits
from guestkit.source import Extent, Files, Source


class Qcow2(Image):
    """The active disk of a qcow2 image."""

    format = "qcow2"

    def __init__(self, source: Source, header: Header, data: Source, backing: Source | None, limits: Limits) -> None:
        self.size = header.size
        self._source = source
        self._header = header
        self._data = data
        self._backing = backing
        self._limits = limits
        self._stored: list[Stored] | None = None
        self._disk = self._clusters(header.size, header.l1_table_offset)

    def _clusters(self, size: int, l1_table_offset: int) -> Clusters:
        source, header, limits = self._source, self._header, self._limits
        clusters = Clusters(
            source,
            header,
            limits,
            size=size,
            l1_table_offset=l1_table_offset,
            data=self._data,
            backing=self._backing,
        )
        clusters.packed = CompressedClusters(source, header, clusters, limits)
        return clusters

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._disk.extents(offset, length)

    def snapshots(self) -> Sequence[Snapshot]:
        return tuple(stored.snapshot for stored in self._table())

    def snapshot(self, name: str) -> Source:
        """The disk as an internal snapshot holds it, by id, else by name. Raises: NotFound, Corrupt, SourceError."""
        table = self._table()
        for field in (0, 1):
            for stored in table:
                if stored.snapshot[field] == name:
                    try:
                        return self._open_snapshot(stored)
                    except GuestkitError as error:
                        error.within(f"snapshot {name!r}")
                        raise
        raise NotFound(f"no snapshot {name!r}")

    def _open_snapshot(self, stored: Stored) -> Source:
        size = stored.snapshot.size
        check_l1("qcow2 snapshot", self._header, stored.l1_table_offset, stored.l1_size, size)
        return self._clusters(size, stored.l1_table_offset)

    def _table(self) -> list[Stored]:
        if self._stored is None:
            self._stored = read_snapshots(self._source, self._header)
        return self._stored

    def info(self) -> dict[str, object]:
        header = self._header
        details: dict[str, object] = {
            "compat": "1.1" if header.version == 3 else "0.10",
            "compression-type": header.compression,
            "refcount-bits": header.refcount_bits,
        }
        if header.version == 3:
            details["lazy-refcounts"] = bool(header.compatible & LAZY_REFCOUNTS)
            details["corrupt"] = bool(header.incompatible & CORRUPT)
            details["extended-l2"] = bool(header.incompatible & EXTENDED_L2)
        if header.incompatible & DATA_FILE:
            details["data-file"] = header.data_name
            details["data-file-raw"] = bool(header.autoclear & DATA_FILE_RAW)
        facts: dict[str, object] = {
            "format": self.format,
            "virtual-size": self.size,
            "cluster-size": header.cluster_size,
            "dirty-flag": bool(header.incompatible & DIRTY),
        }
        if header.backing_name is not None:
            facts["backing-filename"] = header.backing_name
            if header.backing_format is not None:
                facts["backing-filename-format"] = header.backing_format
        facts["format-specific"] = {"type": self.format, "data": details}
        return facts

    def problems(self) -> Sequence[str]:
        header = self._header
        found = []
        if header.incompatible & CORRUPT:
            found.append("The image is marked as corrupt: QEMU met damage in its tables.")
        if header.incompatible & DIRTY:
            found.append("The image is marked as dirty: it was not closed by the last program that wrote to it.")
        if header.backing_name is not None and header.backing_format is None:
            found.append(f"The format of the backing file {header.backing_name!r} is not stated and was guessed.")
        if self._backing is not None and isinstance(self._backing, Image):
            found.extend(f"Backing file: {problem}" for problem in self._backing.problems())
        return found


def open(source: Source, files: Files, limits: Limits) -> Qcow2:
    """Open a qcow2 image and the files that it names.

    Raises: Corrupt; Unsupported for encryption and unknown features; what `files` raises for the files named.
    """
    head = source.read(0, min(V3_LENGTH, source.size))
    bits = header_cluster_bits(head)
    header = parse_header(source.read(0, min(1 << bits, source.size)))
    data = source
    if header.incompatible & DATA_FILE:
        if header.data_name is None:
            raise NotFound("the image does not name its external data file")
        data = _named(files, "data file", header.data_name, "raw")
    backing = None
    if header.backing_name is not None:
        backing = _named(files, "backing file", header.backing_name, header.backing_format)
    return Qcow2(source, header, data, backing, limits)


def _named(files: Files, role: str, name: str, format: str | None) -> Source:
    try:
        return files.open(name, format)
    except GuestkitError as error:
        error.within(role)
        raise
