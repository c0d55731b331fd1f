"""The FUSE protocol of Linux, as far as a read-only filesystem speaks it: requests decoded, replies encoded.

Spec: include/uapi/linux/fuse.h (protocol 7.31) and Documentation/filesystems/fuse.rst. An ABI of the kernel, which
keeps it. Numbers stand in the machine's own order of bytes.
"""

from __future__ import annotations

import errno
import stat as _stat
import struct
from collections.abc import Iterable
from typing import Any

from guestkit.errors import GuestkitError
from guestkit.fs.base import Stat, StatVfs
from guestkit.fuse.options import MountOptions
from guestkit.namespace import Entry

MAJOR, MINOR = 7, 31
TIMEOUT = 86400  # seconds: nothing changes below a read-only mount

# opcodes; what is not here is refused (writes) or unknown
LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 5, 14, 15, 17, 18
GETXATTR, LISTXATTR, INIT, OPENDIR, READDIR, RELEASEDIR = 22, 23, 26, 27, 28, 29
INTERRUPT, DESTROY, BATCH_FORGET, READDIRPLUS, LSEEK = 36, 38, 42, 44, 46
# SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR, REMOVEXATTR, CREATE, FALLOCATE, ...
WRITES = frozenset((4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51))
NO_REPLY = frozenset((FORGET, BATCH_FORGET, INTERRUPT))

_ASYNC_READ, _DO_READDIRPLUS, _PARALLEL_DIROPS, _MAX_PAGES, _CACHE_SYMLINKS = 1, 1 << 13, 1 << 18, 1 << 22, 1 << 23
# without FUSE_READDIRPLUS_AUTO: find and rsync list a directory whole before they look at its files one by one
_WANTED = _ASYNC_READ | _DO_READDIRPLUS | _PARALLEL_DIROPS | _MAX_PAGES | _CACHE_SYMLINKS
_PAGES = 256  # of one request: 1 MiB
KEEP_CACHE, CACHE_DIR = 1 << 1, 1 << 3
NO_OPEN, NO_OPENDIR = 1 << 17, 1 << 24  # FUSE_NO_OPEN(DIR)_SUPPORT: files, since Linux 5.1 directories, may stay shut

HEADER_SIZE = 40
HEADER = struct.Struct("=IIQQIII4x")  # len, opcode, unique, nodeid, uid, gid, pid
REPLY_SIZE = 16
REPLY = struct.Struct("=IiQ")  # len, error, unique
READ_IN = struct.Struct("=QQI20x")  # fh, offset, size, ...
LSEEK_IN = struct.Struct("=QQI4x")
SIZE_IN = struct.Struct("=I4x")  # fuse_getxattr_in
NUMBER = struct.Struct("=Q")
FORGET_ONE = struct.Struct("=QQ")  # nodeid, nlookup
_INIT_IN = struct.Struct("=IIII")  # major, minor, max_readahead, flags
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_OPEN_OUT = struct.Struct("=QI4x")
_STATFS_OUT = struct.Struct("=QQQQQIII28x")
_SIZE_OUT = struct.Struct("=I4x")
# nodeid, generation, entry and attribute timeouts in s and ns; then fuse_attr: ino, size, blocks, three times in s, in
# ns, mode, nlink, uid, gid, rdev, blksize, flags
_ENTRY = struct.Struct("=QQQQIIQQQqqqIIIIIIIIII")
# the same, with the fuse_dirent behind it: ino, off, namelen, type
_LISTED = struct.Struct("=QQQQIIQQQqqqIIIIIIIIIIQQII")
_DIRENT = struct.Struct("=QQII")
_DIRENT_AT = _ENTRY.size
_COOKIE = NUMBER
_COOKIE_AT = _DIRENT_AT + 8
_PADDING = tuple(bytes(-length % 8) for length in range(8))
_NS = 1_000_000_000


def init_reply(body: bytes | memoryview) -> tuple[bytes, int]:
    """(the reply to INIT, what the kernel can do); it will ask again when its version is too new."""
    major, minor, readahead, flags = _INIT_IN.unpack_from(body)
    if major < MAJOR or (major == MAJOR and minor < 12):
        raise GuestkitError(f"FUSE protocol {major}.{minor} is too old", number=errno.EPROTO)
    if major > MAJOR:
        return _INIT_OUT.pack(MAJOR, MINOR, 0, 0, 0, 0, 0, 0, 0, 0, 0), flags
    size = 24 if minor < 23 else _INIT_OUT.size
    reply = _INIT_OUT.pack(MAJOR, min(minor, MINOR), readahead, flags & _WANTED, 0, 0, 4096, 1, _PAGES, 0, 0)
    return reply[:size], flags


