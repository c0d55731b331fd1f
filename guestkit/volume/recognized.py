"""Recognition of volume managers, caches and containers that are told by name and not read.

Members of BIOS RAID sets (DDF, Intel, NVIDIA, LSI, Promise) by the metadata at their end, ZFS, Stratis, VDO,
bcache, VMFS extents, LVM1, and the device mapper's integrity, verity and snapshot headers.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from guestkit.checksum import crc32c
from guestkit.probe import Detected, Window, label_text, uuid_text


def probe_ddf(window: Window) -> Detected | None:
    """SNIA Common RAID Disk Data Format: the anchor header in the last sector, or 128 KiB before it."""
    for offset in (-512, -512 * 257):
        raw = window.at(offset, 512)
        for magic in (b"\xde\x11\xde\x11", b"\x11\xde\x11\xde"):
            if raw[:4] != magic:
                continue
            order = ">" if magic[0] == 0xDE else "<"
            (primary,) = struct.unpack_from(f"{order}Q", raw, 96)
            if window.at(primary * 512, 4) != magic:
                continue
            # 24 characters, of which blkid's UUID are the first bytes as they are
            return Detected(
                type="ddf_raid_member", usage="raid", uuid=label_text(raw[8:32]), version=label_text(raw[32:40])
            )
    return None


def probe_isw(window: Window) -> Detected | None:
    raw = window.at(-1024, 32)
    if not raw.startswith(b"Intel Raid ISM Cfg Sig. "):
        return None
    return Detected(type="isw_raid_member", usage="raid", version=label_text(raw[24:30]))


def probe_nvidia(window: Window) -> Detected | None:
    raw = window.at(-1024, 120)
    if raw[:8] != b"NVIDIA  ":
        return None
    size, version = struct.unpack_from("<I4xH", raw, 8)
    words = window.at(-1024, size * 4) if size == 30 else b""
    if not words or sum(struct.unpack(f"<{size}I", words)) & 0xFFFFFFFF:
        return None
    return Detected(type="nvidia_raid_member", usage="raid", version=str(version))


def probe_lsi(window: Window) -> Detected | None:
    if window.at(-512, 6) != b"$XIDE$":
        return None
    return Detected(type="lsi_mega_raid_member", usage="raid")


def probe_promise(window: Window) -> Detected | None:
    for sectors in (63, 255, 256, 16, 399):
        if window.at(-sectors * 512, 24) == b"Promise Technology, Inc.":
            return Detected(type="promise_fasttrack_raid_member", usage="raid")
    return None


_ZFS_LABEL = 0x40000
_UBERBLOCK = 0x00BAB10C
_ZFS_WANTED = 4  # uberblocks, of those in four labels


def probe_zfs(window: Window) -> Detected | None:
    """ZFS On-Disk Specification, "Vdev labels": two labels at the start, two at the end, 128 uberblocks each."""
    end = window.size & ~(_ZFS_LABEL - 1)
    if end < 64 << 20:
        return None
    little, big = _UBERBLOCK.to_bytes(8, "little"), _UBERBLOCK.to_bytes(8, "big")
    found = 0
    for label in (0, _ZFS_LABEL, end - 2 * _ZFS_LABEL, end - _ZFS_LABEL):
        ring = window.at(label + 0x20000, 0x20000)
        for magic, order in ((little, "<"), (big, ">")):
            places = [at for at in range(0, len(ring), 1024) if ring[at : at + 8] == magic] if magic in ring else []
            found += len(places)
            if found < _ZFS_WANTED or not places:
                continue
            (version,) = struct.unpack_from(f"{order}Q", ring, places[-1] + 8)
            values = _nvlist(window.at(label + 0x4000, 4096))
            pool = str(values.get("pool_guid", ""))
            return Detected(
                type="zfs_member",
                usage="raid",
                label=str(values.get("name", "")),
                uuid=pool,
                version=str(version),
                set_uuid=pool,
                member=str(values.get("guid", "")),
            )
    return None


def _nvlist(raw: bytes) -> dict[str, str | int]:
    """The strings and numbers at the top of an XDR name-value list, as far as `raw` reaches."""
    values: dict[str, str | int] = {}
    at = 12
    while at + 12 <= len(raw):
        size, _, length = struct.unpack_from(">III", raw, at)
        value = at + 12 + (length + 3 & ~3)
        if size < 20 or at + size > len(raw) or value + 12 > at + size:
            break
        name = raw[at + 12 : at + 12 + length].decode("latin-1")
        kind, _, word = struct.unpack_from(">III", raw, value)
        if kind == 8 and value + 16 <= at + size:
            values.setdefault(name, struct.unpack_from(">Q", raw, value + 8)[0])
        elif kind == 9 and value + 12 + word <= at + size:
            values.setdefault(name, label_text(raw[value + 12 : value + 12 + word]))
        at += size
    return values


def probe_stratis(window: Window) -> Detected | None:
    for offset in (512, 9 * 512):
        raw = window.at(offset, 512)
        if raw[4:20] != b"!Stra0tis\x86\xff\x02^\x41rh":
            continue
        if crc32c(raw[4:]) ^ 0xFFFFFFFF != int.from_bytes(raw[:4], "little"):
            continue
        pool, device = (_dashed(label_text(raw[at : at + 32])) for at in (32, 64))
        return Detected(type="stratis", usage="raid", uuid=device, set_uuid=pool, member=device)
    return None


def _dashed(text: str) -> str:
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def probe_vdo(window: Window) -> Detected | None:
    raw = window.at(0, 64)
    if not raw.startswith(b"dmvdo001"):
        return None
    return Detected(type="vdo", usage="other", uuid=uuid_text(raw[40:56]))


def probe_bcache(window: Window) -> Detected | None:
    raw = window.at(4096, 208)
    if not raw or struct.unpack_from("<Q", raw, 8)[0] != 8:
        return None
    # a backing device names its cache set in set_info, once it is attached to one
    return Detected(
        type="bcache",
        usage="other",
        uuid=uuid_text(raw[40:56]),
        set_uuid=uuid_text(raw[56:72]),
        member=uuid_text(raw[40:56]),
    )


def probe_vmfs_volume(window: Window) -> Detected | None:
    raw = window.at(0x100000, 146)
    if raw[:4] != b"\x0d\xd0\x01\xc0":
        return None
    text = raw[130:146]
    return Detected(
        type="VMFS_volume_member",
        usage="raid",
        uuid=label_text(window.at(0x100000 + 532, 35)),
        version=str(struct.unpack_from("<I", raw, 4)[0]),
        member=f"{text[3::-1].hex()}-{text[7:3:-1].hex()}-{text[9:7:-1].hex()}-{text[10:].hex()}",
    )


def probe_integrity(window: Window) -> Detected | None:
    version = window.at(8, 1)
    if not version or not version[0]:
        return None
    return Detected(type="DM_integrity", usage="crypto", version=str(version[0]))


def probe_verity(window: Window) -> Detected | None:
    raw = window.at(0, 512)
    if not raw or struct.unpack_from("<I", raw, 8)[0] != 1:
        return None
    return Detected(type="DM_verity_hash", usage="crypto", uuid=uuid_text(raw[16:32]), version="1")


def probe_snapshot(window: Window) -> Detected | None:
    version = window.at(8, 4)  # the magic is short
    return Detected(type="DM_snapshot_cow", usage="other") if version == b"\1\0\0\0" else None


def probe_lvm1(window: Window) -> Detected | None:
    raw = window.at(0, 76)
    version = int.from_bytes(raw[2:4], "little")
    if version not in (1, 2):
        return None
    text = label_text(raw[44:76])
    parts = (0, 6, 10, 14, 18, 22, 26, 32)
    uuid = "-".join(text[a:b] for a, b in pairwise(parts)) if len(text) == 32 else text
    return Detected(type="LVM1_member", usage="raid", uuid=uuid)
