"""grep and its old names."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Iterator

from guestkit.guestfs.call import Pathname, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle
from guestkit.guestfs.regex import BadRegex, Regex
from guestkit.guestfs.transfer import CHUNK
from guestkit.source import Source

_MOST_LINE = 16 << 20  # bytes
_MOST_RESULT = 64 << 20
_MOST_INFLATED = 4 << 30


class Grep(Handle):
    @api(syscall="path")
    def grep(
        self,
        regex: str,
        path: Pathname,
        extended: bool | None = None,
        fixed: bool | None = None,
        insensitive: bool | None = None,
        compressed: bool | None = None,
    ) -> list[str]:
        """The lines of a file that match a POSIX regular expression; [] when none does.

        `compressed`: gzip is undone first. Raises: GuestfsError for a bad expression too; UnicodeDecodeError.
        """
        return self._grep(regex, path, bool(extended), bool(fixed), bool(insensitive), bool(compressed))

    grep_opts = grep

    def _grep(
        self, regex: str, path: str, extended: bool, fixed: bool, insensitive: bool, compressed: bool
    ) -> list[str]:
        if extended and fixed:
            raise Failure("can't use 'extended' and 'fixed' flags at the same time", errno.EINVAL)
        source = self._open(path)
        try:
            search = _matcher(regex.encode(), extended, fixed, insensitive)
            found: list[str] = []
            size = 0
            for line in lines(source, compressed):
                if search(line):
                    size += len(line)
                    if size > _MOST_RESULT:
                        raise Failure(f"{path}: the matching lines are too large to be returned", errno.EFBIG)
                    found.append(line.decode())
        except BadRegex as error:
            raise Failure(f"{regex}: grep: {error}", errno.EINVAL) from None
        return found

    @api(syscall="path", deprecated="grep")
    def egrep(self, regex: str, path: Pathname) -> list[str]:
        """As grep with extended=True."""
        return self._grep(regex, path, True, False, False, False)

    @api(syscall="path", deprecated="grep")
    def fgrep(self, pattern: str, path: Pathname) -> list[str]:
        """As grep with fixed=True."""
        return self._grep(pattern, path, False, True, False, False)

    @api(syscall="path", deprecated="grep")
    def grepi(self, regex: str, path: Pathname) -> list[str]:
        """As grep with insensitive=True."""
        return self._grep(regex, path, False, False, True, False)

    @api(syscall="path", deprecated="grep")
    def egrepi(self, regex: str, path: Pathname) -> list[str]:
        """As grep with extended=True and insensitive=True."""
        return self._grep(regex, path, True, False, True, False)

    @api(syscall="path", deprecated="grep")
    def fgrepi(self, pattern: str, path: Pathname) -> list[str]:
        """As grep with fixed=True and insensitive=True."""
        return self._grep(pattern, path, False, True, True, False)

    @api(syscall="path", deprecated="grep")
    def zgrep(self, regex: str, path: Pathname) -> list[str]:
        """As grep with compressed=True."""
        return self._grep(regex, path, False, False, False, True)

    @api(syscall="path", deprecated="grep")
    def zegrep(self, regex: str, path: Pathname) -> list[str]:
        """As grep with extended=True and compressed=True."""
        return self._grep(regex, path, True, False, False, True)

    @api(syscall="path", deprecated="grep")
    def zfgrep(self, pattern: str, path: Pathname) -> list[str]:
        """As grep with fixed=True and compressed=True."""
        return self._grep(pattern, path, False, True, False, True)

    @api(syscall="path", deprecated="grep")
    def zgrepi(self, regex: str, path: Pathname) -> list[str]:
        """As grep with insensitive=True and compressed=True."""
        return self._grep(regex, path, False, False, True, True)

    @api(syscall="path", deprecated="grep")
    def zegrepi(self, regex: str, path: Pathname) -> list[str]:
        """As grep with extended=True, insensitive=True and compressed=True."""
        return self._grep(regex, path, True, False, True, True)

    @api(syscall="path", deprecated="grep")
    def zfgrepi(self, pattern: str, path: Pathname) -> list[str]:
        """As grep with fixed=True, insensitive=True and compressed=True."""
        return self._grep(pattern, path, False, True, True, True)


def _matcher(pattern: bytes, extended: bool, fixed: bool, insensitive: bool) -> Callable[[bytes], bool]:
    """A function that tells whether a line matches; each line of the pattern is one of its own."""
    patterns = pattern.split(b"\n")
    if fixed:
        if insensitive:
            lower = [each.lower() for each in patterns]
            return lambda line: any(each in line.lower() for each in lower)
        return lambda line: any(each in line for each in patterns)
    compiled = [Regex(each, extended=extended, insensitive=insensitive) for each in patterns]
    return lambda line: any(each.search(line) for each in compiled)


def lines(source: Source, compressed: bool = False) -> Iterator[bytes]:
    """The lines of a file without their ends. Raises: Failure for a line that is too long."""
    rest = b""
    for piece in _inflated(source) if compressed else pieces(source):
        parts = (rest + piece).split(b"\n")
        rest = parts.pop()
        yield from parts
        if len(rest) > _MOST_LINE:
            raise Failure("a line is too long", errno.EFBIG)
    if rest:
        yield rest


def pieces(source: Source) -> Iterator[bytes]:
    """The bytes of a file, piece by piece."""
    for at in range(0, source.size, CHUNK):
        yield source.read(at, min(CHUNK, source.size - at))


def _inflated(source: Source) -> Iterator[bytes]:
    """The content of a gzip file of one or several members; what is not compressed comes as it is, as zgrep has it."""
    if source.read(0, min(2, source.size)) != b"\x1f\x8b":
        yield from pieces(source)
        return
    inflate = zlib.decompressobj(31)
    total = 0
    for piece in pieces(source):
        while piece:
            if inflate.eof:
                if not piece.startswith(b"\x1f"):  # padding behind the last member
                    return
                inflate = zlib.decompressobj(31)
            try:
                made = inflate.decompress(piece, CHUNK)
            except zlib.error as error:
                raise Failure(f"gzip: {error}", errno.EIO) from None
            piece = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            total += len(made)
            if total > _MOST_INFLATED:
                raise Failure("gzip: the content is too large", errno.EFBIG)
            yield made
    if not inflate.eof:
        raise Failure("gzip: unexpected end of file", errno.EIO)
