"""Every kept NTFS image reads as its manifest says, which ntfs-3g wrote."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import manifest
import pytest

import guestkit.errors
from guestkit.fs.base import Link
from guestkit.fs.ntfs import Ntfs
from guestkit.fs.ntfs import open as open_ntfs
from guestkit.limits import Limits
from guestkit.namespace import MountTable
from guestkit.source import BytesSource

DATA = Path(__file__).parent.parent / "data" / "ntfs"
NAMES = sorted(path.name.removesuffix(".json") for path in DATA.glob("*.json"))
MANIFESTS: dict[str, dict[str, Any]] = {name: json.loads((DATA / f"{name}.json").read_text()) for name in NAMES}
SYSTEM = ("acl", "attrib", "times", "reparse_data", "ea")


@pytest.fixture(scope="module")
def volume() -> Callable[..., Ntfs]:
    """Opens a fixture, decompressed once."""
    kept: dict[str, bytes] = {}

    def open(name: str, **options: str) -> Ntfs:
        if name not in kept:
            kept[name] = lzma.decompress((DATA / f"{name}.img.xz").read_bytes())
        return open_ntfs([BytesSource(kept[name])], Limits(), options)

    return open


Open = Callable[..., Ntfs]


def find(fs: Ntfs, path: str) -> int:
    inode = fs.root
    for part in path.split("/") if path else []:
        inode = fs.lookup(inode, manifest.raw(part))
    return inode


def shown(fs: Ntfs, wanted: manifest.Tree) -> manifest.Tree:
    """The tree without what the oracle cannot know."""
    tree = manifest.from_filesystem(fs)
    for path, entry in tree.items():
        tree[path] = {field: value for field, value in entry.items() if field in wanted.get(path, ())}
    return tree


@pytest.mark.parametrize("name", NAMES)
def test_tree_is_that_of_ntfs_3g(name: str, volume: Open) -> None:
    fs = volume(name)
    told = MANIFESTS[name]
    wanted = manifest.unpack(told["tree"])
    tree = manifest.from_filesystem(fs)
    assert list(manifest.differences(wanted, shown(fs, wanted))) == []
    assert list(manifest.figure_differences(told["statvfs"], manifest.api_statvfs(fs))) == []
    assert list(manifest.index_differences(fs, tree)) == []
    assert list(manifest.content_differences(fs, tree)) == []
    assert fs.label == name


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_together_has_the_status_that_each_has_by_itself(name: str, volume: Open) -> None:
    fs = volume(name)
    for _, number, status in fs.walk():
        assert status == fs._status._full(fs.inodes.read(number))


@pytest.mark.parametrize("name", [name for name in NAMES if "system" in MANIFESTS[name]])
def test_system_attributes_are_those_of_ntfs_3g(name: str, volume: Open) -> None:
    fs = volume(name)
    for path, wanted in MANIFESTS[name]["system"].items():
        inode = find(fs, path)
        for attribute in SYSTEM:
            full = b"system.ntfs_" + attribute.encode()
            if attribute in wanted:
                assert manifest.value_text(fs.xattr(inode, full)) == wanted[attribute], (path, attribute)
            else:
                with pytest.raises(guestkit.errors.NoAttribute):
                    fs.xattr(inode, full)


@pytest.mark.parametrize("name", NAMES)
def test_state_says_whether_the_volume_was_closed(name: str, volume: Open) -> None:
    assert volume(name).state.kind == MANIFESTS[name]["state"]


def test_state_names_the_reason(volume: Open) -> None:
    assert "hibernated" in volume("ntfs-hibernated").state.reason
    assert "dirty" in volume("ntfs-dirty").state.reason
    assert volume("ntfs-dirty").details()["volume_flags"] == ["dirty"]


@pytest.mark.parametrize("name", ["ntfs-mirror", "ntfs-backup-boot"])
def test_what_a_copy_had_to_replace_is_told(name: str, volume: Open) -> None:
    count, first = volume(name).problems()
    assert count
    assert all("used" in problem.message for problem in first)


def test_version_is_told(volume: Open) -> None:
    assert volume("ntfs-3.0").details()["version"] == "3.0"
    assert volume("ntfs").details()["version"] == "3.1"


def test_content_that_is_elsewhere_is_refused_by_name(volume: Open) -> None:
    fs = volume("ntfs-elsewhere")
    for path, error in MANIFESTS["ntfs-elsewhere"]["refused"].items():
        inode = find(fs, path)
        with pytest.raises(getattr(guestkit.errors, error)) as caught:
            fs.open(inode)
        assert {"dedup": "dedup", "cloud": "cloud", "wim": "WIM", "hsm": "HSM", "alias": "alias"}.get(
            path, "reparse tag 0x80000FFF"
        ) in str(caught.value)
    assert fs.open(find(fs, "plain")).read(0, 5) == b"plain"


def test_names_of_the_dos_namespace_are_found_and_not_listed(volume: Open) -> None:
    fs = volume("ntfs")
    assert find(fs, "ALONGF~1.TEX") == find(fs, "a long file name.text")
    assert find(fs, "ALONGD~1/inner") == find(fs, "a long directory/inner")
    names = [entry.name for entry in fs.scan(fs.root)]
    assert b"ALONGF~1.TEX" not in names
    assert names.count(b"a long file name.text") == 1


def test_lookup_tells_case_apart_unless_told_otherwise(volume: Open) -> None:
    fs = volume("ntfs")
    assert len({find(fs, f"case/{name}") for name in ("readme", "README", "Readme", "ReadMe")}) == 4
    with pytest.raises(guestkit.errors.NotFound):
        find(fs, "SIZE-1")
    folding = volume("ntfs", ignore_case="")
    assert find(folding, "SIZE-1") == find(fs, "size-1")
    assert find(folding, "case/Readme") == find(fs, "case/Readme")
    assert not folding.case_sensitive
    many, folding = volume("ntfs-many"), volume("ntfs-many", ignore_case="yes")
    name = sorted(entry.name for entry in many.scan(find(many, "many")))[100].decode()
    assert find(folding, f"MANY/{name.swapcase()}") == find(many, f"many/{name}")


def test_system_files_are_found_and_listed_on_request(volume: Open) -> None:
    fs = volume("ntfs")
    assert find(fs, "$MFT") == 0
    assert fs.open(find(fs, "$Boot")).read(3, 4) == b"NTFS"
    assert b"$MFT" not in [entry.name for entry in fs.scan(fs.root)]
    every = [entry.name for entry in volume("ntfs", show_sys_files="").scan(fs.root)]
    assert {b"$MFT", b"$MFTMirr", b"$LogFile", b"$Volume", b"$Bitmap", b"$Extend"} <= set(every)
    assert b"." not in every
    upcase = find(fs, "$UpCase")
    assert fs.streams(upcase) == [(b"$Info", 32)]
    assert list(fs.xattr_names(upcase)) == []


def test_streams_are_listed_with_their_sizes_and_opened(volume: Open) -> None:
    fs = volume("ntfs")
    inode = find(fs, "streams")
    assert dict(fs.streams(inode)) == {b"Zone.Identifier": 26, b"empty": 0, b"larger": 9000}
    assert fs.open(inode, b"Zone.Identifier").read(0, 14) == b"[ZoneTransfer]"
    assert fs.open(find(fs, "empty-dir"), b"on a directory").read(0, 9) == b"directory"
    with pytest.raises(guestkit.errors.NotFound):
        fs.open(inode, b"none")


def test_owner_and_mode_are_options(volume: Open) -> None:
    fs = volume("ntfs", uid="1000", gid="100", fmask="0133", dmask="0022")
    status = fs.stat(find(fs, "size-1"))
    assert (status.uid, status.gid, status.mode) == (1000, 100, 0o100644)
    assert fs.stat(fs.root).mode == 0o40755
    assert volume("ntfs", umask="077").stat(fs.root).mode == 0o40700
    links = volume("ntfs-links", umask="077")
    assert links.stat(find(links, "junction")).mode == 0o120777
    for bad in ({"uid": "x"}, {"umask": "9"}, {"gid": "-1"}, {"uid": str(1 << 40)}):
        with pytest.raises(guestkit.errors.InvalidArgument):
            volume("ntfs", **bad)


def test_times_have_100_ns_and_creation_is_told(volume: Open) -> None:
    fs = volume("ntfs")
    status = fs.stat(find(fs, "time40000000000"))
    assert status.mtime_ns == 40_000_000_000_123_456_700
    assert status.btime_ns is not None
    assert status.btime_ns % 100 == 0
    assert status.btime_ns > 1_700_000_000 * 10**9


@pytest.mark.parametrize("name", ["xpress4k", "xpress8k", "xpress16k", "lzx", "stored"])
def test_compressed_system_files_show_no_trace_of_it(name: str, volume: Open) -> None:
    fs = volume("ntfs-wof")
    inode = find(fs, name)
    assert fs.streams(inode) == []
    assert list(fs.xattr_names(inode)) == []
    with pytest.raises(guestkit.errors.NoAttribute):
        fs.xattr(inode, b"user.WofCompressedData")
    assert 0 < fs.stat(inode).blocks * 512 < fs.stat(inode).size + 4096


def test_extents_of_compressed_files_are_true(volume: Open) -> None:
    """Holes are holes, and what is stored as it is stands in the image verbatim."""
    fs = volume("ntfs-lznt1")
    source = fs.open(find(fs, "compressed/mixed"))
    kinds = {type(extent.source).__name__ for extent in source.extents(0, source.size)}
    assert "NoneType" in kinds
    assert len(kinds) > 1
    noise = fs.open(find(fs, "compressed/noise"))
    first = next(iter(noise.extents(0, noise.size)))
    assert first.source is not None
    assert first.source.read(first.source_offset, first.length) == noise.read(0, first.length)


def test_links_translate_by_the_drives_that_are_known(volume: Open) -> None:
    fs = volume("ntfs-links")
    link = fs.readlink(find(fs, "junction-case"))
    assert link == Link("ntfs-junction", b"C:/Users/Public Folder")
    assert link.posix() == b"/Users/Public Folder"
    assert link.posix(b"/mnt/windows") == b"/mnt/windows/Users/Public Folder"
    assert link.posix(b"", {b"c:": b"/disks/c"}) == b"/disks/c/Users/Public Folder"
    gone = fs.readlink(find(fs, "junction-gone"))
    assert gone.posix(b"", {b"d:": b"/d"}) == b"/d/No Such/Folder"
    volume_link = fs.readlink(find(fs, "junction-volume"))
    assert volume_link.posix(b"", {b"volume{01234567-89ab-cdef-0123-456789abcdef}": b"/v"}) == b"/v"


def test_links_are_followed_inside_the_tree(volume: Open) -> None:
    fs = volume("ntfs-links")
    table = MountTable()
    mount = table.mount(fs)
    wanted = find(fs, "Users/Public Folder/File.txt")
    for path in (b"/junction-case/File.txt", b"/relative-case", b"/symlink-dir/Public Folder/File.txt"):
        assert table.stat(table.resolve(path)).ino == wanted
    assert table.stat(table.resolve(b"/Users/loop/loop/Other.txt")).ino == find(fs, "Users/Other.txt")
    assert table.stat(table.resolve(b"/rooted")).ino == find(fs, "Users/Other.txt")
    table.mount(volume("ntfs"), table.resolve(b"/Users"), b"/Users", source="/dev/sdb1")
    table.drives[mount.index] = {b"d:": "/dev/sdb1"}
    assert table.readlink(table.resolve(b"/junction-gone", follow=False)) == b"/Users/No Such/Folder"


def test_junctions_are_links_and_no_directories(volume: Open) -> None:
    fs = volume("ntfs-links")
    inode = find(fs, "junction")
    with pytest.raises(guestkit.errors.NotADirectory):
        list(fs.scan(inode))
    with pytest.raises(guestkit.errors.NotADirectory):
        fs.lookup(inode, b"File.txt")


def test_wsl_devices_have_their_numbers(volume: Open) -> None:
    fs = volume("ntfs-wsl")
    assert fs.stat(find(fs, "block")).rdev == os.makedev(259, 70_000)
    assert fs.stat(find(fs, "char")).rdev == os.makedev(5, 1)
    assert fs.readlink(find(fs, "link")) == Link("posix", b"target/of a link")


def test_wsl_owners_and_modes_are_shown(volume: Open) -> None:
    fs = volume("ntfs-wsl", uid="5", gid="6")
    status = fs.stat(find(fs, "owned"))
    assert (status.uid, status.gid, status.mode) == (1000, 4_000_000_000, 0o104755)
    status = fs.stat(find(fs, "owned-dir"))
    assert (status.uid, status.gid, status.mode) == (1001, 100, 0o41777)
    status = fs.stat(find(fs, "link"))
    assert (status.uid, status.gid) == (5, 6)


def test_fixtures_are_all_there() -> None:
    assert sorted(path.name.removesuffix(".img.xz") for path in DATA.glob("*.img.xz")) == NAMES
    assert len(NAMES) >= 20
