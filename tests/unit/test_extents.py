"""Trees of extents: what tiles a part of a file, whatever the nodes look like on disk."""

from __future__ import annotations

import pytest

from guestkit.errors import Corrupt
from guestkit.fs.extents import Extents, Node, Row, Run

END = 1 << 32


class Tree(Extents):
    """A tree whose nodes stand in a dict; counts what is read."""

    def __init__(self, root: Node, nodes: dict[int, Node]) -> None:
        super().__init__(root, END)
        self.nodes = nodes
        self.read: list[int] = []

    def _node(self, block: int, level: int, first: int) -> Node:
        self.read.append(block)
        node = self.nodes[block]
        assert node.level == level
        return node


def node(level: int, *rows: Row) -> Node:
    return Node(level, [row[0] for row in rows], list(rows))


def two_levels() -> Tree:
    root = node(1, (0, 100, 0), (50, 101, 0), (80, 102, 0))
    leaves = {
        100: node(0, (0, 1000, 10), (20, 0, 5)),
        101: node(0),
        102: node(0, (80, 2000, 4), (90, 2100, 1)),
    }
    return Tree(root, leaves)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 200), (5, 22), (15, 16), (21, 95), (50, 60), (83, 84), (91, 1 << 40), (7, 7)]
)
def test_runs_tile_what_is_asked_for(start: int, end: int) -> None:
    plain = {at: 1000 + at for at in range(10)} | {80 + at: 2000 + at for at in range(4)} | {90: 2100}
    tree = two_levels()
    runs = list(tree.runs(start, end))
    assert [run.logical for run in runs] + [end] == [start, *(run.logical + run.length for run in runs)]
    for logical, physical, length in runs:
        for at in range(min(length, 300)):
            assert (physical + at if physical else 0) == plain.get(logical + at, 0)


def test_only_what_is_needed_is_read() -> None:
    tree = two_levels()
    assert list(tree.runs(82, 83)) == [Run(82, 2002, 1)]
    assert tree.read == [102]


def test_extents_in_the_root_alone_need_no_nodes() -> None:
    assert list(Extents(node(0), END).runs(3, 9)) == [Run(3, 0, 6)]
    assert list(Extents(node(0, (4, 77, 2)), END).runs(3, 9)) == [Run(3, 0, 1), Run(4, 77, 2), Run(6, 0, 3)]


@pytest.mark.parametrize("leaf", [node(0, (0, 5, 60)), node(0, (0, 5, 1), (50, 6, 1))], ids=["long", "key"])
def test_leaf_that_reaches_into_its_neighbour_is_corrupt(leaf: Node) -> None:
    tree = two_levels()
    tree.nodes[100] = leaf
    with pytest.raises(Corrupt, match=r"length|last key"):
        list(tree.runs(0, 200))
