"""MFT records and index blocks: fixups, the header, and the attributes that stand in one record.

Spec: libfsntfs documentation, "The MFT entry", "The fix-up values", "The MFT attribute". An attribute here is what one
record holds of it; attributes.py puts those together that an attribute list spreads over several records.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.layout import Layout

STANDARD_INFORMATION, ATTRIBUTE_LIST, FILE_NAME, OBJECT_ID = 0x10, 0x20, 0x30, 0x40
SECURITY_DESCRIPTOR, VOLUME_NAME, VOLUME_INFORMATION, DATA = 0x50, 0x60, 0x70, 0x80
INDEX_ROOT, INDEX_ALLOCATION, BITMAP, REPARSE_POINT = 0x90, 0xA0, 0xB0, 0xC0
EA_INFORMATION, EA, LOGGED_UTILITY_STREAM = 0xD0, 0xE0, 0x100
END = 0xFFFFFFFF

COMPRESSED, ENCRYPTED, SPARSE = 0x0001, 0x4000, 0x8000  # flags of an attribute
_COMPRESSION_MASK = 0x00FF

IN_USE, DIRECTORY = 0x1, 0x2  # flags of a record

REFERENCE = (1 << 48) - 1  # the record number in a file reference; the sequence number stands above

_HEADER = Layout(
    "mft_record",
    44,
    "<",
    magic=(0, "4s"),
    usa_ofs=(4, "H"),
    usa_count=(6, "H"),
    sequence_number=(16, "H"),
    link_count=(18, "H"),
    attrs_offset=(20, "H"),
    flags=(22, "H"),
    bytes_in_use=(24, "I"),
    bytes_allocated=(28, "I"),
    base_mft_record=(32, "Q"),
)
header = _HEADER.unpack_from
attribute_head = struct.Struct("<IIBBHHH").unpack_from  # type, length, non-resident, name length, name, flags, instance
resident_head = struct.Struct("<IH").unpack_from  # value length, value offset; at 16
nonresident_head = struct.Struct("<qqHB").unpack_from  # lowest and highest VCN, runs, compression unit; at 16
sizes_head = struct.Struct("<qqq").unpack_from  # allocated, data, initialised size; at 40

_pair = struct.Struct("<HH").unpack_from
_new = tuple.__new__


class Piece(NamedTuple):
    """What one record holds of an attribute. `value` is None where it is not resident."""

    type: int
    name: bytes  # UTF-16
    flags: int
    instance: int
    value: bytes | None
    lowest: int  # VCNs of the runs
    highest: int
    runs: bytes
    unit: int  # compression unit as a power of two of clusters
    allocated: int  # sizes in bytes, right in the piece with VCN 0
    size: int
    initialized: int
    packed: int  # what a compressed or sparse attribute takes on disk; `allocated` where neither


class Record(NamedTuple):
    """One MFT record, fixups applied."""

    number: int
    sequence: int
    links: int
    flags: int
    base: int  # reference to the record that this one extends; 0 for a file's own
    raw: bytes
    first: int  # offset of its first attribute
    used: int  # bytes in use


def fixed(raw: bytes, magic: bytes) -> bytes:
    """Return a record or index block with its fixups verified and applied.

    Each 512 bytes end in the update sequence number, whatever the size of a sector is.
    Raises: Corrupt (EUCLEAN) for another magic, or when a write was torn.
    """
    if raw[:4] != magic:
        raise Corrupt("multi-sector record", "magic", found=bytes(raw[:4]), expected=magic)
    at, count = _pair(raw, 4)
    sectors = len(raw) >> 9
    if count != sectors + 1 or at & 1 or at + 2 * count > 510 or at < 8:
        raise Corrupt("multi-sector record", "usa_count", found=count, expected=sectors + 1)
    mark = raw[at : at + 2]
    if sectors == 2 and raw[510:512] == mark and raw[1022:] == mark:  # nearly every record
        return raw[:510] + raw[at + 2 : at + 4] + raw[512:1022] + raw[at + 4 : at + 6]
    buf = bytearray(raw)
    words = memoryview(buf).cast("H")
    ends = words[255::256]
    found = ends.tolist()
    if found.count(words[at >> 1]) != sectors:
        torn = next(number for number, word in enumerate(found) if word != words[at >> 1])
        raise Corrupt("multi-sector record", f"sector {torn}: update sequence number: torn write")
    ends[:] = words[(at >> 1) + 1 : (at >> 1) + 1 + sectors]
    return bytes(buf)


def fix_run(buf: bytearray, size: int) -> bool:
    """Apply the fixups of neighbouring records of `size` bytes in `buf`, all at once.

    False, and nothing is changed, where one of them is not like the first, or is damaged: fixed() tells which.
    """
    at, count = _pair(buf, 4)
    sectors = size >> 9
    if buf[:4] != b"FILE" or count != sectors + 1 or at & 1 or at + 2 * count > 510 or at < 8:
        return False
    view = memoryview(buf)
    heads = view.cast("Q")[:: size >> 3].tolist()  # magic, place and number of the fixups
    if heads.count(heads[0]) != len(heads):
        return False
    words = view.cast("H")
    step = size >> 1  # in words
    marks = words[at >> 1 :: step].tolist()
    ends = [words[place::step] for place in range(255, step, 256)]
    for end in ends:
        if end.tolist() != marks:
            return False
    for sector, end in enumerate(ends, (at >> 1) + 1):
        end[:] = words[sector::step]
    return True


def parse_record(raw: bytes, number: int) -> Record:
    """Decode the header of record `number` and apply its fixups. Raises: Corrupt."""
    return parse_fixed(fixed(raw, b"FILE"), number)


def parse_fixed(buf: bytes, number: int) -> Record:
    """Decode the header of record `number`, whose fixups were applied. Raises: Corrupt."""
    _, _, _, sequence, links, first, flags, used, allocated, base = header(buf)
    if allocated != len(buf):
        raise Corrupt("MFT record", "bytes_allocated", found=allocated, expected=len(buf))
    if used > len(buf) or used & 7 or not 42 <= first < used or first & 7:
        raise Corrupt("MFT record", "bytes_in_use", found=used)
    return _new(Record, (number, sequence, links, flags, base, buf, first, used))


def parse_pieces(record: Record) -> list[Piece]:
    """Decode all attributes of a record. Raises: Corrupt at the first that is damaged."""
    found: list[Piece] = []
    buf, at, used = record.raw, record.first, record.used
    while True:
        if at + 4 > used:
            raise Corrupt("MFT record", "attributes", expected="an end marker")
        if buf[at : at + 4] == b"\xff\xff\xff\xff":
            return found
        if at + 16 > used:
            raise Corrupt("MFT record", "attributes", expected="an end marker")
        kind, length, nonresident, name_length, name_at, flags, instance = attribute_head(buf, at)
        if length < 24 or length & 7 or at + length > used:
            raise Corrupt(f"attribute 0x{kind:x}", "length", found=length)
        if not kind or kind & 0xF or nonresident > 1:
            raise Corrupt("attribute", "type", found=kind)
        name = b""
        if name_length:
            if name_at + 2 * name_length > length:
                raise Corrupt(f"attribute 0x{kind:x}", "name_offset", found=name_at)
            name = buf[at + name_at : at + name_at + 2 * name_length]
        if nonresident:
            found.append(_nonresident(buf, at, length, kind, name, flags, instance))
        else:
            size, place = resident_head(buf, at + 16)
            if place + size > length:
                raise Corrupt(f"attribute 0x{kind:x}", "value_length", found=size)
            value = buf[at + place : at + place + size]
            room = size + 7 & ~7
            found.append(
                _new(Piece, (kind, name, flags, instance, value, 0, -1, b"", 0, room, size, size, room)),
            )
        at += length


def _nonresident(buf: bytes, at: int, length: int, kind: int, name: bytes, flags: int, instance: int) -> Piece:
    what = f"attribute 0x{kind:x}"
    if length < 64:
        raise Corrupt(what, "length", found=length, expected="at least 64")
    lowest, highest, runs_at, unit = nonresident_head(buf, at + 16)
    if not 40 <= runs_at <= length:
        raise Corrupt(what, "mapping_pairs_offset", found=runs_at)
    if lowest < 0 or highest < lowest - 1 or highest >> 55 > 0:
        raise Corrupt(what, "highest_vcn", found=highest, expected=f"at least {lowest - 1}")
    allocated = size = initialized = packed = 0
    if not lowest:
        allocated, size, initialized = sizes_head(buf, at + 40)
        packed = allocated
        if flags & (_COMPRESSION_MASK | SPARSE) and runs_at >= 72 and length >= 72:
            packed = int.from_bytes(buf[at + 64 : at + 72], "little")
        if size < 0 or initialized < 0 or allocated < 0:
            raise Corrupt(what, "data_size", found=size)
        if initialized > size or size > allocated:
            raise Corrupt(what, "data_size", found=size, expected=f"{initialized} to {allocated}")
    runs = buf[at + runs_at : at + length]
    return _new(
        Piece, (kind, name, flags, instance, None, lowest, highest, runs, unit, allocated, size, initialized, packed)
    )
