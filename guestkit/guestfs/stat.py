"""Metadata: stat and its kin, is_*, exists, filesize, statvfs, du."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from guestkit.errors import NotADirectory, NotFound
from guestkit.fs.base import Stat
from guestkit.guestfs.call import Device, Pathname, StringList, api
from guestkit.guestfs.handle import Handle
from guestkit.resolve import Resolved
from guestkit.source import Source

_SECOND = 1_000_000_000
_CHUNK = 1 << 20
_MANY = 64  # names that may be worth a listing
_NAME = 256  # bytes of a directory for each of them, so that there are few others


class Metadata(Handle):
    @api("statns", syscall="path", deprecated="statns")
    def stat(self, path: Pathname) -> dict[str, int]:
        """A file's metadata, links followed, times in seconds. Raises: GuestfsError."""
        return _old(self._stat(path))

    @api("lstatns", syscall="path", deprecated="lstatns")
    def lstat(self, path: Pathname) -> dict[str, int]:
        """A file's metadata, a final link not followed, times in seconds. Raises: GuestfsError."""
        return _old(self._stat(path, follow=False))

    @api(syscall="path")
    def statns(self, path: Pathname) -> dict[str, int]:
        """A file's metadata, links followed, with nanoseconds. Raises: GuestfsError."""
        return _new(self._stat(path))

    @api(syscall="path")
    def lstatns(self, path: Pathname) -> dict[str, int]:
        """A file's metadata, a final link not followed, with nanoseconds. Raises: GuestfsError."""
        return _new(self._stat(path, follow=False))

    @api("internal_lstatnslist", syscall="path")
    def lstatnslist(self, path: Pathname, names: StringList) -> list[dict[str, int]]:
        """The metadata of names in a directory; st_ino is -1 where there is none. Raises: GuestfsError."""
        return [_new(status) for status in self._statuses(path, list(names))]

    @api("internal_lstatnslist", syscall="path", deprecated="lstatnslist")
    def lstatlist(self, path: Pathname, names: StringList) -> list[dict[str, int]]:
        """As lstatnslist, times in seconds. Raises: GuestfsError."""
        return [_old(status) for status in self._statuses(path, list(names))]

    def _statuses(self, path: str, names: list[str]) -> Iterator[Stat]:
        directory = self._node(path)
        wanted = self._names(names)
        known = self._listed(directory, wanted) if len(wanted) >= _MANY else {}
        for name in wanted:
            try:
                told = known.get(name)
                yield Stat(*told) if told else self._table.stat(self._child(directory, name))
            except OSError as error:  # libguestfs marks whatever cannot be asked
                self._say(f"lstatnslist: {path}: {name!r}: {error}")
                yield _MISSING

    def _listed(self, directory: int, names: list[bytes]) -> dict[bytes, tuple[Any, ...]]:
        """What a listing tells of many names, cheaper than looking each up; {} where most of its names are others."""
        wanted = set(names)
        found: dict[bytes, tuple[Any, ...]] = {}
        try:
            if self._table.stat(directory).size <= _NAME * len(names):
                for entry in self._table.scan_stat(directory):
                    if entry.stat is not None and entry.name in wanted:
                        found.setdefault(entry.name, tuple(entry.stat))  # which the garbage collector may forget
        except OSError:  # what it did not come to is looked up, and refused by itself
            pass
        return found

    @api(syscall="path")
    def filesize(self, file: Pathname) -> int:
        """A file's size in bytes, links followed. Raises: GuestfsError."""
        return self._stat(file).size

    @api(syscall="path")
    def exists(self, path: Pathname) -> bool:
        """Whether there is anything at a path; a final link counts itself. Raises: GuestfsError."""
        return self._type(path, False) != 0

    def _type(self, path: str, follow: bool | None) -> int:
        """The file's type, 0 when it is not there."""
        try:
            node = self._node(path, follow=bool(follow))
        except (NotFound, NotADirectory):
            return 0
        return stat.S_IFMT(self._table.stat(node).mode)

    @api(syscall="path")
    def is_file(self, path: Pathname, followsymlinks: bool | None = None) -> bool:
        """Whether there is a regular file at a path. Raises: GuestfsError."""
        return self._type(path, followsymlinks) == stat.S_IFREG

    @api(syscall="path")
    def is_dir(self, path: Pathname, followsymlinks: bool | None = None) -> bool:
        """Whether there is a directory at a path. Raises: GuestfsError."""
        return self._type(path, followsymlinks) == stat.S_IFDIR

    @api(syscall="path")
    def is_symlink(self, path: Pathname) -> bool:
        """Whether there is a symbolic link at a path. Raises: GuestfsError."""
        return self._type(path, False) == stat.S_IFLNK

    @api(syscall="path")
    def is_chardev(self, path: Pathname, followsymlinks: bool | None = None) -> bool:
        """Whether there is a character device at a path. Raises: GuestfsError."""
        return self._type(path, followsymlinks) == stat.S_IFCHR

    @api(syscall="path")
    def is_blockdev(self, path: Pathname, followsymlinks: bool | None = None) -> bool:
        """Whether there is a block device at a path. Raises: GuestfsError."""
        return self._type(path, followsymlinks) == stat.S_IFBLK

    @api(syscall="path")
    def is_fifo(self, path: Pathname, followsymlinks: bool | None = None) -> bool:
        """Whether there is a named pipe at a path. Raises: GuestfsError."""
        return self._type(path, followsymlinks) == stat.S_IFIFO

    @api(syscall="path")
    def is_socket(self, path: Pathname, followsymlinks: bool | None = None) -> bool:
        """Whether there is a socket at a path. Raises: GuestfsError."""
        return self._type(path, followsymlinks) == stat.S_IFSOCK

    is_file_opts = is_file
    is_dir_opts = is_dir
    is_chardev_opts = is_chardev
    is_blockdev_opts = is_blockdev
    is_fifo_opts = is_fifo
    is_socket_opts = is_socket

    @api(syscall="path")
    def is_zero(self, path: Pathname) -> bool:
        """Whether a file holds nothing but zeros. Raises: GuestfsError."""
        return _zero(self._open(path))

    @api(syscall="path")
    def is_zero_device(self, device: Device) -> bool:
        """Whether a device holds nothing but zeros. Raises: GuestfsError."""
        return _zero(self._source(self._device(device)))

    @api(syscall="path")
    def statvfs(self, path: Pathname) -> dict[str, int]:
        """The sizes of the filesystem that a path is in. Raises: GuestfsError."""
        found = self._table.statvfs(self._node(path))
        return {
            "bsize": found.bsize,
            "frsize": found.frsize,
            "blocks": found.blocks,
            "bfree": found.bfree,
            "bavail": found.bavail,
            "files": found.files,
            "ffree": found.ffree,
            "favail": found.favail,
            "fsid": found.fsid,
            "flag": os.ST_RDONLY,
            "namemax": found.namemax,
        }

    @api(syscall="path")
    def du(self, path: Pathname) -> int:
        """The KiB that a tree takes on disk, each file once whatever its names. Raises: GuestfsError."""
        table = self._table
        top = self._node(path, follow=False)
        status = table.stat(top)
        sectors = status.blocks
        if stat.S_ISDIR(status.mode):
            counted: set[int] = set()
            for _, node, each in self._walk(top):
                if each.nlink > 1 and not stat.S_ISDIR(each.mode):
                    if node in counted:
                        continue
                    counted.add(node)
                sectors += each.blocks
        return (sectors + 1) // 2


