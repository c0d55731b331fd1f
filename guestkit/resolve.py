"""resolve(): a chain of mapping layers as one flat, cached list of host-file ranges.

The extents of a Source are asked for window by window and kept, neighbours joined, so that a read is a bisect
and a pread. Damage in the mapping costs only the reads that touch it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator

from guestkit.errors import GuestkitError, SourceError, WouldBlock
from guestkit.source import Extent, FileSource, Leaf, Source, patience

_WINDOW_BITS = 25  # 32 MiB: one L2 table's worth of small clusters, and most files whole
_WINDOW = 1 << _WINDOW_BITS
_MOST_EXTENTS = 1 << 16  # kept by one Resolved, about 12 MiB; then all windows are dropped
_EXTENT_BYTES = 190

_pread = os.pread


class _Window:
    """The joined extents of one window, as parallel lists; covers [starts[0], end)."""

    __slots__ = ("end", "ends", "files", "leaves", "shifts", "starts")

    def __init__(self, start: int) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.files: list[FileSource | None] = []  # where a plain pread serves
        self.leaves: list[Leaf | None] = []
        self.shifts: list[int] = []  # source offset - offset
        self.end = start

    def add(self, extent: Extent) -> None:
        offset, length, leaf, source_offset = extent
        shift = source_offset - offset if leaf is not None else 0
        self.end = end = offset + length
        if self.ends and self.leaves[-1] is leaf and self.shifts[-1] == shift:
            self.ends[-1] = end
            return
        self.starts.append(offset)
        self.ends.append(end)
        self.files.append(leaf if isinstance(leaf, FileSource) else None)
        self.leaves.append(leaf)
        self.shifts.append(shift)


class Resolved(Source):
    """`source` with its extents cached: the same bytes, extents and errors, faster."""

    __slots__ = ("_extents", "_windows", "sector_size", "size", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = source.size
        self.sector_size = source.sector_size
        self._windows: dict[int, _Window] = {}
        self._extents = 0

    @property
    def held(self) -> int:
        return _EXTENT_BYTES * self._extents + self.source.held

    def _window(self, index: int) -> _Window:
        window = self._windows.get(index)
        if window is not None:
            return window
        start = index << _WINDOW_BITS
        window = _Window(start)
        keep = True
        try:
            for extent in self.source.extents(start, min(_WINDOW, self.size - start)):
                window.add(extent)
        except (SourceError, WouldBlock):
            keep = False  # may pass: ask again next time
        except GuestkitError:
            pass  # damage: what was yielded before it is good, and the rest is asked for as it is touched
        if keep:
            self._extents += len(window.starts)
            if self._extents > _MOST_EXTENTS:
                self._windows = {}
                self._extents = len(window.starts)
            self._windows[index] = window
        return window

    def read(self, offset: int, length: int) -> bytes:
        window = self._windows.get(offset >> _WINDOW_BITS)
        if window is not None:
            index = bisect_right(window.starts, offset) - 1
            if index >= 0 and offset + length <= window.ends[index]:
                file = window.files[index]
                if file is not None:
                    if not patience.may_block:
                        return file.read(offset + window.shifts[index], length)
                    try:
                        data = _pread(file.fd, length, offset + window.shifts[index])
                    except OSError:
                        data = b""  # the slow path makes the error
                    if len(data) == length:
                        return data
                elif length >= 0:
                    leaf = window.leaves[index]
                    return bytes(length) if leaf is None else leaf.read(offset + window.shifts[index], length)
        self.check(offset, length)
        return super().read(offset, length)

    def read_into(self, offset: int, buf: memoryview) -> None:
        length = len(buf)
        self.check(offset, length)
        at = 0
        while at < length:
            window = self._window(offset >> _WINDOW_BITS)
            if offset >= window.end:  # not covered: the mapping is damaged or was not to be had
                rest = min(length - at, (offset | _WINDOW - 1) + 1 - offset)
                self.source.read_into(offset, buf[at : at + rest])
                offset += rest
                at += rest
                continue
            index = bisect_right(window.starts, offset) - 1
            while at < length and index < len(window.starts):
                take = min(window.ends[index] - offset, length - at)
                part = buf[at : at + take]
                leaf = window.leaves[index]
                if leaf is None:
                    part[:] = bytes(take)
                else:
                    leaf.read_into(offset + window.shifts[index], part)
                offset += take
                at += take
                index += 1

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        end = offset + length
        while offset < end:
            window = self._window(offset >> _WINDOW_BITS)
            if offset >= window.end:
                stop = min(end, (offset | _WINDOW - 1) + 1)
                yield from self.source.extents(offset, stop - offset)
                offset = stop
                continue
            index = bisect_right(window.starts, offset) - 1
            while offset < end and index < len(window.starts):
                take = min(window.ends[index], end) - offset
                leaf = window.leaves[index]
                yield Extent(offset, take, leaf, 0 if leaf is None else offset + window.shifts[index])
                offset += take
                index += 1


def resolve(source: Source) -> Source:
    """Return `source` with its extents cached; a leaf, or what is resolved already, is returned as it is."""
    return source if isinstance(source, (Resolved, Leaf)) else Resolved(source)
