"""Inodes: a base record with the attributes of its extension records.

Spec: libfsntfs documentation, "The attribute list". Attributes that an attribute list names are looked for when they
are asked for, so that the status of a fragmented file costs two records and not all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestkit.errors import Corrupt, GuestkitError, NotFound
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.content import open_pieces
from guestkit.fs.ntfs.mft import Listed, Table, parse_list
from guestkit.fs.ntfs.record import Piece, Record, parse_pieces
from guestkit.fs.ntfs.volume import Volume
from guestkit.source import Source

I30 = "$I30".encode("utf-16-le")


class Inode:
    """One file or directory. `listed` is None where no attribute list is there."""

    __slots__ = ("_by_name", "_own", "_table", "_volume", "listed", "number", "record")

    def __init__(self, volume: Volume, table: Table, record: Record) -> None:
        """Raises: Corrupt when the record or the attribute list is damaged."""
        self._volume = volume
        self._table = table
        self.number = record.number
        self.record = record
        self._own = parse_pieces(record)
        self.listed: list[Listed] | None = None
        if any(piece.type == r.ATTRIBUTE_LIST for piece in self._own):
            where = self.where
            pieces = [piece for piece in self._own if piece.type == r.ATTRIBUTE_LIST]
            self.listed = parse_list(table.list_bytes(pieces[:1], where), where)
            self._by_name: dict[tuple[int, bytes], list[Listed]] = {}
            for entry in self.listed:
                self._by_name.setdefault((entry.type, entry.name), []).append(entry)

    @property
    def where(self) -> str:
        return f"inode {self.number}"

    @property
    def is_directory(self) -> bool:
        return bool(self.record.flags & r.DIRECTORY)

    def heads(self, kind: int) -> Iterator[Piece]:
        """Yield each attribute of type `kind` by its piece with VCN 0. Raises: Corrupt."""
        if self.listed is None:
            for piece in self._own:
                if piece.type == kind and not piece.lowest:
                    yield piece
        else:
            for entry in self.listed:
                if entry.type == kind and not entry.lowest:
                    yield self._piece(entry)

    def head(self, kind: int, name: bytes = b"") -> Piece | None:
        """The piece with VCN 0 of one attribute; None when there is no such attribute. Raises: Corrupt."""
        if self.listed is None:
            for piece in self._own:
                if piece.type == kind and piece.name == name and not piece.lowest:
                    return piece
            return None
        for entry in self._by_name.get((kind, name), ()):
            if not entry.lowest:
                return self._piece(entry)
        return None

    def names(self, kind: int) -> list[bytes]:
        """The names, in UTF-16, of the attributes of type `kind`, in their order."""
        if self.listed is None:
            return [piece.name for piece in self._own if piece.type == kind and not piece.lowest]
        return [entry.name for entry in self.listed if entry.type == kind and not entry.lowest]

    def attribute(self, kind: int, name: bytes = b"") -> list[Piece]:
        """All pieces of one attribute, ascending by VCN; empty when there is none. Raises: Corrupt."""
        if self.listed is None:
            found = [piece for piece in self._own if piece.type == kind and piece.name == name]
        else:
            found = [self._piece(entry) for entry in self._by_name.get((kind, name), ())]
        if len(found) > 1:
            found.sort(key=lambda piece: piece.lowest)
            if found[0].value is not None:  # a resident one has no further pieces
                return found[:1]
        return found

    def _piece(self, entry: Listed) -> Piece:
        try:
            return self._table.piece(entry, self.number, self.record.sequence)
        except GuestkitError as error:
            error.within(self.where)
            raise

    def open(self, kind: int, name: bytes = b"") -> Source | None:
        """The bytes of one attribute, None when there is none. Raises: Corrupt, NeedKey, Unsupported."""
        pieces = self.attribute(kind, name)
        return open_pieces(self._volume, pieces, self.where) if pieces else None

    def value(self, kind: int, most: int, name: bytes = b"") -> bytes | None:
        """The whole of a small attribute, None when there is none. Raises: Corrupt above `most` bytes."""
        if self.listed is None:
            for piece in self._own:
                if piece.type == kind and piece.name == name:
                    if piece.value is not None and piece.size <= most and not piece.flags & r.ENCRYPTED:
                        return piece.value
                    break
        source = self.open(kind, name)
        if source is None:
            return None
        if source.size > most:
            raise Corrupt(f"attribute 0x{kind:x}", "size", found=source.size, expected=f"at most {most}")
        return source.read(0, source.size)


class Inodes:
    """The inodes of one volume, kept while they are in use."""

    def __init__(self, volume: Volume, table: Table) -> None:
        self._volume = volume
        self.table = table

    def read(self, number: int) -> Inode:
        """Raises: NotFound for a record that is no file in use; Corrupt."""
        key = (self._volume.token, "i", number)
        inode: Inode | None = self._volume.cache.get(key)
        if inode is None:
            record = self.table.record(number)
            if not record.flags & r.IN_USE or record.base:
                raise NotFound(f"MFT record {number} holds no file")
            try:
                inode = Inode(self._volume, self.table, record)
            except Corrupt as error:
                error.within(f"inode {number}")
                raise
            size = 2000 + 450 * len(inode.listed or ())
            self._volume.cache.put(key, inode, size)
        return inode
