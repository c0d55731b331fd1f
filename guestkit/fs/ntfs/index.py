"""Indexes: the nodes of a B-tree over file names or other keys, in an attribute's root and its allocation.

Spec: libfsntfs documentation, "The index". A node is read as one list of entries; nothing here descends on its own
except `descend`, whose chain of nodes is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.inode import Inode
from guestkit.fs.ntfs.record import fixed
from guestkit.fs.ntfs.volume import Volume
from guestkit.layout import Layout
from guestkit.source import Source

_ROOT = Layout(
    "index_root",
    32,
    "<",
    type=(0, "I"),
    collation_rule=(4, "I"),
    index_block_size=(8, "I"),
    entries_offset=(16, "I"),
    index_length=(20, "I"),
    flags=(28, "B"),
)
_BLOCK = Layout(
    "index_block",
    40,
    "<",
    index_block_vcn=(16, "Q"),
    entries_offset=(24, "I"),
    index_length=(28, "I"),
    flags=(36, "B"),
)
entry_head = struct.Struct("<QHHH").unpack_from  # reference, length, key length, flags

SUBNODE, LAST = 1, 2  # flags of an entry
_MOST_LEVELS = 32
_MOST_BLOCK = 1 << 16
FILE_NAME_KEY, NAME_AT = 66, 82  # what stands before a name in its key, and in the entry


class Node(NamedTuple):
    """Where the entries of a node stand in `buf`."""

    buf: bytes
    first: int
    end: int


class Index:
    """One index of an inode: its root, and where its blocks are."""

    __slots__ = ("_volume", "block_size", "blocks", "root", "rule", "source", "type", "unit", "where")

    def __init__(self, volume: Volume, inode: Inode, name: bytes) -> None:
        """Raises: Corrupt when the inode has no such index, or its root is damaged."""
        self._volume = volume
        self.where = inode.where
        value = inode.value(r.INDEX_ROOT, volume.boot.record_size, name)
        if value is None:
            raise Corrupt("index", "$INDEX_ROOT", expected="a directory has one", where=self.where)
        if len(value) < 32:
            raise Corrupt("index root", "length", found=len(value), where=self.where)
        self.type, self.rule, size, first, length, flags = _ROOT.unpack_from(value)
        if size & size - 1 or not 512 <= size <= max(_MOST_BLOCK, volume.cluster):
            raise Corrupt("index root", "index_block_size", found=size, where=self.where)
        first += 16
        end = 16 + length
        if not 32 <= first <= end <= len(value):
            raise Corrupt("index root", "index_length", found=length, where=self.where)
        self.root = Node(value, first, end)
        self.block_size = size
        # a block smaller than a cluster is counted in sectors of 512
        self.unit = volume.cluster if volume.cluster <= size else 512
        self.source: Source | None = None
        self.blocks = 0
        if flags & 1:
            source = inode.open(r.INDEX_ALLOCATION, name)
            if source is None:
                raise Corrupt("index", "$INDEX_ALLOCATION", expected="a large index has one", where=self.where)
            if source.size > volume.device.size:
                raise Corrupt("index allocation", "size", found=source.size, where=self.where)
            self.source = source
            self.blocks = source.size // size

    def parse(self, raw: bytes, vcn: int) -> Node:
        """Verify a block that should be that of `vcn`. Raises: Corrupt."""
        buf = fixed(raw, b"INDX")
        found, first, length, _ = _BLOCK.unpack_from(buf)
        if found != vcn:
            raise Corrupt("index block", "VCN", found=found, expected=vcn)
        first += 24
        end = 24 + length
        if not 40 <= first <= end <= len(buf):
            raise Corrupt("index block", "index_length", found=length)
        return Node(buf, first, end)

    def node(self, vcn: int) -> Node:
        """Read the block at `vcn`. Raises: Corrupt, SourceError."""
        offset = vcn * self.unit
        if self.source is None or offset % self.block_size or offset + self.block_size > self.source.size:
            raise Corrupt("index", "sub-node VCN", found=vcn, where=self.where)
        try:
            return self.parse(self.source.read(offset, self.block_size), vcn)
        except Corrupt as error:
            error.within(self.where, f"index block {vcn}")
            raise

    def descend(self, compare: Callable[[bytes, int, int], int]) -> tuple[bytes, int, int] | None:
        """Find an entry: (buffer, offset, length), or None.

        `compare(buffer, offset, key length)` says how what is looked for stands to an entry: below 0, 0 or above.
        Raises: Corrupt, SourceError.
        """
        node = self.root
        for _ in range(_MOST_LEVELS):
            buf, at, end = node
            while True:
                length, key, flags = check_entry(buf, at, end)
                order = -1 if flags & LAST else compare(buf, at, key)
                if order == 0:
                    return buf, at, length
                if order < 0:
                    break
                at += length
            if not flags & SUBNODE:
                return None
            node = self.node(subnode(buf, at, length))
        raise Corrupt("index", "depth", found=_MOST_LEVELS, where=self.where)


def check_entry(buf: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return (length, key length, flags) of the entry at `at`. Raises: Corrupt."""
    if at + 16 > end:
        raise Corrupt("index node", "entries", expected="a last one")
    _, length, key, flags = entry_head(buf, at)
    if length < 16 or length & 7 or at + length > end:
        raise Corrupt("index entry", "length", found=length)
    if not flags & LAST and 16 + key > length:
        raise Corrupt("index entry", "key_length", found=key)
    if flags & SUBNODE and length < 24:
        raise Corrupt("index entry", "length", found=length, expected="at least 24")
    return length, key, flags


def subnode(buf: bytes, at: int, length: int) -> int:
    """The VCN of the node below an entry, which stands at its end."""
    return int.from_bytes(buf[at + length - 8 : at + length], "little")
