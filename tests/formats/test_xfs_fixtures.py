"""Every kept XFS image reads as its manifest says, which the kernel wrote."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import manifest
import pytest
from kept import Kept

import guestkit.errors
from guestkit import registry
from guestkit.fs.base import FileSystem
from guestkit.fs.xfs import inode
from guestkit.fs.xfs.filesystem import Xfs
from guestkit.fs.xfs.groups import sums
from guestkit.guest import Guest, open_guest

KEPT = Kept("xfs")
told = KEPT.told
READABLE = KEPT.having("tree")
REFUSED = KEPT.having("error")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the raw image of a fixture, decompressed once."""
    return functools.partial(KEPT.image, place=tmp_path_factory.mktemp("xfs"))


def opened(guest: Guest, name: str, options: dict[str, str] | None = None) -> FileSystem:
    if told(name).get("detected", True):
        return guest.filesystem("/dev/sda", options)
    return registry.open_filesystem("xfs", [guest.device("/dev/sda").open()], guest.limits, options or {})


@pytest.mark.parametrize("name", READABLE)
def test_tree_is_the_kernels(name: str, unpacked: Callable[[str], Path]) -> None:
    with open_guest(unpacked(name), format="raw") as guest:
        fs = opened(guest, name)
        tree = manifest.from_filesystem(fs)
        assert list(manifest.differences(manifest.unpack(told(name)["tree"]), tree)) == []
        assert list(manifest.figure_differences(told(name)["statvfs"], manifest.api_statvfs(fs))) == []
        assert list(manifest.index_differences(fs, tree)) == []
        assert list(manifest.content_differences(fs, tree)) == []
        assert fs.uuid == told(name)["uuid"]
        assert fs.state.kind == "clean"
        count, first = fs.problems()
        assert not count or not told(name).get("detected", True), first


@pytest.mark.parametrize("name", [name for name in READABLE if told(name).get("detected", True)])
def test_groups_add_up_to_what_the_kernel_left_in_the_superblock(name: str, unpacked: Callable[[str], Path]) -> None:
    with open_guest(unpacked(name), format="raw") as guest:
        fs = opened(guest, name)
        assert isinstance(fs, Xfs)
        sup = fs.superblock
        assert sums(fs.blocks)[:3] == (sup.free_blocks, sup.inode_count, sup.free_inodes)


@pytest.mark.parametrize("name", [name for name in KEPT.names if told(name).get("lookups")])
def test_other_spellings_are_found_in_folding_directories(name: str, unpacked: Callable[[str], Path]) -> None:
    with open_guest(unpacked(name), format="raw") as guest:
        fs = guest.filesystem("/dev/sda")
        assert not fs.case_sensitive

        def find(path: str) -> int:
            inode = fs.root
            for part in path.split("/"):
                inode = fs.lookup(inode, manifest.raw(part))
            return inode

        for other, path in told(name)["lookups"].items():
            assert find(other) == find(path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(name: str, unpacked: Callable[[str], Path]) -> None:
    wanted = getattr(guestkit.errors, told(name)["error"])
    with open_guest(unpacked(name), format="raw") as guest, pytest.raises(wanted) as caught:
        guest.filesystem("/dev/sda")
    assert type(caught.value) is wanted
    assert isinstance(caught.value, guestkit.errors.Unsupported)
    assert caught.value.bit is not None


def test_fixtures_are_all_there() -> None:
    """Each image has its manifest, and each manifest its image; the list does not become empty unseen."""
    assert KEPT.images() == KEPT.names
    assert len(READABLE) >= 23
    assert len(REFUSED) >= 3


def test_copy_of_a_lost_superblock_is_used_and_told(unpacked: Callable[[str], Path]) -> None:
    with open_guest(unpacked("xfs-superblock-copy"), format="raw") as guest:
        fs = opened(guest, "xfs-superblock-copy")
        _, first = fs.problems()
    assert "the copy in allocation group 2 was used" in first[0].message


def test_fixtures_hold_what_they_are_for(unpacked: Callable[[str], Path]) -> None:
    """The images reach the forms that they were made to reach."""

    def look(name: str) -> tuple[set[tuple[int, int]], set[int]]:
        """({(file type, format of the data fork)}, {format of the attribute fork})"""
        with open_guest(unpacked(name), format="raw") as guest:
            fs = opened(guest, name)
            assert isinstance(fs, Xfs)
            inodes = [fs.table.read(ino) for _, ino, _ in fs.walk()]
        return {(each.mode >> 12, each.format) for each in inodes}, {
            each.attr_format for each in inodes if each.attr_start
        }

    forks, attributes = look("xfs")
    local, extents, tree = inode.LOCAL, inode.EXTENTS, inode.BTREE
    assert {(4, local), (4, extents), (10, local), (10, extents), (8, extents), (8, tree)} <= forks
    assert {local, extents} <= attributes
    assert (8, tree) in look("xfs-deep")[0]
    assert (4, tree) in look("xfs-scattered")[0]
    assert (8, tree) in look("xfs-nrext64")[0]
    assert look("xfs-v4")[0] >= {(4, local), (4, extents), (8, tree)}


def test_blocks_of_the_trees_of_free_space_are_not_to_be_had(unpacked: Callable[[str], Path]) -> None:
    with open_guest(unpacked("xfs-fragmented"), format="raw") as guest:
        fs = opened(guest, "xfs-fragmented")
        assert isinstance(fs, Xfs)
        assert sums(fs.blocks).tree_blocks == 10  # as xfs_db has it: btreeblks 25, of which rmapblocks 16 less the root
        assert fs.statvfs().bfree == fs.superblock.free_blocks - 8 - 10
