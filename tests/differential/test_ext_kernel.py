"""Freshly made ext images read as the kernel reads them: another run of the same recipes as the kept fixtures."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import comparison
import manifest
import pytest
from recipes import ext

from guestkit.guest import open_guest

RECIPES = {recipe.name: recipe for recipe in ext.recipes()}
KERNEL = sorted(
    name for name, recipe in RECIPES.items() if recipe.oracle == "kernel" and recipe.kept and recipe.detected
)
LARGE = sorted(name for name, recipe in RECIPES.items() if not recipe.kept)
MOUNTED = ["ext2", "ext4", "ext4-2023", "ext4-inline256", "dirty-ext4"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.tool("mke2fs", "debugfs", "losetup"),
]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a recipe's image, made once."""
    folder = tmp_path_factory.mktemp("fresh")

    def image(name: str) -> Path:
        path = folder / f"{name}.img"
        if not path.exists():
            ext.make(RECIPES[name], path)
        return path

    return image


def same(image: Path, name: str) -> list[str]:
    recipe = RECIPES[name]
    with open_guest(image, format="raw") as guest, ext.kernel_view(image, recipe.read) as top:
        fs = guest.filesystem("/dev/sda")
        wanted, figures = ext.kernel_tree(recipe, top, image), ext.figures(recipe, top)
        return list(comparison.api_differences(fs, wanted, figures))


@pytest.mark.parametrize("name", KERNEL)
def test_reads_as_the_kernel_does(name: str, made: Callable[[str], Path]) -> None:
    assert same(made(name), name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_reads_large_ones_as_the_kernel_does(name: str, made: Callable[[str], Path]) -> None:
    assert same(made(name), name) == []


@pytest.mark.fuse
@pytest.mark.parametrize("name", MOUNTED)
def test_mount_shows_what_the_kernels_shows(name: str, made: Callable[[str], Path]) -> None:
    image = made(name)
    with ext.kernel_view(image, RECIPES[name].read) as top, comparison.guestkit_mount(image) as mounted:
        wanted, figures = ext.kernel_tree(RECIPES[name], top, image), ext.figures(RECIPES[name], top)
        assert list(comparison.mount_differences(mounted, top, wanted, figures)) == []


def test_sample_reads_as_the_kernel_does(sample_image: Path) -> None:
    with (
        open_guest(sample_image) as guest,
        comparison.kernel_tree(sample_image, "/dev/sda2", recover=False) as top,
    ):
        fs = guest.filesystem("/dev/sda2")
        wanted, figures = manifest.from_directory(top), manifest.host_statvfs(top)
        assert list(comparison.api_differences(fs, wanted, figures)) == []


@pytest.mark.tool("xz")
def test_kept_fixture_is_what_the_kernel_reads_now(tmp_path: Path) -> None:
    """The oracle of the fixtures and that of this run agree, so neither is stale."""
    import json

    data = Path(__file__).parent.parent / "data" / "ext"
    image = tmp_path / "ext4.img"
    with image.open("wb") as file:
        subprocess.run(["xz", "-dc", data / "ext4.img.xz"], stdout=file, check=True)
    wanted = manifest.unpack(json.loads((data / "ext4.json").read_text())["tree"])
    with ext.kernel_view(image) as top:
        assert list(manifest.differences(wanted, manifest.from_directory(top))) == []
