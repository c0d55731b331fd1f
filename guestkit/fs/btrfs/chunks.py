"""Chunks: how a range of logical addresses stands on the devices, for every profile.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "CHUNK_ITEM"; the placing of stripes is what the kernel's
btrfs_map_block() does. A chunk is immutable; nothing here reads.
"""

from __future__ import annotations

import struct
from bisect import bisect_right, insort
from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

from guestkit.errors import Corrupt, Unsupported
from guestkit.layout import Layout

DATA, SYSTEM, METADATA = 1, 2, 4
RAID0, RAID1, DUP, RAID10 = 1 << 3, 1 << 4, 1 << 5, 1 << 6
RAID5, RAID6, RAID1C3, RAID1C4 = 1 << 7, 1 << 8, 1 << 9, 1 << 10
PROFILES = 0x7F8
_REMAPPED = 1 << 11
_COPIES = {0: 1, RAID0: 1, DUP: 2, RAID1: 2, RAID1C3: 3, RAID1C4: 4, RAID10: 2}
PARITIES = {RAID5: 1, RAID6: 2}
PROFILE_NAMES = {
    0: "single",
    RAID0: "raid0",
    RAID1: "raid1",
    DUP: "dup",
    RAID10: "raid10",
    RAID5: "raid5",
    RAID6: "raid6",
    RAID1C3: "raid1c3",
    RAID1C4: "raid1c4",
}

_CHUNK = Layout(
    "btrfs_chunk",
    48,
    "<",
    length=(0, "Q"),
    owner=(8, "Q"),
    stripe_len=(16, "Q"),
    type=(24, "Q"),
    sector_size=(40, "I"),
    num_stripes=(44, "H"),
    sub_stripes=(46, "H"),
)
_STRIPE = struct.Struct("<QQ16s")
_KEY = struct.Struct("<QBQ")
CHUNK_ITEM = 228
FIRST_CHUNK_TREE = 256
_LAST = 1 << 64


class Stripe(NamedTuple):
    """A place on one device."""

    devid: int
    offset: int
    uuid: bytes


class Piece(NamedTuple):
    """`length` bytes from logical address `logical` stand at `offset` of device `stripe.devid`."""

    logical: int
    length: int
    stripe: Stripe
    offset: int


class Chunk(NamedTuple):
    """`length` bytes from logical address `start`. `profile`: 0 or one of RAID0 to RAID1C4; `type` holds all bits."""

    start: int
    length: int
    type: int
    profile: int
    stripe_len: int
    sub_stripes: int
    stripes: tuple[Stripe, ...]

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def copies(self) -> int:
        """How many copies of each byte stand as they are; 1 with parity."""
        return _COPIES.get(self.profile, 1)

    @property
    def parities(self) -> int:
        return PARITIES.get(self.profile, 0)

    def row(self, logical: int) -> tuple[int, int, int]:
        """(row, place in the row, byte in the stripe) of a logical address, with stripes of data counted only."""
        number, inside = divmod(logical - self.start, self.stripe_len)
        row, place = divmod(number, self.width)
        return row, place, inside

    @property
    def width(self) -> int:
        """How many stripes of different data stand beside each other."""
        if self.profile in (0, RAID0):
            return len(self.stripes)
        if self.profile == RAID10:
            return len(self.stripes) // self.sub_stripes
        return len(self.stripes) - self.parities if self.parities else 1

    def stripe(self, row: int, place: int, copy: int = 0) -> Stripe:
        """The stripe of `place` in `row`. With parity, place `width` is P and `width` + 1 is Q."""
        if self.parities:
            return self.stripes[(row + place) % len(self.stripes)]
        if self.profile == RAID10:
            return self.stripes[place * self.sub_stripes + copy]
        return self.stripes[place + copy]

    def pieces(self, logical: int, length: int, copy: int = 0) -> Iterator[Piece]:
        """Yield where the range, which lies inside, stands in copy `copy`, neighbours joined."""
        if self.width == 1 and not self.parities:
            stripe = self.stripes[copy]
            yield Piece(logical, length, stripe, stripe.offset + logical - self.start)
            return
        while length:
            row, place, inside = self.row(logical)
            take = min(length, self.stripe_len - inside)
            stripe = self.stripe(row, place, copy)
            yield Piece(logical, take, stripe, stripe.offset + row * self.stripe_len + inside)
            logical += take
            length -= take


