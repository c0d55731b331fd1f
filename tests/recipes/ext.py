"""Recipes of ext2, ext3 and ext4 images: one per feature, each with what the kernel says of it.

A recipe makes an image file and tells the oracle how to read it. The manifest is the kernel's (a loop mount), or,
where the kernel that makes it cannot mount the feature, that of the directory that mke2fs copied in.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import manifest

from . import ext_journal, trees
from .host import copy_sparse, debugfs, loop_mount, run, versions

UUID = "c0ffee00-1111-4222-8333-444455556666"
HASH_SEED = "deadbeef-0123-4567-89ab-cdef01234567"

EXT2 = "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"
EXT3 = EXT2 + ",has_journal"
EXT4_2012 = EXT3 + ",extent,huge_file,flex_bg,uninit_bg,dir_nlink,extra_isize"
EXT4 = EXT3 + ",extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize"
EXT4_2023 = EXT4 + ",metadata_csum_seed,orphan_file"

Fill = Callable[[Path], None]


@dataclass(frozen=True)
class Recipe:
    """An image. `before`, `after`: debugfs requests around the filling. `tamper` edits the finished file.

    oracle: "kernel", "source" (mke2fs -d), or "none" for images that are refused, with `error` the expected type.
    """

    name: str
    features: str
    fill: Fill | None
    block: int = 4096
    inode: int = 256
    megabytes: int = 12
    inodes: int = 320
    more: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    mount: str = ""  # options for filling
    read: str = ""  # options for the oracle's mount
    oracle: str = "kernel"
    error: str = ""
    contents: Mapping[str, bytes] = field(default_factory=dict)  # of files that the making kernel cannot read
    clocked: tuple[str, ...] = ()  # directories that the kernel's replay gives the time of the replay
    detected: bool = True  # whether the type is seen; else the reader has to be told
    free: bool = True  # whether the figures of free space mean anything
    lookups: Mapping[str, str] = field(default_factory=dict)  # other spellings of paths that must be found
    tamper: Callable[[Path], None] | None = None
    make: Callable[[Recipe, Path], None] | None = None  # instead of all the above
    kept: bool = True  # in the repository; else for the differential tests alone


def mkfs(recipe: Recipe, image: Path, *more: str) -> None:
    with image.open("wb") as file:
        file.truncate(recipe.megabytes << 20)
    extended = f"hash_seed={HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    words = ["-q", "-F", "-b", str(recipe.block), "-I", str(recipe.inode), "-N", str(recipe.inodes), "-m", "1"]
    words += ["-U", UUID, "-L", recipe.name[:16], "-O", recipe.features]
    if "has_journal" in recipe.features and "^has_journal" not in recipe.features and "-J" not in recipe.more:
        words += ["-J", "size=1" if recipe.block == 1024 else "size=4"]
    given = list(recipe.more)
    if "-E" in given:
        at = given.index("-E")
        extended += "," + given[at + 1]
        del given[at : at + 2]
    run("mke2fs", *words, "-E", extended, *given, *more, image)


def make(recipe: Recipe, image: Path) -> None:
    """Make the recipe's image file."""
    if recipe.make is not None:
        recipe.make(recipe, image)
    elif recipe.oracle == "source":
        with_source(recipe, lambda top: mkfs(recipe, image, "-d", str(top)))
    else:
        mkfs(recipe, image)
    if recipe.before:
        debugfs(image, *recipe.before)
    if recipe.make is None and recipe.oracle != "source" and recipe.fill is not None:
        with loop_mount(image, options=recipe.mount or "rw") as top:
            recipe.fill(top)
            trees.settle(top)
    if recipe.after:
        debugfs(image, *recipe.after)
    if recipe.tamper is not None:
        recipe.tamper(image)


def with_source(recipe: Recipe, use: Callable[[Path], Any]) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="guestkit-source-") as name:
        top = Path(name)
        top.chmod(0o755)
        assert recipe.fill is not None
        recipe.fill(top)
        trees.settle(top)
        os.utime(top, (1_600_000_000, 1_600_000_000))
        return use(top)


