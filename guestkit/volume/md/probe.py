"""Recognition of members of Linux software RAID: superblock versions 0.90, 1.0, 1.1 and 1.2.

Spec: kernel include/uapi/linux/raid/md_p.h. The checksum of version 1 is verified. The ones at the end of the
device are looked for first: what they guard begins where the device does.
"""

from __future__ import annotations

import struct

from guestkit.probe import Detected, Window, label_text, uuid_text

MAGIC = 0xA92B4EFC
_MAX_DEVICES = 1920  # roles that fit behind the superblock in 4 KiB


def probe(window: Window) -> Detected | None:
    size = window.size
    if size > 0x10000:
        found = _version_0(window, (size & ~0xFFFF) - 0x10000)
        if found is not None:
            return found
    if size >= 0x2000:
        found = _version_1(window, (size & ~0xFFF) - 0x2000, "1.0")
        if found is not None:
            return found
    return _version_1(window, 0, "1.1") or _version_1(window, 0x1000, "1.2")


def _version_0(window: Window, offset: int) -> Detected | None:
    raw = window.at(offset, 4096)
    for order in "<>":
        if not raw or struct.unpack_from(f"{order}I", raw)[0] != MAGIC:
            continue
        words = struct.unpack(f"{order}1024I", raw)
        _, major, minor, patch = words[:4]
        if major != 0 or minor != 90:
            return None
        set_uuid = uuid_text(struct.pack(">4I", words[5], *words[13:16]))
        return Detected(
            type="linux_raid_member",
            usage="raid",
            uuid=set_uuid,
            version=f"{major}.{minor}.{patch}",
            set_uuid=set_uuid,
            member=str(words[992]),  # this_disk.number
        )
    return None


def _version_1(window: Window, offset: int, version: str) -> Detected | None:
    raw = window.at(offset, 256)
    if not raw or struct.unpack_from("<II", raw) != (MAGIC, 1):
        return None
    (sector,) = struct.unpack_from("<Q", raw, 144)
    checksum, devices = struct.unpack_from("<II", raw, 216)
    if sector * 512 != offset or devices > _MAX_DEVICES:
        return None
    roles = window.at(offset + 256, devices * 2) if devices else b""
    whole = raw + roles
    total = sum(struct.unpack_from(f"<{len(whole) // 4}I", whole)) - checksum
    if len(whole) & 2:
        total += int.from_bytes(whole[-2:], "little")
    if (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF != checksum:
        return None
    return Detected(
        type="linux_raid_member",
        usage="raid",
        label=label_text(raw[32:64]),
        uuid=uuid_text(raw[16:32]),
        version=version,
        set_uuid=uuid_text(raw[16:32]),
        member=uuid_text(raw[168:184]),
    )
