"""Recipes of NTFS images: one per feature, each with what ntfs-3g shows of it.

Filled through ntfs-3g's mount; what Windows alone can make is put there as the bytes that Windows writes: reparse
points, and the streams of compressed system files, whose chunks come from libwim.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import manifest

from . import trees
from .host import run

SYSTEM = ("acl", "attrib", "times", "reparse_data", "ea")


@dataclass(frozen=True)
class Recipe:
    """An image. `tamper` edits the finished file.

    contents: the bytes of files that the oracle shows as broken links; `refused`: those that are to raise when opened.
    """

    name: str
    fill: Callable[[Path], None] | None
    cluster: int = 4096
    sector: int = 512
    megabytes: int = 6
    mount: str = ""  # options for filling
    contents: Mapping[str, bytes] = field(default_factory=dict)
    owners: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)  # path -> what WSL says, unlike ntfs-3g
    refused: Mapping[str, str] = field(default_factory=dict)  # path -> the error of reading it
    state: str = "clean"
    tamper: Callable[[Path], None] | None = None
    problems: bool = False  # whether opening it tells of damage
    system: bool = True  # whether the oracle's system.ntfs_* are kept
    mirror: bool = False  # whether the oracle needs the image before it was tampered with


@contextmanager
def ntfs_mount(image: Path, options: str) -> Iterator[Path]:
    """Mount by ntfs-3g, and unmount in the end, when the daemon has gone."""
    with tempfile.TemporaryDirectory(prefix="guestkit-ntfs-") as name:
        top = Path(name) / "m"
        top.mkdir()
        run("ntfs-3g", "-o", f"streams_interface=xattr,{options}", image, top)
        try:
            yield top
        finally:
            run("umount", top)
            for _ in range(200):  # the daemon writes on after umount returns
                if subprocess.run(["fuser", "-s", image], check=False, capture_output=True).returncode:
                    break
                time.sleep(0.05)


def make(recipe: Recipe, image: Path) -> None:
    """Make the recipe's image file."""
    with image.open("wb") as file:
        file.truncate(recipe.megabytes << 20)
    words = ["-F", "-Q", "-q", "-c", str(recipe.cluster), "-s", str(recipe.sector), "-L", recipe.name]
    run("mkntfs", *words, "-p", "0", "-H", "16", "-S", "63", image)
    if recipe.fill is not None:
        with ntfs_mount(image, recipe.mount or "rw") as top:
            recipe.fill(top)
            trees.settle(top)
    if recipe.tamper is not None:
        if recipe.mirror:
            image.with_suffix(".before").write_bytes(image.read_bytes())
        recipe.tamper(image)


def describe(recipe: Recipe, image: Path) -> dict[str, Any]:
    """Ask ntfs-3g about a made image. Returns the fixture's manifest."""
    shown = run("ntfs-3g", "--version", ok=(0, 9)).split()
    told: dict[str, Any] = {"name": recipe.name, "oracle": "ntfs-3g", "version": shown[1], "state": recipe.state}
    if recipe.problems:
        told["detected"] = False  # left out where no damage is expected
    if recipe.refused:
        told["refused"] = dict(recipe.refused)
    asked = image.with_suffix(".before") if recipe.mirror else image
    with ntfs_mount(asked, "ro") as top:
        told["statvfs"] = manifest.host_statvfs(top)
        tree = manifest.from_directory(top)
        for path, entry in tree.items():
            entry.pop("btime", None)
            if entry.get("type") == "link":
                _inside(entry, os.fspath(top))
            if path in recipe.contents:
                data = recipe.contents[path]
                entry.pop("error", None)
                entry.pop("target", None)
                entry.update(type="file", size=len(data), nlink=1)
                entry["sha256"] = manifest.digest(len(data), lambda at, n, data=data: data[at : at + n], list)
                entry.pop("blocks", None)
            elif path in recipe.refused:
                tree[path] = {name: entry[name] for name in ("ino", "mtime", "atime", "ctime")}
        told["tree"] = tree
        for path, (uid, gid, mode) in recipe.owners.items():
            tree[path].update(uid=uid, gid=gid, mode=mode)
        if recipe.system:
            # the root's descriptor is too large for ntfs-3g's own attribute
            told["system"] = {path: _system(Path(top) / path) for path in sorted(tree) if path}
    return told


