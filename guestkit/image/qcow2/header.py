"""The header of a qcow2 image and its extensions: bytes -> Header, checked.

Specification: QEMU, docs/interop/qcow2, "Header" and "Header extensions". Refcounts are not read: they matter
to writers only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from guestkit.errors import Corrupt, Unsupported

MAGIC = b"QFI\xfb"
V2_LENGTH = 72
V3_LENGTH = 104
MAX_L1_BYTES = 32 << 20
_MAX_BACKING_NAME = 1023

DIRTY = 1 << 0
CORRUPT = 1 << 1
DATA_FILE = 1 << 2
COMPRESSION_TYPE = 1 << 3
EXTENDED_L2 = 1 << 4
_KNOWN = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2

LAZY_REFCOUNTS = 1 << 0  # compatible
DATA_FILE_RAW = 1 << 1  # autoclear

_END = 0
_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_DATA_FILE_NAME = 0x44415441
_ENCRYPTION = {1: "qcow2 AES encryption", 2: "qcow2 LUKS encryption"}
_COMPRESSION = ("zlib", "zstd")


@dataclass(frozen=True)
class Header:
    """A checked header. Names are as the image has them; None where it has none."""

    version: int
    cluster_bits: int
    size: int  # bytes, a multiple of 512
    l1_size: int  # entries
    l1_table_offset: int
    nb_snapshots: int
    snapshots_offset: int
    incompatible: int
    compatible: int
    autoclear: int
    refcount_bits: int
    compression: str  # "zlib" (that is, bare deflate) or "zstd"
    backing_name: str | None
    backing_format: str | None
    data_name: str | None
    unknown_extensions: Mapping[int, int] = field(default_factory=dict)  # type -> length

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_bits(self) -> int:
        """log2 of the clusters that one L2 table maps."""
        return self.cluster_bits - (4 if self.incompatible & EXTENDED_L2 else 3)

    def l1_needed(self, size: int) -> int:
        """L1 entries that map `size` bytes."""
        return -(-size >> self.cluster_bits + self.l2_bits)


@cache
def _layout() -> Any:
    from construct import Bytes, Int32ub, Int64ub, Struct

    return Struct(
        "magic" / Bytes(4),
        "version" / Int32ub,
        "backing_file_offset" / Int64ub,
        "backing_file_size" / Int32ub,
        "cluster_bits" / Int32ub,
        "size" / Int64ub,
        "crypt_method" / Int32ub,
        "l1_size" / Int32ub,
        "l1_table_offset" / Int64ub,
        "refcount_table_offset" / Int64ub,
        "refcount_table_clusters" / Int32ub,
        "nb_snapshots" / Int32ub,
        "snapshots_offset" / Int64ub,
        "incompatible_features" / Int64ub,  # from here on version 3
        "compatible_features" / Int64ub,
        "autoclear_features" / Int64ub,
        "refcount_order" / Int32ub,
        "header_length" / Int32ub,
        "compression_type" / Bytes(1),
    )


def header_cluster_bits(head: bytes) -> int:
    """The cluster size's logarithm from the first bytes. Raises: Corrupt, Unsupported when this is no qcow2."""
    if head[:4] != MAGIC:
        raise Corrupt("qcow2 header", "magic", found=head[:4], expected=MAGIC)
    if len(head) < V2_LENGTH:
        raise Corrupt("qcow2 header", "length", found=len(head), expected=V2_LENGTH)
    version, cluster_bits = int.from_bytes(head[4:8], "big"), int.from_bytes(head[20:24], "big")
    if version not in (2, 3):
        raise Unsupported(f"qcow version {version}")
    if not 9 <= cluster_bits <= 21:
        raise Corrupt("qcow2 header", "cluster_bits", found=cluster_bits, expected="9 to 21")
    return cluster_bits


