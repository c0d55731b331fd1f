"""Trees that images are filled with, through a mount that can write. Needs root: owners, devices, trusted xattrs.

`plain` is small and meets every kind of inode once; `rich` adds what only some readers get wrong. Contents and times
are fixed; ctime and creation times are the kernel's own.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

BASE_NS = 1_600_000_000_123_456_789
K = 1024


def pattern(length: int, tag: str = "") -> bytes:
    """Text in which every 16 bytes tell where they stand, so that a misplaced block is seen; it compresses well."""
    lines = (f"{tag[:6]:6}{at:9x}\n" for at in range(0, length, 16))
    return "".join(lines).encode()[:length]


def write(path: Path, pieces: bytes | dict[int, bytes], size: int | None = None) -> Path:
    """Write a file of pieces at offsets, cut or stretched to `size`."""
    with path.open("wb") as file:
        for offset, data in ({0: pieces} if isinstance(pieces, bytes) else pieces).items():
            file.seek(offset)
            file.write(data)
        if size is not None:
            file.truncate(size)
    return path


def fallocate(path: Path, offset: int, length: int, *, keep_size: bool = False, punch: bool = False) -> None:
    from .host import run

    flags = ["-n"] * keep_size + ["-p"] * punch
    run("fallocate", *flags, "-o", str(offset), "-l", str(length), path)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """system.posix_acl_* of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, mode, owner) for tag, mode, owner in entries)


_ANY = 0xFFFFFFFF
ACCESS = acl((1, 6, _ANY), (2, 7, 1234), (2, 4, 70_000), (4, 4, _ANY), (8, 5, 100), (16, 7, _ANY), (32, 0, _ANY))
DEFAULT = acl((1, 7, _ANY), (4, 5, _ANY), (8, 7, 4_000_000_000), (16, 7, _ANY), (32, 5, _ANY))
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def settle(top: Path) -> None:
    """Give everything but what has a time already (before 2022) a time of its own, directories last."""
    number = 0
    for path, folders, files in os.walk(os.fsencode(top), topdown=False):
        for name in sorted(files + [f for f in folders if os.path.islink(os.path.join(path, f))]):
            full = os.path.join(path, name)
            number += 1
            if os.lstat(full).st_mtime > 1_640_995_200 and os.lstat(full).st_mtime < 2_000_000_000:
                when = BASE_NS + number * 86_400_000_000_001
                os.utime(full, ns=(when + 1_000_000_007, when), follow_symlinks=False)
        number += 1
        os.utime(path, ns=(BASE_NS + number, BASE_NS - number))


LARGE_DEVICE = (4095, 1_048_575)


def plain(
    top: Path,
    *,
    block: int = 4096,
    xattrs: bool = True,
    huge: bool = True,
    longest: int = 4095,
    device: tuple[int, int] = LARGE_DEVICE,
) -> None:
    """Every kind of inode once. `block`: the filesystem's block size. `huge`: files beyond 4 GiB.

    `longest`: the longest target of a link in bytes; `device`: the largest device number.
    """
    for size in (0, 1, 59, 60, 61, 160, block - 1, block, block + 1):
        write(top / f"size-{size}", pattern(size))
    write(top / "blocks", pattern(40 * block + 17, "blocks"))
    write(top / "hole-first", {3 * block: pattern(100, "hole")})
    write(top / "hole-middle", {0: b"begin", 9 * block + 5: b"end"})
    write(top / "hole-last", {0: pattern(block, "last")}, 20 * block + 3)
    write(top / "hole-only", {}, 3 * 1024 * K)
    if huge:
        write(top / "sparse-5g", {1: b"one", (4 << 30) - 2: b"across", (5 << 30) + 7: b"five"})
    links = {59: "short", 60: "edge", 61: "long", block - 1: "longest"}
    for length, word in links.items():
        os.symlink((word + "/" * length)[: min(length, longest)], top / f"link-{length}")
    os.symlink("size-1", top / "link-relative")
    os.symlink("/usr/bin/true", top / "link-absolute")
    os.symlink(b"caf\xe9\n", top / "link-bytes")
    os.link(top / "size-61", top / "hard-a")
    (top / "dir" / "deeper" / "deepest").mkdir(parents=True)
    os.link(top / "size-61", top / "dir" / "hard-b")
    write(top / "dir" / "deeper" / "deepest" / "leaf", b"leaf\n")
    (top / "empty-dir").mkdir(mode=0o700)
    (top / "sticky").mkdir()
    os.chmod(top / "sticky", 0o1777)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "char", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "block", 0o660 | stat.S_IFBLK, os.makedev(259, 300))
    os.mknod(top / "char-large", 0o600 | stat.S_IFCHR, os.makedev(*device))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(top, os.O_PATH)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    write(top / "owner-16bit", b"owner").chmod(0o4755)
    os.chown(top / "owner-16bit", 65_535, 65_534)
    os.chown(write(top / "owner-32bit", b"owner"), 70_000, 4_294_967_294)
    for name in (b"new\nline", b"\xff\xfe\x80", b"n" * 255, "\u2603 snowman".encode(), b" ", b"-rf", b"back\\slash"):
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(name)
    for stamp in (-2_147_483_648, -86_401, -1, 0, 2_147_483_647):
        os.utime(write(top / f"time{stamp}", b""), ns=(stamp * 10**9 + 999_999_999 * (stamp < -1), stamp * 10**9))
    if xattrs:
        attributes(top, block)


