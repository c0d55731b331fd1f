"""Manifest: what a tree holds, as a value that two readers can be compared by.

Owns the description of a tree (JSON-ready), its making from a mounted directory and from a guestkit FileSystem, and
the list of differences. A path is text with surrogateescape, "" for the root. An entry leaves out what is usual:

    type ino mode uid gid nlink size blocks   rdev [major, minor]   mtime atime ctime btime (nanoseconds)
    xattrs {name: hex, or SHA-256 of what is long}, in order   target (links)   sha256 (regular files)
    error (errno's name, instead of content)

For files above PLAIN bytes `sha256` covers the pieces that are not zeros, with their offsets, so that 8 GiB of hole
cost nothing. It imports nothing of guestkit: an oracle must not share code with what it judges.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

PLAIN = 16 << 20
PIECE = 64 << 10
_ZEROS = bytes(PIECE)

Entry = dict[str, Any]
Tree = dict[str, Entry]

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
TIMES = ("mtime", "atime", "ctime", "btime")
STATVFS = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax")


def digest(size: int, read: Callable[[int, int], bytes], data: Callable[[], Iterable[tuple[int, int]]]) -> str:
    """SHA-256 of a file. `read(offset, length)` gives exactly that; `data()` the (offset, length) outside holes."""
    total = hashlib.sha256()
    if size <= PLAIN:
        for offset in range(0, size, 1 << 20):
            total.update(read(offset, min(1 << 20, size - offset)))
        return total.hexdigest()
    total.update(struct.pack("<Q", size))
    done = 0
    for start, length in data():
        at = max(done, start - start % PIECE)
        while at < start + length:
            piece = read(at, min(PIECE, size - at))
            if piece != _ZEROS[: len(piece)]:
                total.update(struct.pack("<Q", at) + piece)
            at += PIECE
        done = max(done, at)
    return "sparse:" + total.hexdigest()


def value_text(value: bytes) -> str:
    """An xattr's value as a manifest has it."""
    return value.hex() if len(value) <= 80 else f"{len(value)} bytes sha256:{hashlib.sha256(value).hexdigest()}"


def error_name(error: OSError) -> str:
    """EUCLEAN for damage; the kernel says EBADMSG where a checksum shows it."""
    number = error.errno or 0
    return errno.errorcode[errno.EUCLEAN if number == errno.EBADMSG else number]


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


# from a mounted directory


Top = str | os.PathLike[str]


def from_directory(top: Top, *, content: bool = True, holes_of: Top | None = None, across: bool = False) -> Tree:
    """Describe the tree mounted at `top`, without following links. Other filesystems mounted below are left out.

    `across`: they are not, for a filesystem whose subvolumes look like others.
    `holes_of`: the same tree elsewhere, which says where large files have holes, for a mount that cannot tell.
    """
    root = os.fsencode(top)
    other = root if holes_of is None else os.fsencode(holes_of)
    tree: Tree = {"": _host_entry(root, content, other)}
    device = os.lstat(root).st_dev
    pending = [(root, "")]
    while pending:
        path, prefix = pending.pop()
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            tree[prefix.rstrip("/")]["error"] = error_name(error)
            continue
        for name in names:
            full = path + b"/" + name
            key = prefix + text(name)
            tree[key] = _host_entry(full, content, other + full[len(root) :])
            if tree[key].get("type") == "dir" and (across or os.lstat(full).st_dev == device):
                pending.append((full, key + "/"))
    return tree


def _host_entry(path: bytes, content: bool, holes_of: bytes) -> Entry:
    try:
        status = os.lstat(path)
    except OSError as error:
        return {"error": error_name(error)}
    entry: Entry = {
        "type": TYPES[stat.S_IFMT(status.st_mode)],
        "ino": status.st_ino,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "nlink": status.st_nlink,
        "size": status.st_size,
        "blocks": status.st_blocks,
        "mtime": status.st_mtime_ns,
        "atime": status.st_atime_ns,
        "ctime": status.st_ctime_ns,
    }
    birth = _birth(path)
    if birth is not None:
        entry["btime"] = birth
    if entry["type"] in ("char", "block"):
        entry["rdev"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    try:
        names = os.listxattr(path, follow_symlinks=False)
        values = {name: value_text(os.getxattr(path, name, follow_symlinks=False)) for name in names}
        if values:
            entry["xattrs"] = values
        if entry["type"] == "link":
            entry["target"] = text(os.readlink(path))
        elif entry["type"] == "file" and content:
            entry["sha256"] = _host_digest(path, holes_of)
    except OSError as error:
        entry["error"] = error_name(error)
    return entry


def _host_digest(path: bytes, holes_of: bytes) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size

        def read(offset: int, length: int) -> bytes:
            piece = os.pread(fd, length, offset)
            if len(piece) != length:
                raise OSError(errno.EIO, "short read")
            return piece

        return digest(size, read, lambda: _host_data(holes_of, size))
    finally:
        os.close(fd)


def _host_data(path: bytes, size: int) -> Iterator[tuple[int, int]]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        at = 0
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            yield at, hole - at
            at = hole
    finally:
        os.close(fd)


_libc = ctypes.CDLL(None, use_errno=True)


def _birth(path: bytes) -> int | None:
    """The creation time in nanoseconds by statx(2), None where the filesystem keeps none."""
    if not hasattr(_libc, "statx"):
        return None
    buffer = ctypes.create_string_buffer(256)
    at_fdcwd, at_symlink_nofollow, statx_btime = -100, 0x100, 0x800
    if _libc.statx(at_fdcwd, path, at_symlink_nofollow, statx_btime, buffer):
        return None
    if not struct.unpack_from("<I", buffer, 0)[0] & statx_btime:
        return None
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, 0x50)
    return int(seconds * 10**9 + nanoseconds)


