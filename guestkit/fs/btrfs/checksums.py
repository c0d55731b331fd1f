"""The four checksums of Btrfs, by the number in the superblock; each gives the bytes as they stand on disk.

Spec: btrfs-progs Documentation/Checksumming.rst. All are computed over what follows the 32 bytes kept for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from guestkit.checksum import crc32c_extend
from guestkit.errors import Unsupported

Digest = Callable[[bytes], bytes]


class Checksum(NamedTuple):
    """`size`: bytes that it has on disk; `digest` takes bytes (or, but for crc32c, any buffer)."""

    name: str
    size: int
    digest: Digest


def _crc32c() -> Digest:
    extend = crc32c_extend()
    return lambda data: extend(0, data).to_bytes(4, "little")


def _xxhash64() -> Digest:
    from xxhash import xxh64_intdigest

    return lambda data: xxh64_intdigest(data).to_bytes(8, "little")


def _sha256() -> Digest:
    return lambda data: hashlib.sha256(data).digest()


def _blake2b() -> Digest:
    return lambda data: hashlib.blake2b(data, digest_size=32).digest()


_KINDS = (("crc32c", 4, _crc32c), ("xxhash64", 8, _xxhash64), ("sha256", 32, _sha256), ("blake2b", 32, _blake2b))


@cache
def checksum(kind: int) -> Checksum:
    """Return the checksum of number `kind`. Raises: Unsupported for one that is not known."""
    if kind >= len(_KINDS):
        raise Unsupported(f"Btrfs checksum type {kind}")
    name, size, make = _KINDS[kind]
    return Checksum(name, size, make())
