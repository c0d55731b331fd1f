"""Recognition of NTFS by its boot sector and its first MFT records; the label is that of $Volume.

Spec: libfsntfs documentation, "Volume header" and "The volume name attribute". Checks are libblkid's.
"""

from __future__ import annotations

import struct

from guestkit.layout import Layout
from guestkit.probe import Detected, Window, label_text

_BOOT = Layout(
    "ntfs_boot_sector",
    84,
    "<",
    sector_size=(11, "H"),
    cluster_sectors=(13, "B"),
    reserved_sectors=(14, "H"),
    fats=(16, "B"),
    root_entries=(17, "H"),
    sectors=(19, "H"),
    sectors_per_fat=(22, "H"),
    large_sectors=(32, "I"),
    number_of_sectors=(40, "Q"),
    mft_lcn=(48, "Q"),
    mftmirr_lcn=(56, "Q"),
    clusters_per_mft_record=(64, "b"),
    volume_serial=(72, "Q"),
)
_VOLUME = 3  # the record of $Volume
_VOLUME_NAME = 0x60
_END = 0xFFFFFFFF


def probe(window: Window) -> Detected | None:
    raw = window.at(0, 512)
    if not raw:
        return None
    (sector, code, reserved, fats, entries, count16, per_fat, count32, count, mft, mirror, record_code, serial) = (
        _BOOT.unpack_from(raw)
    )
    per_cluster = code if code <= 128 else 1 << 256 - code if code >= 240 else 0
    if not 256 <= sector <= 4096 or sector & sector - 1 or not per_cluster or per_cluster & per_cluster - 1:
        return None
    if reserved or fats or entries or count16 or per_fat or count32:
        return None
    if record_code > 0:
        size = record_code * per_cluster * sector
    else:
        size = 1 << -record_code if -31 <= record_code <= -9 else 0
    if size & size - 1 or not 512 <= size <= 4096:
        return None
    if mft * per_cluster > count or mirror * per_cluster > count:
        return None
    start = mft * per_cluster * sector
    if window.at(start, 4) != b"FILE":
        return None
    return Detected(
        type="ntfs",
        usage="filesystem",
        label=_label(window.at(start + _VOLUME * size, size)),
        uuid=f"{serial:016X}" if serial else "",
        block_size=sector,
    )


def _label(record: bytes) -> str:
    """The volume name in the record of $Volume; names of other encodings than UTF-16 do not occur.

    Fixups are left alone: they touch only the last two bytes of each 512.
    """
    if record[:4] != b"FILE":
        return ""
    (at,) = struct.unpack_from("<H", record, 20)
    while at + 24 <= len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == _END or length < 24 or at + length > len(record):
            break
        if kind == _VOLUME_NAME:
            size, offset = struct.unpack_from("<IH", record, at + 16)
            if offset + size <= length:
                return label_text(record[at + offset : at + offset + size], "utf-16-le")
            break
        at += length
    return ""