def describe(recipe: Recipe, image: Path) -> dict[str, Any]:
    """Ask the oracle about a made image. Returns the fixture's manifest."""
    told: dict[str, Any] = {"name": recipe.name, "features": recipe.features, "oracle": recipe.oracle}
    told.update(versions() if recipe.oracle == "kernel" else {"e2fsprogs": versions()["e2fsprogs"]})
    told["uuid"] = UUID
    if recipe.error:
        told["error"] = recipe.error
    if not recipe.detected:
        told["detected"] = False
    if recipe.lookups:
        told["lookups"] = dict(recipe.lookups)
    if recipe.oracle == "source":
        told["tree"] = with_source(recipe, source_tree)
    elif recipe.oracle == "kernel":
        with kernel_view(image, recipe.read) as top:
            told["statvfs"] = figures(recipe, top)
            told["tree"] = kernel_tree(recipe, top, image)
        if ext_journal.needs_recovery(image):
            told["dirty"] = True
            with loop_mount(image, options="ro,noload", kind="ext4") as top:
                tree = manifest.from_directory(top)
            if not any("error" in entry for entry in tree.values()):  # what was half written need not make sense
                told["noload"] = tree
    return told


def figures(recipe: Recipe, top: Path) -> dict[str, int]:
    told = manifest.host_statvfs(top)
    if not recipe.free:
        for name in ("bfree", "bavail", "ffree", "favail"):
            del told[name]
    return told


def kernel_tree(recipe: Recipe, top: Path, image: Path) -> manifest.Tree:
    """The tree at `top`, with the contents that this kernel refuses to read, and without its clock.

    Replaying the fast commit of a name, Linux stamps the directory with the present time; e2fsck leaves it alone.
    """
    tree = manifest.from_directory(top)
    if recipe.clocked:
        with loop_mount(image, options="ro,noload", kind="ext4") as before:
            old = manifest.from_directory(before, content=False)
        for path in recipe.clocked:
            tree[path].update(mtime=old[path]["mtime"], ctime=old[path]["ctime"])
    for path, data in recipe.contents.items():
        tree[path].pop("error", None)
        tree[path]["sha256"] = manifest.digest(len(data), lambda at, n, data=data: data[at : at + n], list)
    return tree


def source_tree(top: Path) -> manifest.Tree:
    """What mke2fs -d makes of a directory: whole seconds, and numbers, places and creation times of its own."""
    tree = manifest.from_directory(top)
    for path, entry in tree.items():
        for gone in ("ino", "blocks", "ctime", "btime", *(("size",) if entry["type"] == "dir" else ())):
            entry.pop(gone, None)
        entry["mtime"] = entry["mtime"] // 10**9 * 10**9
        del entry["atime"]  # asking changes it
        if not path:
            del entry["mtime"]
            entry["nlink"] += 1  # lost+found
    return tree


class kernel_view:
    """The tree as the kernel shows it read-only; a dirty one is first recovered, on a copy."""

    def __init__(self, image: Path, options: str = "") -> None:
        self.image, self.options = image, options
        self.copy: Path | None = None

    def __enter__(self) -> Path:
        image = self.image
        if "noload" not in self.options and ext_journal.needs_recovery(image):
            self.copy = image = image.with_name(image.name + ".recovered")
            copy_sparse(self.image, image)
            with loop_mount(image, options="rw", kind="ext4"):
                pass
        self.mount = loop_mount(image, options=",".join(filter(None, ("ro", self.options))), kind="ext4")
        return self.mount.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self.mount.__exit__(*exc)
        if self.copy is not None:
            self.copy.unlink()


# fillings


def deep(top: Path, *, block: int, extents: int) -> None:
    """Extents that cannot be joined, so that their tree gains levels."""
    trees.write(top / "deep", {2 * n * block: b"%d\n" % n for n in range(extents)}, (2 * extents + 5) * block)
    path = trees.write(top / "backwards", b"")
    with path.open("r+b") as file:
        for number in range(400, 0, -1):
            file.seek(3 * number * block)
            file.write(b"%d" % number)
            if number % 40 == 0:
                os.fsync(file.fileno())
    trees.write(top / "plain", trees.pattern(30_000))


def groups(top: Path) -> None:
    """A little in many block groups."""
    for number in range(60):
        (top / f"dir-{number}").mkdir()
        trees.write(top / f"dir-{number}" / "file", trees.pattern(9000, str(number)))


