"""The requests as pyfuse3's own session loop asks them: the fall-back where the kernel cannot be asked directly.

Every handler runs inline first, and what would wait is done again in a worker thread. Every handler stands behind
one guard: an error is that request's error, and no exception but pyfuse3's own reaches its loop, which would end.
"""

from __future__ import annotations

import errno
import functools
import itertools
import stat as _stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pyfuse3
import trio

from guestkit.errors import GuestkitError, WouldBlock
from guestkit.fs.base import Stat
from guestkit.fuse.directory import Directory
from guestkit.fuse.nodes import TABLE
from guestkit.fuse.options import MountOptions
from guestkit.fuse.protocol import TIMEOUT, decoded
from guestkit.fuse.requests import MOST_READ, Requests
from guestkit.namespace import KEY_BITS, Entry, Namespace
from guestkit.source import patience

_MOUNT_POINT_TIMEOUT = 1.0  # seconds: statfs names no inode here, and only a lookup tells which filesystem is meant
_THREADS = 8
_CLIENTS = 256  # remembered for statfs

FUSEError = pyfuse3.FUSEError


class Entries:
    """Encodes what the kernel is told of a node as pyfuse3.EntryAttributes, under the mount's options."""

    overflow: type[Exception] = OverflowError

    def __init__(self, options: MountOptions) -> None:
        self._uid = options.uid
        self._gid = options.gid
        self._mode = None if options.umask is None else 0o777 & ~options.umask
        self._plain = self._uid is None and self._gid is None and self._mode is None

    def of(
        self, number: int, status: Stat, name: bytes = b"", cookie: int = 0, timeout: float = TIMEOUT
    ) -> pyfuse3.EntryAttributes:
        # a new EntryAttributes is a regular file of nobody's, with one link and blocks of 4 KiB
        _, mode, nlink, uid, gid, rdev, size, blksize, blocks, atime, mtime, ctime, _ = status
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = number
        entry.entry_timeout = timeout
        entry.attr_timeout = TIMEOUT
        entry.st_mode = mode
        if nlink != 1:
            entry.st_nlink = nlink
        if uid:
            entry.st_uid = uid
        if gid:
            entry.st_gid = gid
        if rdev:
            entry.st_rdev = rdev
        entry.st_size = size
        if blksize != 4096:
            entry.st_blksize = blksize
        entry.st_blocks = blocks
        entry.st_atime_ns = atime
        entry.st_mtime_ns = mtime
        entry.st_ctime_ns = ctime
        if not self._plain:
            if self._uid is not None:
                entry.st_uid = self._uid
            if self._gid is not None:
                entry.st_gid = self._gid
            if self._mode is not None:
                entry.st_mode = _stat.S_IFMT(mode) | self._mode
        return entry

    def listed(self, entries: Iterable[Entry]) -> list[tuple[bytes, Any, int, int]]:
        of = self.of
        return [(name, of(number, status), cookie, 0) for name, number, _, cookie, status in entries if status]

    def unknown(self, number: int, kind: int, name: bytes = b"", cookie: int = 0) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = number
        entry.st_mode = kind << 12  # 0 is refused by the kernel as an attribute and still lists the name
        entry.entry_timeout = TIMEOUT
        entry.attr_timeout = 0
        return entry

    dots = unknown

    def received(self, records: Iterable[bytes]) -> list[tuple[bytes, Any, int, int]]:
        made: list[tuple[bytes, Any, int, int]] = []
        for record in records:
            number, status, name, cookie, kind = decoded(record)
            made.append((name, self.of(number, status) if status.mode else self.unknown(number, kind), cookie, 0))
        return made


