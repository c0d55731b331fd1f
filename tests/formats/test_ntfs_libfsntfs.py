"""libfsntfs, an independent reader, sees the same files: a second witness for compressed data, the one for WOF."""

from __future__ import annotations

import hashlib
import io
import lzma
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guestkit.fs.ntfs import Ntfs
from guestkit.fs.ntfs import open as open_ntfs
from guestkit.fs.ntfs.status import EPOCH
from guestkit.limits import Limits
from guestkit.source import BytesSource

DATA = Path(__file__).parent.parent / "data" / "ntfs"
# not what libfsntfs refuses: a record or a boot sector that only a copy has, a first version, clusters above 64 KiB
NAMES = [
    *("ntfs", "ntfs-many", "ntfs-fragmented", "ntfs-mft-fragmented", "ntfs-sector-4096"),
    *("ntfs-cluster-512", "ntfs-cluster-1k", "ntfs-cluster-64k"),
    *("ntfs-lznt1", "ntfs-lznt1-512", "ntfs-lznt1-1k", "ntfs-wof"),
]
FIRST_USER = 24  # records below are the system's
LOST = {"ntfs-cluster-64k": 0.6}  # part of the names that libfsntfs leaves out: those in blocks of such an index
_WHOLE, _EDGE = 2 << 20, 1 << 16

Read = Callable[[int, int], bytes]  # (length, offset)

pytestmark = pytest.mark.module("pyfsntfs")


def digest(read: Read, size: int) -> str:
    """Of all bytes, or of the ends of what is large."""
    if size <= _WHOLE:
        return hashlib.sha256(read(size, 0) if size else b"").hexdigest()
    return hashlib.sha256(read(_EDGE, 0) + read(_EDGE, size - _EDGE)).hexdigest()


def theirs(data: bytes) -> Iterator[tuple[str, Any]]:
    import pyfsntfs

    volume = pyfsntfs.volume()
    volume.open_file_object(io.BytesIO(data))
    pending = [("", volume.get_root_directory())]
    while pending:
        path, directory = pending.pop()
        for number in range(directory.number_of_sub_file_entries):
            entry = directory.get_sub_file_entry(number)
            if entry.file_reference & (1 << 48) - 1 < FIRST_USER:
                continue
            here = f"{path}/{entry.name}"
            yield here, entry
            if entry.has_directory_entries_index() and not entry.file_attribute_flags & 0x400:
                pending.append((here, entry))


def shown(entry: Any) -> dict[str, Any]:
    facts = {
        "inode": entry.file_reference & (1 << 48) - 1,
        "mtime": (entry.get_modification_time_as_integer() - EPOCH) * 100,
        "btime": (entry.get_creation_time_as_integer() - EPOCH) * 100,
        "streams": {},
    }
    for number in range(entry.number_of_alternate_data_streams):
        stream = entry.get_alternate_data_stream(number)
        if stream.name != "WofCompressedData":
            facts["streams"][stream.name] = digest(stream.read_buffer_at_offset, stream.size)
    if not entry.has_directory_entries_index():
        facts["size"] = entry.size
        facts["sha256"] = digest(entry.read_buffer_at_offset, entry.size)
    return facts


def ours(fs: Ntfs) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, ino, status in fs.walk():
        assert status is not None
        facts = {"inode": ino, "mtime": status.mtime_ns, "btime": status.btime_ns, "streams": {}}
        for name, size in fs.streams(ino):
            source = fs.open(ino, name)
            facts["streams"][name.decode()] = digest(lambda length, at, source=source: source.read(at, length), size)
        if stat.S_ISREG(status.mode):
            source = fs.open(ino)
            facts["size"] = status.size
            facts["sha256"] = digest(lambda length, at, source=source: source.read(at, length), status.size)
        yield "/" + path.decode("utf-8", "surrogatepass"), facts


@pytest.mark.parametrize("name", NAMES)
def test_libfsntfs_sees_the_same(name: str) -> None:
    data = lzma.decompress((DATA / f"{name}.img.xz").read_bytes())
    mine = dict(ours(open_ntfs([BytesSource(data)], Limits(), {})))
    compared = 0
    for path, entry in theirs(data):
        assert path in mine
        if "sha256" not in mine[path] and not entry.has_directory_entries_index():
            continue  # a link or a device
        assert shown(entry) == mine[path], path
        compared += 1
    assert compared > len(mine) * (0.9 - LOST.get(name, 0))
