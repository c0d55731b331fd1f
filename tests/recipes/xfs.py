"""Recipes of XFS images: one per feature, each with what the kernel says of it.

A recipe makes an image file and tells the oracle how to read it. The manifest is the kernel's: by a loop mount, or, for
what the kernel at hand does not mount (version 4, ASCII-only case folding, realtime files), by one in a QEMU guest
(xfs_guest.py). mkfs.xfs makes small filesystems when it takes itself for the test suite of the kernel.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import manifest

from . import trees
from .host import loop_mount, run

UUID = "c0ffee00-2222-4222-8333-444455556666"
_SMALL = {"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}
_CRC, _INCOMPAT = 224, 216

Fill = Callable[[Path], None]


@dataclass(frozen=True)
class Recipe:
    """An image. `before` edits the empty filesystem, `tamper` the finished file.

    oracle: "kernel", "guest", or "none" for images that are refused, with `error` the expected type.
    """

    name: str
    options: tuple[str, ...]
    fill: Fill | None
    megabytes: int = 16
    groups: int = 1
    oracle: str = "kernel"
    realtime: int = 0  # MiB of the realtime device, which is not kept: a name with its content on it has an error
    error: str = ""
    detected: bool = True  # whether the type is seen; else the reader has to be told
    lookups: Mapping[str, str] = field(default_factory=dict)  # other spellings of paths that must be found
    before: Callable[[Path], None] | None = None
    tamper: Callable[[Path], None] | None = None
    uuid: str = UUID


def mkfs(recipe: Recipe, image: Path) -> None:
    """Make the recipe's empty filesystem."""
    with image.open("wb") as file:
        file.truncate(recipe.megabytes << 20)
    words = ["-q", "-f", "-L", recipe.name[-12:], "-m", f"uuid={UUID}", "-d", f"agcount={recipe.groups}"]
    if recipe.realtime:
        second = realtime_device(image)
        with second.open("wb") as file:
            file.truncate(recipe.realtime << 20)
        words += ["-r", f"rtdev={second},extsize=4096"]
    before = {name: os.environ.get(name) for name in _SMALL}
    os.environ.update(_SMALL)
    try:
        run("mkfs.xfs", *words, *recipe.options, image)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def realtime_device(image: Path) -> Path:
    return image.with_name(image.name + ".rt")


def make(recipe: Recipe, image: Path) -> None:
    """Make the recipe's image file."""
    mkfs(recipe, image)
    if recipe.before is not None:
        recipe.before(image)
    if recipe.fill is not None and recipe.oracle == "kernel":
        with loop_mount(image, options="rw", kind="xfs") as top:
            recipe.fill(top)
            trees.settle(top)
    if recipe.tamper is not None:
        recipe.tamper(image)


def describe(recipe: Recipe, image: Path) -> dict[str, Any]:
    """Ask the oracle about a made image. Returns the fixture's manifest."""
    told: dict[str, Any] = {"name": recipe.name, "options": " ".join(recipe.options), "oracle": recipe.oracle}
    told.update(kernel=os.uname().release, xfsprogs=run("mkfs.xfs", "-V").split()[2], uuid=recipe.uuid)
    if recipe.error:
        told["error"] = recipe.error
    if not recipe.detected:
        told["detected"] = False
    if recipe.lookups:
        told["lookups"] = dict(recipe.lookups)
    if recipe.oracle == "kernel":
        with kernel_view(recipe, image) as top:
            told["statvfs"] = manifest.host_statvfs(top)
            told["tree"] = manifest.from_directory(top)
    return told


class kernel_view:
    """The tree as the kernel shows it; a damaged first superblock is mended in a copy."""

    def __init__(self, recipe: Recipe, image: Path) -> None:
        self.image, self.copy = image, None
        if not recipe.detected:
            self.copy = image.with_name(image.name + ".mended")
            run("cp", "--sparse=always", image, self.copy)
            run("xfs_repair", self.copy, ok=(0, 1))
        self.mount = loop_mount(self.copy or image, options="ro,norecovery", kind="xfs")

    def __enter__(self) -> Path:
        return self.mount.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self.mount.__exit__(*exc)
        if self.copy is not None:
            self.copy.unlink()


# fillings


def plain(top: Path, *, block: int = 4096, xattrs: bool = True) -> None:
    """Every kind of inode, within what XFS can hold."""
    trees.plain(top, block=block, xattrs=xattrs, longest=1023, device=(511, (1 << 18) - 1))
    trees.unwritten(top, block)