def _inside(entry: manifest.Entry, top: str) -> None:
    """ntfs-3g puts its mount point before targets on the same volume."""
    target = entry.get("target", "")
    if target.startswith(top):
        entry["target"] = target[len(top) :]
        entry["size"] = len(os.fsencode(entry["target"]))


def _system(path: Path) -> dict[str, str]:
    found = {}
    for name in SYSTEM:
        try:
            found[name] = manifest.value_text(os.getxattr(path, f"system.ntfs_{name}", follow_symlinks=False))
        except OSError:
            continue
    return found


# fillings


def plain(top: Path) -> None:
    """Every kind of file that ntfs-3g makes by itself, in Interix's manner."""
    for size in (0, 1, 8, 500, 700, 4095, 4096, 4097, 70_000):
        trees.write(top / f"size-{size}", trees.pattern(size))
    trees.write(top / "hole-first", {70_000: b"end"})
    trees.write(top / "hole-middle", {0: b"begin", 300_000: b"end"})
    trees.write(top / "hole-last", trees.pattern(5000), 200_000)
    trees.write(top / "sparse-larger-than-volume", {1: b"one", (5 << 30) + 7: b"five"})
    path = trees.write(top / "valid-length", b"x" * 100)
    os.truncate(path, 50_000)
    for name in (b"caf\xc3\xa9", "\u2603 snowman".encode(), "\U0001f600".encode(), b"n" * 255, b"a\x01b", b" lead"):
        trees.write(Path(os.fsdecode(os.path.join(os.fsencode(top), name))), name)
    trees.write(top / ("\u00e4" * 200), b"long")
    folder = top / "case"
    folder.mkdir()
    for name in ("readme", "README", "Readme", "ReadMe", "\u00e9t\u00e9", "\u00c9T\u00c9"):
        trees.write(folder / name, name.encode())
    (top / "dir" / "deeper").mkdir(parents=True)
    trees.write(top / "dir" / "deeper" / "leaf", b"leaf\n")
    os.link(top / "size-500", top / "dir" / "hard")
    os.link(top / "size-500", top / "hard")
    (top / "empty-dir").mkdir()
    os.symlink("size-1", top / "link-relative")
    os.symlink("/usr/bin/true", top / "link-absolute")
    os.mkfifo(top / "fifo")
    os.mknod(top / "char", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "block", 0o600 | stat.S_IFBLK, os.makedev(8, 17))
    long = trees.write(top / "a long file name.text", b"long")
    os.setxattr(long, "system.ntfs_dos_name", b"ALONGF~1.TEX")
    (top / "a long directory").mkdir()
    os.setxattr(top / "a long directory", "system.ntfs_dos_name", b"ALONGD~1")
    trees.write(top / "a long directory" / "inner", b"inner")
    path = trees.write(top / "streams", b"main")
    os.setxattr(path, "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.larger", trees.pattern(9000))
    os.setxattr(top / "empty-dir", "user.on a directory", b"directory")
    for name, value in (("hidden", 0x22), ("read-only", 0x21), ("system", 0x26)):
        os.setxattr(trees.write(top / name, b"attributes"), "system.ntfs_attrib", struct.pack("<I", value))
    for stamp in (-11_000_000_000, -1, 0, 4_294_967_296, 40_000_000_000):
        more = stamp >= 0  # ntfs-3g loses the fraction of seconds before 1970
        os.utime(
            trees.write(top / f"time{stamp}", b""), ns=(stamp * 10**9 + 900 * more, stamp * 10**9 + 123_456_700 * more)
        )


