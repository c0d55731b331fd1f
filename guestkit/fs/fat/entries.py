"""One directory entry of FAT, of 32 bytes.

Spec: Microsoft fatgen103, "FAT Directory Structure".
"""

from __future__ import annotations

import struct

READ_ONLY, VOLUME, DIRECTORY, LONG = 0x01, 0x08, 0x10, 0x0F  # DIR_Attr
LONG_MASK = 0x3F
DELETED = 0xE5

# of many entries: DIR_Attr, CrtTimeTenth, CrtTime, CrtDate, LstAccDate, WrtTime, WrtDate and FileSize
each_file = struct.Struct("<11xBxBHHH2xHH2xI").iter_unpack


def cluster_of(raw: bytes, wide: bool) -> int:
    """The first cluster of what an entry names. `wide`: the high word of it counts (FAT32)."""
    low = raw[26] | raw[27] << 8
    return low | raw[20] << 16 | raw[21] << 24 if wide else low


def size_of(raw: bytes) -> int:
    """The bytes of the file that an entry names."""
    return int.from_bytes(raw[28:32], "little")


def is_named(raw: bytes) -> bool:
    """Whether an entry is that of a file or a directory in use."""
    return raw[0] not in (0, DELETED) and not raw[11] & VOLUME
