"""Recognition of FAT12, FAT16 and FAT32 ("vfat") by their boot sectors and root directories.

Spec: Microsoft fatgen103. Which boot sectors count, that the label is the root
directory's and not the boot sector's, and the form of the UUID are libblkid's.
"""

from __future__ import annotations

import struct

from guestkit.probe import Detected, Window, label_text

_MEDIA = (0xF0, *range(0xF8, 0x100))
_MAX_FAT12, _MAX_FAT16, _MAX_FAT32 = 0xFF4, 0xFFF4, 0x0FFFFFF6
_MAX_CLUSTERS_WALKED = 100  # of a root directory, in search of the label
_MAX_ROOT = 1 << 17  # bytes of a fixed root directory that are searched


def serial_text(raw: bytes) -> str:
    """A volume serial number as mount and blkid write it; "" when it is zero."""
    return f"{raw[3]:02X}{raw[2]:02X}-{raw[1]:02X}{raw[0]:02X}" if any(raw) else ""


def probe(window: Window) -> Detected | None:
    """Check the boot sector as strictly as libblkid does, so that an MBR is not taken for one."""
    raw = window.at(0, 512)
    if not raw:
        return None
    (sector, per_cluster, reserved, fats, entries, count16, media, fat16) = struct.unpack_from("<HBHBHHBH", raw, 11)
    count32, fat32 = struct.unpack_from("<I", raw, 32)[0], struct.unpack_from("<I", raw, 36)[0]
    stated = raw[0x52:0x57] == b"MSWIN" or raw[0x52:0x5A] == b"FAT32   " or raw[0x36:0x3B] == b"MSDOS"
    stated = stated or raw[0x36:0x3E] in (b"FAT16   ", b"FAT12   ", b"FAT     ")
    if not stated and (raw[510:512] != b"\x55\xaa" or raw[0x36:0x3C].startswith((b"JFS ", b"HPFS  "))):
        return None
    if not fats or not reserved or media not in _MEDIA or sector not in (512, 1024, 2048, 4096):
        return None
    if not per_cluster or per_cluster & per_cluster - 1:
        return None
    count = count16 or count32
    fat_sectors = (fat16 or fat32) * fats
    root_sectors = -(-entries * 32 // sector)
    data = reserved + fat_sectors + root_sectors
    clusters = (count - data) // per_cluster
    if clusters < 0 or not fat_sectors:
        return None
    wide = not fat16
    if clusters > (_MAX_FAT32 if wide else _MAX_FAT16 if clusters > _MAX_FAT12 else _MAX_FAT12):
        return None
    if raw[3:11] in (b"-FVE-FS-", b"NTFS    ", b"EXFAT   "):
        return None
    if wide:
        version = "FAT32"
        serial, signature = raw[67:71], raw[66]
        (root,) = struct.unpack_from("<I", raw, 44)
        name = _label_in_chain(window, root, reserved * sector, data * sector, per_cluster * sector, clusters)
    else:
        version = "FAT12" if clusters < _MAX_FAT12 else "FAT16"
        serial, signature = raw[39:43], raw[38]
        size = min(entries * 32, _MAX_ROOT)
        name = _label_in(window.at((reserved + fat_sectors) * sector, size) if size else b"")[0]
    return Detected(
        type="vfat",
        usage="filesystem",
        label=label_text(name or b""),
        uuid=serial_text(serial) if signature in (0x28, 0x29) else "",
        version=version,
        block_size=sector,
    )


def _label_in(directory: bytes) -> tuple[bytes | None, bool]:
    """The name in the volume entry of (a part of) a root directory, and whether the directory ends in it."""
    for at in range(0, len(directory) - 31, 32):
        first, attributes = directory[at], directory[at + 11]
        if first == 0:
            return None, True
        volume = attributes & 0x3F != 0x0F and attributes & 0x18 == 0x08
        clusterless = directory[at + 20 : at + 22] == b"\0\0" == directory[at + 26 : at + 28]
        if first != 0xE5 and volume and clusterless:
            name = directory[at : at + 11]
            return (b"\xe5" + name[1:] if first == 0x05 else name), True
    return None, False


def _label_in_chain(window: Window, cluster: int, fat: int, data: int, size: int, clusters: int) -> bytes | None:
    """The label in a FAT32 root directory that starts at `cluster`; places and `size` of a cluster in bytes."""
    for _ in range(_MAX_CLUSTERS_WALKED):
        if not 2 <= cluster < clusters + 2:
            return None
        name, ends = _label_in(window.at(data + (cluster - 2) * size, min(size, _MAX_ROOT)))
        if ends:
            return name
        entry = window.at(fat + cluster * 4, 4)
        cluster = int.from_bytes(entry, "little") & 0x0FFFFFFF
    return None
