"""Btrfs fixtures unpacked, and edited: nodes, items and superblocks changed with their checksums made good again."""

from __future__ import annotations

import json
import lzma
import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from guestkit.checksum import crc32c
from guestkit.fs.base import Problems
from guestkit.fs.btrfs import open as open_btrfs
from guestkit.fs.btrfs.assembly import Trees, assemble
from guestkit.fs.btrfs.filesystem import Btrfs
from guestkit.limits import Limits
from guestkit.source import BytesSource

DATA = Path(__file__).parent.parent / "data" / "btrfs"
HEADER = 101
ITEM = struct.Struct("<QBQII")
POINTER = struct.Struct("<QBQQQ")

Key = tuple[int, int, int]


def told(name: str) -> dict[str, Any]:
    """The manifest of a fixture."""
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found


@cache
def unpacked(name: str) -> tuple[bytes, ...]:
    """The bytes of each device of a fixture."""
    many = told(name)["devices"]
    files = [DATA / f"{name}.img.xz"] if many == 1 else [DATA / f"{name}.{n}.img.xz" for n in range(1, many + 1)]
    return tuple(lzma.decompress(file.read_bytes()) for file in files)


def opened(
    *devices: bytes | bytearray, options: Mapping[str, str] | None = None, limits: Limits | None = None
) -> Btrfs:
    sources = [BytesSource(bytes(device)) for device in devices]
    return open_btrfs(sources, limits or Limits(), options or {})


class Edited:
    """A copy of a fixture of one device with crc32c, to be changed."""

    def __init__(self, name: str = "default") -> None:
        self.data = bytearray(unpacked(name)[0])
        self.trees: Trees = assemble([BytesSource(unpacked(name)[0])], Limits(), Problems())
        self.size = self.trees.pool.superblock.node_size

    def open(self, options: Mapping[str, str] | None = None) -> Btrfs:
        return opened(self.data, options=options)

    def place(self, address: int, copy: int = 0) -> int:
        """Where a logical address stands on the device."""
        chunk = self.trees.pool.chunk(address)
        return next(chunk.pieces(address, 1, copy)).offset

    def superblock(self, **fields: tuple[int, str, Any]) -> None:
        """Set fields (offset, struct code, value) of the superblock's copies."""
        for place in (0x10000, 0x4000000):
            if place + 4096 <= len(self.data):
                for offset, code, value in fields.values():
                    struct.pack_into("<" + code, self.data, place + offset, value)
                self._sum(place, 4096)

    def _sum(self, place: int, size: int) -> None:
        value = crc32c(self.data[place + 32 : place + size]) ^ 0xFFFFFFFF
        struct.pack_into("<I", self.data, place, value)

    def node(self, address: int) -> bytearray:
        place = self.place(address)
        return self.data[place : place + self.size]

    def edit(self, address: int, change: Callable[[bytearray], None]) -> None:
        """Change the node at `address`, in all its copies."""
        node = self.node(address)
        change(node)
        assert len(node) == self.size
        for copy in range(self.trees.pool.chunk(address).copies):
            place = self.place(address, copy)
            self.data[place : place + self.size] = node
            self._sum(place, self.size)

    def root(self, number: int) -> int:
        """The address of a tree's root node."""
        superblock = self.trees.pool.superblock
        if number in (1, 3):
            return superblock.root if number == 1 else superblock.chunk_root
        item = self.trees.root_item(number)
        assert item is not None
        return item.address

    def leaf(self, number: int, key: Key) -> int:
        """The address of the leaf of tree `number` in which `key` would stand."""
        address = self.root(number)
        while self.node(address)[100]:
            node = self.node(address)
            (count,) = struct.unpack_from("<I", node, 96)
            pointers = [POINTER.unpack_from(node, HEADER + n * POINTER.size) for n in range(count)]
            address = [pointer for pointer in pointers if pointer[:3] <= key][-1][3]
        return address

    def item(self, number: int, key: Key, change: Callable[[bytearray], None]) -> None:
        """Change the bytes of an item, its length kept."""

        def edit(node: bytearray) -> None:
            _, begin, size = find_item(node, key)
            item = node[begin : begin + size]
            change(item)
            node[begin : begin + size] = item

        self.edit(self.leaf(number, key), edit)


def find_item(node: bytearray, key: Key) -> tuple[int, int, int]:
    """(index, place in the node, size) of an item."""
    (count,) = struct.unpack_from("<I", node, 96)
    for index in range(count):
        objectid, kind, offset, at, size = ITEM.unpack_from(node, HEADER + index * ITEM.size)
        if (objectid, kind, offset) == key:
            return index, HEADER + at, size
    raise AssertionError(f"no item {key}")


def put(offset: int, code: str, value: Any) -> Callable[[bytearray], None]:
    """A change that stores one value, or a tuple of several."""
    values = value if isinstance(value, tuple) else (value,)
    return lambda buffer: struct.pack_into("<" + code, buffer, offset, *values)
