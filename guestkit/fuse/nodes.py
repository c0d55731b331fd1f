"""Inode numbers that the kernel knows nodes by, and link targets that depend on where a link was met.

A node below 2^63 is its own number, so that there is nothing to remember or to forget. A table holds the rest for
as long as the kernel does: wider nodes, and links whose target must be rewritten because of the directory in which
they stand (one inode may have names in several).
"""

from __future__ import annotations

import errno
from threading import Lock
from typing import NamedTuple

from guestkit.errors import GuestkitError, NotFound
from guestkit.namespace import Namespace

ROOT = 1  # FUSE's
TABLE = 1 << 63  # numbers from here on stand in the table
MOST = 1 << 17  # entries of the table, about 60 MiB


class Known(NamedTuple):
    """One entry of the table; `target` is a rewritten link target."""

    node: int
    target: bytes | None


class Nodes:
    """Translates between nodes and inode numbers."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._next = TABLE
        self._known: dict[int, Known] = {}
        self._numbers: dict[Known, int] = {}
        self._counts: dict[int, int] = {}
        self._lock = Lock()  # worker threads ask for numbers too

    def number(self, node: int, target: bytes | None = None) -> int:
        """The inode number of `node`; a table entry stays only when counted(). Raises: ENFILE."""
        if node == self.root:
            return ROOT
        if ROOT < node < TABLE and target is None:
            return node
        known = Known(node, target)
        with self._lock:
            number = self._numbers.get(known)
            if number is None:
                if len(self._known) >= MOST:
                    self._drop_uncounted()
                number, self._next = self._next, self._next + 1
                self._known[number] = known
                self._numbers[known] = number
        return number

    def _drop_uncounted(self) -> None:
        for number in [number for number in self._known if number not in self._counts]:
            del self._numbers[self._known.pop(number)]
        if len(self._known) >= MOST:
            raise GuestkitError("the kernel holds too many links or inodes of this mount", number=errno.ENFILE)

    def node(self, number: int) -> int:
        """Raises: NotFound for a number that was never given out."""
        if number < TABLE:
            return self.root if number == ROOT else number
        return self.known(number).node

    def known(self, number: int) -> Known:
        known = self._known.get(number)
        if known is None:
            raise NotFound("no such inode")
        return known

    def target(self, number: int) -> bytes | None:
        """The target that a link was given when it was met."""
        return self.known(number).target if number >= TABLE else None

    def counted(self, number: int) -> None:
        """The kernel holds `number` once more."""
        if number >= TABLE:
            with self._lock:
                self._counts[number] = self._counts.get(number, 0) + 1

    def forget(self, number: int, count: int) -> None:
        """The kernel holds `number` `count` times less."""
        if number < TABLE or number not in self._known:
            return
        with self._lock:
            left = self._counts.get(number, 0) - count
            if left > 0:
                self._counts[number] = left
            else:
                self._counts.pop(number, None)
                del self._numbers[self._known.pop(number)]

    def __len__(self) -> int:
        return len(self._known)


def met_in(namespace: Namespace, directory: int, target: bytes) -> bytes | None:
    """What a relative link's target must become in `directory`, or None when it may stay.

    Leading ".." that stay below the root are safe: a directory's ".." is no link. Others are left to the namespace.
    """
    if target.startswith(b"/") or b".." not in target:
        return None
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == b"..":
        climbs += 1
    if b".." not in parts[climbs:]:
        node = directory
        for _ in range(climbs):
            above = namespace.parent(node)
            if above == node:
                break
            node = above
        else:
            return None
    changed = namespace.confined(directory, target)
    return None if changed == target else changed
