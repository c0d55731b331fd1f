"""Source: a fixed range of read-only bytes that can say where they stand in host files.

Owns the interface, the leaf that is a host file, and the arithmetic of mapping layers. It knows no format.
`resolve.py` turns a chain of mapping layers into one bisect and one pread; `decoded.py` is the base of leaves
that must transform bytes; `files.py` opens other files that an image names.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from guestkit.errors import AccessRefused, GuestkitError, IsADirectory, NotFound, SourceError, WouldBlock

_SCRATCH = 1 << 18  # bytes


class _Patience(threading.local):
    """Whether the running thread may wait for a disk or a decompressor, and where it reads when it may not."""

    may_block = True
    scratch: memoryview | None = None  # made when first needed


patience = _Patience()


class Extent(NamedTuple):
    """`length` bytes at `offset` of a Source stand at `source_offset` of `source`; None: they are zeros."""

    offset: int
    length: int
    source: Leaf | None
    source_offset: int


class Source(ABC):
    """A fixed range of read-only bytes, without cursor or lock; safe to read from several threads.

    A mapping layer implements `extents` by asking its parent and translating. A leaf implements `read_into`.
    """

    size: int  # bytes
    sector_size: int = 512  # 512 or 4096, as the layer above must count

    @property
    def held(self) -> int:
        """Bytes of memory, about, that what was found out of the mapping takes; what is in a cache does not count."""
        return 0

    @abstractmethod
    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield the extents that tile [offset, offset + length) left to right.

        Raises: SourceError (EIO) outside the source; Corrupt or Unsupported where the mapping is damaged,
        after everything left of the damage has been yielded.
        """

    def read_into(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` exactly from byte `offset`, or raise; never short.

        Raises: SourceError (EIO), or what a leaf raises for bytes that it cannot make.
        """
        at = 0
        for extent in self.extents(offset, len(buf)):
            part = buf[at : at + extent.length]
            if extent.source is None:
                part[:] = bytes(extent.length)
            else:
                extent.source.read_into(extent.source_offset, part)
            at += extent.length
        if at != len(buf):
            raise SourceError(f"extents cover {at} of {len(buf)} bytes at {offset}")

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from byte `offset`. Raises: as read_into."""
        buf = bytearray(length)
        self.read_into(offset, memoryview(buf))
        return bytes(buf)

    def check(self, offset: int, length: int) -> None:
        """Raises: SourceError (EIO) unless [offset, offset + length) lies inside."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise SourceError(f"{length} bytes at {offset} lie beyond the end at {self.size}")


class Leaf(Source):
    """A Source whose bytes come from nowhere further down: a host file, or a transformation."""

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if length:
            yield Extent(offset, length, self, offset)

    @abstractmethod
    def read_into(self, offset: int, buf: memoryview) -> None: ...


class FileSource(Leaf):
    """A regular file or block device of the host, opened read-only; owns the descriptor until close().

    `dense` says that the file has no holes worth asking for.
    """

    def __init__(self, fd: int, path: str, *, sector_size: int = 512) -> None:
        """Take over `fd`. `path` is for messages only."""
        status = os.fstat(fd)
        self.fd = fd
        self.path = path
        self.sector_size = sector_size
        self.size = os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(status.st_mode) else status.st_size
        self.dense = not stat.S_ISREG(status.st_mode) or status.st_blocks * 512 >= status.st_size
        self._stretch = 0, 0  # from where to where there was no hole when last asked
        self._nowait = hasattr(os, "RWF_NOWAIT")

    @classmethod
    def open(cls, path: str | bytes | os.PathLike[str], *, sector_size: int = 512) -> FileSource:
        """Open a host file that the user named.

        Raises: NotFound, AccessRefused, IsADirectory, SourceError.
        """
        text = os.fsdecode(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise host_error(error, text) from None
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectory("is a directory, not a disk image", where=text)
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise SourceError("is neither a regular file nor a block device", where=text)
            return cls(fd, text, sector_size=sector_size)
        except BaseException:
            os.close(fd)
            raise

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if self.dense:
            if length:
                yield Extent(offset, length, self, offset)
            return
        end = offset + length
        begin, stop = self._stretch
        if begin <= offset and end <= stop:  # asking costs the host the more, the farther off the next hole is
            if length:
                yield Extent(offset, length, self, offset)
            return
        while offset < end:
            data = min(self._seek(offset, os.SEEK_DATA, end), end)
            if data > offset:
                yield Extent(offset, data - offset, None, 0)
                offset = data
                if offset == end:
                    return
            hole = self._seek(offset, os.SEEK_HOLE, end)
            if hole <= offset:  # the file changes under us: what remains is read as data
                hole = end
            self._stretch = offset, hole
            hole = min(hole, end)
            yield Extent(offset, hole - offset, self, offset)
            offset = hole

    def _seek(self, offset: int, whence: int, end: int) -> int:
        try:
            return os.lseek(self.fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here to the end
                return end
            if error.errno == errno.EINVAL:  # the host filesystem keeps no holes
                self.dense = True
                return offset if whence == os.SEEK_DATA else end
            raise host_error(error, self.path) from None

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        while buf:
            try:
                if patience.may_block or not self._nowait:
                    count = os.preadv(self.fd, [buf], offset)
                else:
                    count = os.preadv(self.fd, [buf], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                raise WouldBlock from None
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP and self._nowait and not patience.may_block:
                    self._nowait = False
                    continue
                raise host_error(error, self.path) from None
            if count == 0:
                raise SourceError(f"ends at {offset}, {len(buf)} bytes early: truncated while open", where=self.path)
            buf = buf[count:]
            offset += count

    def read(self, offset: int, length: int) -> bytes:
        self.check(offset, length)
        if patience.may_block:
            try:
                data = os.pread(self.fd, length, offset)
            except OSError as error:
                raise host_error(error, self.path) from None
            if len(data) == length:
                return data
        elif length <= _SCRATCH:  # there is no pread with flags, and a buffer for each read costs more than the copy
            if patience.scratch is None:
                patience.scratch = memoryview(bytearray(_SCRATCH))
            part = patience.scratch[:length]
            self.read_into(offset, part)
            return bytes(part)
        return super().read(offset, length)

    def close(self) -> None:
        """Close the descriptor; later reads raise SourceError. May be repeated."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class BytesSource(Leaf):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        self.check(offset, length)
        return self.data[offset : offset + length]

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        buf[:] = self.data[offset : offset + len(buf)]


class ZeroSource(Source):
    """`size` zero bytes."""

    def __init__(self, size: int, *, sector_size: int = 512) -> None:
        self.size = size
        self.sector_size = sector_size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if length:
            yield Extent(offset, length, None, 0)


class Slice(Source):
    """`size` bytes of `parent` from `start`.

    It may reach beyond its parent (a partition on a truncated image): reading there raises SourceError.
    """

    def __init__(self, parent: Source, start: int, size: int, *, sector_size: int | None = None) -> None:
        if start < 0 or size < 0:
            raise ValueError("a slice needs a start and a size that are not negative")
        self.parent = parent
        self.start = start
        self.size = size
        self.sector_size = parent.sector_size if sector_size is None else sector_size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        start = self.start
        # what lies inside the parent is still good when the rest is not there
        inside = min(length, max(0, self.parent.size - start - offset))
        for extent in self.parent.extents(start + offset, inside) if inside else ():
            yield Extent(extent.offset - start, extent.length, extent.source, extent.source_offset)
        if inside < length:
            raise SourceError(f"{length - inside} bytes at {start + offset + inside} are not there: truncated image")


class Concat(Source):
    """`parts` one after the other."""

    def __init__(self, parts: Sequence[Source], *, sector_size: int = 512) -> None:
        self.parts = tuple(parts)
        self.sector_size = sector_size
        self._starts = []
        at = 0
        for part in self.parts:
            self._starts.append(at)
            at += part.size
        self.size = at

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        index = bisect_right(self._starts, offset) - 1
        while length:
            part, start = self.parts[index], self._starts[index]
            take = min(length, start + part.size - offset)
            if take > 0:
                for extent in part.extents(offset - start, take):
                    yield Extent(extent.offset + start, extent.length, extent.source, extent.source_offset)
                offset += take
                length -= take
            index += 1


class Patch(NamedTuple):
    """`length` bytes at `offset` are replaced by those of `source` at `source_offset`."""

    offset: int
    length: int
    source: Source
    source_offset: int


class Overlay(Source):
    """`parent` with some ranges replaced: what a journal replay yields. Holds places, not bytes."""

    def __init__(self, parent: Source, patches: Sequence[Patch]) -> None:
        """`patches` in ascending order without overlap, inside the parent. Raises: ValueError otherwise."""
        self.parent = parent
        self.size = parent.size
        self.sector_size = parent.sector_size
        self._patches = tuple(patches)
        self._starts = [patch.offset for patch in self._patches]
        at = 0
        for patch in self._patches:
            if patch.offset < at:
                raise ValueError("patches must ascend without overlap")
            at = patch.offset + patch.length
        if at > self.size:
            raise ValueError("a patch reaches beyond the source")

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        end = offset + length
        index = max(0, bisect_right(self._starts, offset) - 1)
        while offset < end:
            while index < len(self._patches) and self._patches[index].offset + self._patches[index].length <= offset:
                index += 1
            patch = self._patches[index] if index < len(self._patches) else None
            if patch is None or patch.offset >= end:
                yield from self.parent.extents(offset, end - offset)
                return
            if patch.offset > offset:
                yield from self.parent.extents(offset, patch.offset - offset)
                offset = patch.offset
            take = min(end, patch.offset + patch.length) - offset
            shift = patch.source_offset - patch.offset
            for extent in patch.source.extents(offset + shift, take):
                yield Extent(extent.offset - shift, extent.length, extent.source, extent.source_offset)
            offset += take


class Files(Protocol):
    """The one door to other files that an image names: backing file, data file, extent, parent."""

    def open(self, name: str, format: str | None = None) -> Source:
        """Open the image `name` as `format` ("raw": its bytes as they are).

        With None the format is guessed from the content, and the file may then name no further file.
        Raises: NotFound, AccessRefused (the policy forbids it), Unsupported (a URL or `json:`), Corrupt.
        """


class NoFiles:
    """Refuses every name."""

    def __init__(self, reason: str = "an image whose format was guessed may name no further file") -> None:
        self.reason = reason

    def open(self, name: str, format: str | None = None) -> Source:
        raise AccessRefused(f"{name!r} is not opened: {self.reason}")


def host_error(error: OSError, path: str) -> GuestkitError:
    """Translate what the host's kernel answered for `path`."""
    kind = {
        errno.ENOENT: NotFound,
        errno.ENOTDIR: NotFound,
        errno.EACCES: AccessRefused,
        errno.EPERM: AccessRefused,
        errno.EISDIR: IsADirectory,
    }.get(error.errno or 0, SourceError)
    return kind(error.strerror or str(error), where=path)
