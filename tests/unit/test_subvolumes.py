"""Subvolumes and filesystems on several devices: names, listing, mounting, and systems whose root is a subvolume."""

from __future__ import annotations

from typing import Any

import pytest
from memoryfs import MemoryFS, MemoryGuest, Part, Subvol, Symlink

from guestkit import registry
from guestkit.cli.mount import UsageError, parse
from guestkit.errors import GuestkitError, InvalidArgument, NotFound
from guestkit.guest import Guest
from guestkit.inspect import inspect_guest, mount_os, report
from guestkit.namespace import MountTable
from guestkit.tree import Tree, mount_points


def linux(fstab: str = "", name: str = "fedora", **more: Any) -> dict[str, Any]:
    etc = {"fstab": fstab, "os-release": f"ID={name}\nVERSION_ID=40\n", "hostname": name + "\n"}
    return {"etc": etc, "bin": Symlink("usr/bin"), "usr": {"bin": {}}, "home": {}, "var": {}, **more}


def btrfs(tree: Any, default: int = 5, **more: Any) -> Part:
    return Part(MemoryFS(tree, default=default), type="btrfs", uuid="1234", **more)


def fedora() -> MemoryGuest:
    fstab = "UUID=1234 / btrfs subvol=root,compress=zstd:1 0 0\nUUID=1234 /home btrfs subvol=home 0 0\n"
    tree = {"root": Subvol(256, linux(fstab)), "home": Subvol(257, {"user": {}})}
    return MemoryGuest([Part(MemoryFS({"grub2": {}})), btrfs(tree)])


def opensuse() -> MemoryGuest:
    fstab = (
        "UUID=1234 / btrfs defaults 0 0\nUUID=1234 /var btrfs subvol=/@/var 0 0\n"
        "UUID=1234 /.snapshots btrfs subvol=/@/.snapshots 0 0\n"
    )
    snapshots = Subvol(
        258,
        {
            "1": {"snapshot": Subvol(259, linux(fstab, "opensuse-leap", **{".snapshots": {}}))},
            "2": {"snapshot": Subvol(260, linux(fstab, "opensuse-leap", old={}), read_only=True)},
        },
    )
    tree = {"@": Subvol(256, {"var": Subvol(257, {"log": {}}), ".snapshots": snapshots})}
    return MemoryGuest([btrfs(tree, 259)])


def test_filesystems_lists_every_subvolume_but_the_default_one() -> None:
    assert fedora().filesystems() == [
        ("/dev/sda1", "ext4"),
        ("/dev/sda2", "btrfs"),
        ("btrfsvol:/dev/sda2/root", "btrfs"),
        ("btrfsvol:/dev/sda2/home", "btrfs"),
    ]
    assert opensuse().filesystems() == [
        ("/dev/sda1", "btrfs"),
        ("btrfsvol:/dev/sda1/@", "btrfs"),
        ("btrfsvol:/dev/sda1/@/var", "btrfs"),
        ("btrfsvol:/dev/sda1/@/.snapshots", "btrfs"),
        ("btrfsvol:/dev/sda1/@/.snapshots/2/snapshot", "btrfs"),
    ]


@pytest.mark.parametrize(
    ("mountable", "options", "name"),
    [
        ("/dev/sda1", {}, b"etc"),
        ("btrfsvol:/dev/sda1/@/var", {}, b"log"),
        ("btrfsvol:/dev/vda1//@/var/", {}, b"log"),
        ("btrfsvol:/dev/sda1/", {}, b"@"),
        ("sda1", {"subvol": "/@/var"}, b"log"),
        ("sda1", {"subvol": "/"}, b"@"),
        ("sda1", {"subvolid": "257"}, b"log"),
        ("sda1", {"subvolid": "5"}, b"@"),
        ("sda1", {"subvolid": "0"}, b"@"),
        ("sda1", {"subvolid": "257", "subvol": "@/var"}, b"log"),
        ("btrfsvol:/dev/sda1/@/var", {"subvol": "@"}, b"log"),
    ],
)
def test_mountables_and_options_choose_the_root(mountable: str, options: dict[str, str], name: bytes) -> None:
    fs, root = opensuse().root_of(mountable, options)
    assert name in [entry.name for entry in fs.scan(root)]


@pytest.mark.parametrize(
    ("mountable", "options", "error"),
    [
        ("btrfsvol:/dev/sda2/nothing", {}, NotFound),
        ("btrfsvol:/dev/sda9/root", {}, NotFound),
        ("btrfsvol:/dev/sda1/root", {}, InvalidArgument),
        ("/dev/sda2", {"subvolid": "99"}, NotFound),
        ("/dev/sda2", {"subvolid": "many"}, InvalidArgument),
        ("/dev/sda2", {"subvolid": "256", "subvol": "home"}, InvalidArgument),
        ("/dev/sda2", {"subvol": "root/etc"}, NotFound),
    ],
)
def test_a_subvolume_that_is_not_there_is_an_error(mountable: str, options: dict[str, str], error: type) -> None:
    with pytest.raises(error):
        fedora().root_of(mountable, options)


