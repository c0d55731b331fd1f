"""FileSystem: what every filesystem reader gives, by inode key. Names are bytes; results are values.

An inode key is an int of at least 1, unique in the filesystem and stable; Stat.ino is the guest's own number.
All methods may be called from several threads. Damage raises Corrupt for the object that is damaged, and only
for that; it is also counted in problems().
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from codecs import utf_16_le_decode
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import sub
from typing import NamedTuple, TypeVar

from guestkit.errors import (
    Corrupt,
    GuestkitError,
    NoAttribute,
    NotADirectory,
    NotFound,
    SourceError,
    Unsupported,
)
from guestkit.source import Source

T = TypeVar("T")

# struct dirent's d_type, for DirEntry.type; 0 where the format does not say
DT_UNKNOWN, DT_FIFO, DT_CHR, DT_DIR, DT_BLK, DT_REG, DT_LNK, DT_SOCK = 0, 1, 2, 4, 6, 8, 10, 12


class Stat(NamedTuple):
    """struct stat. Times are nanoseconds since 1970, negative before; `blocks` counts 512 bytes."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int  # as os.makedev() makes it
    size: int
    blksize: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int | None = None  # creation, where the format keeps it


class DirEntry(NamedTuple):
    """One name. `scan(dir, entry.cookie)` goes on behind it; 0 < cookie < 2^63."""

    name: bytes
    ino: int  # inode key
    type: int  # DT_*
    cookie: int


RawEntry = tuple[bytes, int, int, int]  # a DirEntry's fields
SMALL = 1024  # entries of a directory that scan_small() lists
TOGETHER = 32  # directories that are read together
_BATCH = 65536  # entries whose inodes are read together: those of a huge directory lie anywhere in their tables
# in the end ({directory: its entries, as scan() yields them}, {inode key: Stat, as scan_stat() gives it})
Small = Generator[None, None, tuple[dict[int, list[RawEntry]], dict[int, "Stat | None"]]]


_ON_DRIVES = ("ntfs-symlink", "ntfs-junction", "ntfs-elsewhere")


class Link(NamedTuple):
    """A symbolic link's target, its components separated by "/".

    kind: "posix" or "ntfs-relative": as it stands; "ntfs-rooted": from the root of the link's own volume;
    "ntfs-symlink", "ntfs-junction": what stands before the first "/" is a drive ("C:") that may be the link's own, as
    its volume has what is named; "ntfs-elsewhere": it is a drive, a volume ("Volume{...}") or another device.
    """

    kind: str
    target: bytes

    @property
    def drive(self) -> bytes:
        """The drive or volume that the target names, in lower case: "c:", "volume{...}"; b"" for other kinds."""
        return self.target.partition(b"/")[0].lower() if self.kind in _ON_DRIVES else b""

    def posix(self, own: bytes = b"", drives: Mapping[bytes, bytes] | None = None) -> bytes:
        """The target as a POSIX path.

        `own`: the path of the link's own volume, b"" for the root; `drives`: those of drives and volumes, in lower
        case. What is not known is looked for in "/.NTFS-3G", where ntfs-3g has its user define it.
        """
        if self.kind in ("posix", "ntfs-relative"):
            return self.target
        if self.kind == "ntfs-rooted":
            return own + self.target
        head, _, rest = self.target.partition(b"/")
        found = (drives or {}).get(head.lower())
        if found is None:
            found = own if self.kind != "ntfs-elsewhere" else own + b"/.NTFS-3G/" + head
        return found + b"/" + rest if rest or not found else found


class Subvolume(NamedTuple):
    """A tree of its own inside the filesystem (Btrfs); others have one, id 0 at path b""."""

    id: int
    path: bytes
    root: int  # inode key
    default: bool
    read_only: bool


class StatVfs(NamedTuple):
    """struct statvfs. `bsize` in bytes, `blocks`, `bfree`, `bavail` in units of `frsize` bytes."""

    bsize: int
    frsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    favail: int
    namemax: int
    fsid: int = 0


class Problem(NamedTuple):
    """Something damaged that was skipped or refused."""

    where: str
    message: str


@dataclass(frozen=True)
class State:
    """Whether the filesystem was shut down cleanly: kind is "clean", "replayed" or "dirty-not-replayed"."""

    kind: str = "clean"
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


class Problems:
    """A bounded list of what was found damaged; several threads may add. Adding what is known changes nothing."""

    KEPT = 100

    def __init__(self) -> None:
        self._seen: dict[Problem, None] = {}
        self.count = 0

    def add(self, where: str, error: GuestkitError | str) -> None:
        """Remember `error` at `where`; only the first KEPT different ones are kept, all of those counted."""
        problem = Problem(where, str(error))
        if problem in self._seen:
            return
        self.count += 1
        if len(self._seen) < self.KEPT:
            self._seen[problem] = None

    def first(self) -> Sequence[Problem]:
        return tuple(self._seen)


