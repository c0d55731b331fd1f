"""XFS images whose log must be replayed: taken while mounted, after a shutdown, or frozen.

The oracle is the kernel that recovers a copy; where it cannot (it refuses exchanged extents that it wrote itself), what
the mount showed before. Small filesystems need mkfs.xfs 5.19 or newer. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import manifest

from . import trees
from .host import copy_sparse, loop_device, mounted, run

UUID = "5ca1ab1e-2222-4333-8444-555566667777"
Act = Callable[[Path], Any]


@dataclass(frozen=True)
class Recipe:
    """An image: `prepare` is written back before `act` is logged.

    end: "shutdown" (the log is written out first), "copy" (of what is mounted; `act` has to fsync) or "freeze".
    """

    name: str
    act: Act
    options: tuple[str, ...] = ()
    prepare: Act | None = None
    mount: str = ""
    end: str = "shutdown"
    megabytes: int = 20
    oracle: str = "recovered"  # or "before": the view before the shutdown
    settled: bool = True  # recovery changes nothing more than the log says


def make(recipe: Recipe, image: Path) -> None:
    """Make the recipe's image file."""
    work = image.with_name(image.name + ".mounted")
    with work.open("wb") as file:
        file.truncate(recipe.megabytes << 20)
    mkfs = ("mkfs.xfs", "-q", "--unsupported", "-m", f"uuid={UUID}", "-L", recipe.name[:12])
    run(*mkfs, *recipe.options, work)
    if recipe.prepare is not None:
        with attached(work) as top:
            recipe.prepare(top)
    with attached(work, ",".join(filter(None, ("rw", recipe.mount)))) as top:
        held = recipe.act(top)
        if recipe.oracle == "before":
            BEFORE[recipe.name] = manifest.from_directory(top)
        if recipe.end == "shutdown":
            shutdown(top)
        elif recipe.end == "freeze":
            run("xfs_freeze", "-f", top)
            copy_sparse(work, image)
            run("xfs_freeze", "-u", top)
        else:
            copy_sparse(work, image)
        for fd in held or ():
            os.close(fd)
    if recipe.end == "shutdown":
        copy_sparse(work, image)
    work.unlink()
    if "DIRTY" not in subprocess.run(["xfs_logprint", "-t", image], capture_output=True, text=True).stdout:
        raise RuntimeError(f"{recipe.name}: the log is not dirty")


@contextmanager
def attached(image: Path, options: str = "rw") -> Iterator[Path]:
    """Mount an image, by a loop device of its own, which umount does not have to detach."""
    with loop_device(image, writable=True) as device, mounted(device, options=f"{options},nouuid", kind="xfs") as top:
        yield top


BEFORE: dict[str, manifest.Tree] = {}


def shutdown(top: Path) -> None:
    """Stop the filesystem after its log was written; what the log says is not written back."""
    run("xfs_io", "-x", "-c", "shutdown -f", top)


def describe(recipe: Recipe, image: Path) -> dict[str, Any]:
    """Ask the oracle about a made image. Returns the fixture's manifest."""
    told: dict[str, Any] = {"name": recipe.name, "options": list(recipe.options), "oracle": recipe.oracle}
    told["kernel"] = os.uname().release
    told["xfsprogs"] = run("mkfs.xfs", "-V").split()[-1]
    told["settled"] = recipe.settled
    if recipe.oracle == "before":
        told["tree"] = BEFORE[recipe.name]
    else:
        copy = image.with_name(image.name + ".recovered")
        copy_sparse(image, copy)
        with attached(copy, "rw,noatime"):
            pass
        with attached(copy, "ro") as top:
            if recipe.settled:
                told["statvfs"] = manifest.host_statvfs(top)
            told["tree"] = manifest.from_directory(top)
        copy.unlink()
    with attached(image, "ro,norecovery") as top:
        raw = manifest.from_directory(top)
    if list(manifest.differences(raw, told["tree"])) == [] and recipe.end != "freeze":
        raise RuntimeError(f"{recipe.name}: there is nothing to be replayed")
    return told


def fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def settled(path: Path) -> None:
    """Write out the filesystem that `path` is on."""
    run("sync", "-f", path)


def create(top: Path) -> None:
    """New inodes, more than one chunk of them, and a directory that outgrows its inode."""
    folder = top / "new"
    folder.mkdir()
    for number in range(70):
        trees.write(folder / f"file-{number}", b"%d\n" % number)
    os.symlink("file-1", folder / "link")
    fsync(folder / "file-0")


def old(top: Path) -> None:
    """What stands there before."""
    folder = top / "old"
    folder.mkdir()
    for number in range(36):
        path = trees.write(folder / f"name-{number:03}", trees.pattern(number * 40, "old"))
        if not number % 4:
            os.setxattr(path, "user.before", b"b" * number)
    os.link(folder / "name-002", folder / "hard")
    scattered(top / "many", 50)


def scattered(path: Path, count: int) -> None:
    """A file of `count` extents; more than some twenty need a B+tree."""
    trees.write(path, trees.pattern(count * 8192, "many"))
    settled(path)
    for number in range(count):
        trees.fallocate(path, number * 8192, 4096, keep_size=True, punch=True)