def attributes(top: Path, block: int) -> None:
    """Extended attributes: in the inode, in a block, on every kind, and the POSIX ones."""
    path = write(top / "xattr-few", b"x")
    os.setxattr(path, "user.small", b"value")
    os.setxattr(path, "user.empty", b"")
    path = write(top / "xattr-block", b"x")
    for number in range(6):
        os.setxattr(path, f"user.number-{number}", pattern(block // 16, str(number)))
    os.setxattr(path, "trusted.overlay.opaque", b"y")
    os.setxattr(path, "security.capability", CAPABILITY)
    os.setxattr(path, "security.odd", bytes(range(64)))
    path = write(top / "acl-access", b"x")
    os.setxattr(path, "system.posix_acl_access", ACCESS)
    (top / "acl-dir").mkdir()
    os.setxattr(top / "acl-dir", "system.posix_acl_access", ACCESS)
    os.setxattr(top / "acl-dir", "system.posix_acl_default", DEFAULT)
    write(top / "acl-dir" / "inherits", b"x")
    os.symlink("xattr-few", top / "xattr-link")
    os.setxattr(top / "xattr-link", "trusted.link", b"on the link", follow_symlinks=False)
    os.setxattr(top / "fifo", "trusted.fifo", b"on the fifo")
    shared = [write(top / f"xattr-shared-{number}", b"x") for number in range(3)]
    for path in shared:
        os.setxattr(path, "user.shared", pattern(block // 2, "shared"))


def rich(
    top: Path,
    *,
    block: int = 4096,
    xattrs: bool = True,
    wide_times: bool = True,
    names: int = 220,
    longest: int = 4095,
    device: tuple[int, int] = LARGE_DEVICE,
) -> None:
    """`plain`, and what only some readers get wrong. `wide_times`: inodes have room for times after 2038."""
    plain(top, block=block, xattrs=xattrs, longest=longest, device=device)
    per = block // 4  # pointers a block, of the indirect maps
    levels = {"single": 12, "double": 12 + per, "triple": 12 + per + per * per}
    folder = top / "maps"
    folder.mkdir()
    for name, first in levels.items():
        if (first + per) * block < 16 << 40:
            write(folder / f"{name}-first", {first * block: pattern(2 * block, name)})
            write(folder / f"{name}-before", {(first - 1) * block: pattern(2 * block + 9, name)})
            write(folder / f"{name}-trailing", {0: b"begin", first * block: pattern(block, name)}, (first + 40) * block)
    write(
        folder / "double-inner",
        {0: b"0", (12 + per + 5 * per + 3) * block: b"five", (12 + per + 9 * per) * block: b"9"},
    )
    write(folder / "double-empty", {0: b"0"}, (12 + per + 3) * block)
    write(folder / "every-second", {2 * n * block: pattern(block, f"n{n}") for n in range(200)})
    write(folder / "contiguous", pattern(300 * block, "contig"))
    folder = top / "punched"
    folder.mkdir()
    write(folder / "all", pattern(16 * block, "all"))
    path = write(folder / "rewritten", pattern(8 * block, "old"))
    with path.open("r+b") as file:
        file.seek(3 * block)
        file.write(b"new")
    for name, kind in (("many", names), ("few", 3)):
        folder = top / name
        folder.mkdir()
        first = write(folder / f"{name} number 0 with a name that takes some room", b"shared")
        for number in range(1, kind):
            os.link(first, folder / f"{name} number {number} with a name that takes some room")
    folder = top / "removed"
    folder.mkdir()
    for number in range(60):
        write(folder / f"name-{number:03}", b"")
    for number in range(0, 60, 3):
        (folder / f"name-{number:03}").unlink()
    folder = top / "bytes"
    folder.mkdir()
    for value in [*range(1, 47), *range(48, 256)][::5]:
        os.symlink(b"%d" % value, os.path.join(os.fsencode(folder), bytes([value]) * 3 + b"."))
    if wide_times:
        folder = top / "times"
        folder.mkdir()
        for stamp in (2_147_483_648, 4_102_444_800, 4_294_967_296, 8_589_934_592, 15_032_385_535):
            os.utime(write(folder / f"t{stamp}", b""), ns=(stamp * 10**9 + 1, stamp * 10**9 + 999_999_999))


def unwritten(top: Path, block: int) -> None:
    """What only extents can say: blocks that are allocated and not written."""
    folder = top / "unwritten"
    folder.mkdir()
    write(folder / "all", b"")
    fallocate(folder / "all", 0, 30 * block)
    fallocate(write(folder / "beyond-end", b"short"), 0, 20 * block, keep_size=True)
    fallocate(write(folder / "middle", pattern(4 * block, "m"), 12 * block), 6 * block, 2 * block)
    path = write(folder / "written-part", b"")
    fallocate(path, 0, 20 * block)
    with path.open("r+b") as file:
        file.seek(7 * block)
        file.write(pattern(block, "part"))
    fallocate(write(folder / "punched", pattern(20 * block, "p")), 3 * block, 5 * block, keep_size=True, punch=True)


def fill_directory(folder: Path, names: Iterable[str | bytes]) -> None:
    """Many names of one file (65,000 links at most on ext4)."""
    folder.mkdir()
    first = write(folder / "first", b"shared")
    for name in names:
        os.link(os.fsencode(first), os.path.join(os.fsencode(folder), os.fsencode(name)))
