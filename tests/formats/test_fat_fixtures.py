"""Every kept FAT and exFAT image reads as its manifest says: by mtools or the image's writer, and by a kernel."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import manifest
import pytest

from guestkit import registry
from guestkit.fs.base import FileSystem
from guestkit.limits import Limits
from guestkit.source import BytesSource

DATA = Path(__file__).parent.parent / "data" / "fat"
NAMES = sorted(path.name.removesuffix(".json") for path in DATA.glob("*.json"))


def told(name: str) -> dict[str, Any]:
    manifest_of: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return manifest_of


def opened(name: str, **options: str) -> FileSystem:
    source = BytesSource(lzma.decompress((DATA / f"{name}.img.xz").read_bytes()))
    detected = registry.detect(source)
    fs = registry.open_filesystem(detected.type, [source], Limits(), options)
    assert (fs.kind, fs.uuid, fs.label) == (detected.type, detected.uuid, detected.label)
    return fs


@pytest.mark.parametrize("name", NAMES)
def test_tree_is_the_oracles(name: str) -> None:
    facts = told(name)
    fs = opened(name)
    assert (fs.kind, fs.uuid, fs.label) == (facts["type"], facts["uuid"], facts["label"])
    wanted = manifest.unpack(facts["tree"])
    tree = manifest.from_filesystem(fs)
    known = {
        path: {field: value for field, value in entry.items() if field in wanted.get(path, ())}
        for path, entry in tree.items()
    }
    found = list(manifest.differences(wanted, known))
    found += manifest.figure_differences(facts.get("statvfs", {}), manifest.api_statvfs(fs))
    found += manifest.index_differences(fs, tree)
    found += manifest.content_differences(fs, tree)
    assert found == []
    assert fs.problems() == (0, ())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_found_in_any_case_and_in_its_own(name: str) -> None:
    fs = opened(name)
    for path, ino, _ in fs.walk():
        above, _, last = path.rpartition(b"/")
        directory = fs.root
        for part in above.split(b"/") if above else []:
            directory = fs.lookup(directory, part)
        assert fs.lookup(directory, last) == ino
        for other in (last.upper(), last.lower(), last.swapcase(), last + b"." * (not last.endswith(b"."))):
            assert fs.lookup(directory, other) == ino


def test_only_the_dirty_image_is_dirty() -> None:
    assert [name for name in NAMES if opened(name).state.kind != "clean"] == ["exfat-dirty"]


def test_fixtures_are_all_there() -> None:
    assert sorted(path.name.removesuffix(".img.xz") for path in DATA.glob("*.img.xz")) == NAMES
    assert {opened(name).details()["active table"] for name in NAMES} == {0, 1}
    assert len(NAMES) >= 11
    assert len([name for name in NAMES if "kernel" in told(name)]) >= 10
