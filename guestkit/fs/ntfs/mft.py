"""The master file table: records by number, its own map bootstrapped, and its mirror for the first records.

Spec: libfsntfs documentation, "The MFT", "The attribute list". Nothing is read before it is asked for; many records
are read in runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.content import open_pieces
from guestkit.fs.ntfs.record import Piece, Record, parse_fixed, parse_pieces, parse_record
from guestkit.fs.ntfs.runs import RunMap, Segment
from guestkit.fs.ntfs.volume import Volume
from guestkit.layout import Layout
from guestkit.resolve import resolve
from guestkit.source import Source

_MOST_LIST = 256 << 10  # bytes of an attribute list
_MIRRORED = 4  # records that the mirror holds at least
_READ = 1 << 17  # bytes of records read at once: no more than the processor keeps at hand
_WINDOW = 16  # records read when one is asked for
_GAP = 16 << 10  # bytes between two wanted records that are read rather than skipped

_LIST_ENTRY = Layout(
    "attribute_list_entry",
    26,
    "<",
    type=(0, "I"),
    length=(4, "H"),
    name_length=(6, "B"),
    name_offset=(7, "B"),
    lowest_vcn=(8, "Q"),
    mft_reference=(16, "Q"),
    instance=(24, "H"),
)
_entry = _LIST_ENTRY.unpack_from


class Listed(NamedTuple):
    """One entry of an attribute list."""

    type: int
    name: bytes
    lowest: int
    reference: int
    instance: int


class Table:
    """Reads the records of one volume."""

    def __init__(self, volume: Volume) -> None:
        """Find the table's own map. Raises: Corrupt when record 0 and its mirror are damaged."""
        self._volume = volume
        self.record_size = volume.boot.record_size
        self._source: Source | None = None
        self.count = _MIRRORED  # until its size is known
        self._bootstrap()

    def _bootstrap(self) -> None:
        own = self.record(0)
        pieces = parse_pieces(own)
        data = sorted(_unnamed_data(pieces), key=lambda piece: piece.lowest)
        if not data or data[0].lowest or data[0].value is not None:
            raise Corrupt("$MFT", "$DATA", expected="a non-resident attribute", where="MFT record 0")
        first = data[0]
        if first.size < _MIRRORED * self.record_size or first.flags & 0xFF:
            raise Corrupt("$MFT", "data_size", found=first.size, where="MFT record 0")
        listed = next((piece for piece in pieces if piece.type == r.ATTRIBUTE_LIST), None)
        self._use(data[:1])
        if listed is None:
            return
        entries = parse_list(self.list_bytes([listed], "MFT record 0"), "MFT record 0")
        known = data[:1]
        for entry in entries:
            if entry.type == r.DATA and not entry.name and entry.lowest:
                # each piece lies in records that the pieces before it map
                if entry.reference & r.REFERENCE >= self.count:
                    self._use(known)
                known.append(self.piece(entry, 0, own.sequence))
        self._use(known)

    def _use(self, pieces: Sequence[Piece]) -> None:
        first = pieces[0]
        map = RunMap([Segment(piece.lowest, piece.highest, piece.runs) for piece in pieces], self._volume.clusters)
        size = min(first.initialized, map.end * self._volume.cluster)
        pieces = [first._replace(initialized=size, size=size), *pieces[1:]]
        self._source = resolve(open_pieces(self._volume, pieces, "$MFT"))
        self.count = size // self.record_size

    def record(self, number: int) -> Record:
        """Return record `number`, in use or not; the mirror's copy where that of the table is damaged.

        Raises: NotFound outside the table; Corrupt; SourceError.
        """
        key = (self._volume.token, "r", number)
        known: Record | None = self._volume.cache.get(key)
        if known is not None:
            return known
        if not 0 <= number < self.count:
            raise NotFound(f"no MFT record {number}")
        try:
            found = parse_record(self._raw(number), number)
        except (Corrupt, SourceError) as error:
            error.within(f"MFT record {number}")
            if number >= _MIRRORED:
                raise
            found = self._from_mirror(number, error)
        self._volume.cache.put(key, found, self.record_size + 400)
        return found

    def _raw(self, number: int) -> bytes:
        size = self.record_size
        if self._source is None:
            return self._volume.device.read(self._volume.boot.mft * self._volume.cluster + number * size, size)
        window = number // _WINDOW
        key = (self._volume.token, "w", window)
        data: bytes | None = self._volume.cache.get(key)
        first = window * _WINDOW
        if data is None or len(data) < (number - first + 1) * size:  # it may have ended there when the table was found
            try:
                data = self._source.read(first * size, min(_WINDOW, self.count - first) * size)
            except GuestkitError:  # what is damaged may be a neighbour
                return self._source.read(number * size, size)
            self._volume.cache.put(key, data, len(data) + 100)
        begin = (number - first) * size
        return data[begin : begin + size]

    def _from_mirror(self, number: int, error: GuestkitError) -> Record:
        place = self._volume.boot.mirror * self._volume.cluster + number * self.record_size
        try:
            found = parse_record(self._volume.device.read(place, self.record_size), number)
        except GuestkitError:
            raise error from None
        self._volume.damage.add(f"MFT record {number}", f"{error.message}; the mirror's copy was used")
        return found

    def runs(self, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], bytearray]]:
        """Yield (members, the records from the first of them to the last as they stand); neighbours are read at once.

        `numbers`: distinct and ascending. No bytes: what cannot be read at once, or is not there. The buffer is the
        caller's until the next one is asked for.
        """
        size = self.record_size
        source = self._source
        assert source is not None
        gap = _GAP // size
        most = _READ // size
        at = 0
        total = len(numbers)
        held = bytearray()
        while at < total:
            first = last = numbers[at]
            stop = at + 1
            while stop < total and numbers[stop] - last <= gap and numbers[stop] - first < most:
                last = numbers[stop]
                stop += 1
            buf = bytearray()
            if first >= 0 and last < self.count:
                length = (last - first + 1) * size
                if len(held) != length:
                    held = bytearray(length)
                try:
                    source.read_into(first * size, memoryview(held))
                    buf = held
                except GuestkitError:  # one by one, so that only those are lost that cannot be read
                    pass
            yield numbers[at:stop], buf
            at = stop

    def keep(self, number: int, buf: bytes) -> None:
        """Remember a record that was read in a run, its fixups applied, for whoever asks for it next."""
        try:
            found = parse_fixed(buf, number)
        except Corrupt:  # record() tells
            return
        self._volume.cache.put((self._volume.token, "r", number), found, self.record_size + 400)

    # attribute lists

    def list_bytes(self, pieces: list[Piece], where: str) -> bytes:
        """Return the content of an attribute list. Raises: Corrupt, SourceError."""
        first = pieces[0]
        if first.size > _MOST_LIST:
            raise Corrupt("attribute list", "size", found=first.size, expected=f"at most {_MOST_LIST}", where=where)
        return open_pieces(self._volume, pieces, where).read(0, first.size)

    def piece(self, entry: Listed, base: int, sequence: int) -> Piece:
        """Return what `entry` of record `base`'s attribute list stands for.

        Raises: Corrupt when it is not there, or the record belongs to another file.
        """
        number = entry.reference & r.REFERENCE
        try:
            found = self.record(number)
        except NotFound:
            raise Corrupt("attribute list", "MFT reference", found=number) from None
        expected = entry.reference >> 48
        if not found.flags & r.IN_USE or (expected and found.sequence != expected):
            raise Corrupt("attribute list", "sequence number", found=found.sequence, expected=expected)
        if number != base and (found.base & r.REFERENCE != base or found.base >> 48 not in (0, sequence)):
            raise Corrupt("MFT record", "base record", found=found.base & r.REFERENCE, expected=base)
        for piece in self.pieces(found):
            if piece.type == entry.type and piece.instance == entry.instance and piece.name == entry.name:
                if piece.lowest != entry.lowest:
                    raise Corrupt("attribute", "lowest_vcn", found=piece.lowest, expected=entry.lowest)
                return piece
        raise Corrupt("attribute list", "attribute", found=f"none of type 0x{entry.type:x} in MFT record {number}")

    def pieces(self, record: Record) -> list[Piece]:
        """All attributes that stand in `record`. Raises: Corrupt."""
        key = (self._volume.token, "p", record.number)
        known: tuple[Record, list[Piece]] | None = self._volume.cache.get(key)
        if known is not None and known[0] is record:
            return known[1]
        try:
            pieces = parse_pieces(record)
        except Corrupt as error:
            error.within(f"MFT record {record.number}")
            raise
        self._volume.cache.put(key, (record, pieces), 500 + 400 * len(pieces) + len(record.raw))
        return pieces


def _unnamed_data(pieces: list[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.type == r.DATA and not piece.name]


def parse_list(data: bytes, where: str) -> list[Listed]:
    """Decode an attribute list. Raises: Corrupt."""
    found = []
    at = 0
    while at + 26 <= len(data):
        kind, length, name_length, name_at, lowest, reference, instance = _entry(data, at)
        if not kind or kind == r.END:
            break
        if length < 26 or length & 7 or at + length > len(data):
            raise Corrupt("attribute list", "entry length", found=length, where=where)
        if name_length and (name_at < 26 or name_at + 2 * name_length > length):
            raise Corrupt("attribute list", "name_offset", found=name_at, where=where)
        if lowest >> 63:
            raise Corrupt("attribute list", "lowest_vcn", found=lowest, where=where)
        name = data[at + name_at : at + name_at + 2 * name_length] if name_length else b""
        found.append(Listed(kind, name, lowest, reference, instance))
        at += length
    return found
