"""Recipes of Btrfs images: profiles, checksums and features, each with what the kernel says of it.

A recipe makes one image file, or one for each device (NAME.img, NAME.img.2, ...). The manifest is the kernel's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import manifest

from . import trees
from .host import loop_device, loop_mount, mounted, run, versions

UUID = "b7f50000-1111-4222-8333-444455556666"
K = 1024

# pairs of names that share a hash, which is a CRC-32C
COLLIDING = ((b"ebblgkjwh", b"gjunzdtpb"), (b"kdqkgvhcq", b"gxdgpqttl"), (b"dezxvrsev", b"wqlrytfcf"))
COLLIDING_XATTRS = ("user.ycbpwdxht", "user.bounhdqyz")

Fill = Callable[[Path], None]


@dataclass(frozen=True)
class Recipe:
    """`mkfs`: options; `fill` runs on a writable mount with options `mount`. `after` edits the finished files."""

    name: str
    mkfs: tuple[str, ...]
    fill: Fill
    megabytes: int = 48
    devices: int = 1
    mount: str = ""
    converted: bool = False  # from an ext4 made with the options `mkfs`
    frozen: str = ""  # what there is a read-only snapshot of
    after: Callable[[list[Path]], None] | None = None
    settled: bool = True  # times are given once it is filled
    kept: bool = True  # in the repository
    sprouts: int = 0  # of the devices, so many at the front stand each on those behind it, which are seeds


def images(recipe: Recipe, image: Path) -> list[Path]:
    """The files of a recipe's devices, of which `image` is the first."""
    return [image, *(image.with_name(f"{image.name}.{number}") for number in range(2, recipe.devices + 1))]


def make(recipe: Recipe, image: Path) -> None:
    """Make the recipe's image files."""
    files = images(recipe, image)
    for file in files:
        with file.open("wb") as made:
            made.truncate(recipe.megabytes << 20)
    if recipe.converted:
        convert(recipe, image)
        return
    words = ["-q", "-f", "-L", recipe.name, *recipe.mkfs]
    if "-U" not in recipe.mkfs:
        words += ["-U", UUID]
    run("mkfs.btrfs", *words, *files[recipe.sprouts :])
    with kernel_mount(files[recipe.sprouts :], options=",".join(filter(None, ("rw", recipe.mount)))) as top:
        recipe.fill(top)
        if recipe.settled:
            trees.settle(top)
        if recipe.frozen:
            run("btrfs", "subvolume", "snapshot", "-r", top / recipe.frozen, top / "frozen")
        run("sync", "-f", top)
    for number in reversed(range(recipe.sprouts)):
        sprout(files[number], files[number + 1 :])
    if recipe.after is not None:
        recipe.after(files)


def sprout(file: Path, below: list[Path]) -> None:
    """Make `below`, a filesystem's devices with what that stands on, a seed; add `file` to it, and change the tree."""
    run("btrfstune", "-f", "-S", "1", below[0])
    with loop_device(file, writable=True) as device, kernel_mount(below) as top:
        run("btrfs", "device", "add", "-f", device, top)
        run("mount", "-o", "remount,rw", top)
        trees.write(top / f"new in {file.name}", trees.pattern(150 * K, file.name))
        with (top / "long").open("r+b") as changed:
            changed.seek(len(below) * 100 * K)
            changed.write(trees.pattern(60 * K, file.name))
        shutil.rmtree(top / "many", ignore_errors=True)
        trees.settle(top)
        run("sync", "-f", top)


def convert(recipe: Recipe, image: Path) -> None:
    """Make an ext4 and turn it into a Btrfs, which keeps the old one as a file in a subvolume."""
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-N", "320", "-U", UUID, *recipe.mkfs, image)
    with loop_mount(image, options="rw") as top:
        recipe.fill(top)
        (top / "link-4095").unlink()  # btrfs-convert 6.2 gives it an extent that Linux refuses for a link
        trees.settle(top)
    run("e2fsck", "-fp", image, ok=(0, 1))
    run("btrfs-convert", "--uuid", "copy", image)
    run("btrfs", "filesystem", "label", image, recipe.name)


@contextmanager
def kernel_mount(files: list[Path], *, options: str = "ro", writable: bool = True) -> Iterator[Path]:
    """Mount the filesystem on image files. The devices are writable, which decides what statfs(2) calls free."""
    with ExitStack() as stack:
        devices = [stack.enter_context(loop_device(file, writable=writable)) for file in files]
        run("btrfs", "device", "scan", *devices)
        stack.callback(run, "btrfs", "device", "scan", "--forget", *devices)
        named = [f"device={device}" for device in devices[1:]]
        top = stack.enter_context(mounted(devices[0], options=",".join([options, *named]), kind="btrfs"))
        yield top


