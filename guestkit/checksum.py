"""The checksums of the formats, behind one table: {name: function(bytes, seed) -> int}.

crc32c here is the bare register function: no inversion before or after, so that a seed is what the formats
call a seed (ext4 and jbd2 start at ~0 and store the register; XFS, Btrfs and qcow2 invert at the end).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

_MASK = 0xFFFFFFFF


@cache
def _extend() -> Callable[[int, bytes], int]:
    import google_crc32c

    return google_crc32c.extend  # type: ignore[no-any-return]  # the package has no type information


def crc32c(data: bytes | bytearray | memoryview, seed: int = _MASK) -> int:
    """CRC-32C register after `data`, from `seed`; not inverted at either end."""
    return _extend()(seed ^ _MASK, bytes(data)) ^ _MASK


def crc32c_extend() -> Callable[[int, bytes], int]:
    """Return the bare function (value, bytes) -> value, for loops; its values are crc32c()'s, inverted."""
    return _extend()


def crc32(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """The usual CRC-32 (zlib, GPT, LVM), inverted at both ends; `seed` continues an earlier value."""
    return zlib.crc32(data, seed)


def crc32_be(data: bytes | bytearray | memoryview, seed: int = _MASK) -> int:
    """CRC-32 with the bits in big-endian order, not inverted: the kernel's crc32_be(), for jbd2's old checksum."""
    # the usual CRC-32 of the mirrored bits, mirrored; zlib does it some 40 times faster than a loop over a table
    mirrored = zlib.crc32(bytes(data).translate(_MIRROR), _mirror32(seed) ^ _MASK) ^ _MASK
    return _mirror32(mirrored)


_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _mirror32(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big").translate(_MIRROR), "little")


def crc16(data: bytes | bytearray | memoryview, seed: int = 0xFFFF) -> int:
    """CRC-16 with the reflected polynomial 0xA001, as ext4's group descriptors (uninit_bg) use it."""
    table = _crc16_table()
    register = seed
    for byte in bytes(data):
        register = register >> 8 ^ table[(register ^ byte) & 0xFF]
    return register


@cache
def _crc16_table() -> list[int]:
    table = []
    for index in range(256):
        register = index
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
        table.append(register)
    return table


def xxh64(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """XXH64 as an integer."""
    import xxhash

    return xxhash.xxh64_intdigest(bytes(data), seed)


CHECKSUMS: dict[str, Callable[..., int]] = {
    "crc32c": crc32c,
    "crc32": crc32,
    "crc32_be": crc32_be,
    "crc16": crc16,
    "xxh64": xxh64,
}
