"""Fat: the FileSystem of FAT12, FAT16 and FAT32, put together from the rooms of this package.

Names, modes, times and figures are those of Linux's vfat with its default options and utf8. The format knows no inode
numbers; keys are: 1 for the root, a directory's first cluster (so that it is one node whatever names it, and its ".."
leads back), 2^32 and the place of its entry in units of 32 bytes for a file. A directory's own entry is looked up in
the directory that its ".." names.

Left out: writing, the FAT copies that are not in use, Linux's reading behind the end of a directory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

from guestkit.chains import FIRST, Chain, Chains, Heap, content
from guestkit.errors import Corrupt, GuestkitError, IsADirectory, NotADirectory, NotFound
from guestkit.fs.base import Stat, State, StatVfs, whole
from guestkit.fs.fat.boot import ENTRY, Boot, parse_info
from guestkit.fs.fat.directory import MOST_BYTES, Listing, Shape
from guestkit.fs.fat.entries import DIRECTORY, READ_ONLY, cluster_of, each_file, is_named, size_of
from guestkit.fs.fat.names import ShortNames
from guestkit.fs.fat.sets import FILES, DecodedSets, Decoder, Found, Set
from guestkit.fs.fat.times import HUNDREDTH, Times
from guestkit.fs.plain import MOST_TOGETHER, Plain
from guestkit.limits import Limits
from guestkit.ownership import Ownership
from guestkit.probe import label_text
from guestkit.source import BytesSource, Source

_new = tuple.__new__
ROOT = 1
_MOST_COUNTED = 64 << 20  # bytes of a FAT whose free clusters are counted whatever FSInfo says
_NAME_MAX = 255 * 6  # bytes, as Linux says it
_ENTRY_MEMORY = 300  # bytes that a kept entry takes, about


class Fat(Plain[bytes, Listing]):
    """One FAT filesystem on `device`."""

    kind = "vfat"
    root = ROOT
    case_sensitive = False

    def __init__(self, device: Source, boot: Boot, limits: Limits, options: Mapping[str, str]) -> None:
        """Raises: InvalidArgument for an option that makes no sense; SourceError."""
        super().__init__()
        self.boot = boot
        self.uuid = boot.serial
        self._device = device
        self._limits = limits
        self._token = limits.token()
        self._owner = Ownership(options)
        self._names = ShortNames(options.get("codepage", "437"))
        self._chains = Chains(device, boot.fat_start, 28 if boot.bits == 32 else boot.bits, boot.clusters, limits)
        self._heap = Heap(device, boot.data_start, boot.cluster_size)
        self._wide = boot.bits == 32
        self._times = Times(self._owner.utc)
        self._decoder = Decoder(self._names, self._wide, self._leads)
        self._free: int | None = None
        self.state = self._read_state()
        self.label = self._read_label()

    def _read_state(self) -> State:
        boot = self.boot
        reasons = []
        if boot.dirty:
            reasons.append("marked as in use in the boot sector")
        if boot.damaged:
            reasons.append("a surface test was asked for")
        if boot.bits > 12 and boot.clusters:
            second, top = self._chains.entry(1), 28 if boot.bits == 32 else 16
            if not second >> top - 1 & 1:
                reasons.append("marked as in use in the FAT")
            if not second >> top - 2 & 1:
                reasons.append("disk errors were met")
        return State("dirty-not-replayed", "; ".join(reasons)) if reasons else State()

    def _read_label(self) -> str:
        try:
            raw = self._shape(ROOT).label
        except Corrupt as error:
            self.damage.add("root directory", error)
            return ""
        if raw is None:
            return ""
        return label_text(b"\xe5" + raw[1:] if raw[0] == 0x05 else raw)

    # directories

    def _listing(self, directory: int) -> Listing:
        """Read the directory ROOT or the one that begins at a valid cluster. Raises: SourceError, Corrupt."""
        listing: Listing | None = self._limits.cache.get((self._token, directory))
        if listing is None:
            listing = self._decoded(directory, *self._read(directory))
        return listing

    def _decoded(self, directory: int, found: Found, shape: Shape) -> Listing:
        sets = found.sets()
        return self._keep(directory, shape, sets, whole(self._decoder.decode(sets)), 0)

    def _shape(self, directory: int) -> Shape:
        """What a directory is; of a large one the names are not decoded. Raises: SourceError, Corrupt."""
        listing: Listing | None = self._limits.cache.get((self._token, directory))
        if listing is not None:
            return listing.shape
        key = (self._token, "s", directory)
        shape: Shape | None = self._limits.cache.get(key)
        if shape is None:
            found, shape = self._read(directory)
            if shape.size > MOST_TOGETHER:
                self._limits.cache.put(key, shape, 700)
            else:  # it is likely to be listed next
                self._decoded(directory, found, shape)
        return shape

    def _read(self, directory: int) -> tuple[Found, Shape]:
        """Raises: SourceError, Corrupt."""
        boot = self.boot
        if directory == ROOT and not self._wide:
            size = boot.root_entries * ENTRY
            found = Found(self._device.read(boot.root_start, size), [(0, boot.root_start // ENTRY)])
            return found, Shape(size, found)
        chain = Chain(self._chains, boot.root_cluster if directory == ROOT else directory)
        most = max(1, MOST_BYTES // boot.cluster_size)
        flaw = None
        try:
            chain.follow(most)
        except Corrupt as error:
            where = _where(directory)
            flaw = error.within(where)
            self.damage.add(where, error)
            if not chain.length:
                raise
        found = Found(*self._data(chain, most))
        return found, Shape(chain.length * boot.cluster_size, found, flaw)

    def _data(self, chain: Chain, most: int) -> tuple[bytes, list[tuple[int, int]]]:
        """The bytes of a directory as far as there are entries, and (number, place) where a run of them begins."""
        size = self._heap.size
        step = max(1, (1 << 16) // size)  # few directories fill more, whatever room they have
        parts: list[bytes] = []
        places: list[tuple[int, int]] = []
        number = 0
        for _, cluster, count in chain.runs(0, most):
            places.append((number, self._heap.place(cluster) // ENTRY))
            for at in range(0, count, step):
                data = self._device.read(self._heap.place(cluster + at), min(step, count - at) * size)
                parts.append(data)
                number += len(data) // ENTRY
                if 0 in data[::ENTRY]:
                    return b"".join(parts), places
        return b"".join(parts), places

    def _keep(self, directory: int, shape: Shape, sets: Sequence[Set], decoded: DecodedSets, begin: int) -> Listing:
        """The listing of a directory, remembered; its sets begin at number `begin` of `decoded`."""
        listing = Listing(shape, sets, decoded, begin)
        if decoded.notes:
            for at in range(begin, begin + len(sets)):
                for note in decoded.notes.get(at, ()):
                    self.damage.add(_where(directory), note)
        self._limits.cache.put((self._token, directory), listing, 1000 + _ENTRY_MEMORY * len(listing.entries))
        return listing

    def _pieces(self, directory: int, cookie: int = 0) -> Iterator[Listing]:
        listing = self._directory(directory)
        yield listing
        listing.shape.complain()

    def _gather(self, keys: Iterable[int], told: Mapping[int, bytes]) -> Generator[None, None, dict[int, Listing]]:
        read: dict[int, Listing] = {}
        wanted: list[tuple[int, int, int]] = []
        sizes: dict[int, int] = {}
        for key in keys:
            listing: Listing | None = self._limits.cache.get((self._token, key))
            if listing is not None:
                if listing.shape.flaw is None and (listing.shape.subdirectories > 1 or key == ROOT):
                    read[key] = listing
            elif self._leads(key):
                try:
                    count, last = self._chains.run(key)
                except GuestkitError:  # whoever lists it by itself is told
                    continue
                sizes[key] = count * self._heap.size
                if self._chains.ends(last) and sizes[key] <= MOST_BYTES:
                    wanted.append((self._heap.place(key), min(sizes[key], MOST_TOGETHER), key))
        sets: list[Set] = []
        spans: list[tuple[int, Shape, list[Set], int]] = []
        for key, place, data in self._heap.together(wanted):
            if len(data) < sizes[key] and 0 not in data[::ENTRY]:
                continue
            found = Found(data, [(0, place // ENTRY)])
            if found.subdirectories > 1:
                own = found.sets()
                spans.append((key, Shape(sizes[key], found), own, len(sets)))
                sets += own
                yield
        decoded = yield from self._decoder.decode(sets)
        for key, shape, own, begin in spans:
            read[key] = self._keep(key, shape, own, decoded, begin)
            yield
        return read

    def _directory(self, key: int) -> Listing:
        """Raises: NotFound, NotADirectory, Corrupt."""
        self._shape_of(key)
        return self._listing(key)

    def _shape_of(self, key: int) -> Shape:
        """Raises: NotFound, NotADirectory, Corrupt."""
        if key == ROOT:
            return self._shape(ROOT)
        if key >= FILES:
            self._file(key)
            raise NotADirectory(where=f"inode {key}")
        if not self._leads(key):
            raise NotFound(f"no inode {key}")
        shape = self._shape(key)
        if shape.subdirectories < 2:
            raise Corrupt(f"directory at cluster {key}", 'entries "." and ".."', expected="both")
        return shape

    def _leads(self, cluster: int) -> bool:
        """Whether a directory may begin there."""
        return self._chains.valid(cluster) and cluster != self.boot.root_cluster

    def _above(self, shape: Shape, key: int) -> int:
        if shape.dotdot is None:
            raise Corrupt(f"directory at cluster {key}", 'entry ".."', expected="the second entry")
        cluster = cluster_of(shape.dotdot, self._wide)
        if not cluster or (self._wide and cluster == self.boot.root_cluster):
            return ROOT
        if not self._leads(cluster):
            raise Corrupt(f"directory at cluster {key}", "cluster of ..", found=cluster)
        return cluster

    def parent(self, directory: int) -> int:
        shape = self._shape_of(directory)
        return ROOT if directory == ROOT else self._above(shape, directory)

    def lookup(self, directory: int, name: bytes) -> int:
        listing = self._directory(directory)
        found = listing.find(name, self._names)
        if found is not None:
            return found
        listing.shape.complain()
        raise NotFound

    # inodes

    def stat(self, ino: int) -> Stat:
        if ino >= FILES:
            return self._file_stats([ino], self._file(ino))[0]
        return self._directory_stat(ino, self._shape_of(ino))

    def _stats(self, names: Listing, begin: int, end: int) -> list[Stat | None]:
        stats: list[Stat | None] = [
            *self._file_stats(
                [entry[1] for entry in names.entries[begin:end]], names.shorts[begin * ENTRY : end * ENTRY]
            )
        ]
        for number, _ in names.late:
            if begin <= number < end:
                stats[number - begin] = None
        return stats

    def _file_stats(self, keys: Iterable[int], raws: bytes) -> list[Stat]:
        """The Stat of what is no directory; `raws`: the 32 bytes of each entry."""
        times, owner, cluster, new = self._times, self._owner, self.boot.cluster_size, _new
        usual = 0o100000 | owner.file_mode
        locked = usual & ~0o222
        uid, gid = owner.uid, owner.gid
        round_up = cluster - 1
        found: list[Stat] = []
        for key, fields in zip(keys, each_file(raws), strict=True):
            attributes, tenth, create_time, create_date, access_date, write_time, write_date, size = fields
            mtime = times[write_date, write_time]
            found.append(
                new(
                    Stat,
                    (
                        key,
                        locked if attributes & READ_ONLY else usual,
                        1,
                        uid,
                        gid,
                        0,
                        size,
                        cluster,
                        (size + round_up & ~round_up) >> 9,
                        times[access_date, 0],
                        mtime,
                        mtime,
                        times[create_date, create_time] + tenth * HUNDREDTH,
                    ),
                )
            )
        return found

    def _late(self, directory: int, names: Listing, number: int, told: bytes, known: Mapping[int, Listing]) -> Stat:
        key = names.entries[number][1]
        if key >= FILES:
            return self.stat(key)
        listing = known.get(key)
        shape = self._shape_of(key) if listing is None else listing.shape
        return self._directory_stat(key, shape, directory, names)

    def _directory_stat(self, ino: int, shape: Shape, above: int = 0, names: Listing | None = None) -> Stat:
        """`above`, `names`: a directory that is known to name it, which need not be the one it names."""
        size = shape.size
        owner = self._owner
        cluster = self.boot.cluster_size
        blocks = -(-size // cluster) * cluster >> 9
        mode, atime, mtime, btime = 0o40000 | owner.dir_mode, 0, 0, 0
        links = shape.subdirectories
        if ino == ROOT:
            links += 2
        else:
            raw = self._own_entry(ino, shape, above, names)
            if raw is not None:
                own = self._file_stats([ino], raw)[0]
                atime, mtime, btime = own.atime_ns, own.mtime_ns, own.btime_ns or 0
        return Stat(ino, mode, links, owner.uid, owner.gid, 0, size, cluster, blocks, atime, mtime, mtime, btime)

    def _own_entry(self, cluster: int, shape: Shape, above: int, names: Listing | None) -> bytes | None:
        """The entry by which a directory is named; its "." where its ".." does not lead there."""
        try:
            parent = self._above(shape, cluster)
            naming = names if names is not None and parent == above else self._listing(parent)
        except Corrupt:
            return shape.dot
        return naming.naming(cluster, self._wide) or shape.dot

    def _file(self, key: int) -> bytes:
        """The 32 bytes of a file's entry. Raises: NotFound; Corrupt for that of a directory that leads nowhere."""
        at = (key - FILES) * ENTRY
        boot = self.boot
        fixed = boot.root_start <= at < boot.root_start + boot.root_entries * ENTRY
        if not fixed and not boot.data_start <= at < boot.data_start + boot.clusters * boot.cluster_size:
            raise NotFound(f"no inode {key}")
        raw = self._device.read(at, ENTRY)
        if not is_named(raw):
            raise NotFound(f"no inode {key}")
        if raw[11] & DIRECTORY:
            cluster = cluster_of(raw, self._wide)
            if self._leads(cluster):
                raise NotFound(f"no inode {key}")
            raise Corrupt("directory entry", "first cluster", found=cluster, where=f"inode {key}")
        return raw

    # contents

    def open(self, ino: int, stream: bytes = b"") -> Source:
        if ino < FILES:
            self._directory(ino)
            raise IsADirectory(where=f"inode {ino}")
        raw = self._file(ino)
        if stream:
            raise NotFound("FAT has no named streams")
        size = size_of(raw)
        if not size:
            return BytesSource(b"")
        return content(self._heap, Chain(self._chains, cluster_of(raw, self._wide)), size, f"inode {ino}")

    # the whole

    def statvfs(self) -> StatVfs:
        boot = self.boot
        free = self._free_clusters()
        return self.figures(boot.cluster_size, boot.clusters, free, boot.serial, _NAME_MAX)

    def _free_clusters(self) -> int:
        """Counted in the FAT; FSInfo is believed where that is large, and only of a volume that was closed cleanly."""
        if self._free is None:
            told = None
            if (self.boot.clusters + FIRST) * 4 > _MOST_COUNTED and self.state.kind == "clean":
                told = self._told_free()
            self._free = self._chains.free() if told is None else told
        return self._free

    def _told_free(self) -> int | None:
        if not self.boot.info_start:
            return None
        return parse_info(self._device.read(self.boot.info_start, 512), self.boot.clusters)

    def details(self) -> dict[str, object]:
        boot = self.boot
        told = {
            "type": f"FAT{boot.bits}",
            "sector size": boot.sector_size,
            "cluster size": boot.cluster_size,
            "clusters": boot.clusters,
            "tables": boot.fats,
            "active table": boot.active,
            "mirrored": boot.mirrored,
            "boot sector says": boot.text.decode("ascii", "replace"),
        }
        if boot.info_start:
            told["free clusters by FSInfo"] = self._told_free()
        return told


def _where(directory: int) -> str:
    return "root directory" if directory == ROOT else f"directory at cluster {directory}"
