"""Btrfs images with a log tree: copied while they are mounted, after fsyncs that no commit followed.

The manifest has what the kernel shows after a mount of a copy replayed the log ("tree"), and what was committed
("committed"). Where the kernel sets a time in the replay, the manifest has none.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import shutil
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import manifest

from . import trees
from .host import copy_sparse, loop_device, mounted, run, versions

_AT_FDCWD, _EXCHANGE, _FOLLOW = -100, 2, 0x400


@dataclass(frozen=True)
class Recipe:
    """`mkfs`: options; `before` is committed on a mount with options `mount`, what `act` fsyncs is not."""

    name: str
    act: Callable[[Path], None]
    before: Callable[[Path], None]
    mkfs: tuple[str, ...] = ()
    mount: str = ""
    megabytes: int = 64
    kept: bool = True  # in the repository

    @property
    def uuid(self) -> str:
        """One of its own: mkfs refuses one that a loop device still has that is being taken away."""
        return f"b7f50000-5555-4666-8777-{zlib.crc32(self.name.encode()):012x}"


def make(recipe: Recipe, image: Path, *, needed: bool = True) -> None:
    """Make the recipe's image. Raises: RuntimeError when it has no log tree in the end, though one is `needed`."""
    work = image.with_name(image.name + ".mounted")
    with work.open("wb") as made:
        made.truncate(recipe.megabytes << 20)
    run(
        "mkfs.btrfs",
        "-q",
        "-f",
        "-d",
        "single",
        "-m",
        "single",
        "-L",
        recipe.name,
        "-U",
        recipe.uuid,
        *recipe.mkfs,
        work,
    )
    options = ",".join(filter(None, ("rw,noatime,commit=900", recipe.mount)))
    with loop_device(work, writable=True) as device, mounted(device, options=options, kind="btrfs") as top:
        recipe.before(top)
        run("btrfs", "filesystem", "sync", top)
        recipe.act(top)
        copy_sparse(work, image)
    work.unlink()
    if needed and not has_log(image):
        raise RuntimeError(f"{recipe.name}: the copy has no log tree")


def has_log(image: Path) -> bool:
    """Whether the superblock names a log tree. Raises: RuntimeError when a commit was under way in the copy."""
    with image.open("rb") as file:
        file.seek(0x10000)
        generation, _, _, log_root = struct.unpack_from("<4Q", file.read(4096), 72)
        file.seek(0x4000000)
        mirror = file.read(4096)
    if mirror and struct.unpack_from("<Q", mirror, 72)[0] != generation:
        raise RuntimeError(f"{image}: a commit was under way")
    return bool(log_root)


@contextmanager
def shown(image: Path, options: str) -> Iterator[Path]:
    """What the kernel shows of a copy of `image`."""
    copy = image.with_name(image.name + ".shown")
    copy_sparse(image, copy)
    try:
        with loop_device(copy, writable=True) as device, mounted(device, options=options, kind="btrfs") as top:
            yield top
    finally:
        copy.unlink()


def describe(recipe: Recipe, image: Path, *, needed: bool = True) -> dict[str, Any]:
    """Ask the kernel about a made image. Returns the fixture's manifest.

    Raises: RuntimeError when the log changes nothing, though that is `needed`.
    """
    told: dict[str, Any] = {"name": recipe.name, "mkfs": list(recipe.mkfs), "uuid": recipe.uuid}
    told["kernel"] = versions()["kernel"]
    told["progs"] = run("btrfs", "--version").split()[1]
    with shown(image, "ro,rescue=nologreplay") as top:
        told["committed"] = manifest.from_directory(top, across=True)
    asked = time.time_ns()
    with shown(image, "rw,noatime") as top:
        told["tree"] = tree = manifest.from_directory(top, across=True)
    for entry in tree.values():
        for field in ("mtime", "ctime"):
            if entry.get(field, 0) >= asked:
                del entry[field]
    if needed and told["tree"] == told["committed"]:
        raise RuntimeError(f"{recipe.name}: the replay changes nothing")
    return told


# single steps


def fsync(path: Path, *, data: bool = False) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        (os.fdatasync if data else os.fsync)(fd)
    finally:
        os.close(fd)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def map_write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[at : at + len(data)] = data
        memory.flush()


def link_tmpfile(directory: Path, name: str, data: bytes, *, early: bool = False) -> None:
    """Write a file without a name, and name it; it is fsync'ed behind that, and before with `early`."""
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o644)
    try:
        os.write(fd, data)
        if early:
            os.fsync(fd)
        _call("linkat", _AT_FDCWD, f"/proc/self/fd/{fd}".encode(), _AT_FDCWD, os.fsencode(directory / name), _FOLLOW)
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, *, settle: bool = True) -> None:
    """As package managers write: a new file, fsync'ed, moved over the old one, and the directory fsync'ed."""
    fresh = path.with_name(path.name + ".dpkg-new")
    trees.write(fresh, data)
    fsync(fresh)
    fresh.rename(path)
    if settle:
        fsync(path.parent)


