"""Finding operating systems among filesystems, mounting them, and the reports."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from memoryfs import File, MemoryFS, MemoryGuest, Part, Symlink

from guestkit.errors import Corrupt
from guestkit.inspect import inspect_guest, list_applications, mount_os, report
from guestkit.namespace import MountTable
from guestkit.source import ZeroSource

ELF = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0" + bytes(44)


def linux(fstab: str = "", **more: Any) -> dict[str, Any]:
    """A small Linux root."""
    etc = {"fstab": fstab, "hostname": "box\n", "os-release": 'ID=debian\nPRETTY_NAME="Debian 12"\nVERSION_ID="12"\n'}
    tree: dict[str, Any] = {"etc": etc, "bin": Symlink("usr/bin"), "usr": {"bin": {"sh": ELF}}}
    tree.update({name: {} for name in ("boot", "home", "var", "srv", "proc")})
    return {**tree, **more}


def guest_of(tree: Any, *others: Part) -> MemoryGuest:
    return MemoryGuest([Part(MemoryFS(tree), uuid="rootid"), *others])


def test_root_s_facts() -> None:
    (system,) = inspect_guest(guest_of(linux()))
    assert (system.root, system.type, system.distro, system.product_name) == (
        "/dev/sda1",
        "linux",
        "debian",
        "Debian 12",
    )
    assert (system.major_version, system.hostname, system.arch, system.osinfo) == (12, "box", "x86_64", "debian12")
    assert (system.package_format, system.package_management) == ("deb", "apt")
    assert system.mountpoints == {"/": "/dev/sda1"}
    assert system.product_variant == "unknown"


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"lost+found": {}, "data": {"etc": {"fstab": ""}}},
        {"grub": {"grub.conf": ""}, "etc": {"fstab": ""}, "bin": {}},
        {"etc": {"passwd": ""}, "bin": {}},  # neither fstab, hosts nor os-release: a backup of /etc
        {"etc": {}, "bin": {}, "share": {}, "local": {}, "lib": {"os-release": "ID=debian\n"}},  # /usr by itself
        {"etc": "a file", "bin": {}},
        {"etc": {"fstab": {}}, "bin": {}},
        {"etc": {"fstab": ""}, "bin": Symlink("elsewhere")},
        {"log": {}, "run": {}, "spool": {}},
    ],
    ids=["empty", "data", "boot", "backup", "usr", "file", "fstab directory", "bin elsewhere", "var"],
)
def test_what_is_no_root_is_not_taken_for_one(tree: Any) -> None:
    assert inspect_guest(guest_of(tree)) == []


@pytest.mark.parametrize("bin_", [{}, Symlink("usr/bin"), Symlink("/usr/bin")])
def test_bin_may_be_a_directory_or_a_link_to_usr_bin(bin_: Any) -> None:
    assert len(inspect_guest(guest_of({"etc": {"hosts": ""}, "bin": bin_}))) == 1


def test_container_root_without_fstab_and_hosts_is_found() -> None:
    tree = {
        "etc": {"os-release": Symlink("../usr/lib/os-release")},
        "bin": {},
        "usr": {"lib": {"os-release": "ID=alpine\n"}},
    }
    assert inspect_guest(guest_of(tree))[0].distro == "alpinelinux"


def test_hurd_is_told_from_linux() -> None:
    hurd = {"console": "", "hello": "", "null": ""}
    assert inspect_guest(guest_of({**linux(), "hurd": hurd}))[0].type == "hurd"


@pytest.mark.parametrize(
    ("etc", "name"),
    [
        ({"hostname": "one\n"}, "one"),
        ({"HOSTNAME": "suse.example\n", "hostname": "two\n"}, "suse.example"),
        ({"hostname": "\n# comment\n  box.example  \n"}, "box.example"),
        ({"sysconfig": {"network": 'NETWORKING=yes\nHOSTNAME="red.example"\n'}}, "red.example"),
        ({"conf.d": {"hostname": 'hostname="gentoo"\n'}}, "gentoo"),
        ({"hostname": ""}, "unknown"),
        ({"hostname": {}}, "unknown"),
        ({"hostname": "x" * 100_000}, "x" * 255),
        ({"hostname": File(ZeroSource(1 << 40))}, "unknown"),
    ],
)
def test_host_name_is_found_in_every_place(etc: dict[str, Any], name: str) -> None:
    (system,) = inspect_guest(guest_of({"etc": {"hosts": "", **etc}, "bin": {}}))
    assert system.hostname == name


def test_mountpoints_and_filesystems_of_fstab() -> None:
    fstab = (
        "UUID=rootid / ext4 defaults 0 1\n"
        "LABEL=home /home ext4 defaults 0 2\n"
        "/dev/vda3 none swap sw 0 0\n"
        "/dev/mapper/cryptswap1 none swap sw 0 0\n"
        "UUID=gone /srv ext4 defaults 0 2\n"
        "/dev/vda4 /boot ext4 noauto 0 2\n"
        "proc /proc proc defaults 0 0\n"
        "tmpfs /tmp tmpfs defaults 0 0\n"
        "server:/x /mnt nfs defaults 0 0\n"
        "//server/x /mnt cifs defaults 0 0\n"
        "/home /var none bind 0 0\n"
        "/dev/sda2 /var none rbind 0 0\n"
        "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n"
    )
    others = [Part(MemoryFS({}), label="home"), Part(None, type="swap"), Part(MemoryFS({}))]
    (system,) = inspect_guest(guest_of(linux(fstab), *others))
    assert dict(system.mountpoints) == {"/": "/dev/sda1", "/home": "/dev/sda2"}
    assert system.filesystems == (
        "/dev/sda1",
        "/dev/sda2",
        "/dev/sda3",
        "/dev/mapper/cryptswap1",
        "UUID=gone",
        "/dev/sda4",
    )


def test_separate_usr_gives_its_facts() -> None:
    root = linux("UUID=usrid /usr ext4 defaults 0 2\n", usr={})
    root["etc"]["os-release"] = Symlink("../usr/lib/os-release")
    usr = {"lib": {"os-release": 'ID=fedora\nPRETTY_NAME="Fedora 39"\nVERSION_ID=39\n'}, "bin": {"sh": ELF}}
    (system,) = inspect_guest(guest_of(root, Part(MemoryFS(usr), uuid="usrid")))
    assert (system.distro, system.major_version, system.arch) == ("fedora", 39, "x86_64")


def test_one_filesystem_that_does_not_open_hides_no_system() -> None:
    guest = MemoryGuest([Part(None), Part(MemoryFS(linux())), Part(None, type="swap"), Part(MemoryFS(linux()))])
    assert [system.root for system in inspect_guest(guest)] == ["/dev/sda2", "/dev/sda4"]


def test_damage_in_a_file_is_a_warning_and_nothing_else_is_lost() -> None:
    tree = linux()
    tree["etc"]["hostname"] = File(b"x", error=Corrupt("inode", "i_mode"))
    (system,) = inspect_guest(guest_of(tree))
    assert (system.hostname, system.distro) == ("unknown", "debian")
    assert any("hostname" in warning for warning in system.warnings)


def test_hundred_thousand_fstab_lines_cost_no_more_than_seconds() -> None:
    fstab = "".join(f"/dev/sda{number % 9} /m{number} ext4 rw 0 0\n" for number in range(100_000))[: 2 << 20]
    start = time.process_time()
    guest = guest_of(linux(fstab))
    (system,) = inspect_guest(guest)
    warnings = mount_os(guest, system, MountTable())
    assert len(system.fstab) <= 10_000
    assert warnings and any("more" in warning for warning in warnings)
    assert time.process_time() - start < 5


# mount_os


def test_filesystems_are_mounted_outermost_first() -> None:
    fstab = "LABEL=deep /var/lib/deep ext4\nLABEL=var /var ext4\nUUID=rootid / ext4\n"
    var = Part(MemoryFS({"lib": {"deep": {}}}), label="var")
    deep = Part(MemoryFS({"file": "deep"}), label="deep")
    guest = guest_of(linux(fstab), deep, var)
    (system,) = inspect_guest(guest)
    table = MountTable()
    assert mount_os(guest, system, table) == []
    node = table.resolve(b"/var/lib/deep/file")
    assert table.open(node).read(0, 4) == b"deep"
    assert [mount.source for mount in table.mounts.values()] == ["/dev/sda1", "/dev/sda3", "/dev/sda2"]


def test_what_cannot_be_mounted_is_told_and_the_rest_stands() -> None:
    fstab = "LABEL=bad /home ext4\nUUID=gone /srv ext4\nLABEL=var /var ext4\nLABEL=nodir /nowhere ext4\n"
    parts = [Part(None, label="bad"), Part(MemoryFS({"f": ""}), label="var"), Part(MemoryFS({}), label="nodir")]
    guest = guest_of(linux(fstab), *parts)
    (system,) = inspect_guest(guest)
    table = MountTable()
    warnings = mount_os(guest, system, table)
    assert table.resolve(b"/var/f")
    assert len(warnings) == 3
    for text in ("/home", "UUID=gone", "/nowhere"):
        assert any(text in warning for warning in warnings)


def test_system_below_another_tree_keeps_links_and_dots_inside() -> None:
    fstab = "LABEL=var /var ext4\n"
    var = Part(MemoryFS({"up": Symlink("../../../../etc/hostname"), "abs": Symlink("/etc/hostname")}), label="var")
    guest = guest_of(linux(fstab), var)
    (system,) = inspect_guest(guest)
    table = MountTable()
    table.mount(MemoryFS({"os": {}, "etc": {"hostname": "host's own"}}))
    assert mount_os(guest, system, table, table.resolve(b"/os"), b"/os") == []
    for path in (b"/os/var/up", b"/os/var/abs"):
        assert table.open(table.resolve(path)).read(0, 3) == b"box"


def test_mount_point_that_is_a_link_is_followed_inside_the_guest() -> None:
    guest = guest_of(linux("LABEL=h /home ext4\n", home=Symlink("/srv")), Part(MemoryFS({"f": ""}), label="h"))
    table = MountTable()
    assert mount_os(guest, inspect_guest(guest)[0], table) == []
    assert table.resolve(b"/srv/f")


def test_applications_are_those_of_the_mounted_system() -> None:
    dpkg = {"dpkg": {"status": "Package: a\nStatus: install ok installed\nVersion: 1\n"}}
    guest = guest_of(linux("LABEL=var /var ext4\n"), Part(MemoryFS({"lib": dpkg}), label="var"))
    (system,) = inspect_guest(guest)
    table = MountTable()
    mount_os(guest, system, table)
    assert [package.name for package in list_applications(table, system)] == ["a"]


def test_package_formats_that_are_not_read_give_an_empty_list() -> None:
    tree = linux()
    tree["etc"]["os-release"] = 'ID=fedora\nPRETTY_NAME="Fedora"\nVERSION_ID=39\n'
    guest = guest_of(tree)
    (system,) = inspect_guest(guest)
    table = MountTable()
    mount_os(guest, system, table)
    assert system.package_format == "rpm"
    assert list_applications(table, system) == []


# reports


def test_reports_are_json_for_hostile_names_too() -> None:
    tree = linux("UUID=x /mnt\\377\\033[31m ext4\n")
    tree["etc"]["hostname"] = b"\x1b[31m\xff\xe2\x80\xae\n"
    guest = guest_of(tree, Part(None, label="a\udcff\u202e", uuid="\udc80"), Part(None, type=""))
    systems = inspect_guest(guest)
    for document in (
        report.os_document(guest, systems),
        report.disks_document(guest),
        report.filesystems_document(guest),
    ):
        data = report.to_json(document)
        assert data.endswith(b"\n") and data.isascii() and b"\x1b" not in data
        assert json.loads(data) == json.loads(json.dumps(document))


def test_filesystems_report_says_why_one_is_not_shown() -> None:
    parts = [
        Part(None, type="swap"),
        Part(None, type="crypto_LUKS"),
        Part(None, type="LVM2_member"),
        Part(None, type=""),
        Part(None, type="xfs"),
    ]
    document: Any = report.filesystems_document(guest_of(linux(), *parts))
    reasons = {facts["device"]: facts["reason"] for facts in document["filesystems"]}
    assert reasons["/dev/sda1"] == ""
    for device, text in (("2", "swap"), ("3", "encrypted"), ("4", "LVM2_member"), ("5", "nothing"), ("6", "damaged")):
        assert text in reasons[f"/dev/sda{device}"]


def test_filesystems_report_gives_sizes_and_damage() -> None:
    fs = MemoryFS(linux())
    fs.damage.add("inode 7", "bad checksum")
    document: Any = report.filesystems_document(MemoryGuest(Part(fs)))
    (facts,) = document["filesystems"]
    assert (facts["capacity"], facts["used"], facts["free"]) == (4096000, 600 * 4096, 300 * 4096)
    assert facts["state"] == "clean"
    assert facts["problems"] == {"count": 1, "first": [{"where": "inode 7", "message": "bad checksum"}]}


def test_disks_report_names_partitions_but_not_the_host_s_directories() -> None:
    document: Any = report.disks_document(guest_of(linux(), Part(None, partlabel="EFI")))
    (disk,) = document["disks"]
    assert (disk["device"], disk["image"], disk["table"]["scheme"]) == ("/dev/sda", "disk0.img", "gpt")
    assert [(part["number"], part["start"], part["label"]) for part in disk["partitions"]] == [
        (1, 1 << 20, ""),
        (2, 2 << 20, "EFI"),
    ]
    assert "/images" not in json.dumps(document)
