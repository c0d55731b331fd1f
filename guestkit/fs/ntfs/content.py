"""What an attribute holds: the Source of a resident, mapped or compressed attribute.

Spec: libfsntfs documentation, "Data runs", "Compressed data". Behind the initialised size all bytes are zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from guestkit.errors import Corrupt, NeedKey, Unsupported
from guestkit.fs.ntfs.record import COMPRESSED, DATA, DIRECTORY, ENCRYPTED, IN_USE, Piece, Record
from guestkit.fs.ntfs.runs import RunMap, Segment, decode_runs
from guestkit.fs.ntfs.volume import Volume
from guestkit.mapped import Contiguous, mapped
from guestkit.source import BytesSource, Extent, Source

_head = struct.Struct("<IIBB2xH").unpack_from  # type, length, non-resident, name length, flags of an attribute
_mapped = struct.Struct("<qqH6xqqq").unpack_from  # lowest, highest VCN, place of runs, sizes; at 16
_resident = struct.Struct("<IH").unpack_from  # value length and offset; at 16
_attributes = struct.Struct("<I").unpack_from
_SPECIAL = 0x404  # file attributes: a system file, a reparse point


class Mapped(Source):
    """An attribute's bytes: clusters where the runs say, zeros for holes and behind the initialised size."""

    __slots__ = ("_initialized", "_map", "_volume", "_where", "size")

    def __init__(self, volume: Volume, map: RunMap, size: int, initialized: int, where: str) -> None:
        self._volume = volume
        self._map = map
        self._initialized = initialized
        self._where = where
        self.size = size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        end = offset + length
        stop = min(end, self._initialized)
        if offset < stop:
            cluster = self._volume.cluster
            try:
                runs = self._map.runs(offset // cluster, (stop + cluster - 1) // cluster)
                yield from mapped(self._volume.device, runs, cluster, offset, stop, data=0)
            except Corrupt as error:
                error.within(self._where)
                raise
            offset = stop
        if offset < end:
            yield Extent(offset, end - offset, None, 0)


def open_pieces(volume: Volume, pieces: list[Piece], where: str) -> Source:
    """Return the bytes of an attribute. `pieces`: all of it, ascending by VCN.

    Raises: Corrupt; NeedKey when it is encrypted; Unsupported for an unknown way of compression.
    """
    first = pieces[0]
    if first.flags & ENCRYPTED and first.type == DATA:  # in a directory's index it is meant for new files
        raise NeedKey("the file is encrypted by EFS", where=where)
    if first.value is not None:
        return BytesSource(first.value)
    if first.lowest:
        raise Corrupt("attribute", "lowest_vcn", found=first.lowest, expected=0, where=where)
    size = first.size
    if first.flags & 0xFF:
        if first.flags & 0xFF != COMPRESSED:
            raise Unsupported("NTFS compression method", bit=first.flags & 0xFF, where=where)
        map = run_map(volume, pieces, where)
        from guestkit.fs.ntfs.compressed import compressed_source

        return compressed_source(volume, map, first, where)
    if len(pieces) == 1 and first.highest >= 0 and first.initialized == size:
        try:
            runs = decode_runs(Segment(0, first.highest, first.runs), volume.clusters)
        except Corrupt as error:
            error.within(where)
            raise
        if len(runs) == 1 and runs[0][1] >= 0 and runs[0][2] * volume.cluster >= size:
            return Contiguous(volume.device, runs[0][1] * volume.cluster, size)
    return Mapped(volume, run_map(volume, pieces, where), size, first.initialized, where)


def plain_file(volume: Volume, record: Record) -> Source | None:
    """Return the bytes of a file that stands in its own record, in one run or in the record itself.

    None for anything else, damage too: an Inode tells.
    """
    if record.flags & (IN_USE | DIRECTORY) != IN_USE or record.base:
        return None
    buf, at, used = record.raw, record.first, record.used
    attributes = _SPECIAL
    while at + 24 <= used:
        kind, length, nonresident, named, flags = _head(buf, at)
        if length < 24 or length & 7 or at + length > used:
            return None
        if kind == DATA and not named:
            break
        if kind == 0x10:
            size, place = _resident(buf, at + 16)
            if nonresident or size < 36 or place + size > length:
                return None
            (attributes,) = _attributes(buf, at + place + 32)
        elif kind <= 0x20 or kind > DATA:
            return None
        at += length
    else:
        return None
    if flags or attributes & _SPECIAL:
        return None
    if not nonresident:
        size, place = _resident(buf, at + 16)
        return BytesSource(buf[at + place : at + place + size]) if place + size <= length else None
    if length < 64:
        return None
    lowest, highest, runs_at, allocated, size, initialized = _mapped(buf, at + 16)
    if lowest or highest < 0 or not 40 <= runs_at <= length or not 0 <= initialized == size <= allocated:
        return None
    try:
        runs = decode_runs(Segment(0, highest, buf[at + runs_at : at + length]), volume.clusters)
    except Corrupt:
        return None
    _, lcn, count = runs[0]
    if len(runs) > 1 or lcn < 0 or count * volume.cluster < size:
        return None
    return Contiguous(volume.device, lcn * volume.cluster, size)


def run_map(volume: Volume, pieces: list[Piece], where: str) -> RunMap:
    """Return the runs of an attribute that is not resident. Raises: Corrupt."""
    try:
        if any(piece.value is not None for piece in pieces):
            raise Corrupt("attribute", "non_resident", found="both kinds of pieces")
        return RunMap([Segment(piece.lowest, piece.highest, piece.runs) for piece in pieces], volume.clusters)
    except Corrupt as error:
        error.within(where)
        raise