def small(top: Path) -> None:
    """A little, for volumes that differ in their sizes."""
    trees.write(top / "file", trees.pattern(20_000))
    trees.write(top / "resident", b"resident")
    trees.write(top / "hole", {100_000: b"end"})
    folder = top / "names"
    folder.mkdir()
    for number in range(48):
        trees.write(folder / f"a name of some length {number}", b"%d" % number)
    (folder / "sub").mkdir()


def many(top: Path) -> None:
    """A directory whose index has levels, with what removals leave behind, and names in an order of their own."""
    folder = top / "many"
    folder.mkdir()
    first = trees.write(folder / "first", b"shared")
    for number in range(600):
        name = f"{'abcdefghijklmnopqrstuvwxyz'[number * 7 % 26]}_{number:04} with some more letters to fill blocks"
        os.link(first, folder / (name.upper() if number % 3 else name))
    for number in range(0, 600, 11):
        name = f"{'abcdefghijklmnopqrstuvwxyz'[number * 7 % 26]}_{number:04} with some more letters to fill blocks"
        (folder / (name.upper() if number % 3 else name)).unlink()
    for name in ("\u00df", "\u00ff", "\u0178", "\u0131", "\u0130", "\u01c4", "\u01c5", "\u01c6", "_", "^", "`", "{"):
        trees.write(folder / name, name.encode())


def fragmented(top: Path) -> None:
    """Files in so many runs that their attributes need lists, and one whose streams do."""
    files = [(top / f"runs-{number}").open("wb") for number in range(2)]
    for step in range(700):
        for file in files:
            file.seek(step * 1536)
            file.write(b"%5d" % step)
            file.flush()
            os.fsync(file.fileno())
    for file in files:
        file.close()
    path = trees.write(top / "many-streams", b"main")
    for number in range(24):
        os.setxattr(path, f"user.stream number {number}", trees.pattern(300 + 40 * number, str(number)))
    for number in range(40):
        os.link(path, top / f"another name of the file with streams {number}")


def full(top: Path) -> None:
    """A volume filled, then thinned out, so that $MFT itself grows in pieces."""
    folder = top / "filler"
    folder.mkdir()
    written = [folder / f"{number}" for number in range(110) if _write_all(folder / f"{number}", b"f" * 1000)]
    _write_all(folder / "rest", b"r" * (4 << 20))
    for path in written[::2]:  # their records stay in use
        os.truncate(path, 0)
    for number in range(120):
        if not _write_all(folder / f"r{number}", b"%d" % number):
            break


