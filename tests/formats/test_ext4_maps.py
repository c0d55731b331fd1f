"""Extent trees and block maps: runs, holes, and what the kernel refuses."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from ext4_images import content, debugfs, make, reader

from guestkit.errors import Corrupt
from guestkit.fs.ext4.blockmap import BlockMap
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.ext4.extents import ExtentTree

pytestmark = pytest.mark.tool("mke2fs", "debugfs")
SIZE = 1024


@pytest.fixture
def blocks(tmp_path: Path) -> Callable[[dict[int, bytes]], Blocks]:
    """Gives the blocks of a filesystem of 4 MiB without checksums, some of them replaced."""
    image = make(tmp_path / "map.img", "4M", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal")

    def build(changed: dict[int, bytes]) -> Blocks:
        data = bytearray(image.read_bytes())
        for number, block in changed.items():
            data[number * SIZE : number * SIZE + len(block)] = block
        return reader(bytes(data)).blocks

    return build


def node(depth: int, entries: list[tuple[int, int, int]], most: int = 84) -> bytes:
    """An extent node: (logical, length, start) in leaves, (logical, 0, block) above."""
    buf = struct.pack("<HHHHI", 0xF30A, len(entries), most, depth, 0)
    for logical, length, start in entries:
        if depth:
            buf += struct.pack("<IIHH", logical, start & 0xFFFFFFFF, start >> 32, 0)
        else:
            buf += struct.pack("<IHHI", logical, length, start >> 32, start & 0xFFFFFFFF)
    return buf


def root(depth: int, entries: list[tuple[int, int, int]], most: int = 4) -> bytes:
    return node(depth, entries, most).ljust(60, b"\0")


def tree(blocks: Blocks, buf: bytes) -> ExtentTree:
    return ExtentTree(blocks, buf, 12, 0)


def test_runs_tile_the_range_with_holes(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    found = tree(blocks({}), root(0, [(2, 3, 1000), (10, 2, 2000)]))
    assert [tuple(run) for run in found.runs(0, 15)] == [(0, 0, 2), (2, 1000, 3), (5, 0, 5), (10, 2000, 2), (12, 0, 3)]
    assert [tuple(run) for run in found.runs(3, 11)] == [(3, 1001, 2), (5, 0, 5), (10, 2000, 1)]


def test_length_32768_is_initialised_and_longer_is_unwritten(tmp_path: Path) -> None:
    image = make(tmp_path / "big.img", "64M", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal")
    found = tree(reader(image).blocks, root(0, [(0, 32768, 5000), (32768, 32769, 40000)]))
    assert [tuple(run) for run in found.runs(0, 32769)] == [(0, 5000, 32768), (32768, 0, 1)]


@pytest.mark.parametrize(
    "entries",
    [
        [(5, 2, 1000), (4, 1, 2000)],  # reversed
        [(0, 5, 1000), (4, 5, 2000)],  # overlapping
        [(0, 0, 1000)],  # empty
        [(0, 10, 4090)],  # beyond the end
        [(0, 1, 1)],  # the superblock
        [(0xFFFFFFFF, 2, 1000)],  # past the last logical block
    ],
)
def test_bad_extents_are_refused(
    blocks: Callable[[dict[int, bytes]], Blocks], entries: list[tuple[int, int, int]]
) -> None:
    with pytest.raises(Corrupt):
        tree(blocks({}), root(0, entries))


def test_five_levels_are_followed_and_six_refused(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    chain = {3000 + level: node(level, [(7, 0, 2999 + level)]) for level in range(1, 5)}
    chain[3000] = node(0, [(7, 4, 1000)])
    found = tree(blocks(chain), root(5, [(7, 0, 3004)]))
    assert [tuple(run) for run in found.runs(0, 12)] == [(0, 0, 7), (7, 1000, 4), (11, 0, 1)]
    with pytest.raises(Corrupt):
        tree(blocks({}), root(6, [(0, 0, 3004)]))


def test_node_that_names_itself_is_refused(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    found = tree(blocks({3000: node(1, [(0, 0, 3000)])}), root(2, [(0, 0, 3000)]))
    with pytest.raises(Corrupt, match="eh_depth"):
        list(found.runs(0, 10))


def test_leaf_named_twice_is_refused(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    found = tree(blocks({3000: node(0, [(0, 1, 1000)])}), root(1, [(0, 0, 3000), (1, 0, 3000)]))
    with pytest.raises(Corrupt):
        list(found.runs(0, 10))


def test_leaf_that_reaches_into_its_neighbour_is_refused(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    leaves = {3000: node(0, [(0, 6, 1000)]), 3001: node(0, [(5, 1, 2000)])}
    found = tree(blocks(leaves), root(1, [(0, 0, 3000), (5, 0, 3001)]))
    with pytest.raises(Corrupt):
        list(found.runs(0, 10))


def test_damaged_leaf_leaves_the_runs_before_it(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    leaves = {3000: node(0, [(0, 5, 1000)]), 3001: b"\xff" * 64}
    runs = tree(blocks(leaves), root(1, [(0, 0, 3000), (5, 0, 3001)])).runs(0, 10)
    assert tuple(next(runs)) == (0, 1000, 5)
    with pytest.raises(Corrupt):
        next(runs)


def words(*values: int) -> bytes:
    return array("I", values).tobytes()


def test_every_level_of_a_block_map_is_followed(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    per = SIZE // 4
    top = words(*range(500, 512), 3000, 3001, 3003)
    found = BlockMap(
        blocks(
            {
                3000: words(*range(1000, 1000 + per)),
                3001: words(3002).ljust(SIZE, b"\0"),
                3002: words(0, 2000, 2001).ljust(SIZE, b"\0"),
                3003: words(0, 3004).ljust(SIZE, b"\0"),
                3004: words(3005).ljust(SIZE, b"\0"),
                3005: words(77).ljust(SIZE, b"\0"),
            }
        ),
        top,
    )
    triple = 12 + per + per * per
    end = triple + per**3
    assert [tuple(run) for run in found.runs(0, end + 5)] == [
        (0, 500, 12),
        (12, 1000, per),
        (12 + per, 0, 1),
        (13 + per, 2000, 2),
        (15 + per, 0, triple + per * per - 15 - per),
        (triple + per * per, 77, 1),
        (triple + per * per + 1, 0, end + 5 - triple - per * per - 1),
    ]
    assert [tuple(run) for run in found.runs(14 + per, 16 + per)] == [(14 + per, 2001, 1), (15 + per, 0, 1)]


def test_hole_behind_an_empty_double_indirect_block_is_one_run(
    blocks: Callable[[dict[int, bytes]], Blocks],
) -> None:
    found = BlockMap(blocks({3001: bytes(SIZE)}), words(*[0] * 13, 3001, 0))
    assert [tuple(run) for run in found.runs(0, 100000)] == [(0, 0, 100000)]


def test_pointer_outside_the_filesystem_is_refused(blocks: Callable[[dict[int, bytes]], Blocks]) -> None:
    runs = BlockMap(blocks({}), words(700, 4096, *[0] * 13)).runs(0, 5)
    assert tuple(next(runs)) == (0, 700, 1)
    with pytest.raises(Corrupt):
        next(runs)


@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_trailing_hole_of_sparse_file_reads_zero(tmp_path: Path, kind: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    places = (0, 5, 11, 12, 13, 266, 267, 268, 300, 65803, 65804, 66000)
    with (tree / "holes").open("wb") as file:
        for number in places:
            file.seek(number * SIZE)
            file.write(bytes([number % 251 + 1]) * 700)
        file.truncate(67_700_123)
    options = ("-O", "^has_journal")
    fs = reader(make(tmp_path / "s.img", "4M", "-t", kind, "-b", "1024", *options, tree=tree))
    found = content(fs, b"holes")
    assert found == (tree / "holes").read_bytes()


def test_deep_tree_reads_as_written(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "deep").open("wb") as file:
        for number in range(0, 6000, 2):
            file.seek(number * SIZE)
            file.write(number.to_bytes(4, "little") * 200)
    image = make(tmp_path / "d.img", "16M", "-t", "ext4", "-b", "1024", "-O", "^has_journal", tree=tree)
    assert " 2/ 2" in debugfs(image, "ex /deep")
    source = reader(image).open(reader(image).lookup(2, b"deep"))
    assert source.read(0, source.size) == (tree / "deep").read_bytes()
    assert source.read(5_000_100, 3000) == (tree / "deep").read_bytes()[5_000_100:5_003_100]


def test_extents_stand_where_the_host_file_has_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(os.urandom(5000))
    image = make(tmp_path / "e.img", "4M", "-t", "ext4", "-b", "1024", tree=tree)
    data = image.read_bytes()
    fs = reader(data)
    source = fs.open(fs.lookup(2, b"data"))
    pieces = [data[extent.source_offset : extent.source_offset + extent.length] for extent in source.extents(0, 5000)]
    assert b"".join(pieces) == (tree / "data").read_bytes()
