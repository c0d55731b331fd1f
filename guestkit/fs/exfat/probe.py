"""Recognition of exFAT by its boot sector; the label is in its root directory.

Spec: Microsoft's exFAT specification, sections 3.1 and 7.3. Which boot sectors count and the form of the UUID are
libblkid's.
"""

from __future__ import annotations

import struct

from guestkit.probe import Detected, Window, label_text

_MAX_CLUSTERS_WALKED = 100  # of a root directory, in search of the label


def serial_text(raw: bytes) -> str:
    """A volume serial number as mount and blkid write it; "" when it is zero."""
    return f"{raw[3]:02X}{raw[2]:02X}-{raw[1]:02X}{raw[0]:02X}" if any(raw) else ""


def probe(window: Window) -> Detected | None:
    raw = window.at(0, 120)
    if not raw or any(raw[11:64]):
        return None
    fat, _, heap, clusters, root = struct.unpack_from("<IIIII", raw, 80)
    revision, _, sector_bits, cluster_bits, fats = struct.unpack_from("<HHBBB", raw, 104)
    if not 9 <= sector_bits <= 12 or cluster_bits > 25 - sector_bits or fats not in (1, 2) or not fat or not heap:
        return None
    label = ""
    size = 1 << sector_bits + cluster_bits
    part = min(size, 1 << 16)
    cluster = root
    for _ in range(_MAX_CLUSTERS_WALKED):
        if not 2 <= cluster < clusters + 2:
            break
        directory = window.at((heap << sector_bits) + (cluster - 2) * size, part)
        kinds = directory[::32]
        at = kinds.find(0x83)
        if at >= 0:
            length = min(directory[at * 32 + 1], 11)
            label = label_text(directory[at * 32 + 2 : at * 32 + 2 + 2 * length], "utf-16-le")
            break
        if 0 in kinds or not kinds:
            break
        cluster = int.from_bytes(window.at((fat << sector_bits) + cluster * 4, 4), "little")
    return Detected(
        type="exfat",
        usage="filesystem",
        label=label,
        uuid=serial_text(raw[100:104]),
        version=f"{revision >> 8}.{revision & 0xFF}",
        block_size=1 << sector_bits,
    )
