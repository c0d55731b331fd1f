"""Recipes of FAT and exFAT images. Needs mkfs.vfat, mtools, mkfs.exfat and fsck.exfat, and no root.

FAT volumes are filled by mtools and read back by mtools: the manifest holds names, sizes, times and contents as mcopy
gives them, and what Linux's vfat makes of them (modes, links, blocks). exFAT volumes are filled by exfat_writer and
checked by fsck.exfat; their manifest holds what was written.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import manifest

from . import trees
from .exfat_writer import Volume, stamp
from .host import BUILT, run

SERIAL = "1234ABCD"
UUID = "1234-ABCD"
LABEL = "GUESTKIT"
NAMES = ("readme.txt", "README.TXT.bak", "Mixed Case.Txt", "UPPER.TXT", "lower.TXT", "UPPER2.txt", "no_ext", "a.b.c.d")
WIDE = (
    "caf\xe9 au lait.txt",
    "\u65e5\u672c\u8a9e.txt",
    "\u0416\u0443\u0440\u043d\u0430\u043b 1.log",
    "n" * 255,
    "+,;=[].x",
)
PAIRS = ("snow \u2603.txt", "smile \U0001f600 face.txt")


@dataclass
class Recipe:
    """`kilobytes`: of the volume. `words`: for mkfs. `fill`: the writer of an exFAT volume."""

    name: str
    words: tuple[str, ...]
    kilobytes: int
    cluster: int  # bytes
    fill: Callable[[Volume], manifest.Tree] | None = None
    tamper: Callable[[bytearray], None] | None = None
    label: str = LABEL
    many: int = 40  # names in a large directory
    checked: bool = True  # fsck.exfat 1.2 does not end where clusters have 512 bytes
    tree: manifest.Tree | None = None  # what is in the image that was made

    @property
    def kind(self) -> str:
        return "exfat" if self.fill else "vfat"


def mtool(*words: str | os.PathLike[str]) -> str:
    env = dict(os.environ, TZ="UTC", LC_ALL="C.UTF-8", SOURCE_DATE_EPOCH=str(BUILT), MTOOLS_SKIP_CHECK="1")
    done = subprocess.run([os.fspath(word) for word in words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout


def make(recipe: Recipe, image: Path) -> None:
    """Make the image file, and remember the tree that is in it."""
    with image.open("wb") as file:
        file.truncate(recipe.kilobytes << 10)
    if recipe.fill is None:
        run("mkfs.vfat", "--invariant", "-i", SERIAL, "-n", recipe.label, *recipe.words, image)
        fill_fat(recipe, image)
        run("fsck.fat", "-n", image)
        recipe.tree = read_back(recipe, image)
    else:
        mtool("/usr/sbin/mkfs.exfat", "-L", recipe.label, *recipe.words, image)
        volume = Volume(image.read_bytes())
        struct.pack_into("<I", volume.image, 100, int(SERIAL, 16))
        struct.pack_into("<I", volume.image, 12 * volume.sector + 100, int(SERIAL, 16))
        recipe.tree = recipe.fill(volume)
        data = volume.close()
        for region in (0, 12):
            volume.sum_boot(region=region)
        image.write_bytes(bytes(volume.image))
        assert len(data) == len(volume.image)
        said = run("fsck.exfat", "-n", image) if recipe.checked else "clean"
        if "clean" not in said or "ERROR" in said:
            raise RuntimeError(said)
    if recipe.tamper is not None:
        data = bytearray(image.read_bytes())
        recipe.tamper(data)
        image.write_bytes(data)


def describe(recipe: Recipe, image: Path) -> dict[str, Any]:
    """The fixture's manifest."""
    tool = "mtools" if recipe.kind == "vfat" else "exfatprogs"
    version = mtool("mtools", "--version").split()[-1] if tool == "mtools" else run("mkfs.exfat", "-V", ok=(0, 1))
    version = re.findall(r"[0-9.]+[0-9]", version)[-1] if tool != "mtools" else version
    told: dict[str, Any] = {"name": recipe.name, "words": list(recipe.words), "oracle": tool, tool: version}
    told.update(uuid=UUID, label=recipe.label, type=recipe.kind, tree=recipe.tree)
    return told


