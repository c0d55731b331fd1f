"""find and glob_expand. Patterns are matched on bytes, by this module: nothing of the host is looked at."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator

from guestkit.errors import LinkLoop, NotADirectory, NotFound
from guestkit.guestfs.call import FileOut, Pathname, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle
from guestkit.guestfs.transfer import Sink

_MOST_BRACES = 10_000  # patterns that one with braces may stand for
_BATCH = 1 << 16
_MAGIC = b"*?["


class Search(Handle):
    @api("find0", syscall="path")
    def find(self, directory: Pathname) -> list[str]:
        """Every name below a directory, relative to it, sorted; links are not followed.

        Raises: GuestfsError; UnicodeDecodeError.
        """
        return [path.decode() for path in sorted(self._below(directory))]

    @api(syscall="path")
    def find0(self, directory: Pathname, files: FileOut) -> None:
        """Write every name below a directory, each with a NUL behind it, to a host file. Raises: GuestfsError."""
        paths = self._below(directory)
        with Sink(self, files) as sink:
            batch = bytearray()
            for path in paths:
                batch += path + b"\0"
                if len(batch) > _BATCH:
                    sink.write(batch)
                    batch = bytearray()
            sink.write(batch)

    def _below(self, directory: str) -> Iterator[bytes]:
        table = self._table
        node = self._node(directory)
        if not stat.S_ISDIR(table.stat(node).mode):
            raise Failure(f"{directory}: not a directory", errno.ENOTDIR)
        return (path for path, _, _ in self._walk(node))

    @api(syscall="path")
    def glob_expand(self, pattern: Pathname, directoryslash: bool | None = None) -> list[str]:
        """The paths that match a shell pattern with * ? [...] {a,b}, sorted; directories end in "/" by default.

        Raises: GuestfsError; UnicodeDecodeError.
        """
        text = self._need_root(pattern)
        slash = directoryslash is None or bool(directoryslash)
        found: set[bytes] = set()
        for each in expand_braces(text):
            found.update(self._glob(each, slash))
        return [path.decode() for path in sorted(found)]

    glob_expand_opts = glob_expand

    def _glob(self, pattern: bytes, slash: bool) -> Iterator[bytes]:
        table = self._table
        parts = [part for part in pattern.split(b"/") if part]
        directory_only = pattern.endswith(b"/")
        paths: list[tuple[bytes, int]] = [(b"", table.root)]
        for part in parts:
            found: list[tuple[bytes, int]] = []
            for path, node in paths:
                found.extend(self._step(path, node, part))
            paths = found
        for path, _ in paths:
            try:
                directory = stat.S_ISDIR(table.stat(table.resolve(path or b"/")).mode)
            except (NotFound, NotADirectory, LinkLoop):  # a dangling link is a match like any other
                directory = False
            if directory_only and not directory:
                continue
            yield path + b"/" if directory and (slash or directory_only) and path else path or b"/"

    def _step(self, path: bytes, node: int, part: bytes) -> Iterator[tuple[bytes, int]]:
        """The matches of one component in the directory `path`."""
        table = self._table
        try:
            here = table.resolve(path + b"/")
        except (NotFound, NotADirectory):
            return
        if not any(byte in _MAGIC for byte in part):
            name = part.replace(b"\\", b"")
            try:
                yield path + b"/" + name, table.resolve(path + b"/" + name, follow=False)
            except (NotFound, NotADirectory):
                pass
            return
        for entry in table.scan(here):
            if (entry.name[:1] != b"." or part[:1] == b".") and matches(part, entry.name):
                yield path + b"/" + entry.name, entry.node


def expand_braces(pattern: bytes) -> list[bytes]:
    """The patterns that one with {a,b} stands for; braces may nest. Raises: Failure when there are too many."""
    done: list[bytes] = []
    pending = [pattern]
    while pending:
        each = pending.pop()
        span = _brace(each)
        if span is None:
            done.append(each)
        else:
            start, ends = span
            tail = each[ends[-1] + 1 :]
            begin = start + 1
            for end in ends:
                pending.append(each[:start] + each[begin:end] + tail)
                begin = end + 1
        if len(done) + len(pending) > _MOST_BRACES:
            raise Failure("pattern has too many alternatives", errno.E2BIG)
    return done


def _brace(pattern: bytes) -> tuple[int, list[int]] | None:
    """Where the first {...} with a partner begins, and where its commas and its end are."""
    for start in range(len(pattern)):
        if pattern[start : start + 1] != b"{" or pattern[start : start + 2] == b"{}":
            continue
        depth = 0
        ends: list[int] = []
        index = start
        while index < len(pattern):
            char = pattern[index : index + 1]
            if char == b"\\":
                index += 1
            elif char == b"{":
                depth += 1
            elif char == b"}":
                depth -= 1
                if depth == 0:
                    return start, [*ends, index]
            elif char == b"," and depth == 1:
                ends.append(index)
            index += 1
        return None
    return None


def matches(pattern: bytes, name: bytes) -> bool:
    """Whether a shell pattern matches all of `name`; time is at most the product of the lengths."""
    at = here = 0
    star = mark = -1
    while here < len(name):
        end = -1
        if at < len(pattern):
            char = pattern[at : at + 1]
            if char == b"*":
                star, mark = at, here
                at += 1
                continue
            end = _one(pattern, at, name[here])
        if end >= 0:
            at = end
            here += 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return not pattern[at:].strip(b"*")


def _one(pattern: bytes, at: int, byte: int) -> int:
    """The place behind the pattern's item at `at` when it matches `byte`, else -1."""
    char = pattern[at : at + 1]
    if char == b"?":
        return at + 1
    if char == b"\\" and at + 1 < len(pattern):
        return at + 2 if pattern[at + 1] == byte else -1
    if char == b"[":
        found = bracket(pattern, at)
        if found is not None:
            members, end = found
            return end if byte in members else -1
    return at + 1 if pattern[at] == byte else -1