def _write_all(path: Path, data: bytes) -> bool:
    """Write as much as there is room for; whether that was all."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    except OSError:
        return False
    try:
        at = 0
        while at < len(data):
            at += os.write(fd, data[at : at + 1000])
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


COMPRESS = struct.pack("<I", 0x0800)


def compressed(top: Path) -> None:
    """What LZNT1 units may look like: packed, stored, holes, a short last one, written in part."""
    folder = top / "compressed"
    folder.mkdir()
    os.setxattr(folder, "system.ntfs_attrib", COMPRESS)
    noise = _noise(24_000)
    trees.write(folder / "text", trees.pattern(200_000, "text"))
    trees.write(folder / "noise", noise)
    trees.write(folder / "mixed", trees.pattern(70_000) + noise[:20_000] + bytes(140_000) + b"tail" * 20_000)
    trees.write(folder / "zeros", bytes(150_000))
    trees.write(folder / "tiny", b"resident")
    trees.write(folder / "one-unit", trees.pattern(65_536))
    trees.write(folder / "unit-and-a-byte", trees.pattern(65_537))
    trees.write(folder / "hole", {0: b"begin", 500_000: trees.pattern(3000)})
    path = trees.write(folder / "truncated", trees.pattern(100_000))
    os.truncate(path, 70_001)
    trees.write(top / "plain", trees.pattern(5000))


def _noise(length: int) -> bytes:
    import random

    return random.Random(4).randbytes(length)


def reparse(tag: int, data: bytes) -> bytes:
    return struct.pack("<IHH", tag, len(data), 0) + data


def mount_point(target: str) -> bytes:
    name = target.encode("utf-16-le")
    return reparse(0xA0000003, struct.pack("<HHHH", 0, len(name), len(name) + 2, 0) + name + b"\0\0\0\0")


def symlink(target: str, relative: bool) -> bytes:
    name = target.encode("utf-16-le")
    return reparse(0xA000000C, struct.pack("<HHHHI", 0, len(name), 0, len(name), relative) + name)


def _point(path: Path, value: bytes, directory: bool = False) -> None:
    if directory:
        path.mkdir()
    else:
        trees.write(path, b"")
    os.setxattr(path, "system.ntfs_reparse_data", value)


REFUSED_TAGS = {"dedup": 0x80000013, "cloud": 0x9000601A, "hsm": 0xC0000004, "alias": 0x8000001B, "unknown": 0x80000FFF}


def links(top: Path) -> None:
    """Links and junctions as Windows makes them."""
    (top / "Users" / "Public Folder").mkdir(parents=True)
    trees.write(top / "Users" / "Public Folder" / "File.txt", b"file")
    trees.write(top / "Users" / "Other.txt", b"other")
    _point(top / "junction", mount_point("\\??\\C:\\Users\\Public Folder"), True)
    _point(top / "junction-case", mount_point("\\??\\c:\\USERS\\public folder"), True)
    _point(top / "junction-volume", mount_point("\\??\\Volume{01234567-89ab-cdef-0123-456789abcdef}\\"), True)
    _point(top / "junction-gone", mount_point("\\??\\D:\\No Such\\Folder"), True)
    _point(top / "symlink", symlink("\\??\\C:\\Users\\Other.txt", False))
    _point(top / "symlink-dir", symlink("\\??\\C:\\Users", False), True)
    _point(top / "rooted", symlink("\\users\\other.TXT", True))
    _point(top / "relative", symlink("Users\\Other.txt", True))
    _point(top / "relative-case", symlink("users\\PUBLIC FOLDER\\file.TXT", True))
    _point(top / "Users" / "up", symlink("..\\users\\other.txt", True))
    _point(top / "Users" / "loop", mount_point("\\??\\C:\\Users"), True)


def refused(top: Path) -> None:
    """Files whose content is elsewhere."""
    for name, tag in REFUSED_TAGS.items():
        path = trees.write(top / name, trees.pattern(3000))
        os.setxattr(path, "system.ntfs_reparse_data", reparse(tag, bytes(32)))
    path = trees.write(top / "wim", {}, 5000)
    os.setxattr(path, "system.ntfs_reparse_data", reparse(0x80000017, struct.pack("<II", 1, 1) + bytes(40)))
    trees.write(top / "plain", b"plain")


WSL_OWNERS = {"owned": (1000, 4_000_000_000, 0o4755), "owned-dir": (1001, 100, 0o1777)}


def _eas(uid: int, gid: int, mode: int) -> bytes:
    made = b""
    for name, value in (("$LXUID", uid), ("$LXGID", gid), ("$LXMOD", mode)):
        one = struct.pack("<BBH", 0, len(name), 4) + name.encode() + b"\0" + struct.pack("<I", value)
        length = len(one) + 4 + 3 & ~3
        made += (struct.pack("<I", length) + one).ljust(length, b"\0")
    return made


def wsl(top: Path) -> None:
    """Special files and links as the Windows Subsystem for Linux keeps them."""
    os.symlink("target/of a link", top / "link")
    os.symlink("/absolute/\u00e9", top / "link-absolute")
    trees.write(top / "owned", b"owned")
    (top / "owned-dir").mkdir()
    for name, (uid, gid, mode) in WSL_OWNERS.items():
        kind = stat.S_IFDIR if name == "owned-dir" else stat.S_IFREG
        os.setxattr(top / name, "system.ntfs_ea", _eas(uid, gid, kind | mode))
    os.mkfifo(top / "fifo")
    os.mknod(top / "char", 0o600 | stat.S_IFCHR, os.makedev(5, 1))
    os.mknod(top / "block", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(top, os.O_PATH)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)


# compressed system files

WOF = {"xpress4k": (0, 4096), "lzx": (1, 32768), "xpress8k": (2, 8192), "xpress16k": (3, 16384)}


def wof_data(name: str) -> bytes:
    """Text, noise and zeros, so that some chunks are stored."""
    return trees.pattern(90_000, name) + _noise(40_000) + bytes(30_000) + trees.pattern(12_345, "tail")


def chunks(data: bytes, algorithm: int, size: int) -> list[bytes]:
    """Compress by libwim; a chunk that does not become smaller stays as it is."""
    wim = ctypes.CDLL("libwim.so.15")
    wim.wimlib_compress.restype = ctypes.c_size_t
    wim.wimlib_compress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
    wim.wimlib_create_compressor.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_uint, ctypes.c_void_p]
    wim.wimlib_free_compressor.argtypes = [ctypes.c_void_p]
    handle = ctypes.c_void_p()
    if wim.wimlib_create_compressor(2 if algorithm == 1 else 1, size, 50, ctypes.byref(handle)):
        raise RuntimeError("libwim makes no compressor")
    found = []
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        out = ctypes.create_string_buffer(size)
        length = wim.wimlib_compress(piece, len(piece), out, len(piece) - 1, handle)
        found.append(out.raw[:length] if length else piece)
    wim.wimlib_free_compressor(handle)
    return found


def _wof(path: Path, data: bytes, algorithm: int, size: int) -> None:
    parts = chunks(data, algorithm, size)
    ends = []
    at = 0
    for part in parts:
        at += len(part)
        ends.append(at)
    table = struct.pack(f"<{len(ends) - 1}I", *ends[:-1])
    trees.write(path, {}, len(data))
    os.setxattr(path, "user.WofCompressedData", b"")
    stream = table + b"".join(parts)
    os.setxattr(path, "user.WofCompressedData", stream)
    os.setxattr(path, "system.ntfs_reparse_data", reparse(0x80000017, struct.pack("<IIII", 1, 2, 1, algorithm)))


def wof(top: Path) -> None:
    """One file for each algorithm, one that is shorter than a chunk, and one whose last chunk is whole."""
    for name, (algorithm, size) in WOF.items():
        _wof(top / name, wof_data(name)[: 60_000 if algorithm else None], algorithm, size)
    _wof(top / "short", b"short text " * 100, 0, 4096)
    _wof(top / "even", trees.pattern(8192), 2, 8192)
    _wof(top / "stored", _noise(10_000), 1, 32768)


def wof_contents() -> dict[str, bytes]:
    found = {name: wof_data(name)[: 60_000 if algorithm else None] for name, (algorithm, _) in WOF.items()}
    return {**found, "short": b"short text " * 100, "even": trees.pattern(8192), "stored": _noise(10_000)}


# edits


def hibernate(image: Path) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"hibr" + bytes(8188))
        file.flush()
        run("ntfscp", "-f", "-q", image, file.name, "hiberfil.sys")


def record_places(image: Path, number: int) -> tuple[int, int]:
    """Where a record and its mirror stand, the table being in one piece."""
    with image.open("rb") as file:
        boot = file.read(512)
    sector, per = struct.unpack_from("<HB", boot, 11)
    cluster = sector * (per if per <= 128 else 1 << 256 - per)
    table, mirror = struct.unpack_from("<QQ", boot, 48)
    code = struct.unpack_from("<b", boot, 64)[0]
    offset = number * (code * cluster if code > 0 else 1 << -code)
    return table * cluster + offset, mirror * cluster + offset


def edit(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def find(image: Path, number: int, kind: int) -> int:
    """Where the attribute of type `kind` stands in a record."""
    raw = image.read_bytes()[record_places(image, number)[0] :][:1024]
    at: int = struct.unpack_from("<H", raw, 20)[0]
    while True:
        here, length = struct.unpack_from("<II", raw, at)
        if here == kind:
            return at
        if here == 0xFFFFFFFF:
            raise RuntimeError(f"no attribute {kind:#x} in record {number}")
        at += length


def edit_volume(image: Path, offset: int, data: bytes) -> None:
    """Edit $Volume's information, in the mirror too."""
    at = find(image, 3, 0x70) + 24 + offset
    for place in record_places(image, 3):
        edit(image, place + at, data)