_MISSING = Stat(-1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def _old(status: Stat) -> dict[str, int]:
    return {
        "dev": 0,
        "ino": status.ino,
        "mode": status.mode,
        "nlink": status.nlink,
        "uid": status.uid,
        "gid": status.gid,
        "rdev": status.rdev,
        "size": status.size,
        "blksize": status.blksize,
        "blocks": status.blocks,
        "atime": status.atime_ns // _SECOND,
        "mtime": status.mtime_ns // _SECOND,
        "ctime": status.ctime_ns // _SECOND,
    }


def _new(status: Stat) -> dict[str, int]:
    found = {
        "st_dev": 0,
        "st_ino": status.ino,
        "st_mode": status.mode,
        "st_nlink": status.nlink,
        "st_uid": status.uid,
        "st_gid": status.gid,
        "st_rdev": status.rdev,
        "st_size": status.size,
        "st_blksize": status.blksize,
        "st_blocks": status.blocks,
    }
    for name, value in (("atime", status.atime_ns), ("mtime", status.mtime_ns), ("ctime", status.ctime_ns)):
        found[f"st_{name}_sec"], found[f"st_{name}_nsec"] = divmod(value, _SECOND)
    for number in range(1, 7):
        found[f"st_spare{number}"] = 0
    return found


def _zero(source: Source) -> bool:
    """Whether all bytes are zeros; holes are not read."""
    if isinstance(source, Resolved):
        source = source.source
    for extent in source.extents(0, source.size):
        if extent.source is None:
            continue
        for at in range(0, extent.length, _CHUNK):
            if any(extent.source.read(extent.source_offset + at, min(_CHUNK, extent.length - at))):
                return False
    return True
