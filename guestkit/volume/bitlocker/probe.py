"""Recognition of BitLocker volumes: Vista, Windows 7 and later, To Go.

Spec: libbde documentation, "Volume header". A header counts when its metadata block is where it says.
"""

from __future__ import annotations

from guestkit.probe import Detected, Window, guid_text

_FVE = b"-FVE-FS-"


def probe(window: Window) -> Detected | None:
    raw = window.at(0, 512)
    start = raw[:11]
    if start == b"\xeb\x52\x90" + _FVE:
        return Detected(type="BitLocker", usage="crypto")
    if start == b"\xeb\x58\x90" + _FVE:
        guid, place = raw[160:176], raw[176:184]
    elif start == b"\xeb\x58\x90MSWIN4.1":
        guid, place = raw[424:440], raw[440:448]
    else:
        return None
    offset = int.from_bytes(place, "little")
    metadata = window.at(offset, 112) if offset else b""
    if metadata[:8] != _FVE:
        return None
    return Detected(
        type="BitLocker",
        usage="crypto",
        version=str(int.from_bytes(metadata[10:12], "little")),
        # of the volume, in the metadata header behind the block header; blkid gives none
        set_uuid=guid_text(metadata[80:96]),
        member=guid_text(guid),
    )