def _guarded(method: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def handler(self: Operations, *args: Any) -> Any:
        try:
            return method(self, *args)
        except WouldBlock:
            pass
        except Exception as error:
            raise self.refused(error, method.__name__) from None
        try:
            return await self.in_thread(functools.partial(method, self, *args))
        except Exception as error:
            raise self.refused(error, method.__name__) from None

    return handler


class Operations:
    """Requests as pyfuse3 asks for them. Not derived from its class of the same name, whose defaults do nothing."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, namespace: Namespace, options: MountOptions) -> None:
        self.requests = Requests(namespace, options, Entries(options), _MOUNT_POINT_TIMEOUT)
        self._missing = pyfuse3.EntryAttributes()  # number 0: there is no such name, and that may be remembered
        self._missing.st_ino = 0
        self._missing.entry_timeout = TIMEOUT
        self._directories: dict[int, Directory] = {}
        self._handles = itertools.count(1)
        self._buffer = memoryview(bytearray(MOST_READ))
        self._limiter: trio.CapacityLimiter | None = None
        self._clients: dict[int, int] = {}

    def init(self) -> None:
        """The session has begun."""

    # the guard

    def refused(self, error: Exception, request: str) -> Exception:
        """What the kernel is told instead of `error`."""
        return error if isinstance(error, FUSEError) else FUSEError(self.requests.refusal(error, request))

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Run `work` where it may wait."""
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(_THREADS)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    # names and attributes

    def _lookup(self, inode: int, name: bytes, ctx: Any) -> Any:
        try:
            node, _, entry = self.requests.lookup(inode, name)
        except FileNotFoundError:
            return self._missing
        if node >> KEY_BITS != self.requests.nodes.node(inode) >> KEY_BITS:
            self._seen(ctx, node)
        return entry

    def _getattr(self, inode: int, ctx: Any = None) -> Any:
        return self.requests.getattr(inode)

    def _readlink(self, inode: int, ctx: Any = None) -> bytes:
        return self.requests.readlink(inode)

    lookup = _guarded(_lookup)
    getattr = _guarded(_getattr)
    readlink = _guarded(_readlink)

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Not a coroutine: there is nothing to answer."""
        for number, count in inode_list:
            self.requests.forget(number, count)

    # files

    def _open(self, inode: int, flags: int, ctx: Any) -> Any:
        return pyfuse3.FileInfo(self.requests.open(inode, flags), False, True)

    def _read(self, handle: int, offset: int, length: int) -> bytes | memoryview:
        if patience.may_block or length > MOST_READ:
            return self.requests.read(handle, offset, length)
        ahead = self.requests.started(handle, offset, length)
        if ahead is not None:
            return ahead
        source = self.requests.files[handle]
        # pyfuse3 copies the reply out before the next request is looked at
        part = self._buffer[: max(0, min(length, source.size - offset))]
        source.read_into(offset, part)
        return part

    open = _guarded(_open)
    read = _guarded(_read)

    async def release(self, fh: int) -> None:
        self.requests.release(fh)

    # directories

    async def opendir(self, inode: int, ctx: Any) -> int:
        try:
            node = self.requests.nodes.node(inode)
            listing = self.requests.ahead.listing_now(node)
        except Exception as error:
            raise self.refused(error, "opendir") from None
        handle = next(self._handles)
        self._directories[handle] = listing
        self._seen(ctx, node)
        return handle

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        try:
            listing = self._directories[fh]
            if listing.cookie != start_id:
                listing = self._directories[fh] = self.requests.listing(listing.node, start_id)
            replied = False
            while True:
                if not listing.pending:
                    if replied and listing.ended:
                        break
                    try:
                        listing.fill()
                    except WouldBlock:
                        if replied:
                            break
                        await self.in_thread(listing.fill)
                    except GuestkitError:
                        if replied:  # what was read before the damage is good; the next request gets the error
                            break
                        raise
                    if not listing.pending:
                        break
                if not self._reply(listing, token):
                    break
                replied = True
            if listing.ended and not listing.pending:
                self.requests.ahead.listed(listing)
        except Exception as error:
            raise self.refused(error, "readdir") from None

    def _reply(self, listing: Directory, token: Any) -> bool:
        """Hand over what is pending; False when the reply is full."""
        reply = pyfuse3.readdir_reply
        done = 0
        for name, entry, cookie, number in listing.pending:
            if not reply(token, name, entry, cookie):
                break
            listing.cookie = cookie
            done += 1
            if number >= TABLE:
                self.requests.nodes.counted(number)
        full = done < len(listing.pending)
        listing.pending = listing.pending[done:] if full else []
        return not full

    async def releasedir(self, fh: int) -> None:
        self._directories.pop(fh, None)

    # the filesystem

    def _seen(self, ctx: Any, node: int) -> None:
        """Remember which filesystem a client looked at last."""
        clients = self._clients
        pid = ctx.pid
        clients.pop(pid, None)
        clients[pid] = node
        if len(clients) > _CLIENTS:
            del clients[next(iter(clients))]

    def _statfs(self, ctx: Any) -> Any:
        # pyfuse3 does not say for which inode; df has just opened the one that it means
        status = self.requests.statfs(self._clients.get(ctx.pid, self.requests.nodes.root))
        data = pyfuse3.StatvfsData()
        data.f_bsize = status.bsize
        data.f_frsize = status.frsize
        data.f_blocks = status.blocks
        data.f_bfree = status.bfree
        data.f_bavail = status.bavail
        data.f_files = status.files
        data.f_ffree = status.ffree
        data.f_favail = status.favail
        data.f_namemax = status.namemax
        return data

    statfs = _guarded(_statfs)

    def _getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        return self.requests.getxattr(inode, name)

    def _listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return self.requests.listxattr(inode)

    getxattr = _guarded(_getxattr)
    listxattr = _guarded(_listxattr)

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        raise FUSEError(errno.ENOSYS)  # everything may be read; the kernel knows that nothing may be written

    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)  # once; the kernel then sends no more

    async def _read_only(self, *args: Any) -> Any:
        raise FUSEError(errno.EROFS)

    async def poll(self, *args: Any) -> Any:
        raise FUSEError(errno.ENOSYS)

    create = mkdir = mknod = link = symlink = rename = unlink = rmdir = _read_only
    setattr = write = setxattr = removexattr = _read_only

    async def fsync(self, fh: int, datasync: bool) -> None:
        raise FUSEError(errno.ENOSYS)  # nothing to write back; the kernel then takes it as done

    fsyncdir = fsync
