"""The class over Btrfs: subvolumes as mountables, options that choose one, and a filesystem on two drives."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest
from memoryfs import MemoryFS, MemoryGuest, Part, Subvol

from guestkit import Guestfs

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("btrfs") / "subvolumes.img"
    path.write_bytes(lzma.decompress((DATA / "btrfs-log" / "subvolumes.img.xz").read_bytes()))
    return path


@pytest.fixture
def g(image: Path) -> Iterator[Guestfs]:
    with Guestfs(environment=False) as handle:
        handle.add_drive(str(image), readonly=True, format="raw")
        handle.launch()
        yield handle


def test_subvolumes_are_listed_behind_their_device(g: Guestfs) -> None:
    assert list(g.list_filesystems().items()) == [
        ("/dev/sda", "btrfs"),
        ("btrfsvol:/dev/sda/one", "btrfs"),
        ("btrfsvol:/dev/sda/two", "btrfs"),
    ]


@pytest.mark.parametrize("name", ["btrfsvol:/dev/sda/one", "btrfsvol:/dev/vda/one", "btrfsvol:/dev/sda//one/"])
def test_a_subvolume_is_mounted_by_its_mountable(g: Guestfs, name: str) -> None:
    g.mount_ro(name, "/")
    assert g.ls("/") == ["a", "b", "empty", "last"]
    assert g.read_file("/last") == b"last"
    assert g.mounts() == ["/dev/sda"] and g.mountpoints() == {"/dev/sda": "/"}
    assert g.realpath("/a/..") == "/"


@pytest.mark.parametrize("options", ["ro,subvol=one", "subvolid=256", "subvol=/one,subvolid=256"])
def test_options_choose_the_subvolume(g: Guestfs, options: str) -> None:
    g.mount_options(options, "/dev/sda", "/")
    assert g.ls("/") == ["a", "b", "empty", "last"]


def test_the_log_is_replayed_unless_an_option_says_otherwise(g: Guestfs) -> None:
    g.mount_options("nologreplay,subvol=one", "/dev/sda", "/")
    assert g.ls("/") == ["a", "b", "empty"]


def test_subvolumes_are_mounted_over_each_other(g: Guestfs) -> None:
    g.mount("/dev/sda", "/")
    assert {"one", "two", "status"} <= set(g.ls("/"))
    g.mount("btrfsvol:/dev/sda/two", "/one/a")
    assert "clone" in g.ls("/one/a/b")
    assert g.realpath("/one/a/..") == "/one"
    g.umount("/one/a")
    assert "file-1" in g.ls("/one/a")


def test_facts_of_a_mountable_are_those_of_its_device(g: Guestfs) -> None:
    name = "btrfsvol:/dev/sda/two"
    assert g.vfs_type(name) == "btrfs"
    assert g.vfs_label(name) == g.vfs_label("/dev/sda") == "subvolumes"
    assert g.vfs_uuid(name) == g.vfs_uuid("/dev/sda") != ""
    assert g.mountable_device(name) == "/dev/sda"
    assert g.mountable_subvolume(name) == "two"
    assert not g.is_lv(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("btrfsvol:/dev/sda/none", "no subvolume none"),
        ("btrfsvol:/dev/sda", "expecting a btrfs volume"),
        ("btrfsvol:/dev/sdz/one", "expecting a btrfs volume"),
        ("btrfsvol:one", "expecting a btrfs volume"),
    ],
)
def test_what_is_no_subvolume_cannot_be_mounted(g: Guestfs, name: str, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        g.mount(name, "/")
    assert g.mounts() == []


def test_inspection_without_a_system_finds_none(g: Guestfs) -> None:
    assert g.inspect_os() == []


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_a_filesystem_on_several_drives_is_listed_once_and_opened_from_any(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    with Guestfs(environment=False) as handle:
        for number in order:
            path = tmp_path / f"{number}.img"
            path.write_bytes(lzma.decompress((DATA / "btrfs" / f"raid5.{number}.img.xz").read_bytes()))
            handle.add_drive(str(path), readonly=True, format="raw")
        handle.launch()
        assert [name for name in handle.list_filesystems() if not name.startswith("btrfsvol:")] == ["/dev/sda"]
        found = []
        for device in handle.list_devices():
            handle.mount_ro(device, "/")
            found.append(handle.find("/"))
            handle.umount_all()
        assert found[0] == found[1] == found[2] != []


def test_copies_of_one_device_of_several_are_refused(tmp_path: Path) -> None:
    with Guestfs(environment=False) as handle:
        for number, name in ((1, "one"), (2, "two"), (1, "copy")):
            path = tmp_path / f"{name}.img"
            path.write_bytes(lzma.decompress((DATA / "btrfs" / f"raid1.{number}.img.xz").read_bytes()))
            handle.add_drive(str(path), readonly=True, format="raw")
        handle.launch()
        with pytest.raises(RuntimeError, match="sda and sdc both are device 1"):
            handle.mount_ro("/dev/sdb", "/")
        assert set(handle.list_filesystems()) == {"/dev/sda", "/dev/sdb", "/dev/sdc"}


def test_system_in_a_subvolume_is_inspected_and_mounted() -> None:
    fstab = "UUID=1234 / btrfs subvol=root 0 0\nLABEL=pool /home btrfs subvol=/home,compress=zstd 0 0\n"
    root = {"etc": {"fstab": fstab, "os-release": "ID=fedora\nVERSION_ID=40\n", "hostname": "box\n"}}
    root.update({"bin": {}, "home": {}})
    tree = {
        "root": Subvol(256, root),
        "home": Subvol(257, {"user": {}}),
        "snapshot": Subvol(258, root, read_only=True),
    }
    with Guestfs(environment=False) as handle:
        handle.add_drive("/dev/null")
        handle.launch()
        handle._guest = MemoryGuest(Part(MemoryFS(tree), "btrfs", "pool", "1234"))
        assert handle.inspect_os() == ["btrfsvol:/dev/sda/root"]
        (name,) = handle.inspect_get_roots()
        assert handle.inspect_get_distro(name) == handle.inspect_get_distro("btrfsvol:/dev/vda/root") == "fedora"
        assert handle.inspect_get_hostname(name) == "box"
        assert handle.inspect_get_filesystems(name) == ["btrfsvol:/dev/sda/root", "btrfsvol:/dev/sda/home"]
        points = handle.inspect_get_mountpoints(name)
        assert points == {"/": "btrfsvol:/dev/sda/root", "/home": "btrfsvol:/dev/sda/home"}
        for point in sorted(points):
            handle.mount_ro(points[point], point)
        assert handle.ls("/home") == ["user"]
        with pytest.raises(RuntimeError, match="root device not found"):
            handle.inspect_get_distro("btrfsvol:/dev/sda/snapshot")
