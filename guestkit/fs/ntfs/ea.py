"""Extended attributes in the manner of OS/2: where WSL keeps owner, mode and device numbers.

Spec: MS-FSCC, section 2.4.15; libfsntfs documentation, "Extended attribute".
"""

from __future__ import annotations

import struct

from guestkit.errors import Corrupt

MOST = 64 << 10  # bytes of all of them
_head = struct.Struct("<IBBH").unpack_from


def parse_eas(data: bytes) -> dict[bytes, bytes]:
    """Decode the value of $EA: {name: value}. Raises: Corrupt."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at + 8 <= len(data):
        behind, _, name_length, value_length = _head(data, at)
        end = at + 8 + name_length + 1 + value_length
        if end > len(data):
            raise Corrupt("extended attribute", "length", found=value_length)
        name = data[at + 8 : at + 8 + name_length]
        found[name] = data[end - value_length : end]
        if not behind:
            break
        if behind & 3 or at + behind < end:
            raise Corrupt("extended attribute", "next_entry_offset", found=behind)
        at += behind
    return found


def number(eas: dict[bytes, bytes], name: bytes) -> int | None:
    """A 32-bit value such as that of $LXUID."""
    value = eas.get(name)
    return int.from_bytes(value, "little") if value is not None and len(value) == 4 else None
