"""Names: UTF-16 on disk, UTF-8 bytes above; and their order by the volume's upper-case table.

Spec: libfsntfs documentation, "The case folding mappings". Lone surrogates are kept, as three bytes each, in both
directions. The order of names is that of their upper-case code units.
"""

from __future__ import annotations

import sys
from array import array

from guestkit.errors import Corrupt

_SIZE = 1 << 17  # bytes of $UpCase


def to_utf8(name: bytes | bytearray) -> bytes:
    """A UTF-16 name as bytes."""
    return name.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")


def to_utf16(name: bytes) -> bytes | None:
    """A name as NTFS would store it; None when it cannot."""
    try:
        return name.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    except UnicodeError:
        return None


class UpCase:
    """$UpCase: the upper-case form of each UTF-16 code unit."""

    __slots__ = ("_units",)

    def __init__(self, data: bytes) -> None:
        """Raises: Corrupt when `data` is no such table."""
        units = array("H", data[: len(data) & ~1])
        if sys.byteorder == "big":
            units.byteswap()
        # the letters that every such table maps, and those that are capitals already
        if len(data) != _SIZE or list(units[0x61:0x7B]) != list(range(0x41, 0x5B)) or units[0x41] != 0x41:
            raise Corrupt("$UpCase", "table", found=f"{len(data)} bytes")
        self._units = units

    def fold(self, name: bytes) -> bytes:
        """The key by which a UTF-16 name is ordered: its upper-case code units, the high byte first."""
        table = self._units
        units = array("H", name)
        if sys.byteorder == "big":
            units.byteswap()
        folded = array("H", [table[unit] for unit in units])
        if sys.byteorder == "little":
            folded.byteswap()
        return folded.tobytes()
