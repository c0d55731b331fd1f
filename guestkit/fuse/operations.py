"""The requests of the kernel, answered from a Namespace.

Every handler runs inline first, in a thread that may not wait; what would wait is done again in a worker thread, so
that a slow read delays nobody else. Every handler stands behind one guard: an error is that request's error, and no
exception but pyfuse3's own reaches its session loop, which would end.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import stat as _stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pyfuse3
import trio

from guestkit.errors import GuestkitError, ReadOnly, WouldBlock
from guestkit.fs.base import Stat
from guestkit.fuse.ahead import READY, Ahead, Directory
from guestkit.fuse.attributes import TIMEOUT, Attributes
from guestkit.fuse.nodes import ROOT, TABLE, Nodes, met_in
from guestkit.fuse.options import MountOptions
from guestkit.namespace import KEY_BITS, Namespace
from guestkit.source import Source, patience

MOUNT_POINT_TIMEOUT = 1.0  # seconds: statfs() names no inode, and only a lookup tells which filesystem is meant
_MOST_READ = 1 << 20  # bytes; what a client asks for at once
_THREADS = 8
_CLIENTS = 256  # remembered for statfs
_ACCESS_MODES = os.O_WRONLY | os.O_RDWR

FUSEError = pyfuse3.FUSEError


def _guarded(method: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def handler(self: Operations, *args: Any) -> Any:
        try:
            return method(self, *args)
        except WouldBlock:
            pass
        except Exception as error:
            raise self.refusal(error, method.__name__) from None
        try:
            return await self.in_thread(functools.partial(method, self, *args))
        except Exception as error:
            raise self.refusal(error, method.__name__) from None

    return handler


class Operations:
    """A Namespace as pyfuse3 asks for it. Not derived from its class of the same name, whose defaults do nothing."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, namespace: Namespace, options: MountOptions) -> None:
        self.namespace = namespace
        self.nodes = Nodes(namespace.root)
        self.ahead = Ahead(self.listing)
        self.before_waiting: Callable[[], None] = _nothing
        self.after_waiting: Callable[[], None] = _nothing
        self._raw_links = options.raw_links
        self._attributes = Attributes(options)
        self._xattrs = namespace.has_xattrs()
        self._missing = pyfuse3.EntryAttributes()  # number 0: there is no such name, and that may be remembered
        self._missing.st_ino = 0
        self._missing.entry_timeout = TIMEOUT
        self._files: dict[int, Source] = {}
        self._directories: dict[int, Directory] = {}
        self._above: dict[int, int] = {}
        self._handles = itertools.count(1)
        self._buffer = memoryview(bytearray(_MOST_READ))
        self._limiter: trio.CapacityLimiter | None = None
        self._clients: dict[int, int] = {}
        self._logged: set[str] = set()

    def init(self) -> None:
        """The session has begun."""

    # the guard

    def refusal(self, error: Exception, request: str) -> Exception:
        """What the kernel is told instead of `error`."""
        if isinstance(error, FUSEError):
            return error
        if isinstance(error, GuestkitError):
            return FUSEError(error.errno or errno.EIO)
        self._log(request, error)
        return FUSEError(errno.EIO)

    def _log(self, request: str, error: Exception) -> None:
        """Say once, for each kind of defect, that one was met; it is guestkit's and not the image's."""
        kind = f"{request}: {type(error).__name__}"
        if kind in self._logged or len(self._logged) > 100:
            return
        self._logged.add(kind)
        import logging

        log = logging.getLogger("guestkit.fuse")
        log.error("%s: %s (a defect of guestkit; the request got EIO)", kind, error)
        log.debug("where it happened", exc_info=error)

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Run `work` where it may wait."""
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(_THREADS)
        self.before_waiting()
        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            self.after_waiting()

    # names and attributes

    def _entry(self, directory: int, node: int, status: Stat | None, kind: int) -> Any:
        """The attributes of `node` as met in `directory`."""
        if (
            status is not None
            and status.mode & 0o170000 != _stat.S_IFLNK
            and node >> KEY_BITS == directory >> KEY_BITS
            and ROOT < node < TABLE
            and node != self.nodes.root
        ):
            return self._attributes.of(node, status)
        timeout = TIMEOUT if node >> KEY_BITS == directory >> KEY_BITS else MOUNT_POINT_TIMEOUT
        if status is None:
            return self._attributes.unknown(self.nodes.number(node), kind, entry_timeout=timeout)
        if status.mode & 0o170000 != _stat.S_IFLNK or self._raw_links:
            return self._attributes.of(self.nodes.number(node), status, timeout)
        try:
            target = self.namespace.readlink(node)
            changed = met_in(self.namespace, directory, target)
        except GuestkitError:  # readlink says so
            return self._attributes.of(self.nodes.number(node), status)
        shown = target if changed is None else changed
        if shown.startswith(b"/") and changed is None:
            shown = self.namespace.confined(node, target)
        return self._attributes.of(self.nodes.number(node, changed), status._replace(size=len(shown)))

    def _lookup(self, inode: int, name: bytes, ctx: Any) -> Any:
        directory = self.nodes.node(inode)
        try:
            node = self.namespace.lookup(directory, name)
        except FileNotFoundError:
            return self._missing
        entry = self._entry(directory, node, self.namespace.stat(node), 0)
        if node >> KEY_BITS != directory >> KEY_BITS:
            self._seen(ctx, node)
        self.nodes.counted(entry.st_ino)
        return entry

    def _getattr(self, inode: int, ctx: Any = None) -> Any:
        node = self.nodes.node(inode)
        status = self.namespace.stat(node)
        if status.mode & 0o170000 == _stat.S_IFLNK and not self._raw_links:
            try:
                status = status._replace(size=len(self._readlink(inode)))
            except GuestkitError:  # readlink says so
                pass
        return self._attributes.of(inode, status)

    def _readlink(self, inode: int, ctx: Any = None) -> bytes:
        target = self.nodes.target(inode)
        if target is not None:
            return target
        node = self.nodes.node(inode)
        target = self.namespace.readlink(node)
        if target.startswith(b"/") and not self._raw_links:
            # the directory does not matter to an absolute target, only the mount, which the link's own node tells
            target = self.namespace.confined(node, target)
        return bytes(target)

    lookup = _guarded(_lookup)
    getattr = _guarded(_getattr)
    readlink = _guarded(_readlink)

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Not a coroutine: there is nothing to answer."""
        for number, count in inode_list:
            self.nodes.forget(number, count)

    # files

    def _open(self, inode: int, flags: int, ctx: Any) -> Any:
        if flags & _ACCESS_MODES:
            raise ReadOnly
        source = self.namespace.open(self.nodes.node(inode))
        handle = next(self._handles)
        self._files[handle] = source
        self.ahead.opened(handle, source)
        return pyfuse3.FileInfo(handle, False, True)

    def _read(self, handle: int, offset: int, length: int) -> bytes | bytearray | memoryview:
        if not offset:
            ahead = self.ahead.content(handle)
            if ahead is not None and (len(ahead) >= length or len(ahead) == self._files[handle].size):
                return ahead if len(ahead) <= length else ahead[:length]
        source = self._files[handle]
        length = min(length, source.size - offset)
        if length <= 0:
            return b""
        if not patience.may_block and length <= _MOST_READ:
            # pyfuse3 copies the reply out before the next request is looked at
            part = self._buffer[:length]
            source.read_into(offset, part)
            return part
        return source.read(offset, length)

    open = _guarded(_open)
    read = _guarded(_read)

    async def release(self, fh: int) -> None:
        self._files.pop(fh, None)
        self.ahead.closed(fh)

    # directories

    def listing(self, directory: int, cookie: int) -> Directory:
        """A Directory that goes on behind `cookie`."""
        return Directory(self.namespace, directory, cookie, self._entry, self._above)

    async def opendir(self, inode: int, ctx: Any) -> int:
        try:
            node = self.nodes.node(inode)
        except GuestkitError as error:
            raise self.refusal(error, "opendir") from None
        handle = next(self._handles)
        self._directories[handle] = self.ahead.listing(node) or self.listing(node, 0)
        self._seen(ctx, node)
        return handle

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        try:
            self.ahead.goes_on(None)
            listing = self._directories[fh]
            if listing.cookie != start_id:
                listing = self._directories[fh] = self.listing(listing.node, start_id)
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
            if listing.ended:
                self.ahead.listed(listing)
            elif len(listing.pending) < READY:
                self.ahead.goes_on(listing)
        except Exception as error:
            raise self.refusal(error, "readdir") from None

    def _reply(self, listing: Directory, token: Any) -> bool:
        """Hand over what is pending; False when the reply is full."""
        reply = pyfuse3.readdir_reply
        counted = self.nodes.counted
        done = 0
        for name, entry, cookie in listing.pending:
            if not reply(token, name, entry, cookie):
                break
            listing.cookie = cookie
            done += 1
            if entry.st_ino >= TABLE and name not in (b".", b".."):
                counted(entry.st_ino)
        full = done < len(listing.pending)
        listing.pending = listing.pending[done:] if full else []
        return not full

    async def releasedir(self, fh: int) -> None:
        self._directories.pop(fh, None)
        self.ahead.goes_on(None)

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
        node = self._clients.get(ctx.pid, self.nodes.root)
        status = self.namespace.statvfs(node)
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
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)  # the kernel asks no more
        return bytes(self.namespace.xattr(self.nodes.node(inode), name))

    def _listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)
        return [name for name in self.namespace.xattr_names(self.nodes.node(inode)) if name and b"\0" not in name]

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


def _nothing() -> None:
    """A loop that needs no word of waiting."""