def exchange(one: Path, other: Path) -> None:
    """Raises: OSError."""
    _call("renameat2", _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE)


def _call(name: str, *arguments: int | bytes) -> None:
    """Call a function of libc that Python has not, or not with these flags. Raises: OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), name)


# what is committed


def small(top: Path) -> None:
    """Directories with files, links among them, holes and extended attributes."""
    for folder in ("a", "b", "a/deep", "empty"):
        (top / folder).mkdir()
    for number, size in enumerate((0, 10, 2000, 4096, 5000, 9000, 70_000, 300_000)):
        path = trees.write(top / "a" / f"file-{number}", trees.pattern(size, "old"))
        os.setxattr(path, "user.old", b"%d" % number)
        os.setxattr(path, "user.kept", b"kept" * number)
    os.link(top / "a" / "file-4", top / "b" / "linked")
    (top / "b" / "pointer").symlink_to("../a/file-1")
    trees.write(top / "b" / "holes", {0: b"x" * 4096, 100_000: trees.pattern(9000)}, 200_000)
    trees.write(top / "a" / "deep" / "inner", trees.pattern(500, "in"))
    for number in range(12):
        trees.write(top / "b" / f"name-{number}", b"%d" % number)


def several(top: Path) -> None:
    for name in ("one", "two"):
        run("btrfs", "subvolume", "create", top / name)
        small(top / name)
    small(top)


def bare(top: Path) -> None:
    trees.write(top / "file", b"here\n")


def linked(top: Path) -> None:
    small(top)
    for number in range(30):
        os.link(top / "a" / "file-5", top / "b" / f"linked-{number}")


# what is fsync'ed


def names(top: Path) -> None:
    """Names made, moved and removed, and inodes of every kind."""
    a, b = top / "a", top / "b"
    for number in range(4):
        fsync(trees.write(a / f"new-{number}", trees.pattern(3000 * number, "new")))
    (a / "file-2").rename(a / "renamed")
    fsync(a / "renamed")
    (b / "name-3").rename(a / "deep" / "moved")
    fsync(a / "deep" / "moved")
    for number in (5, 6, 7):
        (b / f"name-{number}").unlink()
    os.link(a / "file-1", b / "second")
    fsync(b / "second")
    (b / "made").mkdir()
    trees.write(b / "made" / "inside", b"inside")
    (b / "made" / "link").symlink_to("elsewhere" * 20)
    os.mkfifo(b / "made" / "fifo")
    os.mknod(b / "made" / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    fsync(b / "made")
    (top / "empty").rmdir()
    trees.write(top / "last", b"last")
    fsync(b)
    fsync(top / "last")
    trees.write(top / "never-synced", b"lost")


def directories(top: Path) -> None:
    """Only directories are fsync'ed: names that were deleted, and new ones of inodes logged for their sake."""
    a, b = top / "a", top / "b"
    for number in range(12):
        (b / f"name-{number}").unlink()
    for number in range(40):
        trees.write(b / f"another-{number}", b"")
    fsync(b)
    os.link(a / "file-6", a / "again")
    (a / "file-0").unlink()
    trees.write(a / "brought", b"brought")
    fsync(a)
    trees.write(b / "another-7", b"changed and not synced")


def data(top: Path) -> None:
    """Extents overwritten, cut, punched, preallocated, written through a mapping, stretched and made small."""
    a, b = top / "a", top / "b"
    overwrite(a / "file-7", 50_000, trees.pattern(60_000, "over"))
    fsync(a / "file-7")
    overwrite(a / "file-7", 70_001, b"!" * 10)
    fsync(a / "file-7", data=True)
    os.truncate(a / "file-6", 5001)
    fsync(a / "file-6")
    trees.fallocate(b / "holes", 100_000, 6000, keep_size=True, punch=True)
    overwrite(b / "holes", 20_000, trees.pattern(5000, "fill"))
    fsync(b / "holes")
    trees.fallocate(a / "file-5", 8192, 100_000, keep_size=True)
    overwrite(a / "file-5", 60_000, b"far")
    trees.fallocate(a / "file-5", 90_000, 200_000, keep_size=True)
    fsync(a / "file-5")
    map_write(a / "file-4", 3000, b"mapped")
    fsync(a / "file-4")
    overwrite(a / "file-1", 5, b"inline")
    fsync(a / "file-1")
    os.truncate(a / "file-2", 100_000)
    fsync(a / "file-2")
    with (a / "file-3").open("ab") as file:
        file.write(trees.pattern(200_000, "more"))
    fsync(a / "file-3")
    run("cp", "--reflink=always", a / "file-7", b / "clone")
    fsync(b / "clone")
    fsync(trees.write(b / "new", trees.pattern(1_000_000, "new")))
    trees.write(a / "file-0", b"grown, not synced")


