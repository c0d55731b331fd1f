"""Statfs: free clusters and records, counted in $Bitmap and $MFT's own bitmap when first asked for.

The figures are those of ntfs-3g.
"""

from __future__ import annotations

from guestkit.errors import Corrupt
from guestkit.fs.base import StatVfs
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.inode import Inodes
from guestkit.fs.ntfs.volume import Volume
from guestkit.source import Source

MFT, BITMAP = 0, 6
_READ = 1 << 20
_NAME_MAX = 255


def count_set(source: Source, bits: int) -> int:
    """How many of the first `bits` bits of `source` are set. Raises: Corrupt, SourceError."""
    total = 0
    size = min(source.size, bits + 7 >> 3)
    for at in range(0, size, _READ):
        data = source.read(at, min(_READ, size - at))
        total += int.from_bytes(data, "little").bit_count()
    if size << 3 > bits:
        total -= (source.read(size - 1, 1)[0] >> (bits & 7)).bit_count()
    return total


def statvfs(volume: Volume, inodes: Inodes) -> StatVfs:
    """Raises: Corrupt, SourceError."""
    bitmap = inodes.read(BITMAP).open(r.DATA)
    own = inodes.read(MFT)
    records = own.open(r.BITMAP)
    head = own.head(r.BITMAP)
    if bitmap is None or records is None or head is None:
        raise Corrupt("$Bitmap", "$DATA", expected="a bitmap of clusters, and one of records")
    if bitmap.size << 3 < volume.clusters:
        raise Corrupt("$Bitmap", "size", found=bitmap.size, expected=f"at least {volume.clusters + 7 >> 3}")
    free = max(0, volume.clusters - count_set(bitmap, volume.clusters))
    size = volume.boot.record_size
    more = free * volume.cluster // size  # records that free space could hold
    made = head.allocated << 3  # what the bitmap has room for
    spare = max(0, made - count_set(records, records.size << 3))
    return StatVfs(
        bsize=volume.cluster,
        frsize=volume.cluster,
        blocks=volume.clusters,
        bfree=free,
        bavail=free,
        files=more + made,
        ffree=more + spare,
        favail=more + spare,
        namemax=_NAME_MAX,
    )
