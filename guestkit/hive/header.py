"""The base block of a hive or of its log, and the sum that tells whether it is whole.

Spec: regf, "Base block".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from guestkit.errors import Corrupt, Unsupported
from guestkit.layout import Layout

SIZE = 4096  # bytes before the bins
HEAD = 512  # bytes of it that mean anything, and that logs keep
PAGE = 4096  # what bins are multiples of
MOST_BINS = 0x7FFFFFFF & -PAGE  # bytes; offsets of 31 bits reach no further
PRIMARY, LOG_XP, LOG_2000, LOG_NEW = 0, 1, 2, 6  # file types

_BASE = Layout(
    "base_block",
    HEAD,
    "<",
    signature=(0, "4s"),
    primary_sequence=(4, "I"),
    secondary_sequence=(8, "I"),
    last_written=(12, "Q"),
    major=(20, "I"),
    minor=(24, "I"),
    file_type=(28, "I"),
    file_format=(32, "I"),
    root_cell=(36, "I"),
    bins_size=(40, "I"),
    clustering=(44, "I"),
    name=(48, "64s"),
    checksum=(508, "I"),
)


class Base(NamedTuple):
    """What a base block says. `written` is a FILETIME; `bins` bytes of bins follow in the hive's file."""

    primary: int
    secondary: int
    written: int
    minor: int
    type: int
    root: int
    bins: int
    sector: int  # bytes
    name: str  # the end of the path that the hive had
    whole: bool  # its sum is right


def xor_sum(head: bytes) -> int:
    """The sum of a base block's first 508 bytes."""
    total = 0
    for word in struct.unpack_from("<127I", head):
        total ^= word
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(total, total)


def parse_base(head: bytes) -> Base:
    """Decode the first 512 bytes of a hive or a log. Raises: Corrupt; Unsupported for another version."""
    if len(head) < HEAD:
        raise Corrupt("hive", "size", found=len(head), expected=f"at least {HEAD}")
    signature, primary, secondary, written, major, minor, type, format, root, bins, clustering, name, told = (
        _BASE.unpack_from(head)
    )
    if signature != b"regf":
        raise Corrupt("hive base block", "signature", found=signature, expected=b"regf")
    whole = told == xor_sum(head)
    if whole and (major != 1 or not 2 <= minor <= 6):
        raise Unsupported(f"hive version {major}.{minor}")
    if whole and format != 1:
        raise Unsupported("hive format", bit=format)
    sector = clustering * 512 if clustering in (1, 2, 4, 8) else 512
    text = name.decode("utf-16-le", "replace").partition("\0")[0]
    return Base(primary, secondary, written, minor, type, root, bins, sector, text, whole)


def check_bins(base: Base) -> None:
    """Raises: Corrupt unless the bins have a size that they may have."""
    if not 0 < base.bins <= MOST_BINS or base.bins % PAGE:
        raise Corrupt("hive base block", "hive bins data size", found=base.bins, expected=f"a multiple of {PAGE}")
