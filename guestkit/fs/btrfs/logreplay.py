"""Replay: one subvolume's log merged over its tree, item by item, in the order in which the kernel does it.

First every logged inode is brought to its state, with what was deleted taken away; then come the names that logged
directories have; last back references, extended attributes and data. Links are counted at the end.

Not done as the kernel does it: directories and inodes that lose a name in the replay keep the times that were logged
or committed, where the kernel sets the time of the replay.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst; what the kernel does is that of Linux 6.18.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.btrfs.logitems import (
    CSUM_OBJECTID,
    DIR_INDEX,
    DIR_ITEM,
    DIR_LOG_INDEX,
    EXTENT_DATA,
    FT_BY_MODE,
    FT_DIR,
    INLINE,
    INODE_EXTREF,
    INODE_ITEM,
    INODE_REF,
    LAST,
    XATTR_ITEM,
    FileExtent,
    Inode,
    Name,
    make_name,
    make_ref,
    name_hash,
    parse_extent,
    parse_log_end,
    parse_names,
    parse_refs,
    ref_key,
)
from guestkit.fs.btrfs.logtree import Changed
from guestkit.fs.btrfs.tree import Items, Key
from guestkit.limits import Budget

_HEADER, _ITEM = 101, 25  # bytes of a leaf's header, and of what points to an item


class Format(NamedTuple):
    """What the replay has to know of the filesystem. Sizes in bytes; `generation`: that of the logs' transaction."""

    sector_size: int
    node_size: int
    csum_size: int
    generation: int
    no_holes: bool