def changes(top: Path) -> None:
    """Names come, go and move; attributes and forks change their form; links and devices."""
    folder = top / "old"
    for number in range(0, 36, 3):
        (folder / f"name-{number:03}").unlink()
    for number in range(1, 36, 3):
        (folder / f"name-{number:03}").rename(folder / f"moved-{number:03}-under-a-longer-name")
    folder.rename(top / "renamed")
    folder = top / "renamed"
    for number in range(2, 24, 3):
        path = folder / f"name-{number:03}"
        for index in range(number // 3):
            os.setxattr(path, f"user.{index:02}", b"v" * (index * 67 % 300))
    os.setxattr(folder / "name-026", "user.large", trees.pattern(9000, "large"))
    os.setxattr(folder / "name-029", "trusted.some", b"t" * 200)
    os.setxattr(folder / "name-032", "security.capability", trees.CAPABILITY)
    os.removexattr(folder / "name-008", "user.before")
    for length in (10, 300, 500, 1000):
        os.symlink("l" * length, top / f"link-{length}")
    os.mknod(top / "device", 0o20644, os.makedev(300, 70_000))
    os.mkfifo(top / "fifo")
    os.chown(folder / "name-002", 100_000, 200_000)
    os.truncate(top / "many", 8192 * 10)
    scattered(top / "other", 30)
    os.utime(folder / "name-005", ns=(-(10**18), -(10**18) + 1))
    fsync(top / "other")


def both(top: Path) -> None:
    old(top)
    changes(top)


def turns(top: Path) -> None:
    """Enough commits to go round a small log more than once."""
    for number in range(3200):
        path = top / f"turn-{number % 13}"
        path.write_bytes(b"%d" % number)
        os.setxattr(path, "user.turn", b"%d" % number)
        fsync(path)
    changes(top)


def open_files(top: Path) -> list[int]:
    """Files that are unlinked and still open, one of which never had a name."""
    changes(top)
    held = os.open(top, os.O_TMPFILE | os.O_RDWR)
    os.write(held, trees.pattern(50_000))
    other = os.open(top / "renamed" / "name-011", os.O_RDONLY)
    (top / "renamed" / "name-011").unlink()
    os.fsync(held)
    return [held, other]


def reflinked(top: Path) -> None:
    """Shared extents, of which some are written to."""
    trees.write(top / "base", trees.pattern(300_000, "base"))
    settled(top)
    run("cp", "--reflink=always", top / "base", top / "copy")
    with (top / "copy").open("r+b") as file:
        file.seek(50_000)
        file.write(trees.pattern(70_000, "mine"))
    settled(top)
    run("cp", "--reflink=always", top / "copy", top / "third")
    changes(top)


def fresh(top: Path) -> None:
    """Forks of every form, in inodes that are new."""
    create(top)
    scattered(top / "many", 50)
    os.truncate(top / "many", 8192 * 40)
    for length in (10, 300, 1000):
        os.symlink("l" * length, top / f"link-{length}")
    os.utime(top / "new" / "file-5", ns=(-(10**18), -(10**18) + 1))
    os.setxattr(top / "new" / "file-6", "user.some", b"value")


def exchanged_before(top: Path) -> None:
    scattered(top / "one", 90)
    with (top / "one").open("rb") as file:
        data = file.read()
    trees.write(top / "two", data.replace(b"many", b"seen"))
    settled(top)
    for number in range(90):
        trees.fallocate(top / "two", number * 8192, 4096, keep_size=True, punch=True)


def exchanged(top: Path) -> None:
    """Two files exchange their extents, whose B+trees must then name other owners."""
    run("xfs_io", "-c", f"swapext {top / 'two'}", top / "one")


def large_directory(top: Path) -> None:
    """A directory of several blocks, with gaps; its names are those of one file."""
    folder = top / "large"
    folder.mkdir()
    first = trees.write(folder / "a-name-of-some-length-0", b"one")
    for number in range(1, 450):
        os.link(first, folder / f"a-name-of-some-length-{number}")
    for number in range(1, 450, 3):
        (folder / f"a-name-of-some-length-{number}").unlink()


def removed(top: Path) -> None:
    """Metadata that is freed, and files that take its place; what was logged of it is cancelled."""
    large_directory(top)
    fsync(top / "large")
    run("rm", "-r", top / "large", top / "old")
    settled(top)
    for number in range(12):
        trees.write(top / f"instead-{number}", trees.pattern(20_000, "inst"))
    fsync(top / "instead-0")


def recipes(guest: bool = False) -> list[Recipe]:
    """What is kept in the repository; `guest`: what needs the kernel of a QEMU guest, as version 4 does."""
    plain = ("-m", "reflink=0")
    if guest:
        four = ("-m", "crc=0,reflink=0")
        return [
            Recipe("v4", changes, four, old, end="copy"),
            Recipe("v4-log-v1", turns, (*four, "-l", "version=1,lazy-count=0", "-b", "size=1024"), old, megabytes=16),
            Recipe("v4-create", both, (*four, "-n", "ftype=0", "-i", "size=256")),
        ]
    return [
        Recipe("create", create, plain),
        Recipe("mixed-copied", changes, (*plain, "-i", "nrext64=1"), old, end="copy"),
        Recipe("wrapped-1k", turns, ("-m", "reflink=0", "-b", "size=1024"), old, megabytes=16),
        Recipe("stripe-128k", both, (*plain, "-l", "su=128k"), mount="logbsize=256k", megabytes=32),
        Recipe("sector-4k", removed, (*plain, "-s", "size=4096"), old),
        Recipe("inode-2k", fresh, (*plain, "-i", "size=2048", "-m", "bigtime=0,inobtcount=0")),
        Recipe("frozen", create, plain, end="freeze"),
        Recipe("open-files", open_files, plain, old, end="copy", settled=False),
        Recipe("reflinked", reflinked, ("-m", "rmapbt=1"), old, megabytes=32, settled=False),
        Recipe("exchanged", exchanged, plain, exchanged_before, "noatime", oracle="before", settled=False),
    ]
