"""The images of the benchmark: a Debian tree, noise, many small files and a large hole, in raw and in qcow2; and text.

Made once and kept: debootstrap needs the network and some minutes. Needs root and 8 GiB.
"""

from __future__ import annotations

import random
from pathlib import Path

from .host import loop_mount, run

SUITE = "bookworm"
PACKAGES = "build-essential,cmake,git,linux-image-amd64,locales,man-db,openssh-server,python3-pip,vim"
NOISE = 512 << 20
TEXT = 512 << 20
SMALL_FILES = 20_000


def build(out: Path) -> None:
    """Make debian.raw and debian.qcow2 in `out`: a bare ext4, as mke2fs makes it today."""
    image, overlay, tree = out / "debian.raw", out / "debian.qcow2", out / "debian-root"
    if not (tree / "etc" / "debian_version").exists():
        run("debootstrap", f"--include={PACKAGES}", SUITE, tree)
    if not image.exists():
        work = out / "debian.raw.part"
        with work.open("wb") as file:
            file.truncate(3 << 30)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "bench", work)
        with loop_mount(work, options="rw") as top:
            run("cp", "-a", "--", *sorted(tree.iterdir()), top)
            fill(top / "bench")
        work.rename(image)
    if not overlay.exists():
        work = out / "debian.qcow2.part"
        run("qemu-img", "convert", "-q", "-O", "qcow2", image, work)
        work.rename(overlay)
    packed = out / "text.qcow2"
    if not packed.exists():
        plain, work = out / "text.raw", out / "text.qcow2.part"
        write_text(tree, plain)
        run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", plain, work)
        plain.unlink()
        work.rename(packed)
    for path in (image, overlay, packed):
        print(f"{path}: {path.stat().st_size} bytes, {path.stat().st_blocks * 512} on disk")


def fill(top: Path) -> None:
    top.mkdir()
    dice = random.Random(20_000)
    with (top / "noise").open("wb") as file:
        for _ in range(NOISE >> 20):
            file.write(dice.randbytes(1 << 20))
    folder = top / "small"
    folder.mkdir()
    for number in range(SMALL_FILES):
        (folder / f"file-{number:05}").write_bytes(dice.randbytes(dice.randrange(1024, 8193)))
    with (top / "sparse").open("wb") as file:
        file.truncate(8 << 30)
        for place in range(0, 8 << 30, 1 << 30):
            file.seek(place)
            file.write(b"%d\n" % place)


def write_text(tree: Path, path: Path) -> None:
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
        while done < TEXT:
            begin = dice.randrange(len(lines))
            piece = b"".join(lines[begin : begin + 400])[: TEXT - done]
            out.write(piece)
            done += len(piece)
