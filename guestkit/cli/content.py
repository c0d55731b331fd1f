"""Commands that read files: cat and cp."""

from __future__ import annotations

import codecs
import os
import stat
from argparse import Namespace as Arguments

from guestkit.cli.hints import describe
from guestkit.cli.output import CopyProgress, Output, complain, escape, escape_lines
from guestkit.cli.view import View
from guestkit.copying import copy_out, open_directory
from guestkit.errors import GuestkitError, InvalidArgument, IsADirectory
from guestkit.namespace import Namespace
from guestkit.source import Source

_PIECE = 1 << 20
_FIRST_PIECE = 64 << 10  # so that something is seen at once


def cat(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit cat"""
    status = 0
    for text in arguments.paths:
        try:
            table, node, _ = view.find(text)
            mode = table.stat(node).mode
            if stat.S_ISDIR(mode):
                raise IsADirectory(where=text)
            if not stat.S_ISREG(mode):
                raise InvalidArgument("is not a regular file", where=text)
            _print(table.open(node), output)
        except GuestkitError as error:
            output.flush()
            complain(describe(error, arguments.image))
            status = 1
    return status


def _print(source: Source, output: Output) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape") if output.terminal else None
    at, piece = 0, _FIRST_PIECE
    while at < source.size:
        data = source.read(at, min(piece, source.size - at))
        at += len(data)
        piece = _PIECE
        output.write(data if decoder is None else output.text(escape_lines(decoder.decode(data))))
    if decoder is not None:
        output.write(output.text(escape_lines(decoder.decode(b"", True))))


def cp(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit cp"""
    *sources, target = arguments.paths
    into = os.path.isdir(target)
    if not into and (len(sources) > 1 or target.endswith("/")):
        complain(f"{target}: is not a directory of the host (make it first)")
        return 1
    try:
        directory = open_directory(target if into else os.path.dirname(target) or ".")
    except GuestkitError as error:  # about the host, not about the image
        complain(str(error))
        return 1
    status = 0
    try:
        for text in sources:
            try:
                table, node, path = view.find(text)
                if stat.S_ISDIR(table.stat(node).mode) and not arguments.recursive:
                    raise IsADirectory("is a directory (-r copies it)", where=text)
                name = path.rstrip(b"/").rpartition(b"/")[2] if into else os.fsencode(os.path.basename(target))
                status |= _copy(table, node, b"" if name in (b".", b"..") else name, directory, arguments)
            except GuestkitError as error:
                complain(describe(error, arguments.image))
                status = 1
    finally:
        os.close(directory)
    return status


def _copy(table: Namespace, node: int, name: bytes, directory: int, arguments: Arguments) -> int:
    """Copy one argument and tell what was left out. Returns the exit status."""
    with CopyProgress(lambda: _size_of(table, node)) as progress:
        report = copy_out(
            table,
            node,
            name,
            directory,
            preserve=arguments.preserve,
            replace=arguments.force,
            progress=progress,
        )
    for place, reason in report.reasons:
        complain(f"{arguments.image}: {escape(place)}: {reason}")
    hidden = report.failed + report.special - len(report.reasons)
    if hidden > 0:
        complain(f"{arguments.image}: {hidden} more were not copied")
    return 1 if report.failed else 0


def _size_of(table: Namespace, node: int) -> int:
    """Bytes below a node, for the progress bar; a name more of one file counts once more."""
    found = table.stat(node)
    if not stat.S_ISDIR(found.mode):
        return found.size
    return sum(status.size for _, _, status in table.walk(node) if status is not None and stat.S_ISREG(status.mode))