def test_a_filesystem_without_subvolumes_ignores_the_options() -> None:
    guest = fedora()
    fs, root = guest.root_of("/dev/sda1", {"subvol": "root"})
    assert root == fs.root


def test_system_in_a_subvolume_is_found_and_mounted_as_its_fstab_says() -> None:
    guest = fedora()
    (system,) = inspect_guest(guest)
    assert system.root == "btrfsvol:/dev/sda2/root"
    assert system.mountpoints == {"/": "btrfsvol:/dev/sda2/root", "/home": "btrfsvol:/dev/sda2/home"}
    assert system.filesystems == ("btrfsvol:/dev/sda2/root", "btrfsvol:/dev/sda2/home")
    table = MountTable()
    assert mount_os(guest, system, table) == []
    assert table.resolve(b"/home/user")
    assert table.parent(table.resolve(b"/home")) == table.root


def test_snapshots_of_a_root_are_no_systems_of_their_own() -> None:
    guest = opensuse()
    (system,) = inspect_guest(guest)
    assert system.root == "/dev/sda1"
    assert system.mountpoints == {
        "/": "/dev/sda1",
        "/var": "btrfsvol:/dev/sda1/@/var",
        "/.snapshots": "btrfsvol:/dev/sda1/@/.snapshots",
    }
    table = MountTable()
    assert mount_os(guest, system, table) == []
    assert table.resolve(b"/var/log") and table.resolve(b"/.snapshots/2/snapshot/old")


def test_two_systems_in_one_filesystem_are_both_found() -> None:
    tree = {
        "@": Subvol(256, linux("UUID=1234 / btrfs subvol=@ 0 0\n", "ubuntu")),
        "@snap": Subvol(257, linux("UUID=1234 / btrfs subvol=@ 0 0\n", "ubuntu")),
        "arch": Subvol(258, linux("UUID=1234 / btrfs subvolid=258 0 0\n", "arch")),
    }
    systems = inspect_guest(MemoryGuest(btrfs(tree)))
    assert [system.root for system in systems] == ["btrfsvol:/dev/sda/@", "btrfsvol:/dev/sda/arch"]


def test_snapshot_without_its_origin_is_a_system() -> None:
    tree = {"snap": Subvol(257, linux("UUID=1234 / btrfs subvol=@ 0 0\n", "ubuntu"))}
    assert [system.root for system in inspect_guest(MemoryGuest(btrfs(tree)))] == ["btrfsvol:/dev/sda/snap"]


def test_root_without_a_line_for_itself_has_its_snapshots_dropped() -> None:
    tree = {"@": Subvol(256, linux("", "sle-micro")), "old": Subvol(257, linux("", "sle-micro"))}
    assert [system.root for system in inspect_guest(MemoryGuest(btrfs(tree, 256)))] == ["/dev/sda"]


def test_subvolume_that_fstab_contradicts_is_a_warning() -> None:
    fstab = "UUID=1234 /home btrfs subvol=home,subvolid=256 0 0\nUUID=1234 /var btrfs subvolid=999 0 0\n"
    guest = MemoryGuest(btrfs({"root": Subvol(256, linux(fstab)), "home": Subvol(257, {})}))
    (system,) = inspect_guest(guest)
    warnings = mount_os(guest, system, MountTable())
    assert [warning.split(":")[0] for warning in warnings] == ["btrfsvol", "/dev/sda is not mounted at /var"]
    assert "has the number 257, not 256" in warnings[0] and "no subvolume with the number 999" in warnings[1]


def test_tree_shows_the_default_subvolume_and_the_top_level_beside_it() -> None:
    tree = Tree(opensuse())
    assert [entry.name for entry in tree.scan(tree.resolve(b"/partitions"))] == [b"sda1", b"sda1@top"]
    assert tree.resolve(b"/partitions/sda1/etc")
    assert tree.resolve(b"/partitions/sda1@top/@/.snapshots/2/snapshot/old")
    assert tree.resolve(b"/os/var/log")
    assert tree.warnings == []


def test_tree_shows_no_top_level_where_it_is_the_default() -> None:
    tree = Tree(fedora())
    assert [entry.name for entry in tree.scan(tree.resolve(b"/partitions"))] == [b"sda1", b"sda2"]
    assert tree.resolve(b"/partitions/sda2/home/user")
    assert tree.resolve(b"/os/home/user")


def test_mount_points_take_subvolumes() -> None:
    table = mount_points(fedora(), [("btrfsvol:/dev/sda2/root", "/", ""), ("/dev/sda2", "/home", "subvol=home")], {})
    assert table.resolve(b"/home/user")


