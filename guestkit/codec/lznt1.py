"""LZNT1, the compression of NTFS files ([MS-XCA] 2.5): one compression unit at a time.

A unit is a row of chunks, each of which stands for 4096 bytes of the file. A chunk begins with 16 bits: its length
less 3, the signature 3, and whether it is compressed or stored. A header of zero, or the end of the data, ends the
unit: what follows in its last cluster is whatever was there before. As in Windows and ntfs-3g, a chunk that makes less
than 4096 bytes is filled up with zeros when another follows, and flags for tokens past a chunk's end mean nothing.
"""

from __future__ import annotations

from guestkit.errors import Corrupt

_CHUNK = 4096

# What the eight flags of a group mean: how many literals come before each match, and how many after the last.
_RUNS = [tuple(len(run) for run in f"{flags:08b}"[::-1].split("1")) for flags in range(256)]
_GROUPS = [(runs[:-1], runs[-1]) for runs in _RUNS]

# How a token splits at each place of a chunk: the shift that leaves the distance, and the mask of the length.
# The distance gets as many bits as the place needs, 4 at least.
_SPLITS = [(16 - bits, 0xFFFF >> bits) for bits in (max(4, (place - 1).bit_length()) for place in range(_CHUNK))]


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """Return what the chunks of one compression unit hold, stopping after `size` bytes.

    The result is shorter when the unit ends early; NTFS reads zeros from there on, and the caller adds them.
    Raises: Corrupt.
    """
    data = bytes(data)
    out = bytearray()
    place, limit = 0, len(data)
    while len(out) < size and place + 2 <= limit:
        header = data[place] | data[place + 1] << 8
        if not header:
            break
        if header & 0x7000 != 0x3000:
            raise Corrupt(f"LZNT1 chunk at byte {place}", "header", found=header)
        end = place + (header & 0xFFF) + 3
        if end > limit:
            raise Corrupt(f"LZNT1 chunk at byte {place}", "bytes", found=limit - place, expected=end - place)
        if len(out) % _CHUNK:
            out += bytes(-len(out) % _CHUNK)
        chunk = data[place + 2 : end]
        if header & 0x8000:
            _expand(chunk, out, place)
        else:
            out += chunk
        place = end
    return bytes(out[:size])


def _expand(chunk: bytes, out: bytearray, place: int) -> None:
    """Append what the tokens of a compressed chunk stand for; `place` is for the message of an error."""
    base = len(out)
    at, end = 0, len(chunk)
    try:
        while at < end:
            flags = chunk[at]
            at += 1
            if not flags:
                out += chunk[at : at + 8]
                at += 8
                continue
            runs, rest = _GROUPS[flags]
            for run in runs:
                if run:
                    out += chunk[at : at + run]
                    at += run
                token = chunk[at] | chunk[at + 1] << 8
                now = len(out)
                shift, mask = _SPLITS[now - base]
                at += 2
                length = (token & mask) + 3
                start = now - 1 - (token >> shift)
                if start < base:
                    raise Corrupt(f"LZNT1 chunk at byte {place}: a match from before its start")
                if start + length <= now:
                    out += out[start : start + length]
                else:
                    out += (out[start:] * (length // (now - start) + 1))[:length]
            out += chunk[at : at + rest]
            at += rest
    except IndexError:
        if at < end:  # half a token, or one past the chunk's 4096 bytes
            raise Corrupt(f"LZNT1 chunk at byte {place}: a broken match") from None
    if len(out) - base > _CHUNK:
        raise Corrupt(f"LZNT1 chunk at byte {place}", "size", found=len(out) - base)
