"""What the command line prints: escaped for people, raw bytes for pipes, JSON for programs, progress on long copies.

On a terminal and in every message, characters that could drive the terminal or reorder the text are shown as
escapes; a pipe gets names as the guest has them.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

# C0 and C1 controls, line separators, bidirectional and invisible formatting, tags, surrogates
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_LONG_COPY = 1.0  # seconds after which a copy shows its progress


def escape(text: str | bytes) -> str:
    """Return `text` safe for a terminal: what could act on it stands as \\xNN, \\uNNNN or \\UNNNNNNNN."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return _UNSAFE.sub(_escaped, text)


def escape_lines(text: str) -> str:
    """As escape, but line ends and tabs are left as they are."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in "\n\t" else _escaped(match), text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Output:
    """Standard output. `terminal`: whether people look at it."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._stream = sys.stdout.buffer
        self.write = self._stream.write

    def name(self, name: bytes) -> bytes:
        """A name of the guest as it is to be printed here."""
        return self.text(escape(name)) if self.terminal else name

    def text(self, text: str) -> bytes:
        """Encode text that is safe already for this terminal or pipe."""
        return text.encode(self._encoding, "backslashreplace")

    def line(self, text: str = "") -> None:
        """Print a line for people, escaped."""
        self.write(self.text(escape(text)) + b"\n")

    def table(self, rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
        """Print rows in columns; those numbered in `right` are aligned to the right."""
        rows = [[escape(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
        for row in rows:
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.write(self.text("  ".join(cells).rstrip()) + b"\n")

    def json(self, document: object) -> None:
        """Print a document; names that are not UTF-8 hold lone surrogates, written as \\udcXX."""
        import json

        self.write(json.dumps(document, indent=2, ensure_ascii=True).encode("ascii") + b"\n")

    def flush(self) -> None:
        self._stream.flush()


class JsonList:
    """A JSON array printed item by item; leaving the with block closes it, an error or not."""

    def __init__(self, output: Output) -> None:
        import json

        self._encode = json.JSONEncoder(ensure_ascii=True).encode
        self._write = output.write
        self._first = True

    def __enter__(self) -> JsonList:
        self._write(b"[")
        return self

    def add(self, item: object) -> None:
        self._write((b"\n  " if self._first else b",\n  ") + self._encode(item).encode("ascii"))
        self._first = False

    def __exit__(self, *exc: object) -> None:
        self._write(b"]\n" if self._first else b"\n]\n")


def complain(text: str) -> None:
    """Print one line of error or warning to standard error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:  # a full disk, which whoever wrote has told; what is left is not tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    encoding = sys.stderr.encoding or "utf-8"
    line = f"guestkit: {escape(text)}\n".encode(encoding, "backslashreplace")
    try:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    except OSError:  # nobody listens; the exit status still tells
        pass


def human_size(size: int | None) -> str:
    """A size in bytes for people: 512, 1.5K, 20G; "-" when it is not known."""
    if size is None:
        return "-"
    if abs(size) < 1024:
        return str(size)
    value = float(size)
    for unit in "KMGTPE":
        value /= 1024
        if abs(value) < 1023.95 or unit == "E":
            break
    return f"{value:.1f}{unit}" if abs(value) < 9.95 else f"{value:.0f}{unit}"


class CopyProgress:
    """A bar on standard error for a copy that takes long, where there is a terminal and rich is installed."""

    def __init__(self, total: Callable[[], int] | None) -> None:
        """`total` counts the bytes to be copied; None for no bar. It is only called when the copy takes long."""
        self._total = total if sys.stderr.isatty() else None
        self._start = time.monotonic()
        self._done = 0
        self._bar: RichProgress | None = None

    def __enter__(self) -> CopyProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, count: int, path: bytes) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, name=_short(escape(path)))
        elif self._total is not None and time.monotonic() - self._start > _LONG_COPY:
            self._show()

    def _show(self) -> None:
        count, self._total = self._total, None
        try:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            return
        assert count is not None
        self._bar = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.add_task("", total=count(), completed=self._done, name="")
        self._bar.start()


def _short(text: str) -> str:
    return text if len(text) <= 40 else "..." + text[-37:]
