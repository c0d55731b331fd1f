"""Subvolumes: their trees, where they hang, which of them is the default.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "ROOT_ITEM", "ROOT_REF" and "ROOT_BACKREF"; what is shown where
a subvolume is not reached is the kernel's.
"""

from __future__ import annotations

from bisect import bisect_left
from threading import Lock

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.base import Problems, Subvolume
from guestkit.fs.btrfs.assembly import ROOT_ITEM, RootItem, Trees
from guestkit.fs.btrfs.diritem import first_extref, first_inode_ref, name_hash, parse_dir_items, parse_root_ref
from guestkit.fs.btrfs.inode import DIR_ITEM, FIRST_FREE, INODE_EXTREF, INODE_REF
from guestkit.fs.btrfs.keys import make_key, stub_key
from guestkit.fs.btrfs.tree import FS_TREE, Items, is_subvolume
from guestkit.limits import Budget

ROOT_BACKREF = 144
ROOT_REF = 156
_ROOT_TREE_DIR = 6
_READ_ONLY = 1
_MOST_DEPTH = 4096
_MOST_STEPS = 1 << 18  # to find the places of all subvolumes


class Subvolumes:
    """All subvolumes of one filesystem; one is known by its index, the place of its number among all."""

    def __init__(self, trees: Trees, damage: Problems) -> None:
        self._trees = trees
        self._damage = damage
        self._list: list[int] | None = None
        self._items: dict[int, RootItem] = {}
        self._roots: tuple[Subvolume, ...] | None = None
        self._lock = Lock()

    def numbers(self) -> list[int]:
        """The numbers of all subvolumes, deleted ones too, ascending. Raises: Corrupt, SourceError."""
        known = self._list
        if known is None:
            found = {FS_TREE}
            for _, entries in self._trees.root.runs((FIRST_FREE, ROOT_ITEM, 0), (1 << 48, 0, 0)):
                found.update(entry[0] for entry in entries if entry[1] == ROOT_ITEM)
            self._list = known = sorted(found)
        return known

    def number(self, index: int) -> int:
        """Raises: NotFound."""
        if not index:
            return FS_TREE
        numbers = self.numbers()
        if index >= len(numbers):
            raise NotFound("no such subvolume")
        return numbers[index]

    def index(self, number: int) -> int:
        """Raises: NotFound."""
        if number == FS_TREE:
            return 0
        numbers = self.numbers()
        index = bisect_left(numbers, number)
        if index == len(numbers) or numbers[index] != number:
            raise NotFound(f"no subvolume {number}")
        return index

    def tree(self, index: int) -> Items:
        """The tree of a subvolume. Raises: NotFound, Corrupt, SourceError."""
        return self._trees.tree(self.number(index))

    def item(self, number: int) -> RootItem:
        """Raises: NotFound for a subvolume that is not there or was deleted; Corrupt."""
        item = self._items.get(number)
        if item is None:
            item = self._trees.root_item(number) if is_subvolume(number) else None
            if item is None:
                raise NotFound(f"no subvolume {number}")
            self._items[number] = item
        if not item.refs and number != FS_TREE:
            raise NotFound(f"subvolume {number} was deleted")
        return item

    def root_key(self, number: int) -> int:
        """The key of a subvolume's root directory. Raises: NotFound, Corrupt."""
        item = self.item(number)
        return make_key(self.index(number), item.dirid or FIRST_FREE)

    def cross(self, index: int, directory: int, name: bytes, number: int) -> int:
        """The key of what the entry `name`, which leads to subvolume `number`, shows.

        In a snapshot it may lead nowhere, and shows an empty directory. Raises: Corrupt, SourceError.
        """
        item = self._trees.root.get((self.number(index), ROOT_REF, number))
        if item is not None:
            ref = parse_root_ref(item)
            if (ref.directory, ref.name) == (directory, name):
                try:
                    return self.root_key(number)
                except NotFound:
                    pass
        return stub_key(index, directory)

    def default(self) -> int:
        """The number of the subvolume that a mount shows unless told otherwise. Raises: Corrupt, SourceError."""
        item = self._trees.root.get((_ROOT_TREE_DIR, DIR_ITEM, name_hash(b"default")))
        for entry in parse_dir_items(item) if item is not None else ():
            if entry.name == b"default" and entry.kind == ROOT_ITEM:
                return entry.location
        return FS_TREE

    def parent(self, number: int) -> tuple[int, int, bytes] | None:
        """(subvolume, directory, name) where subvolume `number` hangs; None where it hangs nowhere.

        Raises: Corrupt, SourceError.
        """
        found = self._trees.root.before((number, ROOT_BACKREF + 1, 0))
        if found is None or found[:2] != (number, ROOT_BACKREF):
            return None
        ref = parse_root_ref(found[3])
        return found[2], ref.directory, ref.name

    def roots(self) -> tuple[Subvolume, ...]:
        """All that are not deleted, by number; one whose place is damaged is left out and in problems()."""
        with self._lock:
            if self._roots is not None:
                return self._roots
            found, complete = self._find_roots()
            if complete:
                self._roots = tuple(found)
            return tuple(found)

    def _find_roots(self) -> tuple[list[Subvolume], bool]:
        """The subvolumes, and whether asking again would give no more."""
        found = []
        complete = True
        default = self.default()
        paths: dict[int, bytes] = {FS_TREE: b""}
        budget = Budget(_MOST_STEPS, "subvolumes")
        for number in self.numbers():
            try:
                item = self.item(number)
                path = self._path(number, paths, budget)
                root = self.root_key(number)
            except NotFound:
                continue
            except GuestkitError as error:
                self._damage.add(f"subvolume {number}", error)
                complete = complete and not isinstance(error, SourceError)
                continue
            found.append(Subvolume(number, path, root, number == default, bool(item.flags & _READ_ONLY)))
        return found, complete

    def _path(self, number: int, paths: dict[int, bytes], budget: Budget) -> bytes:
        """The path of a subvolume from the top level. Raises: NotFound where it hangs nowhere; Corrupt."""
        chain: list[tuple[int, bytes]] = []
        seen: set[int] = set()
        while number not in paths:
            if number in seen:
                raise Corrupt("subvolume is inside itself")
            seen.add(number)
            budget.spend()
            above = self.parent(number)
            if above is None:
                raise NotFound(f"subvolume {number} hangs nowhere")
            upper, directory, name = above
            names = [*directory_path(self._trees.tree(upper), directory, budget), name]
            chain.append((number, b"/".join(names)))
            number = upper
        path = paths[number]
        for below, names_below in reversed(chain):
            path = path + b"/" + names_below if path else names_below
            paths[below] = path
        return path


def inode_parent(tree: Items, number: int) -> tuple[int, bytes]:
    """(directory, name) of an inode's first name. Raises: Corrupt when it has none."""
    for _, kind, parent, item in tree.items((number, INODE_REF, 0), (number, INODE_EXTREF + 1, 0)):
        return (parent, first_inode_ref(item)) if kind == INODE_REF else first_extref(item)
    raise Corrupt(f"inode {number} has no name")


def directory_path(tree: Items, directory: int, budget: Budget) -> list[bytes]:
    """The names from a subvolume's root to `directory`. Raises: Corrupt."""
    names: list[bytes] = []
    while directory != FIRST_FREE:
        budget.spend()
        directory, name = inode_parent(tree, directory)
        names.append(name)
        if len(names) > _MOST_DEPTH:
            raise Corrupt("directory is deeper than a path can be, or its own ancestor")
    return names[::-1]
