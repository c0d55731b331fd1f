"""XPRESS with Huffman codes ([MS-XCA] 2.1 and 2.2, "LZ77+Huffman"), as WOF and WIM use it: one chunk of up to 64 KiB.

256 bytes give the lengths of 512 codes, half a byte each. The rest is a stream of 16-bit little-endian words, read
from their highest bit on. Symbols to 255 are literals; the others are matches: the low four bits their length less 3,
the high four how many bits the distance has below its leading one. A length of 15 goes on in bytes that lie in the
midst of the words, at the place up to where a decoder has read that always holds 16 bits or more.

libfwnt's Python bindings do the work when they are installed; what these refuse is tried here.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from importlib import import_module

from guestkit.codec import huffman
from guestkit.errors import Corrupt

_LARGEST = 65536
_SYMBOLS = 512
_TABLE = _SYMBOLS // 2  # bytes
_LONG = 18  # the length of a match that goes on in the bytes after it

_REFILL = 30  # bytes; a longer buffer costs every look at it, a shorter one is filled more often
_NEEDED = 32  # bits: a code and a distance have 30 at most
_PADDING = bytes(2 * _REFILL)

_LOW = bytes(value & 15 for value in range(256))
_HIGH = bytes(value >> 4 for value in range(256))

# bits of code and distance; literal, or -1; the distance without its low bits; the length
_Entry = tuple[int, int, int, int]


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """Return the `size` bytes, 65536 at most, that the chunk `data` stands for; what follows in `data` is ignored.

    Raises: Corrupt.
    """
    if not size:
        return b""
    if size > _LARGEST:
        raise Corrupt("XPRESS chunk", "size", found=size)
    if len(data) < _TABLE:
        raise Corrupt("XPRESS chunk", "bytes", found=len(data))
    data = bytes(data)
    lengths = bytearray(_SYMBOLS)
    lengths[::2] = data[:_TABLE].translate(_LOW)
    lengths[1::2] = data[:_TABLE].translate(_HIGH)
    return _library()(data, size, lengths)


def _decompress(data: bytes, size: int, lengths: bytearray) -> bytes:
    table, width = huffman.table(lengths, _entries(), "XPRESS chunk")
    if not table:
        raise Corrupt("XPRESS chunk: no codes")
    return _expand(data, size, table, width)


def _expand(data: bytes, size: int, table: list[_Entry], width: int) -> bytes:
    last = len(data)
    padded = data + _PADDING
    words = [_big_endian(padded), b""]  # from even and from odd bytes on; the second is seldom wanted
    mask = (1 << width) - 1
    out = bytearray()
    append = out.append
    place = _TABLE  # of the next byte that is not in `buffer`
    buffer = 0
    spare = -width  # bits left in `buffer`, less those of one look
    careful = size - 8 * _REFILL - _NEEDED - _LONG  # from here on one buffer can make more than there is room for
    while len(out) < size:
        if spare < _NEEDED - width:
            if place > last + _REFILL // 2:
                raise Corrupt("XPRESS chunk ends early", "bytes", found=len(out), expected=size)
            odd = place & 1
            if odd and not words[1]:
                words[1] = _big_endian(padded[1:])
            buffer &= (1 << spare + width) - 1
            buffer = buffer << 8 * _REFILL | int.from_bytes(words[odd][place - odd : place - odd + _REFILL], "big")
            place += _REFILL
            spare += 8 * _REFILL
        # a symbol takes a bit at least, so that what lies above `stop` holds no more literals than there is room for
        stop = max(_NEEDED - width - 1, spare - size + len(out))
        while spare > stop:
            bits, literal, distance, length = table[buffer >> spare & mask]
            spare -= bits
            if literal >= 0:
                append(literal)
                continue
            now = len(out)
            if length == _LONG:
                held = spare + width + distance.bit_length() - 1
                ahead = (held >> 4) - 1 << 4  # the bits of `buffer` that lie behind the bytes of the length
                length, place = _long(data, place - (ahead >> 3))
                if now + length > size:
                    raise Corrupt("XPRESS chunk", "size", found=now + length, expected=size)
                buffer >>= ahead
                spare -= ahead
            distance += buffer >> spare + width & distance - 1
            start = now - distance
            if start < 0:
                raise Corrupt(f"XPRESS chunk: a match from before its start at byte {now}")
            if length <= distance:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // distance + 1))[:length]
            if now > careful:  # after a long match `spare` is below `stop` anyway
                break
    if len(out) > size:
        raise Corrupt("XPRESS chunk", "size", found=len(out), expected=size)
    if spare + width < (place - last) * 8:
        raise Corrupt("XPRESS chunk ends early", "bytes", found=last)
    return bytes(out)


def _long(data: bytes, place: int) -> tuple[int, int]:
    """Return the length of a match that `data` has at `place`, and the place after it."""
    length = int.from_bytes(data[place : place + 1], "little") + 15
    place += 1
    if length == 15 + 255:
        length = int.from_bytes(data[place : place + 2], "little")
        place += 2
        if not length:
            length = int.from_bytes(data[place : place + 4], "little")
            place += 4
    if place > len(data):
        raise Corrupt(f"XPRESS chunk: the length of a match at byte {place}")
    return length + 3, place


def _big_endian(data: bytes) -> bytes:
    words = array("H", data[: len(data) & ~1])
    words.byteswap()
    return words.tobytes()


@cache
def _entries() -> list[list[_Entry]]:
    """What the tables hold for each length of a code and each symbol."""
    rows: list[list[_Entry]] = []
    for length in range(16):
        row: list[_Entry] = [(length, symbol, 0, 0) for symbol in range(256)]
        row += [(length + (n >> 4), -1, 1 << (n >> 4), (n & 15) + 3) for n in range(256)]
        rows.append(row)
    return rows


@cache
def _library() -> Callable[[bytes, int, bytearray], bytes]:
    try:
        library: Callable[[bytes, int], bytes] = import_module("pyfwnt").lzxpress_huffman_decompress
    except ImportError:
        return _decompress

    def decompress(data: bytes, size: int, lengths: bytearray) -> bytes:
        # it takes any code, and goes on past the end of the chunk: what depends on the bytes there is wrong
        try:
            if huffman.is_complete(lengths):
                made = library(data + bytes(_REFILL), size)
                if len(made) == size and made == library(data + b"\xff" * _REFILL, size):
                    return made
        except OSError:
            pass
        return _decompress(data, size, lengths)

    return decompress
