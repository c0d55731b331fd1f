"""The images of the benchmark: a Debian tree, noise, many small files and a large hole, in raw and in qcow2.

Made once and kept: debootstrap needs the network and some minutes. Needs root and 3 GiB.
"""

from __future__ import annotations

import random
from pathlib import Path

from .host import loop_mount, run

SUITE = "bookworm"
NOISE = 512 << 20
SMALL_FILES = 20_000


def build(out: Path) -> None:
    """Make debian.raw and debian.qcow2 in `out`: a bare ext4, as mke2fs makes it today."""
    image, overlay, tree = out / "debian.raw", out / "debian.qcow2", out / "debian-root"
    if not (tree / "etc" / "debian_version").exists():
        run("debootstrap", "--variant=minbase", SUITE, tree)
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
    for path in (image, overlay):
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