def describe(recipe: Recipe, image: Path) -> dict[str, Any]:
    """Ask the kernel about a made image. Returns the fixture's manifest."""
    told: dict[str, Any] = {"name": recipe.name, "mkfs": list(recipe.mkfs), "devices": recipe.devices}
    told["kernel"] = versions()["kernel"]
    told["progs"] = run("btrfs", "--version").split()[1]
    told["uuid"] = UUID
    files = images(recipe, image)
    with kernel_mount(files, options="ro") as top:
        told["statvfs"] = manifest.host_statvfs(top)
        told["default"] = subvolume_number(top)
        told["tree"] = tree = manifest.from_directory(top, across=True)
    for entry in tree.values():
        if entry.get("ino") == 2:  # what leads nowhere is always as old as the question
            del entry["mtime"], entry["ctime"]
    if told["default"] != 5:
        with kernel_mount(files, options="ro,subvolid=5") as top:
            told["subvolumes"] = subvolumes(top)
    else:
        with kernel_mount(files, options="ro") as top:
            told["subvolumes"] = subvolumes(top)
    return told


def subvolume_number(top: Path) -> int:
    return int(run("btrfs", "inspect-internal", "rootid", top).strip())


def subvolumes(top: Path) -> list[list[Any]]:
    """[number, path, read only] of each subvolume but the top level, whose mount is at `top`."""
    lines = run("btrfs", "subvolume", "list", "-a", top).splitlines()
    frozen = {line.split(" path ")[1] for line in run("btrfs", "subvolume", "list", "-ar", top).splitlines()}
    found = []
    for line in lines:
        words, path = line.split(" path ", 1)
        found.append([int(words.split()[1]), path.removeprefix("<FS_TREE>/"), path in frozen])
    return sorted(found)


# fillings


def clone_range(source: Path, at: int, length: int, target: Path, to: int) -> None:
    """Let a part of `target` share the extents of a part of `source`."""
    with source.open("rb") as origin, target.open("r+b") as out:
        fcntl.ioctl(out, 0x4020940D, struct.pack("<qQQQ", origin.fileno(), at, length, to))


def set_method(path: Path, method: str) -> None:
    run("btrfs", "property", "set", path, "compression", method)


def compressed(top: Path) -> None:
    """Every compression: whole, inline, partly overwritten, shared in part, with extents nobody names whole."""
    for method in ("zlib", "lzo", "zstd"):
        folder = top / method
        folder.mkdir()
        set_method(folder, method)
        for size in (100, 2000, 4095, 4096, 4097, 70_000, 131_072, 131_073, 400_001):
            path = trees.write(folder / f"size-{size}", trees.pattern(size, method))
            run("sync", "-f", path)
            assert path.stat().st_size == size
        path = trees.write(folder / "overwritten", trees.pattern(300 * K, "first"))
        _settled(path)
        with path.open("r+b") as file:
            for at in (5000, 140_000, 280_000):
                file.seek(at)
                file.write(trees.pattern(9000, "second"))
                file.flush()
                os.fsync(file.fileno())
        path = trees.write(folder / "shared-part", b"begin")
        clone_range(folder / "overwritten", 64 * K, 128 * K, path, 36 * K)
        trees.write(folder / "cut", trees.pattern(131_072, "cut"))
        _settled(folder / "cut")
        os.truncate(folder / "cut", 50_001)
        noise = bytearray(os.urandom(16 * K)) + trees.pattern(112 * K, "mixed")
        trees.write(folder / "mixed", bytes(noise))
        trees.write(folder / "hole", {0: trees.pattern(20_000, "a"), 300_000: trees.pattern(20_000, "b")})


