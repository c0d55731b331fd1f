"""Every kept Btrfs image reads as its manifest says, which the kernel wrote."""

from __future__ import annotations

from typing import Any

import manifest
import pytest
from btrfs_images import DATA, opened, told, unpacked

from guestkit import registry
from guestkit.source import BytesSource

NAMES = sorted(path.name.removesuffix(".json") for path in DATA.glob("*.json"))


def without_the_present(tree: manifest.Tree) -> manifest.Tree:
    """The kernel has the present for the times of directories that lead nowhere."""
    for entry in tree.values():
        if entry.get("ino") == 2:
            entry.pop("mtime", None)
            entry.pop("ctime", None)
    return tree


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    facts = told(request.param)
    facts["tree"] = manifest.unpack(facts["tree"])
    return facts


def test_tree_and_figures_are_the_kernels(case: dict[str, Any]) -> None:
    fs = opened(*reversed(unpacked(case["name"])))
    tree = without_the_present(manifest.from_filesystem(fs))
    assert list(manifest.differences(case["tree"], tree)) == []
    assert list(manifest.figure_differences(case["statvfs"], manifest.api_statvfs(fs))) == []
    assert list(manifest.index_differences(fs, tree)) == []
    assert list(manifest.content_differences(fs, tree)) == []
    assert fs.problems() == (0, ())
    assert str(fs.state) == "clean"


def test_identity_and_subvolumes_are_the_kernels(case: dict[str, Any]) -> None:
    devices = unpacked(case["name"])
    fs = opened(*devices)
    detected = registry.detect(BytesSource(devices[0]))
    assert detected.type == fs.kind == "btrfs"
    assert fs.label == detected.label == case["name"]
    assert fs.uuid == detected.uuid
    if case["name"] not in ("metadata-uuid", "sprout"):
        assert fs.uuid == case["uuid"]
    volumes = fs.roots()
    assert [[each.id, each.path.decode(), each.read_only] for each in volumes if each.id != 5] == case["subvolumes"]
    assert [each.id for each in volumes if each.default] == [case["default"]]
    assert [each.path for each in volumes if each.id == 5] == [b""]
    assert fs.root == next(each.root for each in volumes if each.default)
    details = fs.details()
    assert details["devices"] == case["devices"]
    assert details["devices_present"] == list(range(1, case["devices"] + 1))


def test_each_subvolume_is_reached_by_its_path_and_leads_back(case: dict[str, Any]) -> None:
    fs = opened(*unpacked(case["name"]))
    volumes = fs.roots()
    top = next(each.root for each in volumes if each.id == 5)
    assert fs.parent(top) == top
    for volume in volumes:
        key = top
        for name in filter(None, volume.path.split(b"/")):
            above, key = key, fs.lookup(key, name)
            assert fs.parent(key) == above
        assert key == volume.root
        assert fs.stat(key).ino == 256


def test_there_are_images_of_every_profile_checksum_and_feature() -> None:
    met: set[str] = set()
    for name in NAMES:
        details = opened(*unpacked(name)).details()
        met.add(str(details["checksum"]))
        met.update(details["features"])  # type: ignore[call-overload]
        met.update(details["profiles"]["data"])  # type: ignore[index]
    assert met >= {"crc32c", "xxhash64", "sha256", "blake2b"}
    assert met >= {"single", "raid0", "raid1", "raid10", "raid5", "raid6", "raid1c3", "raid1c4"}
    assert met >= {"no-holes", "skinny-metadata", "mixed-groups", "metadata-uuid", "compress-lzo", "compress-zstd"}
    assert met >= {"free-space-tree", "extended-iref", "big-metadata", "mixed-backref"}
