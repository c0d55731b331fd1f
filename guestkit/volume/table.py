"""What MBR and GPT share: partitions as slices, and the sectors of a disk read without trust."""

from __future__ import annotations

from collections.abc import Callable

from guestkit.errors import GuestkitError, SourceError, WouldBlock
from guestkit.source import Slice, Source
from guestkit.volume.base import Keys


def read_at(source: Source, offset: int, length: int) -> bytes:
    """Return `length` bytes at `offset`, or b"" where the disk ends before or the image is damaged.

    Raises: SourceError (EIO) when the host cannot read what is there.
    """
    if offset < 0 or length < 0 or offset + length > source.size:
        return b""
    try:
        return source.read(offset, length)
    except (SourceError, WouldBlock):
        raise
    except GuestkitError:
        return b""


def part_of(source: Source, start: int, size: int, sector_size: int) -> Callable[[Keys], Source]:
    """The opener of a partition of `size` bytes at `start`."""

    def open(keys: Keys) -> Source:
        return Slice(source, start, size, sector_size=sector_size)

    return open


def outside(source: Source, start: int, size: int) -> str:
    """What is wrong with a partition that reaches beyond the disk, as a predicate; "" where it lies inside."""
    if start >= source.size:
        return f"starts at byte {start}, beyond the end of the disk at {source.size}"
    if start + size > source.size:
        return f"ends at byte {start + size}, beyond the end of the disk at {source.size}"
    return ""
