"""Fat: the FileSystem of FAT12, FAT16 and FAT32, put together from the rooms of this package.

Names, modes, times and figures are those of Linux's vfat with its default options and utf8. The format knows no inode
numbers; keys are: 1 for the root, a directory's first cluster (so that it is one node whatever names it, and its ".."
leads back), 2^32 and the place of its entry in units of 32 bytes for a file. A directory's own entry is looked up in
the directory that its ".." names.

Left out: writing, the FAT copies that are not in use, Linux's reading behind the end of a directory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping

from guestkit.chains import FIRST, Chain, Chains, Heap, content
from guestkit.errors import Corrupt, IsADirectory, NotADirectory, NotFound
from guestkit.fs.base import DT_DIR, DT_REG, SKIPPED, DirEntry, Plain, Stat, State, StatVfs
from guestkit.fs.fat.boot import ENTRY, Boot, parse_info
from guestkit.fs.fat.directory import (
    DIRECTORY,
    MOST_BYTES,
    READ_ONLY,
    Entry,
    Listing,
    Short,
    file_fields,
    is_named,
    parse,
    parse_short,
)
from guestkit.fs.fat.names import ShortNames
from guestkit.fs.fat.times import converter
from guestkit.limits import Limits
from guestkit.ownership import Ownership
from guestkit.probe import label_text
from guestkit.source import BytesSource, Source

_new = tuple.__new__
ROOT = 1
_FILES = 1 << 32  # keys from here are places of entries
_MOST_COUNTED = 64 << 20  # bytes of a FAT whose free clusters are counted whatever FSInfo says
_NAME_MAX = 255 * 6  # bytes, as Linux says it
_ENTRY_MEMORY = 300  # bytes that a kept entry takes, about


class Fat(Plain):
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
        self._time = converter(self._owner.utc)
        self._chains = Chains(device, boot.fat_start, 28 if boot.bits == 32 else boot.bits, boot.clusters, limits)
        self._heap = Heap(device, boot.data_start, boot.cluster_size)
        self._wide = boot.bits == 32
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
            raw = self._listing(ROOT).label
        except Corrupt as error:
            self.damage.add("root directory", error)
            return ""
        if raw is None:
            return ""
        return label_text(b"\xe5" + raw[1:] if raw[0] == 0x05 else raw)

    # directories

    def _listing(self, directory: int) -> Listing:
        """Read the directory ROOT or the one that begins at a valid cluster. Raises: SourceError, Corrupt."""
        key = (self._token, directory)
        listing: Listing | None = self._limits.cache.get(key)
        if listing is not None:
            return listing
        boot = self.boot
        where = "root directory" if directory == ROOT else f"directory at cluster {directory}"
        if directory == ROOT and not self._wide:
            size = boot.root_entries * ENTRY
            listing = Listing(size, self._names, False)
            parts = iter([(self._device.read(boot.root_start, size), boot.root_start // ENTRY)])
        else:
            chain = Chain(self._chains, boot.root_cluster if directory == ROOT else directory)
            most = max(1, MOST_BYTES // boot.cluster_size)
            flaw = None
            try:
                chain.follow(most)
            except Corrupt as error:
                flaw = error.within(where)
                self.damage.add(where, error)
                if not chain.length:
                    raise
            listing = Listing(chain.length * boot.cluster_size, self._names, self._wide)
            listing.flaw = flaw
            parts = self._parts(chain, most)
        parse(parts, listing, self._names, self.damage, where)
        self._limits.cache.put(key, listing, 600 + _ENTRY_MEMORY * len(listing.entries))
        return listing

    def _parts(self, chain: Chain, most: int) -> Iterator[tuple[bytes, int]]:
        size = self._heap.size
        step = max(1, (1 << 16) // size)  # few directories fill more, whatever room they have
        for _, cluster, count in chain.runs(0, most):
            for at in range(0, count, step):
                place = self._heap.place(cluster + at)
                yield self._device.read(place, min(step, count - at) * size), place // ENTRY

    def _directory(self, key: int) -> Listing:
        """Raises: NotFound, NotADirectory, Corrupt."""
        if key == ROOT:
            return self._listing(ROOT)
        if key >= _FILES:
            self._file(key)
            raise NotADirectory(where=f"inode {key}")
        if not self._chains.valid(key) or key == self.boot.root_cluster:
            raise NotFound(f"no inode {key}")
        listing = self._listing(key)
        if listing.subdirectories < 2:
            raise Corrupt(f"directory at cluster {key}", 'entries "." and ".."', expected="both")
        return listing

    def _entry_key(self, listing: Listing, entry: Entry) -> int:
        """The key of what an entry names."""
        if entry.raw[11] & DIRECTORY:
            cluster = listing.cluster(entry)
            if self._leads(cluster):
                return cluster
        return _FILES + entry.place

    def _leads(self, cluster: int) -> bool:
        """Whether a directory may begin there."""
        return self._chains.valid(cluster) and cluster != self.boot.root_cluster

    def _above(self, listing: Listing, key: int) -> int:
        if listing.dotdot is None:
            raise Corrupt(f"directory at cluster {key}", 'entry ".."', expected="the second entry")
        cluster = listing.dotdot.cluster
        if not cluster or (self._wide and cluster == self.boot.root_cluster):
            return ROOT
        if not self._leads(cluster):
            raise Corrupt(f"directory at cluster {key}", "cluster of ..", found=cluster)
        return cluster

    def parent(self, directory: int) -> int:
        listing = self._directory(directory)
        return ROOT if directory == ROOT else self._above(listing, directory)

    def lookup(self, directory: int, name: bytes) -> int:
        listing = self._directory(directory)
        found = listing.find(name)
        if found is not None:
            return self._entry_key(listing, found)
        listing.complain()
        raise NotFound

    def _behind(self, listing: Listing, cookie: int) -> list[Entry]:
        if not cookie:
            return listing.entries
        return listing.entries[bisect_right(listing.entries, cookie, key=lambda entry: entry.number) :]

    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        listing = self._directory(directory)
        for entry in self._behind(listing, cookie):
            kind = DT_DIR if entry.raw[11] & DIRECTORY else DT_REG
            yield DirEntry(entry.name, self._entry_key(listing, entry), kind, entry.number)
        listing.complain()

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        listing = self._directory(directory)
        for entry in self._behind(listing, cookie):
            name, number, place, raw = entry
            if not raw[11] & DIRECTORY:
                key = _FILES + place
                yield _new(DirEntry, (name, key, DT_REG, number)), self._file_stat(key, raw)
                continue
            key = self._entry_key(listing, entry)
            status: Stat | None = None
            try:
                status = self._directory_stat(key, directory, listing) if key < _FILES else self.stat(key)
            except SKIPPED as error:
                self.damage.add(f"inode {key}", error)
            yield DirEntry(name, key, DT_DIR, number), status
        listing.complain()

    # inodes

    def stat(self, ino: int) -> Stat:
        if ino >= _FILES:
            return self._file_stat(ino, self._file(ino))
        return self._directory_stat(ino)

    def _directory_stat(self, ino: int, above: int = 0, listing_above: Listing | None = None) -> Stat:
        """`above`, `listing_above`: a directory that is known to name it, which need not be the one it names."""
        listing = self._directory(ino)
        size = listing.size
        owner = self._owner
        cluster = self.boot.cluster_size
        blocks = -(-size // cluster) * cluster >> 9
        mode, atime, mtime, btime = 0o40000 | owner.dir_mode, 0, 0, 0
        links = listing.subdirectories
        if ino == ROOT:
            links += 2
        else:
            short = self._own_entry(ino, listing, above, listing_above)
            if short is not None:
                atime, mtime, btime = self._times(short)
        return Stat(ino, mode, links, owner.uid, owner.gid, 0, size, cluster, blocks, atime, mtime, mtime, btime)

    def _own_entry(self, cluster: int, listing: Listing, above: int, known: Listing | None) -> Short | None:
        """The entry by which a directory is named; its "." where its ".." does not lead there."""
        try:
            parent = self._above(listing, cluster)
            naming = known if known is not None and parent == above else self._listing(parent)
        except Corrupt:
            return listing.dot
        entry = naming.naming(cluster)
        return naming.short(entry) if entry is not None else listing.dot

    def _times(self, short: Short) -> tuple[int, int, int]:
        """(access, write, creation) in nanoseconds."""
        create = self._time(short.create_date, short.create_time) + short.hundredths * 10_000_000
        return self._time(short.access_date, 0), self._time(short.write_date, short.write_time), create

    def _file_stat(self, key: int, raw: bytes) -> Stat:
        """`raw`: the 32 bytes of the file's entry."""
        attributes, tenth, create_time, create_date, access_date, write_time, write_date, size = file_fields(raw)
        convert, owner, cluster = self._time, self._owner, self.boot.cluster_size
        mode = owner.file_mode & ~0o222 if attributes & READ_ONLY else owner.file_mode
        mtime = convert(write_date, write_time)
        return _new(
            Stat,
            (
                key,
                0o100000 | mode,
                1,
                owner.uid,
                owner.gid,
                0,
                size,
                cluster,
                -(-size // cluster) * cluster >> 9,
                convert(access_date, 0),
                mtime,
                mtime,
                convert(create_date, create_time) + tenth * 10_000_000,
            ),
        )

    def _file(self, key: int) -> bytes:
        """The 32 bytes of a file's entry. Raises: NotFound; Corrupt for that of a directory that leads nowhere."""
        at = (key - _FILES) * ENTRY
        boot = self.boot
        fixed = boot.root_start <= at < boot.root_start + boot.root_entries * ENTRY
        if not fixed and not boot.data_start <= at < boot.data_start + boot.clusters * boot.cluster_size:
            raise NotFound(f"no inode {key}")
        raw = self._device.read(at, ENTRY)
        if not is_named(raw):
            raise NotFound(f"no inode {key}")
        short = parse_short(raw, at // ENTRY, self._wide)
        if short.attributes & DIRECTORY:
            if self._leads(short.cluster):
                raise NotFound(f"no inode {key}")
            raise Corrupt("directory entry", "first cluster", found=short.cluster, where=f"inode {key}")
        return raw

    # contents

    def open(self, ino: int, stream: bytes = b"") -> Source:
        if ino < _FILES:
            self._directory(ino)
            raise IsADirectory(where=f"inode {ino}")
        short = parse_short(self._file(ino), 0, self._wide)
        if stream:
            raise NotFound("FAT has no named streams")
        if not short.size:
            return BytesSource(b"")
        return content(self._heap, Chain(self._chains, short.cluster), short.size, f"inode {ino}")

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