_CLASSES: dict[bytes, Callable[[int], bool]] = {
    b"alpha": lambda byte: chr(byte).isalpha(),
    b"digit": lambda byte: chr(byte).isdigit(),
    b"alnum": lambda byte: chr(byte).isalnum(),
    b"upper": lambda byte: chr(byte).isupper(),
    b"lower": lambda byte: chr(byte).islower(),
    b"space": lambda byte: byte == 32 or 9 <= byte <= 13,
    b"blank": lambda byte: byte in (9, 32),
    b"punct": lambda byte: 32 < byte < 127 and not chr(byte).isalnum(),
    b"print": lambda byte: 32 <= byte < 127,
    b"graph": lambda byte: 32 < byte < 127,
    b"cntrl": lambda byte: byte < 32 or byte == 127,
    b"xdigit": lambda byte: chr(byte) in "0123456789abcdefABCDEF",
}


def bracket(
    pattern: bytes, at: int, negators: bytes = b"!^", escapes: bool = True
) -> tuple[frozenset[int], int] | None:
    """The bytes that the [...] at `at` stands for and the place behind it; None when it has no end."""
    at += 1
    negated = pattern[at : at + 1] != b"" and pattern[at : at + 1] in negators
    at += negated
    members: set[int] = set()
    first = True
    while True:
        if at >= len(pattern):
            return None
        if pattern[at : at + 1] == b"]" and not first:
            break
        first = False
        if pattern[at : at + 2] == b"[:":
            end = pattern.find(b":]", at + 2)
            if end < 0:
                return None
            test = _CLASSES.get(pattern[at + 2 : end])
            if test is None:
                return None
            members.update(byte for byte in range(128) if test(byte))
            at = end + 2
            continue
        low, at = _element(pattern, at, escapes)
        if pattern[at : at + 1] == b"-" and pattern[at + 1 : at + 2] not in (b"]", b""):
            high, at = _element(pattern, at + 1, escapes)
            members.update(range(low, high + 1))
        else:
            members.add(low)
    if negated:
        members = set(range(256)) - members
    return frozenset(members), at + 1


def _element(pattern: bytes, at: int, escapes: bool) -> tuple[int, int]:
    """One end of a range: a byte, [.x.] or [=x=]; and the place behind it."""
    opener = pattern[at : at + 2]
    if opener in (b"[.", b"[=") and pattern[at + 3 : at + 5] == opener[1:] + b"]":
        return pattern[at + 2], at + 5
    if escapes and opener[:1] == b"\\" and at + 1 < len(pattern):
        return pattern[at + 1], at + 2
    return pattern[at], at + 1