def host_statvfs(top: Top) -> dict[str, int]:
    figures = os.statvfs(top)
    return {name: getattr(figures, "f_namemax" if name == "namemax" else "f_" + name) for name in STATVFS}


# from guestkit


def from_filesystem(fs: Any, *, content: bool = True) -> Tree:
    """Describe a guestkit FileSystem by recursive scan_stat."""
    tree: Tree = {"": _api_entry(fs, fs.root, fs.stat(fs.root), content)}
    pending = [(fs.root, "")]
    while pending:
        directory, prefix = pending.pop()
        try:
            for found, status in fs.scan_stat(directory):
                key = prefix + text(found.name)
                if key in tree:
                    tree[key] = {"error": "listed twice"}
                    continue
                tree[key] = entry = _api_entry(fs, found.ino, status, content)
                if entry.get("type") == "dir":
                    pending.append((found.ino, key + "/"))
        except OSError as error:
            tree[prefix.rstrip("/")]["error"] = error_name(error)
    return tree


def _api_entry(fs: Any, ino: int, status: Any, content: bool) -> Entry:
    try:
        if status is None:
            status = fs.stat(ino)
    except OSError as error:
        return {"ino": ino, "error": error_name(error)}
    entry: Entry = {
        "type": TYPES.get(stat.S_IFMT(status.mode), "unknown"),
        "ino": status.ino,
        "mode": stat.S_IMODE(status.mode),
        "uid": status.uid,
        "gid": status.gid,
        "nlink": status.nlink,
        "size": status.size,
        "blocks": status.blocks,
        "mtime": status.mtime_ns,
        "atime": status.atime_ns,
        "ctime": status.ctime_ns,
    }
    if status.btime_ns is not None:
        entry["btime"] = status.btime_ns
    if entry["type"] in ("char", "block"):
        entry["rdev"] = [os.major(status.rdev), os.minor(status.rdev)]
    try:
        values = {text(name): value_text(fs.xattr(ino, name)) for name in fs.xattr_names(ino)}
        if values:
            entry["xattrs"] = values
        if entry["type"] == "link":
            entry["target"] = text(fs.readlink(ino).posix())
        elif entry["type"] == "file" and content:
            source = fs.open(ino)
            if source.size != status.size:
                entry["error"] = f"open gives {source.size} bytes"
            entry["sha256"] = digest(source.size, source.read, lambda: _data(source))
    except OSError as error:
        entry["error"] = error_name(error)
    return entry


def _data(source: Any) -> Iterator[tuple[int, int]]:
    for extent in source.extents(0, source.size):
        if extent.source is not None:
            yield extent.offset, extent.length


def api_statvfs(fs: Any) -> dict[str, int]:
    figures = fs.statvfs()
    return {name: getattr(figures, name) for name in STATVFS}


# the form in which a manifest is kept


_USUAL: Entry = {"uid": 0, "gid": 0, "nlink": 1}


def pack(tree: Mapping[str, Entry]) -> Tree:
    """Leave out what is usual, and describe further names of an inode by its shortest one, {"same": path}."""
    packed: Tree = {}
    first: dict[int, str] = {}
    for path in sorted(tree, key=lambda path: (len(path), path)):
        entry = tree[path]
        if entry.get("nlink", 1) > 1 and entry.get("type") != "dir" and "ino" in entry:
            earlier = first.setdefault(entry["ino"], path)
            if earlier != path and tree[earlier] == entry:
                packed[path] = {"same": earlier}
                continue
        packed[path] = {name: value for name, value in entry.items() if _USUAL.get(name) != value}
    return packed


def unpack(packed: Mapping[str, Entry]) -> Tree:
    """The inverse of pack()."""
    return {path: _unpacked(packed[entry["same"]] if "same" in entry else entry) for path, entry in packed.items()}


