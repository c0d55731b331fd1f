"""Text tools: head, tail, wc, strings, hexdump."""

from __future__ import annotations

import errno
import re
from collections import deque
from collections.abc import Iterator

from guestkit.guestfs.call import Pathname, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.grep import lines, pieces
from guestkit.guestfs.handle import Handle
from guestkit.source import Source

_DEFAULT = 10  # lines
_SHORTEST = 4  # characters of a string
_MOST_RESULT = 64 << 20  # bytes of one result
_MOST_STRING = 1 << 20  # bytes
# strings -e: bytes of a character, and where its low byte is
_ENCODINGS = {"s": (1, 0), "S": (1, 0), "b": (2, 1), "l": (2, 0), "B": (4, 3), "L": (4, 0)}
_SPACE = re.compile(rb"[ \t\n\v\f\r]+")


class Text(Handle):
    @api(syscall="path")
    def head(self, path: Pathname) -> list[str]:
        """The first 10 lines. Raises: GuestfsError; UnicodeDecodeError."""
        return _first(self._open(path), _DEFAULT)

    @api(syscall="path")
    def head_n(self, nrlines: int, path: Pathname) -> list[str]:
        """The first lines; a negative number leaves out as many at the end. Raises: GuestfsError."""
        return _first(self._open(path), nrlines)

    @api(syscall="path")
    def tail(self, path: Pathname) -> list[str]:
        """The last 10 lines. Raises: GuestfsError; UnicodeDecodeError."""
        return _last(self._open(path), _DEFAULT)

    @api(syscall="path")
    def tail_n(self, nrlines: int, path: Pathname) -> list[str]:
        """The last lines; a negative number: all from that line on, counted from 1. Raises: GuestfsError."""
        source = self._open(path)
        if nrlines >= 0:
            return _last(source, nrlines)
        found = _Result()
        for number, line in enumerate(lines(source), 1):
            if number >= -nrlines:
                found.add(line)
        return found.lines

    @api(syscall="path")
    def wc_c(self, path: Pathname) -> int:
        """The bytes of a file. Raises: GuestfsError."""
        return self._open(path).size

    @api(syscall="path")
    def wc_l(self, path: Pathname) -> int:
        """The newlines in a file. Raises: GuestfsError."""
        return sum(piece.count(b"\n") for piece in pieces(self._open(path)))

    @api(syscall="path")
    def wc_w(self, path: Pathname) -> int:
        """The words in a file. Raises: GuestfsError."""
        words = 0
        inside = False
        for piece in pieces(self._open(path)):
            parts = piece.split()
            words += len(parts)
            if parts and inside and not _SPACE.match(piece):
                words -= 1  # goes on from the piece before
            inside = bool(piece) and not _SPACE.match(piece[-1:])
        return words

    @api(syscall="path")
    def strings(self, path: Pathname) -> list[str]:
        """The runs of at least 4 printable characters. Raises: GuestfsError."""
        return self._strings("s", path)

    @api(syscall="path")
    def strings_e(self, encoding: str, path: Pathname) -> list[str]:
        """As strings, for characters of 7 (s) or 8 bits (S), 16 (b, l) or 32 (B, L), big- or little-endian.

        Raises: GuestfsError; UnicodeDecodeError.
        """
        return self._strings(encoding, path)

    def _strings(self, encoding: str, path: str) -> list[str]:
        if encoding not in _ENCODINGS:
            raise Failure(f"{path}: strings: invalid encoding '{encoding}'", errno.EINVAL)
        found = _Result()
        for each in printable(pieces(self._open(path)), encoding):
            found.add(each)
        return found.lines

    @api(syscall="path")
    def hexdump(self, path: Pathname) -> str:
        """What `hexdump -C` prints. Raises: GuestfsError, also for a result that is too large."""
        source = self._open(path)
        if source.size * 5 > _MOST_RESULT:
            raise Failure(f"{path}: file is too large to be returned", errno.EFBIG)
        return hexdump(source.read(0, source.size))


class _Result:
    """Lines of a result that is bounded."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._left = _MOST_RESULT

    def add(self, line: bytes) -> None:
        self._left -= len(line) + 8
        if self._left < 0:
            raise Failure("the result is too large to be returned", errno.EFBIG)
        self.lines.append(line.decode())


def _first(source: Source, count: int) -> list[str]:
    found = _Result()
    if count >= 0:
        for line in lines(source) if count else ():
            found.add(line)
            if len(found.lines) == count:
                break
        return found.lines
    held: deque[bytes] = deque()
    for line in lines(source):
        held.append(line)
        if len(held) > -count:
            found.add(held.popleft())
    return found.lines


def _last(source: Source, count: int) -> list[str]:
    """The last lines, read from the end."""
    if not count:
        return []
    tail = b""
    at = source.size
    step = 4096
    while at and tail.count(b"\n") <= count:
        step = min(step * 2, at, 1 << 20)
        at -= step
        tail = source.read(at, step) + tail
        if len(tail) > _MOST_RESULT:
            raise Failure("the result is too large to be returned", errno.EFBIG)
    parts = tail.split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    found = _Result()
    for line in parts[-count:]:
        found.add(line)
    return found.lines


def printable(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The runs of printable characters that strings(1) shows."""
    width, low = _ENCODINGS[encoding]
    members = rb"[\t\x20-\x7e\x80-\xff]" if encoding == "S" else rb"[\t\x20-\x7e]"
    unit = b"\\0" * low + members + b"\\0" * (width - 1 - low)
    pattern = re.compile(b"(?:" + unit + b"){%d,}" % _SHORTEST)
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        end = 0
        keep = len(data)
        for match in pattern.finditer(data):
            # what ends here may go on in the next piece
            if match.end() > len(data) - width and match.end() - match.start() < _MOST_STRING * width:
                keep = match.start()
                break
            yield match[0][low::width]
            end = match.end()
        rest = data[keep:] if keep < len(data) else data[max(end, len(data) - width * _SHORTEST) :]
    for match in pattern.finditer(rest):
        yield match[0][low::width]


_SHOWN = bytes(byte if 32 <= byte < 127 else ord(".") for byte in range(256))


def hexdump(data: bytes) -> str:
    """`data` as hexdump -C shows it: repeated lines as one asterisk, the size on the last line."""
    out: list[str] = []
    before = b""
    starred = False
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        if row == before and len(row) == 16:
            if not starred:
                out.append("*")
            starred = True
            continue
        starred = False
        before = row
        left, right = row[:8].hex(" "), row[8:].hex(" ")
        out.append(f"{at:08x}  {left:<23}  {right:<23}  |{row.translate(_SHOWN).decode()}|")
    if data:
        out.append(f"{len(data):08x}")
    return "".join(line + "\n" for line in out)