def mark_dirty(image: Path) -> None:
    edit_volume(image, 10, b"\1\0")


def old_version(image: Path) -> None:
    edit_volume(image, 8, b"\3\0")


def lose_boot(image: Path) -> None:
    edit(image, 0, bytes(512))


def lose_records(image: Path) -> None:
    """Tear the write of the first records; their mirror is whole."""
    for number in (0, 3):
        edit(image, record_places(image, number)[0] + 510, b"\xab\xcd")


def read_record(image: Path, number: int) -> bytearray:
    """A record without its fixups."""
    place = record_places(image, number)[0]
    with image.open("rb") as file:
        file.seek(place)
        raw = bytearray(file.read(1024))
    at = struct.unpack_from("<H", raw, 4)[0]
    for sector in (1, 2):
        raw[sector * 512 - 2 : sector * 512] = raw[at + 2 * sector : at + 2 * sector + 2]
    return raw


def write_record(image: Path, number: int, raw: bytearray) -> None:
    """Put a record back, with fixups, and into the mirror where that has it."""
    at = struct.unpack_from("<H", raw, 4)[0]
    for sector in (1, 2):
        raw[at + 2 * sector : at + 2 * sector + 2] = raw[sector * 512 - 2 : sector * 512]
        raw[sector * 512 - 2 : sector * 512] = raw[at : at + 2]
    for place in record_places(image, number)[: 2 if number < 4 else 1]:
        edit(image, place, bytes(raw))


