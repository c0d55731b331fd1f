"""ExFat: the FileSystem of exFAT, put together from the rooms of this package.

Modes, times and figures are those of Linux's exfat with its default options. The format knows no inode numbers; keys
are: 1 for the root, else the place of a file's or directory's entry set in units of 32 bytes. The root directory has no
entry and so no times: they are 0.

Left out: writing, the FAT and the bitmap that TexFAT does not have in use, access control and vendor extensions.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping
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
from guestkit.fs.base import SKIPPED, Stat, State, StatVfs
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
    TENTH,
    UPCASE,
    File,
    Times,
    parse_set,
)
from guestkit.fs.exfat.sets import DecodedSets, Decoder, Finder, Set
from guestkit.fs.plain import MOST_TOGETHER, Plain
from guestkit.limits import Limits
from guestkit.ownership import Ownership
from guestkit.probe import label_text
from guestkit.source import BytesSource, Concat, Source, ZeroSource

_new = tuple.__new__
ROOT = 1
_NAME_MAX = 255 * 6  # bytes, as Linux says it
_RECORD_MEMORY = 700  # bytes that a kept record takes, about


class ExFat(Plain[File, Listing]):
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
        self._times = Times(self._owner.utc)
        self._chains = Chains(device, boot.fat_start, 32, boot.clusters, limits)
        self._heap = Heap(device, boot.heap_start, boot.cluster_size)
        self._decoder = Decoder(self._owner, self._times, boot.cluster_size, boot.clusters * boot.cluster_size)
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

    def _small(self, key: int) -> bool:
        """Whether all of a directory may be remembered. Raises: NotFound, NotADirectory, Corrupt."""
        return (self._token, "L", key) in self._cache or self._directory(key).small

    def _listing(self, key: int) -> Listing:
        """All of a small directory, remembered. Raises: NotADirectory, NotFound, Corrupt, SourceError."""
        name = (self._token, "L", key)
        listing: Listing | None = self._cache.get(name)
        if listing is None:
            flaw: GuestkitError | None = None
            decoded = DecodedSets(0)
            try:
                for _, each in self._directory(key).pieces(self._decoder, self.damage):
                    decoded = each
            except (Corrupt, Unsupported) as error:
                flaw = error
            listing = self._keep(decoded, 0, len(decoded.entries), key)
            listing.flaw = flaw
        return listing

    def _keep(self, decoded: DecodedSets, begin: int, end: int, key: int) -> Listing:
        """The listing of directory `key`, remembered: the sets `begin` to `end` - 1."""
        listing = self._shown(decoded, begin, end, key)
        self._cache.put((self._token, "L", key), listing, 700 + _RECORD_MEMORY * len(listing.entries))
        return listing

    def _shown(self, decoded: DecodedSets, begin: int, end: int, parent: int) -> Listing:
        """A listing of directory `parent`; whom the directories belong to that it names is remembered."""
        listing = Listing(decoded, begin, end)
        for name in listing.hidden:
            self.damage.add(f"inode {parent}", f"the name {name!r} cannot be shown")
        for _, file in listing.late:
            if file.attributes & DIRECTORY and file.cluster:
                try:
                    self._claims.check(file.cluster, file.place, parent)
                except Corrupt as error:
                    self.damage.add(f"inode {file.place}", error)
        return listing

    def _pieces(self, directory: int, cookie: int = 0) -> Iterator[Listing]:
        if self._small(directory):
            listing = self._listing(directory)
            yield listing
            listing.complain()
            return
        for sets, decoded in self._directory(directory).pieces(self._decoder, self.damage, cookie):
            yield self._shown(decoded, 0, len(sets), directory)

    def _gather(self, keys: Iterable[int], told: Mapping[int, File]) -> Generator[None, None, dict[int, Listing]]:
        found: dict[int, Listing] = {}
        wanted: list[tuple[int, int, int]] = []
        for key in keys:
            listing: Listing | None = self._cache.get((self._token, "L", key))
            if listing is not None:
                if listing.flaw is None:
                    found[key] = listing
                continue
            try:
                place = self._plain(told.get(key) or self._file(key))
            except GuestkitError:  # whoever lists it by itself is told
                continue
            if place is not None:
                wanted.append((*place, key))
        sets: list[Set] = []
        spans: list[tuple[int, int, int]] = []
        for key, at, data in self._heap.together(wanted):
            finder = Finder()
            own = finder.feed(data, at // ENTRY)
            finder.finish()
            if (finder.ended or len(data) < MOST_TOGETHER) and not finder.flaws:
                spans.append((key, len(sets), len(sets) + len(own)))
                sets += own
                yield
        decoded = yield from self._decoder.decode(sets)
        wrong = sorted(decoded.errors)
        for key, begin, end in spans:
            if bisect_left(wrong, begin) == bisect_left(wrong, end):
                found[key] = self._keep(decoded, begin, end, key)
                yield
        return found

    def _plain(self, file: File) -> tuple[int, int] | None:
        """Where a directory stands and how much of it is to be read, if that is simple. Raises: SourceError."""
        clusters = -(-file.size // self._heap.size)
        first = file.cluster
        if not file.attributes & DIRECTORY or not 0 < clusters <= self._chains.end - first or first < FIRST:
            return None
        if not file.contiguous and self._chains.run(first)[0] < clusters:
            return None
        return self._heap.place(first), min(file.size & -ENTRY, MOST_TOGETHER)

    def _late(self, directory: int, names: Listing, number: int, told: File, known: Mapping[int, Listing]) -> Stat:
        return self._stat_of(told, known.get(told.place))

    def _stats(self, names: Listing, begin: int, end: int) -> list[Stat | None]:
        return names.stats[begin:end]

    def lookup(self, directory: int, name: bytes) -> int:
        place, found = self._find(directory, name)
        if found is not None and found.attributes & DIRECTORY and found.cluster:
            self._claims.check(found.cluster, place, directory)
        return place

    def _find(self, key: int, name: bytes) -> tuple[int, File | None]:
        """The place of a name, and all about what it names unless that is a usual file."""
        small = self._small(key)
        table = self._upcase()
        try:
            text = name.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # no name is stored so
            raise NotFound from None
        # dots at the end mean nothing, but a name that has some is found by them
        wanted = [upcase.fold(text, table), upcase.fold(text.rstrip("."), table)]
        if small:
            listing = self._listing(key)
            found = listing.find(name, wanted, table)
            if found is not None:
                return found
            listing.complain()
            raise NotFound
        alike: File | None = None
        index = self._hashes(key)
        for hash in {upcase.name_hash(each) for each in wanted}:
            for place in index.places(hash):
                file = self._file(place)
                if file.name == name:
                    return place, file
                if alike is None and upcase.fold(file.name.decode("utf-8", "surrogatepass"), table) in wanted:
                    alike = file
        if alike is None:
            index.complain()
            raise NotFound
        return alike.place, alike

    def _hashes(self, key: int) -> Hashes:
        """The index of a large directory, remembered. Raises: SourceError."""
        name = (self._token, "H", key)
        index: Hashes | None = self._cache.get(name)
        if index is None:
            index = Hashes(self._directory(key).pieces(self._decoder, self.damage))
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
                for names in self._pieces(current):
                    for _, file in names.late:
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

    def _stat_of(self, file: File, listing: Listing | None = None) -> Stat:
        """`listing`: that of a directory, where it is known. Raises: Corrupt, NotADirectory, SourceError."""
        owner = self._owner
        times = self._times
        atime, mtime, btime = (times[stamp, utc] + tenth * TENTH for stamp, tenth, utc in file.times)
        if not file.attributes & DIRECTORY:
            self._check_size(file)
            mode = owner.file_mode & ~0o222 if file.attributes & READ_ONLY else owner.file_mode
            return self._stat(file.place, 0o100000 | mode, 1, file.size, atime, mtime, btime)
        if file.cluster:
            self._claims.check(file.cluster, file.place)
        links = self._links(file.place, self._opened(file)) if listing is None else 2 + listing.subdirectories
        return self._stat(file.place, 0o40000 | owner.dir_mode, links, file.size, atime, mtime, btime)

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
            known = 2 + (self._listing(key).subdirectories if directory.small else directory.subdirectories())
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
