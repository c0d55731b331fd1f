"""Recognition of the filesystems of other systems that are not read: UFS, HFS, HFS+, APFS, ReFS, HPFS, VMFS."""

from __future__ import annotations

import hashlib
import struct

from guestkit.probe import Detected, Window, label_text, uuid_text

_UFS2 = 0x19540119
_UFS = (0x00011954, 0x00195612, 0x00095014, 0x00612195, 0x05231994)
# the name space in which Apple makes a UUID of a volume's 8-byte identifier
_HFS_SPACE = bytes.fromhex("b3e20f39f29211d697a400306543ecac")


def probe_ufs(window: Window) -> Detected | None:
    for offset in (0, 0x2000, 0x10000, 0x40000):
        raw = window.at(offset, 1380)
        if not raw:
            return None
        for order in "<>":
            (magic,) = struct.unpack_from(f"{order}I", raw, 1372)
            if magic != _UFS2 and magic not in _UFS:
                continue
            first, second = struct.unpack_from(f"{order}II", raw, 144)
            return Detected(
                type="ufs",
                usage="filesystem",
                label=label_text(raw[680:712]) if magic == _UFS2 else "",
                uuid=f"{first:08x}{second:08x}" if first or second else "",
                version="2" if magic == _UFS2 else "1",
                block_size=struct.unpack_from(f"{order}I", raw, 52)[0],
            )
    return None


def _hfs_uuid(identifier: bytes) -> str:
    if not any(identifier):
        return ""
    raw = bytearray(hashlib.md5(_HFS_SPACE + identifier, usedforsecurity=False).digest())
    raw[6] = 0x30 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return uuid_text(bytes(raw))


def probe_hfs(window: Window) -> Detected | None:
    raw = window.at(1024, 162)
    if not raw or raw[:2] != b"BD" or raw[124:126] in (b"H+", b"HX"):
        return None
    (size,) = struct.unpack_from(">I", raw, 20)
    if size & 511 or not size:
        return None
    return Detected(
        type="hfs",
        usage="filesystem",
        label=label_text(raw[37 : 37 + min(raw[36], 27)]),
        uuid=_hfs_uuid(raw[116:124]),
        block_size=size,
    )


def probe_hfsplus(window: Window) -> Detected | None:
    """HFS+ and HFSX, also inside an HFS wrapper."""
    raw = window.at(1024, 512)
    base = 0
    if raw[:2] == b"BD":
        if raw[124:126] not in (b"H+", b"HX"):
            return None
        (size, first), embedded = struct.unpack_from(">I4xH", raw, 20), struct.unpack_from(">H", raw, 126)[0]
        base = first * 512 + embedded * size
        raw = window.at(base + 1024, 512)
    if raw[:2] not in (b"H+", b"HX"):
        return None
    (block,) = struct.unpack_from(">I", raw, 40)
    if block < 512 or block & block - 1:
        return None
    return Detected(
        type="hfsplus",
        usage="filesystem",
        label=_catalog_label(window, base, raw, block),
        uuid=_hfs_uuid(raw[104:112]),
        block_size=block,
    )


def _catalog_label(window: Window, base: int, header: bytes, block: int) -> str:
    """The name in the first record of the catalog's first leaf."""
    extents = list(struct.iter_unpack(">II", header[288:352]))
    tree = window.at(base + extents[0][0] * block, 512)
    if not tree:
        return ""
    (leaf,), (size,) = struct.unpack_from(">I", tree, 24), struct.unpack_from(">H", tree, 32)
    if size < 512:
        return ""
    at = leaf * size // block
    for start, count in extents:
        if at < count:
            node = window.at(base + (start + at) * block, size)
            break
        at -= count
    else:
        return ""
    if not node or node[8] != 0xFF:
        return ""
    parent, length = struct.unpack_from(">IH", node, 16)
    return label_text(node[22 : 22 + 2 * length], "utf-16-be") if parent == 1 and length <= 255 else ""


def probe_apfs(window: Window) -> Detected | None:
    """The container's superblock with its Fletcher checksum."""
    raw = window.at(0, 4096)
    if not raw:
        return None
    (kind, subkind) = struct.unpack_from("<HxxI", raw, 24)
    (block,) = struct.unpack_from("<I", raw, 36)
    if kind != 1 or subkind or not 4096 <= block <= 65536 or block & block - 1:
        return None
    whole = window.at(0, block)
    if not whole or not _fletcher_is_right(whole):
        return None
    return Detected(type="apfs", usage="filesystem", uuid=uuid_text(raw[72:88]), block_size=block)


def _fletcher_is_right(block: bytes) -> bool:
    """Whether a block's Fletcher-64 checksum, in its first 8 bytes, is that of the rest."""
    low = high = 0
    for (word,) in struct.iter_unpack("<I", block[8:]):
        low = (low + word) % 0xFFFFFFFF
        high = (high + low) % 0xFFFFFFFF
    first = 0xFFFFFFFF - (low + high) % 0xFFFFFFFF
    second = 0xFFFFFFFF - (low + first) % 0xFFFFFFFF
    return struct.unpack_from("<II", block) == (first, second)


def probe_refs(window: Window) -> Detected | None:
    raw = window.at(0, 512)
    if not raw or raw[16:20] != b"FSRS":
        return None
    (sector,) = struct.unpack_from("<I", raw, 32)
    if sector < 512 or sector > 4096 or sector & sector - 1:
        return None
    return Detected(type="ReFS", usage="filesystem")


def probe_hpfs(window: Window) -> Detected | None:
    raw, spare, boot = window.at(0x2000, 16), window.at(0x2200, 4), window.at(0, 512)
    if spare != b"\x49\x18\x91\xf9" or not raw:
        return None
    named = boot[510:512] == b"\x55\xaa" and boot[0x36:0x3A] == b"HPFS" and boot[0x26] == 0x28
    return Detected(
        type="hpfs",
        usage="filesystem",
        label=label_text(boot[43:54]) if named else "",
        uuid=f"{boot[42]:02X}{boot[41]:02X}-{boot[40]:02X}{boot[39]:02X}" if named else "",
        version=str(raw[8]),
        block_size=512,
    )


def probe_vmfs(window: Window) -> Detected | None:
    raw = window.at(0x200000, 157)
    if raw[:4] != b"\x5e\xf1\xab\x2f":
        return None
    return Detected(
        type="VMFS",
        usage="filesystem",
        label=label_text(raw[29:157]),
        uuid=_vmfs_uuid(raw[9:25]),
        version=str(raw[8]),
    )


def _vmfs_uuid(raw: bytes) -> str:
    """VMware's way of writing 16 bytes: 8-8-4-12 digits, the first three fields little-endian."""
    return f"{raw[3::-1].hex()}-{raw[7:3:-1].hex()}-{raw[9:7:-1].hex()}-{raw[10:].hex()}"