def attributes(raw: bytes) -> list[bytes]:
    at = struct.unpack_from("<H", raw, 20)[0]
    found = []
    while struct.unpack_from("<I", raw, at)[0] != 0xFFFFFFFF:
        length = struct.unpack_from("<I", raw, at + 4)[0]
        found.append(bytes(raw[at : at + length]))
        at += length
    return found


def with_attributes(raw: bytearray, parts: list[bytes]) -> bytearray:
    """The record with other attributes."""
    at = struct.unpack_from("<H", raw, 20)[0]
    body = b"".join(parts) + b"\xff\xff\xff\xff\0\0\0\0"
    made = bytearray((bytes(raw[:at]) + body).ljust(1024, b"\0"))
    if len(made) != 1024:
        raise RuntimeError("the attributes do not fit")
    struct.pack_into("<I", made, 24, at + len(body))
    return made


def _runs(attribute: bytes) -> list[tuple[int, int]]:
    """(LCN, clusters) of each run."""
    at = struct.unpack_from("<H", attribute, 32)[0]
    found = []
    lcn = 0
    while attribute[at]:
        low, high = attribute[at] & 15, attribute[at] >> 4
        lcn += int.from_bytes(attribute[at + 1 + low : at + 1 + low + high], "little", signed=True)
        found.append((lcn, int.from_bytes(attribute[at + 1 : at + 1 + low], "little")))
        at += 1 + low + high
    return found


def _nonresident(attribute: bytes, lowest: int, runs: list[tuple[int, int]], instance: int) -> bytes:
    """The attribute with other runs, from `lowest` on."""
    encoded = b""
    before = 0
    for lcn, count in runs:
        encoded += b"\x44" + struct.pack("<Ii", count, lcn - before)
        before = lcn
    encoded += bytes(8 - len(encoded) % 8)
    head = bytearray(attribute[:64])
    struct.pack_into("<I", head, 4, 64 + len(encoded))
    struct.pack_into("<H", head, 14, instance)
    struct.pack_into("<QQ", head, 16, lowest, lowest + sum(count for _, count in runs) - 1)
    struct.pack_into("<H", head, 32, 64)
    if lowest:
        struct.pack_into("<QQQ", head, 40, 0, 0, 0)
    return bytes(head) + encoded


