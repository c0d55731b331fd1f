"""LZNT1, the compression of NTFS files ([MS-XCA] 2.5): one compression unit at a time.

A unit is a row of chunks, each of which stands for 4096 bytes of the file. A chunk begins with 16 bits: its length
less 3, the signature 3, and whether it is compressed or stored. A header of zero, or the end of the data, ends the
unit: what follows in its last cluster is whatever was there before. As in Windows and ntfs-3g, a chunk that makes less
than 4096 bytes is filled up with zeros when another follows, and flags for tokens past a chunk's end mean nothing.

The tokens of a chunk are left to libfwnt's Python bindings when they are installed; what these refuse is tried here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from struct import Struct

from guestkit.errors import Corrupt

_CHUNK = 4096

# How a match splits at each place of a chunk: the shift that leaves the distance less 1, and the mask of the length
# less 3. The distance has as many bits as the place needs, 4 at least.
_SPLITS = [(16 - bits, 0xFFFF >> bits) for bits in (max(4, (place - 1).bit_length()) for place in range(_CHUNK))]

# For each value of the flags, a group's eight tokens: literals, match, literals, ... with empty literals between two
# matches, so that they take turns.
_GROUPS = [Struct("<" + "H".join(f"{len(run)}s" for run in f"{flags:08b}"[::-1].split("1"))) for flags in range(256)]
_TOKENS = [(group.unpack_from, group.size + 1) for group in _GROUPS]


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """Return what the chunks of one compression unit hold, stopping after `size` bytes.

    The result is shorter when the unit ends early; NTFS reads zeros from there on, and the caller adds them.
    Raises: Corrupt.
    """
    data = bytes(data)
    expand = _library()
    made = bytearray()
    place, limit = 0, len(data)
    while len(made) < size and place + 2 <= limit:
        header = data[place] | data[place + 1] << 8
        if not header:
            break
        end = place + (header & 0xFFF) + 3
        if header & 0x7000 != 0x3000:
            raise Corrupt(f"LZNT1 chunk at byte {place}", "header", found=header)
        if end > limit:
            raise Corrupt(f"LZNT1 chunk at byte {place}", "bytes", found=limit - place, expected=end - place)
        if len(made) % _CHUNK:
            made += bytes(-len(made) % _CHUNK)
        if header & 0x8000:
            try:
                made += expand(data[place:end])
            except Corrupt as error:
                error.within(f"LZNT1 chunk at byte {place}")
                raise
        else:
            made += data[place + 2 : end]
        place = end
    return bytes(made[:size])


def _expand(chunk: bytes) -> bytearray:
    """Return what the tokens of a compressed chunk, which follow its header, stand for."""
    out = bytearray()
    tokens, splits = _TOKENS, _SPLITS
    at, end = 2, len(chunk)
    try:
        while at < end:
            flags = chunk[at]
            if not flags:
                out += chunk[at + 1 : at + 9]
                at += 9
                continue
            unpack, length = tokens[flags]
            group = at + 1
            at += length
            parts = iter(unpack(chunk, group) if at <= end else _unfinished(chunk, group, flags))
            for literals in parts:
                if literals:
                    out += literals
                for match in parts:
                    now = len(out)
                    shift, mask = splits[now]
                    start = now + ~(match >> shift)
                    length = (match & mask) + 3
                    if start < 0:
                        raise Corrupt("a match", "start", found=start)
                    if start + length <= now:
                        out += out[start : start + length]
                    else:
                        out += (out[start:] * (length // (now - start) + 1))[:length]
                    break
    except IndexError:
        raise Corrupt("a match", "place", found=now) from None
    if len(out) > _CHUNK:
        raise Corrupt("the size", found=len(out))
    return out


def _unfinished(chunk: bytes, at: int, flags: int) -> list[bytes | int]:
    """Return the tokens of a chunk's last group, which has fewer than eight: literals and matches in turn."""
    parts: list[bytes | int] = []
    literals = b""
    while at < len(chunk):
        if flags & 1:
            if at + 1 == len(chunk):
                raise Corrupt("half a match")
            parts += literals, chunk[at] | chunk[at + 1] << 8
            literals = b""
            at += 2
        else:
            literals += chunk[at : at + 1]
            at += 1
        flags >>= 1
    return [*parts, literals]


@cache
def _library() -> Callable[[bytes], bytes | bytearray]:
    try:
        decompress: Callable[[bytes, int], bytes] = import_module("pyfwnt").lznt1_decompress
    except ImportError:
        return _expand

    def expand(chunk: bytes) -> bytes | bytearray:
        try:
            made = decompress(chunk, _CHUNK)
        except OSError:
            return _expand(chunk)
        return made if len(made) == _CHUNK else _expand(chunk)

    return expand
