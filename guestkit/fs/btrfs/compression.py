"""Compressed extents, whole or inline: zlib, LZO and zstd.

Spec: btrfs-progs Documentation/Compression.rst and dev/On-disk-format.rst, "EXTENT_DATA"; LZO's framing is that of the
kernel's fs/btrfs/lzo.c. An extent may hold more than `ram_bytes`: kernels compress whole sectors, so what is behind is
cut off. One that holds less goes on with zeros when it is whole and the stream came to its end, as in the kernel.
"""

from __future__ import annotations

from guestkit.codec import deflate, zstd
from guestkit.errors import Corrupt, Unsupported

MOST = 128 << 10  # bytes of an extent, compressed or not
_METHODS = {1: "zlib", 2: "lzo", 3: "zstd"}


def check_method(number: int) -> None:
    """Raises: Unsupported for a compression that is not known."""
    if number not in _METHODS:
        raise Unsupported(f"Btrfs compression type {number}")


def decompress(method: int, data: bytes | memoryview, size: int, sector_size: int, *, inline: bool = False) -> bytes:
    """Return exactly `size` bytes (at most 128 KiB) from a compressed extent. `data` may hold more behind its end.

    Raises: Corrupt (EUCLEAN); Unsupported for a method that is not known, or without its library.
    """
    if not size:
        return b""
    if method == 1:
        made = deflate.decompress(data, size, wrapped=True)
    elif method == 2:
        made = _lzo(data, size, sector_size, inline)
    else:
        check_method(method)
        made = _zstd(data, size)
    if len(made) < size:
        if inline:
            raise Corrupt("compressed extent", "length", found=len(made), expected=size)
        made += bytes(size - len(made))
    return made


def _zstd(data: bytes | memoryview, size: int) -> bytes:
    return zstd.decompress(data, size)


def _lzo(data: bytes | memoryview, size: int, sector_size: int, inline: bool) -> bytes:
    """Segments of a sector each, with their length before; a length never straddles sectors of the extent."""
    from guestkit.codec.lzo import decompress as block

    whole = len(data)
    total = int.from_bytes(data[:4], "little")
    if not 8 <= total <= whole:
        raise Corrupt("LZO extent", "length", found=total, expected=f"8 to {whole}")
    most = sector_size + sector_size // 16 + 64 + 3 + 4  # what LZO can make of a sector that does not shrink
    view = memoryview(data)
    parts = []
    made = 0
    at = 4
    while made < size and at < total:
        if sector_size - at % sector_size < 4:
            at += sector_size - at % sector_size
        length = int.from_bytes(view[at : at + 4], "little")
        at += 4
        if not 0 < length <= most or at + length > whole:
            raise Corrupt("LZO extent", "segment length", found=length, expected=f"1 to {min(most, whole - at)}")
        part = block(view[at : at + length], sector_size)
        at += length
        parts.append(part)
        made += len(part)
        if inline:
            break
        if len(part) < sector_size and at < total and made < size:
            raise Corrupt("LZO extent", "segment", found=len(part), expected=sector_size)
    joined = parts[0] if len(parts) == 1 else b"".join(parts)
    return joined if made <= size else joined[:size]
