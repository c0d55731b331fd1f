"""What is listed ahead and kept for a client, without a mount."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from guestkit.fuse import ahead
from guestkit.fuse.ahead import Ahead
from guestkit.fuse.lister_process import Frame


class Listed:
    """A lister that has a directory of ten entries ready at each step."""

    busy = False

    def __init__(self, nodes: Iterable[int]) -> None:
        self.nodes = iter(nodes)
        self.done: list[Frame] = []

    def step(self) -> bool:
        self.done += [Frame(node, 10, array("H", [8] * 10), bytes(80)) for node in [next(self.nodes)]]
        return True

    def drop(self, node: int) -> None: ...

    def at_once(self, node: int) -> None: ...


def test_a_directory_that_is_listed_twice_is_held_once(monkeypatch) -> None:
    monkeypatch.setattr(ahead, "_MOST_HELD", 100)
    kept = Ahead(Listed([7] * 30 + [8, 9]), lambda node, cookie: None)
    assert all(kept.idle() for _ in range(32))
    for node in (7, 8, 9):
        assert kept.prepared(node).node == node
    for node in range(100, 120):
        assert kept.prepared(node) is None


def test_what_is_held_is_bounded_and_makes_room_for_another_way(monkeypatch) -> None:
    monkeypatch.setattr(ahead, "_MOST_HELD", 100)
    kept = Ahead(Listed(range(1, 1000)), lambda node, cookie: None)
    assert [kept.idle() for _ in range(12)] == [True] * 10 + [False] * 2
    assert kept.prepared(500) is None
    assert kept.idle() and not kept.idle()
    assert kept.prepared(1) is None and kept.prepared(11).node == 11
