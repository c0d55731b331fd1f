"""Copying a guest's files out to the host, so that nothing in the guest decides what happens outside the target.

Every step is made with a descriptor of the directory it happens in and never follows a link: a name that is
there already is not opened, devices, FIFOs and sockets are left out, and no set-id bit is ever set. Holes stay
holes. What cannot be copied is reported and the rest goes on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, SourceError
from guestkit.fs.base import Stat
from guestkit.namespace import Entry, Namespace
from guestkit.resolve import Resolved
from guestkit.source import Extent, FileSource, Source, host_error

# (bytes just written, path of the file): called for each piece and, with 0, when a file begins
Progress = Callable[[int, bytes], None]

_MOST_DEPTH = 400  # directories that are open at once
_MOST_REPORTED = 100
_MOST_LINKED = 100_000  # files with several names that are remembered; beyond it each name gets a copy
_PIECE = 1 << 20  # bytes read at once
_SPAN = 8 << 20  # bytes that the host's kernel copies between two calls of progress
_SMALL = 128 << 10  # read and written in one go

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# of these the host's answer concerns one name only; any other ends the copying
_OF_ONE_NAME = (
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EPERM,
    errno.EACCES,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTEMPTY,
    errno.EILSEQ,
    errno.EOVERFLOW,
    errno.EFBIG,
)
_NO_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY)

_TYPES = {stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device", stat.S_IFIFO: "a FIFO"}


@dataclass
class CopyReport:
    """What was done: counts, bytes of content (holes too), and the names that were left out with the reason of each."""

    files: int = 0
    directories: int = 0
    links: int = 0
    size: int = 0
    failed: int = 0  # names that should have been copied and were not
    special: int = 0  # devices, FIFOs, sockets: left out on purpose
    reasons: list[tuple[bytes, str]] = field(default_factory=list)  # the first of both

    def leave_out(self, path: bytes, reason: str, *, special: bool = False) -> None:
        if special:
            self.special += 1
        else:
            self.failed += 1
        if len(self.reasons) < _MOST_REPORTED:
            self.reasons.append((path, reason))


def copy_out(
    namespace: Namespace,
    node: int,
    name: bytes,
    target_dir_fd: int,
    *,
    preserve: bool = False,
    ownership: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy the file, link or whole directory `node` into the host directory `target_dir_fd` under `name`.

    With `name` b"" the content of a directory is put right into the target. Links are copied as links, with the
    guest's own target. `preserve`: permissions and times are the guest's, else the caller's umask applies and
    times are now. `ownership`: user and group are the guest's. `replace`: a file that is in the way is removed
    first and a directory that is there is filled; else either is reported and left alone.

    Damage in the guest and names that the host refuses are in the report. Raises: SourceError, AccessRefused when
    the host cannot go on (disk full); nothing half-written is left then. Raises: InvalidArgument for `name`.
    """
    if name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidArgument(f"{name!r} cannot be the name of a copy")
    work = _Copying(namespace, target_dir_fd, preserve, ownership, replace, progress)
    try:
        work.run(node, name)
    except OSError as error:
        if isinstance(error, GuestkitError):
            raise
        raise host_error(error, os.fsdecode(error.filename or work.path or name)) from None
    return work.report


def copy_data(source: Source, fd: int, size: int, tell: Callable[[int], None] | None = None) -> None:
    """Write the bytes of `source` to the empty regular host file `fd`, holes as holes; `tell` gets byte counts.

    Raises: as Source.read_into; OSError of the host for writing.
    """
    os.ftruncate(fd, size)
    if isinstance(source, Resolved):  # its windows would make many steps of one huge hole
        source = source.source
    for extent in source.extents(0, size):
        if extent.source is not None:
            _copy_extent(extent, fd, tell)
        elif tell is not None:
            tell(extent.length)


def _copy_extent(extent: Extent, fd: int, tell: Callable[[int], None] | None) -> None:
    leaf, at, end = extent.source, extent.offset, extent.offset + extent.length
    assert leaf is not None
    shift = extent.source_offset - at
    while isinstance(leaf, FileSource) and at < end:
        try:
            done = os.copy_file_range(leaf.fd, fd, min(end - at, _SPAN), at + shift, at)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
            break
        if done == 0:  # some kernels cannot from this file, and then it may be its end: reading will tell
            break
        at += done
        if tell is not None:
            tell(done)
    if at == end:
        return
    buf = memoryview(bytearray(min(_PIECE, end - at)))
    while at < end:
        part = buf[: min(_PIECE, end - at)]
        leaf.read_into(at + shift, part)
        _write_all(fd, part, at)
        at += len(part)
        if tell is not None:
            tell(len(part))


