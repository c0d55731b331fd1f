"""Directories: the names of an $I30 index in the order of its blocks, and one name by descent or by a table.

Spec: libfsntfs documentation, "The index", "The file name attribute". As ntfs-3g lists them: first the entries of the
root, then those of the blocks that the bitmap names; names of the DOS namespace are found, not listed. A cookie is
the block, counted from 1, times 2^24, plus the offset behind the entry. Damage is reported when a listing ends.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from guestkit.errors import Corrupt, NotADirectory, NotFound, SourceError
from guestkit.fs.base import DT_DIR, DT_REG, DT_UNKNOWN, shown_together
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs import reparse
from guestkit.fs.ntfs.index import FILE_NAME_KEY, LAST, NAME_AT, SUBNODE, Index, Node, check_entry, subnode
from guestkit.fs.ntfs.inode import I30, Inode, Inodes
from guestkit.fs.ntfs.names import UpCase, to_utf8, to_utf16
from guestkit.fs.ntfs.volume import Volume

Raw = tuple[bytes, int, int, int]  # name, file reference, DT_*, cookie

ROOT = 5
UPCASE = 10
FIRST_USER = 24
COLLATION_FILE_NAME = 1
_MOST_BITMAP = 1 << 20  # bytes
_READ = 1 << 18  # bytes of index blocks read at once
_WHOLE = 16  # blocks of a directory whose names are kept together
_MOST_FLAWS = 256  # damaged blocks after which a directory is given up
_DOS = 2
_SHIFT = 24  # of the block in a cookie
_LONGEST = 765  # bytes: 255 UTF-16 units
_MOST_NODES = 1 << 12  # looked at for one name

_head = struct.Struct("<QHHH58xI4xBB").unpack_from  # an entry, with its key's flags, name length and namespace
_REPARSE, _SYSTEM, _DIRECTORY = 0x400, 0x4, 0x10000000
_UNSURE = _REPARSE | _SYSTEM


class Keys(NamedTuple):
    """The entries of one node for bisection: folded names, names, references, and the nodes below (0: none)."""

    folded: list[bytes]
    names: list[bytes]
    references: list[int]
    below: list[int]  # one more than there are names; VCN + 1


class Directories:
    """Reads all directories of one volume."""

    def __init__(self, volume: Volume, inodes: Inodes, show_all: bool, ignore_case: bool) -> None:
        """`show_all`: system files are listed too; `ignore_case`: lookup folds."""
        self._volume = volume
        self._inodes = inodes
        self._least = 0 if show_all else FIRST_USER
        self._fold_names = ignore_case
        self._upcase: UpCase | None = None
        self._upcase_lost = False

    def open(self, number: int) -> Index:
        """Raises: NotADirectory, NotFound, Corrupt."""
        key = (self._volume.token, "D", number)
        index: Index | None = self._volume.cache.get(key)
        if index is None:
            inode = self._directory(number)
            index = Index(self._volume, inode, I30)
            if index.type != r.FILE_NAME or index.rule != COLLATION_FILE_NAME:
                raise Corrupt("index root", "type", found=index.type, expected=r.FILE_NAME, where=inode.where)
            self._volume.cache.put(key, index, 2000 + len(index.root.buf))
        return index

    def _directory(self, number: int) -> Inode:
        """Raises: NotADirectory; a junction is a link."""
        inode = self._inodes.read(number)
        if not inode.is_directory:
            raise NotADirectory(where=inode.where)
        piece = inode.head(r.STANDARD_INFORMATION)
        about = piece.value if piece is not None else None
        if about is not None and len(about) >= 36 and about[33] & 0x4:  # the file attribute of reparse points
            point = inode.value(r.REPARSE_POINT, reparse.MOST)
            if point is not None and reparse.parse_reparse(point).tag in reparse.KINDS:
                raise NotADirectory(where=inode.where)
        return inode

    def parent(self, number: int) -> int:
        """Return the record that holds a directory's name. Raises: NotADirectory, Corrupt."""
        inode = self._directory(number)
        if number == ROOT:
            return ROOT
        for piece in inode.heads(r.FILE_NAME):
            if piece.value is not None and len(piece.value) >= FILE_NAME_KEY:
                return int.from_bytes(piece.value[:8], "little") & r.REFERENCE
        raise Corrupt("directory", "$FILE_NAME", expected="one", where=inode.where)

    # listing

    def batches(self, number: int, cookie: int = 0, hidden: bool = False) -> Iterator[list[Raw]]:
        """Yield the entries behind `cookie` in lists; `hidden`: with the names that are not listed.

        Raises: NotADirectory, NotFound; Corrupt at the end when something was damaged.
        """
        index = self.open(number)
        where = f"directory inode {number}"
        first: Corrupt | None = None
        if cookie >> _SHIFT == 0:
            batch, flaw = self._parse(index.root, 0, where, hidden)
            if flaw is not None:
                self._volume.damage.add(where, flaw)
                first = flaw
            if cookie:
                batch = [entry for entry in batch if entry[3] > cookie]
            if batch:
                yield batch
        flaws = 0
        for block, raw in self._blocks(index, number, max(0, (cookie >> _SHIFT) - 1)):
            flaw = None
            try:
                if isinstance(raw, Corrupt):
                    raise raw
                vcn = block * index.block_size // index.unit
                batch, flaw = self._parse(index.parse(raw, vcn), block + 1, where, hidden)
                if cookie:
                    batch = [entry for entry in batch if entry[3] > cookie]
                if batch:
                    yield batch
            except Corrupt as error:
                flaw = error
            if flaw is not None:
                flaw.within(where, f"index block {block}")
                self._volume.damage.add(where, flaw)
                first = first or flaw
                flaws += 1
                if flaws > _MOST_FLAWS:
                    break
        if first is not None:
            raise first

    def _blocks(self, index: Index, number: int, start: int) -> Iterator[tuple[int, bytes | Corrupt]]:
        """Yield (block, bytes) of the blocks in use from `start`."""
        source = index.source
        if source is None or start >= index.blocks:
            return
        size = index.block_size
        most = max(1, _READ // size)
        used = self._bitmap(index, number)
        block = start
        while block < index.blocks:
            if not used[block >> 3]:
                block = (block | 7) + 1
                continue
            if not used[block >> 3] >> (block & 7) & 1:
                block += 1
                continue
            stop = block + 1
            while stop < index.blocks and stop - block < most and used[stop >> 3] >> (stop & 7) & 1:
                stop += 1
            try:
                data = source.read(block * size, (stop - block) * size)
            except Corrupt as error:
                if stop - block == 1:
                    yield block, error
                    block = stop
                    continue
                for each in range(block, stop):
                    try:
                        yield each, source.read(each * size, size)
                    except Corrupt as damage:
                        yield each, damage
            else:
                for each in range(block, stop):
                    begin = (each - block) * size
                    yield each, data[begin : begin + size]
            block = stop

    def _bitmap(self, index: Index, number: int) -> bytes:
        """One bit for each block, set where it is in use. Raises: Corrupt."""
        inode = self._inodes.read(number)
        need = index.blocks + 7 >> 3
        used = inode.value(r.BITMAP, _MOST_BITMAP + need, I30)
        if used is None or len(used) < need:
            raise Corrupt("directory", "$BITMAP", found=0 if used is None else len(used), expected=need)
        return used

    def _parse(self, node: Node, block: int, where: str, hidden: bool) -> tuple[list[Raw], Corrupt | None]:
        """The names of one node, and the damage in it."""
        buf, at, end = node
        base = block << _SHIFT
        least = 0 if hidden else self._least
        unlisted = -1 if hidden else _DOS
        head = _head
        raws: list[bytes] = []
        references: list[int] = []
        kinds: list[int] = []
        cookies: list[int] = []
        flaw: Corrupt | None = None
        while at + NAME_AT <= end:
            reference, length, key, flags, about, units, space = head(buf, at)
            if flags & LAST:
                break
            behind = at + length
            if length < NAME_AT or length & 7 or behind > end:
                flaw = flaw or Corrupt("index entry", "length", found=length)
                break
            if FILE_NAME_KEY + 2 * units > key or 16 + key > length or not units:
                flaw = flaw or Corrupt("index entry", "key_length", found=key)
            elif space != unlisted and reference & 0xFFFFFFFFFFFF >= least:
                raws.append(buf[at + NAME_AT : at + NAME_AT + 2 * units])
                references.append(reference)
                kinds.append(DT_UNKNOWN if about & _UNSURE else DT_DIR if about & _DIRECTORY else DT_REG)
                cookies.append(base | behind)
            at = behind
        else:
            try:
                _, _, flags = check_entry(buf, at, end)
            except Corrupt as error:
                flaw = flaw or error
            else:
                if not flags & LAST:
                    flaw = flaw or Corrupt("index entry", "length", found=end - at)
        names = shown_together(raws)
        if names is None:
            return self._shown(zip(raws, references, kinds, cookies, strict=True), where), flaw
        return list(zip(names, references, kinds, cookies, strict=True)), flaw

    def _shown(self, entries: Iterable[Raw], where: str) -> list[Raw]:
        """`entries`, their names in UTF-16, without those whose names cannot be shown."""
        found: list[Raw] = []
        for raw, reference, kind, cookie in entries:
            name = to_utf8(raw)
            if b"\0" in name or b"/" in name:
                self._volume.damage.add(where, f"a name that cannot be shown: {name!r}")
            elif name not in (b".", b".."):
                found.append((name, reference, kind, cookie))
        return found

    # one name

    def lookup(self, number: int, name: bytes) -> int:
        """Return the file reference that `name` leads to.

        Raises: NotFound, NotADirectory, Corrupt where damage may hide the name.
        """
        key = (self._volume.token, "N", number)
        known: dict[bytes, int] | None = self._volume.cache.get(key)
        if known is None:
            index = self.open(number)
            if len(name) > _LONGEST:
                raise NotFound
            if index.blocks > _WHOLE and self._table() is not None:
                try:
                    return self._by_index(index, number, name)
                except Corrupt as error:
                    self._volume.damage.add(f"directory inode {number}", f"{error}; all blocks were searched")
            known = self._names(number, name)
        reference = known.get(name)
        if reference is None and self._fold_names:
            reference = self._folded(known, name)
        if reference is None:
            raise NotFound
        return reference

    def _names(self, number: int, wanted: bytes) -> dict[bytes, int]:
        """All names of a directory. Raises: Corrupt when some of it is damaged and `wanted` is not in the rest."""
        names: dict[bytes, int] = {}
        try:
            for batch in self.batches(number, hidden=True):
                for name, reference, _, _ in batch:
                    names.setdefault(name, reference)
        except Corrupt:
            if wanted in names:
                return names
            raise
        if len(names) <= 1 << 14:
            self._volume.cache.put((self._volume.token, "N", number), names, 300 + 180 * len(names))
        return names

    def _folded(self, names: dict[bytes, int], name: bytes) -> int | None:
        table = self._table()
        wanted = to_utf16(name)
        if table is None or wanted is None:
            return None
        folded = table.fold(wanted)
        for other, reference in names.items():
            stored = to_utf16(other)
            if stored is not None and table.fold(stored) == folded:
                return reference
        return None

    def _table(self) -> UpCase | None:
        """$UpCase; None where it is damaged, so that names are searched for in all blocks."""
        if self._upcase is None and not self._upcase_lost:
            try:
                data = self._inodes.read(UPCASE).value(r.DATA, 1 << 17)
                self._upcase = UpCase(data or b"")
            except SourceError:
                raise
            except (Corrupt, NotFound) as error:
                self._volume.damage.add("$UpCase", error)
                self._upcase_lost = True
        return self._upcase

    def _by_index(self, index: Index, number: int, name: bytes) -> int:
        """Find a name by the order of the tree; names that differ by case alone stand side by side.

        Raises: NotFound; Corrupt.
        """
        table = self._table()
        wanted = to_utf16(name)
        if table is None or wanted is None:
            raise NotFound
        folded = table.fold(wanted)
        pending = [0]  # VCN + 1 of nodes; 0 for the root
        seen: set[int] = set()
        other: int | None = None
        while pending:
            place = pending.pop()
            if place in seen or len(seen) > _MOST_NODES:
                raise Corrupt("index", "sub-node VCN", found=place - 1, expected="one that was not met before")
            seen.add(place)
            keys = self._keys(index, number, place, table)
            at = bisect_left(keys.folded, folded)
            if keys.below[at]:
                pending.append(keys.below[at])
            while at < len(keys.folded) and keys.folded[at] == folded:
                if keys.names[at] == wanted:
                    return keys.references[at]
                if other is None:
                    other = keys.references[at]
                at += 1
                if keys.below[at]:
                    pending.append(keys.below[at])
        if other is not None and self._fold_names:
            return other
        raise NotFound

    def _keys(self, index: Index, number: int, place: int, table: UpCase) -> Keys:
        key = (self._volume.token, "k", number, place)
        known: Keys | None = self._volume.cache.get(key)
        if known is not None:
            return known
        buf, at, end = index.node(place - 1) if place else index.root
        known = Keys([], [], [], [])
        while True:
            length, size, flags = check_entry(buf, at, end)
            known.below.append(subnode(buf, at, length) + 1 if flags & SUBNODE else 0)
            if flags & LAST:
                break
            units = buf[at + 80] if size >= FILE_NAME_KEY else 0
            if FILE_NAME_KEY + 2 * units > size:
                raise Corrupt("index entry", "key_length", found=size, where=index.where)
            name = buf[at + NAME_AT : at + NAME_AT + 2 * units]
            known.names.append(name)
            known.folded.append(table.fold(name))
            known.references.append(int.from_bytes(buf[at : at + 8], "little"))
            at += length
        if known.folded != sorted(known.folded):
            raise Corrupt("index node", "order", found="names that do not ascend", where=index.where)
        self._volume.cache.put(key, known, 500 + 350 * len(known.names))
        return known

    def cased(self, number: int, name: bytes) -> tuple[bytes, int] | None:
        """(stored name, reference) of what `name` means when case is ignored; None when there is no such name.

        An exact match wins.
        """
        found: tuple[bytes, int] | None = None
        wanted = to_utf16(name)
        if wanted is None:
            return None
        lower = name.lower() if name.isascii() else None
        try:
            for batch in self.batches(number, hidden=True):
                for other, reference, _, _ in batch:
                    if other == name:
                        return other, reference
                    if found is None and self._alike(other, wanted, lower):
                        found = other, reference
        except (Corrupt, NotADirectory, NotFound):
            return found
        return found

    def _alike(self, other: bytes, wanted: bytes, lower: bytes | None) -> bool:
        """Whether two names differ by case alone; `lower`: the wanted one's where it is ASCII."""
        if lower is not None and other.isascii():
            return other.lower() == lower
        stored = to_utf16(other)
        if stored is None or len(stored) != len(wanted):
            return False
        table = self._table()
        return table is not None and table.fold(stored) == table.fold(wanted)
