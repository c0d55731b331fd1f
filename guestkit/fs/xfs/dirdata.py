"""Directory entries: those that stand in an inode, and blocks of them.

Spec: XFS Algorithms & Data Structures, "Directories". A damaged entry hides only itself as long as its length can be
followed; the rest of the block otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.xfs.blocks import DIRECTORY, Blocks
from guestkit.fs.xfs.superblock import Superblock

Raw = tuple[bytes, int, int, int]  # name, inode, DT_*, cookie

BLOCK_MAGICS = (b"XD2B", b"XDB3")  # a directory in one block, its index at the end
DATA_MAGICS = (b"XD2D", b"XDD3")
_STARTS = (16, 64)  # of the entries
# ftype -> DT_*: unknown, regular, directory, character, block, fifo, socket, link
_TYPES = (0, 8, 4, 2, 6, 1, 12, 10) + (0,) * 248
_NO_TYPES = (0,) * 256
_unpack = struct.Struct(">QB").unpack_from
_tail = struct.Struct(">II").unpack_from
_DOTS = (b".", b"..", b"")


class Names(NamedTuple):
    """The entries of one block. `flaw` is the first damage met in it, None when it is whole."""

    entries: list[Raw]  # name, inode, DT_*, offset of the next entry in the directory
    flaw: Corrupt | None


class Format(NamedTuple):
    """What the filesystem says of all its directories."""

    types: tuple[int, ...]
    typed: int  # 1 where a byte of file type stands behind each name
    sizes: tuple[int, ...]  # of an entry, by the length of its name
    limit: int  # one above the highest inode number
    crc: bool


@cache
def _sizes(typed: int) -> tuple[int, ...]:
    return tuple((8 + 1 + length + typed + 2 + 7) & ~7 for length in range(256))


@cache
def _entries() -> tuple[Callable[[bytes, int], tuple[int, bytes, int, int]], ...]:
    """What reads (inode, name, file type, tag) of an entry with a type, by the length of its name."""
    return tuple(
        struct.Struct(f">Qx{length}sB{size - length - 12}xH").unpack_from for length, size in enumerate(_sizes(1))
    )


@cache
def _short_entries(inode: str) -> tuple[Callable[[bytes, int], tuple[bytes, int, int]], ...]:
    """What reads (name, file type, inode) of an entry in an inode, by the length of its name; `inode`: "I" or "Q"."""
    return tuple(struct.Struct(f">3x{length}sB{inode}").unpack_from for length in range(256))


def directory_format(superblock: Superblock) -> Format:
    """What `superblock` says of all directories."""
    typed = int(superblock.has_ftype)
    types = _TYPES if typed else _NO_TYPES
    limit = superblock.ag_count << superblock.ag_inode_log
    return Format(types, typed, _sizes(typed), limit, superblock.has_crc)


def verify_data(buf: bytes, block: int, owner: int, blocks: Blocks, single: bool) -> None:
    """Check the header of a directory block. `single`: the directory is this block. Raises: Corrupt (EUCLEAN)."""
    expected = (BLOCK_MAGICS if single else DATA_MAGICS)[blocks.crc]
    if buf[:4] != expected:
        raise Corrupt("directory block", "magic", found=buf[:4], expected=expected)
    if blocks.crc:
        blocks.verify(buf, DIRECTORY, block, owner, "directory block")


def parse_names(buf: bytes, base: int, form: Format, single: bool) -> Names:
    """Decode the entries of a directory block whose header was checked, "." and ".." left out.

    `base` is what an offset in `buf` counts from; `single`: the index stands at the end of the block.
    """
    types, _, sizes, limit, crc = form
    entries: list[Raw] = []
    append = entries.append
    flaw: Corrupt | None = None
    end = len(buf)
    if single:
        count, _ = _tail(buf, end - 8)
        end -= 8 + 8 * count
        if end < _STARTS[crc]:
            return Names([], Corrupt("directory block", "count", found=count))
    plain = _plain_names(buf, end, base, form)
    if plain is not None:
        return Names(plain, None)
    at = _STARTS[crc]
    unpack = _unpack
    last = end - 16
    while at <= last:
        ino, length = unpack(buf, at)
        if 0 < ino < limit and length:
            behind = at + sizes[length]
            if behind <= end and buf[behind - 2] << 8 | buf[behind - 1] == at:
                stop = at + 9 + length
                name = buf[at + 9 : stop]
                at = behind
                if length < 3 and (name == b"." or name == b".."):
                    continue
                append((name, ino, types[buf[stop]], base + behind))
                continue
        if ino >> 48 == 0xFFFF:  # unused space
            free = ino >> 32 & 0xFFFF
            behind = at + free
            if not free or free & 7 or behind > end:
                flaw = flaw or Corrupt(f"directory entry at {at}", "length", found=free)
                break
            if buf[behind - 2] << 8 | buf[behind - 1] != at:
                flaw = flaw or Corrupt(f"directory entry at {at}", "tag", expected=at)
                break
            at = behind
            continue
        behind = at + sizes[length]
        if not length:
            flaw = flaw or Corrupt(f"directory entry at {at}", "namelen", found=0)
            break
        if behind > end or buf[behind - 2] << 8 | buf[behind - 1] != at:
            flaw = flaw or Corrupt(f"directory entry at {at}", "tag", expected=at)
            break
        flaw = flaw or Corrupt(f"directory entry at {at}", "inumber", found=ino, expected=f"1 to {limit - 1}")
        at = behind
    else:
        # what is left may be the smallest piece of unused space, and nothing else
        if at != end and (buf[at : at + 4] != b"\xff\xff\0\x08" or buf[end - 2 : end] != at.to_bytes(2, "big")):
            flaw = flaw or Corrupt(f"directory entry at {at}", "length", found=end - at, expected="at least 16")
    joined = b"".join([entry[0] for entry in entries])
    if b"/" in joined or b"\0" in joined:
        for entry in entries:
            if b"/" in entry[0] or b"\0" in entry[0]:
                flaw = flaw or Corrupt("directory entry", "name", found=entry[0])
        entries = [entry for entry in entries if b"/" not in entry[0] and b"\0" not in entry[0]]
    return Names(entries, flaw)


def _plain_names(buf: bytes, end: int, base: int, form: Format) -> list[Raw] | None:
    """The entries of parse_names() when there is nothing odd about any of them, else None."""
    types, typed, sizes, limit, crc = form
    if not typed:
        return None
    entries: list[Raw] = []
    append = entries.append
    readers = _entries()
    at = _STARTS[crc]
    last = end - 16
    while at <= last:
        length = buf[at + 8]
        behind = at + sizes[length]
        if behind <= end:
            ino, name, kind, tag = readers[length](buf, at)
            if tag == at and 0 < ino < limit:
                at = behind
                if length > 2 or name not in _DOTS:
                    append((name, ino, types[kind], base + at))
                elif not length:
                    return None
                continue
        behind = at + (buf[at + 2] << 8 | buf[at + 3])
        if (
            buf[at] & buf[at + 1] != 0xFF or behind == at or behind & 7 or behind > end
            or buf[behind - 2] << 8 | buf[behind - 1] != at
        ):  # fmt: skip
            return None
        at = behind  # unused space
    return entries if at == end and _are_names(entries) else None


def _are_names(entries: list[Raw]) -> bool:
    joined = b"".join([entry[0] for entry in entries])
    return b"/" not in joined and b"\0" not in joined


def dots(buf: bytes, form: Format) -> int:
    """The inode that ".." leads to, of a directory's first block. Raises: Corrupt (EUCLEAN)."""
    at = _STARTS[form.crc]
    _, length = _unpack(buf, at)
    if buf[at + 9 : at + 9 + length] != b".":
        raise Corrupt("directory", "first entry", found=buf[at + 9 : at + 9 + length], expected=b".")
    at += form.sizes[length]
    ino, length = _unpack(buf, at)
    if buf[at + 9 : at + 9 + length] != b"..":
        raise Corrupt("directory", "second entry", found=buf[at + 9 : at + 9 + length], expected=b"..")
    return int(ino)