class Entries:
    """Encodes what the kernel is told of a node, under the mount's options."""

    overflow: type[Exception] = struct.error  # raised for what does not fit

    def __init__(self, options: MountOptions) -> None:
        self._uid = options.uid
        self._gid = options.gid
        self._mode = None if options.umask is None else 0o777 & ~options.umask
        self._plain = self._uid is None and self._gid is None and self._mode is None

    def _shown(self, status: Stat) -> Stat:
        return status._replace(
            uid=status.uid if self._uid is None else self._uid,
            gid=status.gid if self._gid is None else self._gid,
            mode=status.mode if self._mode is None else _stat.S_IFMT(status.mode) | self._mode,
        )

    def of(self, number: int, status: Stat, name: bytes = b"", cookie: int = 0, timeout: int = TIMEOUT) -> bytes:
        """`status` under the number `number`: a fuse_direntplus when it has a name, else a fuse_entry_out."""
        if not self._plain:
            status = self._shown(status)
        _, mode, nlink, uid, gid, rdev, size, blksize, blocks, atime, mtime, ctime, _ = status
        rdev &= 0xFFFFFFFF
        if not name:
            return _ENTRY.pack(
                number, 0, timeout, TIMEOUT, 0, 0, number, size, blocks, atime // _NS, mtime // _NS, ctime // _NS,
                atime % _NS, mtime % _NS, ctime % _NS, mode, nlink, uid, gid, rdev, blksize, 0,
            )  # fmt: skip
        length = len(name)
        return (
            _LISTED.pack(
                number, 0, timeout, TIMEOUT, 0, 0, number, size, blocks, atime // _NS, mtime // _NS, ctime // _NS,
                atime % _NS, mtime % _NS, ctime % _NS, mode, nlink, uid, gid, rdev, blksize, 0,
                number, cookie, length, mode >> 12,
            )
            + name
            + _PADDING[length & 7]
        )  # fmt: skip

    def listed(self, entries: Iterable[Entry]) -> list[tuple[bytes, bytes, int, int]]:
        """(name, fuse_direntplus, cookie, 0) of each; the numbers are the nodes. Raises: struct.error."""
        if not self._plain:
            entries = [entry._replace(stat=self._shown(entry.stat)) for entry in entries if entry.stat is not None]
        pack, padding = _LISTED.pack, _PADDING
        made = []
        for name, number, _, cookie, status in entries:
            _, mode, nlink, uid, gid, rdev, size, blksize, blocks, atime, mtime, ctime, _ = status  # type: ignore[misc]
            length = len(name)
            record = pack(
                number, 0, 86400, 86400, 0, 0, number, size, blocks,
                atime // 1_000_000_000, mtime // 1_000_000_000, ctime // 1_000_000_000,
                atime % 1_000_000_000, mtime % 1_000_000_000, ctime % 1_000_000_000,
                mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0, number, cookie, length, mode >> 12,
            )  # fmt: skip
            made.append((name, record + name + padding[length & 7], cookie, 0))
        return made

    def unknown(self, number: int, kind: int, name: bytes = b"", cookie: int = 0) -> bytes:
        """For an entry whose Stat is not known: the kernel links no inode and looks the name up when it is wanted."""
        return bytes(_ENTRY.size) + _DIRENT.pack(number, cookie, len(name), kind) + name + _PADDING[len(name) & 7]

    dots = unknown

    def received(self, records: Iterable[bytes]) -> list[tuple[bytes, bytes, int, int]]:
        """(b"", fuse_direntplus, cookie, 0) of each; only pyfuse3 wants names."""
        return [(b"", record, _COOKIE.unpack_from(record, _COOKIE_AT)[0], 0) for record in records]


def decoded(record: bytes) -> tuple[int, Stat, bytes, int, int]:
    """(number, Stat, name, cookie, DT_*) of a fuse_direntplus; the mode is 0 where the Stat is not known."""
    (
        _, _, _, _, _, _, ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
        mode, nlink, uid, gid, rdev, blksize, _, number, cookie, length, kind,
    ) = _LISTED.unpack_from(record)  # fmt: skip
    status = Stat(
        ino, mode, nlink, uid, gid, rdev, size, blksize, blocks,
        atime * _NS + atime_ns, mtime * _NS + mtime_ns, ctime * _NS + ctime_ns,
    )  # fmt: skip
    return number, status, record[_LISTED.size : _LISTED.size + length], cookie, kind


def attributes(entry: bytes) -> bytes:
    """The fuse_attr_out that goes with a fuse_entry_out."""
    return entry[24:32] + entry[36:40] + b"\0\0\0\0" + entry[40:]


def plain_entry(record: bytes) -> bytes:
    """The fuse_dirent in a fuse_direntplus."""
    return record[_DIRENT_AT:]


def missing() -> bytes:
    """A fuse_entry_out that says: there is no such name, and that may be remembered."""
    return _ENTRY.pack(0, 0, TIMEOUT, 0, *(0 for _ in range(18)))


def opened(handle: int, flags: int = KEEP_CACHE) -> bytes:
    """A fuse_open_out; what the kernel has of the file stays good."""
    return _OPEN_OUT.pack(handle, flags)


def figures(status: StatVfs) -> bytes:
    """The fuse_statfs_out."""
    return _STATFS_OUT.pack(
        status.blocks, status.bfree, status.bavail, status.files, status.ffree, status.bsize, status.namemax,
        status.frsize,
    )  # fmt: skip


def sized(value: bytes, most: int) -> bytes:
    """The reply of GETXATTR and LISTXATTR: the value, or its size when `most` is 0. Raises: ERANGE."""
    if not most:
        return _SIZE_OUT.pack(len(value))
    if len(value) > most:
        raise GuestkitError("the value is longer than the buffer", number=errno.ERANGE)
    return value


def name_of(body: memoryview) -> bytes:
    """The name in a request, which ends with a NUL."""
    return bytes(body).split(b"\0", 1)[0]


def forgotten(opcode: int, nodeid: int, body: memoryview) -> list[Any]:
    """(number, count) of a FORGET or BATCH_FORGET."""
    if opcode == FORGET:
        return [(nodeid, NUMBER.unpack_from(body)[0])]
    return list(FORGET_ONE.iter_unpack(body[8 : 8 + len(body[8:]) // FORGET_ONE.size * FORGET_ONE.size]))