def _settled(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def special(top: Path) -> None:
    """What only Btrfs has besides: files without checksums, hash collisions, extended references, properties."""
    folder = top / "nocow"
    folder.mkdir()
    run("chattr", "+C", folder)
    trees.write(folder / "plain", trees.pattern(100_000, "nocow"))
    trees.write(folder / "holes", {0: b"begin", 90_000: b"end"})
    folder = top / "collisions"
    folder.mkdir()
    for one, other in COLLIDING:
        for name in (one, other):
            with open(os.fsencode(folder) + b"/" + name, "wb") as file:
                file.write(name)
    path = trees.write(folder / "attributes", b"")
    for name in COLLIDING_XATTRS:
        os.setxattr(path, name, name.encode() * 3)
    folder = top / "references"
    folder.mkdir()
    first = trees.write(folder / "first", b"shared")
    for number in range(150):
        os.link(first, folder / f"a name of some length, so that many of them are more than an item holds {number:04}")
    path = trees.write(top / "reflinked", trees.pattern(80 * K, "origin"))
    _settled(path)
    trees.write(top / "reflink", b"")
    clone_range(path, 0, 80 * K, top / "reflink", 0)
    trees.write(top / "reflink-twice", b"12345")
    clone_range(path, 16 * K, 8 * K, top / "reflink-twice", 8 * K)
    clone_range(path, 20 * K, 8 * K, top / "reflink-twice", 40 * K)
    path = trees.write(top / "bookend", trees.pattern(200 * K, "old"))
    _settled(path)
    with path.open("r+b") as file:
        file.seek(60 * K)
        file.write(trees.pattern(40 * K, "new"))
    trees.unwritten(top, 4096)


def snapshots(top: Path) -> None:
    """Subvolumes in subvolumes, snapshots writable and not, one deleted."""
    run("btrfs", "subvolume", "create", top / "sub")
    trees.write(top / "sub" / "file", trees.pattern(50_000, "sub"))
    run("btrfs", "subvolume", "create", top / "sub" / "inner")
    trees.write(top / "sub" / "inner" / "file", b"inner")
    (top / "dir of subvolumes" / "deep").mkdir(parents=True)
    run("btrfs", "subvolume", "create", top / "dir of subvolumes" / "deep" / "bottom")
    trees.write(top / "dir of subvolumes" / "deep" / "bottom" / "file", b"bottom")
    os.chown(top / "sub", 1000, 1001)
    trees.settle(top / "sub")
    run("btrfs", "subvolume", "snapshot", top / "sub", top / "snap")
    trees.write(top / "snap" / "only here", b"snapshot")
    trees.write(top / "sub" / "file", b"changed since")
    run("btrfs", "subvolume", "create", top / "gone")
    trees.write(top / "gone" / "file", b"gone")
    run("btrfs", "subvolume", "delete", "--commit-after", top / "gone")


def everything(top: Path) -> None:
    trees.rich(top)
    compressed(top)
    special(top)
    snapshots(top)


def modest(top: Path) -> None:
    """A tree for the profiles: data in all its forms, over many stripes."""
    trees.write(top / "long", trees.pattern(700 * K, "long"))
    trees.write(top / "size-100", trees.pattern(100))
    folder = top / "lzo"
    folder.mkdir()
    set_method(folder, "lzo")
    trees.write(folder / "text", trees.pattern(200 * K, "text"))
    folder = top / "nocow"
    folder.mkdir()
    run("chattr", "+C", folder)
    trees.write(folder / "plain", trees.pattern(300 * K, "nocow"))
    folder = top / "many"
    folder.mkdir()
    for number in range(0, 300, 10):
        trees.write(folder / f"name {number}", trees.pattern(number))


def mixed(top: Path) -> None:
    special(top)
    compressed(top)


def balanced(top: Path) -> None:
    """Data in two profiles, as a conversion leaves it that was stopped."""
    modest(top)
    run("sync", "-f", top)
    run("btrfs", "balance", "start", "-f", "-dconvert=single,limit=1", "-mconvert=dup", top)
    trees.write(top / "later", trees.pattern(200 * K, "later"))


def default_subvolume(top: Path) -> None:
    """As openSUSE has it: the default is a snapshot below, and what belongs beside it is elsewhere."""
    run("btrfs", "subvolume", "create", top / "@")
    trees.plain(top / "@", huge=False)
    (top / "@" / ".snapshots" / "1").mkdir(parents=True)
    run("btrfs", "subvolume", "create", top / "@" / "var")
    trees.write(top / "@" / "var" / "log", b"log")
    run("btrfs", "subvolume", "snapshot", top / "@", top / "@" / ".snapshots" / "1" / "snapshot")
    number = subvolume_number(top / "@" / ".snapshots" / "1" / "snapshot")
    run("btrfs", "subvolume", "set-default", str(number), top)


SINGLE = ("-m", "single", "-d", "single")


def recipes() -> list[Recipe]:
    """Every recipe, each name once."""
    found = [
        Recipe("default", SINGLE, everything, frozen="sub"),
        Recipe("default-subvolume", SINGLE, default_subvolume),
        Recipe("mixed", ("--mixed",), mixed, 16),
        Recipe("xxhash", ("--csum", "xxhash", "--mixed"), modest, 24),
        Recipe("sha256", ("--csum", "sha256", "--mixed", "-O", "^no-holes", "-R", "^free-space-tree"), modest, 24),
        Recipe("blake2", ("--csum", "blake2", "--mixed", "-R", "quota"), modest, 24),
        Recipe("node64k", ("-n", "65536", *SINGLE), modest, 96),
        Recipe("metadata-uuid", SINGLE, modest, 48, after=change_uuid),
        Recipe("old", (*SINGLE, "-O", "^skinny-metadata,^no-holes,^extref", "-R", "^free-space-tree"), modest, 48),
        Recipe("converted", ("-J", "size=4"), lambda top: trees.plain(top, huge=False), 128, converted=True),
        Recipe("balanced", ("-m", "raid1", "-d", "raid1"), balanced, 256, 2),
        Recipe("sprout", SINGLE, modest, 64, 3, sprouts=2),
        Recipe("dup", ("-m", "dup", "-d", "single"), modest, 112),
    ]
    for profile, devices in PROFILES.items():
        found.append(Recipe(profile, ("-m", profile, "-d", profile), modest, 128, devices, kept=profile in KEPT))
    return found


PROFILES = {"raid0": 3, "raid1": 2, "raid1c3": 3, "raid1c4": 4, "raid10": 4, "raid5": 3, "raid6": 4}
KEPT = tuple(PROFILES)


def change_uuid(files: list[Path]) -> None:
    run("btrfstune", "-M", "0ddba110-1111-4222-8333-444455556666", *files)
