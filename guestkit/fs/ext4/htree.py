"""Indexed directories: the leaf blocks in which a name may stand, found by its hash.

Spec: Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories". A damaged index raises Corrupt; the
caller then searches all blocks.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.ext4.directory import index_place

_BLOCK_MASK = 0x0FFFFFFF


class IndexNode(NamedTuple):
    """One root or node: `hashes[i]` is the least hash below logical block `blocks[i]`."""

    hashes: list[int]
    blocks: list[int]


class Root(NamedTuple):
    version: int  # as stored
    levels: int  # of nodes between root and leaves
    node: IndexNode


def parse_root(buf: bytes, most_levels: int, checked: bool) -> Root:
    """Decode block 0. `checked`: the directory's blocks carry checksums. Raises: Corrupt (EUCLEAN)."""
    if index_place(buf) != 32:
        raise Corrupt("htree root", "info_length", found=buf[29], expected=8)
    levels = buf[30]
    if levels >= most_levels:
        raise Corrupt("htree root", "indirect_levels", found=levels, expected=f"below {most_levels}")
    return Root(buf[28], levels, parse_node(buf, 32, checked))


def parse_node(buf: bytes, place: int, checked: bool) -> IndexNode:
    """Decode the entries whose (limit, count) stand at `place`. Raises: Corrupt (EUCLEAN)."""
    limit = int.from_bytes(buf[place : place + 2], "little")
    count = int.from_bytes(buf[place + 2 : place + 4], "little")
    room = (len(buf) - place) // 8 - (1 if checked else 0)
    if limit != room:
        raise Corrupt("htree node", "limit", found=limit, expected=room)
    if not 0 < count <= limit:
        raise Corrupt("htree node", "count", found=count, expected=f"1 to {limit}")
    words = array("I", buf[place : place + 8 * count])
    if words.itemsize != 4 or array("H", b"\1\0")[0] != 1:
        words.byteswap()
    words[0] = 0  # (limit, count) stand where the first entry's hash would
    return IndexNode(list(words[::2]), [block & _BLOCK_MASK for block in words[1::2]])


def candidate_leaves(root: Root, hash: int, read: Callable[[int], IndexNode], most: int) -> Iterator[int]:
    """Yield the logical blocks in which a name with `hash` may stand, the likeliest first.

    `read` gives the node at a logical block; `most` is the directory's number of blocks.
    Raises: Corrupt (EUCLEAN) for an index that leads outside, or to one node twice.
    """
    seen = {0}
    path: list[tuple[IndexNode, int]] = []
    node = root.node
    for level in range(root.levels + 1):
        index = max(0, bisect_right(node.hashes, hash) - 1)
        path.append((node, index))
        if level < root.levels:
            node = _below(node, index, read, seen, most)
    while True:
        node, index = path[-1]
        yield _leaf(node.blocks[index], seen, most)
        # names with the same hash may go on in the next leaf, whose hash then has bit 0 set
        depth = len(path) - 1
        while depth >= 0 and path[depth][1] + 1 >= len(path[depth][0].blocks):
            depth -= 1
        if depth < 0:
            return
        node, index = path[depth]
        if node.hashes[index + 1] & ~1 != hash:
            return
        path[depth:] = [(node, index + 1)]
        while len(path) <= root.levels:
            node, index = path[-1]
            path.append((_below(node, index, read, seen, most), 0))


def _below(
    node: IndexNode, index: int, read: Callable[[int], IndexNode], seen: set[int], most: int
) -> IndexNode:  # fmt: skip
    return read(_leaf(node.blocks[index], seen, most))


def _leaf(block: int, seen: set[int], most: int) -> int:
    if block >= most:
        raise Corrupt("htree node", "block", found=block, expected=f"below {most}")
    if block in seen:
        raise Corrupt("htree node", "block", found=block, expected="one that was not met before")
    seen.add(block)
    return block