def inline(top: Path, *, block: int, room: int) -> None:
    """Inline data at each boundary: in i_block, in the xattr behind it, and just too long."""
    trees.plain(top, block=block)
    trees.unwritten(top, block)
    for size in sorted({2, 58, 62, 100, 120, 130, 140, 150, 156, 158, 164, room - 2, room - 1, room, room + 1}):
        trees.write(top / f"inline-{size}", trees.pattern(size, "inline"))
        os.symlink("t" * size, top / f"inline-link-{size}")
    trees.write(top / "inline-hole", {0: b"a", 100: b"b"}, 130)
    trees.write(top / "inline-stretched", b"a", 90)
    for count in (1, 2, 3, 4, 6, 9, 12, 30):
        folder = top / f"inline-dir-{count}"
        folder.mkdir()
        for number in range(count):
            (folder / f"name-{number}").mkdir() if number % 2 else trees.write(folder / f"name-{number}", b"in")
    path = trees.write(top / "inline-xattr", trees.pattern(50))
    os.setxattr(path, "user.beside", b"inline")
    folder = top / "inline-removed"
    folder.mkdir()
    for name in ("a", "b", "c"):
        trees.write(folder / name, b"")
    (folder / "b").unlink()


def large_values(top: Path) -> None:
    """Values that need inodes of their own, shared ones too."""
    trees.plain(top)
    value = bytes(random.Random(7).randbytes(200)) * 300
    for number, size in enumerate((4096, 5000, 20_000, 60_000)):
        path = trees.write(top / f"large-{number}", b"x")
        os.setxattr(path, "user.large", value[:size])
        os.setxattr(path, "user.small", b"small")
    for number in range(2):
        os.setxattr(trees.write(top / f"same-{number}", b"x"), "user.same", value[:10_000])
    path = trees.write(top / "several", b"x")
    for number in range(4):
        os.setxattr(path, f"user.v{number}", value[number : number + 5000])


def hashed(top: Path) -> None:
    """A directory with an index, of names with bytes above 127 and of many lengths."""
    names = [b"name-%d" % n for n in range(150)] + [b"\xe9\xff%d\x80" % n for n in range(40)]
    names += [b"long" * (n % 60 + 1) + b"%d" % n for n in range(60)]
    trees.fill_directory(top / "hashed", names)


def many_names(top: Path, *, count: int, length: int = 0) -> None:
    trees.fill_directory(top / "many", (f"{n:06}".ljust(length, "x") for n in range(count)))


def device_numbers(top: Path) -> None:
    for number in range(20):
        os.mknod(top / f"d{number}", 0o600 | 0o020000, os.makedev(1 << number % 12, 1 << number))


# editing finished images


