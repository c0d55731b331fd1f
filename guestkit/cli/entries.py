"""Commands that name files: ls, find, tree, stat."""

from __future__ import annotations

import os
import stat
import time
from argparse import Namespace as Arguments
from collections.abc import Iterator

from guestkit.cli.output import JsonList, Output, complain, escape
from guestkit.cli.view import View, describe
from guestkit.errors import GuestkitError
from guestkit.fs.base import Stat
from guestkit.namespace import Entry, Namespace

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


def local_time(time_ns: int, form: str) -> str:
    """A time in the caller's zone; the seconds where no calendar reaches."""
    try:
        return time.strftime(form, time.localtime(time_ns // _NANO))
    except (ValueError, OverflowError, OSError):
        return f"@{time_ns // _NANO}"


def facts(path: bytes, status: Stat | None, target: bytes | None = None) -> dict[str, object]:
    """One name, JSON-ready. Times are ISO 8601 in UTC with nanoseconds beside."""
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
    return found


def link_target(namespace: Namespace, node: int, status: Stat | None) -> bytes | None:
    """Where a link leads; None for anything else, and for a link that is damaged."""
    if status is None or not stat.S_ISLNK(status.mode):
        return None
    try:
        return namespace.readlink(node)
    except GuestkitError:
        return None


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
    status = 0
    printed = 0
    documents = JsonList(output).__enter__() if arguments.json else None
    several = len(arguments.paths) > 1 or arguments.recursive
    try:
        for text in arguments.paths or ["/"]:
            try:
                table, node, path = view.find(text)
            except GuestkitError as error:
                complain(describe(error, arguments.image))
                status = 1
                continue
            pending = [(path, node)]
            while pending:
                path, node = pending.pop()
                failed: list[GuestkitError] = []
                try:
                    found = table.stat(node)
                    if arguments.directory or not stat.S_ISDIR(found.mode):
                        shown = [Entry(path, node, 0, 0, found)]
                        inner = b""
                    else:
                        shown = entries_of(table, node, failed)
                        inner = path.rstrip(b"/") + b"/"
                except GuestkitError as error:
                    failed.append(error)
                    shown = []
                if not (arguments.all or arguments.directory):
                    shown = [entry for entry in shown if not inner or not entry.name.startswith(b".")]
                if documents is not None:
                    for entry in shown:
                        target = link_target(table, entry.node, entry.stat)
                        documents.add(facts(inner + entry.name, entry.stat, target))
                else:
                    if several and inner:
                        output.write((b"\n" if printed else b"") + output.name(path) + b":\n")
                    printed += 1
                    _print_entries(table, shown, arguments, output)
                for error in failed:
                    complain(describe(error.within(escape(path)), arguments.image))
                    status = 1
                if arguments.recursive and inner:
                    pending.extend(
                        (inner + entry.name, entry.node)
                        for entry in reversed(shown)
                        if entry.stat is not None and stat.S_ISDIR(entry.stat.mode)
                    )
    finally:
        if documents is not None:
            documents.__exit__()
    return status


def _print_entries(table: Namespace, shown: list[Entry], arguments: Arguments, output: Output) -> None:
    if arguments.long:
        _print_long(table, shown, output, b"\0" if arguments.print0 else b"\n")
    elif arguments.print0:
        for entry in shown:
            output.write(entry.name + b"\0")
    elif output.terminal and not arguments.one:
        _print_columns([escape(entry.name) for entry in shown], output)
    else:
        for entry in shown:
            output.write(output.name(entry.name) + b"\n")


def _print_long(table: Namespace, shown: list[Entry], output: Output, end: bytes) -> None:
    rows = []
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
    for row, entry in zip(rows, shown, strict=True):
        cells = " ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        line = output.text(cells) + b" " + output.name(entry.name)
        target = link_target(table, entry.node, entry.stat)
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
    documents = JsonList(output).__enter__() if arguments.json else None
    end = b"\0" if arguments.print0 else b"\n"
    try:
        for full, node, found in _below(table, top, path):
            if kinds is not None and (found is None or stat.S_IFMT(found.mode) not in kinds):
                continue
            if match is not None and not match(full.rstrip(b"/").rpartition(b"/")[2]):
                continue
            if documents is not None:
                documents.add(facts(full, found, link_target(table, node, found)))
            elif arguments.print0:
                output.write(full + end)
            else:
                output.write(output.name(full) + end)
    finally:
        if documents is not None:
            documents.__exit__()
    return 0


def _below(table: Namespace, top: int, path: bytes) -> Iterator[tuple[bytes, int, Stat | None]]:
    found = table.stat(top)
    yield path, top, found
    if stat.S_ISDIR(found.mode):
        prefix = path.rstrip(b"/") + b"/"
        for name, node, status in table.walk(top):
            yield prefix + name, node, status


# tree


def tree(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit tree"""
    table, top, path = view.find(arguments.path)
    status = directories = others = 0
    documents = JsonList(output).__enter__() if arguments.json else None
    if documents is None:
        output.write(output.name(path) + b"\n")
    above: set[int] = {top}
    # (entries still to show, what stands before them, the directory's path and node)
    failed: list[GuestkitError] = []
    stack = [(entries_of(table, top, failed)[::-1], "", path.rstrip(b"/"), top)]
    try:
        while stack:
            for error in failed:
                complain(describe(error.within(escape(stack[-1][2] or b"/")), arguments.image))
                status = 1
            failed = []
            entries, before, prefix, node = stack[-1]
            if not entries:
                stack.pop()
                above.discard(node)
                continue
            entry = entries.pop()
            if entry.name.startswith(b".") and not arguments.all:
                continue
            is_directory = entry.stat is not None and stat.S_ISDIR(entry.stat.mode)
            directories += is_directory
            others += not is_directory
            here = prefix + b"/" + entry.name
            target = link_target(table, entry.node, entry.stat)
            last = all(rest.name.startswith(b".") and not arguments.all for rest in entries[-1:])
            if documents is not None:
                documents.add(facts(here, entry.stat, target))
            else:
                line = output.text(before + ("`-- " if last else "|-- ")) + output.name(entry.name)
                output.write(line + (b" -> " + output.name(target) if target is not None else b"") + b"\n")
            if is_directory and (arguments.level is None or len(stack) < arguments.level) and entry.node not in above:
                above.add(entry.node)
                below = entries_of(table, entry.node, failed)[::-1]
                stack.append((below, before + ("    " if last else "|   "), here, entry.node))
    finally:
        if documents is not None:
            documents.__exit__()
    if documents is None:
        output.write(b"\n")
        output.line(f"{directories} directories, {others} files")
    return status


# stat


def stat_command(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit stat"""
    status = 0
    documents = JsonList(output).__enter__() if arguments.json else None
    try:
        for text in arguments.paths:
            try:
                table, node, path = view.find(text, follow=arguments.dereference)
                found = table.stat(node)
            except GuestkitError as error:
                complain(describe(error, arguments.image))
                status = 1
                continue
            target = link_target(table, node, found)
            if documents is not None:
                documents.add(facts(path, found, target))
                continue
            name = escape(path) + (f" -> {escape(target)}" if target is not None else "")
            kind = _TYPES.get(stat.S_IFMT(found.mode), "unknown")
            lines = [
                f"  File: {name}",
                f"  Size: {found.size:<12} Blocks: {found.blocks:<10} IO Block: {found.blksize:<6} {kind}",
                f" Inode: {found.ino:<12} Links: {found.nlink}",
                f"Access: ({stat.S_IMODE(found.mode):04o}/{stat.filemode(found.mode)})  "
                f"Uid: {found.uid}  Gid: {found.gid}",
            ]
            if stat.S_IFMT(found.mode) in (stat.S_IFCHR, stat.S_IFBLK):
                lines[2] += f"     Device type: {os.major(found.rdev)},{os.minor(found.rdev)}"
            for label, when in (
                ("Access", found.atime_ns),
                ("Modify", found.mtime_ns),
                ("Change", found.ctime_ns),
                (" Birth", found.btime_ns),
            ):
                lines.append(f"{label}: {_full_time(when)}")
            for line in lines:
                output.line(line)
    finally:
        if documents is not None:
            documents.__exit__()
    return status


def _full_time(when: int | None) -> str:
    if when is None:
        return "-"
    text = local_time(when, "%Y-%m-%d %H:%M:%S")
    zone = local_time(when, " %z")
    return f"{text}.{when % _NANO:09}" + (zone if not text.startswith("@") else "")
