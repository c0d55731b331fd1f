"""Directory blocks: entries decoded, block checksums verified.

Spec: Documentation/filesystems/ext4/directory.rst. A damaged entry hides only itself as long as its rec_len can be
followed; the rest of the block otherwise. Left out: the indirect order of indexed directories (see htree.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt
from guestkit.fs.ext4.features import FILETYPE
from guestkit.fs.ext4.superblock import Superblock
from guestkit.layout import Layout

_DIRENT = Layout(
    "ext4_dir_entry_2", 8, "<", inode=(0, "I"), rec_len=(4, "H"), name_len=(6, "B"), file_type=(7, "B")
)  # fmt: skip
_unpack = _DIRENT.unpack_from
_TAIL_TYPE = 0xDE
_TAIL = 12
# file_type -> DT_*: unknown, regular, directory, character, block, fifo, socket, link
_TYPES = (0, 8, 4, 2, 6, 1, 12, 10) + (0,) * 248
_NO_TYPES = (0,) * 256

# what turns the stored name into the shown one: (name, the 8 bytes behind it) -> name
Shown = Callable[[bytes, bytes], bytes]


class Names(NamedTuple):
    """The entries of one block. `flaw` is the first damage met in it, None when it is whole."""

    entries: list[tuple[bytes, int, int, int]]  # name, inode, DT_*, offset of the next entry in the directory
    flaw: Corrupt | None


class Format(NamedTuple):
    """What the filesystem says of all its directories."""

    types: tuple[int, ...]
    first_ino: int  # of those that a name may lead to, the root apart
    inodes_count: int
    block_size: int


def directory_format(superblock: Superblock) -> Format:
    """What `superblock` says of all directories."""
    types = _TYPES if superblock.incompat & FILETYPE else _NO_TYPES
    return Format(types, superblock.first_ino, superblock.inodes_count, superblock.block_size)


def _record_length(stored: int, block_size: int) -> int:
    """rec_len for blocks of 64 KiB, where 16 bits do not reach."""
    if stored in (0, 0xFFFF):
        return block_size
    return stored & 0xFFFC | (stored & 3) << 16


def parse_names(
    buf: bytes, start: int, end: int, base: int, form: Format, shown: Shown | None = None, hashed: bool = False
) -> Names:
    """Decode the entries of buf[start:end], "." and ".." left out.

    `base` is what an offset in `buf` counts from; `hashed`: 8 bytes of hash stand behind each name.
    """
    types, first, limit, block_size = form
    wide = block_size > 0xFFFF
    if shown is None and not wide:
        plain = _plain_names(buf, start, end, base, form)
        if plain is not None:
            return Names(plain, None)
    entries: list[tuple[bytes, int, int, int]] = []
    append = entries.append
    flaw: Corrupt | None = None
    slash = b"/" in buf
    at = start
    while at < end:
        if at > end - 8:
            flaw = flaw or Corrupt("directory entry", "length", found=end - at, expected="at least 8")
            break
        ino, length, name_len, kind = _unpack(buf, at)
        if wide:
            length = _record_length(length, block_size)
        behind = at + length
        if length < 12 or length & 3 or behind > end:
            flaw = flaw or Corrupt(f"directory entry at {at}", "rec_len", found=length)
            break
        if ino:
            if name_len + 8 > length or ino > limit or (ino < first and ino != 2):
                if flaw is None and name_len + 8 > length:
                    flaw = Corrupt(f"directory entry at {at}", "name_len", found=name_len)
                elif flaw is None:
                    flaw = Corrupt(f"directory entry at {at}", "inode", found=ino, expected=f"{first} to {limit}")
                at = behind
                continue
            name = buf[at + 8 : at + 8 + name_len]
            if name_len < 3 and (name == b"." or name == b".." or not name):
                at = behind
                continue
            if shown is not None:
                hash_at = at + 8 + (name_len + 3 & ~3)
                try:
                    name = shown(name, buf[hash_at : hash_at + 8] if hashed and hash_at + 8 <= behind else b"")
                except Corrupt as error:
                    flaw = flaw or error
                    at = behind
                    continue
            if b"\0" in name or (slash and b"/" in name):
                flaw = flaw or Corrupt(f"directory entry at {at}", "name", found=name)
                at = behind
                continue
            append((name, ino, types[kind], base + behind))
        at = behind
    return Names(entries, flaw)


def _plain_names(buf: bytes, start: int, end: int, base: int, form: Format) -> list[tuple[bytes, int, int, int]] | None:
    """The entries of parse_names() when there is nothing odd about any of them, else None."""
    entries: list[tuple[bytes, int, int, int]] = []
    append = entries.append
    types, first, limit, _ = form
    unpack = _unpack
    at = start
    last = end - 8
    while at <= last:
        ino, length, name_len, kind = unpack(buf, at)
        begin = at + 8
        at += length
        if name_len > 2 and first <= ino <= limit and name_len + 8 <= length and not length & 3:
            append((buf[begin : begin + name_len], ino, types[kind], base + at))
            continue
        if length < 12 or length & 3:
            return None
        if ino:
            name = buf[begin : begin + name_len]
            if name == b"." or name == b"..":
                continue
            if not name or not first <= ino <= limit or name_len + 8 > length:
                return None
            append((name, ino, types[kind], base + at))
    if at != end:
        return None
    names = b"".join([entry[0] for entry in entries])
    return None if b"\0" in names or b"/" in names else entries


def verify_block(buf: bytes, seed: int, indexed: bool) -> bool:
    """Check a directory block's checksum; return whether it holds entries (False: an index node).

    `indexed`: the directory has an htree, so that a block may be one of its nodes.
    Raises: Corrupt (EUCLEAN).
    """
    # an htree's root may still carry the tail of the leaf that it was
    place = index_place(buf) if indexed else 0
    if place:
        verify_index(buf, place, seed)
        return False  # a root holds "." and ".." as entries; nothing else
    tail = len(buf) - _TAIL
    if buf[tail : tail + 4] != b"\0\0\0\0" or buf[tail + 4 : tail + 8] != b"\x0c\0\0\xde":
        raise Corrupt("directory block", "det_reserved_ft", found=buf[tail + 7], expected=_TAIL_TYPE)
    stored = int.from_bytes(buf[tail + 8 :], "little")
    found = crc32c(buf[:tail], seed)
    if found != stored:
        raise Corrupt("directory block", "det_checksum", found=stored, expected=found)
    return True


def index_place(buf: bytes) -> int:
    """Where the (limit, count) of an htree root (32) or node (8) stands in a block; 0 when it is neither."""
    size = len(buf)
    length = int.from_bytes(buf[4:6], "little")
    if size > 0xFFFF:
        length = _record_length(length, size)
    if length == size:
        return 8
    if length == 12:
        second = int.from_bytes(buf[16:18], "little")
        if size > 0xFFFF:
            second = _record_length(second, size)
        if second == size - 12 and buf[24:28] == b"\0\0\0\0" and buf[29] == 8:
            return 32
    return 0


def verify_index(buf: bytes, place: int, seed: int) -> None:
    """Check the checksum of an htree root or node. Raises: Corrupt (EUCLEAN)."""
    limit = int.from_bytes(buf[place : place + 2], "little")
    count = int.from_bytes(buf[place + 2 : place + 4], "little")
    tail = place + 8 * limit
    if count > limit or tail + 8 > len(buf):
        raise Corrupt("htree node", "limit", found=limit)
    stored = int.from_bytes(buf[tail + 4 : tail + 8], "little")
    found = crc32c(buf[: place + 8 * count] + buf[tail : tail + 4] + b"\0\0\0\0", seed)
    if found != stored:
        raise Corrupt("htree node", "dt_checksum", found=stored, expected=found)


def second_entry(buf: bytes) -> tuple[bytes, int]:
    """(name, inode) of a directory's second entry, which is "..". Raises: Corrupt (EUCLEAN)."""
    _, length, _, _ = _unpack(buf, 0)
    if length != 12 or len(buf) < 24:
        raise Corrupt("directory entry at 0", "rec_len", found=length, expected=12)
    ino, _, name_len, _ = _unpack(buf, 12)
    return buf[20 : 20 + name_len], ino