def split_table(image: Path) -> None:
    """Give $MFT an attribute list, the second part of its runs in a record of its own."""
    own, other = read_record(image, 0), read_record(image, 16)
    parts = attributes(own)
    data = next(part for part in parts if part[:4] == b"\x80\0\0\0")
    runs = _runs(data)
    if len(runs) < 2:
        raise RuntimeError("$MFT is in one piece")
    split = runs[0][1]
    first, second = _nonresident(data, 0, runs[:1], 60), _nonresident(data, split, runs[1:], 1)
    parts[parts.index(data)] = first
    sequence = struct.unpack_from("<H", other, 16)[0]
    entries = b""
    for part in parts:
        kind, instance = struct.unpack_from("<I", part)[0], struct.unpack_from("<H", part, 14)[0]
        entries += struct.pack("<IHBBQQH6x", kind, 32, 0, 26, 0, 1 << 48, instance)
        if part is first:
            entries += struct.pack("<IHBBQQH6x", kind, 32, 0, 26, split, sequence << 48 | 16, 1)
    listed = struct.pack("<IIBBHHHIHH", 0x20, 24 + len(entries), 0, 0, 24, 0, 61, len(entries), 24, 0) + entries
    parts.insert(1, listed)
    made = with_attributes(own, parts)
    struct.pack_into("<H", made, 40, 62)  # the next instance
    write_record(image, 0, made)
    made = with_attributes(other, [second])
    struct.pack_into("<HHH", made, 16, sequence, 0, struct.unpack_from("<H", made, 20)[0])
    struct.pack_into("<H", made, 22, 1)
    struct.pack_into("<Q", made, 32, 1 << 48)
    write_record(image, 16, made)


def recipes() -> list[Recipe]:
    """All of them."""
    elsewhere = {"wim": "Unsupported", **dict.fromkeys(REFUSED_TAGS, "Unsupported")}
    dirty = "dirty-not-replayed"
    return [
        Recipe("ntfs", plain),
        Recipe("ntfs-cluster-512", small, cluster=512, megabytes=3, system=False),
        Recipe("ntfs-cluster-1k", small, cluster=1024, megabytes=3, system=False),
        Recipe("ntfs-cluster-64k", small, cluster=65536, megabytes=12, system=False),
        Recipe("ntfs-cluster-256k", small, cluster=262144, megabytes=24, system=False),
        Recipe("ntfs-sector-4096", small, sector=4096, megabytes=6, system=False),
        Recipe("ntfs-many", many, system=False),
        Recipe("ntfs-fragmented", fragmented, cluster=512, megabytes=8, system=False),
        Recipe("ntfs-mft-fragmented", full, cluster=512, megabytes=2, system=False, tamper=split_table),
        Recipe("ntfs-lznt1", compressed, mount="rw,compression"),
        Recipe("ntfs-lznt1-512", compressed, cluster=512, mount="rw,compression", system=False),
        Recipe("ntfs-lznt1-1k", compressed, cluster=1024, mount="rw,compression", system=False),
        Recipe("ntfs-links", links),
        Recipe("ntfs-elsewhere", refused, megabytes=4, refused=elsewhere),
        Recipe(
            "ntfs-wsl",
            wsl,
            mount="rw,special_files=wsl",
            megabytes=4,
            owners={**dict.fromkeys(("fifo", "char", "block", "socket"), (0, 0, 0o644)), **WSL_OWNERS},
        ),
        Recipe("ntfs-wof", wof, contents=wof_contents(), megabytes=4),
        Recipe("ntfs-hibernated", None, megabytes=3, tamper=hibernate, state=dirty, system=False),
        Recipe("ntfs-dirty", None, megabytes=3, tamper=mark_dirty, state=dirty, system=False),
        Recipe("ntfs-3.0", small, megabytes=3, tamper=old_version, system=False),
        Recipe("ntfs-mirror", small, megabytes=3, tamper=lose_records, problems=True, mirror=True, system=False),
        Recipe("ntfs-backup-boot", small, megabytes=3, tamper=lose_boot, problems=True, mirror=True, system=False),
    ]