def parse_chunk(start: int, item: bytes | memoryview, sector_size: int) -> Chunk:
    """Parse the CHUNK_ITEM of logical address `start`. Raises: Corrupt (EUCLEAN), Unsupported."""
    if len(item) < _CHUNK.size + _STRIPE.size:
        raise Corrupt("chunk item", "length", found=len(item), where=f"chunk {start}")
    length, _, stripe_len, kind, _, count, sub = _CHUNK.unpack_from(item)
    where = f"chunk {start}"
    profile = kind & PROFILES
    if kind & _REMAPPED:
        raise Unsupported("remapped chunks", bit=_REMAPPED, where=where)
    if not count or len(item) < _CHUNK.size + count * _STRIPE.size:
        raise Corrupt("chunk item", "num_stripes", found=count, where=where)
    if not length or start % sector_size or length % sector_size or start + length > _LAST:
        raise Corrupt("chunk item", "length", found=length, where=where)
    if stripe_len != 65536:
        raise Corrupt("chunk item", "stripe_len", found=stripe_len, expected=65536, where=where)
    if profile & profile - 1:
        raise Corrupt("chunk item", "type", found=kind, expected="one profile", where=where)
    if not kind & (DATA | SYSTEM | METADATA):
        raise Corrupt("chunk item", "type", found=kind, expected="data, system or metadata", where=where)
    wrong = (
        (profile == RAID10 and (sub != 2 or count % 2))
        or (profile in (0,) and count != 1)
        or (profile in (DUP, RAID1, RAID1C3, RAID1C4) and count != _COPIES[profile])
        or (profile in PARITIES and count < PARITIES[profile] + 1)
    )
    if wrong:
        raise Corrupt("chunk item", "num_stripes", found=count, where=where)
    stripes = tuple(Stripe(*_STRIPE.unpack_from(item, _CHUNK.size + index * _STRIPE.size)) for index in range(count))
    return Chunk(start, length, kind, profile, stripe_len, sub, stripes)


def parse_system_chunks(array: bytes, sector_size: int) -> list[Chunk]:
    """Parse the superblock's array of keys and chunk items. Raises: Corrupt (EUCLEAN), Unsupported."""
    found = []
    at = 0
    while at < len(array):
        if at + _KEY.size + _CHUNK.size > len(array):
            raise Corrupt("system chunk array", "length", found=len(array))
        objectid, kind, start = _KEY.unpack_from(array, at)
        at += _KEY.size
        if objectid != FIRST_CHUNK_TREE or kind != CHUNK_ITEM:
            raise Corrupt("system chunk array", "key", found=(objectid, kind), expected=(FIRST_CHUNK_TREE, CHUNK_ITEM))
        count = int.from_bytes(array[at + 44 : at + 46], "little")
        size = _CHUNK.size + count * _STRIPE.size
        found.append(parse_chunk(start, array[at : at + size], sector_size))
        at += size
    return found


class ChunkMap:
    """The chunks that are known, by logical address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._chunks: dict[int, Chunk] = {}
        self._lock = Lock()

    def find(self, logical: int) -> Chunk | None:
        index = bisect_right(self._starts, logical) - 1
        if index < 0:
            return None
        chunk = self._chunks[self._starts[index]]
        return chunk if logical < chunk.start + chunk.length else None

    def add(self, chunk: Chunk) -> None:
        """Adding what is known changes nothing. Raises: Corrupt when it overlaps another."""
        with self._lock:
            if chunk.start in self._chunks:
                if self._chunks[chunk.start] != chunk:
                    raise Corrupt("chunk item", "place", found=chunk.start, expected="the same as in another copy")
                return
            index = bisect_right(self._starts, chunk.start)
            if index and self._chunks[self._starts[index - 1]].end > chunk.start:
                raise Corrupt(f"chunk {chunk.start} overlaps chunk {self._starts[index - 1]}")
            if index < len(self._starts) and self._starts[index] < chunk.end:
                raise Corrupt(f"chunk {chunk.start} overlaps chunk {self._starts[index]}")
            self._chunks[chunk.start] = chunk
            insort(self._starts, chunk.start)

    def __iter__(self) -> Iterator[Chunk]:
        return iter([self._chunks[start] for start in self._starts])
