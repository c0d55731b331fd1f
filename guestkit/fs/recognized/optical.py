"""Recognition of ISO 9660, High Sierra and UDF by their volume descriptors (ECMA-119, ECMA-167, UDF 2.60)."""

from __future__ import annotations

import struct

from guestkit.probe import Detected, Window, label_text

_DESCRIPTORS = 0x8000
_MAX_DESCRIPTORS = 64
_RECOGNITION = (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"TEA01")


def probe_iso9660(window: Window) -> Detected | None:
    """The label is Joliet's where it says more than the primary one; the UUID is the date of the last change."""
    raw = window.at(_DESCRIPTORS, 2048)
    if not raw:
        return None
    if raw[9:14] == b"CDROM":
        return Detected(
            type="iso9660", usage="filesystem", label=label_text(raw[48:80]), version="High Sierra", block_size=2048
        )
    if raw[1:6] != b"CD001":
        return None
    name, version = raw[40:72], ""
    label = label_text(name)
    for index in range(1, 17):
        extra = window.at(_DESCRIPTORS + index * 2048, 2048)
        if not extra or extra[0] == 0xFF:
            break
        if extra[0] == 2 and extra[88:91] in (b"%/@", b"%/C", b"%/E"):
            version = "Joliet Extension"
            if extra[40:72:2] != bytes(16) or extra[41:72:2] != name[:16]:
                label = label_text(extra[40:72], "utf-16-be")
            break
    return Detected(
        type="iso9660",
        usage="filesystem",
        label=label,
        uuid=_date(raw[830:847]) or _date(raw[813:830]),
        version=version,
        block_size=2048,
    )


def _date(raw: bytes) -> str:
    if (raw[:16] == b"0" * 16 and raw[16] == 0) or not any(raw[:16]):
        return ""
    text = raw[:16].decode("latin-1")
    return "-".join((text[:4], *(text[at : at + 2] for at in range(4, 16, 2))))


def probe_udf(window: Window) -> Detected | None:
    if not _is_recognized(window):
        return None
    for block in dict.fromkeys((window.sector_size, 512, 1024, 2048, 4096)):
        anchor = window.at(256 * block, 24)
        if anchor and struct.unpack_from("<H10xI", anchor) == (2, 256):
            return _udf(window, block, *struct.unpack_from("<II", anchor, 16))
    return None


def _is_recognized(window: Window) -> bool:
    """Whether the volume recognition sequence names an NSR descriptor."""
    for size in (2048, 4096):
        for index in range(_MAX_DESCRIPTORS):
            name = window.at(_DESCRIPTORS + index * size + 1, 5)
            if name in (b"NSR02", b"NSR03"):
                return True
            if name not in _RECOGNITION:
                break
    return False


def _udf(window: Window, block: int, length: int, start: int) -> Detected:
    """Read what the main sequence of `length` bytes at block `start` says."""
    label = uuid = ""
    revision = 0
    integrity = 0
    for index in range(start, start + min(length // block, _MAX_DESCRIPTORS)):
        raw = window.at(index * block, 512)
        if not raw:
            break
        kind, place = struct.unpack_from("<H10xI", raw)
        if place != index or kind in (0, 8):
            break
        if kind == 1 and not uuid:
            uuid = _set_uuid(_dstring(raw[72:200]))
        elif kind == 6:
            label = label or _dstring(raw[84:212]).rstrip()
            if not revision and raw[217:236] == b"*OSTA UDF Compliant":
                (revision,) = struct.unpack_from("<H", raw, 240)
            if not integrity and struct.unpack_from("<I", raw, 268)[0]:
                (integrity,) = struct.unpack_from("<I", raw, 436)
    if integrity:
        raw = window.at(integrity * block, 512)
        if raw and struct.unpack_from("<H10xI", raw) == (9, integrity):
            (partitions, size) = struct.unpack_from("<II", raw, 72)
            # the implementation's part, behind two numbers a partition
            use = window.at(integrity * block + 80 + 8 * partitions, 46) if size >= 46 and partitions < 4096 else b""
            if use:
                revision = struct.unpack_from("<H", use, 40)[0] or revision
    version = f"{revision >> 8:x}.{revision & 0xFF:02x}" if revision else ""
    return Detected(type="udf", usage="filesystem", label=label, uuid=uuid, version=version, block_size=block)


def _dstring(raw: bytes) -> str:
    """An OSTA compressed Unicode string in a field of fixed size, whose last byte is its length."""
    used = raw[1 : max(1, min(raw[-1], len(raw) - 1))]
    if raw[0] == 8:
        return used.decode("latin-1").partition("\0")[0]
    return label_text(used, "utf-16-be") if raw[0] == 16 else ""


def _set_uuid(name: str) -> str:
    """libblkid's rule: 16 characters of the volume set identifier, those that are no hexadecimal digits spelled out."""
    raw = name.encode("utf-8", "surrogatepass")[:16]
    if len(raw) < 8:
        return ""
    digits = b"0123456789abcdefABCDEF"
    plain = next((index for index, byte in enumerate(raw) if byte not in digits), len(raw))
    if plain < 8:
        return raw[:8].hex()
    if plain < 16:
        return raw[:8].decode().lower() + raw[8:12].ljust(4, b"\0").hex()
    return raw.decode().lower()
