"""Recognition of Linux swap areas and of suspended systems in them (kernel mm/swapfile.c, include/linux/swap.h)."""

from __future__ import annotations

import struct

from guestkit.probe import Detected, Window, label_text, uuid_text

PAGES = (4096, 8192, 16384, 32768, 65536)
_MAGIC = 10  # bytes, the last ones of the first page
_SUSPENDED = (b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c", b"LINHIB0001")


def probe(window: Window) -> Detected | None:
    for page in PAGES:
        magic = window.at(page - _MAGIC, _MAGIC)
        suspended = magic.startswith(_SUSPENDED)
        if not suspended and magic not in (b"SWAP-SPACE", b"SWAPSPACE2"):
            continue
        if window.at(0, 8) == b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c":  # TuxOnIce's, told at its own place
            return None
        label = uuid = ""
        version = "0" if magic == b"SWAP-SPACE" else "1"
        if magic != b"SWAP-SPACE":
            header = window.at(1024, 44)
            order = "<" if header[:4] == b"\1\0\0\0" else ">"
            number, last = struct.unpack_from(f"{order}II", header)
            if not suspended and (number != 1 or not last):
                return None
            if number == 1:
                uuid, label = uuid_text(header[12:28]), label_text(header[28:44])
        if suspended:
            version = {b"\xed": "tuxonice", b"L": "linhib0001"}.get(magic[:1], magic[:9].decode("latin-1").lower())
            return Detected(type="swsuspend", usage="other", label=label, uuid=uuid, version=version)
        return Detected(type="swap", usage="other", label=label, uuid=uuid, version=version, block_size=0)
    return None
