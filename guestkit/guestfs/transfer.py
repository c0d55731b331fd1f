"""Transfers: bytes of the guest into a file of the host, piece by piece, holes as holes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from types import TracebackType

from guestkit.errors import IsADirectory
from guestkit.guestfs.call import DevOrPath, FileOut, Pathname, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.events import EVENT_PROGRESS
from guestkit.guestfs.handle import Handle
from guestkit.resolve import Resolved
from guestkit.source import Source

CHUNK = 1 << 20


class Sink:
    """A file of the host that is written from its start: a regular file, a pipe, /dev/fd/N.

    A regular file that could not be completed is removed.
    """

    def __init__(self, handle: Handle, path: str, total: int = 0) -> None:
        """`total`: how many bytes are to come, for the progress events."""
        self._handle = handle
        self._path = path
        self._total = total
        self._position = 0
        self._told = 0
        handle._cancelled = False
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
        self._regular = stat.S_ISREG(os.fstat(self.fd).st_mode)

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._regular:
                os.ftruncate(self.fd, self._position)  # a hole at the end
        finally:
            os.close(self.fd)
            if kind is not None and self._regular and not self._path.startswith(("/dev/", "/proc/")):
                os.unlink(self._path)
        if kind is None and self._told:
            self._tell(self._position)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data`. Raises: OSError of the host; Failure after user_cancel()."""
        view = memoryview(data)
        while view:
            done = os.write(self.fd, view)
            view = view[done:]
        self._moved(len(data))
        return len(data)

    def skip(self, count: int) -> None:
        """Leave a hole of `count` bytes, or write zeros where the file can hold none."""
        if self._regular:
            os.lseek(self.fd, count, os.SEEK_CUR)
            self._moved(count)
            return
        zeros = bytes(min(CHUNK, count))
        while count:
            count -= self.write(zeros[: min(len(zeros), count)])

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def _moved(self, count: int) -> None:
        self._position += count
        if self._handle._cancelled:
            raise Failure("operation cancelled by user", errno.EINTR)
        if self._position - self._told >= CHUNK:
            self._told = self._position
            self._tell(self._position)

    def _tell(self, position: int) -> None:
        if self._handle._callbacks:
            self._handle._event(EVENT_PROGRESS, b"", (0, 0, position, max(self._total, position)))


def copy(
    source: Source, write: Callable[[bytes], object], skip: Callable[[int], object], offset: int = 0, length: int = -1
) -> None:
    """Give the bytes of `source` to `write` piece by piece, and the lengths of its holes to `skip`."""
    length = source.size - offset if length < 0 else length
    if isinstance(source, Resolved):  # its windows would cut a huge hole into many
        source = source.source
    for extent in source.extents(offset, length):
        if extent.source is None:
            skip(extent.length)
            continue
        for at in range(0, extent.length, CHUNK):
            write(extent.source.read(extent.source_offset + at, min(CHUNK, extent.length - at)))


class Transfer(Handle):
    @api(syscall="path")
    def download(self, remotefilename: DevOrPath, filename: FileOut) -> None:
        """Copy a file or device of the guest into a file of the host; holes stay holes.

        Raises: GuestfsError; what was written of a regular file is then removed.
        """
        source = self._remote(remotefilename)
        with Sink(self, filename, source.size) as sink:
            copy(source, sink.write, sink.skip)

    @api(syscall="path")
    def download_offset(self, remotefilename: DevOrPath, filename: FileOut, offset: int, size: int) -> None:
        """Copy `size` bytes from byte `offset` of a file or device into a file of the host. Raises: GuestfsError."""
        if offset < 0 or size < 0:
            raise Failure(f"{remotefilename}: offset or size is negative", errno.EINVAL)
        source = self._remote(remotefilename)
        if offset + size > source.size:
            raise Failure(f"{remotefilename}: end of file reached", errno.EINVAL)
        with Sink(self, filename, size) as sink:
            copy(source, sink.write, sink.skip, offset, size)

    def _remote(self, name: str) -> Source:
        try:
            return self._dev_or_path(name)
        except IsADirectory:
            raise Failure(f"{name}: is a directory", errno.EISDIR) from None

    @api(syscall="path")
    def copy_out(self, remotepath: Pathname, localdir: str) -> None:
        """Copy a file or a whole directory of the guest into a directory of the host, under its own name.

        Links stay links, holes stay holes; devices, set-id bits and owners are not copied.
        Raises: GuestfsError, also when a part could not be copied (the rest is there then).
        """
        from guestkit.copying import copy_out, open_directory

        if not os.path.isdir(localdir):
            raise Failure(f"target '{localdir}' is not a directory", errno.ENOTDIR)
        node = self._copied(remotepath)
        name = remotepath.rstrip("/").rpartition("/")[2].encode()
        if name in (b".", b".."):
            raise Failure(f"{remotepath}: cannot be copied under this name", errno.EINVAL)
        target = open_directory(localdir)
        try:
            report = copy_out(self._table, node, name, target, preserve=True, replace=True)
        finally:
            os.close(target)
        if report.failed:
            path, reason = next(iter(report.reasons))
            raise Failure(f"{path.decode('utf-8', 'replace')}: {reason} ({report.failed} not copied)", errno.EIO)

    def _copied(self, path: str) -> int:
        try:
            return self._node(path, follow=False)
        except FileNotFoundError:
            raise Failure(f"\u2018{path}\u2019 is not a file or directory", errno.ENOENT) from None
