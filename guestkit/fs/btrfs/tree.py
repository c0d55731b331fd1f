"""Trees: sorted items by key, in verified nodes.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "Header", "Node" and "Leaf". A key is the plain tuple
(objectid, type, offset). What a tree is asked for, it is asked through the methods of `Items`, so that a tree with
changes over it can take its place.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

from guestkit.errors import Corrupt, GuestkitError
from guestkit.fs.btrfs.chunks import Chunk
from guestkit.fs.btrfs.pool import Pool
from guestkit.fs.btrfs.superblock import MAX_LEVEL
from guestkit.layout import Layout

Key = tuple[int, int, int]
Entry = tuple[int, int, int, int, int]  # a key, then in a leaf where its item begins in the buffer, and its size
Found = tuple[int, int, int, bytes]  # a key and its item

FIRST_KEY: Key = (0, 0, 0)
END_KEY: Key = (1 << 64, 0, 0)  # behind all

FS_TREE = 5
FIRST_FREE = 256
LOG_TREE = (1 << 64) - 6
RELOC_TREE = (1 << 64) - 8

_HEADER = Layout(
    "btrfs_header",
    101,
    "<",
    csum=(0, "32s"),
    fsid=(32, "16s"),
    bytenr=(48, "Q"),
    flags=(56, "Q"),
    chunk_tree_uuid=(64, "16s"),
    generation=(80, "Q"),
    owner=(88, "Q"),
    nritems=(96, "I"),
    level=(100, "B"),
)
_BEGIN = _HEADER.size
_header = struct.Struct("<16sQ24xQQIB").unpack_from  # from fsid on
_items = struct.Struct("<QBQII")
_pointers = struct.Struct("<QBQQQ")
_ENTRY_COST = 200  # bytes of memory of a parsed entry, about
_FURTHEST = 1 << 65


class Items(ABC):
    """Sorted items by key."""

    @abstractmethod
    def runs(
        self, start: Key, end: Key, flaws: list[GuestkitError] | None = None
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        """Yield (buffer, entries) for the items with start <= key < end, in order, as they stand together.

        An entry's last two numbers are the place and the size of its item in the buffer.
        `flaws`: takes the errors of nodes that are damaged, and what is behind them is yielded; None: they are raised.
        Raises: Corrupt, SourceError.
        """

    @abstractmethod
    def before(self, key: Key) -> Found | None:
        """Return the last item with a key below `key`; None when there is none. Raises: Corrupt, SourceError."""

    def get(self, key: Key) -> bytes | None:
        """Return the item of `key`; None when there is none. Raises: Corrupt, SourceError."""
        for buffer, entries in self.runs(key, (key[0], key[1], key[2] + 1)):
            for _, _, _, at, size in entries:
                return buffer[at : at + size]
        return None

    def items(self, start: Key = FIRST_KEY, end: Key = END_KEY) -> Iterator[Found]:
        """Yield the items with start <= key < end in order. Raises: Corrupt, SourceError."""
        for buffer, entries in self.runs(start, end):
            for objectid, kind, offset, at, size in entries:
                yield objectid, kind, offset, buffer[at : at + size]


class Node:
    """A parsed node. `buffer`: what follows the header of a leaf, in which entries have their items."""

    __slots__ = ("buffer", "entries", "generation", "level", "owner")

    def __init__(self, level: int, generation: int, owner: int, buffer: bytes, entries: list[Entry]) -> None:
        self.level = level
        self.generation = generation
        self.owner = owner
        self.buffer = buffer
        self.entries = entries  # of a branch: a key, the child's address and its generation


class Nodes:
    """Reads nodes by logical address, and keeps them in the cache."""

    def __init__(self, pool: Pool, chunk: Callable[[int], Chunk]) -> None:
        """`chunk`: finds the chunk of an address."""
        self._pool = pool
        self._chunk = chunk
        self._cache = pool.limits.cache
        self._token = pool.limits.token()
        self._size = pool.superblock.node_size
        self._sector = pool.superblock.sector_size
        self._csum = pool.csum

    def read(self, address: int, level: int, generation: int, owner: int, first: Key | None, bound: Key) -> Node:
        """Return the node at `address`, verified.

        `owner`: the tree, 0 for any. `first`: the key with which it must begin, None for a root. `bound`: what all its
        keys are below.
        Raises: Corrupt (EUCLEAN) when no copy is good; SourceError.
        """
        node: Node | None = self._cache.get((self._token, address))
        if node is None or self._unfit(node, level, generation, owner, first, bound):
            node = self._load(address, level, generation, owner, first, bound)
        return node

    def _load(self, address: int, level: int, generation: int, owner: int, first: Key | None, bound: Key) -> Node:
        parsed: list[Node] = []

        def check(raw: bytes) -> GuestkitError | None:
            try:
                node = self._parse(address, raw)
            except Corrupt as error:
                return error
            wrong = self._unfit(node, level, generation, owner, first, bound)
            if wrong is None:
                parsed.append(node)
            return wrong

        try:
            if address % self._sector:
                raise Corrupt("node address", found=address, expected=f"a multiple of {self._sector}")
            self._pool.good(self._chunk(address), address, self._size, check)
        except GuestkitError as error:
            error.within(f"tree {_tree_name(owner)}", f"node {address}")
            raise
        node = parsed[0]
        cost = len(node.buffer) + 400 + len(node.entries) * _ENTRY_COST
        self._cache.put((self._token, address), node, cost)
        return node

    def _parse(self, address: int, raw: bytes) -> Node:
        """Raises: Corrupt for what contradicts itself."""
        csum = self._csum
        if csum.digest(raw[32:]) != raw[: csum.size]:
            raise Corrupt("node: bad checksum")
        fsid, place, generation, owner, count, level = _header(raw, 32)
        if place != address:
            raise Corrupt("node", "bytenr", found=place, expected=address)
        if fsid not in self._pool.node_fsids:
            raise Corrupt("node", "fsid", found=fsid.hex(), expected=self._pool.superblock.node_fsid.hex())
        if level >= MAX_LEVEL:
            raise Corrupt("node", "level", found=level, expected=f"below {MAX_LEVEL}")
        room = self._size - _BEGIN
        each = _pointers if level else _items
        if count > room // each.size:
            raise Corrupt("node", "nritems", found=count, expected=f"at most {room // each.size}")
        entries: list[Entry] = list(each.iter_unpack(raw[_BEGIN : _BEGIN + count * each.size]))
        if level:
            if not count:
                raise Corrupt("node", "nritems", found=0, expected="at least 1")
            _check_order(entries)
            return Node(level, generation, owner, b"", entries)
        end = room
        for _, _, _, at, size in entries:
            if at + size != end:
                raise Corrupt("leaf item", "offset", found=at, expected=end - size)
            end = at
        if end < count * each.size:
            raise Corrupt("leaf item", "offset", found=end, expected=f"at least {count * each.size}")
        _check_order(entries)
        return Node(0, generation, owner, raw[_BEGIN:], entries)

    @staticmethod
    def _unfit(
        node: Node, level: int, generation: int, owner: int, first: Key | None, bound: Key
    ) -> Corrupt | None:  # fmt: skip
        """What is wrong with a node in the place where it is wanted."""
        if node.level != level:
            return Corrupt("node", "level", found=node.level, expected=level)
        if node.generation != generation:
            return Corrupt("node", "generation", found=node.generation, expected=generation)
        if owner != node.owner and owner and not (is_subvolume(owner) and is_subvolume(node.owner)):
            return Corrupt("node", "owner", found=node.owner, expected=owner)
        entries = node.entries
        if first is not None:
            if not entries or entries[0][:3] != first:
                return Corrupt("node", "first key", found=entries[0][:3] if entries else "none", expected=first)
            if entries[-1][:3] >= bound:
                return Corrupt("node", "last key", found=entries[-1][:3], expected=f"below {bound}")
        return None


class Tree(Items):
    """One tree of the filesystem. `owner`: its number, 0 where nodes of any tree may stand in it."""

    def __init__(self, nodes: Nodes, address: int, level: int, generation: int, owner: int) -> None:
        self._nodes = nodes
        self._address = address
        self._level = level
        self._generation = generation
        self._owner = 0 if owner in (LOG_TREE, RELOC_TREE) else owner
        self.owner = owner
        self.generation = generation

    def _root(self) -> Node:
        return self._nodes.read(self._address, self._level, self._generation, self._owner, None, END_KEY)

    def get(self, key: Key) -> bytes | None:
        node = self._root()
        bound = END_KEY
        after = (*key, _FURTHEST)
        while node.level:
            entries = node.entries
            at = bisect_right(entries, after) - 1
            if at < 0:
                return None
            if at + 1 < len(entries):
                bound = entries[at + 1][:3]
            entry = entries[at]
            node = self._nodes.read(entry[3], node.level - 1, entry[4], self._owner, entry[:3], bound)
        entries = node.entries
        at = bisect_left(entries, key)
        if at == len(entries):
            return None
        entry = entries[at]
        if entry[:3] != key:
            return None
        return node.buffer[entry[3] : entry[3] + entry[4]]

    def before(self, key: Key) -> Found | None:
        node = self._root()
        bound = END_KEY
        while node.level:
            entries = node.entries
            at = bisect_left(entries, key) - 1
            if at < 0:
                return None
            if at + 1 < len(entries):
                bound = entries[at + 1][:3]
            entry = entries[at]
            node = self._nodes.read(entry[3], node.level - 1, entry[4], self._owner, entry[:3], bound)
        at = bisect_left(node.entries, key) - 1
        if at < 0:
            return None
        objectid, kind, offset, begin, size = node.entries[at]
        return objectid, kind, offset, node.buffer[begin : begin + size]

    def runs(
        self, start: Key, end: Key, flaws: list[GuestkitError] | None = None
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        # every node is met at most once: its first key is that of its slot, and siblings do not overlap
        try:
            stack: list[tuple[Node, int, Key]] = [(self._root(), -1, END_KEY)]
        except GuestkitError as error:
            if flaws is None:
                raise
            flaws.append(error)
            return
        while stack:
            node, at, upper = stack.pop()
            entries = node.entries
            if not node.level:
                low, high = bisect_left(entries, start), bisect_left(entries, end)
                if low < high:
                    yield node.buffer, entries if high - low == len(entries) else entries[low:high]
                if high < len(entries):
                    return
                continue
            if at < 0:
                at = max(0, bisect_right(entries, (*start, _FURTHEST)) - 1)
            entry = entries[at]
            key = entry[:3]
            if key >= end:
                return
            bound = upper
            if at + 1 < len(entries):
                bound = entries[at + 1][:3]
                stack.append((node, at + 1, upper))
            try:
                child = self._nodes.read(entry[3], node.level - 1, entry[4], self._owner, key, bound)
            except GuestkitError as error:
                if flaws is None:
                    raise
                flaws.append(error)
                continue
            stack.append((child, -1, bound))


def is_subvolume(number: int) -> bool:
    """Whether a tree's number is that of a subvolume: such trees share nodes."""
    return number == FS_TREE or (FIRST_FREE <= number < 1 << 48)


def _check_order(entries: list[Entry]) -> None:
    if entries != sorted(entries):
        raise Corrupt("node", "keys", expected="ascending")


def _tree_name(owner: int) -> str:
    names = {0: "log", 1: "root", 2: "extent", 3: "chunk", 4: "device", 7: "checksum"}
    return names.get(owner, str(owner))
