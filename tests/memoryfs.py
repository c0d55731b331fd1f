"""A FileSystem made from a dict, for tests: MemoryFS({"etc": {"hostname": b"box\\n"}, "bin": Symlink("usr/bin")}).

A directory is a dict, or a list of (name, node) pairs where a name shall occur twice. A file is bytes, a str, a
Source, or File(...) where more than the content matters. Names may be str or bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, IsADirectory, NoAttribute, NotADirectory, NotFound
from guestkit.fs.base import DirEntry, FileSystem, Link, Stat, StatVfs, Subvolume
from guestkit.guest import Device, Disk, Guest
from guestkit.probe import Detected
from guestkit.source import BytesSource, Source
from guestkit.volume.base import Table, Volume

_DT = {
    stat.S_IFDIR: 4,
    stat.S_IFREG: 8,
    stat.S_IFLNK: 10,
    stat.S_IFCHR: 2,
    stat.S_IFBLK: 6,
    stat.S_IFIFO: 1,
    stat.S_IFSOCK: 12,
}


@dataclass(eq=False)
class File:
    """Anything with attributes of its own. The same object at two places is one inode with two names."""

    content: bytes | Source = b""
    mode: int = stat.S_IFREG | 0o644
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    mtime_ns: int = 1_700_000_000_000_000_000
    blocks: int | None = None
    error: GuestkitError | None = None  # raised by stat() and open()
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


class Symlink(File):
    def __init__(self, target: str | bytes) -> None:
        super().__init__(_bytes(target), stat.S_IFLNK | 0o777)


class Directory(File):
    """A directory with a mode of its own; `names` as in MemoryFS."""

    def __init__(self, names: Any, mode: int = 0o755) -> None:
        super().__init__(b"", stat.S_IFDIR | mode)
        self.names = names


class Subvol(Directory):
    """A directory that is the root of a subvolume. One of them makes the filesystem's top level number 5."""

    def __init__(self, number: int, names: Any, read_only: bool = False) -> None:
        super().__init__(names)
        self.number = number
        self.read_only = read_only


class MemoryFS(FileSystem):
    kind = "memory"

    def __init__(self, tree: Any, *, label: str = "", uuid: str = "", default: int = 5) -> None:
        """`default`: the number of the subvolume that is shown when none is asked for."""
        super().__init__()
        self._default = default
        self.label = label
        self.uuid = uuid
        self._nodes: dict[int, File] = {}
        self._names: dict[int, list[tuple[bytes, int]]] = {}
        self._parents: dict[int, int] = {}
        self._keys: dict[int, int] = {}  # id of a File -> its key
        self._links: dict[int, int] = {}
        self.root = self._add(tree, 1)
        self.root = next((volume.root for volume in self.roots() if volume.default), self.root)

    def roots(self) -> Sequence[Subvolume]:
        found = []
        pending = [(b"", 1)]
        seen = set()
        while pending:
            path, key = pending.pop(0)
            if key in seen:
                continue
            seen.add(key)
            node = self._nodes[key]
            if isinstance(node, Subvol):
                found.append(Subvolume(node.number, path, key, node.number == self._default, node.read_only))
            for name, child in self._names.get(key, ()):
                pending.append((path + b"/" + name if path else name, child))
        if not found:
            return super().roots()
        top = Subvolume(5, b"", 1, self._default == 5, False)
        return [top, *sorted(found, key=lambda volume: volume.id)]

    def _add(self, node: Any, parent: int) -> int:
        known = self._keys.get(id(node)) if isinstance(node, File) else None
        if known is not None:
            self._links[known] += 1
            return known
        key = len(self._nodes) + 1
        names: Any = None
        if isinstance(node, (dict, list)):
            made, names = File(b"", stat.S_IFDIR | 0o755), node
        elif isinstance(node, Directory):
            made, names = node, node.names
        elif isinstance(node, File):
            made = node
        else:
            made = File(node if isinstance(node, Source) else _bytes(node))
        self._nodes[key] = made
        self._keys[id(made)] = key
        self._links[key] = 1
        if names is not None:
            self._parents[key] = parent
            self._names[key] = []
            for name, child in names.items() if isinstance(names, dict) else names:
                self._names[key].append((_bytes(name), self._add(child, key)))
        return key

    def _node(self, ino: int) -> File:
        try:
            node = self._nodes[ino]
        except KeyError:
            raise NotFound from None
        if node.error is not None:
            raise node.error
        return node

    def stat(self, ino: int) -> Stat:
        node = self._node(ino)
        size = node.content.size if isinstance(node.content, Source) else len(node.content)
        links = self._links[ino]
        if ino in self._names:
            size, links = 4096, 2 + sum(child in self._names for _, child in self._names[ino])
        when = node.mtime_ns
        blocks = (size + 511) // 512 if node.blocks is None else node.blocks
        return Stat(ino, node.mode, links, node.uid, node.gid, node.rdev, size, 4096, blocks, when, when, when)

    def _directory(self, ino: int) -> list[tuple[bytes, int]]:
        if ino not in self._names:
            raise NotADirectory
        return self._names[ino]

    def lookup(self, directory: int, name: bytes) -> int:
        for known, child in self._directory(directory):
            if known == name:
                return child
        raise NotFound

    def parent(self, directory: int) -> int:
        self._directory(directory)
        return self._parents[directory]

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for number, (name, child) in enumerate(self._directory(directory), 1):
            if number > cookie:
                yield DirEntry(name, child, _DT[stat.S_IFMT(self._nodes[child].mode)], number)

    def readlink(self, ino: int) -> Link:
        node = self._node(ino)
        if not stat.S_ISLNK(node.mode):
            raise InvalidArgument
        assert isinstance(node.content, bytes)
        return Link("posix", node.content)

    def open(self, ino: int, stream: bytes = b"") -> Source:
        node = self._node(ino)
        if stat.S_ISDIR(node.mode):
            raise IsADirectory
        if not stat.S_ISREG(node.mode) or stream:
            raise InvalidArgument
        return node.content if isinstance(node.content, Source) else BytesSource(node.content)

    def xattr_names(self, ino: int) -> Sequence[bytes]:
        return tuple(self._node(ino).xattrs)

    def xattr(self, ino: int, name: bytes) -> bytes:
        try:
            return self._node(ino).xattrs[name]
        except KeyError:
            raise NoAttribute from None

    def statvfs(self) -> StatVfs:
        return StatVfs(4096, 4096, 1000, 400, 300, len(self._nodes), 10, 10, 255)


