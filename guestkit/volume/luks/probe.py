"""Recognition of LUKS version 1 and 2 by either of the two headers.

Spec: LUKS1 On-Disk Format 1.2.3 and LUKS2 On-Disk Format 1.1.1, "Binary header".
"""

from __future__ import annotations

from guestkit.probe import Detected, Window, label_text

_PRIMARY, _SECONDARY = b"LUKS\xba\xbe", b"SKUL\xba\xbe"
# where the second header may be, by the size of the first
_SECOND_AT = (0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000)


def probe(window: Window) -> Detected | None:
    raw = window.at(0, 512)
    if raw[:6] == _PRIMARY:
        version = int.from_bytes(raw[6:8], "big")
        if version == 1:
            return Detected(type="crypto_LUKS", usage="crypto", uuid=label_text(raw[168:208]), version="1")
        if version == 2 and not any(raw[256:264]):
            return _second_version(raw)
        return None
    for offset in _SECOND_AT:
        raw = window.at(offset, 512)
        if raw[:8] == _SECONDARY + b"\0\2" and int.from_bytes(raw[256:264], "big") == offset:
            return _second_version(raw)
    return None


def _second_version(raw: bytes) -> Detected:
    return Detected(
        type="crypto_LUKS", usage="crypto", label=label_text(raw[24:72]), uuid=label_text(raw[168:208]), version="2"
    )