def parse_header(buf: bytes) -> Header:
    """Parse the first cluster of an image, or as much of it as the file has.

    Raises: Corrupt naming the field; Unsupported for encryption, unknown features and versions.
    """
    cluster_size = 1 << header_cluster_bits(buf)
    version = int.from_bytes(buf[4:8], "big")
    if version == 3 and len(buf) < V3_LENGTH:
        raise Corrupt("qcow2 header", "length", found=len(buf), expected=V3_LENGTH)
    # what version 2 lacks, and what a short header leaves out, is zero
    known = _layout().sizeof()
    length = V2_LENGTH if version == 2 else int.from_bytes(buf[100:104], "big")
    if version == 3 and (length < V3_LENGTH or length % 8 or length > cluster_size):
        raise Corrupt("qcow2 header", "header_length", found=length, expected="104 or more, a multiple of 8")
    raw = _layout().parse(buf[: min(length, known)].ljust(known, b"\0"))

    extensions = _extensions(buf, length, raw.backing_file_offset or cluster_size)
    unknown = raw.incompatible_features & ~_KNOWN
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        name = _feature_names(extensions).get(bit, f"the unknown incompatible feature {bit}")
        raise Unsupported(f"qcow2 feature: {name}", bit=1 << bit)
    if raw.crypt_method:
        if raw.crypt_method not in _ENCRYPTION:
            raise Corrupt("qcow2 header", "crypt_method", found=raw.crypt_method)
        raise Unsupported(_ENCRYPTION[raw.crypt_method])

    if raw.incompatible_features & EXTENDED_L2 and raw.cluster_bits < 14:
        raise Corrupt("qcow2 header", "cluster_bits", found=raw.cluster_bits, expected="14 or more with extended L2")
    compression = raw.compression_type[0]
    if bool(raw.incompatible_features & COMPRESSION_TYPE) != bool(compression):
        raise Corrupt("qcow2 header", "compression_type", found=compression)
    if compression >= len(_COMPRESSION):
        raise Unsupported(f"qcow2 compression type {compression}")
    order = 4 if version == 2 else raw.refcount_order
    if order > 6:
        raise Corrupt("qcow2 header", "refcount_order", found=order, expected="6 or less")

    header = Header(
        version=version,
        cluster_bits=raw.cluster_bits,
        size=raw.size & ~511,  # QEMU counts whole sectors and drops the rest
        l1_size=raw.l1_size,
        l1_table_offset=raw.l1_table_offset,
        nb_snapshots=raw.nb_snapshots,
        snapshots_offset=raw.snapshots_offset,
        incompatible=raw.incompatible_features,
        compatible=raw.compatible_features,
        autoclear=raw.autoclear_features,
        refcount_bits=1 << order,
        compression=_COMPRESSION[compression],
        backing_name=_backing_name(buf, raw.backing_file_offset, raw.backing_file_size, cluster_size),
        backing_format=_text(extensions.get(_BACKING_FORMAT)),
        data_name=_text(extensions.get(_DATA_FILE_NAME)),
        unknown_extensions={kind: len(data) for kind, data in extensions.items() if kind not in _USED},
    )
    check_l1("qcow2 header", header, header.l1_table_offset, header.l1_size, header.size)
    return header


_USED = (_BACKING_FORMAT, _FEATURE_NAMES, _DATA_FILE_NAME)


def check_l1(structure: str, header: Header, offset: int, entries: int, size: int) -> None:
    """Raises: Corrupt unless an L1 table of `entries` at `offset` may stand there and maps `size` bytes."""
    if entries * 8 > MAX_L1_BYTES:
        raise Corrupt(structure, "l1_size", found=entries, expected=f"at most {MAX_L1_BYTES // 8}")
    if offset % header.cluster_size:
        raise Corrupt(structure, "l1_table_offset", found=offset, expected="a multiple of the cluster size")
    if entries < header.l1_needed(size):
        raise Corrupt(structure, "l1_size", found=entries, expected=f"at least {header.l1_needed(size)}")


def _backing_name(buf: bytes, offset: int, length: int, cluster_size: int) -> str | None:
    if not offset:
        return None
    if offset > cluster_size:
        raise Corrupt("qcow2 header", "backing_file_offset", found=offset, expected="within the first cluster")
    if length > min(_MAX_BACKING_NAME, cluster_size - offset):
        raise Corrupt("qcow2 header", "backing_file_size", found=length, expected=f"at most {_MAX_BACKING_NAME}")
    if offset + length > len(buf):
        raise Corrupt("qcow2 header", "backing_file_offset", found=offset, expected="within the file")
    return _text(buf[offset : offset + length])


def _text(data: bytes | None) -> str | None:
    """A string of the image; QEMU takes it to end at a NUL. None when it is empty."""
    return os.fsdecode(data.partition(b"\0")[0]) or None if data else None


def _extensions(buf: bytes, at: int, end: int) -> dict[int, bytes]:
    """{type: data}, the first of each type. Raises: Corrupt when one reaches over the end of the area."""
    found: dict[int, bytes] = {}
    end = min(end, len(buf))
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", buf, at)
        if kind == _END:
            break
        at += 8
        if length > end - at:
            raise Corrupt("qcow2 header extension", f"length of type 0x{kind:08x}", found=length)
        found.setdefault(kind, buf[at : at + length])
        at += -(-length // 8) * 8
    return found


def _feature_names(extensions: Mapping[int, bytes]) -> dict[int, str]:
    """Names of the incompatible features by bit, from the image itself."""
    table = extensions.get(_FEATURE_NAMES, b"")
    names: dict[int, str] = {}
    for at in range(0, len(table) - 47, 48):
        name = table[at + 2 : at + 48].partition(b"\0")[0].decode("ascii", "replace")
        if table[at] == 0 and name:
            names.setdefault(table[at + 1], name)
    return names
