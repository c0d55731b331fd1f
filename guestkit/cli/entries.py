"""Commands that name files: ls, find, tree, stat."""

from __future__ import annotations

import os
import stat
import time
from argparse import Namespace as Arguments
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from guestkit.cli.hints import describe
from guestkit.cli.output import JsonList, Output, complain, escape
from guestkit.cli.view import View
from guestkit.errors import GuestkitError, LinkLoop
from guestkit.fs.base import DT_REG, Stat
from guestkit.namespace import Entry, Namespace, stream_node

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_LETTERS = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}
_DT_LETTERS = {1: "p", 2: "c", 4: "d", 6: "b", 8: "-", 10: "l", 12: "s"}
_NANO = 1_000_000_000
_LONGEST_PATH = 16_384  # of a listing that descends; a deeper place can be named by itself


def local_time(time_ns: int, form: str) -> str:
    """A time in the caller's zone; the seconds where no calendar reaches."""
    try:
        return time.strftime(form, time.localtime(time_ns // _NANO))
    except (ValueError, OverflowError, OSError):
        return f"@{time_ns // _NANO}"


def facts(
    path: bytes, status: Stat | None, target: bytes | None = None, streams: Sequence[tuple[bytes, int]] = ()
) -> dict[str, object]:
    """One name, JSON-ready. Times are nanoseconds since 1970 in UTC; `streams`: (name, size) of named ones."""
    found: dict[str, object] = {"path": path.decode("utf-8", "surrogateescape")}
    if status is None:
        return {**found, "type": "unreadable"}
    found |= {
        "type": _TYPES.get(stat.S_IFMT(status.mode), "unknown"),
        "mode": f"{stat.S_IMODE(status.mode):04o}",
        "inode": status.ino,
        "links": status.nlink,
        "uid": status.uid,
        "gid": status.gid,
        "size": status.size,
        "blocks": status.blocks,
        "atime_ns": status.atime_ns,
        "mtime_ns": status.mtime_ns,
        "ctime_ns": status.ctime_ns,
        "btime_ns": status.btime_ns,
    }
    if stat.S_IFMT(status.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        found["device"] = [os.major(status.rdev), os.minor(status.rdev)]
    if target is not None:
        found["target"] = target.decode("utf-8", "surrogateescape")
    if streams:
        found["streams"] = [{"name": name.decode("utf-8", "surrogateescape"), "size": size} for name, size in streams]
    return found


def link_target(
    namespace: Namespace, node: int, status: Stat | None, failed: Callable[[GuestkitError], None]
) -> bytes | None:
    """Where a link leads; None for anything else, and for a link that is damaged, which `failed` is told."""
    if status is None or not stat.S_ISLNK(status.mode):
        return None
    try:
        return namespace.readlink(node)
    except GuestkitError as error:
        failed(error)
        return None


def named_streams(
    namespace: Namespace, node: int, failed: Callable[[GuestkitError], None]
) -> Sequence[tuple[bytes, int]]:
    """(name, size) of the named streams of a file; none where they cannot be read, which `failed` is told."""
    try:
        return namespace.streams(node)
    except GuestkitError as error:
        failed(error)
        return ()


def entries_of(namespace: Namespace, node: int, failed: list[GuestkitError]) -> list[Entry]:
    """The entries of a directory sorted by name; damage behind which nothing follows is put into `failed`."""
    found: list[Entry] = []
    try:
        found.extend(namespace.scan_stat(node))
    except GuestkitError as error:
        failed.append(error)
    return sorted(found)


# ls


def ls(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit ls"""
    listing = _Listing(arguments, output)
    with JsonList(output) if arguments.json else nullcontext() as listing.documents:
        for text in arguments.paths or ["/"]:
            try:
                listing.show(*view.find(text))
            except GuestkitError as error:
                listing.complain(error)
    return listing.status


class _Listing:
    """What `guestkit ls` prints for its arguments, one after the other."""

    def __init__(self, arguments: Arguments, output: Output) -> None:
        self.arguments = arguments
        self.output = output
        self.documents: JsonList | None = None
        self.status = 0
        self.headings = len(arguments.paths) > 1 or arguments.recursive
        self.printed = False

    def complain(self, error: GuestkitError) -> None:
        complain(describe(error, self.arguments.image))
        self.status = 1

    def about(self, path: bytes) -> Callable[[GuestkitError], None]:
        """Complains of the file at `path`."""
        return lambda error: self.complain(error.within(path.decode("utf-8", "surrogateescape")))

    def show(self, table: Namespace, node: int, path: bytes) -> None:
        found = table.stat(node)
        if self.arguments.directory or not stat.S_ISDIR(found.mode):
            self._print(table, b"", [Entry(path, node, 0, 0, found)])
            return
        pending = [(path, node)]
        entered: set[int] = set()
        while pending:
            path, node = pending.pop()
            if node in entered or len(path) > _LONGEST_PATH:
                self.complain(LinkLoop("a directory inside itself, or too deep", where=escape(path[:255])))
                continue
            entered.add(node)
            failed: list[GuestkitError] = []
            shown = entries_of(table, node, failed)
            if not self.arguments.all:
                shown = [entry for entry in shown if not entry.name.startswith(b".")]
            if self.headings and self.documents is None:
                self.output.write((b"\n" if self.printed else b"") + self.output.name(path) + b":\n")
            self._print(table, path.rstrip(b"/") + b"/", shown)
            for error in failed:
                error.within(path.decode("utf-8", "surrogateescape"))
                self.complain(error)
            if self.arguments.recursive:
                pending.extend(
                    (path.rstrip(b"/") + b"/" + entry.name, entry.node)
                    for entry in reversed(shown)
                    if entry.stat is not None and stat.S_ISDIR(entry.stat.mode)
                )

    def _print(self, table: Namespace, prefix: bytes, shown: list[Entry]) -> None:
        self.printed = True
        if self.documents is None:
            if self.arguments.streams:
                shown = [each for entry in shown for each in self._with_streams(table, prefix, entry)]
            if self.arguments.long:
                _print_long(shown, self._targets(table, prefix, shown), self.output, self.arguments.print0)
            else:
                _print_entries(shown, self.arguments, self.output)
            return
        for entry in shown:
            about = self.about(prefix + entry.name)
            target = link_target(table, entry.node, entry.stat, about)
            streams = named_streams(table, entry.node, about) if self.arguments.streams else ()
            self.documents.add(facts(prefix + entry.name, entry.stat, target, streams))

    def _targets(self, table: Namespace, prefix: bytes, shown: list[Entry]) -> list[bytes | None]:
        return [link_target(table, each.node, each.stat, self.about(prefix + each.name)) for each in shown]

    def _with_streams(self, table: Namespace, prefix: bytes, entry: Entry) -> Iterator[Entry]:
        """An entry, and its named streams under the names by which they can be read."""
        yield entry
        for name, _ in named_streams(table, entry.node, self.about(prefix + entry.name)):
            node = stream_node(entry.node, name)
            status = None
            try:
                status = table.stat(node)
            except GuestkitError as error:
                self.about(prefix + entry.name + b":" + name)(error)
            yield Entry(entry.name + b":" + name, node, DT_REG, 0, status)


def _print_entries(shown: list[Entry], arguments: Arguments, output: Output) -> None:
    if arguments.print0:
        for entry in shown:
            output.write(entry.name + b"\0")
    elif output.terminal and not arguments.one:
        _print_columns([escape(entry.name) for entry in shown], output)
    else:
        for entry in shown:
            output.write(output.name(entry.name) + b"\n")


def _print_long(shown: list[Entry], targets: list[bytes | None], output: Output, print0: bool) -> None:
    rows = []
    end = b"\0" if print0 else b"\n"
    for entry in shown:
        found = entry.stat
        if found is None:
            rows.append((_DT_LETTERS.get(entry.type, "?") + "?????????", "?", "?", "?", "?", "?"))
            continue
        if stat.S_IFMT(found.mode) in (stat.S_IFCHR, stat.S_IFBLK):
            size = f"{os.major(found.rdev)}, {os.minor(found.rdev)}"
        else:
            size = str(found.size)
        when = local_time(found.mtime_ns, "%Y-%m-%d %H:%M")
        rows.append((stat.filemode(found.mode), str(found.nlink), str(found.uid), str(found.gid), size, when))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(6)]
    for row, entry, target in zip(rows, shown, targets, strict=True):
        cells = " ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        line = output.text(cells) + b" " + output.name(entry.name)
        if target is not None:
            line += b" -> " + output.name(target)
        output.write(line + end)


def _print_columns(names: list[str], output: Output) -> None:
    import shutil

    if not names:
        return
    width = max(len(name) for name in names) + 2
    columns = max(1, shutil.get_terminal_size().columns // width)
    rows = (len(names) + columns - 1) // columns
    for row in range(rows):
        line = "".join(name.ljust(width) for name in names[row::rows])
        output.write(output.text(line.rstrip()) + b"\n")


# find


def find(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit find"""
    import fnmatch

    table, top, path = view.find(arguments.path)
    kinds = None
    if arguments.type is not None:
        kinds = {_LETTERS[letter] for letter in arguments.type.split(",")}
    match = None
    if arguments.name is not None:
        import re

        pattern = fnmatch.translate(arguments.name).encode("utf-8", "surrogateescape")
        match = re.compile(pattern).match
    status = 0

    def failed(place: bytes, error: GuestkitError) -> None:
        nonlocal status
        status = 1
        error.within(place.decode("utf-8", "surrogateescape"))
        complain(describe(error, arguments.image))

    with JsonList(output) if arguments.json else nullcontext() as documents:
        for full, node, found in _below(table, top, path, failed):
            if kinds is not None and (found is None or stat.S_IFMT(found.mode) not in kinds):
                continue
            if match is not None and not match(full.rstrip(b"/").rpartition(b"/")[2]):
                continue
            if documents is not None:
                target = link_target(table, node, found, partial(failed, full))
                documents.add(facts(full, found, target))
            elif arguments.print0:
                output.write(full + b"\0")
            else:
                output.write(output.name(full) + b"\n")
    return status


def _below(
    table: Namespace, top: int, path: bytes, failed: Callable[[bytes, GuestkitError], None]
) -> Iterator[tuple[bytes, int, Stat | None]]:
    found = table.stat(top)
    yield path, top, found
    if stat.S_ISDIR(found.mode):
        prefix = path.rstrip(b"/") + b"/"
        for name, node, status in table.walk(top, lambda below, error: failed(prefix + below, error)):
            if status is None:
                try:
                    status = table.stat(node)
                except GuestkitError as error:
                    failed(prefix + name, error)
            yield prefix + name, node, status


# tree


def tree(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit tree"""
    table, top, path = view.find(arguments.path)
    status = directories = others = 0
    above: set[int] = {top}

    def failed(path: bytes, error: GuestkitError) -> None:
        nonlocal status
        error.within(path.decode("utf-8", "surrogateescape"))
        complain(describe(error, arguments.image))
        status = 1

    def below(node: int, path: bytes) -> list[Entry]:
        errors: list[GuestkitError] = []
        found = entries_of(table, node, errors)
        for error in errors:
            failed(path, error)
        return [entry for entry in reversed(found) if arguments.all or not entry.name.startswith(b".")]

    # (entries still to show, what stands before them, the directory's path and node)
    stack = [(below(top, path), "", path.rstrip(b"/"), top)]
    with JsonList(output) if arguments.json else nullcontext() as documents:
        if documents is None:
            output.write(output.name(path) + b"\n")
        while stack:
            entries, before, prefix, node = stack[-1]
            if not entries:
                stack.pop()
                above.discard(node)
                continue
            entry = entries.pop()
            is_directory = entry.stat is not None and stat.S_ISDIR(entry.stat.mode)
            directories += is_directory
            others += not is_directory
            here = prefix + b"/" + entry.name
            target = link_target(table, entry.node, entry.stat, partial(failed, here))
            if documents is not None:
                documents.add(facts(here, entry.stat, target))
            else:
                line = output.text(before + ("|-- " if entries else "`-- ")) + output.name(entry.name)
                output.write(line + (b" -> " + output.name(target) if target is not None else b"") + b"\n")
            if not is_directory or (arguments.level is not None and len(stack) >= arguments.level):
                continue
            if entry.node in above or len(here) > _LONGEST_PATH:
                complain(f"{arguments.image}: {escape(here[:255])}: a directory inside itself, or too deep")
                status = 1
                continue
            above.add(entry.node)
            stack.append((below(entry.node, here), before + ("|   " if entries else "    "), here, entry.node))
    if not arguments.json:
        output.line()
        output.line(f"{directories} directories, {others} files")
    return status


# stat


def stat_command(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit stat"""
    status = 0

    def failed(error: GuestkitError) -> None:
        nonlocal status
        complain(describe(error, arguments.image))
        status = 1

    with JsonList(output) if arguments.json else nullcontext() as documents:
        for text in arguments.paths:
            try:
                table, node, path = view.find(text, follow=arguments.dereference)
                found = table.stat(node)
            except GuestkitError as error:
                failed(error)
                continue
            target = link_target(table, node, found, failed)
            streams = named_streams(table, node, failed)
            if documents is not None:
                documents.add(facts(path, found, target, streams))
            else:
                for line in _stat_lines(path, found, target):
                    output.line(line)
                for name, size in streams:
                    output.line(f"Stream: {escape(name)} ({size} bytes)")
    return status


def _stat_lines(path: bytes, found: Stat, target: bytes | None) -> Iterator[str]:
    yield f"  File: {escape(path)}" + (f" -> {escape(target)}" if target is not None else "")
    kind = _TYPES.get(stat.S_IFMT(found.mode), "unknown")
    yield f"  Size: {found.size:<12} Blocks: {found.blocks:<10} IO Block: {found.blksize:<6} {kind}"
    inode = f" Inode: {found.ino:<12} Links: {found.nlink}"
    if stat.S_IFMT(found.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        inode += f"     Device type: {os.major(found.rdev)},{os.minor(found.rdev)}"
    yield inode
    mode = f"{stat.S_IMODE(found.mode):04o}/{stat.filemode(found.mode)}"
    yield f"Access: ({mode})  Uid: {found.uid}  Gid: {found.gid}"
    yield f"Access: {_full_time(found.atime_ns)}"
    yield f"Modify: {_full_time(found.mtime_ns)}"
    yield f"Change: {_full_time(found.ctime_ns)}"
    yield f" Birth: {_full_time(found.btime_ns)}"


def _full_time(when: int | None) -> str:
    if when is None:
        return "-"
    text = local_time(when, "%Y-%m-%d %H:%M:%S")
    zone = local_time(when, " %z")
    return f"{text}.{when % _NANO:09}" + (zone if not text.startswith("@") else "")
