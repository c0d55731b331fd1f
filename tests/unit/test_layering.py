"""The floors of the house: imports go strictly downward, and siblings never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import guestkit

ROOT = Path(guestkit.__file__).parent

# floor by floor from the ground; a name is a module or a package directly under guestkit/
FLOORS = (
    ("errors",),
    ("layout",),
    ("limits", "checksum"),
    ("codec", "crypto"),
    ("source",),
    ("resolve", "decoded", "probe", "files", "mapped", "ownership"),
    ("chains",),
    ("image", "volume", "fs", "hive"),
    ("registry", "mountable"),
    ("guest",),
    ("namespace", "synthetic"),
    ("copying", "inspect"),
    ("tree",),
    ("fuse",),
    ("guestfs",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# fs.base, volume.base and image.base are the interfaces; fs.plain, fs.extents and fs.recent are what two formats have
# in common; formats of one package are siblings of each other
_SHARED = ("base", "plain", "extents", "recent")


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _format(module: str) -> str:
    """ "fs.ext4" for guestkit.fs.ext4.inode; "" outside the three packages of formats."""
    parts = module.split(".")
    return f"{parts[1]}.{parts[2]}" if len(parts) > 2 and parts[1] in ("fs", "volume", "image") else ""


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == "guestkit"]


def _modules() -> list[tuple[str, Path]]:
    return [
        (".".join(("guestkit", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"), path)
        for path in sorted(ROOT.rglob("*.py"))
    ]


@pytest.mark.parametrize(("module", "path"), _modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_strictly_downward(module: str, path: Path) -> None:
    room = _room(module)
    if not room:  # guestkit itself only names what is below, lazily
        return
    assert room in FLOOR, f"{room} stands on no floor"
    for name in _imports(path):
        other = _room(name)
        if other == room:
            mine, its = _format(module), _format(name)
            if mine and its and mine != its:
                assert its.split(".")[1] in _SHARED or mine.split(".")[1] in _SHARED, (
                    f"{module} imports its sibling {name}"
                )
        elif other and other not in ("__version__",):
            assert FLOOR[other] < FLOOR[room], f"{module} imports {name}, which is not below it"


def test_only_fuse_knows_trio_and_pyfuse3() -> None:
    for module, path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                if name.split(".")[0] in ("trio", "pyfuse3"):
                    assert _room(module) == "fuse", f"{module} imports {name}"


def test_no_file_is_longer_than_600_lines() -> None:
    for _, path in _modules():
        assert len(path.read_text().splitlines()) <= 600, path


def test_no_room_is_called_utils() -> None:
    assert not [path for _, path in _modules() if path.stem in ("utils", "common", "helpers", "misc")]


@pytest.mark.parametrize("forbidden", ["eval", "exec", "compile", "__import__"])
def test_nothing_is_executed_from_an_image(forbidden: str) -> None:
    for module, path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != forbidden, f"{module} calls {forbidden}"
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "marshal", "shelve", "yaml"}, module
