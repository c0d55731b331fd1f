"""The FAT boot sector: where the tables, the root directory and the clusters stand, and of which kind they are.

Spec: Microsoft fatgen103, "Boot Sector and BPB". The kind is told by the size of the 16-bit FAT (none: FAT32) and the
number of clusters, never by the text in the sector. Left out: floppies of DOS 1 without a BPB, Atari's variants.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestkit.errors import Corrupt, Unsupported
from guestkit.fs.fat.probe import serial_text
from guestkit.layout import Layout

SIZE = 512
ENTRY = 32  # bytes of a directory entry

_BPB = Layout(
    "fat_boot_sector",
    90,
    "<",
    BytsPerSec=(11, "H"),
    SecPerClus=(13, "B"),
    RsvdSecCnt=(14, "H"),
    NumFATs=(16, "B"),
    RootEntCnt=(17, "H"),
    TotSec16=(19, "H"),
    Media=(21, "B"),
    FATSz16=(22, "H"),
    TotSec32=(32, "I"),
    FATSz32=(36, "I"),
    ExtFlags=(40, "H"),
    FSVer=(42, "H"),
    RootClus=(44, "I"),
    FSInfo=(48, "H"),
)
_FSINFO = Layout("fsinfo", 512, "<", LeadSig=(0, "I"), StrucSig=(484, "I"), Free_Count=(488, "I"), TrailSig=(508, "I"))

_MOST_FAT12, _MOST_FAT16, _MOST_FAT32 = 4084, 65524, 0x0FFFFFF5
_ONE_FAT = 0x80  # in ExtFlags: the tables are not copies of each other, its low bits name the one in use


@dataclass(frozen=True)
class Boot:
    """Places in bytes from the start of the volume."""

    bits: int  # 12, 16 or 32
    sector_size: int
    cluster_size: int
    fats: int
    active: int  # the number of the table that counts
    mirrored: bool
    fat_start: int  # of the active one
    fat_size: int
    root_start: int  # of the fixed root directory, FAT12 and FAT16
    root_entries: int
    root_cluster: int  # FAT32
    data_start: int
    clusters: int
    volume_size: int  # as the sector says it
    info_start: int  # 0: none
    serial: str
    dirty: bool
    damaged: bool  # a surface test was asked for
    text: bytes  # the informational type


def parse_boot(raw: bytes, device_size: int) -> Boot:
    """`raw`: the first 512 bytes. Raises: Corrupt; Unsupported for a newer version of FAT32."""
    (
        sector_size,
        per_cluster,
        reserved,
        fats,
        entries,
        total16,
        media,
        size16,
        total32,
        size32,
        flags,
        version,
        root_cluster,
        info,
    ) = _BPB.unpack_from(raw)
    if sector_size not in (512, 1024, 2048, 4096):
        raise Corrupt("boot sector", "BytsPerSec", found=sector_size, expected="512 to 4096")
    if not per_cluster or per_cluster & per_cluster - 1:
        raise Corrupt("boot sector", "SecPerClus", found=per_cluster, expected="a power of two")
    if not reserved:
        raise Corrupt("boot sector", "RsvdSecCnt", found=0)
    if not fats:
        raise Corrupt("boot sector", "NumFATs", found=0)
    if media != 0xF0 and media < 0xF8:
        raise Corrupt("boot sector", "Media", found=media, expected="0xf0, or 0xf8 and above")
    wide = not size16
    fat_sectors = size16 or size32
    if not fat_sectors:
        raise Corrupt("boot sector", "FATSz32", found=0)
    active = 0
    mirrored = True
    if wide:
        if version:
            raise Unsupported(f"FAT32 version {version >> 8}.{version & 0xFF}")
        mirrored = not flags & _ONE_FAT
        if not mirrored:
            active = flags & 0x0F
            if active >= fats:
                raise Corrupt("boot sector", "ExtFlags", found=active, expected=f"one of {fats} tables")
    root = reserved + fats * fat_sectors
    data = root + -(-entries * ENTRY // sector_size)
    total = total16 or total32 or device_size // sector_size
    clusters = min((total - data) // per_cluster, fat_sectors * sector_size * 8 // (32 if wide else 16) - 2)
    bits = 32
    if not wide:
        bits = 12 if (total - data) // per_cluster <= _MOST_FAT12 else 16
        if bits == 12:
            clusters = min((total - data) // per_cluster, fat_sectors * sector_size * 8 // 12 - 2)
    most = _MOST_FAT32 if wide else _MOST_FAT16 if bits == 16 else _MOST_FAT12
    if not 0 <= clusters <= most:
        raise Corrupt("boot sector", "number of clusters", found=clusters, expected=f"0 to {most}")
    if not wide and not entries:
        raise Corrupt("boot sector", "RootEntCnt", found=0)
    at = 64 if wide else 36  # of BS_DrvNum
    return Boot(
        bits=bits,
        sector_size=sector_size,
        cluster_size=per_cluster * sector_size,
        fats=fats,
        active=active,
        mirrored=mirrored,
        fat_start=(reserved + active * fat_sectors) * sector_size,
        fat_size=fat_sectors * sector_size,
        root_start=root * sector_size,
        root_entries=0 if wide else entries,
        root_cluster=root_cluster & 0x0FFFFFFF if wide else 0,
        data_start=data * sector_size,
        clusters=clusters,
        volume_size=total * sector_size,
        info_start=info * sector_size if wide and 0 < info < reserved else 0,
        serial=serial_text(raw[at + 3 : at + 7]) if raw[at + 2] in (0x28, 0x29) else "",
        dirty=bool(raw[at + 1] & 1),
        damaged=bool(raw[at + 1] & 2),
        text=raw[at + 18 : at + 26].rstrip(b" \0"),
    )


def parse_info(raw: bytes, clusters: int) -> int | None:
    """Return the number of free clusters that an FSInfo sector tells, None where it tells none that can be."""
    lead, struc, free, trail = _FSINFO.unpack_from(raw)
    if (lead, struc, trail) != (0x41615252, 0x61417272, 0xAA550000) or free > clusters:
        return None
    return int(free)
