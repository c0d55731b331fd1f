"""Namespace: one tree of names over mounted filesystems. Mounts, nodes and path resolution, here and only here.

A node is an int that holds the mount index and the inode key. Every place where a filesystem is mounted has its
own mount index, so the same filesystem at two places gives different nodes. Mount points are keyed by node. The node
of a named stream holds the stream's name as well: a path leads to it by "name:stream", where no file has that name.
Nothing above this module sees a FileSystem, so that a writable overlay can be another implementation.
"""

from __future__ import annotations

import stat as _stat
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from guestkit.errors import (
    Busy,
    GuestkitError,
    InvalidArgument,
    LinkLoop,
    NameTooLong,
    NoAttribute,
    NotADirectory,
    NotFound,
)
from guestkit.fs.base import SKIPPED, Failed, FileSystem, Problem, Stat, StatVfs
from guestkit.resolve import resolve
from guestkit.source import Source

KEY_BITS = 52
_KEY_MASK = (1 << KEY_BITS) - 1
_WIDE = 1 << 192  # marks a node whose key needs more than KEY_BITS: _WIDE | index << 128 | key
_STREAM_BITS = 256
_STREAM = 1 << _STREAM_BITS  # a node from here on is a named stream's: the name, above the node of its file
_new = tuple.__new__  # a NamedTuple at half the price
MAX_LINKS = 40
_MOST_SPELLED = 256  # names of a link's target whose case is looked up
MAX_PATH = 4096  # bytes of a path argument
MAX_NAME = 255  # bytes of a name; filesystems with longer ones (NTFS in UTF-8) say so by finding them


class Entry(NamedTuple):
    """One name of a directory. `node` already leads into a filesystem that is mounted there."""

    name: bytes
    node: int
    type: int  # DT_*
    cookie: int
    stat: Stat | None = None  # from scan_stat; None where stat(node) raises


class Namespace(Protocol):
    """What the adapters (FUSE, Guestfs, command line, inspection) see."""

    root: int

    def lookup(self, directory: int, name: bytes) -> int: ...
    def parent(self, directory: int) -> int: ...
    def scan(self, directory: int, cookie: int = 0) -> Iterator[Entry]: ...
    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[Entry]: ...
    def scan_small(self, directories: Sequence[int]) -> Generator[None, None, dict[int, list[Entry]]]: ...
    def stat(self, node: int) -> Stat: ...
    def readlink(self, node: int) -> bytes: ...
    def confined(self, directory: int, target: bytes) -> bytes: ...
    def xattr_names(self, node: int) -> Sequence[bytes]: ...
    def xattr(self, node: int, name: bytes) -> bytes: ...
    def has_xattrs(self) -> bool: ...
    def may_refuse_open(self) -> bool: ...
    def streams(self, node: int) -> Sequence[tuple[bytes, int]]: ...
    def statvfs(self, node: int) -> StatVfs: ...
    def open(self, node: int, stream: bytes = b"") -> Source: ...
    def walk(self, directory: int, failed: Failed | None = None) -> Iterator[tuple[bytes, int, Stat | None]]: ...
    def resolve(self, path: bytes, *, start: int | None = None, follow: bool = True, fold: bool = False) -> int: ...
    def problems(self) -> Sequence[Problem]: ...
    def damaged(self) -> int: ...
    def unclean(self) -> list[str]: ...


def node_of(index: int, key: int) -> int:
    """The node of inode `key` in mount `index`; below 2^64 unless the key is wider than KEY_BITS."""
    return index << KEY_BITS | key if key <= _KEY_MASK else _WIDE | index << 128 | key


def split_node(node: int) -> tuple[int, int]:
    """(mount index, inode key) of a node."""
    if node >= _WIDE:
        node &= _STREAM - 1
        if node >= _WIDE:
            return (node ^ _WIDE) >> 128, node & (1 << 128) - 1
    return node >> KEY_BITS, node & _KEY_MASK


def stream_node(node: int, stream: bytes) -> int:
    """The node of a named stream of the file or directory `node`; the name is not empty and holds no NUL."""
    return int.from_bytes(stream) << _STREAM_BITS | node


