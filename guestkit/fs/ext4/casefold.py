"""Folding of names in casefolded ext4 directories: canonical decomposition, full case folding, ignorables removed.

Specification: Documentation/admin-guide/ext4.rst "case-insensitive file name lookups" and Unicode 12.1, the only
version that ext4's superblock can name (s_encoding 1). Each code point is mapped by itself until nothing changes,
then marks are put into canonical order, as the kernel's tables do. Python's tables are newer: Unicode's stability
rules keep every assigned code point's folding, so that only code points assigned after 12.1 differ; those that
have a mapping are listed here and left alone, as the kernel leaves all that it does not know.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from guestkit.errors import InvalidArgument

UTF8_12_1 = 1  # s_encoding
STRICT = 0x1  # s_encoding_flags

# Default_Ignorable_Code_Point
_IGNORED = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180E)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)

# assigned in Unicode 13 to 17 with a case folding, a decomposition or a combining class
_LATER = (
    *((0x1ABF, 0x1AEB), (0x1C89, 0x1C8A), (0x1DFA, 0x1DFA), (0x2C2F, 0x2C2F), (0xA7C0, 0xA7C1)),
    *((0xA7C7, 0xA7DC), (0xA7F5, 0xA7F6), (0x0C3C, 0x0C3C), (0x0898, 0x089F), (0x08CA, 0x08D2), (0x0897, 0x0897)),
    *((0x170F, 0x1715), (0x0ECE, 0x0ECE), (0x10570, 0x105FF), (0x10D40, 0x10D8F), (0x10EAB, 0x10EFF)),
    *((0x10F70, 0x10F85), (0x11070, 0x11070), (0x11241, 0x11241), (0x11380, 0x113E2), (0x1193D, 0x11943)),
    *((0x11938, 0x11938), (0x11F41, 0x11F42), (0x16100, 0x1612F), (0x16D40, 0x16D7F), (0x16EA0, 0x16ED3)),
    *((0x1E08F, 0x1E08F), (0x1E2AE, 0x1E2AE), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF), (0x1E6E3, 0x1E6F5)),
    *((0x1DF00, 0x1DFFF), (0x16FF0, 0x16FF1)),
)


def fold(name: bytes, *, strict: bool = False) -> bytes:
    """Return what two names must have in common to be one; a name that is not UTF-8 is returned as it is.

    Raises: InvalidArgument (EINVAL) for such a name where the filesystem is `strict`.
    """
    if name.isascii():
        return name.lower()
    try:
        text = name.decode()
    except UnicodeDecodeError:
        if strict:
            raise InvalidArgument("the name is not UTF-8, which this filesystem requires") from None
        return name
    folded = "".join([_fold_one(character) for character in text])
    return _ordered(folded).encode()


def _within(ranges: tuple[tuple[int, int], ...], code: int) -> bool:
    return any(first <= code <= last for first, last in ranges)


@cache
def _fold_one(character: str) -> str:
    code = ord(character)
    if _within(_IGNORED, code):
        return ""
    if _within(_LATER, code):
        return character
    current = character
    while True:
        mapped = "".join([unicodedata.normalize("NFD", part.casefold()) for part in current])
        if mapped == current:
            break
        current = mapped
    return "".join([part for part in current if not _within(_IGNORED, ord(part))])


def _ordered(text: str) -> str:
    """Put each run of combining marks into the order of their classes."""
    result: list[str] = []
    marks: list[str] = []
    for character in text:
        if unicodedata.combining(character) and not _within(_LATER, ord(character)):
            marks.append(character)
            continue
        marks.sort(key=unicodedata.combining)
        result += marks
        marks = []
        result.append(character)
    marks.sort(key=unicodedata.combining)
    return "".join(result + marks)