def _unpacked(entry: Entry) -> Entry:
    return {**_USUAL, **entry} if "mode" in entry else dict(entry)


# differences


def differences(
    wanted: Mapping[str, Entry], found: Mapping[str, Entry], *, ignore: Iterable[str] = ()
) -> Iterator[str]:
    """Yield a line for each path and field in which `found` is not `wanted`; `ignore`: fields left out.

    A field that is None in `wanted` may be anything.
    """
    left_out = set(ignore)
    for path in sorted(wanted.keys() | found.keys()):
        shown = repr(raw(path))[1:]
        if path not in found:
            yield f"{shown}: missing ({wanted[path].get('type')})"
        elif path not in wanted:
            yield f"{shown}: should not be there ({found[path].get('type')})"
        else:
            a, b = wanted[path], found[path]
            for field in dict.fromkeys([*a, *b]):
                if field in a and a[field] is None:
                    continue
                if field in left_out or a.get(field) == b.get(field):
                    if field == "xattrs" and field not in left_out and list(a[field]) != list(b[field]):
                        yield f"{shown}: xattrs are listed as {list(b[field])}, not {list(a[field])}"
                    continue
                if field == "xattrs":
                    yield from _xattr_differences(shown, a.get(field, {}), b.get(field, {}))
                else:
                    yield f"{shown}: {field} is {b.get(field)!r}, expected {a.get(field)!r}"


def _xattr_differences(shown: str, a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield f"{shown}: xattr {name} is {_short(b.get(name))}, expected {_short(a.get(name))}"


def _short(value: str | None) -> str:
    return "missing" if value is None else value if len(value) < 80 else f"{value[:76]}... ({len(value) // 2} bytes)"


def figure_differences(wanted: Mapping[str, int], found: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each statvfs figure that is not `wanted`."""
    for name, value in wanted.items():
        if found.get(name) != value:
            yield f"statvfs: {name} is {found.get(name)}, expected {value}"


def index_differences(fs: Any, tree: Mapping[str, Entry]) -> Iterator[str]:
    """Yield where walk(), lookup(), parent() or a resumed scan disagree with the recursive scan that made `tree`."""
    keys: dict[str, int] = {"": fs.root}
    walked: dict[str, int] = {}
    for path, ino, _ in fs.walk():
        if text(path) in walked:
            yield f"{path!r}: walk yields it twice"
        walked[text(path)] = ino
    for path in sorted(tree.keys() - walked.keys() - {""}):
        yield f"{raw(path)!r}: walk leaves it out"
    for path in sorted(walked.keys() - tree.keys()):
        yield f"{raw(path)!r}: only walk has it"
    for path in sorted(tree, key=lambda path: path.count("/")):
        if not path or path not in walked:
            continue
        above, _, name = path.rpartition("/")
        try:
            keys[path] = ino = fs.lookup(keys[above], raw(name))
            if ino != walked[path]:
                yield f"{raw(path)!r}: lookup gives inode {ino}, walk {walked[path]}"
            if tree[path].get("type") == "dir" and fs.parent(ino) != keys[above]:
                yield f"{raw(path)!r}: parent() is {fs.parent(ino)}, not {keys[above]}"
        except (OSError, KeyError) as error:
            yield f"{raw(path)!r}: lookup: {error!r}"
    for path, entry in tree.items():
        if entry.get("type") == "dir" and path in keys:
            yield from _cookie_differences(fs, keys[path], path)


def _cookie_differences(fs: Any, directory: int, path: str) -> Iterator[str]:
    whole = list(fs.scan(directory))
    cookies = [entry.cookie for entry in whole]
    if len(set(cookies)) != len(cookies) or not all(0 < cookie < 1 << 63 for cookie in cookies):
        yield f"{raw(path)!r}: cookies repeat or are out of range"
    for at in {0, 1, len(whole) // 2, len(whole) - 1} & set(range(len(whole))):
        if list(fs.scan(directory, whole[at].cookie)) != whole[at + 1 :]:
            yield f"{raw(path)!r}: a scan resumed behind entry {at} differs"


def content_differences(fs: Any, tree: Mapping[str, Entry], *, seed: int = 1, tries: int = 8) -> Iterator[str]:
    """Yield where reads at random places disagree with slices of the whole, in files of at most PLAIN bytes."""
    import random

    dice = random.Random(seed)
    for path, ino, status in fs.walk():
        entry = tree.get(text(path), {})
        if status is None or entry.get("type") != "file" or "error" in entry or not 0 < status.size <= PLAIN:
            continue
        source = fs.open(ino)
        whole = source.read(0, source.size)
        for _ in range(tries):
            start = dice.randrange(source.size)
            length = min(source.size - start, dice.choice((1, 511, 4096, 5000, 70_000)))
            if source.read(start, length) != whole[start : start + length]:
                yield f"{path!r}: {length} bytes at {start} differ from the whole file"
