"""Btrfs as it is after much use: random changes, snapshots and clones on a random profile, by a seed.

What a seed gives depends on the kernel's timing in part; what must be the same is what two readers see of it.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from random import Random
from uuid import UUID

from . import btrfs, trees
from .host import run

_PROFILES = {
    1: ("single", "dup"),
    2: ("raid0", "raid1", "single"),
    3: ("raid5", "raid1c3", "raid0", "raid1"),
    4: ("raid6", "raid10", "raid5", "raid1c4"),
}
_MOUNTS = ("", "compress=zstd", "compress-force=lzo", "nodatasum", "max_inline=0")
_METHODS = ("zlib", "lzo", "zstd")


def recipe(seed: int, steps: int = 1200) -> btrfs.Recipe:
    """The recipe of a seed."""
    dice = Random(seed)
    devices = dice.choice((1, 1, 2, 3, 4))
    words = ["-m", "dup" if devices == 1 else "raid1", "-d", dice.choice(_PROFILES[devices])]
    words += ["--csum", dice.choice(("crc32c", "crc32c", "xxhash", "sha256", "blake2"))]
    words += ["-n", dice.choice(("4096", "16384", "16384", "65536")), "-U", str(UUID(int=dice.getrandbits(128)))]
    if dice.random() < 0.4:
        words += ["-O", "^no-holes"]
    fill = partial(Used, dice, steps)
    return btrfs.Recipe(
        f"random-{seed}", tuple(words), fill, 500, devices, dice.choice(_MOUNTS), settled=False, kept=False
    )


class Used:
    """Changes the tree at `top`. What cannot be done (a full filesystem, a frozen snapshot) is left out."""

    def __init__(self, dice: Random, steps: int, top: Path) -> None:
        self.dice = dice
        self.top = top
        self.folders = [top]
        self.files: list[Path] = []
        self.number = 0
        ways = (
            *(self.write,) * 5,
            *(self.overwrite,) * 3,
            *(self.folder,) * 2,
            *(self.truncate, self.punch, self.allocate, self.clone, self.rename, self.link, self.remove),
            *(self.attribute, self.settle, self.subvolume, self.snapshot, self.symlink, self.owner, self.defragment),
        )
        for _ in range(steps):
            try:
                dice.choice(ways)()
            except (OSError, RuntimeError):
                continue

    def name(self, kind: str) -> Path:
        self.number += 1
        return self.dice.choice(self.folders) / f"{kind}{self.number}"

    def file(self) -> Path:
        if not self.files:
            self.write()
        return self.dice.choice(self.files)

    def write(self) -> None:
        path = self.name("f")
        if self.dice.random() < 0.4:
            data = self.dice.randbytes(self.dice.choice((1, 100, 3000, 4096, 50_000)))
        else:
            data = trees.pattern(self.dice.choice((10, 2000, 4097, 70_000, 300_000)), str(self.number))
        self.files.append(trees.write(path, data))

    def overwrite(self) -> None:
        with self.file().open("r+b") as file:
            file.seek(self.dice.randrange(0, 400_000, self.dice.choice((1, 4096))))
            file.write(self.dice.randbytes(self.dice.choice((5, 4096, 20_000))))

    def folder(self) -> None:
        path = self.name("d")
        path.mkdir()
        self.folders.append(path)
        if self.dice.random() < 0.5:
            btrfs.set_method(path, self.dice.choice(_METHODS))
        elif self.dice.random() < 0.2:
            run("chattr", "+C", path)

    def truncate(self) -> None:
        os.truncate(self.file(), self.dice.randrange(300_000))

    def punch(self) -> None:
        start, length = self.dice.randrange(0, 200_000, 4096), self.dice.randrange(1, 100_000)
        trees.fallocate(self.file(), start, length, punch=True, keep_size=True)

    def allocate(self) -> None:
        start, length = self.dice.randrange(0, 400_000), self.dice.randrange(1, 100_000)
        trees.fallocate(self.file(), start, length, keep_size=self.dice.random() < 0.5)

    def clone(self) -> None:
        start, to = self.dice.randrange(0, 65_536, 4096), self.dice.randrange(0, 200_000, 4096)
        btrfs.clone_range(self.file(), start, self.dice.randrange(4096, 100_000, 4096), self.file(), to)

    def rename(self) -> None:
        path, new = self.file(), self.name("r")
        os.rename(path, new)
        self.files[self.files.index(path)] = new

    def link(self) -> None:
        path = self.name("l")
        os.link(self.file(), path)
        self.files.append(path)

    def remove(self) -> None:
        path = self.file()
        self.files.remove(path)
        path.unlink()

    def attribute(self) -> None:
        name = f"user.x{self.dice.randrange(5)}"
        os.setxattr(self.file(), name, self.dice.randbytes(self.dice.choice((3, 200, 3000))))

    def settle(self) -> None:
        run("sync", "-f", self.top)

    def subvolume(self) -> None:
        if self.dice.random() < 0.3:
            path = self.name("s")
            run("btrfs", "subvolume", "create", path)
            self.folders.append(path)

    def snapshot(self) -> None:
        if self.dice.random() < 0.3:
            frozen = ("-r",) if self.dice.random() < 0.3 else ()
            of = self.top if self.dice.random() < 0.3 else self.dice.choice(self.folders)
            run("btrfs", "subvolume", "snapshot", *frozen, of, self.name("n"))

    def symlink(self) -> None:
        os.symlink("x" * self.dice.randrange(1, 3000), self.name("y"))

    def owner(self) -> None:
        path = self.file()
        os.chown(path, self.dice.randrange(100_000), 5)
        path.chmod(self.dice.randrange(0o7777))

    def defragment(self) -> None:
        if self.dice.random() < 0.2:
            run("btrfs", "filesystem", "defragment", f"-c{self.dice.choice(_METHODS)}", self.file())