def attributes(top: Path) -> None:
    """Extended attributes set, changed and removed; modes and owners."""
    a = top / "a"
    for number in range(6):
        path = a / f"file-{number}"
        os.removexattr(path, "user.old")
        os.setxattr(path, "user.new", trees.pattern(50 * number))
        os.chmod(path, 0o600 + number)
        os.chown(path, 1000 + number, 70_000)
        fsync(path)
    os.setxattr(a, "user.folder", b"folder")
    fsync(a)
    os.setxattr(a / "file-6", "user.kept", b"other")
    os.setxattr(a / "file-6", "system.posix_acl_access", trees.ACCESS)
    fsync(a / "file-6")


def packages(top: Path) -> None:
    """What a package manager does at the end of its work."""
    for turn in range(3):
        for number in (1, 4, 6):
            replace_file(top / "a" / f"file-{number}", trees.pattern(2500 * (turn + number), f"v{turn}"))
        replace_file(top / "b" / f"name-{turn}", b"new\n", settle=False)
    replace_file(top / "status", trees.pattern(90_000, "stat"))
    link_tmpfile(top / "a", "from-tmpfile", trees.pattern(6000, "tmp"))
    link_tmpfile(top / "b", "from-tmpfile", trees.pattern(600, "tmp"), early=True)


def links(top: Path) -> None:
    """Names of an inode that has many; Linux 6.18 stops at a BUG where such an item grows beyond half a leaf."""
    file = top / "a" / "file-5"
    overwrite(file, 0, b"linked")
    fsync(file)
    os.link(file, top / "b" / "one-more")
    fsync(file)


def in_subvolumes(top: Path) -> None:
    names(top / "one")
    data(top / "two")
    packages(top)


def many(top: Path) -> None:
    """A log of several levels."""
    folder = top / "many"
    folder.mkdir()
    for number in range(250):
        trees.write(folder / f"name-{number:04}-{'n' * (number % 50)}", b"%d" % number)
    fsync(folder)
    for number in range(0, 250, 5):
        path = folder / f"name-{number:04}-{'n' * (number % 50)}"
        overwrite(path, 0, trees.pattern(5000, "log"))
        fsync(path)


_EXPECTED = (
    *(errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.ENODATA, errno.EINVAL),
    *(errno.ELOOP, errno.EMLINK, errno.EBUSY, errno.EXDEV, errno.ENXIO, errno.ENAMETOOLONG),
)


