"""Directory hashes of ext3 and ext4: the name hashes that order an indexed directory (htree).

Specification: Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories"; half MD4 is MD4 (RFC 1320)
cut down to three rounds of eight steps over 32 bytes, TEA is the Tiny Encryption Algorithm with 16 cycles.
Left out: SIPHASH (6), whose key comes from the directory's encryption key. Directories that use it are both
encrypted and casefolded, and hold the two hash words of each name in its entry, behind the padded name.
"""

from __future__ import annotations

import struct

from guestkit.errors import Corrupt, NeedKey

LEGACY, HALF_MD4, TEA, LEGACY_UNSIGNED, HALF_MD4_UNSIGNED, TEA_UNSIGNED, SIPHASH = range(7)
_UNSIGNED = 3  # what the superblock's unsigned flag adds to LEGACY, HALF_MD4 and TEA

_MASK = 0xFFFFFFFF
_DEFAULT_SEED = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_EOF = 0xFFFFFFFE  # marks the end of a directory and so is the hash of no name
_SIGN = [byte if byte < 128 else (byte - 256) & _MASK for byte in range(256)]
_PLAIN = list(range(256))
_TEA_SUMS = [(0x9E3779B9 * cycle) & _MASK for cycle in range(1, 17)]

# (word of the input, left rotation) for the 24 steps of half MD4
_ROUND1 = tuple(zip(range(8), (3, 7, 11, 19) * 2, strict=True))
_ROUND2 = tuple(zip((1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13) * 2, strict=True))
_ROUND3 = tuple(zip((3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15) * 2, strict=True))


def effective_version(version: int, unsigned: bool) -> int:
    """Return the hash version that a root's `version` byte means where the superblock says how char is signed.

    Raises: Corrupt for a number that names no hash.
    """
    if version not in (LEGACY, HALF_MD4, TEA, SIPHASH):
        raise Corrupt("htree root", "hash_version", found=version, expected="0, 1, 2 or 6")
    return version + _UNSIGNED if unsigned and version != SIPHASH else version


def dirhash(name: bytes, version: int, seed: tuple[int, int, int, int]) -> tuple[int, int]:
    """Return (major, minor) of `name`, 32 bits each; bit 0 of major is clear.

    `version` is 0 to 5; `seed` is the superblock's, of which all zeros mean the default. In a casefolded
    directory `name` is the folded one.
    Raises: NeedKey for SIPHASH; Corrupt for a number that names no hash.
    """
    if version in (LEGACY, LEGACY_UNSIGNED):
        major, minor = _legacy(name, _SIGN if version == LEGACY else _PLAIN), 0
    elif version in (HALF_MD4, HALF_MD4_UNSIGNED):
        major, minor = _half_md4(name, seed if any(seed) else _DEFAULT_SEED, version == HALF_MD4)
    elif version in (TEA, TEA_UNSIGNED):
        major, minor = _tea(name, seed if any(seed) else _DEFAULT_SEED, version == TEA)
    elif version == SIPHASH:
        raise NeedKey("a directory's SipHash needs its encryption key")
    else:
        raise Corrupt("directory hash", "version", found=version, expected="0 to 6")
    major &= ~1
    return (_EOF - 2 if major == _EOF else major), minor


def _legacy(name: bytes, values: list[int]) -> int:
    this, last = 0x12A3FE2D, 0x37ABE8F9
    for byte in name:
        value = last + (this ^ (values[byte] * 7152373 & _MASK)) & _MASK
        if value & 0x80000000:
            value -= 0x7FFFFFFF
        last, this = this, value
    return this << 1 & _MASK


def _words(name: bytes, count: int, signed: bool) -> list[tuple[int, ...]]:
    """Cut `name` into groups of `count` big-endian words, the last padded with the length that is left."""
    groups = []
    width = 4 * count
    whole = struct.Struct(f">{count}I")
    for start in range(0, len(name), width):
        left = len(name) - start
        piece = name[start : start + width]
        if not signed or piece.isascii():
            pad = left & 0xFF
            if left >= width:
                groups.append(whole.unpack(piece))
                continue
            # an unfinished word holds the padding above its bytes, not below
            full = left & ~3
            tail = piece[full:]
            last = bytes([pad]) * (4 - len(tail)) + tail
            groups.append(whole.unpack((piece[:full] + last).ljust(width, bytes([pad]))))
            continue
        pad = left & 0xFF
        padding = pad * 0x01010101
        words = []
        for at in range(0, len(piece), 4):
            value = padding
            for byte in piece[at : at + 4]:
                value = (value << 8) + _SIGN[byte] & _MASK
            words.append(value)
        words += [padding] * (count - len(words))
        groups.append(tuple(words))
    return groups


def _half_md4(name: bytes, seed: tuple[int, int, int, int], signed: bool) -> tuple[int, int]:
    s0, s1, s2, s3 = seed
    for words in _words(name, 8, signed):
        a, b, c, d = s0, s1, s2, s3
        for index, shift in _ROUND1:
            a = a + (d ^ (b & (c ^ d))) + words[index] & _MASK
            a, b, c, d = d, (a << shift | a >> 32 - shift) & _MASK, b, c
        for index, shift in _ROUND2:
            a = a + (b & c) + ((b ^ c) & d) + words[index] + 0x5A827999 & _MASK
            a, b, c, d = d, (a << shift | a >> 32 - shift) & _MASK, b, c
        for index, shift in _ROUND3:
            a = a + (b ^ c ^ d) + words[index] + 0x6ED9EBA1 & _MASK
            a, b, c, d = d, (a << shift | a >> 32 - shift) & _MASK, b, c
        s0, s1, s2, s3 = s0 + a & _MASK, s1 + b & _MASK, s2 + c & _MASK, s3 + d & _MASK
    return s1, s2


def _tea(name: bytes, seed: tuple[int, int, int, int], signed: bool) -> tuple[int, int]:
    high, low = seed[:2]
    for k0, k1, k2, k3 in _words(name, 4, signed):
        x, y = high, low
        for total in _TEA_SUMS:
            x = x + ((y << 4) + k0 ^ y + total ^ (y >> 5) + k1) & _MASK
            y = y + ((x << 4) + k2 ^ x + total ^ (x >> 5) + k3) & _MASK
        high, low = high + x & _MASK, low + y & _MASK
    return high, low