def whole(work: Generator[None, None, T]) -> T:
    """What `work` returns, done without a pause."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        result: T = end.value
        return result


# what hides one object or one directory and never the rest: walk() goes on behind it
SKIPPED = (Corrupt, NotADirectory, NotFound, SourceError, Unsupported)


def gathered(
    batches: Iterable[list[RawEntry]], first: int = _BATCH >> 6, largest: int = _BATCH
) -> Iterator[list[RawEntry]]:
    """Yield the entries of `batches` in lists of `first` or more, so that the first come soon.

    While most inodes lie far apart lists grow, up to `largest`, because each costs a pass over all of their tables.
    Raises: what `batches` raises, after everything before it has been yielded.
    """
    most = min(first, largest)
    held: list[RawEntry] = []
    try:
        for batch in batches:
            held += batch
            if len(held) >= most:
                some = sorted([entry[1] for entry in held[:: len(held) + 15 >> 4]])
                if sum([gap > len(held) >> 3 for gap in map(sub, some[1:], some)]) > 4:
                    most = min(most * 4, largest)
                yield held
                held = []
    except GuestkitError:
        if held:
            yield held
        raise
    if held:
        yield held


# what walk() tells of a directory that it could not list in full: (path, error)
Failed = Callable[[bytes, GuestkitError], None]


class FileSystem(ABC):
    """A mounted filesystem, read-only by structure. An opener is `open(sources, limits, options) -> FileSystem`."""

    kind: str  # "ext4", "vfat", ... as blkid says
    label: str
    uuid: str
    root: int  # inode key of the root directory
    state: State = State()
    case_sensitive: bool = True
    has_streams: bool = False  # whether files of the format can have named streams

    def __init__(self) -> None:
        self.damage = Problems()

    @abstractmethod
    def stat(self, ino: int) -> Stat:
        """Raises: NotFound for a key that names no inode in use; Corrupt."""

    @abstractmethod
    def lookup(self, directory: int, name: bytes) -> int:
        """Return the inode key of `name` (never "." or "..") through the directory's index where it has one.

        Raises: NotFound, NotADirectory, Corrupt.
        """

    @abstractmethod
    def parent(self, directory: int) -> int:
        """Return the key of a directory's parent; the root is its own. Raises: NotADirectory, Corrupt."""

    @abstractmethod
    def scan(self, directory: int, cookie: int = 0) -> Iterator[DirEntry]:
        """Yield the entries behind `cookie` (0: all) in the format's order, without "." and "..".

        Damage hides only itself and is put into problems(). A name that may not reach the tree (with "/" or NUL,
        empty, "." or "..") is left out; after a damaged block what follows is yielded and Corrupt is raised at
        the end, so that a listing is never silently shorter.
        Raises: NotADirectory, Corrupt.
        """

    def scan_stat(self, directory: int, cookie: int = 0) -> Iterator[tuple[DirEntry, Stat | None]]:
        """As scan, with each entry's Stat, read in bulk; None where stat() of the entry raises."""
        for entry in self.scan(directory, cookie):
            try:
                yield entry, self.stat(entry.ino)
            except (Corrupt, NotFound, Unsupported) as error:
                self.damage.add(f"inode {entry.ino}", error)
                yield entry, None

    def scan_small(self, directories: Sequence[int]) -> Small:
        """The whole of those among `directories` that are small and without a flaw, read together.

        Pauses (yields None) every half a millisecond or so, for whoever has something else to do. Others are left
        out: scan_stat() lists them, and raises what it has to. May leave out all.
        """
        listed: dict[int, list[RawEntry]] = {}
        stats: dict[int, Stat | None] = {}
        for directory in directories:
            entries: list[RawEntry] = []
            try:
                for batch, found in self.scan_lists(directory):
                    entries += batch
                    stats.update(zip([entry[1] for entry in batch], found, strict=True))
                    yield
                    if len(entries) > SMALL:
                        break
                else:
                    listed[directory] = entries
            except GuestkitError:  # whoever lists it by itself is told
                continue
        return listed, stats

    def scan_lists(self, directory: int, cookie: int = 0) -> Iterator[tuple[list[RawEntry], list[Stat | None]]]:
        """As scan_stat, in lists: the entries, and for each its Stat or None."""
        for entry, status in self.scan_stat(directory, cookie):
            yield [entry], [status]

    @abstractmethod
    def readlink(self, ino: int) -> Link:
        """Raises: InvalidArgument (EINVAL) when `ino` is not a link; Corrupt; NeedKey when encrypted."""

    @abstractmethod
    def open(self, ino: int, stream: bytes = b"") -> Source:
        """Return a regular file's bytes (or those of a named stream) as a Source; not resolved.

        Raises: IsADirectory, InvalidArgument for another type, NotFound for a stream, NeedKey, Unsupported, Corrupt.
        """

    @abstractmethod
    def statvfs(self) -> StatVfs: ...

    def xattr_names(self, ino: int) -> Sequence[bytes]:
        """Full names ("user.x", "system.posix_acl_access") in the order in which the kernel lists them."""
        return ()

    def xattr(self, ino: int, name: bytes) -> bytes:
        """Raises: NoAttribute (ENODATA), Corrupt."""
        raise NoAttribute

    def has_xattrs(self) -> bool:
        """False when the filesystem as a whole can hold none, so that nobody need ask."""
        return True

    def may_refuse_open(self) -> bool:
        """Whether open() may refuse a file that is whole for what it is: encrypted, or kept where nobody reads."""
        return True

    def streams(self, ino: int) -> Sequence[tuple[bytes, int]]:
        """(name, size) of each named stream."""
        return ()

    def stream_stat(self, ino: int, stream: bytes) -> Stat:
        """A named stream as if it were a file: a regular one of the same owner. Raises: NotFound, Corrupt."""
        raise NotFound(f"no stream {stream!r}")

    def roots(self) -> Sequence[Subvolume]:
        return (Subvolume(0, b"", self.root, True, False),)

    def walk(
        self, directory: int | None = None, failed: Failed | None = None
    ) -> Iterator[tuple[bytes, int, Stat | None]]:
        """Yield (path relative to `directory`, inode key, Stat) for every name below it; order is the format's.

        Equal to the recursive scan as a set. A directory that cannot be listed in full is in problems(), and so
        is one that was entered before, under another name or as its own ancestor, and is not entered again; `failed`
        is told each of them every time, with its path, so that nobody takes a shorter tree for the whole. `None` as
        in scan_stat.
        """
        start = self.root if directory is None else directory
        pending = [(b"", start)]
        entered = {start}
        while pending:
            group = pending[-TOGETHER:]
            del pending[-TOGETHER:]
            for paths, inos, stats in self._listed(group, failed):
                yield from zip(paths, inos, stats, strict=True)
                pending += [
                    (path + b"/", ino)
                    for path, ino, status in zip(paths, inos, stats, strict=True)
                    if status is not None and status[1] & 0xF000 == 0x4000  # whatever its entry says
                    if self.enters(ino, path, entered, failed)
                ]

    def _listed(
        self, group: list[tuple[bytes, int]], failed: Failed | None
    ) -> Iterator[tuple[list[bytes], list[int], list[Stat | None]]]:
        """Yield the paths, keys and Stats of what is in the directories of `group`, (what goes before a name, key)."""
        small, known = whole(self.scan_small([current for _, current in group]))
        paths: list[bytes] = []
        inos: list[int] = []
        for prefix, current in group:
            entries = small.get(current, ())
            paths += [prefix + entry[0] for entry in entries]
            inos += [entry[1] for entry in entries]
        yield paths, inos, list(map(known.__getitem__, inos))
        for prefix, current in group:
            if current in small:
                continue
            try:
                for batch, stats in self.scan_lists(current):
                    yield [prefix + entry[0] for entry in batch], [entry[1] for entry in batch], stats
            except SKIPPED as error:
                self.passed_over(current, prefix, error, failed)

    def enters(self, ino: int, path: bytes, entered: set[int], failed: Failed | None) -> bool:
        """Whether a walk enters directory `ino`, met at `path`: only once, or a few with two names make a huge tree."""
        if ino not in entered:
            entered.add(ino)
            return True
        error = Corrupt("directory was met before: it has a second name, or is its own ancestor")
        self.passed_over(ino, path, error, failed)
        return False

    def passed_over(self, ino: int, path: bytes, error: GuestkitError, failed: Failed | None) -> None:
        """Remember that walk() could not list directory `ino` at `path` in full, and tell `failed`."""
        self.damage.add(f"inode {ino}", error)
        if failed is not None:
            failed(path.rstrip(b"/"), error)

    def problems(self) -> tuple[int, Sequence[Problem]]:
        """How many damaged places were met so far, and the first of them."""
        return self.damage.count, self.damage.first()

    def details(self) -> dict[str, object]:
        """Facts of the format for a person, JSON-ready (features, block size, last mount)."""
        return {}


def may_be_shown(name: bytes) -> bool:
    """Whether a name from disk may reach the tree."""
    return bool(name) and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


_behind_nul = re.compile("\0[^/]*").sub


def shown_together(raws: Sequence[bytes], ended: bool = False) -> list[bytes] | None:
    """The names of many, which are in UTF-16, decoded at once; None when one of them may not be shown.

    `ended`: what is behind a NUL does not belong to a name.
    """
    if not raws:
        return []
    # no name holds a slash, but where the image is hostile
    text = utf_16_le_decode(b"/\0".join(raws), "surrogatepass", True)[0]
    if ended:
        text = _behind_nul("", text)
    joined = text.encode("utf-8", "surrogatepass")
    names = joined.split(b"/")
    if len(names) != len(raws) or b"\0" in joined or b"" in names or b"." in names or b".." in names:
        return None
    return names
