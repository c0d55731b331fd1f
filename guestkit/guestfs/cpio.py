"""cpio_out: a directory of the guest as a cpio archive of the host. Spec: GNU cpio's newc and crc formats."""

from __future__ import annotations

import errno
import os
import stat

from guestkit.errors import GuestkitError
from guestkit.fs.base import Stat
from guestkit.guestfs.archive import in_order
from guestkit.guestfs.call import FileOut, api
from guestkit.guestfs.errors import Failure, describe
from guestkit.guestfs.grep import pieces
from guestkit.guestfs.handle import Handle
from guestkit.guestfs.transfer import Sink, copy
from guestkit.source import Source

_MAGIC = {"newc": b"070701", "crc": b"070702"}
_BLOCK = 512
_MASK = 0xFFFFFFFF


class Cpio(Handle):
    @api()
    def cpio_out(self, directory: str, cpiofile: FileOut, format: str | None = None) -> None:
        """Write a directory as cpio to a host file; `format`: newc (default) or crc. Raises: GuestfsError."""
        magic = _MAGIC.get(format or "newc")
        if magic is None:
            raise Failure(f"{format}: format must be 'newc' or 'crc'", errno.EINVAL)
        try:
            top = self._node(directory)
            if not stat.S_ISDIR(self._table.stat(top).mode):
                raise Failure(f"{directory}: not a directory", errno.ENOTDIR)
            with Sink(self, cpiofile) as sink:
                _Writer(self, sink, magic).run(top)
        except GuestkitError as error:
            raise Failure(f"{directory}: {describe(error)}", error.errno or errno.EIO) from error


class _Writer:
    def __init__(self, handle: Handle, sink: Sink, magic: bytes) -> None:
        self._handle = handle
        self._table = handle._table
        self._sink = sink
        self._magic = magic
        self._written = 0
        self._count = 0
        self._numbers: dict[int, int] = {}  # node of several names -> inode number in the archive

    def run(self, top: int) -> None:
        # newc puts a file's bytes at the last of its names
        last: dict[int, int] = {}
        for index, (_, node, status) in enumerate(in_order(self._handle, top, [])):
            if status.nlink > 1 and stat.S_ISREG(status.mode):
                last[node] = index
        for index, (path, node, status) in enumerate(in_order(self._handle, top, [])):
            body: Source | bytes = b""
            if stat.S_ISLNK(status.mode):
                body = self._table.readlink(node)
            elif stat.S_ISREG(status.mode) and last.get(node, index) == index:
                body = self._table.open(node)
            self._member(path or b".", node, status, body)
        self._header(b"TRAILER!!!", 0, None, 0, 0)
        self._write(bytes(-self._written % _BLOCK))

    def _member(self, path: bytes, node: int, status: Stat, body: Source | bytes) -> None:
        size = len(body) if isinstance(body, bytes) else body.size
        if size > _MASK:
            raise Failure(f"{os.fsdecode(path)}: too large for cpio's format", errno.EFBIG)
        total = 0
        if self._magic == _MAGIC["crc"] and isinstance(body, Source):
            total = sum(sum(piece) for piece in pieces(body)) & _MASK
        self._count += 1
        number = self._numbers.setdefault(node, self._count) if status.nlink > 1 else self._count
        self._header(path, number, status, size, total)
        if isinstance(body, bytes):
            self._write(body)
        else:
            copy(body, self._write, self._skip)
        self._write(bytes(-self._written % 4))

    def _header(self, path: bytes, number: int, status: Stat | None, size: int, total: int) -> None:
        fields = [0] * 13
        if status is not None:
            device = status.rdev if stat.S_ISCHR(status.mode) or stat.S_ISBLK(status.mode) else 0
            when = status.mtime_ns // 1_000_000_000
            fields[:7] = [number, status.mode, status.uid, status.gid, status.nlink, when, size]
            fields[9:11] = [os.major(device), os.minor(device)]
        else:
            fields[4] = 1
        fields[11:13] = [len(path) + 1, total]
        self._write(self._magic + b"".join(b"%08X" % (field & _MASK) for field in fields) + path + b"\0")
        self._write(bytes(-self._written % 4))

    def _write(self, data: bytes) -> None:
        self._sink.write(data)
        self._written += len(data)

    def _skip(self, count: int) -> None:
        self._sink.skip(count)
        self._written += count
