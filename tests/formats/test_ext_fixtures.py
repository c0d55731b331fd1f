"""Every kept ext image reads as its manifest says, which the kernel wrote."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import manifest
import pytest
from kept import Kept

import guestkit.errors
from guestkit import registry
from guestkit.fs.base import FileSystem
from guestkit.guest import Guest, open_guest

KEPT = Kept("ext")
told = KEPT.told
READABLE = KEPT.having("tree")
REFUSED = KEPT.having("error")
DIRTY = KEPT.having("noload")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the raw image of a fixture, decompressed once."""
    return functools.partial(KEPT.image, place=tmp_path_factory.mktemp("ext"))


def opened(guest: Guest, name: str, options: dict[str, str] | None = None) -> FileSystem:
    if told(name).get("detected", True):
        return guest.filesystem("/dev/sda", options)
    return registry.open_filesystem("ext4", [guest.device("/dev/sda").open()], guest.limits, options or {})


def known(name: str, wanted: manifest.Tree, tree: manifest.Tree) -> manifest.Tree:
    """`tree` without what the oracle cannot know: a source directory has no lost+found and other inode numbers."""
    if told(name)["oracle"] != "source":
        return tree
    return {
        path: {field: value for field, value in entry.items() if field in wanted.get(path, ())}
        for path, entry in tree.items()
        if path != "lost+found"
    }


def compare(image: Path, name: str, key: str = "tree", options: dict[str, str] | None = None) -> list[str]:
    wanted = manifest.unpack(told(name)[key])
    with open_guest(image, format="raw") as guest:
        fs = opened(guest, name, options)
        tree = manifest.from_filesystem(fs)
        found = list(manifest.differences(wanted, known(name, wanted, tree)))
        if key == "tree":
            found += manifest.figure_differences(told(name).get("statvfs", {}), manifest.api_statvfs(fs))
            found += manifest.index_differences(fs, tree)
            found += manifest.content_differences(fs, tree)
            assert fs.uuid == told(name)["uuid"]
            count, first = fs.problems()
            assert not count or not told(name).get("detected", True), first
    return found


@pytest.mark.parametrize("name", READABLE)
def test_tree_is_the_kernels(name: str, unpacked: Callable[[str], Path]) -> None:
    assert compare(unpacked(name), name) == []


@pytest.mark.parametrize("name", READABLE)
def test_state_tells_whether_a_journal_was_replayed(name: str, unpacked: Callable[[str], Path]) -> None:
    with open_guest(unpacked(name), format="raw") as guest:
        state = opened(guest, name).state
    assert state.kind == ("replayed" if told(name).get("dirty") else "clean")


@pytest.mark.parametrize("name", DIRTY)
def test_noload_shows_the_tree_without_the_journal(name: str, unpacked: Callable[[str], Path]) -> None:
    assert compare(unpacked(name), name, "noload", {"noload": ""}) == []


@pytest.mark.parametrize("name", [name for name in KEPT.names if told(name).get("lookups")])
def test_other_spellings_are_found_in_folding_directories(name: str, unpacked: Callable[[str], Path]) -> None:
    with open_guest(unpacked(name), format="raw") as guest:
        fs = guest.filesystem("/dev/sda")

        def find(path: str) -> int:
            inode = fs.root
            for part in path.split("/"):
                inode = fs.lookup(inode, part.encode())
            return inode

        for other, path in told(name)["lookups"].items():
            assert find(other) == find(path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(name: str, unpacked: Callable[[str], Path]) -> None:
    wanted = getattr(guestkit.errors, told(name)["error"])
    with open_guest(unpacked(name), format="raw") as guest, pytest.raises(wanted) as caught:
        guest.filesystem("/dev/sda")
    assert type(caught.value) is wanted


@pytest.mark.tool("qemu-img")
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("name", ["ext2", "ext4"])
def test_tree_is_the_same_inside_qcow2(
    name: str, compressed: bool, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    image = tmp_path / "image.qcow2"
    flags = ["-c"] if compressed else []
    tool = shutil.which("qemu-img") or "qemu-img"
    subprocess.run([tool, "convert", "-f", "raw", "-O", "qcow2", *flags, unpacked(name), image], check=True)
    wanted = manifest.unpack(told(name)["tree"])
    with open_guest(image) as guest:
        fs = guest.filesystem("/dev/sda")
        tree = manifest.from_filesystem(fs)
        assert list(manifest.differences(wanted, tree)) == []
        assert list(manifest.content_differences(fs, tree)) == []


def test_fixtures_are_all_there() -> None:
    """Each image has its manifest, and each manifest its image; the list does not become empty unseen."""
    assert KEPT.images() == KEPT.names
    assert len(READABLE) >= 40
    assert len(REFUSED) >= 5
    assert len(DIRTY) >= 10


@pytest.mark.parametrize("name", DIRTY)
def test_dirty_fixture_tells_replayed_from_not(name: str) -> None:
    assert told(name)["tree"] != told(name)["noload"]


def test_backup_superblock_is_read_where_the_user_says(unpacked: Callable[[str], Path]) -> None:
    name = "ext4-backup-superblock"
    with open_guest(unpacked(name), format="raw") as guest:
        tree = manifest.from_filesystem(opened(guest, name, {"sb": "8193"}))
    assert list(manifest.differences(manifest.unpack(told(name)["tree"]), tree)) == []


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("size-61", "nlink", 2),
        ("hole-last", "sha256", "0" * 64),
        ("link-absolute", "target", "/usr/bin/false"),
        ("xattr-few", "xattrs", {"user.empty": "", "user.small": "76616c7565"}),  # the order alone
        ("xattr-few", "xattrs", {}),
        ("fifo", "type", "socket"),
        ("time-1", "mtime", 0),
    ],
)
def test_comparison_sees_a_difference_in_one_field(path: str, field: str, value: object) -> None:
    tree = manifest.unpack(told("ext4")["tree"])
    other = {**tree, path: {**tree[path], field: value}}
    lines = list(manifest.differences(tree, other))
    assert lines
    assert all(path in line for line in lines)


def test_comparison_sees_names_that_come_and_go() -> None:
    tree = manifest.unpack(told("ext4")["tree"])
    less = {path: entry for path, entry in tree.items() if path != "fifo"}
    assert len(list(manifest.differences(tree, less))) == 1
    assert len(list(manifest.differences(less, tree))) == 1
