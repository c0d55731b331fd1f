"""The checksums of the formats, behind one table: {name: function(bytes, seed) -> int}.

crc32c here is the bare register function: no inversion before or after, so that a seed is what the formats
call a seed (ext4 and jbd2 start at ~0 and store the register; XFS, Btrfs and qcow2 invert at the end).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Generator, Iterable
from functools import cache

_MASK = 0xFFFFFFFF
_LANES = 1 << 11  # records whose rotating sums are made side by side
_PAUSE = 1 << 12  # bytes added between two pauses


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


@cache
def _lanes(bits: int, turn: int) -> tuple[int, int]:
    """In each lane of 32 bits, what a number of `bits` keeps above and what falls out when it is turned by `turn`."""
    ones = int.from_bytes(b"\1\0\0\0" * _LANES, "little")
    return ones * ((1 << bits - turn) - 1), ones * ((1 << turn) - 1)


def rotating_sums(data: bytes, size: int, columns: Iterable[int], bits: int) -> Generator[None, None, list[int]]:
    """Sum the bytes at `columns` of each record of `size` bytes, the sum turned right by one bit before each is added.

    `bits`: of the sum, 8 (FAT) or 16 (exFAT). The records stand side by side in one large number, a lane of 32 bits
    each. Pauses now and then; returns the sums in the order of the records.
    """
    columns = tuple(columns)
    found: list[int] = []
    spent = 0
    for begin in range(0, len(data), _LANES * size):
        part = data[begin : begin + _LANES * size]
        count = len(part) // size
        lanes = bytearray(4 * count)
        total = turn = 0
        for column in columns:
            turn += 1
            values = part[column::size]
            if values.count(0) == count:
                continue
            lanes[::4] = values
            turn %= bits
            kept, fallen = _lanes(bits, turn)
            # what a sum has above `bits` is neither kept nor falls out
            total = (total >> turn & kept) + ((total & fallen) << bits - turn) + int.from_bytes(lanes, "little")
            turn = 0
            spent += count
            if spent >= _PAUSE:
                spent = 0
                yield
        kept, fallen = _lanes(bits, turn % bits)
        total = (total >> turn % bits & kept) + ((total & fallen) << bits - turn % bits)
        sums = memoryview(total.to_bytes(4 * count, sys.byteorder)).cast("I").tolist()
        found += sums if sys.byteorder == "little" else sums[::-1]
    return found


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
