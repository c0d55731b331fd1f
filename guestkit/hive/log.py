"""What a hive's transaction logs hold and its file does not: replayed as an Overlay, in memory.

Spec: regf, "Format of transaction log files", "Multiple transaction log files". The old format (to Windows 8) is a
bitmap of pages with their bytes, the new one a row of entries with hashes, which may be split between two logs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt, SourceError, Unsupported
from guestkit.hive.header import HEAD, LOG_2000, LOG_NEW, LOG_XP, MOST_BINS, PAGE, SIZE, Base, check_bins, parse_base
from guestkit.hive.marvin import marvin32
from guestkit.source import Concat, Overlay, Patch, Slice, Source, ZeroSource

_SECTOR = 512  # what dirty pages are counted in
_ENTRY = struct.Struct("<4sIIIIIQQ")
_MOST_LOG = 32 << 20  # bytes of entries that are verified: the hash takes a second for 4 MiB
_TIMESTAMP = 20  # in the first bin's header

# sector of the bins -> (log, byte in it)
_Pages = dict[int, tuple[Source, int]]


class Recovered(NamedTuple):
    """A hive as its logs leave it."""

    source: Source
    base: Base
    sectors: int  # that come from logs


class _Log(NamedTuple):
    source: Source
    base: Base


def recover(source: Source, base: Base | None, logs: Sequence[Source]) -> Recovered | None:
    """Replay what `logs` hold of a dirty hive; None when none of them can be applied.

    `base`: the hive's own base block, None where it cannot be used. Logs that make no sense are passed over.
    Raises: SourceError.
    """
    known = [log for log in map(_parse_log, logs) if log is not None]
    new = [log for log in known if log.base.type == LOG_NEW]
    if new:
        return _recover_new(source, base, new)
    for log in known:
        found = _recover_old(source, base, log)
        if found is not None:
            return found
    return None


def _parse_log(source: Source) -> _Log | None:
    if source.size < HEAD + _SECTOR:
        return None
    try:
        base = parse_base(source.read(0, HEAD))
        check_bins(base)
    except (Corrupt, Unsupported):  # the other log may serve
        return None
    return _Log(source, base) if base.whole and base.type in (LOG_XP, LOG_2000, LOG_NEW) else None


def _overlay(source: Source, pages: _Pages, bins: int) -> Source:
    """`source` with the sectors in `pages`, grown to `bins` bytes of bins."""
    size = SIZE + bins
    whole = source
    if source.size < size:
        whole = Concat((source, ZeroSource(size - source.size)))
    patches: list[Patch] = []
    for sector in sorted(pages):
        log, place = pages[sector]
        at = SIZE + sector * _SECTOR
        last = patches[-1] if patches else None
        if (
            last
            and last.source is log
            and last.offset + last.length == at
            and last.source_offset + last.length == place
        ):
            patches[-1] = last._replace(length=last.length + _SECTOR)
        else:
            patches.append(Patch(at, _SECTOR, log, place))
    return Overlay(whole, patches)


# the old format


def _recover_old(source: Source, base: Base | None, log: _Log) -> Recovered | None:
    about = log.base
    if about.primary != about.secondary or about.written != (
        _first_timestamp(source) if base is None else base.written
    ):
        return None
    count = about.bins // _SECTOR
    at = about.sector
    length = 4 + (count + 7) // 8
    if at + length > log.source.size:
        return None
    vector = log.source.read(at, length)
    if vector[:4] != b"DIRT":
        return None
    at += -(-length // about.sector) * about.sector
    pages: _Pages = {}
    for index, byte in enumerate(vector[4:]):
        while byte:
            sector = index * 8 + (byte & -byte).bit_length() - 1
            byte &= byte - 1
            if sector >= count or at + _SECTOR > log.source.size:
                return None
            pages[sector] = (log.source, at)
            at += _SECTOR
    if not _bins_are_right(pages):
        return None
    own = about if base is None else base._replace(bins=about.bins)
    return Recovered(_overlay(source, pages, about.bins), own, len(pages))


def _first_timestamp(source: Source) -> int:
    if source.size < SIZE + 32:
        return -1
    return int.from_bytes(source.read(SIZE + _TIMESTAMP, 8), "little")


def _bins_are_right(pages: _Pages) -> bool:
    """Whether pages that begin with a bin's signature begin the bin of that place."""
    for sector, (log, place) in pages.items():
        if sector % (PAGE // _SECTOR):
            continue
        head = log.read(place, 12)
        if head[:4] == b"hbin":
            offset, size = struct.unpack_from("<II", head, 4)
            if offset != sector * _SECTOR or size < PAGE:
                return False
    return True


# the new format


def _recover_new(source: Source, base: Base | None, logs: list[_Log]) -> Recovered | None:
    logs.sort(key=lambda log: log.base.primary)
    if base is None:  # only the latest can be trusted then
        logs = logs[-1:]
    own = base or logs[-1].base
    least = 0 if base is None else base.secondary
    pages: _Pages = {}
    applied: int | None = None
    bins = own.bins
    left = _MOST_LOG
    for log in logs:
        expected = log.base.primary
        if expected < least or (applied is not None and expected != applied + 1):
            continue
        at = HEAD
        while (entry := _entry(log.source, at, expected, left)) is not None:
            length, bins, places = entry
            left -= length
            for offset, size, place in places:
                for step in range(0, size, _SECTOR):
                    pages[(offset + step) // _SECTOR] = (log.source, place + step)
            applied = expected
            expected += 1
            at += length
    if applied is None:
        return None
    pages = {sector: page for sector, page in pages.items() if (sector + 1) * _SECTOR <= bins}
    return Recovered(_overlay(source, pages, bins), own._replace(bins=bins), len(pages))


def _entry(source: Source, at: int, expected: int, most: int) -> tuple[int, int, list[tuple[int, int, int]]] | None:
    """(length, bytes of bins, [(offset, size, place in the log)]) of the entry at `at`; None when it is no good.

    `expected`: its sequence number; `most`: bytes that may be read.
    """
    if at + _ENTRY.size > source.size:
        return None
    try:
        raw = source.read(at, _ENTRY.size)
        signature, length, _, sequence, bins, count, first, second = _ENTRY.unpack(raw)
        if signature != b"HvLE" or sequence != expected or length % _SECTOR or not _ENTRY.size < length <= most:
            return None
        if at + length > source.size or not 0 < bins <= MOST_BINS or bins % PAGE:
            return None
        if count * 8 > length - _ENTRY.size or marvin32(raw[:32]) != second:
            return None
        body = source.read(at + _ENTRY.size, length - _ENTRY.size)
    except (Corrupt, SourceError):  # a log that cannot be read to its end is as good as one that ends there
        return None
    if marvin32(body) != first:
        return None
    place = at + _ENTRY.size + count * 8
    places = []
    for offset, size in struct.iter_unpack("<II", body[: count * 8]):
        if offset % _SECTOR or size % _SECTOR or offset + size > bins or place + size > at + length:
            return None
        places.append((offset, size, place))
        place += size
    return length, bins, places


def limited(source: Source, bins: int) -> Source:
    """The base block and the bins, without what may follow in the file."""
    size = SIZE + bins
    return source if source.size <= size else Slice(source, 0, size)