def rich(top: Path, *, block: int = 4096, names: int = 60) -> None:
    """`plain`, the forms of directories, maps and attributes that only XFS has."""
    trees.rich(top, block=block, names=names, longest=1023, device=(511, (1 << 18) - 1))
    trees.unwritten(top, block)
    directories(top / "directories", leaf=3 * block // 64, node=11 * block // 64)
    attributes(top)
    for length in (300, 335, 336, 337, 1000, 1023):
        os.symlink("z" * length, top / f"link-x{length}")


def directories(top: Path, *, leaf: int, node: int) -> None:
    """Directories of several blocks, with a leaf and with a tree of leaves, and with names that were removed."""
    top.mkdir()
    for name, count in (("leaf", leaf), ("node", node)):
        trees.fill_directory(top / name, (f"{n:05} {'x' * (n % 60)}" for n in range(count)))
        for number in range(0, count, 7):
            (top / name / f"{number:05} {'x' * (number % 60)}").unlink()
    trees.fill_directory(top / "emptied", (f"{n:05}".ljust(60, "e") for n in range(leaf)))
    for entry in sorted((top / "emptied").iterdir())[3:]:
        entry.unlink()
    (top / "short").mkdir()
    for number in range(5):
        (top / "short" / f"s{number}").mkdir()


def attributes(top: Path) -> None:
    """Attributes in trees of leaves, and values in blocks of their own."""
    path = trees.write(top / "xattr-remote", b"x")
    for number, size in enumerate((3000, 4096, 20_000, 65_536)):
        os.setxattr(path, f"user.remote-{number}", trees.pattern(size, f"r{number}"))
    os.setxattr(path, "trusted.remote", trees.pattern(9000, "trust"))
    os.setxattr(path, "security.remote", trees.pattern(9000, "secur"))
    path = trees.write(top / "xattr-many", b"x")
    for number in range(200):
        os.setxattr(path, f"user.many-{number:03}", trees.pattern(number % 120, "many"))
    (top / "xattr-remote-dir").mkdir()
    os.setxattr(top / "xattr-remote-dir", "user.remote", trees.pattern(12_000, "dir"))


def deep(top: Path, *, block: int, extents: int) -> None:
    """Extents that cannot be joined, so that their tree gains levels."""
    trees.write(top / "deep", {2 * n * block: b"%d\n" % n for n in range(extents)}, (2 * extents + 5) * block)
    trees.write(top / "plain", trees.pattern(30_000))


def sparse(top: Path) -> None:
    """Chunks of inodes that are there in part, as no free piece has room for a whole one."""
    run("xfs_io", "-x", "-c", "resblks 0", top)
    folder = top / "dir"
    folder.mkdir()
    path = trees.write(top / "filler", b"")
    size = at = 4 << 20
    trees.fallocate(path, 0, size)
    while size >= 4096:
        try:
            trees.fallocate(path, at, size)
            at += size
        except RuntimeError:
            size //= 2
    for at in range(0, 4 << 20, 32 << 10):
        trees.fallocate(path, at, 16 << 10, keep_size=True, punch=True)
    run("sync", "-f", folder)
    for number in range(300):
        os.mknod(folder / f"n{number}", 0o644)


def fragmented(top: Path) -> None:
    """Free space in so many pieces that its trees have levels, whose blocks count as free and are not to be had."""
    path = trees.write(top / "pieces", b"")
    trees.fallocate(path, 0, 2 << 20)
    for at in range(0, 1 << 20, 2 << 10):
        trees.fallocate(path, at, 1 << 10, keep_size=True, punch=True)


def scattered(top: Path) -> None:
    """A directory whose blocks each stand in several places, as free space is in pieces of one block."""
    run("xfs_io", "-x", "-c", "resblks 0", top)
    (top / "names").mkdir()
    first = trees.write(top / "names" / "first", b"")
    path = trees.write(top / "filler", b"")
    size = at = 4 << 20
    trees.fallocate(path, 0, size)
    while size >= 1024:
        try:
            trees.fallocate(path, at, size)
            at += size
        except RuntimeError:
            size //= 2
    for at in range(0, 1 << 20, 3 << 10):
        trees.fallocate(path, at, 1 << 10, keep_size=True, punch=True)
    for number in range(170):
        os.link(first, top / "names" / f"{number:05}".ljust(90, "q"))


def groups(top: Path) -> None:
    """A little in every allocation group: directories go round."""
    for number in range(24):
        (top / f"dir-{number}").mkdir()
        trees.write(top / f"dir-{number}" / "file", trees.pattern(9000, str(number)))


def wide(top: Path) -> None:
    """Directories of many blocks."""
    trees.fill_directory(top / "many", (f"{n:06}".ljust(120, "w") for n in range(700)))
    directories(top / "directories", leaf=100, node=200)


def shared(top: Path) -> None:
    """Files that share blocks."""
    first = trees.write(top / "first", trees.pattern(200_000, "first"))
    run("cp", "--reflink=always", first, top / "second")
    with (top / "second").open("r+b") as file:
        file.seek(70_000)
        file.write(b"changed in the second")
    plain(top)


def linked(top: Path) -> None:
    """Files with many names, each of which they know."""
    plain(top)
    attributes(top)
    for name, count in (("some", 5), ("many", 120)):
        trees.fill_directory(top / name, (f"{name} {n:03}".ljust(70, "l") for n in range(count)))


def folded(top: Path) -> None:
    """Names that a directory finds in other spellings."""
    plain(top, xattrs=False)
    for name in (b"Read.Me", b"MiXeD", b"plain-name", b"\xc4RGER"):
        trees.write(Path(os.fsdecode(os.fsencode(top) + b"/" + name)), name)
    trees.fill_directory(top / "Many", (f"Name-{n:04}".ljust(50, "X") for n in range(400)))


def realtime(top: Path) -> None:
    """Files on the realtime device beside others."""
    plain(top)
    for number, size in enumerate((0, 100, 40_000)):
        path = trees.write(top / f"realtime-{number}", b"")
        run("xfs_io", "-c", "chattr +r", path)
        trees.write(path, trees.pattern(size, "rt"))
    trees.fallocate(top / "realtime-1", 0, 1 << 20, keep_size=True)


# editing images


def edit_superblocks(image: Path, change: Callable[[bytearray], None]) -> None:
    """Let `change` edit the superblock of every allocation group, and mend the checksums."""
    with image.open("r+b") as file:
        head = file.read(512)
        block, groups, size = (struct.unpack_from(">I", head, at)[0] for at in (4, 88, 84))
        (sector,) = struct.unpack_from(">H", head, 102)
        for group in range(groups):
            file.seek(group * size * block)
            data = bytearray(file.read(sector))
            change(data)
            seal(data, _CRC)
            file.seek(group * size * block)
            file.write(data)


def seal(data: bytearray, at: int) -> None:
    """Put the CRC-32C of `data`, with itself as zeros, at `at`."""
    import google_crc32c

    data[at : at + 4] = bytes(4)
    data[at : at + 4] = google_crc32c.value(bytes(data)).to_bytes(4, "little")


def incompat(image: Path, *, set: int = 0, clear: int = 0) -> None:
    """Change incompatible features of version 5."""

    def change(data: bytearray) -> None:
        (word,) = struct.unpack_from(">I", data, _INCOMPAT)
        struct.pack_into(">I", data, _INCOMPAT, word & ~clear | set)

    edit_superblocks(image, change)


_METADIR_FLAGS = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 13


def metadata_directory(image: Path) -> None:
    """Make an empty directory the root of a tree of metadata, as mkfs.xfs does from 6.13 on with `-m metadir=1`."""
    with loop_mount(image, options="rw", kind="xfs") as top:
        (top / "m").mkdir()
        ino = (top / "m").stat().st_ino
        root = top.stat().st_ino
    with image.open("r+b") as file:
        for number, edits in (
            # the name goes, with its link; what is left of a directory in an inode is its count and parent
            (root, {16: struct.pack(">I", 2), 56: struct.pack(">Q", 6), 176: b"\0\0"}),
            (
                ino,
                {
                    2: struct.pack(">H", 0o040000),
                    6: struct.pack(">H", 1),
                    90: struct.pack(">H", _METADIR_FLAGS),
                    120: struct.pack(">Q", 1 << 3 | 1 << 5),
                    178: struct.pack(">I", ino),
                },
            ),
        ):
            file.seek(number * 512)  # of the first allocation group
            data = bytearray(file.read(512))
            for at, value in edits.items():
                data[at : at + len(value)] = value
            seal(data, 100)
            file.seek(number * 512)
            file.write(data)

    def change(data: bytearray) -> None:
        struct.pack_into(">QIIB", data, 264, ino, 0, 1 << 16, 16)  # realtime groups: none, and how large they would be
        (word,) = struct.unpack_from(">I", data, _INCOMPAT)
        struct.pack_into(">I", data, _INCOMPAT, word | 0x1C0)

    edit_superblocks(image, change)


def lose_superblock(image: Path) -> None:
    with image.open("r+b") as file:
        file.write(bytes(512))


OTHER_UUID = "0badcafe-3333-4333-8444-555566667777"


def recipes() -> list[Recipe]:
    """Every recipe, each name once."""
    old = ("-m", "bigtime=0,inobtcount=0,reflink=0,finobt=0,rmapbt=0", "-i", "sparse=0")
    v4 = ("-m", "crc=0,finobt=0,reflink=0,rmapbt=0,bigtime=0,inobtcount=0")
    return [
        Recipe("xfs", (), rich),
        Recipe("xfs-rhel7", old, plain),
        Recipe("xfs-no-ftype", old, plain, before=partial(incompat, clear=0x1)),
        Recipe("xfs-1k", ("-b", "size=1024"), partial(rich, block=1024)),
        Recipe("xfs-2k-inode1024", ("-b", "size=2048", "-i", "size=1024"), partial(plain, block=2048)),
        Recipe("xfs-64k", ("-b", "size=65536"), partial(plain, block=65536), megabytes=64),
        Recipe("xfs-sector4k", ("-s", "size=4096"), plain),
        Recipe("xfs-inode2048", ("-i", "size=2048"), plain),
        Recipe("xfs-dir64k", ("-n", "size=65536"), wide),
        Recipe("xfs-dir4k-1k", ("-b", "size=1024", "-n", "size=4096"), wide),
        Recipe("xfs-nrext64", ("-i", "nrext64=1", "-b", "size=1024"), partial(deep, block=1024, extents=400)),
        Recipe("xfs-deep", ("-b", "size=1024"), partial(deep, block=1024, extents=1300)),
        Recipe("xfs-rmapbt", ("-m", "rmapbt=1"), shared, megabytes=24),
        Recipe("xfs-fragmented", ("-b", "size=1024", "-m", "rmapbt=1"), fragmented),
        Recipe("xfs-scattered", ("-b", "size=1024", "-n", "size=4096", "-m", "rmapbt=0,reflink=0"), scattered),
        Recipe("xfs-reflink", (), shared),
        Recipe("xfs-sparse", ("-i", "maxpct=0"), sparse),
        Recipe("xfs-groups", (), groups, megabytes=53, groups=3),
        Recipe(
            *("xfs-meta-uuid", (), plain),
            tamper=lambda image: run("xfs_admin", "-U", OTHER_UUID, image) and None,
            uuid=OTHER_UUID,
        ),
        Recipe("xfs-parent", ("-l", "size=10m"), linked, megabytes=24, before=partial(incompat, set=0xC0)),
        Recipe("xfs-metadir", ("-l", "size=10m"), plain, megabytes=24, before=metadata_directory),
        Recipe(
            *("xfs-superblock-copy", (), groups),
            megabytes=48,
            groups=3,
            detected=False,
            tamper=lose_superblock,
        ),
        Recipe("refused-needsrepair", (), None, oracle="none", error="Unsupported", tamper=partial(incompat, set=0x10)),
        Recipe("refused-zoned", (), None, oracle="none", error="Unsupported", tamper=partial(incompat, set=0x200)),
        Recipe("refused-unknown", (), None, oracle="none", error="Unsupported", tamper=partial(incompat, set=1 << 30)),
        Recipe("xfs-v4", (*v4, "-n", "ftype=0"), rich, oracle="guest"),
        Recipe("xfs-v4-512", (*v4, "-b", "size=512", "-n", "ftype=1"), partial(rich, block=512), oracle="guest"),
        Recipe("xfs-realtime", (*old, "-m", "crc=1"), realtime, oracle="guest", realtime=16),
        Recipe(
            *("xfs-v4-ci", (*v4, "-n", "version=ci"), folded),
            oracle="guest",
            lookups={"READ.ME": "Read.Me", "mixed": "MiXeD", "Many/nAME-0007" + "x" * 41: "Many/Name-0007" + "X" * 41},
        ),
    ]
