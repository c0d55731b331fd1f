"""The table of internal snapshots.

Specification: QEMU, docs/interop/qcow2, "Snapshots". The saved state of a running machine is not read.
"""

from __future__ import annotations

from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.image.base import Snapshot
from guestkit.image.qcow2.header import Header
from guestkit.layout import Layout
from guestkit.source import Source

MAX_SNAPSHOTS = 65_536
_MAX_TABLE = 64 << 20  # bytes; QEMU's own bound
_MAX_EXTRA = 1024
_CHUNK = 1 << 16

_ENTRY = Layout(
    "qcow2 snapshot",
    40,
    ">",
    l1_table_offset=(0, "Q"),
    l1_size=(8, "I"),
    id_str_size=(12, "H"),
    name_size=(14, "H"),
    date_sec=(16, "I"),
    date_nsec=(20, "I"),
    extra_data_size=(36, "I"),
)


class Stored(NamedTuple):
    """A snapshot and where its L1 table is."""

    snapshot: Snapshot
    l1_table_offset: int
    l1_size: int  # entries


def read_snapshots(source: Source, header: Header) -> list[Stored]:
    """Read the whole table. Raises: Corrupt, SourceError."""
    count, at = header.nb_snapshots, header.snapshots_offset
    if not count:
        return []
    if count > MAX_SNAPSHOTS:
        raise Corrupt("qcow2 header", "nb_snapshots", found=count, expected=f"at most {MAX_SNAPSHOTS}")
    if at % header.cluster_size:
        raise Corrupt("qcow2 header", "snapshots_offset", found=at, expected="a multiple of the cluster size")
    if at + count * _ENTRY.size > source.size:
        raise Corrupt("qcow2 header", "snapshots_offset", found=at, expected="within the file")
    table = _Reader(source, at)
    found = []
    for index in range(count):
        l1_offset, l1_size, id_size, name_size, seconds, nanoseconds, extra_size = _ENTRY.unpack_from(
            table.take(_ENTRY.size)
        )
        if extra_size > _MAX_EXTRA:
            raise Corrupt(
                f"qcow2 snapshot {index}", "extra_data_size", found=extra_size, expected=f"at most {_MAX_EXTRA}"
            )
        extra = table.take(extra_size)
        name = table.take(id_size + name_size)
        table.take(-(_ENTRY.size + extra_size + id_size + name_size) % 8)
        size = int.from_bytes(extra[8:16], "big") & ~511 if extra_size >= 16 else header.size
        snapshot = Snapshot(
            name[:id_size].decode("utf-8", "surrogateescape"),
            name[id_size:].decode("utf-8", "surrogateescape"),
            size,
            seconds * 1_000_000_000 + nanoseconds,
        )
        found.append(Stored(snapshot, l1_offset, l1_size))
    return found


class _Reader:
    """Bytes from `source` one after the other, at most _MAX_TABLE of them."""

    def __init__(self, source: Source, at: int) -> None:
        self._source = source
        self._at = at
        self._left = min(_MAX_TABLE, source.size - at)
        self._buffer = b""
        self._position = 0

    def take(self, length: int) -> bytes:
        """Raises: Corrupt when the table ends before."""
        while len(self._buffer) - self._position < length:
            chunk = min(_CHUNK, self._left)
            if not chunk:
                raise Corrupt("qcow2 snapshot table ends early")
            self._buffer = self._buffer[self._position :] + self._source.read(self._at, chunk)
            self._position = 0
            self._at += chunk
            self._left -= chunk
        start = self._position
        self._position = start + length
        return self._buffer[start : start + length]