def _write_all(fd: int, data: memoryview | bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view = view[done:]
        offset += done


class _Frame:
    """A directory that is being filled."""

    __slots__ = ("entries", "fd", "made", "name", "node", "owned", "path", "seen", "status")

    def __init__(
        self,
        node: int,
        fd: int,
        name: bytes,
        path: bytes,
        status: Stat,
        entries: Iterator[Entry],
        *,
        owned: bool,
        made: bool,
    ) -> None:
        self.node = node
        self.fd = fd
        self.name = name
        self.path = path
        self.status = status
        self.entries = entries
        self.owned = owned  # the descriptor is ours to close
        self.made = made  # this run made the directory
        # what is there in a directory that we made, we put there; elsewhere names must be remembered
        self.seen: set[bytes] = set()


class _Copying:
    def __init__(
        self,
        namespace: Namespace,
        target: int,
        preserve: bool,
        ownership: bool,
        replace: bool,
        progress: Progress | None,
    ) -> None:
        self.namespace = namespace
        self.target = target
        self.preserve = preserve
        self.ownership = ownership
        self.replace = replace
        self.progress = progress
        self.report = CopyReport()
        self.path = b""
        self._entered: set[int] = set()
        self._linked: dict[int, tuple[bytes, tuple[int, ...]]] = {}  # node -> path below the target, _identity

    def run(self, node: int, name: bytes) -> None:
        status = self.namespace.stat(node)
        stack: list[_Frame] = []
        try:
            if name:
                self._one(stack, self.target, False, node, name, name, status)
            else:
                entries = self.namespace.scan_stat(node)
                stack.append(_Frame(node, self.target, b"", b"", status, entries, owned=False, made=False))
                self._entered.add(node)
            while stack:
                self._step(stack)
        finally:
            for frame in stack:
                if frame.owned:
                    os.close(frame.fd)

    def _step(self, stack: list[_Frame]) -> None:
        frame = stack[-1]
        try:
            entry = next(frame.entries, None)
        except GuestkitError as error:
            self.report.leave_out(frame.path, str(error))
            entry = None
        if entry is None:
            self._leave(stack.pop())
            return
        name = entry.name
        path = frame.path + b"/" + name if frame.path else name
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            self.report.leave_out(path, "a name that no directory can hold")
            return
        if not frame.made:
            if name in frame.seen:
                self.report.leave_out(path, "a second entry of that name")
                return
            frame.seen.add(name)
        try:
            status = entry.stat or self.namespace.stat(entry.node)
        except GuestkitError as error:
            self.report.leave_out(path, str(error))
            return
        self._one(stack, frame.fd, frame.made, entry.node, name, path, status)

    def _one(self, stack: list[_Frame], fd: int, made: bool, node: int, name: bytes, path: bytes, status: Stat) -> None:
        """Copy one name into the directory `fd`; a directory is opened and put on the stack."""
        self.path = path
        kind = stat.S_IFMT(status.mode)
        try:
            if kind == stat.S_IFDIR:
                self._enter(stack, fd, made, node, name, path, status)
            elif kind == stat.S_IFREG:
                self._file(fd, made, node, name, path, status)
            elif kind == stat.S_IFLNK:
                target = self.namespace.readlink(node)
                self._make_way(fd, made, name)
                os.symlink(target, name, dir_fd=fd)
                self._finish_link(fd, name, status)
                self.report.links += 1
            else:
                self.report.leave_out(path, f"{_TYPES.get(kind, 'a socket')} is not copied", special=True)
        except GuestkitError as error:
            self.report.leave_out(path, str(error))
        except (OverflowError, ValueError) as error:  # a time or an id that the host's calls cannot take
            self.report.leave_out(path, str(error))
        except OSError as error:
            if error.errno not in _OF_ONE_NAME:
                raise
            reason = "exists already" if error.errno == errno.EEXIST else (error.strerror or str(error))
            self.report.leave_out(path, reason)

    def _make_way(self, fd: int, made: bool, name: bytes) -> None:
        """Remove what is not a directory and was there before, when that was asked for."""
        if not self.replace or made:
            return
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            pass

    # directories

    def _enter(
        self, stack: list[_Frame], fd: int, made: bool, node: int, name: bytes, path: bytes, status: Stat
    ) -> None:
        if node in self._entered:
            raise Corrupt("a directory that was copied already under another name")
        if len(stack) >= _MOST_DEPTH:
            raise InvalidArgument(f"deeper than {_MOST_DEPTH} directories; copy it by itself")
        entries = self.namespace.scan_stat(node)
        fresh = True
        try:
            os.mkdir(name, (status.mode & 0o777) | 0o700, dir_fd=fd)
        except FileExistsError:
            if not self.replace or made:
                raise
            fresh = False
        own = os.open(name, _DIRECTORY, dir_fd=fd)
        self._entered.add(node)
        self.report.directories += 1
        stack.append(_Frame(node, own, name, path, status, entries, owned=True, made=fresh))

    def _leave(self, frame: _Frame) -> None:
        """Give a directory that is complete its permissions and times."""
        try:
            if frame.made:
                self._finish(frame.fd, frame.status)
        except (OverflowError, ValueError) as error:
            self.report.leave_out(frame.path, str(error))
        except OSError as error:
            if error.errno not in _OF_ONE_NAME:
                raise
            self.report.leave_out(frame.path, error.strerror or str(error))
        finally:
            if frame.owned:
                os.close(frame.fd)

    # files

    def _file(self, fd: int, made: bool, node: int, name: bytes, path: bytes, status: Stat) -> None:
        if status.nlink > 1 and self._link_again(fd, made, node, name):
            self.report.files += 1
            return
        source = self.namespace.open(node)
        if self.progress is not None:
            self.progress(0, path)
        self._make_way(fd, made, name)
        out = os.open(name, _CREATE, status.mode & 0o777, dir_fd=fd)
        try:
            self._write(source, out, path, status)
            self._finish(out, status)
            if status.nlink > 1 and len(self._linked) < _MOST_LINKED:
                self._linked[node] = (path, _identity(os.fstat(out)))
        except BaseException:
            os.unlink(name, dir_fd=fd)
            raise
        finally:
            os.close(out)
        self.report.files += 1

    def _write(self, source: Source, out: int, path: bytes, status: Stat) -> None:
        size = source.size
        if size <= _SMALL and status.blocks * 512 >= size:
            _write_all(out, source.read(0, size), 0)
            self._tell(size, path)
        else:
            copy_data(source, out, size, lambda count: self._tell(count, path))

    def _tell(self, count: int, path: bytes) -> None:
        self.report.size += count
        if self.progress is not None:
            self.progress(count, path)

    def _link_again(self, fd: int, made: bool, node: int, name: bytes) -> bool:
        """Link a further name to the copy made under the first one, if that still stands where it was put."""
        known = self._linked.get(node)
        if known is None:
            return False
        path, identity = known
        *above, last = path.split(b"/")
        directory = os.dup(self.target)
        try:
            for part in above:
                below = os.open(part, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = below
            if _identity(os.stat(last, dir_fd=directory, follow_symlinks=False)) != identity:
                return False
            self._make_way(fd, made, name)
            os.link(last, name, src_dir_fd=directory, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EACCES):
                return False  # a copy serves as well
            raise
        finally:
            os.close(directory)
        return True

    # permissions, times, owners

    def _finish(self, fd: int, status: Stat) -> None:
        if self.ownership:
            os.fchown(fd, status.uid, status.gid)
        if self.preserve:
            os.fchmod(fd, status.mode & 0o777)
            os.utime(fd, ns=(status.atime_ns, status.mtime_ns))
        elif status.mode & 0o700 != 0o700 and stat.S_ISDIR(status.mode):
            # made with all rights of the owner so that it could be filled; the umask has done the rest
            os.fchmod(fd, os.fstat(fd).st_mode & 0o777 & (status.mode | 0o077))

    def _finish_link(self, fd: int, name: bytes, status: Stat) -> None:
        if self.ownership:
            os.chown(name, status.uid, status.gid, dir_fd=fd, follow_symlinks=False)
        if self.preserve:
            os.utime(name, ns=(status.atime_ns, status.mtime_ns), dir_fd=fd, follow_symlinks=False)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file that we wrote from another one put in its place, whose inode number may be the same."""
    return (status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)


def open_directory(path: str | bytes) -> int:
    """Open a host directory that the user named as a target; links in `path` are the user's own and followed.

    Raises: NotFound, AccessRefused, SourceError.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        raise SourceError("is not a directory", where=os.fsdecode(path)) from None
    except OSError as error:
        raise host_error(error, os.fsdecode(path)) from None