def _bytes(text: Any) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


@dataclass
class Part:
    """One partition of a MemoryGuest: what is on it (None: cannot be opened) and what it is called."""

    fs: FileSystem | None
    type: str = "ext4"
    label: str = ""
    uuid: str = ""
    partuuid: str = ""
    partlabel: str = ""
    member: int = 0  # its number, where the filesystem has several devices
    members: int = 0


class MemoryGuest(Guest):
    """A Guest of disks that are lists of Part, or one bare Part; filesystems come from memory."""

    def __init__(self, *disks: list[Part] | Part, scheme: str = "gpt", table_uuid: str = "") -> None:
        super().__init__()
        self._parts: dict[str, Part] = {}
        for number, content in enumerate(disks):
            name = f"/dev/sd{chr(ord('a') + number)}"
            disk = Disk(name, "disk", 1 << 30, 512, path=f"/images/disk{number}.img")
            disk.disk = disk
            self.disks.append(disk)
            if isinstance(content, Part):
                self._parts[name] = content
                continue
            volumes = []
            for index, part in enumerate(content, 1):
                volume = Volume(
                    str(index),
                    scheme,
                    index,
                    index << 20,
                    1 << 20,
                    lambda keys: BytesSource(b""),
                    label=part.partlabel,
                    uuid=part.partuuid,
                )
                volumes.append(volume)
                device = Device(f"{name}{index}", "partition", 1 << 20, 512, volume, disk)
                disk.partitions.append(device)
                self._parts[device.name] = part
            disk.table = Table(scheme, table_uuid, 512, volumes)

    def detect(self, device: Device) -> Detected:
        part = self._parts.get(device.name)
        if part is None:
            return Detected()
        return Detected(
            part.type,
            "filesystem",
            part.label,
            part.uuid,
            set_uuid=part.uuid,
            member=f"{part.uuid}-{part.member}",
            member_id=part.member,
            members=part.members,
        )

    def filesystem(
        self, mountable: str, options: Mapping[str, str] | None = None, kind: str | None = None
    ) -> FileSystem:
        part = self._parts[self.device(mountable).name]
        if part.fs is None:
            raise Corrupt("superblock", "damaged", where=mountable)
        return part.fs
