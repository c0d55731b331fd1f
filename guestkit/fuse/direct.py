"""The requests as the kernel writes them to /dev/fuse, read and answered there: what most of the speed comes from.

pyfuse3 has mounted and owns the descriptor; its own loop drops what this needs (the inode of readdir and statfs,
lseek) and takes several times as long for a request. One thread reads and answers; it spins a little before it sleeps,
because waking an idle core costs more than a request does, and does useful work ahead meanwhile. While another process
lists ahead it sleeps instead: that process and the client need the cores. What would wait goes to a worker thread.
Directories are not opened: the kernel is told so once, asks no more, and keeps what was listed, so that a directory
costs two requests and its second listing none. Nor are files, unless some may not be opened: a small one costs one.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

import trio

from guestkit.errors import GuestkitError, WouldBlock
from guestkit.fuse import protocol as p
from guestkit.fuse.directory import READY, Directory
from guestkit.fuse.lister_process import Frame
from guestkit.fuse.options import MountOptions
from guestkit.fuse.requests import MOST_READ, Requests, sought
from guestkit.namespace import Namespace
from guestkit.source import Source

SPIN_SECONDS = 100e-6  # 60 to 200 us are equal, 30 is too short
YIELD_SECONDS = 25e-3  # signals, worker threads and cancellation get their turn this often
_PATIENCE_MS = 5  # of sleep for the next request before the others get their turn
_THREADS = 8
_REQUEST = 1 << 16  # bytes; the kernel wants room for what it might write
_LISTINGS = 64  # that wait to be gone on with

Work = Callable[[], bytes]
T = TypeVar("T")


class Direct:
    """Serves a Namespace on the descriptor of /dev/fuse of a mount that nobody has answered yet."""

    def __init__(self, fd: int, namespace: Namespace, options: MountOptions) -> None:
        self._fd = fd
        self.requests = Requests(namespace, options, p.Entries(options))
        self._missing = p.missing()
        self._buffer = bytearray(_REQUEST)
        self._view = memoryview(self._buffer)
        self._reply = memoryview(bytearray(p.REPLY_SIZE + MOST_READ))
        self._listings: dict[tuple[int, int], Directory | None] = {}  # by node and cookie; None has ended
        self._nursery: Any = None
        self._limiter: Any = None
        self._blocked = 0
        self._open_files = self._open_directories = False
        self._shares = False  # the last request was one that a lister process prepares answers to
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        # each takes (nodeid, body) and gives what is to be done, so that it can be done again where it may wait
        self._handlers: dict[int, Callable[[int, memoryview], Work]] = {
            p.LOOKUP: self._lookup,
            p.GETATTR: self._getattr,
            p.READLINK: self._readlink,
            p.OPEN: self._open,
            p.STATFS: self._statfs,
            p.GETXATTR: self._getxattr,
            p.LISTXATTR: self._listxattr,
            p.LSEEK: self._lseek,
        }

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until the mount is gone or this is cancelled. `ready` is called once, when the mount answers."""
        fd = self._fd
        self._limiter = trio.CapacityLimiter(_THREADS)
        os.set_blocking(fd, False)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            ready()
            while self._serve():
                await trio.lowlevel.wait_readable(fd)
            nursery.cancel_scope.cancel()

    # the loop

    def _serve(self) -> bool:
        """Answer requests until none comes for a while, or others must have their turn. False: the mount is gone."""
        fd, into = self._fd, [self._buffer]
        readv, clock, idle, poll = os.readv, perf_counter, self.requests.ahead.idle, self._poll
        turn = clock() + YIELD_SECONDS
        until = 0.0
        while True:
            if self._shares and not self._blocked and not idle() and not poll(_PATIENCE_MS):
                return True
            try:
                length = readv(fd, into)
            except BlockingIOError:
                if self._blocked:  # a worker's answer needs trio
                    return True
                if self._shares:
                    continue
                if idle():
                    until = 0.0
                    continue
                now = clock()
                if not until:
                    until = now + SPIN_SECONDS
                elif now > until:
                    return True
                continue
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):  # ENOENT: the request was taken back
                    continue
                if error.errno == errno.ENODEV:
                    return False
                raise
            until = 0.0
            self._answer(length)
            if clock() > turn:
                return True

    def _answer(self, length: int) -> None:
        """Answer the request in the buffer."""
        _, opcode, unique, number, _, _, _ = p.HEADER.unpack_from(self._buffer)
        self._shares = False
        body = self._view[p.HEADER_SIZE : length]
        try:
            if opcode == p.READ:
                self._read(unique, number, *p.READ_IN.unpack_from(body))
            elif opcode == p.READDIRPLUS or opcode == p.READDIR:
                self._shares = self.requests.ahead.shared
                _, cookie, size = p.READ_IN.unpack_from(body)
                self._readdir(unique, number, cookie, size, opcode == p.READDIRPLUS)
            elif (handler := self._handlers.get(opcode)) is not None:
                work = handler(number, body)
                try:
                    self._send(unique, work())
                except WouldBlock:
                    self._later(unique, opcode, work)
            elif opcode in p.NO_REPLY:
                for forgotten, count in p.forgotten(opcode, number, body) if opcode != p.INTERRUPT else ():
                    self.requests.forget(forgotten, count)
            elif opcode == p.RELEASE:
                self.requests.release(p.NUMBER.unpack_from(body)[0])
                self._send(unique, b"")
            elif opcode == p.INIT:
                reply, able = p.init_reply(body)
                self._open_directories = not able & p.NO_OPENDIR
                self._open_files = not able & p.NO_OPEN or self.requests.namespace.may_refuse_open()
                self._send(unique, reply)
            elif opcode == p.OPENDIR and self._open_directories:
                self._send(unique, p.opened(0, p.KEEP_CACHE | p.CACHE_DIR))
            elif opcode in (p.DESTROY, p.RELEASEDIR):
                self._send(unique, b"")
            else:  # the kernel remembers ENOSYS for what it could do without, OPENDIR, FLUSH and ACCESS among them
                self._refuse(unique, errno.EROFS if opcode in p.WRITES else errno.ENOSYS)
        except Exception as error:  # the request's own, and never the end of the mount
            self._refuse(unique, self.requests.refusal(error, f"request {opcode}"))

    def _send(self, unique: int, payload: bytes) -> None:
        self._write(p.REPLY.pack(p.REPLY_SIZE + len(payload), 0, unique) + payload)

    def _refuse(self, unique: int, number: int) -> None:
        self._write(p.REPLY.pack(p.REPLY_SIZE, -number, unique))

    def _write(self, reply: bytes | memoryview) -> None:
        try:
            os.write(self._fd, reply)
        except OSError as error:
            # ENOENT: the client was killed and waits no more; ENODEV: the mount is gone, which the next read tells
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def _later(self, unique: int, opcode: int, work: Work) -> None:
        """Do `work` where it may wait, and then answer."""
        self._blocked += 1
        self._nursery.start_soon(self._in_thread, unique, opcode, work)

    async def _in_thread(self, unique: int, opcode: int, work: Work) -> None:
        try:
            self._send(unique, await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter))
        except Exception as error:  # the request's own, and never the end of the mount
            self._refuse(unique, self.requests.refusal(error, f"request {opcode}"))
        finally:
            self._blocked -= 1

    # files

    def _of(self, number: int, handle: int, use: Callable[..., T], *arguments: int) -> T:
        """What `use` makes of an open file, or of any where files need not be opened."""
        requests = self.requests
        if self._open_files:
            return use(requests.files[handle], *arguments)
        try:
            return use(requests.file(number), *arguments)
        finally:
            requests.rested(number)

    def _read(self, unique: int, number: int, handle: int, offset: int, length: int) -> None:
        if self._open_files:
            ahead = self.requests.started(handle, offset, length)
            if ahead is not None:
                self._send(unique, ahead)
                return
        requests = self.requests
        try:
            source = requests.files[handle] if self._open_files else requests.file(number)
            length = _there(source, offset, length)
            whole = self._reply[: p.REPLY_SIZE + length]
            source.read_into(offset, whole[p.REPLY_SIZE :])
            p.REPLY.pack_into(whole, 0, p.REPLY_SIZE + length, 0, unique)
            self._write(whole)
        except WouldBlock:
            self._later(unique, p.READ, lambda: self._of(number, handle, _bytes, offset, length))
        finally:  # while the client wakes
            if not self._open_files:
                requests.rested(number)

    def _open(self, number: int, body: memoryview) -> Work:
        if not self._open_files:  # the kernel will not ask again, and reads by number
            raise GuestkitError("files need not be opened", number=errno.ENOSYS)
        flags = p.SIZE_IN.unpack_from(body)[0]
        return lambda: p.opened(self.requests.open(number, flags))

    def _lseek(self, number: int, body: memoryview) -> Work:
        handle, offset, whence = p.LSEEK_IN.unpack_from(body)
        return lambda: p.NUMBER.pack(self._of(number, handle, sought, offset, whence))

    # directories

    def _readdir(self, unique: int, number: int, cookie: int, size: int, plus: bool) -> None:
        requests = self.requests
        ahead = requests.ahead
        ahead.goes_on(None)
        node = requests.nodes.node(number)
        if (node, cookie) in self._listings:
            listing = self._listings.pop((node, cookie))
            if listing is None:
                self._send(unique, b"")
                return
        elif cookie:
            listing = requests.listing(node, cookie)
        else:
            ready = ahead.prepared(node)
            if isinstance(ready, Frame) and plus and len(ready.records) <= size:
                self._send(unique, ready.records)
                self._remember(node, ready.cookie, None)
                return
            listing = ahead.begun(node, ready)
        if listing.ended and not listing.pending:
            self._send(unique, b"")
            return
        try:
            reply = self._entries(listing, size, plus)
        except WouldBlock:
            self._later(unique, p.READDIR, lambda: self._entries(listing, size, plus))
            return
        self._send(unique, reply)
        if listing.ended and not listing.pending:
            ahead.listed(listing)
        elif len(listing.pending) < READY:
            ahead.goes_on(listing)

    def _entries(self, listing: Directory, size: int, plus: bool) -> bytes:
        """Up to `size` bytes of entries, none at the end; what is left of the listing waits for the next request."""
        parts: list[bytes] = []
        room = size
        full = False
        while not full:
            if not listing.pending:
                if listing.ended:
                    break
                try:
                    listing.fill()
                except (WouldBlock, GuestkitError):
                    if parts:  # what came before is good; the next request waits or gets the error
                        break
                    raise
                if not listing.pending:
                    break
            pending = listing.pending
            done = 0
            for _, record, _, _ in pending:
                if not plus:
                    record = p.plain_entry(record)
                room -= len(record)
                if room < 0:
                    full = True
                    break
                parts.append(record)
                done += 1
            if done:
                listing.cookie = pending[done - 1][2]
            for entry in pending[:done] if plus else ():
                if entry[3]:
                    self.requests.nodes.counted(entry[3])
            listing.pending = pending[done:] if full else []
        if parts:
            self._remember(listing.node, listing.cookie, listing)
        return b"".join(parts)

    def _remember(self, node: int, cookie: int, listing: Directory | None) -> None:
        self._listings[node, cookie] = listing
        if len(self._listings) > _LISTINGS:  # a copy: another thread may add one
            self._listings.pop(list(self._listings)[0], None)  # noqa: RUF015

    # names and attributes

    def _lookup(self, number: int, body: memoryview) -> Work:
        name = p.name_of(body)

        def work() -> bytes:
            try:
                entry: bytes = self.requests.lookup(number, name)[2]
            except FileNotFoundError:
                return self._missing
            return entry

        return work

    def _getattr(self, number: int, body: memoryview) -> Work:
        return lambda: p.attributes(self.requests.getattr(number))

    def _readlink(self, number: int, body: memoryview) -> Work:
        return lambda: self.requests.readlink(number)

    def _statfs(self, number: int, body: memoryview) -> Work:
        return lambda: p.figures(self.requests.statfs(self.requests.nodes.node(number)))

    def _getxattr(self, number: int, body: memoryview) -> Work:
        most = p.SIZE_IN.unpack_from(body)[0]
        name = p.name_of(body[p.SIZE_IN.size :])
        return lambda: p.sized(self.requests.getxattr(number, name), most)

    def _listxattr(self, number: int, body: memoryview) -> Work:
        most = p.SIZE_IN.unpack_from(body)[0]
        return lambda: p.sized(b"".join(name + b"\0" for name in self.requests.listxattr(number)), most)


def _there(source: Source, offset: int, length: int) -> int:
    """How many of `length` bytes a read from `offset` gives."""
    return max(0, min(length, source.size - offset, MOST_READ))


def _bytes(source: Source, offset: int, length: int) -> bytes:
    return source.read(offset, _there(source, offset, length))