# FAT


def fill_fat(recipe: Recipe, image: Path) -> None:
    source = image.with_name(image.name + ".source")
    source.mkdir()
    fat_tree(source, recipe)
    names = sorted(os.listdir(source))
    # a gap that the next files are laid into
    mtool("mcopy", "-i", image, source / "blocks", "::/first")
    mtool("mcopy", "-i", image, source / "blocks", "::/second")
    mtool("mdel", "-i", image, "::/first")
    for name in names:
        mtool("mcopy", "-s", "-m", "-i", image, source / name, "::/")
    mtool("mdel", "-i", image, "::/second")
    mtool("mcopy", "-m", "-i", image, source / "size-1", "::/read only")
    mtool("mattrib", "+r", "-i", image, "::/read only")
    mtool("mattrib", "+h", "+s", "-i", image, "::/size-1")
    mtool("mdel", "-i", image, "::/many/name 003")


def fat_tree(top: Path, recipe: Recipe) -> None:
    cluster = recipe.cluster
    for size in (0, 1, cluster - 1, cluster, cluster + 1):
        trees.write(top / f"size-{size}", trees.pattern(size))
    trees.write(top / "blocks", trees.pattern(min(9 * cluster + 17, 40_000), "blocks"))
    (top / "Names").mkdir()
    for name in (*NAMES, *WIDE):
        if len(name) > 200 and cluster < 2048:  # mtools makes a directory larger by one cluster alone
            name = name[:100]
        trees.write(top / "Names" / name, name.encode())
    (top / "DIR" / "deeper" / "The Deepest").mkdir(parents=True)
    trees.write(top / "DIR" / "deeper" / "The Deepest" / "leaf", b"leaf\n")
    (top / "empty").mkdir()
    (top / "many").mkdir()
    for number in range(recipe.many):
        trees.write(top / "many" / f"name {number:03}", b"")
    when = 1_600_000_000
    for number, (path, folders, files) in enumerate(os.walk(top, topdown=False)):
        for index, name in enumerate(sorted(files) + sorted(folders)):
            second = when + 2 * (number * 100_000 + index * 5003)
            os.utime(os.path.join(path, name), (second, second))
    for name, second in (
        ("size-0", 315_532_800),
        ("size-1", 4_102_444_798),
    ):  # 1980 and 2099; mtools takes 2100 for a leap year
        os.utime(top / name, (second, second))