def pair(*second: int) -> MemoryGuest:
    """Two partitions of two disks that are members 1 and `second`[0] of one filesystem of two devices."""
    fs = MemoryFS({"root": Subvol(256, {})})
    parts = [Part(fs, "btrfs", "pool", "1234", member=number, members=2) for number in (2, *second)]
    return MemoryGuest([Part(MemoryFS({})), parts[0]], *parts[1:])


def test_a_filesystem_on_several_devices_is_listed_once_under_the_first() -> None:
    guest = pair(1)
    assert guest.filesystems() == [("/dev/sda1", "ext4"), ("/dev/sda2", "btrfs"), ("btrfsvol:/dev/sda2/root", "btrfs")]


def test_members_are_found_from_each_of_them() -> None:
    guest = pair(1)
    for name in ("/dev/sda2", "/dev/sdb"):
        assert [member.name for member in guest.members(guest.device(name))] == ["/dev/sda2", "/dev/sdb"]


def test_copies_of_a_member_are_refused_by_name() -> None:
    guest = pair(1, 1)
    with pytest.raises(InvalidArgument) as caught:
        guest.members(guest.device("/dev/sda2"))
    assert "sdb and sdc both are device 1 of btrfs 1234" in str(caught.value)
    assert [name for name, kind in guest.filesystems() if kind == "btrfs" and name[0] == "/"] == [
        "/dev/sdb",
        "/dev/sdc",
        "/dev/sda2",
    ]


def test_clones_of_a_filesystem_on_one_device_are_refused_by_name() -> None:
    guest = MemoryGuest(btrfs({"a": {}}, members=1), btrfs({"b": {}}, members=1))
    assert [name for name, _ in guest.filesystems()] == ["/dev/sda", "/dev/sdb"]
    with pytest.raises(InvalidArgument, match="sda and sdb both are device"):
        guest.members(guest.device("/dev/sdb"))


def test_fstab_that_names_any_member_means_the_filesystem() -> None:
    fs = MemoryFS({"data": Subvol(256, {"f": {}})})
    fstab = "UUID=1234 /home btrfs subvol=data 0 0\n/dev/sdc /var btrfs defaults 0 0\n"
    guest = MemoryGuest(
        [Part(MemoryFS(linux(fstab)))],
        *(Part(fs, "btrfs", "pool", "1234", member=number, members=2) for number in (2, 1)),
    )
    (system,) = inspect_guest(guest)
    assert system.mountpoints == {"/": "/dev/sda1", "/home": "btrfsvol:/dev/sdb/data", "/var": "/dev/sdb"}
    table = MountTable()
    assert mount_os(guest, system, table) == []
    assert table.resolve(b"/home/f") and table.resolve(b"/var/data/f")


def test_document_lists_members_and_subvolumes() -> None:
    found: Any = report.filesystems_document(pair(1))["filesystems"]
    by_name = {facts["device"]: facts for facts in found}
    assert by_name["/dev/sda2"]["members"] == by_name["/dev/sdb"]["members"] == ["/dev/sda2", "/dev/sdb"]
    assert by_name["/dev/sda2"]["subvolumes"] == [
        {"id": 5, "path": "", "default": True, "read_only": False},
        {"id": 256, "path": "root", "default": False, "read_only": False},
    ]
    assert by_name["/dev/sdb"]["reason"] == "a part of the filesystem on /dev/sda2"
    assert by_name["/dev/sda1"]["members"] == by_name["/dev/sda1"]["subvolumes"] == []


def test_error_of_a_subvolume_names_the_device() -> None:
    with pytest.raises(GuestkitError) as caught:
        fedora().root_of("btrfsvol:/dev/sda2/nothing")
    assert str(caught.value).startswith("sda2")


def test_the_members_that_are_there_are_opened_once_for_all_options_that_choose_a_subvolume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []

    def open_filesystem(kind: str, sources: list[Any], limits: Any, options: Any) -> MemoryFS:
        opened.append(len(sources))
        return MemoryFS({"f": {}})

    monkeypatch.setattr(registry, "open_filesystem", open_filesystem)
    guest = MemoryGuest([Part(None, "btrfs", "", "1234", member=number, members=3) for number in (1, 3)])
    fs = Guest.filesystem(guest, "/dev/sda2", {"subvol": "x", "noload": ""})
    assert opened == [2]
    assert Guest.filesystem(guest, "/dev/sda1", {"noload": "", "subvolid": "7"}) is fs


def test_command_line_of_the_mount_takes_subvolumes() -> None:
    command = parse(
        ["-m", "btrfsvol:/dev/sda2/@/home:/home:ro", "-m", "sda1", "-o", "subvolid=5,nologreplay", "x", "m"]
    )
    assert command.points == [("btrfsvol:/dev/sda2/@/home", "/home", "ro"), ("sda1", "/", "")]
    assert command.filesystem_options == {"subvolid": "5", "nologreplay": ""}
    assert parse(["-o", "subvol=@", "x", "m"]).filesystem_options == {"subvol": "@"}
    with pytest.raises(UsageError):
        parse(["-o", "subvol", "x", "m"])
