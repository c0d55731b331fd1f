"""Recognition of Linux filesystems that are not read: by their superblocks, as libblkid tells them."""

from __future__ import annotations

import struct

from guestkit.checksum import crc32, crc32c
from guestkit.probe import Detected, Window, label_text, uuid_text

_MASK = 0xFFFFFFFF


def probe_jfs(window: Window) -> Detected | None:
    raw = window.at(0x8000, 184)
    if not raw or raw[:4] != b"JFS1":
        return None
    block, log, shift, physical, physical_log = struct.unpack_from("<IHHIH", raw, 16)
    if block != 1 << min(log, 31) or physical != 1 << min(physical_log, 31) or log - physical_log != shift:
        return None
    return Detected(
        type="jfs",
        usage="filesystem",
        label=label_text(raw[152:168]),
        uuid=uuid_text(raw[136:152]),
        block_size=block,
    )


def probe_reiserfs(window: Window) -> Detected | None:
    for offset in (0x2000, 0x10000):
        raw = window.at(offset, 116)
        magic = raw[52:64]
        if not magic.startswith((b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs")):
            continue
        journal, block = struct.unpack_from("<I", raw, 12)[0], struct.unpack_from("<H", raw, 44)[0]
        if block < 512 or offset // 1024 // (block >> 9) > journal // 2:  # a copy in the journal
            continue
        new = magic[6] in b"23"
        return Detected(
            type="reiserfs",
            usage="filesystem",
            label=label_text(raw[100:116]) if new else "",
            uuid=uuid_text(raw[84:100]) if new else "",
            version={ord("2"): "3.6", ord("3"): "JR"}.get(magic[6], "3.5"),
            block_size=block,
        )
    return None


def probe_reiser4(window: Window) -> Detected | None:
    raw = window.at(0x10000, 52)
    if not raw.startswith(b"ReIsEr4"):
        return None
    block = int.from_bytes(raw[18:20], "little")
    return Detected(
        type="reiser4",
        usage="filesystem",
        label=label_text(raw[36:52]),
        uuid=uuid_text(raw[20:36]),
        version="4",
        block_size=block,
    )


def probe_f2fs(window: Window) -> Detected | None:
    raw = window.at(1024, 1152)
    if not raw or raw[:4] != b"\x10\x20\xf5\xf2":
        return None
    major, minor, _, _, log_block = struct.unpack_from("<HHIII", raw, 4)
    checksum_at = struct.unpack_from("<I", raw, 32)[0]
    if major < 1:
        return None
    if checksum_at:
        # from feature sb_chksum on; the seed is the magic number
        whole = window.at(1024, checksum_at + 4) if 1152 < checksum_at <= 3068 else b""
        if not whole or crc32(whole[:-4], 0xF2F52010 ^ _MASK) ^ _MASK != int.from_bytes(whole[-4:], "little"):
            return None
    return Detected(
        type="f2fs",
        usage="filesystem",
        label=label_text(raw[124:1148], "utf-16-le"),
        uuid=uuid_text(raw[108:124]),
        version=f"{major}.{minor}",
        block_size=1 << log_block if log_block < 32 else 0,
    )


def probe_nilfs2(window: Window) -> Detected | None:
    """The newer of the two valid superblocks."""
    best: tuple[int, bytes] | None = None
    for offset in (1024, (window.size // 512 - 8) * 512):
        raw = window.at(offset, 1024)
        if not raw or raw[6:8] != b"\x34\x34":
            continue
        (size, _, seed, checksum) = struct.unpack_from("<HHII", raw, 8)
        (device,) = struct.unpack_from("<Q", raw, 32)
        if not 20 <= size <= 1024 or device != window.size:
            continue
        if crc32(raw[:16] + bytes(4) + raw[20:size], seed ^ _MASK) ^ _MASK != checksum:
            continue
        checkpoint = struct.unpack_from("<Q", raw, 56)[0]
        if best is None or checkpoint > best[0]:
            best = (checkpoint, raw)
    if best is None:
        return None
    raw = best[1]
    (log_size,) = struct.unpack_from("<I", raw, 20)
    return Detected(
        type="nilfs2",
        usage="filesystem",
        label=label_text(raw[168:248]),
        uuid=uuid_text(raw[152:168]),
        version=str(struct.unpack_from("<I", raw, 0)[0]),
        block_size=1024 << log_size if log_size < 16 else 0,
    )


def probe_minix(window: Window) -> Detected | None:
    """Checked beyond the two bytes of the magic: sizes of the bitmaps must fit the counts."""
    raw = window.at(1024, 32)
    if not raw or window.at(1080, 2) == b"\x53\xef":
        return None
    for order in "<>":
        inodes, zones, imaps, zmaps, first, _, _, magic, _, zones2 = struct.unpack_from(f"{order}HHHHHHIHHI", raw)
        block = 1024
        if magic in (0x137F, 0x138F):
            version = 1
        elif magic in (0x2468, 0x2478):
            version, zones = 2, zones2
        elif struct.unpack_from(f"{order}H", raw, 24)[0] == 0x4D5A:
            version = 3
            inodes, _, imaps, zmaps, first = struct.unpack_from(f"{order}IHHHH", raw)
            (zones,) = struct.unpack_from(f"{order}I", raw, 20)
            (block,) = struct.unpack_from(f"{order}H", raw, 28)
        else:
            continue
        if not imaps or not zmaps or not block:
            continue
        if imaps * block * 8 < inodes + 1 or zmaps * block * 8 < zones - first + 1:
            continue
        return Detected(type="minix", usage="filesystem", version=str(version), block_size=block)
    return None


def probe_romfs(window: Window) -> Detected | None:
    raw = window.at(0, 512)
    if raw[:8] != b"-rom1fs-":
        return None
    size = int.from_bytes(raw[8:12], "big")
    if sum(struct.unpack(f">{min(size, 512) // 4}I", raw[: min(size, 512) & ~3])) & _MASK:
        return None
    return Detected(type="romfs", usage="filesystem", label=label_text(raw[16:32]), block_size=1024)


def probe_cramfs(window: Window) -> Detected | None:
    raw = window.at(0, 64)
    if not raw or raw[16:32] != b"Compressed ROMFS":
        return None
    order = "<" if raw[:4] == b"\x45\x3d\xcd\x28" else ">"
    size, flags = struct.unpack_from(f"{order}II", raw, 4)
    if flags & 1 and 64 < size <= 1 << 20:
        whole = window.at(0, size)
        (checksum,) = struct.unpack_from(f"{order}I", raw, 32)
        if not whole or crc32(whole[:32] + bytes(4) + whole[36:]) != checksum:
            return None
    return Detected(type="cramfs", usage="filesystem", label=label_text(raw[48:64]))


def probe_squashfs(window: Window) -> Detected | None:
    """Version 4, always little-endian; what is older, or was written big-endian, is blkid's squashfs3."""
    raw = window.at(0, 32)
    if not raw:
        return None
    order = "<" if raw[:4] in (b"hsqs", b"qshs") else ">"
    major, minor = struct.unpack_from(f"{order}HH", raw, 28)
    if major < 4:
        return Detected(type="squashfs3", usage="filesystem", version=f"{major}.{minor}") if major else None
    if order == ">":
        return None
    return Detected(type="squashfs", usage="filesystem", version=f"{major}.{minor}")


def probe_erofs(window: Window) -> Detected | None:
    raw = window.at(1024, 128)
    if not raw:
        return None
    (checksum, features, log_block) = struct.unpack_from("<IIB", raw, 4)
    if not 9 <= log_block <= 16:
        return None
    if features & 1:  # the superblock's checksum covers the rest of its block
        block = window.at(1024, (1 << log_block) - (1024 if log_block > 10 else 0))
        if not block or crc32c(block[:4] + bytes(4) + block[8:]) != checksum:
            return None
    return Detected(
        type="erofs",
        usage="filesystem",
        label=label_text(raw[64:80]),
        uuid=uuid_text(raw[48:64]),
        block_size=1 << log_block,
    )


def probe_bcachefs(window: Window) -> Detected | None:
    raw = window.at(4096, 752)
    if not raw:
        return None
    (offset, _, block, index, devices, words) = struct.unpack_from("<QQHBBI", raw, 104)
    if offset != 8 or not devices or index >= devices or 752 + words * 8 > 1 << 16:
        return None
    whole = window.at(4096, 752 + words * 8)
    if not whole or struct.unpack_from("<Q", raw, 144)[0] >> 58 & 0x3F > 7:
        return None
    set_uuid = uuid_text(raw[56:72])
    return Detected(
        type="bcachefs",
        usage="filesystem",
        label=label_text(raw[72:104]),
        uuid=set_uuid,
        version=str(struct.unpack_from("<H", raw, 16)[0]),
        block_size=block * 512,
        set_uuid=set_uuid,
    )


def probe_gfs2(window: Window) -> Detected | None:
    raw = window.at(0x10000, 272)
    if not raw:
        return None
    form, multihost, _, block = struct.unpack_from(">IIII", raw, 24)
    if not 1800 <= form <= 1899 or not 1900 <= multihost <= 1999:
        return None
    # the label is the cluster's name for it, and its name in the cluster
    return Detected(
        type="gfs2",
        usage="filesystem",
        label=label_text(raw[160:224]),
        uuid=uuid_text(raw[256:272]),
        version="1",
        block_size=block,
    )


def probe_ocfs2(window: Window) -> Detected | None:
    for block in (1024, 2048, 4096, 8192):
        raw = window.at(block, 352)
        if raw.startswith(b"OCFSV2"):
            major, minor = struct.unpack_from("<HH", raw, 192)
            return Detected(
                type="ocfs2",
                usage="filesystem",
                label=label_text(raw[272:336]),
                uuid=uuid_text(raw[336:352]),
                version=f"{major}.{minor}",
                block_size=1 << raw[248] if 9 <= raw[248] <= 12 else 0,
            )
    return None
