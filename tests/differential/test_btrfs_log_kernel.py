"""Btrfs images copied in the midst of a workload: guestkit's replay of the log against the kernel's."""

from __future__ import annotations

from pathlib import Path

import manifest
import pytest
from recipes import btrfs_log

from guestkit.guest import open_guest

RECIPES = {recipe.name: recipe for recipe in btrfs_log.recipes()}
RANDOM = [name for name, recipe in RECIPES.items() if name.startswith("random") and not recipe.kept]
FEW = RANDOM[::60]

pytestmark = [pytest.mark.root, pytest.mark.tool("mkfs.btrfs", "btrfs", "losetup")]


def agree(name: str, folder: Path) -> list[str]:
    """The differences; none as well where the workload ended in a commit and left no log."""
    image = folder / "image"
    recipe = RECIPES[name]
    btrfs_log.make(recipe, image, needed=False)
    if not btrfs_log.has_log(image):
        return []
    wanted = btrfs_log.describe(recipe, image, needed=False)["tree"]
    with open_guest(image, format="raw") as guest:
        fs = guest.filesystem("/dev/sda")
        assert fs.state.kind == "replayed"
        tree = manifest.from_filesystem(fs)
        for path, entry in tree.items():
            for field in ("mtime", "ctime"):
                if field not in wanted.get(path, entry):
                    del entry[field]
        return [*manifest.differences(wanted, tree), *manifest.index_differences(fs, tree)]


@pytest.mark.parametrize("name", FEW)
def test_replay_of_a_random_workload_shows_what_the_kernel_shows(name: str, tmp_path: Path) -> None:
    assert agree(name, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RANDOM if name not in FEW])
def test_replay_of_many_random_workloads_shows_what_the_kernel_shows(name: str, tmp_path: Path) -> None:
    assert agree(name, tmp_path) == []
