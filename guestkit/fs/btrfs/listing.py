"""Directories in the order of their index, and the inodes that they name in bulk.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "DIR_INDEX". A cookie is the number in the index. A damaged
entry hides only itself, and is reported when the listing ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.base import Problems, Stat
from guestkit.fs.btrfs.assembly import ROOT_ITEM
from guestkit.fs.btrfs.diritem import DIRECTORY_TYPES, LONGEST_NAME, dir_item
from guestkit.fs.btrfs.inode import DIR_INDEX, FIRST_FREE, INODE_ITEM, LAST_FREE, parse_stat
from guestkit.fs.btrfs.keys import make_key
from guestkit.fs.btrfs.subvolumes import Subvolumes
from guestkit.fs.btrfs.tree import Entry, Items

Raw = tuple[bytes, int, int, int]  # name, key, DT_*, cookie
Batch = tuple[list[Raw], list[int]]  # and the inode number of each, 0 where it leads out of the subvolume

_MOST_COOKIE = (1 << 63) - 1
_HEAD = dir_item.size
_unpack = dir_item.unpack_from
_NOT_SHOWN = (b".", b"..")
_MOST_NARROW = 1 << 38


class Listing:
    """Reads the directories of one filesystem."""

    def __init__(self, volumes: Subvolumes, block: int, damage: Problems) -> None:
        self._volumes = volumes
        self._block = block
        self._damage = damage

    def batches(self, index: int, number: int, cookie: int = 0) -> Iterator[Batch]:
        """Yield the entries of directory `number` of a subvolume behind `cookie`, in lists.

        Raises: Corrupt or SourceError at the end when something was damaged.
        """
        tree = self._volumes.tree(index)
        flaws: list[GuestkitError] = []
        where = f"directory inode {number}"
        for buffer, entries in tree.runs((number, DIR_INDEX, cookie + 1), (number, DIR_INDEX + 1, 0), flaws):
            batch = self._parse(index, number, buffer, entries, flaws)
            if batch[0]:
                yield batch
        if flaws:
            for flaw in flaws:
                flaw.within(where)
                self._damage.add(where, flaw)
            raise flaws[0]

    def _parse(self, index: int, number: int, buffer: bytes, entries: list[Entry], flaws: list[GuestkitError]) -> Batch:
        names: list[Raw] = []
        inodes: list[int] = []
        base = make_key(index, 0) if index < 1 << 14 else -1
        for _, _, cookie, at, size in entries:
            try:
                if size < _HEAD:
                    raise Corrupt("directory index", "length", found=size)
                location, kind, _, _, data_length, length, type = _unpack(buffer, at)
                begin = at + _HEAD
                if not 0 < length <= LONGEST_NAME or _HEAD + length + data_length > size:
                    raise Corrupt("directory index", "name_len", found=length)
                if cookie > _MOST_COOKIE:
                    raise Corrupt("directory index", "number", found=cookie)
                name = buffer[begin : begin + length]
                if b"/" in name or b"\0" in name or name in _NOT_SHOWN:
                    raise Corrupt("directory index", "name", found=name)
                if kind == INODE_ITEM:
                    if not FIRST_FREE <= location <= LAST_FREE:
                        raise Corrupt("directory index", "inode", found=location)
                    key = base + location if location < _MOST_NARROW and base >= 0 else make_key(index, location)
                    names.append((name, key, DIRECTORY_TYPES[type & 0x7F], cookie))
                    inodes.append(location)
                elif kind == ROOT_ITEM:
                    names.append((name, self._volumes.cross(index, number, name, location), 4, cookie))
                    inodes.append(0)
                else:
                    raise Corrupt("directory index", "key type", found=kind, expected="an inode or a subvolume")
            except KeyError:
                flaws.append(Corrupt("directory index", "type", found=type))
            except GuestkitError as error:
                flaws.append(error)
        return names, inodes

    def stat_many(self, tree: Items, inodes: Sequence[int]) -> dict[int, Stat | None]:
        """The Stat of each of the ascending inode numbers; None, and a problem, where there is none."""
        found: dict[int, Stat | None] = {}
        block = self._block
        at, count = 0, len(inodes)
        end = (inodes[-1], INODE_ITEM, 1)
        while at < count:
            number = inodes[at]
            try:
                buffer, entries = next(tree.runs((number, INODE_ITEM, 0), end), (b"", []))
            except GuestkitError as error:
                self._lost(found, number, error)
                at += 1
                continue
            last = entries[-1][0] if entries else 0
            if last < number:
                self._lost(found, number, NotFound(f"inode {number} is not there"))
                at += 1
                continue
            low = 0
            while at < count and (number := inodes[at]) <= last:
                low = bisect_left(entries, (number, INODE_ITEM), low)
                objectid, kind, _, begin, size = entries[min(low, len(entries) - 1)]
                if objectid != number or kind != INODE_ITEM:
                    self._lost(found, number, NotFound(f"inode {number} is not there"))
                else:
                    try:
                        found[number] = parse_stat(number, buffer, begin, size, block)
                    except Corrupt as error:
                        self._lost(found, number, error)
                at += 1
        return found

    def _lost(self, found: dict[int, Stat | None], number: int, error: GuestkitError) -> None:
        found[number] = None
        if not isinstance(error, SourceError):
            self._damage.add(f"inode {number}", error)