class Replay:
    """The replay of one subvolume's log into `tree`, which is the subvolume's with changes over it."""

    def __init__(self, base: Items, log: Items, shape: Format, budget: Budget) -> None:
        self.tree = Changed(base, budget)
        self._log = log
        self._shape = shape
        self._budget = budget
        self._fixups: set[int] = set()  # inodes whose links are counted at the end

    def run(self) -> None:
        """Raises: Corrupt where the kernel would refuse the mount, Unsupported, SourceError."""
        for key, item in self._logged():
            if key[1] == INODE_ITEM:
                self._inode(key, item)
        for key, item in self._logged():
            if key[1] == DIR_INDEX:
                for name in parse_names(item)[:1]:
                    self._logged_name(key[0], key[2], name)
        for key, item in self._logged():
            if key[1] == XATTR_ITEM:
                self.tree.put(key, item)
            elif key[1] in (INODE_REF, INODE_EXTREF):
                self._references(key, item)
            elif key[1] == EXTENT_DATA:
                self._extent(key, item)
        while self._fixups:
            ino = max(self._fixups)
            self._fixups.remove(ino)
            self._count_links(ino)

    def _logged(self) -> Iterator[tuple[Key, bytes]]:
        """The items of the log, but for those of files that had no name left: they would be deleted at once."""
        nameless = False
        for objectid, kind, offset, item in self._log.items():
            self._budget.spend()
            if kind == INODE_ITEM:
                nameless = not Inode(item).get("nlink")
            if not nameless and objectid != CSUM_OBJECTID:
                yield (objectid, kind, offset), item

    # inodes

    def _find(self, ino: int) -> Inode | None:
        item = self.tree.get((ino, INODE_ITEM, 0))
        return None if item is None else Inode(item)

    def _need(self, ino: int) -> Inode:
        found = self._find(ino)
        if found is None:
            raise Corrupt(f"the log names inode {ino}, which is not there")
        return found

    def _store(self, ino: int, inode: Inode) -> None:
        self.tree.put((ino, INODE_ITEM, 0), bytes(inode.item))

    def _inode(self, key: Key, item: bytes) -> None:
        """Bring an inode to its logged state, without the names and the data that the log has of it."""
        ino = key[0]
        logged = Inode(item)
        self._drop_xattrs(ino)
        if logged.kind == stat.S_IFDIR:
            self._drop_names(ino)
        self._copy_inode(ino, logged)
        if logged.kind == stat.S_IFREG:
            # what was preallocated behind the end comes from the log again
            inode = self._need(ino)
            sector = self._shape.sector_size
            freed = self._drop_extents(ino, -(-inode.get("size") // sector) * sector, LAST)
            if freed:
                inode.set("nbytes", inode.get("nbytes") - freed)
                self._store(ino, inode)
        self._fix(ino)

    def _copy_inode(self, ino: int, logged: Inode) -> None:
        present = self._find(ino)
        directory = logged.kind == stat.S_IFDIR
        if present is None:
            logged.set("nbytes", 0)
            if directory:  # its names are counted as they are added
                logged.set("size", 0)
        else:
            if present.item == logged.item:
                return
            if logged.get("generation") == 0:  # logged only so that the inode is there
                if logged.kind == present.kind == stat.S_IFREG and logged.get("size"):
                    present.set("size", logged.get("size"))
                    self._store(ino, present)
                return
            logged.set("nbytes", present.get("nbytes"))
            if directory:
                logged.set("size", present.get("size") if present.kind == stat.S_IFDIR else 0)
        if logged.get("generation") == 0:
            logged.set("generation", self._shape.generation)
        self._store(ino, logged)

    def _drop_xattrs(self, ino: int) -> None:
        """Remove the extended attributes that the log does not have: it has all of an inode's."""
        for objectid, kind, offset, item in list(self.tree.items((ino, XATTR_ITEM, 0), (ino, XATTR_ITEM + 1, 0))):
            self._budget.spend()
            key = (objectid, kind, offset)
            kept = {each.name for each in parse_names(self._log.get(key) or b"")}
            names = parse_names(item)
            left = [each.raw for each in names if each.name in kept]
            if len(left) < len(names):
                self._put_or_delete(key, b"".join(left))

    def _put_or_delete(self, key: Key, item: bytes) -> None:
        if item:
            self.tree.put(key, item)
        else:
            self.tree.delete(key)

    # links

    def _fix(self, ino: int) -> None:
        self._need(ino)
        self._fixups.add(ino)

    def _count_links(self, ino: int) -> None:
        inode = self._need(ino)
        links = 0
        for objectid, kind, offset, item in self.tree.items((ino, INODE_REF, 0), (ino, INODE_EXTREF + 1, 0)):
            links += len(parse_refs(kind, offset, item)) if objectid == ino else 0
        if links != inode.get("nlink"):
            inode.set("nlink", links)
            self._store(ino, inode)
        if not links and inode.kind == stat.S_IFDIR:
            self._drop_names(ino, everything=True)

    # names

    def _entry(self, directory: int, name: bytes) -> Name | None:
        """What a directory says of a name, by its DIR_ITEM."""
        item = self.tree.get((directory, DIR_ITEM, name_hash(name)))
        return next((each for each in parse_names(item or b"") if each.name == name), None)

    def _indexed(self, tree: Items, directory: int, index: int, name: bytes) -> Name | None:
        """What stands at a directory's index, if it has that name."""
        item = tree.get((directory, DIR_INDEX, index))
        return next((each for each in parse_names(item or b"")[:1] if each.name == name), None)

    def _drop_names(self, directory: int, everything: bool = False) -> None:
        """Unlink the names in the ranges that the log knows all of, but those that it has. `everything`: all names."""
        if self._find(directory) is None:
            return
        begin = 0
        ranges = [(0, LAST)]
        if not everything:
            start = (directory, DIR_LOG_INDEX, 0)
            ranges = [
                (key[2], parse_log_end(key[3])) for key in self._log.items(start, (directory, DIR_LOG_INDEX + 1, 0))
            ]
        for first, last in ranges:
            if last < begin:
                continue
            begin = last + 1
            names = list(self.tree.items((directory, DIR_INDEX, first), (directory, DIR_INDEX, last + 1)))
            self._budget.spend(len(names))
            for _, _, index, item in names:
                for each in parse_names(item)[:1]:
                    if everything or self._indexed(self._log, directory, index, each.name) is None:
                        self._drop_entry(directory, each)

    def _drop_entry(self, directory: int, entry: Name) -> None:
        if entry.location[1] != INODE_ITEM:
            raise Corrupt(f"the log would unlink the subvolume {entry.location[0]}")
        self._fix(entry.location[0])
        self._unlink(directory, entry.location[0], entry.name)

    def _unlink(self, directory: int, ino: int, name: bytes) -> None:
        """Remove a name with its back reference and its index."""
        key = (directory, DIR_ITEM, name_hash(name))
        names = parse_names(self.tree.get(key) or b"")
        left = [each.raw for each in names if each.name != name]
        index = self._take_reference(directory, ino, name)
        if len(left) == len(names) or index is None:
            raise Corrupt(f"the log would unlink a name of inode {ino} that directory {directory} does not have")
        self._put_or_delete(key, b"".join(left))
        self.tree.delete((directory, DIR_INDEX, index))
        self._grow(directory, -2 * len(name))
        inode = self._need(ino)
        inode.set("nlink", inode.get("nlink") - 1)
        self._store(ino, inode)

    def _take_reference(self, directory: int, ino: int, name: bytes) -> int | None:
        """Remove a back reference; returns its index, None when there is none."""
        for kind in (INODE_REF, INODE_EXTREF):
            key = ref_key(kind, ino, directory, name)
            item = self.tree.get(key)
            if item is None:
                continue
            refs = parse_refs(kind, directory, item)
            for ref in refs:
                if ref.name == name and ref.parent == directory:
                    self._put_or_delete(key, b"".join(each.raw for each in refs if each is not ref))
                    return ref.place
        return None

    def _grow(self, directory: int, by: int) -> None:
        inode = self._need(directory)
        inode.set("size", inode.get("size") + by)
        self._store(directory, inode)

    def _link(self, directory: int, ino: int, name: bytes, index: int) -> None:
        """Add a name, without its back reference."""
        type = FT_BY_MODE.get(self._need(ino).kind, 0)
        entry = make_name(ino, type, name, self._shape.generation)
        key = (directory, DIR_ITEM, name_hash(name))
        self.tree.put(key, (self.tree.get(key) or b"") + entry)
        self.tree.put((directory, DIR_INDEX, index), entry)
        self._grow(directory, 2 * len(name))

    def _has_reference(self, tree: Items, kind: int, directory: int, ino: int, name: bytes) -> bool:
        item = tree.get(ref_key(kind, ino, directory, name))
        return item is not None and any(
            ref.name == name and ref.parent == directory for ref in parse_refs(kind, directory, item)
        )

    def _logged_name(self, directory: int, index: int, logged: Name) -> None:
        """Replay a name that the log has of a directory. One of an inode that is not there is passed over."""
        self._need(directory)
        ino, name = logged.location[0], logged.name
        exists = logged.location[1] == INODE_ITEM and self._find(ino) is not None
        matches = 0
        for by_index in (False, True):
            present = self._indexed(self.tree, directory, index, name) if by_index else self._entry(directory, name)
            if present is None:
                continue
            if present.location == logged.location and present.type == logged.type:
                matches += 1
            elif exists:
                self._drop_entry(directory, present)
        if matches == 2 or not exists:
            return
        for kind in (INODE_REF, INODE_EXTREF):
            if self._has_reference(self._log, kind, directory, ino, name):  # it comes with that
                return
        if self._entry(directory, name) or self.tree.get((directory, DIR_INDEX, index)) is not None:
            return
        if self._has_reference(self.tree, INODE_REF, directory, ino, name):
            return
        self._add_reference(directory, ino, name, index)
        self._link(directory, ino, name, index)
        if logged.type != FT_DIR:
            self._fix(ino)

    def _add_reference(self, directory: int, ino: int, name: bytes, index: int) -> None:
        kind = INODE_REF
        key = ref_key(kind, ino, directory, name)
        item = (self.tree.get(key) or b"") + make_ref(kind, directory, index, name)
        if len(item) + _ITEM > self._shape.node_size - _HEADER:  # as many as a leaf holds
            kind = INODE_EXTREF
            key = ref_key(kind, ino, directory, name)
            item = (self.tree.get(key) or b"") + make_ref(kind, directory, index, name)
        self.tree.put(key, item)

    def _references(self, key: Key, item: bytes) -> None:
        """Give an inode the names of an item of back references, and take away those of the same item before."""
        ino, kind, offset = key
        refs = parse_refs(kind, offset, item)
        if not refs or self._find(refs[0].parent) is None:  # not all directories above an inode are logged
            return
        self._need(ino)
        kept = {(ref.parent, ref.name) for ref in refs}
        for ref in refs:
            self._budget.spend()
            if self._find(ref.parent) is None:
                continue
            if self._is_named(ref.parent, ino, ref.place, ref.name):
                continue
            if kind == INODE_REF and ino == offset:  # the root of the tree is its own parent
                return
            self._make_room(ref.parent, ino, ref.place, ref.name)
            if self._has_reference(self.tree, kind, ref.parent, ino, ref.name):
                self._unlink(ref.parent, ino, ref.name)
            other = self._entry(ref.parent, ref.name)
            if other is not None:
                self._unlink(ref.parent, other.location[0], ref.name)
            self._link(ref.parent, ino, ref.name, ref.place)
        for old in parse_refs(kind, offset, self.tree.get(key) or b""):
            if (old.parent, old.name) not in kept:
                self._unlink(old.parent, ino, old.name)
        self.tree.put(key, item)

    def _is_named(self, directory: int, ino: int, index: int, name: bytes) -> bool:
        indexed = self._indexed(self.tree, directory, index, name)
        entry = self._entry(directory, name)
        return indexed is not None and entry is not None and indexed.location[0] == entry.location[0] == ino

    def _make_room(self, directory: int, ino: int, index: int, name: bytes) -> None:
        """Unlink what contradicts a logged name: names of the inode there that the log has not, and other inodes."""
        for kind in (INODE_REF, INODE_EXTREF):
            key = ref_key(kind, ino, directory, name)
            logged = {(ref.parent, ref.name) for ref in parse_refs(kind, directory, self._log.get(key) or b"")}
            for old in parse_refs(kind, directory, self.tree.get(key) or b""):
                if old.parent == directory and (directory, old.name) not in logged:
                    self._unlink(directory, ino, old.name)
        for by_index in (True, False):
            present = self._indexed(self.tree, directory, index, name) if by_index else self._entry(directory, name)
            if present is not None:
                self._drop_entry(directory, present)

    # data

    def _extent(self, key: Key, item: bytes) -> None:
        ino, _, start = key
        extent = parse_extent(start, item)
        if extent is None:
            return
        self._need(ino)
        end = extent.end
        if extent.type == INLINE:
            sector = self._shape.sector_size
            end = -(-end // sector) * sector
        elif (self.tree.get(key) or b"")[: len(extent.item)] == extent.item:
            return
        freed = self._drop_extents(ino, start, end)
        if extent.counted or extent.address or not self._shape.no_holes:
            self.tree.put(key, extent.item)
        inode = self._need(ino)
        inode.set("nbytes", inode.get("nbytes") + (extent.length if extent.counted else 0) - freed)
        self._store(ino, inode)

    def _drop_extents(self, ino: int, start: int, end: int) -> int:
        """Take the file's bytes from `start` to `end` out of its extents; returns how many of them nbytes counted."""
        found: list[FileExtent] = []
        below = self.tree.before((ino, EXTENT_DATA, start))
        if below is not None and below[:2] == (ino, EXTENT_DATA):
            found += filter(None, [parse_extent(below[2], below[3])])
        for _, _, at, item in self.tree.items((ino, EXTENT_DATA, start), (ino, EXTENT_DATA, end)):
            self._budget.spend()
            found += filter(None, [parse_extent(at, item)])
        freed = 0
        for extent in found:
            if extent.end <= start and extent.start < start:
                continue
            inside = start <= extent.start and extent.end <= end
            if extent.type == INLINE and not inside:
                raise Corrupt(f"the log would cut the inline data of inode {ino}")
            self.tree.delete((ino, EXTENT_DATA, extent.start))
            if extent.start < start:
                self.tree.put((ino, EXTENT_DATA, extent.start), extent.part(extent.start, start))
            if extent.end > end:
                self.tree.put((ino, EXTENT_DATA, end), extent.part(end, extent.end))
            if extent.counted:
                freed += min(extent.end, end) - max(extent.start, start)
        return freed
