"""The exFAT boot region: where the tables and the clusters stand, verified by its checksum, else its backup's.

Spec: Microsoft's exFAT specification, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestkit.errors import Corrupt, Unsupported
from guestkit.fs.exfat.probe import serial_text
from guestkit.layout import Layout
from guestkit.source import Source

_SECTORS = 12  # of a boot region; the last holds the checksum of the others
_NOT_SUMMED = (106, 107, 112)  # VolumeFlags and PercentInUse
_MOST_CLUSTERS = (1 << 32) - 11

_BOOT = Layout(
    "exfat_boot_sector",
    512,
    "<",
    FileSystemName=(3, "8s"),
    MustBeZero=(11, "53s"),
    VolumeLength=(72, "Q"),
    FatOffset=(80, "I"),
    FatLength=(84, "I"),
    ClusterHeapOffset=(88, "I"),
    ClusterCount=(92, "I"),
    FirstClusterOfRootDirectory=(96, "I"),
    VolumeSerialNumber=(100, "4s"),
    FileSystemRevision=(104, "H"),
    VolumeFlags=(106, "H"),
    BytesPerSectorShift=(108, "B"),
    SectorsPerClusterShift=(109, "B"),
    NumberOfFats=(110, "B"),
    BootSignature=(510, "H"),
)


@dataclass(frozen=True)
class Boot:
    """Places in bytes from the start of the volume."""

    sector_size: int
    cluster_size: int
    volume_size: int
    fat_start: int  # of the active one
    fats: int
    active: int  # 0 or 1: the FAT and the bitmap that count (TexFAT)
    heap_start: int
    clusters: int
    root_cluster: int
    serial: str
    revision: str
    dirty: bool
    media_failure: bool


def checksum(region: bytes) -> int:
    """BootChecksum of the first eleven sectors."""
    total = 0
    for index, byte in enumerate(region):
        if index not in _NOT_SUMMED:
            total = (total >> 1 | (total & 1) << 31) + byte & 0xFFFFFFFF
    return total


def read_boot(device: Source, first: int = 0) -> Boot:
    """Read and verify the boot region that begins at sector `first` (0, or 12 for the backup).

    Raises: Corrupt, Unsupported for another revision, SourceError.
    """
    if not first:
        shifts: tuple[int, ...] = (_shift(device, 0),)
    else:  # the main one may not say how large a sector is
        shifts = (9, 12, 10, 11)
    problem: Corrupt | None = None
    for shift in shifts:
        try:
            return _read_region(device, first << shift, shift)
        except Corrupt as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _shift(device: Source, offset: int) -> int:
    if offset + 512 > device.size:
        raise Corrupt("exFAT boot sector", "device size", found=device.size)
    shift = device.read(offset + 108, 1)[0]
    if not 9 <= shift <= 12:
        raise Corrupt("exFAT boot sector", "BytesPerSectorShift", found=shift, expected="9 to 12")
    return shift


def _read_region(device: Source, offset: int, shift: int) -> Boot:
    size = 1 << shift
    if offset + _SECTORS * size > device.size:
        raise Corrupt("exFAT boot region", "device size", found=device.size)
    region = device.read(offset, _SECTORS * size)
    name, zeros = region[3:11], region[11:64]
    if name != b"EXFAT   ":
        raise Corrupt("exFAT boot sector", "FileSystemName", found=name)
    if any(zeros):
        raise Corrupt("exFAT boot sector", "MustBeZero", found="other bytes")
    told = region[(_SECTORS - 1) * size :]
    wanted = checksum(region[: (_SECTORS - 1) * size]).to_bytes(4, "little")
    if told != wanted * (size // 4):
        raise Corrupt("exFAT boot region", "BootChecksum", found=told[:4].hex(), expected=wanted.hex())
    return parse_boot(region, shift)


def parse_boot(raw: bytes, shift: int) -> Boot:
    """`raw`: a boot sector; `shift`: of the sector size that it was found with. Raises: Corrupt, Unsupported."""
    (
        _,
        _,
        length,
        fat,
        fat_length,
        heap,
        clusters,
        root,
        serial,
        revision,
        flags,
        sector_shift,
        cluster_shift,
        fats,
        signature,
    ) = _BOOT.unpack_from(raw)
    if signature != 0xAA55:
        raise Corrupt("exFAT boot sector", "BootSignature", found=signature, expected=0xAA55)
    if sector_shift != shift:
        raise Corrupt("exFAT boot sector", "BytesPerSectorShift", found=sector_shift, expected=shift)
    if cluster_shift > 25 - shift:
        raise Corrupt("exFAT boot sector", "SectorsPerClusterShift", found=cluster_shift, expected=f"to {25 - shift}")
    if revision >> 8 != 1:
        raise Unsupported(f"exFAT revision {revision >> 8}.{revision & 0xFF:02}")
    if fats not in (1, 2):
        raise Corrupt("exFAT boot sector", "NumberOfFats", found=fats, expected="1 or 2")
    if fat < 2 * _SECTORS or fat + fat_length * fats > heap:
        raise Corrupt("exFAT boot sector", "FatOffset", found=fat)
    if not 0 < clusters <= _MOST_CLUSTERS or heap + (clusters << cluster_shift) > length:
        raise Corrupt("exFAT boot sector", "ClusterCount", found=clusters)
    if (clusters + 2) * 4 > fat_length << shift:
        raise Corrupt("exFAT boot sector", "FatLength", found=fat_length)
    if not 2 <= root < clusters + 2:
        raise Corrupt("exFAT boot sector", "FirstClusterOfRootDirectory", found=root)
    active = flags & 1 if fats == 2 else 0
    return Boot(
        sector_size=1 << shift,
        cluster_size=1 << shift + cluster_shift,
        volume_size=length << shift,
        fat_start=fat + active * fat_length << shift,
        fats=fats,
        active=active,
        heap_start=heap << shift,
        clusters=clusters,
        root_cluster=root,
        serial=serial_text(serial),
        revision=f"{revision >> 8}.{revision & 0xFF:02}",
        dirty=bool(flags & 2),
        media_failure=bool(flags & 4),
    )
