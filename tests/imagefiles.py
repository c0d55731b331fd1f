"""Opening images as a Guest does, for tests that look at the image alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guestkit import registry
from guestkit.errors import SourceError
from guestkit.files import HostFiles
from guestkit.image.base import Image
from guestkit.limits import Limits
from guestkit.source import Extent, FileSource, Leaf, Source


@contextmanager
def opened(path: Path | str, format: str | None = "qcow2", limits: Limits | None = None) -> Iterator[Image]:
    """The image at `path`, with what it may name."""
    limits = limits or Limits()
    leaves: list[FileSource] = []
    try:
        leaf = FileSource.open(path)
        leaves.append(leaf)
        directory = os.path.dirname(os.path.realpath(path))
        files = HostFiles(directory, (), registry.image_opener(limits), leaves.append)
        yield registry.open_image(leaf, files, limits, format)
    finally:
        limits.close()
        for leaf in leaves:
            leaf.close()


def content(source: Source, step: int = 1 << 20) -> bytes:
    """All of `source`, read in steps."""
    return b"".join(source.read(at, min(step, source.size - at)) for at in range(0, source.size, step))


def digest(source: Source, step: int = 1 << 20) -> str:
    return hashlib.sha256(content(source, step)).hexdigest()


class Faulty(Leaf):
    """`data` in memory, of which the reads fail for which `fails(number of the read)` says so."""

    def __init__(self, data: bytes, fails: Callable[[int], bool] = lambda number: False) -> None:
        self.data = data
        self.size = len(data)
        self.fails = fails
        self.reads = 0

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if length:
            yield Extent(offset, length, self, offset)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        self.reads += 1
        if self.fails(self.reads):
            buf[: len(buf) // 2] = bytes(len(buf) // 2)  # as a short read leaves it
            raise SourceError("injected")
        buf[:] = self.data[offset : offset + len(buf)]
