"""Reading files and directories whole: cat, read_file, pread, ls, ll, readdir, readlink, realpath."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Any

from guestkit.errors import InvalidArgument, IsADirectory, NotADirectory, NotFound
from guestkit.guestfs.call import Device, FileOut, Pathname, StringList, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle
from guestkit.guestfs.transfer import Sink
from guestkit.namespace import Entry, fold_name
from guestkit.source import Source

_LETTERS = {1: "f", 2: "c", 4: "d", 6: "b", 8: "r", 10: "l", 12: "s"}
_SIX_MONTHS = 31556952 // 2  # seconds, as ls counts them
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


class Files(Handle):
    @api("download", syscall="path")
    def read_file(self, path: Pathname) -> bytes:
        """A whole file as bytes. Raises: GuestfsError."""
        return self._content(path)

    @api("download", syscall="path")
    def cat(self, path: Pathname) -> str:
        """A whole file as text, up to the first NUL. Raises: GuestfsError; UnicodeDecodeError."""
        return self._content(path).partition(b"\0")[0].decode()

    @api("download", syscall="path")
    def read_lines(self, path: Pathname) -> list[str]:
        """A file's lines without their ends. Raises: GuestfsError; UnicodeDecodeError."""
        return [line.removesuffix("\r") for line in _lines(self._content(path).decode())]

    def _content(self, path: str) -> bytes:
        try:
            return self._read(path)
        except IsADirectory:
            raise Failure(f"{path}: is a directory", errno.EISDIR) from None

    @api()
    def pread(self, path: Pathname, count: int, offset: int) -> bytes:
        """At most `count` bytes of a file from byte `offset`. Raises: GuestfsError."""
        return _piece(self._open(path), count, offset)

    @api()
    def pread_device(self, device: Device, count: int, offset: int) -> bytes:
        """At most `count` bytes of a device from byte `offset`. Raises: GuestfsError."""
        return _piece(self._source(self._device(device)), count, offset)

    @api("ls0", syscall="opendir: path")
    def ls(self, directory: Pathname) -> list[str]:
        """The names in a directory, sorted, without "." and "..". Raises: GuestfsError; UnicodeDecodeError."""
        return [name.decode() for name in sorted(self._list(directory))]

    @api(syscall="opendir: path")
    def ls0(self, dir: Pathname, filenames: FileOut) -> None:
        """Write a directory's names, each with a NUL behind it, to a host file. Raises: GuestfsError."""
        names = sorted(self._list(dir))
        with Sink(self, filenames) as sink:
            sink.write(b"".join(name + b"\0" for name in names))

    def _list(self, directory: str) -> list[bytes]:
        node = self._node(directory)
        return [entry.name for entry in self._table.scan(node)]

    @api("internal_readdir", syscall="path")
    def readdir(self, dir: Pathname) -> list[dict[str, Any]]:
        """A directory's entries as the filesystem keeps them, "." and ".." first: ino, ftyp, name.

        Raises: GuestfsError; UnicodeDecodeError.
        """
        node = self._node(dir)
        table = self._table
        found = [
            {"ino": table.stat(node).ino, "ftyp": "d", "name": "."},
            {"ino": table.stat(table.parent(node)).ino, "ftyp": "d", "name": ".."},
        ]
        for entry in table.scan_stat(node):
            ino = entry.stat.ino if entry.stat is not None else 0
            found.append({"ino": ino, "ftyp": _LETTERS.get(entry.type, "u"), "name": entry.name.decode()})
        return found

    @api(syscall="path")
    def ll(self, directory: Pathname) -> str:
        """What `ls -la` prints of a directory, with numbers for owners. Raises: GuestfsError."""
        table = self._table
        node = self._node(directory)
        status = table.stat(node)
        entries = [Entry(_name(directory), node, 0, 0, status)]
        if stat.S_ISDIR(status.mode):
            above = table.parent(node)
            entries = [Entry(b".", node, 4, 0, status), Entry(b"..", above, 4, 0, table.stat(above))]
            entries += sorted(table.scan_stat(node), key=lambda entry: entry.name)
        rows = [(_row(entry), _shown(self, entry)) for entry in entries]
        blocks = sum(entry.stat.blocks for entry in entries if entry.stat is not None) // 2
        widths = [max(len(row[column]) for row, _ in rows) for column in range(5)]
        lines = [f"total {blocks}"] if stat.S_ISDIR(status.mode) else []
        for row, name in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:2], widths[1:2], strict=True)]
            cells += [cell.ljust(width) for cell, width in zip(row[2:4], widths[2:4], strict=True)]
            cells.append(row[4].rjust(widths[4]))
            lines.append(" ".join([*cells, row[5], name]))
        return "\n".join(lines) + "\n"

    @api(syscall="path")
    def readlink(self, path: Pathname) -> str:
        """A link's target. Raises: GuestfsError (EINVAL when it is no link); UnicodeDecodeError."""
        return self._table.readlink(self._node(path, follow=False)).decode()

    @api("internal_readlinklist", syscall="path")
    def readlinklist(self, path: Pathname, names: StringList) -> list[str]:
        """The targets of links in a directory, "" for what is no link. Raises: GuestfsError."""
        directory = self._node(path)
        found = []
        for name in self._names(list(names)):
            try:
                found.append(self._table.readlink(self._child(directory, name)).decode())
            except (NotFound, NotADirectory, InvalidArgument):
                found.append("")
        return found

    @api(syscall="path")
    def realpath(self, path: Pathname) -> str:
        """The absolute path with every link resolved inside the guest. Raises: GuestfsError (ENOENT, ELOOP)."""
        return self._real(self._need_root(path)).decode()

    @api(syscall="path")
    def case_sensitive_path(self, path: Pathname) -> str:
        """The path as the filesystem spells it, found without regard to case; the last name may be missing.

        Raises: GuestfsError when another one is.
        """
        table = self._table
        node = table.resolve(self._need_root(path) and b"/")
        parts = [part for part in path.split("/") if part]
        found: list[str] = []
        for index, part in enumerate(parts):
            if part in (".", ".."):
                raise Failure(f"path contained {part} elements", errno.EINVAL)
            wanted = fold_name(part.encode())
            names = sorted(entry.name for entry in table.scan(node))
            exact = part.encode()
            match = exact if exact in names else next((name for name in names if fold_name(name) == wanted), None)
            if match is None:
                if index < len(parts) - 1:
                    raise Failure(f"{part}: not found", errno.ENOENT)
                found.append(part)
                break
            found.append(match.decode())
            if index < len(parts) - 1 or path.endswith("/"):
                node = table.resolve(("/" + "/".join(found) + "/").encode())
        return "/" + "/".join(found)


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def _piece(source: Source, count: int, offset: int) -> bytes:
    if count < 0:
        raise Failure("count is negative", errno.EINVAL)
    if offset < 0:
        raise Failure("offset is negative", errno.EINVAL)
    return source.read(offset, min(count, source.size - offset)) if offset < source.size else b""


def _name(path: str) -> bytes:
    return path.encode()


def _row(entry: Entry) -> tuple[str, str, str, str, str, str]:
    """Mode, links, user, group, size, time."""
    status = entry.stat
    if status is None:
        return "??????????", "?", "?", "?", "?", "           ?"
    if stat.S_ISCHR(status.mode) or stat.S_ISBLK(status.mode):
        size = f"{os.major(status.rdev)}, {os.minor(status.rdev)}"
    else:
        size = str(status.size)
    seconds = status.mtime_ns // 1_000_000_000
    try:
        when = time.gmtime(seconds)
        clock = (
            f"{when.tm_hour:02}:{when.tm_min:02}" if 0 <= time.time() - seconds < _SIX_MONTHS else f" {when.tm_year:04}"
        )
        text = f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2} {clock}"
    except (OverflowError, ValueError, OSError):  # beyond what the host's calendar counts
        text = str(seconds)
    return stat.filemode(status.mode), str(status.nlink), str(status.uid), str(status.gid), size, text


def _shown(handle: Handle, entry: Entry) -> str:
    name = entry.name.decode()
    if entry.stat is not None and stat.S_ISLNK(entry.stat.mode):
        return f"{name} -> {handle._table.readlink(entry.node).decode()}"
    return name
