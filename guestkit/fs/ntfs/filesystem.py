"""Ntfs: the FileSystem, put together from the rooms of this package.

Spec: libfsntfs documentation; what a name, a link or a figure shows is what ntfs-3g shows, but that compressed system
files (WOF) are read, and files whose content is elsewhere (deduplicated, in a cloud) are refused by name and not shown
as links. An inode key is the number of an MFT record. Left out: writing, $LogFile, decryption, the change journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestkit.errors import (
    Corrupt,
    GuestkitError,
    InvalidArgument,
    IsADirectory,
    NotFound,
    Unsupported,
)
from guestkit.fs.base import (
    SMALL,
    DirEntry,
    FileSystem,
    Link,
    Problems,
    RawEntry,
    Small,
    Stat,
    StatVfs,
    gathered,
    whole,
)
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs import reparse
from guestkit.fs.ntfs.content import plain_file
from guestkit.fs.ntfs.directory import ROOT, Directories
from guestkit.fs.ntfs.inode import Inode, Inodes
from guestkit.fs.ntfs.links import Links
from guestkit.fs.ntfs.mft import Table
from guestkit.fs.ntfs.names import to_utf16
from guestkit.fs.ntfs.security import Security
from guestkit.fs.ntfs.state import VolumeInformation, read_state, read_volume
from guestkit.fs.ntfs.statfs import statvfs
from guestkit.fs.ntfs.status import REPARSE, WOF_STREAM, Found, Status
from guestkit.fs.ntfs.volume import Options, Volume
from guestkit.fs.ntfs.wof import wof_source
from guestkit.fs.ntfs.xattr import Attributes
from guestkit.source import BytesSource, Source

_new = tuple.__new__


class Ntfs(FileSystem):
    """One NTFS volume."""

    kind = "ntfs"
    root = ROOT
    has_streams = True

    def __init__(self, volume: Volume, options: Options, damage: Problems) -> None:
        """Raises: Corrupt when $MFT or the root directory cannot be used."""
        super().__init__()
        self.damage = damage
        self.volume = volume
        self.table = Table(volume)
        self.inodes = Inodes(volume, self.table)
        self._directories = Directories(volume, self.inodes, options.show_sys_files, options.ignore_case)
        self._links = Links(volume, self.inodes, self._directories)
        self._status = Status(self.inodes, self._links, options)
        self._attributes = Attributes(self._status, Security(volume, self.inodes))
        self._figures: StatVfs | None = None
        self.uuid = volume.boot.uuid
        self.case_sensitive = not options.ignore_case
        try:
            self.information = read_volume(self.inodes)
        except (Corrupt, NotFound) as error:
            damage.add("$Volume", error)
            self.information = VolumeInformation("", 0, 0, 1)
        self.label = self.information.label
        if not self.inodes.read(ROOT).is_directory:
            raise Corrupt("MFT record 5", "flags", expected="the root directory")
        self.state = read_state(volume, self.inodes, self._directories, self.information.flags)

    # names

    def stat(self, ino: int) -> Stat:
        return self._status.stat(ino)

    def lookup(self, directory: int, name: bytes) -> int:
        reference = self._directories.lookup(directory, name)
        number = reference & r.REFERENCE
        try:
            record = self.table.record(number)
        except NotFound:
            raise Corrupt("index entry", "MFT record", found=number, where=f"directory inode {directory}") from None
        if not record.flags & r.IN_USE or record.base:
            raise Corrupt("MFT record", "flags", expected="a file in use", where=f"inode {number}")
        if reference >> 48 not in (0, record.sequence):
            expected = reference >> 48
            raise Corrupt(
                "MFT record", "sequence number", found=record.sequence, expected=expected, where=f"inode {number}"
            )
        return number

    def parent(self, directory: int) -> int:
        return self._directories.parent(directory)

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for batch in self._directories.batches(directory, cookie):
            for name, reference, kind, behind in batch:
                yield _new(DirEntry, (name, reference & 0xFFFFFFFFFFFF, kind, behind))

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        for batch, stats in self.scan_lists(directory, cookie):
            for entry, status in zip(batch, stats, strict=True):
                yield _new(DirEntry, entry), status

    def scan_lists(self, directory: int, cookie: int = 0) -> Iterator[tuple[list[RawEntry], list[Stat | None]]]:
        for batch in gathered(self._directories.batches(directory, cookie)):
            references = [entry[1] for entry in batch]
            stats = self._stats(references)
            yield _numbered(batch), [stats[reference] for reference in references]

    def scan_small(self, directories: Sequence[int]) -> Small:
        found: dict[int, list[RawEntry]] = {}
        for directory in directories:
            entries: list[RawEntry] = []
            try:
                for batch in self._directories.batches(directory):
                    entries += batch
                    if len(entries) > SMALL:
                        break
                else:
                    found[directory] = entries
            except GuestkitError:  # whoever lists it by itself is told
                continue
            yield
        references = {entry[1] for entries in found.values() for entry in entries}
        stats = self._told((yield from self._status.many(references)))
        numbered = {reference & r.REFERENCE: status for reference, status in stats.items()}
        if len(numbered) < len(references):  # one of them is stale; what it is told depends on the directory
            return {}, {}
        return {directory: _numbered(entries) for directory, entries in found.items()}, numbered

    def _stats(self, references: list[int]) -> dict[int, Stat | None]:
        """The stat of each file reference; None, and a problem, where stat() would raise."""
        return self._told(whole(self._status.many(references)))

    def _told(self, found: Found) -> dict[int, Stat | None]:
        for reference, error in found.bad.items():
            self.damage.add(f"inode {reference & 0xFFFFFFFFFFFF}", error)
            found.stats[reference] = None
        return found.stats

    # contents

    def open(self, ino: int, stream: bytes = b"") -> Source:
        if not stream:
            plain = plain_file(self.volume, self.table.record(ino))
            if plain is not None:
                return plain
        inode = self.inodes.read(ino)
        if stream:
            return self._stream(inode, stream)
        attributes = self._status.information(inode)[4]
        if attributes & 0x404 or inode.is_directory:
            kind, point = self._status.kind(inode)
            if kind == 0x4000:
                raise IsADirectory(where=inode.where)
            if kind != 0x8000:
                raise InvalidArgument("not a regular file", where=inode.where)
            if attributes & REPARSE:
                if point is None:
                    raise Corrupt("inode", "$REPARSE_POINT", expected="one", where=inode.where)
                return self._reparsed(inode, point)
        return inode.open(r.DATA) or BytesSource(b"")

    def _reparsed(self, inode: Inode, point: reparse.Reparse) -> Source:
        if point.tag != reparse.WOF:
            raise Unsupported(reparse.feature(point.tag), where=inode.where)
        data = inode.head(r.DATA)
        stream = inode.open(r.DATA, WOF_STREAM)
        size = data.size if data is not None else 0
        return wof_source(point.data, stream, size, self.volume.limits, inode.where)

    def _stream(self, inode: Inode, stream: bytes) -> Source:
        name = to_utf16(stream)
        if name and name in inode.names(r.DATA):
            found = inode.open(r.DATA, name)
            if found is not None:
                return found
        raise NotFound(f"no stream {stream!r}", where=inode.where)

    def stream_stat(self, ino: int, stream: bytes) -> Stat:
        inode = self.inodes.read(ino)
        name = to_utf16(stream)
        head = inode.head(r.DATA, name) if name and name in inode.names(r.DATA) else None
        if head is None:
            raise NotFound(f"no stream {stream!r}", where=inode.where)
        return self._status.of_stream(self.stat(ino), head, inode.record.links)

    def readlink(self, ino: int) -> Link:
        inode = self.inodes.read(ino)
        kind, point = self._status.kind(inode)
        if kind != 0xA000:
            raise InvalidArgument("not a symbolic link", where=inode.where)
        return self._links.read(inode, point)

    def streams(self, ino: int) -> Sequence[tuple[bytes, int]]:
        return [(name, size) for name, _, size in self._attributes.streams(self.inodes.read(ino))]

    def xattr_names(self, ino: int) -> Sequence[bytes]:
        return self._attributes.names(self.inodes.read(ino))

    def xattr(self, ino: int, name: bytes) -> bytes:
        return self._attributes.value(self.inodes.read(ino), name)

    # the whole

    def statvfs(self) -> StatVfs:
        if self._figures is None:
            self._figures = statvfs(self.volume, self.inodes)
        return self._figures

    def details(self) -> dict[str, object]:
        boot, told = self.volume.boot, self.information
        return {
            "version": f"{told.major}.{told.minor}",
            "volume_flags": told.flag_names,
            "sector_size": boot.sector_size,
            "cluster_size": boot.cluster_size,
            "record_size": boot.record_size,
            "index_block_size": boot.index_size,
            "clusters": boot.clusters,
            "records": self.table.count,
            "serial_number": self.uuid,
        }


def _numbered(batch: list[RawEntry]) -> list[RawEntry]:
    """Entries with inode keys, of those with file references."""
    return [(name, reference & 0xFFFFFFFFFFFF, kind, behind) for name, reference, kind, behind in batch]
