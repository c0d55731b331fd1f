"""Reparse points: what a tag says a file is, and the targets of links.

Spec: MS-FSCC, section 2.1.2; libfsntfs documentation, "The reparse point attribute". Which files a tag turns into
links, fifos, sockets and devices is what ntfs-3g shows.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.ntfs.names import to_utf8

MOUNT_POINT, SYMLINK, LX_SYMLINK = 0xA0000003, 0xA000000C, 0xA000001D
AF_UNIX, LX_FIFO, LX_CHR, LX_BLK = 0x80000023, 0x80000024, 0x80000025, 0x80000026
WOF = 0x80000017
MOST = 16 << 10  # bytes of reparse data
_RELATIVE = 1

# S_IFMT of what is not a file or directory
KINDS = {
    MOUNT_POINT: 0xA000,
    SYMLINK: 0xA000,
    LX_SYMLINK: 0xA000,
    AF_UNIX: 0xC000,
    LX_FIFO: 0x1000,
    LX_CHR: 0x2000,
    LX_BLK: 0x6000,
}
_FEATURES = {
    0x80000013: "NTFS data deduplication",
    0x80000007: "single instance storage (SIS)",
    0x80000008: "a file backed by a WIM image",
    0x80000014: "NFS reparse point",
    0x80000018: "Windows container isolation (WCI)",
    0x8000001B: "application execution alias",
    0x80000009: "cluster shared volume",
    0x8000000A: "distributed file system (DFS)",
    0x80000012: "DFS replication",
    0xC0000004: "hierarchical storage management (HSM)",
    0x80000006: "hierarchical storage management (HSM2)",
    0x8000001E: "storage sync file",
    0x9000001C: "projected file system (ProjFS)",
    0xA0000019: "global reparse point",
}

_word = struct.Struct("<IHH").unpack_from
_names = struct.Struct("<HHHH").unpack_from


class Reparse(NamedTuple):
    """Tag and data of a reparse point, without headers."""

    tag: int
    data: bytes


class Target(NamedTuple):
    """Where a link leads: "relative", "rooted" (the volume's root), "full" (behind a drive or volume) or "posix"."""

    kind: str
    path: bytes  # UTF-8; its components are separated by "/"


def parse_reparse(value: bytes) -> Reparse:
    """Decode a reparse point attribute. Raises: Corrupt."""
    if len(value) < 8:
        raise Corrupt("reparse point", "size", found=len(value), expected="at least 8")
    tag, length, _ = _word(value)
    head = 8 if tag & 0x80000000 else 24  # a GUID follows where the tag is not Microsoft's
    if head + length > len(value):
        raise Corrupt("reparse point", "length", found=length, expected=len(value) - head)
    return Reparse(tag, value[head : head + length])


def feature(tag: int) -> str:
    """What a tag that is not read stands for."""
    if tag & 0xFFFF0FFF == 0x9000001A:
        return "cloud file (placeholder)"
    return _FEATURES.get(tag, "NTFS reparse point") + f" (reparse tag 0x{tag:08X})"


def parse_target(point: Reparse) -> Target:
    """Where a link leads. Raises: Corrupt."""
    tag, data = point
    if tag == LX_SYMLINK:
        if len(data) < 5 or data[:4] != b"\2\0\0\0":
            raise Corrupt("LX symlink", "version", found=bytes(data[:4]), expected=2)
        return Target("posix", data[4:].split(b"\0", 1)[0])
    head = 12 if tag == SYMLINK else 8
    if len(data) < head:
        raise Corrupt("reparse point", "length", found=len(data), expected=f"at least {head}")
    at, length, _, _ = _names(data)
    if head + at + length > len(data) or length & 1:
        raise Corrupt("reparse point", "substitute name", found=length)
    flags = int.from_bytes(data[8:12], "little") if tag == SYMLINK else 0
    path = to_utf8(data[head + at : head + at + length]).split(b"\0", 1)[0]
    if not path:
        raise Corrupt("reparse point", "substitute name", found=b"")
    for prefix in (b"\\??\\", b"\\\\?\\"):
        if path.startswith(prefix):
            return Target("full", path[4:].replace(b"\\", b"/"))
    shown = path.replace(b"\\", b"/")
    if path[1:2] == b":":
        return Target("full", shown)
    if path.startswith(b"\\"):
        return Target("rooted", shown)
    return Target("relative" if flags & _RELATIVE or tag == MOUNT_POINT else "full", shown)
