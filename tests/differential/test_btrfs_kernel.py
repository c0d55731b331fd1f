"""Freshly made Btrfs reads as the kernel reads it: the recipes of the kept fixtures once more, and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import comparison
import manifest
import pytest
from recipes import btrfs, btrfs_random

from guestkit.guest import open_guest

RECIPES = {recipe.name: recipe for recipe in btrfs.recipes()}
MOUNTED = ["default", "default-subvolume", "raid10"]
SEEDS = range(1, 7)

pytestmark = [
    pytest.mark.root,
    pytest.mark.tool("mkfs.btrfs", "btrfs", "btrfstune", "btrfs-convert", "losetup"),
]

Made = Callable[[btrfs.Recipe], list[Path]]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Makes the images of a recipe's devices; they are removed in the end."""
    files: list[Path] = []

    def images(recipe: btrfs.Recipe) -> list[Path]:
        image = tmp_path / f"{recipe.name}.img"
        btrfs.make(recipe, image)
        files.extend(btrfs.images(recipe, image))
        return files

    yield images
    for file in files:
        file.unlink()


def kernels(top: Path) -> manifest.Tree:
    tree = manifest.from_directory(top, across=True)
    for entry in tree.values():
        if entry.get("ino") == 2:  # what leads nowhere is as old as the question
            entry["mtime"] = entry["ctime"] = None
    return tree


def differing(files: list[Path]) -> list[str]:
    with open_guest(*reversed(files), format="raw") as guest, btrfs.kernel_mount(files) as top:
        fs = guest.filesystem(guest.devices()[-1].name)  # any device, but of seeds and what stands on them the last
        found = list(comparison.api_differences(fs, kernels(top), manifest.host_statvfs(top)))
        assert fs.problems() == (0, ())
        return found


@pytest.mark.parametrize("name", RECIPES)
def test_reads_as_the_kernel_does(name: str, made: Made) -> None:
    assert differing(made(RECIPES[name])) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_reads_what_was_much_used_as_the_kernel_does(seed: int, made: Made) -> None:
    assert differing(made(btrfs_random.recipe(seed))) == []


@pytest.mark.fuse
@pytest.mark.parametrize("name", MOUNTED)
def test_mount_shows_what_the_kernels_shows(name: str, made: Made) -> None:
    files = made(RECIPES[name])
    with (
        btrfs.kernel_mount(files) as top,
        comparison.guestkit_mount(files[0], members=files[1:]) as mounted,
    ):
        wanted = kernels(top)
        found = comparison.mount_differences(mounted, top, wanted, manifest.host_statvfs(top), bits=38)
        assert list(found) == []
