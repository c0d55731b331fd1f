"""A FileSystem in memory, for mounts that need no image; some of its files fail or are slow on purpose."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence

from guestkit.errors import InvalidArgument, IsADirectory, NoAttribute, NotADirectory, NotFound, WouldBlock
from guestkit.fs.base import DirEntry, FileSystem, Link, Stat, StatVfs
from guestkit.source import BytesSource, Leaf, Source, patience

TIME_NS = 1_600_000_000_123_456_789


class Slow(Leaf):
    """Zeros that take `seconds` a read, in a thread that may wait."""

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.seconds = seconds

    def read_into(self, offset: int, buf: memoryview) -> None:
        if not patience.may_block:
            raise WouldBlock
        time.sleep(self.seconds)
        buf[:] = bytes(len(buf))


class Failing(Leaf):
    """Every read raises `error`."""

    def __init__(self, error: BaseException) -> None:
        self.size = 4096
        self.error = error

    def read_into(self, offset: int, buf: memoryview) -> None:
        raise self.error


class Node:
    def __init__(self, ino: int, mode: int, parent: int) -> None:
        self.ino, self.mode, self.parent = ino, mode, parent
        self.names: dict[bytes, int] = {}
        self.source: Source = BytesSource(b"")
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}
        self.nlink = 1
        self.uid = self.gid = 0
        self.rdev = 0
        self.time_ns = TIME_NS
        self.error: Exception | None = None  # of stat()
        self.refusal: Exception | None = None  # of open()


class MemoryFS(FileSystem):
    kind = "memory"
    label = ""
    uuid = ""
    root = 2

    def __init__(self, *, xattrs: bool = False, files: int = 1000) -> None:
        super().__init__()
        self.nodes = {2: Node(2, stat.S_IFDIR | 0o755, 2)}
        self.refuses = False  # whether open() may refuse a file, so that the kernel must ask
        self._xattrs = xattrs
        self._files = files
        self.lookup_hook: Callable[[bytes], None] | None = None
        self.open_hook: Callable[[], None] | None = None
        self.key = 11

    def add(self, parent: int, name: bytes, mode: int, source: Source | bytes = b"", target: bytes = b"") -> Node:
        self.key += 1
        node = self.nodes[self.key] = Node(self.key, mode, parent)
        node.source = BytesSource(source) if isinstance(source, bytes) else source
        node.target = target
        self.nodes[parent].names[name] = self.key
        return node

    def directory(self, parent: int, name: bytes) -> int:
        return self.add(parent, name, stat.S_IFDIR | 0o755).ino

    def file(self, parent: int, name: bytes, content: Source | bytes = b"") -> Node:
        return self.add(parent, name, stat.S_IFREG | 0o644, content)

    def link(self, parent: int, name: bytes, target: bytes) -> Node:
        return self.add(parent, name, stat.S_IFLNK | 0o777, target=target)

    def _node(self, ino: int) -> Node:
        if ino not in self.nodes:
            raise NotFound
        return self.nodes[ino]

    def _directory(self, ino: int) -> Node:
        node = self._node(ino)
        if not stat.S_ISDIR(node.mode):
            raise NotADirectory
        return node

    def stat(self, ino: int) -> Stat:
        node = self._node(ino)
        if node.error is not None:
            raise node.error
        size = len(node.target) if stat.S_ISLNK(node.mode) else node.source.size
        when = node.time_ns
        blocks = (size + 511) // 512
        return Stat(
            ino, node.mode, node.nlink, node.uid, node.gid, node.rdev, size, 4096, blocks, when - 1, when, when + 1
        )

    def lookup(self, directory: int, name: bytes) -> int:
        if self.lookup_hook is not None:
            self.lookup_hook(name)
        names = self._directory(directory).names
        if name not in names:
            raise NotFound
        return names[name]

    def parent(self, directory: int) -> int:
        return self._directory(directory).parent

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for index, (name, ino) in enumerate(list(self._directory(directory).names.items()), 1):
            if index > cookie:
                yield DirEntry(name, ino, stat.S_IFMT(self.nodes[ino].mode) >> 12, index)

    def readlink(self, ino: int) -> Link:
        node = self._node(ino)
        if not stat.S_ISLNK(node.mode):
            raise InvalidArgument
        return Link("posix", node.target)

    def open(self, ino: int, stream: bytes = b"") -> Source:
        node = self._node(ino)
        if stat.S_ISDIR(node.mode):
            raise IsADirectory
        if self.open_hook is not None:
            self.open_hook()
        if node.refusal is not None:
            raise node.refusal
        return node.source

    def statvfs(self) -> StatVfs:
        return StatVfs(4096, 4096, self._files * 10, 7, 5, self._files, 3, 2, 255)

    def may_refuse_open(self) -> bool:
        return self.refuses

    def has_xattrs(self) -> bool:
        return self._xattrs

    def xattr_names(self, ino: int) -> Sequence[bytes]:
        return list(self._node(ino).xattrs)

    def xattr(self, ino: int, name: bytes) -> bytes:
        try:
            return self._node(ino).xattrs[name]
        except KeyError:
            raise NoAttribute from None


def load(fs: MemoryFS, top: str) -> None:
    """Copy a host directory into `fs`, hard links as copies."""
    places = {top: fs.root}
    for here, directories, files in os.walk(top):
        parent = places[here]
        for name in [*directories, *files]:
            path = os.path.join(here, name)
            status = os.lstat(path)
            node = fs.add(parent, os.fsencode(name), status.st_mode)
            node.nlink, node.uid, node.gid, node.rdev = status.st_nlink, status.st_uid, status.st_gid, status.st_rdev
            node.time_ns = status.st_mtime_ns
            if stat.S_ISLNK(status.st_mode):
                node.target = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    node.source = BytesSource(file.read())
            elif stat.S_ISDIR(status.st_mode):
                places[path] = node.ino
