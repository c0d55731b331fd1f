"""Names on FAT: long ones in UTF-16, short ones of 8 and 3 bytes in a code page, and their folding.

Spec: Microsoft fatgen103, "FAT Long Directory Entries"; what a short name shows is what Linux's vfat shows with
shortname=mixed and utf8. A lone surrogate is kept, as three bytes, where Linux drops it: no name is lost.
"""

from __future__ import annotations

import codecs
from codecs import utf_16_le_decode
from functools import cache

from guestkit.errors import InvalidArgument

CODE_PAGES = (
    *(437, 720, 737, 775, 850, 852, 855, 857, 858, 860, 861, 862, 863, 864, 865, 866, 869, 874),
    *(932, 936, 949, 950, 1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258),
)
_DOUBLE = (932, 936, 949, 950)

LOWER_BASE, LOWER_EXT = 0x08, 0x10  # in NTRes: the part is shown in lower case


class ShortNames:
    """The 11 bytes of a short name as text, by one code page."""

    __slots__ = ("_codec", "_double", "_lower")

    def __init__(self, page: str) -> None:
        """`page`: the option "codepage". Raises: InvalidArgument."""
        if not (page.isascii() and page.isdigit()) or len(page) > 4 or int(page) not in CODE_PAGES:
            known = ", ".join(map(str, CODE_PAGES))
            raise InvalidArgument(f"codepage={page} is not known; known are {known}")
        self._codec = f"cp{int(page)}"
        codecs.lookup(self._codec)
        self._double = int(page) in _DOUBLE
        self._lower = b"" if self._double else _lower_table(self._codec)

    def text(self, raw: bytes, case: int) -> str:
        """The name as it is shown, "" where there is none. `raw`: DIR_Name; `case`: DIR_NTRes."""
        if raw[0] == 0x05:  # stands for the byte that marks deleted entries
            raw = b"\xe5" + raw[1:]
        base = raw[:8].split(b"\0", 1)[0].rstrip(b" ")
        ext = raw[8:].split(b"\0", 1)[0].rstrip(b" ")
        name = self._part(base, bool(case & LOWER_BASE))
        return f"{name}.{self._part(ext, bool(case & LOWER_EXT))}" if ext else name

    def _part(self, raw: bytes, lower: bool) -> str:
        if self._double:
            text = raw.decode(self._codec, "replace").replace("\ufffd", "?")
            return "".join(char.lower() if char.isascii() else char for char in text) if lower else text
        if lower:
            raw = raw.translate(self._lower)
        return raw.decode(self._codec, "replace").replace("\ufffd", "?")


@cache
def _lower_table(codec: str) -> bytes:
    """Each byte's lower case in a code page of single bytes; itself where that is not in the page."""
    table = bytearray(range(256))
    for value in range(256):
        try:
            table[value] = bytes([value]).decode(codec).lower().encode(codec)[0]
        except UnicodeError:  # no character, or none with a lower case in this page
            pass
    return bytes(table)


# each byte rotated right by one bit, for sums that have not been cut to 8 bits as well
_TURNED = [value >> 1 & 0x7F | (value & 1) << 7 for value in range(512)]


def checksum(raw: bytes) -> int:
    """What each long entry holds of the 11 bytes of the short name behind it."""
    turn = _TURNED
    total = 0
    for byte in raw:
        total = turn[total] + byte
    return total & 0xFF


def long_text(pieces: bytes) -> str:
    """The name in the UTF-16 of the long entries, in order; what is behind the NUL is padding."""
    return utf_16_le_decode(pieces, "surrogatepass", True)[0].partition("\0")[0]


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class _Upper(dict[int, int]):
    """Code unit -> its upper case, one for one as Windows and the kernel's tables have it."""

    def __missing__(self, code: int) -> int:
        upper = chr(code).upper() if code < 0x10000 else ""
        self[code] = found = ord(upper) if len(upper) == 1 else code
        return found


_UPPER = _Upper()


def fold(text: str) -> str:
    """A name for comparison: upper case, without the dots at its end, which mean nothing."""
    return (text.upper() if text.isascii() else text.translate(_UPPER)).rstrip(".")
