"""Recognition of LVM2 physical volumes by the label in one of their first four sectors.

Spec: libvslvm documentation, "Physical volume label". The label's checksum is verified.
Left out: the volume group, which the metadata tells and the LVM reader reads.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from guestkit.checksum import crc32
from guestkit.probe import Detected, Window, label_text

_SEED = 0xF597A6CF
_MASK = 0xFFFFFFFF
_UUID_PARTS = (0, 6, 10, 14, 18, 22, 26, 32)


def probe(window: Window) -> Detected | None:
    for sector in range(4):
        raw = window.at(sector * 512, 512)
        if raw[:8] != b"LABELONE" or raw[24:32] != b"LVM2 001":
            continue
        where, checksum, header = struct.unpack_from("<QII", raw, 8)
        if where != sector or not 32 <= header <= 480:
            continue
        if crc32(raw[20:], _SEED ^ _MASK) ^ _MASK != checksum:
            continue
        uuid = lvm_uuid(raw[header : header + 32])
        return Detected(type="LVM2_member", usage="raid", uuid=uuid, version="LVM2 001", member=uuid)
    return None


def lvm_uuid(raw: bytes) -> str:
    """32 characters as LVM writes them: groups of 6, 4, 4, 4, 4, 4 and 6."""
    text = label_text(raw)
    return "-".join(text[a:b] for a, b in pairwise(_UUID_PARTS)) if len(text) == 32 else text
