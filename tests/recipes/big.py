"""The images of the benchmark: one tree in raw and in qcow2 for each filesystem; and a compressed qcow2 of text.

The tree: Debian, noise, many small files and a large hole, as far as a filesystem can hold it. Made once and kept:
debootstrap needs the network and some minutes. Needs root and 5 GiB a filesystem.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from . import fat_filler
from .host import loop_device, loop_mount, mounted, run
from .ntfs import ntfs_mount

SUITE = "bookworm"
PACKAGES = "build-essential,cmake,git,linux-image-amd64,locales,man-db,openssh-server,python3-pip,vim"
SIZE = 3 << 30
NOISE = 512 << 20
TEXT = 512 << 20
BTRFS_TEXT = 128 << 20
SMALL_FILES = 20_000
KINDS = ("ext4", "ntfs", "vfat", "exfat", "xfs", "btrfs")
LARGE = {"ntfs": "ntfs-records", "vfat": "vfat-2tib", "exfat": "exfat-2tib"}
RECORDS = 1 << 20
_FORBIDDEN = frozenset('"*:<>?\\|').union(map(chr, range(32)))


def build(out: Path, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """Make KIND.raw, KIND.qcow2 and text.qcow2 in `out`. Return the kinds that are there: a tool may be missing.

    Raises: SystemExit without the tools that all of them need.
    """
    if missing := [tool for tool in ("debootstrap", "qemu-img") if not shutil.which(tool, path=_path())]:
        raise SystemExit(f"the images of the benchmark need {' and '.join(missing)}: install them first")
    tree = out / "debian-root"
    if not (tree / "etc" / "debian_version").exists():
        run("debootstrap", f"--include={PACKAGES}", SUITE, tree)
    packed = out / "text.qcow2"
    if not packed.exists():
        plain, work = out / "text.raw", out / "text.qcow2.part"
        write_text(tree, plain, TEXT)
        run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", plain, work)
        plain.unlink()
        work.rename(packed)
    made = []
    for kind in kinds:
        if missing := [tool for tool in _TOOLS[kind] if not shutil.which(tool, path=_path())]:
            print(f"{kind} is left out: {', '.join(missing)} is not installed")
            continue
        image, overlay = out / f"{kind}.raw", out / f"{kind}.qcow2"
        if not image.exists():
            work = out / f"{kind}.raw.part"
            work.unlink(missing_ok=True)
            with work.open("wb") as file:
                file.truncate(SIZE)
            _MAKERS[kind](work, tree)
            work.rename(image)
        if not overlay.exists():
            work = out / f"{kind}.qcow2.part"
            run("qemu-img", "convert", "-q", "-O", "qcow2", image, work)
            work.rename(overlay)
        made.append(kind)
    for kind, name in LARGE.items():
        if kind in made and not (out / f"{name}.raw").exists():
            work = out / f"{name}.part"
            _make_large(kind, work)
            work.rename(out / f"{name}.raw")
    for path in (packed, *(out / f"{kind}.{form}" for kind in made for form in ("raw", "qcow2"))):
        print(f"{path}: {path.stat().st_size} bytes, {path.stat().st_blocks * 512} on disk")
    return made


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


# ---------------------------------------------------------------- filesystems that hold all of the tree


def _ext4(image: Path, tree: Path) -> None:
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "bench", image)
    _fill(loop_mount(image, options="rw"), tree)


def _ntfs(image: Path, tree: Path) -> None:
    run("mkntfs", "-F", "-Q", "-q", "-L", "bench", "-p", "0", "-H", "16", "-S", "63", image)
    _fill(ntfs_mount(image, "rw,big_writes"), tree)


def _xfs(image: Path, tree: Path) -> None:
    run("mkfs.xfs", "-q", "-L", "bench", image)
    _fill(loop_mount(image, options="rw"), tree)


def _btrfs(image: Path, tree: Path) -> None:
    run("mkfs.btrfs", "-q", "-L", "bench", "-d", "single", "-m", "single", image)
    _fill(loop_mount(image, options="rw"), tree)
    for method in ("zstd", "lzo"):
        with loop_mount(image, options=f"rw,compress-force={method}") as top:
            write_text(tree, top / "bench" / method, BTRFS_TEXT)


def _fill(mount: AbstractContextManager[Path], tree: Path) -> None:
    with mount as top:
        run("cp", "-a", "--", *sorted(tree.iterdir()), top)
        write_bench(top / "bench")
        with (top / "bench" / "sparse").open("wb") as file:
            file.truncate(8 << 30)
            for place in range(0, 8 << 30, 1 << 30):
                file.seek(place)
                file.write(b"%d\n" % place)


# ---------------------------------------------------------------- filesystems without links, devices and holes


def _vfat(image: Path, tree: Path) -> None:
    run("mkfs.vfat", "-F", "32", "-s", "8", "-n", "BENCH", image)
    with _plain(image, tree) as top:
        fat_filler.fill(image, top)


def _exfat(image: Path, tree: Path) -> None:
    run("mkfs.exfat", "-L", "BENCH", "-c", "4K", image)
    with _plain(image, tree) as plain, loop_device(image, writable=True) as device:
        kind = "exfat-fuse" if shutil.which("mount.exfat-fuse", path=_path()) else "exfat"
        with mounted(device, kind=kind) as top:
            run("cp", "-r", "--preserve=timestamps", "--", *sorted(plain.iterdir()), top)


@contextmanager
def _plain(image: Path, tree: Path) -> Iterator[Path]:
    """A copy of the tree, by hard links, with what FAT can hold: files and directories with names that it allows."""
    top = image.parent / "plain.part"
    shutil.rmtree(top, ignore_errors=True)
    pending = [(tree, top)]
    try:
        while pending:
            source, target = pending.pop()
            target.mkdir()
            seen: set[str] = set()
            for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
                name = entry.name
                bad = not name.isascii() or _FORBIDDEN.intersection(name) or name[-1] in ". " or name.upper() in seen
                if bad or entry.is_symlink():
                    continue
                seen.add(name.upper())
                if entry.is_dir():
                    pending.append((Path(entry.path), target / name))
                elif entry.is_file():
                    os.link(entry.path, target / name)
            shutil.copystat(source, target)
        write_bench(top / "bench")
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)


_MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "ext4": _ext4,
    "ntfs": _ntfs,
    "vfat": _vfat,
    "exfat": _exfat,
    "xfs": _xfs,
    "btrfs": _btrfs,
}
_TOOLS = {
    "ext4": ("mke2fs",),
    "ntfs": ("mkntfs", "ntfs-3g"),
    "vfat": ("mkfs.vfat",),
    "exfat": ("mkfs.exfat", "mount.exfat-fuse"),
    "xfs": ("mkfs.xfs",),
    "btrfs": ("mkfs.btrfs",),
}


# ---------------------------------------------------------------- volumes with large tables and little in them


def _make_large(kind: str, image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(RECORDS * 1024 * 2 if kind == "ntfs" else (2 << 40) - (1 << 20))
    if kind == "ntfs":
        run("mkntfs", "-F", "-Q", "-q", "-L", "records", image)
        _lengthen_mft(image)
    elif kind == "vfat":
        run("mkfs.vfat", "-F", "32", "-f", "1", "-s", "16", image)
    else:
        run("mkfs.exfat", image)
    run("fallocate", "--dig-holes", image)


def _lengthen_mft(image: Path) -> None:
    """Give $MFT a second run, in the upper half of the volume, so that it has RECORDS records; the new ones are zeros.

    All of record 0 that is in use stands before its first fixup, so that bytes may be moved there.
    """
    with image.open("r+b") as file:
        boot = file.read(512)
        cluster = boot[13] * 512
        places = [int.from_bytes(boot[at : at + 8], "little") * cluster for at in (0x30, 0x38)]
        file.seek(places[0])
        record = bytearray(file.read(1024))

        def number(place: int, size: int) -> int:
            return int.from_bytes(record[place : place + size], "little")

        at = number(20, 2)
        while number(at, 4) != 0x80:
            at += number(at + 4, 4)
        length, used = number(at + 4, 4), number(24, 4)
        runs = at + number(at + 32, 2)
        low, high = record[runs] & 15, record[runs] >> 4
        old, first = number(runs + 1, low), number(runs + 1 + low, high)
        clusters = RECORDS * 1024 // cluster
        added = b"\x44" + (clusters - old).to_bytes(4, "little") + (clusters - first).to_bytes(4, "little", signed=True)
        kept = bytes(record[at : runs + 1 + low + high])
        made = bytearray(kept + added + bytes(8 - (len(kept) + len(added)) % 8))
        made[4:8] = len(made).to_bytes(4, "little")
        made[24:32] = (clusters - 1).to_bytes(8, "little")
        for field in (40, 48, 56):
            made[field : field + 8] = (RECORDS * 1024).to_bytes(8, "little")
        grown = bytes(record[:at]) + made + record[at + length : used]
        assert len(grown) < 510
        record[: len(grown)] = grown
        record[24:28] = len(grown).to_bytes(4, "little")
        for place in places:
            file.seek(place)
            file.write(record)


# ---------------------------------------------------------------- what is written


def write_bench(top: Path) -> None:
    """Noise, and many small files in one directory."""
    top.mkdir()
    dice = random.Random(20_000)
    with (top / "noise").open("wb") as file:
        for _ in range(NOISE >> 20):
            file.write(dice.randbytes(1 << 20))
    folder = top / "small"
    folder.mkdir()
    for number in range(SMALL_FILES):
        (folder / f"file-{number:05}").write_bytes(dice.randbytes(dice.randrange(1024, 8193)))


def write_text(tree: Path, path: Path, size: int) -> None:
    """Lines of the tree's own text files (package lists, scripts, documents) in another order, again and again."""
    folders = ("usr/share", "usr/lib/x86_64-linux-gnu/perl-base", "var/lib/dpkg", "etc")
    lines: list[bytes] = []
    for file in sorted(found for folder in folders for found in (tree / folder).rglob("*")):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if b"\0" not in content:
                lines += content.splitlines(keepends=True)
    dice = random.Random(512)
    done = 0
    with path.open("wb") as out:
        while done < size:
            begin = dice.randrange(len(lines))
            piece = b"".join(lines[begin : begin + 400])[: size - done]
            out.write(piece)
            done += len(piece)