def read_back(recipe: Recipe, image: Path) -> manifest.Tree:
    """The tree as mcopy gives it."""
    out = image.with_name(image.name + ".out")
    out.mkdir()
    for line in mtool("mdir", "-a", "-b", "-i", image, "::/").splitlines():
        mtool("mcopy", "-s", "-m", "-i", image, line.rstrip("/"), out)
    found = manifest.from_directory(out)
    tree: manifest.Tree = {}
    for path, entry in found.items():
        kept = {"type": entry["type"], "mode": 0o755, "uid": 0, "gid": 0}
        if entry["type"] == "dir":
            below = [
                other
                for other, its in found.items()
                if other and its["type"] == "dir" and other.rpartition("/")[0] == path
            ]
            kept["nlink"] = 2 + len(below)
        else:
            cluster = recipe.cluster
            kept.update(size=entry["size"], blocks=-(-entry["size"] // cluster) * cluster // 512, nlink=1)
            kept.update(sha256=entry["sha256"], mtime=entry["mtime"], ctime=entry["mtime"])
            if path == "read only":
                kept["mode"] = 0o555
        tree[path] = kept
    return tree


def use_second_table(data: bytearray) -> None:
    """Switch mirroring off and let the second table of FAT32 count; the first is made useless."""
    sector, reserved = struct.unpack_from("<H", data, 11)[0], struct.unpack_from("<H", data, 14)[0]
    (size,) = struct.unpack_from("<I", data, 36)
    struct.pack_into("<H", data, 40, 0x81)
    start = reserved * sector + 8
    data[start : (reserved + size) * sector] = bytes((reserved + size) * sector - start)


# exFAT


def exfat_tree(volume: Volume) -> manifest.Tree:
    """Fill a volume with what the format has, and say what was written."""
    tree: manifest.Tree = {}
    size = volume.size

    def note(path: str, data: bytes | None, length: int, links: int = 1, **more: Any) -> None:
        base = {"mode": 0o755, "uid": 0, "gid": 0, "nlink": links, "size": length}
        base["blocks"] = -(-length // size) * size // 512
        base.update(mtime=1_600_000_000 * 10**9, ctime=1_600_000_000 * 10**9)
        base.update(atime=1_600_000_000 * 10**9, btime=1_600_000_000 * 10**9)
        base.update(more)
        if data is not None:
            base["sha256"] = hashlib.sha256(data).hexdigest()
        tree[path] = {"type": "dir" if data is None else "file", **base}

    def add(
        folder: Any, prefix: str, name: str, data: bytes, *, told: dict[str, Any] | None = None, **more: Any
    ) -> None:
        volume.file(folder, name, data, **more)
        length = more.get("size") or len(data)
        note(prefix + name, data.ljust(length, b"\0"), length, **(told or {}))

    root = volume.root
    for length in (0, 1, size - 1, size, size + 1):
        add(root, "", f"size-{length}", trees.pattern(length))
    add(root, "", "contiguous", trees.pattern(5 * size + 9, "contig"))
    add(root, "", "chained", trees.pattern(5 * size + 9, "chain"), chained=True)
    add(root, "", "scattered", trees.pattern(7 * size + 100, "scatter"), step=2)
    add(root, "", "valid-less", trees.pattern(size + 700, "valid"), size=6 * size + 1)
    add(root, "", "valid-none", b"", size=3 * size)
    add(root, "", "read only", b"read only", attributes=0x21, told={"mode": 0o555})
    # 2001-02-03 04:05:06 at +02:00 with 1.23 s more, at -03:30 with 0.01 s more, and with no zone given
    local = stamp(2001, 2, 3, 4, 5, 6)
    base = 981_173_106 * 10**9
    add(
        root,
        "",
        "times",
        b"t",
        times=(local, local, local),
        tenths=(123, 1),
        offsets=(0x80 | 8, 0x80 | (-14 & 0x7F), 0),
        told={
            "btime": base - 7200 * 10**9 + 1_230_000_000,
            "mtime": base + 12_600 * 10**9 + 10_000_000,
            "ctime": base + 12_600 * 10**9 + 10_000_000,
            "atime": base,
        },
    )
    names = volume.folder(root, "Names", max(2, 6144 // size))
    for name in (*NAMES, *WIDE, *PAIRS, "\xc9t\xc9", "trailing dot."):
        if name != "README.TXT.bak":
            add(names, "Names/", name, name.encode())
    note("Names", None, max(2, 6144 // size) * size, 2)
    deep = volume.folder(root, "DIR")
    deeper = volume.folder(deep, "deeper", 3, step=2)
    for number in range(min(60, 3 * size // 96 - 2)):
        add(deeper, "DIR/deeper/", f"n{number:04}", b"")
    deepest = volume.folder(deeper, "The Deepest")
    add(deepest, "DIR/deeper/The Deepest/", "leaf", b"leaf\n")
    volume.folder(root, "empty")
    note("DIR", None, size, 3)
    note("DIR/deeper", None, 3 * size, 3)
    note("DIR/deeper/The Deepest", None, size, 2)
    note("empty", None, size, 2)
    tree[""] = {"type": "dir", "mode": 0o755, "uid": 0, "gid": 0, "nlink": 5}
    return tree


def exfat_small(volume: Volume) -> manifest.Tree:
    """The tree of add_unknown()."""
    told = {"type": "file", "mode": 0o755, "size": 6, "blocks": volume.size // 512}
    told["sha256"] = hashlib.sha256(b"vendor").hexdigest()
    return {"": {"type": "dir", "mode": 0o755, "nlink": 2}, "vendor extension": told}


def use_second_fat(data: bytearray) -> None:
    """Make it TexFAT: two FATs and two bitmaps, of which the second ones count; the first are made useless."""
    volume = Volume(bytes(data))
    shift = volume.sector.bit_length() - 1
    old = volume.fat_sectors * volume.sector
    need = (volume.clusters + 2) * 4
    half = -(-need // volume.sector)
    assert volume.fat + 2 * half * volume.sector <= volume.heap, "there is no room for two FATs"
    root = volume.place(volume.root_cluster)
    at = root + next(at for at in range(0, volume.size, 32) if data[root + at] == 0x81)
    free = next(at for at in range(root, root + volume.size, 32) if data[at] == 0)
    second = volume.take(-(-((volume.clusters + 7) // 8) // volume.size))
    volume.link(second)
    image = volume.image
    table = bytes(image[volume.fat : volume.fat + need])
    bits = bytes(image[volume.bitmap : volume.bitmap + (volume.clusters + 7) // 8])
    volume.store(bits, second)
    image[volume.fat : volume.fat + old] = bytes(old)
    image[volume.fat + half * volume.sector : volume.fat + half * volume.sector + need] = table
    image[volume.bitmap : volume.bitmap + len(bits)] = bytes(len(bits))
    entry = bytearray(image[at : at + 32])
    entry[1] = 1
    struct.pack_into("<I", entry, 20, second[0])
    image[free : free + 32] = entry
    for region in (0, 12):
        start = region << shift
        struct.pack_into("<I", image, start + 84, half)
        struct.pack_into("<H", image, start + 106, 1)
        image[start + 110] = 2
        volume.sum_boot(region=region)
    data[:] = image


def add_unknown(data: bytearray) -> None:
    """Entries that a reader must pass over, which fsck.exfat does not: a vendor's extension, a volume's GUID."""
    volume = Volume(bytes(data))
    vendor = struct.pack("<BB16s14x", 0xE0, 0, bytes(range(16)))
    volume.root.entries += struct.pack("<BB2xH16s10x", 0xA0, 0, 0, bytes(range(16)))
    volume.file(volume.root, "vendor extension", b"vendor", more=vendor)
    data[:] = volume.close()


def mark_dirty(data: bytearray) -> None:
    struct.pack_into("<H", data, 106, 2)


def recipes() -> list[Recipe]:
    """Every recipe, each name once."""
    return [
        Recipe("fat12-floppy", ("-F", "12"), 1440, 512, many=60),
        Recipe("fat12-4k-sectors", ("-F", "12", "-S", "4096", "-s", "1"), 4096, 4096),
        Recipe("fat16", ("-F", "16", "-s", "1", "-f", "1"), 3072, 512),
        Recipe("fat16-4k-clusters", ("-F", "16", "-s", "8"), 17408, 4096),
        # mtools takes fewer clusters for FAT16
        Recipe("fat32", ("-F", "32", "-s", "1"), 34_000, 512, many=40),
        Recipe("fat32-second-table", ("-F", "32", "-s", "1"), 34_000, 512, tamper=use_second_table, many=20),
        Recipe("exfat", ("-c", "4K"), 4096, 4096, exfat_tree),
        Recipe("exfat-unknown", ("-c", "1K"), 3072, 1024, exfat_small, add_unknown),
        Recipe("exfat-512", ("-c", "512"), 3072, 512, exfat_tree, checked=False),
        Recipe("exfat-32k", ("-c", "32K"), 8192, 32768, exfat_tree, label="\u03bb label"),
        Recipe("exfat-texfat", ("-c", "4K", "-b", "64K"), 4096, 4096, exfat_tree, use_second_fat),
        Recipe("exfat-dirty", ("-c", "2K"), 3072, 2048, exfat_tree, mark_dirty),
    ]
