"""ExFat: the FileSystem of exFAT, put together from the rooms of this package.

Modes, times and figures are those of Linux's exfat with its default options. The format knows no inode numbers; keys
are: 1 for the root, else the place of a file's or directory's entry set in units of 32 bytes. The root directory has no
entry and so no times: they are 0.

Left out: writing, the FAT and the bitmap that TexFAT does not have in use, access control and vendor extensions.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from threading import Lock

from guestkit.chains import FIRST, Chain, Chains, Heap, content
from guestkit.errors import (
    Corrupt,
    GuestkitError,
    IsADirectory,
    NotADirectory,
    NotFound,
    Unsupported,
)
from guestkit.fs.base import DT_DIR, DT_REG, SKIPPED, DirEntry, Plain, Stat, State, StatVfs, may_be_shown
from guestkit.fs.exfat import upcase
from guestkit.fs.exfat.boot import Boot
from guestkit.fs.exfat.directory import MOST_BYTES, Claims, Directory, Hashes, Listing
from guestkit.fs.exfat.entries import (
    BITMAP,
    DIRECTORY,
    END,
    ENTRY,
    FILE,
    LABEL,
    LEAST_SECONDARIES,
    MOST_SECONDARIES,
    MOST_SET,
    READ_ONLY,
    UPCASE,
    File,
    Record,
    converter,
    parse_set,
)
from guestkit.limits import Limits
from guestkit.ownership import Ownership
from guestkit.probe import label_text
from guestkit.source import BytesSource, Concat, Source, ZeroSource

_new = tuple.__new__
ROOT = 1
_NAME_MAX = 255 * 6  # bytes, as Linux says it
_RECORD_MEMORY = 850  # bytes that a kept record takes, about


class ExFat(Plain):
    """One exFAT filesystem on `device`."""

    kind = "exfat"
    root = ROOT
    case_sensitive = False

    def __init__(self, device: Source, boot: Boot, limits: Limits, options: Mapping[str, str]) -> None:
        """Raises: InvalidArgument for an option that makes no sense; SourceError."""
        super().__init__()
        self.boot = boot
        self.uuid = boot.serial
        self._device = device
        self._cache = limits.cache
        self._token = limits.token()
        self._owner = Ownership(options)
        self._time = converter(self._owner.utc)
        self._chains = Chains(device, boot.fat_start, 32, boot.clusters, limits)
        self._heap = Heap(device, boot.heap_start, boot.cluster_size)
        self._claims = Claims(boot.root_cluster, ROOT)
        self._lock = Lock()
        self._table: array[int] | None = None
        reasons = [
            reason
            for told, reason in (
                (boot.dirty, "marked as in use"),
                (boot.media_failure, "the medium failed before"),
            )
            if told
        ]
        self.state = State("dirty-not-replayed", "; ".join(reasons)) if reasons else State()
        self._critical: dict[int, bytes] = {}
        try:
            self._critical = self._volume_entries()
        except Corrupt as error:
            self.damage.add("root directory", error)
        entry = self._critical.get(LABEL, bytes(ENTRY))
        self.label = label_text(entry[2 : 2 + 2 * min(entry[1], 11)], "utf-16-le")

    # the volume's own entries

    def _volume_entries(self) -> dict[int, bytes]:
        """The first entry of each kind in the root directory; of the bitmaps, the active FAT's."""
        found: dict[int, bytes] = {}
        wanted = {BITMAP, UPCASE, LABEL}
        for data, _ in self._directory(ROOT).data():
            kinds = data[::ENTRY]
            end = kinds.find(END)
            for kind in tuple(wanted):
                at = kinds.find(kind, 0, end if end >= 0 else len(kinds))
                while at >= 0:
                    entry = data[at * ENTRY : (at + 1) * ENTRY]
                    if kind != BITMAP or entry[1] & 1 == self.boot.active:
                        found[kind] = entry
                        wanted.discard(kind)
                        break
                    at = kinds.find(kind, at + 1, end if end >= 0 else len(kinds))
            if end >= 0 or not wanted:
                break
        return found

    def _allocation(self, kind: int, what: str) -> Source:
        """The bytes that one of the volume's own entries names. Raises: Corrupt."""
        entry = self._critical.get(kind)
        if entry is None:
            raise Corrupt("root directory", what, expected="an entry of it")
        size = int.from_bytes(entry[24:32], "little")
        if not 0 < size <= self.boot.clusters * self.boot.cluster_size:
            raise Corrupt(what, "DataLength", found=size)
        return content(self._heap, Chain(self._chains, int.from_bytes(entry[20:24], "little")), size, what)

    def _upcase(self) -> array[int]:
        with self._lock:
            if self._table is None:
                try:
                    source = self._allocation(UPCASE, "up-case table")
                    if source.size > upcase.MOST_BYTES:
                        raise Corrupt("up-case table", "DataLength", found=source.size)
                    told = int.from_bytes(self._critical[UPCASE][4:8], "little")
                    self._table = upcase.parse_table(source.read(0, source.size), told)
                except Corrupt as error:
                    self.damage.add("up-case table", error)
                    self._table = upcase.ascii_table()
            return self._table

    # directories

    def _directory(self, key: int) -> Directory:
        """Raises: NotFound, NotADirectory, Corrupt."""
        size = self.boot.cluster_size
        if key == ROOT:
            known: Directory | None = self._cache.get((self._token, "D", ROOT))
            if known is None:
                chain = Chain(self._chains, self.boot.root_cluster)
                flaw = None
                try:
                    chain.follow(MOST_BYTES // size)
                except Corrupt as error:
                    flaw = error.within("root directory")
                known = Directory(self._heap, chain, min(chain.length * size, MOST_BYTES), "root directory", flaw)
                self._cache.put((self._token, "D", ROOT), known, 2000 + 16 * len(chain.starts))
            return known
        opened: Directory | None = self._cache.get((self._token, "D", key))
        return self._opened(self._file(key)) if opened is None else opened

    def _opened(self, file: File) -> Directory:
        where = f"inode {file.place}"
        if not file.attributes & DIRECTORY:
            raise NotADirectory(where=where)
        key = (self._token, "D", file.place)
        directory: Directory | None = self._cache.get(key)
        if directory is None:
            size = self.boot.cluster_size
            if file.size > MOST_BYTES:
                raise Corrupt("directory", "DataLength", found=file.size, expected=f"to {MOST_BYTES}", where=where)
            clusters = -(-file.size // size)
            flaw = None
            try:
                chain = self._chain(file, clusters)
                if clusters:
                    chain.extend(clusters)
            except Corrupt as error:
                flaw = error.within(where)
                if file.contiguous or not chain.length:
                    raise
            directory = Directory(self._heap, chain, min(file.size, chain.length * size), where, flaw)
            self._cache.put(key, directory, 2000 + 16 * len(chain.starts))
        return directory

    def _chain(self, file: File, clusters: int) -> Chain:
        if file.contiguous and clusters:
            return Chain.contiguous(self._chains, file.cluster, clusters)
        return Chain(self._chains, file.cluster)

    def _listing(self, directory: Directory, key: int) -> Listing:
        """All of a small directory, remembered. Raises: SourceError."""
        name = (self._token, "L", key)
        listing: Listing | None = self._cache.get(name)
        if listing is None:
            records: list[Record] = []
            flaw: GuestkitError | None = None
            try:
                for batch in directory.records(self.damage):
                    records += batch
            except (Corrupt, Unsupported) as error:
                flaw = error
            listing = Listing(records, flaw)
            self._cache.put(name, listing, 500 + _RECORD_MEMORY * len(records))
        return listing

    def _batches(self, key: int, cookie: int = 0) -> Iterator[list[Record]]:
        """Yield what may be shown of a directory. Raises: NotADirectory, NotFound; Corrupt, Unsupported at the end."""
        directory = self._directory(key)
        if directory.small:
            listing = self._listing(directory, key)
            yield self._shown(listing.behind(cookie), key)
            listing.complain()
            return
        for batch in directory.records(self.damage, cookie):
            yield self._shown(batch, key)

    def _shown(self, records: list[Record], parent: int) -> list[Record]:
        kept = []
        for record in records:
            file = record.file
            name = file.name
            if not may_be_shown(name):
                self.damage.add(f"inode {parent}", f"the name {name!r} cannot be shown")
                continue
            if file.attributes & DIRECTORY and file.cluster:
                try:
                    self._claims.check(file.cluster, file.place, parent)
                except Corrupt as error:
                    self.damage.add(f"inode {file.place}", error)
            kept.append(record)
        return kept

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        for batch in self._batches(directory, cookie):
            for number, file in batch:
                kind = DT_DIR if file.attributes & DIRECTORY else DT_REG
                yield _new(DirEntry, (file.name, file.place, kind, number))

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        for batch in self._batches(directory, cookie):
            for number, file in batch:
                kind = DT_DIR if file.attributes & DIRECTORY else DT_REG
                yield _new(DirEntry, (file.name, file.place, kind, number)), self._stat_or_none(file)

    def lookup(self, directory: int, name: bytes) -> int:
        found = self._find(directory, name)
        if found.attributes & DIRECTORY and found.cluster:
            self._claims.check(found.cluster, found.place, directory)
        return found.place

    def _find(self, key: int, name: bytes) -> File:
        directory = self._directory(key)
        table = self._upcase()
        try:
            text = name.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # no name is stored so
            raise NotFound from None
        # dots at the end mean nothing, but a name that has some is found by them
        wanted = [upcase.fold(text, table), upcase.fold(text.rstrip("."), table)]
        if directory.small:
            listing = self._listing(directory, key)
            record = listing.exact.get(name)
            if record is None:
                if listing.folded is None:
                    folded: dict[bytes, Record] = {}
                    for other in listing.records:
                        shown = other.file.name.decode("utf-8", "surrogatepass")
                        folded.setdefault(upcase.fold(shown, table), other)
                    listing.folded = folded
                record = listing.folded.get(wanted[0]) or listing.folded.get(wanted[1])
            if record is not None:
                return record.file
            listing.complain()
            raise NotFound
        alike: File | None = None
        index = self._hashes(directory, key)
        for hash in {upcase.name_hash(each) for each in wanted}:
            for place in index.places(hash):
                file = self._file(place)
                if file.name == name:
                    return file
                if alike is None and upcase.fold(file.name.decode("utf-8", "surrogatepass"), table) in wanted:
                    alike = file
        if alike is None:
            index.complain()
            raise NotFound
        return alike

    def _hashes(self, directory: Directory, key: int) -> Hashes:
        """The index of a large directory, remembered. Raises: SourceError."""
        name = (self._token, "H", key)
        index: Hashes | None = self._cache.get(name)
        if index is None:
            index = Hashes(directory.records(self.damage))
            self._cache.put(name, index, 300 + 8 * len(index))
        return index

    def parent(self, directory: int) -> int:
        if directory == ROOT:
            return ROOT
        self._directory(directory)
        known = self._claims.parent(directory)
        if known:
            return known
        pending = [ROOT]
        entered = {self.boot.root_cluster}
        while pending:
            current = pending.pop()
            try:
                for batch in self._batches(current):
                    for _, file in batch:
                        if file.attributes & DIRECTORY:
                            if file.place == directory:
                                return current
                            if file.cluster not in entered:
                                entered.add(file.cluster)
                                pending.append(file.place)
            except SKIPPED as error:
                self.damage.add(f"inode {current}", error)
        raise NotFound(f"no directory names inode {directory}")

    # inodes

    def _file(self, key: int) -> File:
        """The file whose entry set stands at a place. Raises: NotFound, Corrupt, Unsupported, SourceError."""
        heap = self._heap
        at = key * ENTRY
        if not heap.start <= at < heap.place(self._chains.end):
            raise NotFound(f"no inode {key}")
        number, within = divmod(at - heap.start, heap.size)
        room = heap.size - within
        data = self._device.read(at, min(room, MOST_SET))
        if data[0] != FILE or not LEAST_SECONDARIES <= data[1] <= MOST_SECONDARIES:
            raise NotFound(f"no inode {key}")
        need = (data[1] + 1) * ENTRY
        try:
            if need <= room:
                return parse_set(data[:need], key)
            return self._spanning(data, need, number + FIRST, key)
        except (Corrupt, Unsupported) as error:
            error.within(f"inode {key}")
            raise

    def _spanning(self, data: bytes, need: int, cluster: int, key: int) -> File:
        """An entry set that goes on in another cluster: the next one or the FAT's, which the checksum decides."""
        problem: GuestkitError | None = None
        for chained in (True, False):
            held, current = data, cluster
            while len(held) < need:
                current = self._chains.entry(current) if chained else current + 1
                if not self._chains.valid(current):
                    break
                held += self._device.read(self._heap.place(current), min(self._heap.size, need - len(held)))
            try:
                return parse_set(held, key)
            except (Corrupt, Unsupported) as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def stat(self, ino: int) -> Stat:
        if ino != ROOT:
            return self._stat_of(self._file(ino))
        directory = self._directory(ROOT)
        return self._stat(ROOT, 0o40000 | self._owner.dir_mode, self._links(ROOT, directory), directory.size, 0, 0, 0)

    def _stat_or_none(self, file: File) -> Stat | None:
        try:
            return self._stat_of(file)
        except SKIPPED as error:
            self.damage.add(f"inode {file.place}", error)
            return None

    def _stat_of(self, file: File) -> Stat:
        owner = self._owner
        times = self._time(file.access), self._time(file.modify), self._time(file.create)
        if not file.attributes & DIRECTORY:
            self._check_size(file)
            mode = owner.file_mode & ~0o222 if file.attributes & READ_ONLY else owner.file_mode
            return self._stat(file.place, 0o100000 | mode, 1, file.size, *times)
        if file.cluster:
            self._claims.check(file.cluster, file.place)
        directory = self._opened(file)
        links = self._links(file.place, directory)
        return self._stat(file.place, 0o40000 | owner.dir_mode, links, file.size, *times)

    def _stat(self, ino: int, mode: int, links: int, size: int, atime: int, mtime: int, btime: int) -> Stat:
        owner = self._owner
        cluster = self.boot.cluster_size
        blocks = -(-size // cluster) * cluster >> 9
        return _new(
            Stat, (ino, mode, links, owner.uid, owner.gid, 0, size, cluster, blocks, atime, mtime, mtime, btime)
        )

    def _links(self, key: int, directory: Directory) -> int:
        name = (self._token, "n", key)
        known: int | None = self._cache.get(name)
        if known is None:
            if directory.small:
                records = self._listing(directory, key).records
                known = 2 + sum(bool(record.file.attributes & DIRECTORY) for record in records)
            else:
                known = 2 + directory.subdirectories()
            self._cache.put(name, known, 200)
        return known

    # contents

    def open(self, ino: int, stream: bytes = b"") -> Source:
        if ino == ROOT:
            raise IsADirectory(where=f"inode {ino}")
        file = self._file(ino)
        where = f"inode {ino}"
        if file.attributes & DIRECTORY:
            raise IsADirectory(where=where)
        if stream:
            raise NotFound("exFAT has no named streams")
        self._check_size(file)
        if not file.valid:
            return ZeroSource(file.size) if file.size else BytesSource(b"")
        size = self.boot.cluster_size
        try:
            source = content(self._heap, self._chain(file, -(-file.size // size)), file.valid, where)
        except Corrupt as error:
            error.within(where)
            raise
        return source if file.valid == file.size else Concat([source, ZeroSource(file.size - file.valid)])

    def _check_size(self, file: File) -> None:
        most = self.boot.clusters * self.boot.cluster_size
        if file.size > most:
            raise Corrupt(
                "stream extension", "DataLength", found=file.size, expected=f"to {most}", where=f"inode {file.place}"
            )

    # the whole

    def statvfs(self) -> StatVfs:
        boot = self.boot
        free = boot.clusters - self._used()
        return self.figures(boot.cluster_size, boot.clusters, free, boot.serial, _NAME_MAX)

    def _used(self) -> int:
        """Count the clusters in use by the allocation bitmap. Raises: Corrupt, SourceError."""
        clusters = self.boot.clusters
        bitmap = self._allocation(BITMAP, "allocation bitmap")
        if bitmap.size < -(-clusters // 8):
            raise Corrupt("allocation bitmap", "DataLength", found=bitmap.size, expected=-(-clusters // 8))
        used = 0
        whole, rest = divmod(clusters, 8)
        for at in range(0, whole, 1 << 20):
            used += int.from_bytes(bitmap.read(at, min(1 << 20, whole - at)), "little").bit_count()
        if rest:
            used += (bitmap.read(whole, 1)[0] & (1 << rest) - 1).bit_count()
        return used

    def details(self) -> dict[str, object]:
        boot = self.boot
        return {
            "revision": boot.revision,
            "sector size": boot.sector_size,
            "cluster size": boot.cluster_size,
            "clusters": boot.clusters,
            "tables": boot.fats,
            "active table": boot.active,
        }