def stream_of(node: int) -> bytes:
    """The name of the stream that a node stands for; b"" for a file's own bytes."""
    name = node >> _STREAM_BITS
    return name.to_bytes((name.bit_length() + 7) // 8) if name else b""


@dataclass(frozen=True)
class Mount:
    """One filesystem at one place. `source` is what it was mounted from ("/dev/sda2", "btrfsvol:...")."""

    index: int
    fs: FileSystem
    root: int  # inode key of what is shown at the place
    at: int | None  # the node that it covers; None for the root of all
    path: bytes  # of the place, from the namespace's root, b"" for the root
    confine: int  # the mount index at whose root ".." and absolute links stop
    source: str = ""


class MountTable:
    """A Namespace of filesystems mounted at nodes of one tree.

    Absolute links resolve from the root that their mount is confined to. `prefix` is what confined() puts
    before rewritten targets: the host path at which the tree is served.
    """

    def __init__(self, *, first_index: int = 1) -> None:
        self.root = 0
        self.prefix = b""
        # what links of Windows mean: the index of a confinement -> {"c:" or "volume{...}": source of a mount}
        self.drives: dict[int, Mapping[bytes, str]] = {}
        self.mounts: dict[int, Mount] = {}
        self._covered: dict[int, int] = {}  # node -> node of the root mounted there
        self._next = first_index

    # mounts

    def mount(
        self,
        fs: FileSystem,
        at: int | None = None,
        path: bytes = b"",
        *,
        root: int | None = None,
        confine: bool = False,
        source: str = "",
    ) -> Mount:
        """Mount `fs` at node `at` (None: as the root of all), whose path is `path`.

        `root`: the inode key to show, a subvolume's perhaps. `confine`: absolute links inside resolve from here,
        else from the root of the tree that it is mounted in.
        Raises: Busy when something is mounted there; NotADirectory.
        """
        if at is None and self.mounts:
            raise Busy("a root filesystem is already mounted")
        if at is not None:
            if at in self._covered or split_node(at)[1] == self.mount_of(at).root:
                raise Busy("something is already mounted there", where=path.decode("utf-8", "replace"))
            if not _stat.S_ISDIR(self.stat(at).mode):
                raise NotADirectory("mount point is not a directory", where=path.decode("utf-8", "replace"))
        index, self._next = self._next, self._next + 1
        outer = index if at is None or confine else self.mounts[split_node(at)[0]].confine
        mount = Mount(index, fs, fs.root if root is None else root, at, path, outer, source)
        self.mounts[index] = mount
        here = node_of(index, mount.root)
        if at is None:
            self.root = here
        else:
            self._covered[at] = here
        return mount

    def umount(self, index: int) -> None:
        """Raises: InvalidArgument when nothing is mounted by that index; Busy while others stand on it."""
        mount = self.mounts.get(index)
        if mount is None:
            raise InvalidArgument("not mounted")
        if any(other.at is not None and split_node(other.at)[0] == index for other in self.mounts.values()):
            raise Busy("target is busy: another filesystem is mounted below")
        del self.mounts[index]
        self.drives.pop(index, None)
        if mount.at is None:
            self.root = 0
        else:
            del self._covered[mount.at]

    def mount_of(self, node: int) -> Mount:
        """Raises: NotFound for a node of no mount."""
        try:
            return self.mounts[split_node(node)[0]]
        except KeyError:
            raise NotFound("no such node") from None

    # nodes

    def lookup(self, directory: int, name: bytes) -> int:
        """Return the node of `name`, never "." or "..". Raises: NotFound, NotADirectory, NameTooLong, Corrupt."""
        if directory >= _STREAM:
            raise NotADirectory
        index, key = split_node(directory)
        node = node_of(index, self._fs(index).lookup(key, name))
        return self._covered.get(node, node)

    def named(self, directory: int, name: bytes, *, fold: bool = False) -> int:
        """As lookup(), for a name of a path: "name:stream" leads to a named stream where no file has that name.

        As ntfs-3g with streams_interface=windows, "name:" is the file itself, and links are not followed to a stream.
        `fold`: as in resolve().
        """
        find = self._lookup_fold if fold else self.lookup
        try:
            return find(directory, name)
        except NotFound:
            file, colon, stream = name.partition(b":")
            if not file or not colon or not self._fs(split_node(directory)[0]).has_streams:
                raise
        node = find(directory, file)
        if not stream:
            return node
        index, key = split_node(node)
        self._fs(index).stream_stat(key, stream)
        return stream_node(node, stream)

    def parent(self, directory: int) -> int:
        """Return the node above a directory; ".." of a confined root, and of the root of all, is itself."""
        if directory >= _STREAM:
            raise NotADirectory
        mount = self.mount_of(directory)
        key = split_node(directory)[1]
        while key == mount.root:
            if mount.at is None or mount.confine == mount.index:
                return directory
            index, key = split_node(mount.at)
            mount = self.mounts[index]
        return node_of(mount.index, mount.fs.parent(key))

    def scan(self, directory: int, cookie: int = 0) -> Iterator[Entry]:
        """Yield the entries behind `cookie`. Raises: as FileSystem.scan."""
        if directory >= _STREAM:
            raise NotADirectory
        index, key = split_node(directory)
        covered = self._covered
        for entry in self._fs(index).scan(key, cookie):
            node = node_of(index, entry.ino)
            if node in covered:
                yield Entry(entry.name, covered[node], 4, entry.cookie)
            else:
                yield Entry(entry.name, node, entry.type, entry.cookie)

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[Entry]:
        """As scan, with Stat."""
        if directory >= _STREAM:
            raise NotADirectory
        index, key = split_node(directory)
        covered = self._covered
        for batch, stats in self._fs(index).scan_lists(key, cookie):
            for (name, ino, kind, behind), status in zip(batch, stats, strict=True):
                node = index << KEY_BITS | ino if ino <= _KEY_MASK else node_of(index, ino)
                if node in covered:
                    node = covered[node]
                    kind = 4
                    status = self._stat_or_none(node)
                yield _new(Entry, (name, node, kind, behind, status))

    def scan_small(self, directories: Sequence[int]) -> Generator[None, None, dict[int, list[Entry]]]:
        """The whole of those among `directories` that are small and without a flaw: as scan_stat, read together.

        Pauses (yields None) as FileSystem.scan_small does.
        """
        keys: dict[int, list[int]] = {}
        for directory in directories:
            index, key = split_node(directory)
            keys.setdefault(index, []).append(key)
        found: dict[int, list[Entry]] = {}
        for index, wanted in keys.items():
            if any(split_node(at)[0] == index for at in self._covered):
                continue  # one of the names may lead elsewhere
            listed, stats = yield from self._fs(index).scan_small(wanted)
            if any(key > _KEY_MASK for key in stats):
                continue
            base = index << KEY_BITS
            for key, entries in listed.items():
                found[node_of(index, key)] = [
                    _new(Entry, (name, base | ino, kind, cookie, stats[ino])) for name, ino, kind, cookie in entries
                ]
        return found

    def _stat_or_none(self, node: int) -> Stat | None:
        try:
            return self.stat(node)
        except GuestkitError:  # stat(node) raises it again for whoever asks
            return None

    def stat(self, node: int) -> Stat:
        index, key = split_node(node)
        if node >= _STREAM:
            return self._fs(index).stream_stat(key, stream_of(node))
        return self._fs(index).stat(key)

    def readlink(self, node: int) -> bytes:
        """The target as the guest has it; kinds other than POSIX are translated to a POSIX path in the guest.

        One on a drive that is mounted outside the link's confinement is a path from the root of all.
        """
        root, target = self._link(node)
        return target if root.index == self.mount_of(node).confine else root.path + target

    def _link(self, node: int) -> tuple[Mount, bytes]:
        """(the mount at whose root an absolute target begins, the target from there)."""
        if node >= _STREAM:
            raise InvalidArgument("not a symbolic link")
        index, key = split_node(node)
        link = self._fs(index).readlink(key)
        mount = self.mounts[index]
        root = self.mounts[mount.confine]
        if link.kind == "posix":
            return root, link.target
        drives = {}
        source = self.drives.get(root.index, {}).get(link.drive) if link.drive else None
        place = None if source is None else self._mounted(source, mount)
        if source is not None and place is None:  # whatever the link's own volume has by that name is not meant
            link = link._replace(kind="ntfs-elsewhere")
        if place is not None:
            root = self.mounts[place.confine]
            drives[link.drive] = place.path[len(root.path) :]
            if place is not mount:  # the link's own filesystem has spelled the names that are in it
                names = self._spelled(node_of(place.index, place.root), link.target.split(b"/")[1:])
                link = link._replace(target=b"/".join([link.drive, *names]))
        return root, link.posix(mount.path[len(root.path) :] if place is None else b"", drives)

    def _spelled(self, node: int, names: list[bytes]) -> list[bytes]:
        """Names below `node` as they are stored, found without regard to case, as far as they are there.

        What stands behind another link, or beyond the first names of a long path, is left as it is.
        """
        found = list(names)
        try:
            for at, name in enumerate(names[:_MOST_SPELLED]):
                if name in (b"", b".", b".."):
                    continue
                child = self._lookup_fold(node, name)
                found[at] = next((entry.name for entry in self.scan(node) if entry.node == child), name)
                if self._is_link(child):
                    break
                node = child
        except SKIPPED:  # whoever follows the link is told
            pass
        return found

    def _mounted(self, source: str, near: Mount) -> Mount | None:
        """Where the whole of `source` is mounted: at `near` itself, else inside its confinement, else anywhere."""
        found = [each for each in self.mounts.values() if each.source == source and each.root == each.fs.root]
        return min(found, key=lambda each: (each is not near, each.confine != near.confine, each.index), default=None)

    def confined(self, directory: int, target: bytes) -> bytes:
        """Rewrite a link's target, met in `directory`, so that the host's kernel stays inside this tree.

        For an absolute one `directory` may be the link itself, and must be where it may lead to another drive.

        An absolute one gets the prefix of its confinement root; a relative one is left as it is unless one of
        its ".." would climb above that root. Raises: LinkLoop when following it does not end.
        """
        root = self.mounts[self.mount_of(directory).confine]
        top = self.prefix + root.path
        if target.startswith(b"/"):
            if root.index in self.drives and self._leaves(directory, root):
                top = self.prefix
            return top + b"/" + b"/".join(_clamped(target))
        if b".." not in target:
            return target
        stops = [0]
        self._follow(target, directory, follow=True, fold=False, stops=stops, missing_ok=True)
        if not stops[0]:
            return target
        depth = self._path_of(directory)
        return top + b"/" + b"/".join(_clamped(depth + b"/" + target))

    def _leaves(self, node: int, root: Mount) -> bool:
        """Whether `node` is a link to a drive that is mounted elsewhere."""
        return self._is_link(node) and self._link(node)[0] is not root

    def _path_of(self, directory: int) -> bytes:
        """A directory's path below its confinement root, by way of its parents."""
        names: list[bytes] = []
        seen = set()
        while (above := self.parent(directory)) != directory:
            if directory in seen:
                raise LinkLoop("a directory is its own ancestor")
            seen.add(directory)
            names.append(next((entry.name for entry in self.scan(above) if entry.node == directory), b"?"))
            directory = above
        return b"/".join(reversed(names))

    def xattr_names(self, node: int) -> Sequence[bytes]:
        if node >= _STREAM:
            return ()
        index, key = split_node(node)
        return self._fs(index).xattr_names(key)

    def xattr(self, node: int, name: bytes) -> bytes:
        if node >= _STREAM:
            raise NoAttribute
        index, key = split_node(node)
        return self._fs(index).xattr(key, name)

    def has_xattrs(self) -> bool:
        """False when no mounted filesystem holds any."""
        return any(mount.fs.has_xattrs() for mount in self.mounts.values())

    def may_refuse_open(self) -> bool:
        """Whether open() may refuse a file that is whole."""
        return any(mount.fs.may_refuse_open() for mount in self.mounts.values())

    def streams(self, node: int) -> Sequence[tuple[bytes, int]]:
        if node >= _STREAM:
            return ()
        index, key = split_node(node)
        return self._fs(index).streams(key)

    def statvfs(self, node: int) -> StatVfs:
        return self._fs(split_node(node)[0]).statvfs()

    def open(self, node: int, stream: bytes = b"") -> Source:
        """Return a file's bytes, resolved."""
        index, key = split_node(node)
        return resolve(self._fs(index).open(key, stream or stream_of(node)))

    def walk(self, directory: int, failed: Failed | None = None) -> Iterator[tuple[bytes, int, Stat | None]]:
        """Yield (path relative to `directory`, node, Stat) for every name below, across mounts.

        `failed`: as in FileSystem.walk.
        """
        if directory >= _STREAM:
            raise NotADirectory
        pending = [(b"", directory)]
        while pending:
            prefix, top = pending.pop()
            index, key = split_node(top)
            fs = self._fs(index)
            if not any(split_node(at)[0] == index for at in self._covered):
                tell = None if failed is None else _placed(failed, prefix)
                for path, ino, status in fs.walk(key, tell):
                    yield prefix + path, node_of(index, ino), status
                continue
            stack = [(prefix, top)]
            entered = {key}
            while stack:
                path, node = stack.pop()
                ino = split_node(node)[1]
                try:
                    for entry in self.scan_stat(node):
                        here = path + entry.name
                        yield here, entry.node, entry.stat
                        if entry.stat is None or not _stat.S_ISDIR(entry.stat.mode):
                            continue
                        if split_node(entry.node)[0] != index:
                            pending.append((here + b"/", entry.node))
                        elif fs.enters(split_node(entry.node)[1], here, entered, failed):
                            stack.append((here + b"/", entry.node))
                except SKIPPED as error:
                    fs.passed_over(ino, path, error, failed)

    def problems(self) -> Sequence[Problem]:
        """The first problems of every mounted filesystem, the mount's source before the place."""
        found = []
        for mount in self.mounts.values():
            for problem in mount.fs.problems()[1]:
                found.append(replace_where(problem, mount.source))
        return found

    def damaged(self) -> int:
        """How many damaged places were met so far."""
        return sum(mount.fs.problems()[0] for mount in self.mounts.values())

    def unclean(self) -> list[str]:
        """A sentence for each filesystem that was not shut down and is shown as it stands."""
        mounts = self.mounts.values()
        found = [f"{mount.source}: {mount.fs.state}" for mount in mounts if mount.fs.state.kind == "dirty-not-replayed"]
        return list(dict.fromkeys(found))

    def _fs(self, index: int) -> FileSystem:
        try:
            return self.mounts[index].fs
        except KeyError:
            raise NotFound("no such node") from None

    # paths

    def resolve(self, path: bytes, *, start: int | None = None, follow: bool = True, fold: bool = False) -> int:
        """Return the node at `path`, from `start` (default: the root); links and ".." stay inside its confinement.

        `follow`: a final link is followed. `fold`: names are matched without regard to case.
        Raises: NotFound, NotADirectory, LinkLoop (40 links), NameTooLong, Corrupt.
        """
        if len(path) > MAX_PATH:
            raise NameTooLong("path is too long")
        if b"\0" in path:
            raise InvalidArgument("path holds a NUL")
        begin = self.root if start is None else start
        try:
            node = self._follow(path, begin, follow=follow, fold=fold)
        except GuestkitError as error:
            error.within(path.decode("utf-8", "surrogateescape"))
            raise
        assert node is not None
        return node

    def _confinement(self, node: int) -> int:
        mount = self.mounts[self.mount_of(node).confine]
        return node_of(mount.index, mount.root)

    def _follow(
        self,
        path: bytes,
        node: int,
        *,
        follow: bool,
        fold: bool,
        stops: list[int] | None = None,
        missing_ok: bool = False,
    ) -> int | None:
        """The one path walk. `stops[0]` counts the ".." that were held at the root of the confinement."""
        links = 0
        parts = path.split(b"/")
        if path.startswith(b"/"):
            node = self._confinement(node)
        must_be_directory = path.endswith((b"/", b"/."))
        parts.reverse()
        while parts:
            name = parts.pop()
            if not name or name == b".":
                if parts and not _stat.S_ISDIR(self.stat(node).mode):
                    raise NotADirectory
                continue
            if name == b"..":
                above = self.parent(node)
                if above == node and stops is not None:
                    stops[0] += 1
                node = above
                continue
            try:
                child = self.named(node, name, fold=fold)
            except (NotFound, NotADirectory):
                if missing_ok:
                    return None
                raise
            last = not any(part and part != b"." for part in parts)
            if (not last or follow or must_be_directory or parts) and self._is_link(child):
                links += 1
                if links > MAX_LINKS:
                    raise LinkLoop
                root, target = self._link(child)
                if not target:
                    raise NotFound
                if target.startswith(b"/"):
                    node = node_of(root.index, root.root)
                parts.extend(reversed(target.split(b"/")))
                continue
            node = child
        if must_be_directory and not _stat.S_ISDIR(self.stat(node).mode):
            raise NotADirectory
        return node

    def _is_link(self, node: int) -> bool:
        return _stat.S_ISLNK(self.stat(node).mode)

    def _lookup_fold(self, directory: int, name: bytes) -> int:
        """Lookup without regard to case; an exact match wins, else the first in the directory's order."""
        try:
            return self.lookup(directory, name)
        except NotFound:
            wanted = fold_name(name)
            for entry in self.scan(directory):
                if fold_name(entry.name) == wanted:
                    return entry.node
            raise


def _placed(failed: Failed, prefix: bytes) -> Failed:
    return lambda path, error: failed((prefix + path).rstrip(b"/"), error)


def fold_name(name: bytes) -> str:
    """A name for comparison without regard to case."""
    return name.decode("utf-8", "surrogateescape").casefold()


def replace_where(problem: Problem, source: str) -> Problem:
    return Problem(f"{source} > {problem.where}" if source else problem.where, problem.message)


def _clamped(path: bytes) -> list[bytes]:
    """The components of an absolute path, ".." applied and stopped at the root."""
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name and name != b".":
            names.append(name)
    return names
