"""The volume's up-case table, by which names are compared, and the hash of a name.

Spec: Microsoft's exFAT specification, sections 7.2 and 7.6.4.
"""

from __future__ import annotations

import struct
from array import array

from guestkit.errors import Corrupt

MOST_BYTES = 1 << 18  # of a table: twice what all code units take
_UNITS = 1 << 16
_SKIP = 0xFFFF  # in a compressed table: so many units, as the next word says, stay as they are


def table_checksum(data: bytes) -> int:
    total = 0
    for byte in data:
        total = (total >> 1 | (total & 1) << 31) + byte & 0xFFFFFFFF
    return total


def parse_table(data: bytes, checksum: int) -> array[int]:
    """Return the upper case of each code unit. Raises: Corrupt."""
    if table_checksum(data) != checksum:
        raise Corrupt("up-case table", "TableChecksum", found=checksum, expected=table_checksum(data))
    words = struct.unpack(f"<{len(data) // 2}H", data[: len(data) & ~1])
    table = array("H", range(_UNITS))
    unit = at = 0
    while at < len(words) and unit < _UNITS:
        word = words[at]
        at += 1
        if word == _SKIP and at < len(words):
            unit += words[at]
            at += 1
        else:
            table[unit] = word
            unit += 1
    return table


def ascii_table() -> array[int]:
    """What every table begins with: for a volume whose own is damaged."""
    table = array("H", range(_UNITS))
    for unit in range(ord("a"), ord("z") + 1):
        table[unit] = unit - 32
    return table


def units(text: str) -> tuple[int, ...]:
    """The UTF-16 code units of a text."""
    raw = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(raw) // 2}H", raw)


def fold(text: str, table: array[int]) -> bytes:
    """A name in upper case, as UTF-16 in the byte order of the volume."""
    folded = [table[unit] for unit in units(text)]
    return struct.pack(f"<{len(folded)}H", *folded)


def name_hash(folded: bytes) -> int:
    """NameHash of a name in upper case."""
    total = 0
    for byte in folded:
        total = (total >> 1 | (total & 1) << 15) + byte & 0xFFFF
    return total