def poke(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def set_incompat(bit: int, image: Path) -> None:
    """Set an incompatible feature bit; only for images without metadata_csum."""
    with image.open("rb") as file:
        file.seek(1024 + 0x60)
        (value,) = struct.unpack("<I", file.read(4))
    poke(image, 1024 + 0x60, struct.pack("<I", value | bit))


def make_converted(recipe: Recipe, image: Path) -> None:
    """ext3 that became ext4: old files keep their block maps, new ones have extents."""
    mkfs(recipe, image)
    with loop_mount(image, options="rw", kind="ext3") as top:
        (top / "old").mkdir()
        trees.plain(top / "old", block=1024)
        trees.settle(top)
    run("tune2fs", "-O", "extents,uninit_bg,dir_index,extra_isize,flex_bg", image)
    run("e2fsck", "-fy", image, ok=(0, 1))
    with loop_mount(image, options="rw", kind="ext4") as top:
        (top / "new").mkdir()
        trees.plain(top / "new", block=1024)
        trees.unwritten(top / "new", 1024)
        with (top / "old" / "blocks").open("ab") as file:
            file.write(trees.pattern(300 * 1024, "more"))
        trees.settle(top)


def make_resized(recipe: Recipe, image: Path) -> None:
    """Grown into the descriptor blocks that were reserved for that, and filled before and after."""
    mkfs(recipe, image)
    with loop_mount(image, options="rw") as top:
        trees.write(top / "before", trees.pattern(50_000))
    run("e2fsck", "-fy", image)
    with image.open("r+b") as file:
        file.truncate(40 << 20)
    run("resize2fs", image)
    with loop_mount(image, options="rw") as top:
        groups(top)
        trees.settle(top)


def add_quota(image: Path) -> None:
    """Done last, because a kernel without quotas does not write to such a filesystem."""
    run("tune2fs", "-O", "project,quota", "-Q", "usrquota,grpquota,prjquota", image)


def make_journal_device(recipe: Recipe, image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(recipe.megabytes << 20)
    run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", "-U", UUID, image)


def recipes() -> list[Recipe]:
    """Every recipe, each name once."""
    small = trees.plain

    def extents(block: int, top: Path) -> None:
        trees.plain(top, block=block)
        trees.unwritten(top, block)

    def rich(block: int, top: Path, *, wide: bool = True, written: bool = False, names: int = 220) -> None:
        trees.rich(top, block=block, wide_times=wide, names=names)
        if not written:
            trees.unwritten(top, block)

    return [
        Recipe("ext2", EXT2, partial(rich, 1024, wide=False, written=True), 1024, 128, 12, 480),
        Recipe(
            "ext2-rev0", "none", partial(small, block=1024, xattrs=False, huge=False), 1024, 128, 4, 128, ("-r", "0")
        ),
        Recipe(
            "ext2-nofiletype", "none,sparse_super,large_file", partial(small, block=2048, xattrs=False), 2048, 128, 4
        ),
        Recipe("ext2-hurd", EXT2.replace(",filetype", ""), partial(device_numbers), 1024, 128, 4, 64, ("-o", "hurd")),
        Recipe("ext3", EXT3, partial(rich, 4096, written=True), 4096, 256, 16, 480),
        Recipe(
            *("ext4-2012", EXT4_2012, partial(rich, 4096), 4096, 256, 24, 480),
            # inodes as older kernels left them, with less or no room for nanoseconds
            after=("sif /size-1 extra_isize 0", "sif /size-59 extra_isize 8", "sif /size-60 extra_isize 16"),
        ),
        Recipe("ext4", EXT4, partial(rich, 4096, names=400), 4096, 256, 24, 480),
        Recipe("ext4-2023", EXT4_2023, partial(rich, 1024), 1024, 256, 16, 480),
        Recipe(
            *("ext4-2k", EXT4, partial(extents, 2048), 2048),
            # dir_nlink's "too many to count", and a file whose blocks are counted in blocks (HUGE_FILE_FL)
            after=("sif /dir links_count 1", "sif /blocks flags 0xc0000", "sif /blocks blocks 41"),
        ),
        Recipe("ext4-converted", EXT3, None, 1024, megabytes=8, make=make_converted),
        Recipe("ext4-resized", EXT4, groups, 1024, megabytes=8, inodes=200, more=("-g", "1024"), make=make_resized),
        Recipe(
            "ext4-backup-superblock",
            EXT4,
            groups,
            1024,
            megabytes=17,
            inodes=400,
            read="sb=8193",
            detected=False,
            tamper=lambda image: poke(image, 1024, bytes(1024)),
        ),
        Recipe("ext4-inode128", EXT4.replace(",extra_isize", ""), partial(extents, 4096), inode=128),
        Recipe("ext4-inode1024", EXT4, partial(extents, 4096), inode=1024),
        Recipe("ext4-nojournal", EXT4.replace(",has_journal", ""), partial(extents, 4096)),
        Recipe("ext4-no64bit", EXT4.replace(",64bit", ""), partial(extents, 1024), 1024),
        Recipe("ext4-descriptor128", EXT4, groups, 1024, megabytes=12, more=("-E", "desc_size=128", "-g", "1024")),
        Recipe("ext4-deep", EXT4, partial(deep, block=1024, extents=1100), 1024, megabytes=12, inodes=32),
        Recipe(
            "ext4-meta-bg",
            EXT4.replace(",resize_inode", ",meta_bg"),
            groups,
            1024,
            megabytes=40,
            inodes=1200,
            more=("-g", "512"),
        ),
        Recipe(
            "ext2-meta-bg",
            EXT2.replace(",resize_inode", ",meta_bg"),
            groups,
            1024,
            128,
            megabytes=40,
            inodes=1200,
            more=("-g", "512"),
        ),
        Recipe("ext4-bigalloc", EXT4 + ",bigalloc", partial(extents, 1024), 1024, megabytes=16, more=("-C", "8192")),
        Recipe("ext4-inline256", EXT4 + ",inline_data", partial(inline, block=4096, room=160), inodes=480),
        Recipe("ext4-inline1024", EXT4 + ",inline_data", partial(inline, block=1024, room=920), 1024, 1024, 8, 480),
        Recipe("ext4-ea-inode", EXT4 + ",ea_inode", large_values),
        Recipe("ext4-large-dir", EXT4 + ",large_dir", partial(many_names, count=500, length=200), 1024, inodes=32),
        Recipe(
            "ext4-sparse-super2", EXT4.replace(",resize_inode", ",sparse_super2"), groups, 1024, more=("-g", "1024")
        ),
        Recipe("ext4-quota", EXT4, partial(extents, 4096), tamper=add_quota),
        Recipe("ext4-mmp", EXT4 + ",mmp", small),
        Recipe("ext4-stable-inodes", EXT4 + ",stable_inodes", small),
        Recipe("ext4-fast-commit", EXT4 + ",fast_commit", small, megabytes=12),
        Recipe(
            "ext4-verity",
            EXT4,
            small,
            after=(
                "feature verity",
                "sif /blocks flags 0x180000",  # EXTENTS_FL and VERITY_FL; the tree behind the end is not looked at
                "sif /blocks size 90000",
            ),
            oracle="kernel",
            contents={"blocks": trees.pattern(40 * 4096 + 17, "blocks")[:90_000]},
            make=ext_journal.make_verity,
        ),
        Recipe("ext4-encrypt", EXT4 + ",encrypt", None, inodes=64, make=ext_journal.make_encrypted),
        Recipe("ext4-hash-tea", EXT4, hashed, 1024, 256, 4, 32, before=("ssv def_hash_version tea",)),
        Recipe("ext4-hash-legacy", EXT4, hashed, 1024, 256, 4, 32, before=("ssv def_hash_version legacy",)),
        Recipe("ext4-hash-half-md4", EXT4, hashed, 1024, 256, 4, 32, before=("ssv def_hash_version half_md4",)),
        Recipe(
            "ext4-hash-tea-unsigned", EXT4, hashed, 1024, 256, 4, 32, before=("ssv def_hash_version tea", "ssv flags 2")
        ),
        Recipe(
            *("ext4-hash-legacy-unsigned", EXT4, hashed, 1024, 256, 4, 32),
            before=("ssv def_hash_version legacy", "ssv flags 2"),
        ),
        Recipe(
            *("ext4-hash-half-md4-unsigned", EXT4, hashed, 1024, 256, 4, 32),
            before=("ssv def_hash_version half_md4", "ssv flags 2"),
        ),
        Recipe(
            "ext4-casefold",
            EXT4 + ",casefold",
            casefolded,
            more=("-E", "encoding=utf8-12.1"),
            after=("sif /folded flags 0x40080000",),
            oracle="source",
            lookups={"folded/READ.me": "folded/Read.Me", "folded/STRASSE": "folded/Stra\u00dfe"},
        ),
        Recipe(
            "ext4-64k",
            EXT4,
            partial(small, block=65536, huge=False, xattrs=False),
            65536,
            megabytes=32,
            oracle="source",
        ),
        Recipe("ext4-journal-device-clean", EXT4, None, inodes=64, read="noload", make=ext_journal.make_external),
        Recipe(
            "ext4-journal-device-dirty",
            EXT4,
            None,
            inodes=64,
            oracle="none",
            error="Unsupported",
            make=partial(ext_journal.make_external, dirty=True),
        ),
        Recipe(
            "refused-journal-device",
            "journal_dev",
            None,
            megabytes=8,
            oracle="none",
            error="Unsupported",
            make=make_journal_device,
        ),
        Recipe(
            "refused-compression",
            EXT2,
            None,
            1024,
            128,
            1,
            16,
            oracle="none",
            error="Unsupported",
            tamper=partial(set_incompat, 1),
        ),
        Recipe(
            "refused-dirdata",
            EXT2,
            None,
            1024,
            128,
            1,
            16,
            oracle="none",
            error="Unsupported",
            tamper=partial(set_incompat, 0x1000),
        ),
        Recipe(
            "refused-unknown-bit",
            EXT2,
            None,
            1024,
            128,
            1,
            16,
            oracle="none",
            error="Unsupported",
            tamper=partial(set_incompat, 0x40000000),
        ),
        *ext_journal.dirty(Recipe, EXT3, EXT4, EXT4_2023),
        # too large for the repository
        Recipe(
            "large-deep3", EXT4, partial(deep, block=1024, extents=28_900), 1024, megabytes=96, inodes=32, kept=False
        ),
        Recipe("large-names", EXT4, partial(many_names, count=20_000), megabytes=24, inodes=32, kept=False),
        Recipe(
            "large-dir3",
            EXT4 + ",large_dir",
            partial(many_names, count=40_000, length=250),
            1024,
            megabytes=96,
            inodes=32,
            kept=False,
        ),
        Recipe("large-inodes", EXT4, partial(rich, 4096, names=60_000), megabytes=64, inodes=9000, kept=False),
    ]


def casefolded(top: Path) -> None:
    folder = top / "folded"
    folder.mkdir()
    for name in ("Read.Me", "Stra\u00dfe", "plain", "\u00c5ngstr\u00f6m"):
        trees.write(folder / name, name.encode())
    trees.write(top / "Not-Folded", b"exact")