class Workload:
    """Seeded random operations on the files below `top`, with fsyncs among them."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.dice = random.Random(seed)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            step = self.dice.choice(_STEPS)
            try:
                step(self)
            except OSError as error:
                if error.errno not in _EXPECTED:
                    raise
        files = self.files()
        if files:
            fsync(self.dice.choice(files))

    def folders(self) -> list[Path]:
        return [Path(folder) for folder, _, _ in sorted(os.walk(self.top))]

    def entries(self) -> list[Path]:
        """Everything that is no directory."""
        return [path for path in sorted(self.top.rglob("*")) if not stat.S_ISDIR(path.lstat().st_mode)]

    def files(self) -> list[Path]:
        return [path for path in self.entries() if stat.S_ISREG(path.lstat().st_mode)]

    def fresh(self) -> Path:
        name = self.dice.choice(("n%d", "name-%d", "x" * 60 + "%d", "file-%d")) % self.dice.randrange(60)
        return self.dice.choice(self.folders()) / name

    def some(self, found: list[Path]) -> Path:
        """Raises: FileNotFoundError when there is none."""
        if not found:
            raise FileNotFoundError(errno.ENOENT, "nothing there")
        return self.dice.choice(found)

    def any_file(self) -> Path:
        return self.some(self.files())

    def any_entry(self) -> Path:
        return self.some(self.entries())

    def bytes(self) -> bytes:
        return trees.pattern(self.dice.choice((1, 100, 2000, 4096, 9000, 40_000, 200_000)), str(self.dice.random())[2:])

    def create(self) -> None:
        path = self.fresh()
        if not path.is_symlink():
            trees.write(path, self.bytes()[: self.dice.choice((0, 50, 1 << 20))])

    def write(self) -> None:
        overwrite(self.any_file(), self.dice.randrange(100_000), self.bytes())

    def append(self) -> None:
        with self.any_file().open("ab") as file:
            file.write(self.bytes())

    def rename(self) -> None:
        self.any_entry().rename(self.fresh())

    def move_folder(self) -> None:
        folder = self.dice.choice(self.folders())
        if folder != self.top:
            folder.rename(self.fresh())

    def unlink(self) -> None:
        self.any_entry().unlink()

    def link(self) -> None:
        os.link(self.any_entry(), self.fresh(), follow_symlinks=False)

    def make_folder(self) -> None:
        self.fresh().mkdir()

    def remove_folder(self) -> None:
        folder = self.dice.choice(self.folders())
        if folder != self.top and self.dice.random() < 0.3:
            shutil.rmtree(folder)

    def symlink(self) -> None:
        self.fresh().symlink_to("t" * self.dice.choice((3, 100, 3000)))

    def special(self) -> None:
        kind = self.dice.choice((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK))
        os.mknod(self.fresh(), kind | 0o600, os.makedev(1, 3))

    def truncate(self) -> None:
        os.truncate(self.any_file(), self.dice.choice((0, 10, 4096, 6000, 50_000, 300_000)))

    def punch(self) -> None:
        at, length = self.dice.randrange(60_000), self.dice.randrange(1, 50_000)
        trees.fallocate(self.any_file(), at, length, keep_size=True, punch=True)

    def allocate(self) -> None:
        at, length = self.dice.randrange(100_000), self.dice.randrange(1, 200_000)
        trees.fallocate(self.any_file(), at, length, keep_size=self.dice.random() < 0.5)

    def set_attribute(self) -> None:
        value = b"v" * self.dice.choice((0, 5, 300))
        os.setxattr(self.dice.choice((self.any_file(), self.top / "a")), f"user.{self.dice.choice('xyzw')}", value)

    def remove_attribute(self) -> None:
        os.removexattr(self.any_file(), self.dice.choice(("user.old", "user.kept", "user.x")))

    def chmod(self) -> None:
        self.any_file().chmod(self.dice.choice((0o644, 0o600, 0o755)))

    def tmpfile(self) -> None:
        path = self.fresh()
        link_tmpfile(path.parent, path.name, self.bytes(), early=self.dice.random() < 0.5)

    def package(self) -> None:
        replace_file(self.any_file(), self.bytes(), settle=self.dice.random() < 0.5)

    def exchange(self) -> None:
        exchange(self.any_entry(), self.dice.choice((self.any_entry(), self.some(self.folders()[1:]))))

    def clone(self) -> None:
        source, target = self.any_file(), self.fresh()
        if not target.exists() and not target.is_symlink():
            run("cp", "--reflink=always", source, target)

    def map(self) -> None:
        path = self.any_file()
        size = path.stat().st_size
        if size:
            map_write(path, self.dice.randrange(size), b"M")

    def sync_file(self) -> None:
        fsync(self.any_file(), data=self.dice.random() < 0.2)

    def sync_folder(self) -> None:
        fsync(self.dice.choice(self.folders()))


_STEPS = (
    *(Workload.create, Workload.write, Workload.rename, Workload.unlink, Workload.link) * 2,
    *(Workload.append, Workload.move_folder, Workload.make_folder, Workload.remove_folder, Workload.symlink),
    *(Workload.special, Workload.truncate, Workload.punch, Workload.allocate, Workload.set_attribute),
    *(Workload.remove_attribute, Workload.chmod, Workload.tmpfile, Workload.package, Workload.exchange),
    *(Workload.clone, Workload.map),
    *(Workload.sync_file, Workload.sync_folder) * 3,
)


def work(top: Path, *, seed: int, steps: int) -> None:
    Workload(top, seed).run(steps)


def recipes() -> list[Recipe]:
    """All recipes, by name."""
    found = [
        Recipe("names", names, small),
        Recipe("names-4k-sha256", names, small, ("-n", "4096", "--csum", "sha256")),
        Recipe("names-mixed", names, small, ("--mixed",), kept=False),
        Recipe("directories", directories, small),
        Recipe("data", data, small),
        Recipe("data-holes", data, small, ("-O", "^no-holes")),
        Recipe("data-zstd", data, small, mount="compress-force=zstd:3"),
        Recipe("attributes", attributes, small),
        Recipe("packages", packages, small),
        Recipe("links", links, linked),
        Recipe("subvolumes", in_subvolumes, several),
        Recipe("many", many, bare, ("-n", "4096")),
    ]
    random_ones = [
        Recipe(f"random-{seed}", partial(work, seed=seed, steps=20 + seed % 60), small, kept=seed in (101, 103))
        for seed in range(100, 400)
    ]
    variants = (("-O", "^no-holes"), ("-n", "4096"), ("--mixed",), ("--csum", "xxhash"))
    random_ones += [
        replace(each, name=f"{each.name}-{number}", mkfs=variants[number], kept=False)
        for number in range(len(variants))
        for each in random_ones[:40]
    ]
    return [*found, *random_ones]
