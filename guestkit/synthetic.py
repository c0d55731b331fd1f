"""SyntheticFS: a small tree of directories, links and made-up files, as a FileSystem.

It is what namespaces stand on where no guest filesystem gives the directories: the top of a mount, and mount
points that libguestfs's mkmountpoint makes. Files may be made late: stat() and open() make them, scan() and
scan_stat() never do.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from guestkit.errors import Busy, InvalidArgument, IsADirectory, NotADirectory, NotFound
from guestkit.fs.base import DT_DIR, DT_LNK, DT_REG, DirEntry, FileSystem, Link, Stat, StatVfs
from guestkit.source import BytesSource, Source


@dataclass
class _Node:
    mode: int
    parent: int
    names: dict[bytes, int] = field(default_factory=dict)
    target: bytes = b""
    make: Callable[[], Source | bytes] | None = None
    content: Source | None = None


class SyntheticFS(FileSystem):
    """Keys count up from 1, the root; they are never used again."""

    kind = "synthetic"
    label = ""
    uuid = ""
    root = 1

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, _Node] = {1: _Node(stat.S_IFDIR | 0o755, 1)}
        self._next = 2
        self._time_ns = time.time_ns()
        self._owner = (os.getuid(), os.getgid())

    # building

    def add_directory(self, parent: int, name: bytes) -> int:
        """Return the new directory's key. Raises: Busy (EBUSY) when the name is taken."""
        return self._add(parent, name, _Node(stat.S_IFDIR | 0o755, parent))

    def add_link(self, parent: int, name: bytes, target: bytes) -> int:
        """Add a symbolic link. Raises: Busy."""
        return self._add(parent, name, _Node(stat.S_IFLNK | 0o777, parent, target=target))

    def add_file(self, parent: int, name: bytes, make: Callable[[], Source | bytes]) -> int:
        """Add a file whose content `make` gives when it is first looked at. Raises: Busy."""
        return self._add(parent, name, _Node(stat.S_IFREG | 0o444, parent, make=make))

    def remove(self, parent: int, name: bytes) -> None:
        """Raises: NotFound; Busy for a directory that is not empty."""
        key = self.lookup(parent, name)
        if self._nodes[key].names:
            raise Busy("directory is not empty")
        del self._nodes[parent].names[name]
        del self._nodes[key]

    def _add(self, parent: int, name: bytes, node: _Node) -> int:
        names = self._directory(parent).names
        if name in names:
            raise Busy(f"{os.fsdecode(name)!r} is there already")
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise InvalidArgument(f"{os.fsdecode(name)!r} cannot be a name")
        key, self._next = self._next, self._next + 1
        self._nodes[key] = node
        names[name] = key
        return key

    # FileSystem

    def _node(self, key: int) -> _Node:
        try:
            return self._nodes[key]
        except KeyError:
            raise NotFound from None

    def _directory(self, key: int) -> _Node:
        node = self._node(key)
        if not stat.S_ISDIR(node.mode):
            raise NotADirectory
        return node

    def stat(self, ino: int) -> Stat:
        node = self._node(ino)
        size, links = 0, 1
        if stat.S_ISREG(node.mode):
            size = self.open(ino).size
        elif stat.S_ISLNK(node.mode):
            size = len(node.target)
        else:
            links = 2 + sum(stat.S_ISDIR(self._nodes[key].mode) for key in node.names.values())
        when = self._time_ns
        uid, gid = self._owner
        return Stat(ino, node.mode, links, uid, gid, 0, size, 4096, (size + 511) // 512, when, when, when)

    def lookup(self, directory: int, name: bytes) -> int:
        try:
            return self._directory(directory).names[name]
        except KeyError:
            raise NotFound from None

    def parent(self, directory: int) -> int:
        return self._directory(directory).parent

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for name, key in list(self._directory(directory).names.items()):
            if key > cookie:  # keys only grow, so that they serve as cookies
                yield DirEntry(name, key, _TYPES[stat.S_IFMT(self._nodes[key].mode)], key)

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        for entry in self.scan(directory, cookie):
            node = self._nodes[entry.ino]
            yield entry, None if node.make is not None and node.content is None else self.stat(entry.ino)

    def readlink(self, ino: int) -> Link:
        node = self._node(ino)
        if not stat.S_ISLNK(node.mode):
            raise InvalidArgument
        return Link("posix", node.target)

    def open(self, ino: int, stream: bytes = b"") -> Source:
        node = self._node(ino)
        if stat.S_ISDIR(node.mode):
            raise IsADirectory
        if node.make is None or stream:
            raise InvalidArgument if not stream else NotFound
        if node.content is None:
            made = node.make()
            node.content = BytesSource(made) if isinstance(made, bytes) else made
        return node.content

    def statvfs(self) -> StatVfs:
        return StatVfs(4096, 4096, 0, 0, 0, len(self._nodes), 0, 0, 255)

    def has_xattrs(self) -> bool:
        return False

    def may_refuse_open(self) -> bool:
        return False


_TYPES = {stat.S_IFDIR: DT_DIR, stat.S_IFLNK: DT_LNK, stat.S_IFREG: DT_REG}