def short_parent(fork: bytes) -> int:
    """The parent of a directory whose entries stand in its inode. Raises: Corrupt (EUCLEAN)."""
    width = 8 if len(fork) > 1 and fork[1] else 4
    if len(fork) < 2 + width:
        raise Corrupt("short directory", "length", found=len(fork), expected=2 + width)
    return int.from_bytes(fork[2 : 2 + width], "big")


def parse_short(fork: bytes, form: Format) -> Names:
    """Decode a directory whose entries stand in its inode. `fork`: di_size bytes of it."""
    entries: list[Raw] = []
    flaw: Corrupt | None = None
    if len(fork) < 6:
        return Names([], Corrupt("short directory", "length", found=len(fork), expected="at least 6"))
    plain = _plain_short(fork, form)
    if plain is not None:
        return Names(plain, None)
    count, large = fork[0], fork[1]
    width = 8 if large else 4  # as soon as one inode number is large, all are stored so
    if large > count + 1:  # the parent's counts too
        flaw = Corrupt("short directory", "i8count", found=large, expected=f"at most {count + 1}")
    at = 2 + width
    end = len(fork)
    for _ in range(count):
        if at + 3 > end:
            return Names(entries, flaw or Corrupt("short directory", "count", found=count))
        length = fork[at]
        stop = at + 3 + length
        behind = stop + form.typed + width
        if not length or behind > end:
            return Names(entries, flaw or Corrupt(f"short directory entry at {at}", "namelen", found=length))
        name = fork[at + 3 : stop]
        ino = int.from_bytes(fork[behind - width : behind], "big")
        kind = form.types[fork[stop]] if form.typed else 0
        if b"/" in name or b"\0" in name or name == b"." or name == b"..":
            flaw = flaw or Corrupt(f"short directory entry at {at}", "name", found=name)
        elif not 0 < ino < form.limit:
            flaw = flaw or Corrupt(f"short directory entry at {at}", "inumber", found=ino)
        else:
            entries.append((name, ino, kind, behind))
        at = behind
    if at != end and flaw is None:
        flaw = Corrupt("short directory", "length", found=end, expected=at)
    return Names(entries, flaw)


def _plain_short(fork: bytes, form: Format) -> list[Raw] | None:
    """The entries of parse_short() when there is nothing odd about any of them, else None."""
    types, typed, _, limit, _ = form
    count, large = fork[0], fork[1]
    if not typed or large > count + 1:
        return None
    entries: list[Raw] = []
    append = entries.append
    readers = _short_entries("Q" if large else "I")
    head = 12 if large else 8  # bytes of an entry without its name
    at = head - 2
    end = len(fork)
    for _ in range(count):
        if at >= end:
            return None
        length = fork[at]
        behind = at + head + length
        if behind > end:
            return None
        name, kind, ino = readers[length](fork, at)
        if not 0 < ino < limit or (length < 3 and name in _DOTS):
            return None
        append((name, ino, types[kind], behind))
        at = behind
    return entries if at == end and _are_names(entries) else None
