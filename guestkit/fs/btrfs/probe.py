"""Recognition of Btrfs by its superblock at 64 KiB, or by a mirror at 64 MiB when that is damaged.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "Superblock". The checksum is verified.
"""

from __future__ import annotations

import hashlib

from guestkit.checksum import crc32c, xxh64
from guestkit.layout import Layout
from guestkit.probe import Detected, Window, label_text, uuid_text

_SUPER = Layout(
    "btrfs_super_block",
    4096,
    "<",
    csum=(0, "32s"),
    fsid=(32, "16s"),
    bytenr=(48, "Q"),
    flags=(56, "Q"),
    magic=(64, "8s"),
    num_devices=(136, "Q"),
    sectorsize=(144, "I"),
    csum_type=(196, "H"),
    devid=(201, "Q"),
    dev_uuid=(267, "16s"),
    label=(299, "256s"),
)
_MAGIC = b"_BHRfS_M"
_SEEDING = 1 << 32
_MIRRORS = (0x10000, 0x4000000)


def probe(window: Window) -> Detected | None:
    for offset in _MIRRORS:
        raw = window.at(offset, _SUPER.size)
        if not raw:
            return None
        checksum, fsid, here, flags, magic, devices, sector, kind, number, member, label = _SUPER.unpack_from(raw)
        if magic != _MAGIC:
            if offset == _MIRRORS[0] and any(raw):  # something else was written there since
                return None
            continue
        made = _checksum(kind, raw[32:])
        if here != offset or (made is not None and checksum[: len(made)] != made):
            continue
        return Detected(
            type="btrfs",
            usage="filesystem",
            label=label_text(label),
            uuid=uuid_text(fsid),
            block_size=sector,
            set_uuid=uuid_text(fsid),
            member=uuid_text(member),
            member_id=number,
            members=devices,
            seed=bool(flags & _SEEDING),
        )
    return None


def _checksum(kind: int, data: bytes) -> bytes | None:
    """The checksum of `data`; None for a kind that is not known."""
    if kind == 0:
        return (crc32c(data) ^ 0xFFFFFFFF).to_bytes(4, "little")
    if kind == 1:
        return xxh64(data).to_bytes(8, "little")
    if kind == 2:
        return hashlib.sha256(data).digest()
    if kind == 3:
        return hashlib.blake2b(data, digest_size=32).digest()
    return None
