"""Compressed extents, whole or inline: zlib, LZO and zstd.

Spec: btrfs-progs Documentation/Compression.rst and dev/On-disk-format.rst, "EXTENT_DATA"; LZO's framing is that of the
kernel's fs/btrfs/lzo.c. An extent may hold more than `ram_bytes`: kernels compress whole sectors, so what is behind is
cut off. One that holds less goes on with zeros when it is whole and the stream came to its end, as in the kernel.
"""

from __future__ import annotations

from struct import Struct

from guestkit.codec import deflate, zstd
from guestkit.errors import Corrupt, Unsupported

MOST = 128 << 10  # bytes of an extent, compressed or not
_length = Struct("<I").unpack_from
LZO = 2
_METHODS = {1: "zlib", LZO: "lzo", 3: "zstd"}


def check_method(number: int) -> None:
    """Raises: Unsupported for a compression that is not known."""
    if number not in _METHODS:
        raise Unsupported(f"Btrfs compression type {number}")


def decompress(method: int, data: bytes, size: int, sector_size: int, *, inline: bool = False) -> bytes:
    """Return exactly `size` bytes (at most 128 KiB) from a compressed extent. `data` may hold more behind its end.

    Raises: Corrupt (EUCLEAN); Unsupported for a method that is not known, or without its library.
    """
    if not size:
        return b""
    if method == 1:
        made = deflate.decompress(data, size, wrapped=True)
    elif method == LZO:
        made = _lzo(data, size, sector_size, inline)
    else:
        check_method(method)
        made = zstd.decompress(data, size)
    if len(made) < size:
        if inline:
            raise Corrupt("compressed extent", "length", found=len(made), expected=size)
        made += bytes(size - len(made))
    return made


def _lzo(data: bytes, size: int, sector: int, inline: bool) -> bytes:
    """Segments of a sector each, with their length before; a length never straddles sectors of the extent."""
    from guestkit.codec.lzo import decompress_all

    whole = len(data)
    total = int.from_bytes(data[:4], "little")
    if not 8 <= total <= whole:
        raise Corrupt("LZO extent", "length", found=total, expected=f"8 to {whole}")
    longest = sector + sector // 16 + 64 + 3 + 4  # what LZO can make of a sector that does not shrink
    wanted = 1 if inline else -(-size // sector)
    segments: list[bytes] = []
    at = 4
    last = sector - 4
    while wanted and at < total:
        if at % sector > last:
            at += sector - at % sector
        if at + 4 > whole:
            raise Corrupt("LZO extent", "length", found=whole, expected=f"at least {at + 4}")
        (length,) = _length(data, at)
        begin = at + 4
        at = begin + length
        if not 0 < length <= longest or at > whole:
            raise Corrupt("LZO extent", "segment length", found=length, expected=f"1 to {min(longest, whole - begin)}")
        segments.append(data[begin:at])
        wanted -= 1
    parts = decompress_all(segments, sector)
    for part in parts[:-1]:
        if len(part) != sector:
            raise Corrupt("LZO extent", "segment", found=len(part), expected=sector)
    joined = b"".join(parts)
    return joined if len(joined) <= size else joined[:size]
