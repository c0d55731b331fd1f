"""Raw images: the guest's disk byte by byte. Holes of the host file stay holes.

As QEMU has it, a file that does not end at a sector's end is a disk padded with zeros to the next 512 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from guestkit.image.base import Image
from guestkit.limits import Limits
from guestkit.source import Extent, Files, Source


class Raw(Image):
    """The bytes of `source`."""

    format = "raw"

    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = -(-source.size // 512) * 512
        self.sector_size = source.sector_size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        inside = min(length, max(0, self.source.size - offset))
        if inside:
            yield from self.source.extents(offset, inside)
        if inside < length:
            yield Extent(offset + inside, length - inside, None, 0)

    def info(self) -> dict[str, object]:
        return {"format": self.format, "virtual-size": self.size}


def open(source: Source, files: Files, limits: Limits) -> Raw:
    """Open a raw image; it names no other file and uses no cache."""
    return Raw(source)
