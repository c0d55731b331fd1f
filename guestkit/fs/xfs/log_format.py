"""The items of the XFS log: their kinds and formats, in the byte order of the computer that wrote them, little-endian.

Spec: XFS Algorithms & Data Structures, "Log Items"; fs/xfs/libxfs/xfs_log_format.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from guestkit.layout import Layout

EFI, EFD, INODE, BUFFER, DQUOT, QUOTAOFF, ICREATE = 0x1236, 0x1237, 0x123B, 0x123C, 0x123D, 0x123E, 0x123F
# intents: kind -> (kind of what ends it, what was to be done)
INTENTS = {
    EFI: (EFD, "free of an extent"),
    0x1240: (0x1241, "reverse mapping"),
    0x1242: (0x1243, "reference count"),
    0x1244: (0x1245, "extent map"),
    0x1246: (0x1247, "extended attribute"),
    0x1248: (0x1249, "exchange of extents"),
    0x124A: (0x124B, "free of a realtime extent"),
    0x124C: (0x124D, "realtime reverse mapping"),
    0x124E: (0x124F, "realtime reference count"),
}
ENDS = {done: kind for kind, (done, _) in INTENTS.items()}
# those whose effect is seen in files, and how many inodes follow their id; the others keep account of free space
VISIBLE = {0x1244: 1, 0x1246: 1, 0x1248: 2}

BUFFER_FORMAT = Layout(
    "xfs_buf_log_format",
    20,
    "<",
    blf_type=(0, "H"),
    blf_size=(2, "H"),
    blf_flags=(4, "H"),
    blf_len=(6, "H"),
    blf_blkno=(8, "q"),
    blf_map_size=(16, "I"),
)
CHUNK = 128  # bytes that a bit of the map stands for
INODE_BUFFER, CANCEL = 1, 2
DQUOT_BUFFER = 4 | 8 | 16
INODE_FORMAT = Layout(
    "xfs_inode_log_format",
    56,
    "<",
    ilf_type=(0, "H"),
    ilf_size=(2, "H"),
    ilf_fields=(4, "I"),
    ilf_asize=(8, "H"),
    ilf_dsize=(10, "H"),
    ilf_ino=(16, "Q"),
    ilfu_rdev=(24, "I"),
    ilf_blkno=(40, "q"),
    ilf_len=(48, "i"),
    ilf_boffset=(52, "i"),
)
INODE_FORMAT_32 = Layout(  # of 32-bit computers, without padding
    "xfs_inode_log_format_32",
    52,
    "<",
    ilf_type=(0, "H"),
    ilf_size=(2, "H"),
    ilf_fields=(4, "I"),
    ilf_asize=(8, "H"),
    ilf_dsize=(10, "H"),
    ilf_ino=(12, "Q"),
    ilfu_rdev=(20, "I"),
    ilf_blkno=(36, "q"),
    ilf_len=(44, "i"),
    ilf_boffset=(48, "i"),
)
ICREATE_FORMAT = struct.Struct(">4xIIIIII")  # icl_ag, icl_agbno, icl_count, icl_isize, icl_length, icl_gen


def buffer_writes(first: bytes, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first chunk, count, region) of what a buffer item writes; `sizes`: bytes of the regions behind `first`.

    A run of chunks may stand in several regions; regions that are too short end it all.
    """
    words = int.from_bytes(first[16:20], "little")
    left = int.from_bytes(first[20 : 20 + 4 * words], "little")
    at = index = 0
    while left:
        zeros = (left & -left).bit_length() - 1
        left >>= zeros
        ones = (~left & (left + 1)).bit_length() - 1
        left >>= ones
        at += zeros
        while ones:
            take = min(sizes[index] // CHUNK, ones) if index < len(sizes) else 0
            if not take:
                return
            yield at, take, index
            at, ones, index = at + take, ones - take, index + 1
