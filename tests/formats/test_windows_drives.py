"""A Windows guest: what its registry tells, and links between its drives, in every tree that shows them."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import memoryfs
import pytest
from recipes import windows as recipe

from guestkit import Guest, Guestfs
from guestkit.cli.main import main
from guestkit.errors import LinkLoop, NotFound
from guestkit.guestfs.errors import GuestfsError
from guestkit.inspect import OperatingSystem, inspect_guest, mount_os
from guestkit.namespace import MountTable
from guestkit.tree import Tree

DATA = Path(__file__).parent.parent / "data" / "windows"
NAMES = ["windows-gpt", "windows-mbr"]


@pytest.fixture(scope="module", params=NAMES)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("windows") / f"{request.param}.img"
    path.write_bytes(lzma.decompress((DATA / f"{request.param}.img.xz").read_bytes()))
    return path


@pytest.fixture
def guest(image: Path) -> Iterator[Guest]:
    with Guest() as guest:
        guest.add(image)
        yield guest


def read(table: MountTable, path: str) -> bytes:
    source = table.open(table.resolve(path.encode()))
    return source.read(0, source.size)


def target(table: MountTable, path: str) -> bytes:
    return table.readlink(table.resolve(path.encode(), follow=False))


def test_the_fixtures_are_all_there() -> None:
    assert sorted(path.name.removesuffix(".img.xz") for path in DATA.glob("*.img.xz")) == NAMES


def test_a_windows_root_is_described(guest: Guest) -> None:
    (system,) = inspect_guest(guest)
    assert (system.root, system.type, system.distro) == ("/dev/sda1", "windows", "windows")
    assert (system.product_name, system.product_variant) == ("Windows Server 2022 Standard", "Server")
    assert (system.major_version, system.minor_version, system.build_id) == (10, 0, "20348")
    assert (system.hostname, system.arch, system.osinfo) == ("WINBOX", "x86_64", "win2k22")
    assert system.mountpoints == {"/": "/dev/sda1"}
    assert system.filesystems == ("/dev/sda1",)
    assert system.windows_systemroot == "/Windows"
    assert system.windows_current_control_set == "ControlSet001"
    assert system.windows_system_hive == "/Windows/System32/config/SYSTEM"
    assert system.windows_software_hive == "/Windows/System32/config/SOFTWARE"
    assert system.warnings == ()


def test_drives_are_those_of_the_log_as_well(guest: Guest) -> None:
    """Only the replayed SYSTEM knows D."""
    (system,) = inspect_guest(guest)
    assert system.drive_mappings == {"C": "/dev/sda1", "D": "/dev/sda2"}
    assert system.drives == {
        b"c:": "/dev/sda1",
        b"d:": "/dev/sda2",
        recipe.VOLUME.lower().encode(): "/dev/sda2",
    }


def test_links_lead_to_other_partitions_of_the_tree(guest: Guest) -> None:
    tree = Tree(guest)
    assert tree.warnings == []
    for top in ("/os", "/partitions/sda1"):
        assert read(tree, f"{top}/Documents and Settings/Public/Own.txt") == b"on C"
        assert read(tree, f"{top}/data/File.txt") == b"on D"
        assert read(tree, f"{top}/file-link") == b"on D"
        assert read(tree, f"{top}/whole/Store/File.txt") == b"on D"
        assert target(tree, f"{top}/data") == b"/partitions/sda2/Store"
        assert target(tree, f"{top}/Documents and Settings") == b"/Users"
        with pytest.raises(NotFound):
            tree.resolve(f"{top}/missing/x".encode())
        assert target(tree, f"{top}/unknown") == b"/.NTFS-3G/E:/x"
        with pytest.raises(LinkLoop):
            tree.resolve(f"{top}/round/x".encode())
    assert read(tree, "/partitions/sda2/back/Users/Public/Own.txt") == b"on C"
    assert read(tree, "/partitions/sda2/Store/public/Own.txt") == b"on C"
    assert target(tree, "/partitions/sda2/Store/public") in (b"/partitions/sda1/Users/Public", b"/os/Users/Public")


def test_behind_a_link_to_another_drive_paths_stay_there(guest: Guest) -> None:
    tree = Tree(guest)
    assert read(tree, "/os/data/../../../Store/File.txt") == b"on D"
    with pytest.raises(NotFound):
        tree.resolve(b"/os/data/../../os/Windows")


def test_shown_targets_stay_inside_the_mount(guest: Guest) -> None:
    tree = Tree(guest)
    tree.prefix = b"/mnt/guest"
    for path, wanted in (
        (b"/os/data", b"/mnt/guest/partitions/sda2/Store"),
        (b"/os/whole", b"/mnt/guest/partitions/sda2/"),
        (b"/os/Documents and Settings", b"/mnt/guest/os/Users"),
        (b"/os/unknown", b"/mnt/guest/os/.NTFS-3G/E:/x"),
        (b"/partitions/sda1/data", b"/mnt/guest/partitions/sda2/Store"),
    ):
        node = tree.resolve(path, follow=False)
        assert tree.confined(node, tree.readlink(node)).rstrip(b"/") == wanted.rstrip(b"/")


def test_a_drive_mounted_inside_the_system_is_nearer(guest: Guest) -> None:
    (system,) = inspect_guest(guest)
    table = MountTable()
    assert mount_os(guest, system, table) == []
    assert target(table, "/data") == b"/.NTFS-3G/D:/STORE"
    table.mount(guest.filesystem("/dev/sda2"), table.resolve(b"/Users/Public"), b"/Users/Public", source="/dev/sda2")
    assert target(table, "/data") == b"/Users/Public/Store"
    assert read(table, "/data/File.txt") == b"on D"
    assert target(table, "/Users/Public/back") == b"/"


def test_without_the_registry_a_link_to_its_own_drive_still_works(guest: Guest) -> None:
    table = MountTable()
    mount = table.mount(guest.filesystem("/dev/sda1"), source="/dev/sda1")
    assert read(table, "/Documents and Settings/Public/Own.txt") == b"on C"
    assert target(table, "/data") == b"/.NTFS-3G/D:/STORE"
    assert target(table, "/twice") == b"/Users"  # as ntfs-3g guesses
    table.drives[mount.index] = {b"d:": "/dev/sdz9"}  # known, and not mounted
    assert target(table, "/data") == b"/.NTFS-3G/D:/STORE"
    assert target(table, "/twice") == b"/.NTFS-3G/D:/Users"
    table.umount(mount.index)
    assert not table.drives


def test_the_class_inspects_windows(image: Path) -> None:
    with Guestfs(environment=False, python_return_dict=True) as g:
        g.add_drive_opts(str(image), readonly=True, format="raw")
        g.launch()
        assert g.inspect_os() == ["/dev/sda1"]
        root = "/dev/sda1"
        assert g.inspect_get_type(root) == "windows"
        assert g.inspect_get_distro(root) == "windows"
        assert g.inspect_get_product_name(root) == "Windows Server 2022 Standard"
        assert g.inspect_get_product_variant(root) == "Server"
        assert (g.inspect_get_major_version(root), g.inspect_get_minor_version(root)) == (10, 0)
        assert g.inspect_get_hostname(root) == "WINBOX"
        assert g.inspect_get_arch(root) == "x86_64"
        assert g.inspect_get_package_format(root) == "unknown"
        assert g.inspect_get_mountpoints(root) == {"/": root}
        assert g.inspect_get_drive_mappings(root) == {"C": root, "D": "/dev/sda2"}
        assert g.inspect_get_windows_systemroot(root) == "/Windows"
        assert g.inspect_get_windows_current_control_set(root) == "ControlSet001"
        assert g.inspect_get_windows_system_hive(root) == "/Windows/System32/config/SYSTEM"
        assert g.inspect_get_windows_software_hive(root) == "/Windows/System32/config/SOFTWARE"
        g.mount_ro(root, "/")
        assert g.cat("/Documents and Settings/Public/Own.txt") == "on C"
        g.mount_ro("/dev/sda2", "/Users/Public")
        assert g.cat("/data/File.txt") == "on D"
        assert g.case_sensitive_path("/WINDOWS/system32/CONFIG/software") == "/Windows/System32/config/SOFTWARE"
        assert g.case_sensitive_path("/documents AND settings/public/x") == "/Documents and Settings/Public/x"
        assert g.realpath("/data/File.txt") == "/Users/Public/Store/File.txt"


def test_linux_is_no_windows_guest(sample_image: Path) -> None:
    with Guestfs(environment=False) as g:
        g.add_drive_opts(str(sample_image), readonly=True)
        g.launch()
        (root,) = g.inspect_os()
        assert dict(g.inspect_get_drive_mappings(root)) == {}
        with pytest.raises(GuestfsError, match="not a Windows guest"):
            g.inspect_get_windows_systemroot(root)


def test_the_command_line_shows_the_system(image: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["inspect", "--json", str(image)]) == 0
    (told,) = json.loads(capsysbinary.readouterr().out)["systems"]
    assert told["drive_mappings"] == {"C": "/dev/sda1", "D": "/dev/sda2"}
    assert main(["cat", str(image), "/documents and settings/x"]) == 1  # case counts, as with ntfs-3g
    capsysbinary.readouterr()
    assert main(["cat", str(image), "/Documents and Settings/Public/Own.txt"]) == 0
    assert capsysbinary.readouterr().out == b"on C"
    assert main(["inspect", str(image)]) == 0
    out = capsysbinary.readouterr().out
    assert b"Windows Server 2022" in out
    assert b"/dev/sda2 is D:" in out


# what need not be as it should


def windows_tree(**more: object) -> dict[str, object]:
    config: dict[str, object] = {"system": recipe.system_hive("dos", True), "software": recipe.software_hive(), **more}
    return {"WINNT": {"system32": {"config": config, "cmd.exe": recipe.program(0x14C)}}}


def inspected(files: dict[str, object], **more: object) -> OperatingSystem:
    disk = [memoryfs.Part(memoryfs.MemoryFS(files), "ntfs")]
    (system,) = inspect_guest(memoryfs.MemoryGuest(disk, scheme="msdos", table_uuid="1a2b3c4d"))
    return system


def test_spelling_and_place_of_the_root_do_not_matter() -> None:
    system = inspected(windows_tree())
    assert (system.windows_systemroot, system.arch, system.hostname) == ("/WINNT", "i386", "WINBOX")
    ini = b'[boot loader]\r\n[operating systems]\r\nmulti(0)disk(0)rdisk(0)partition(1)\\own\\NT="Windows" /x\r\n'
    moved = {"Own": {"nt": windows_tree()["WINNT"]}, "BOOT.INI": ini}
    assert inspected(moved).windows_systemroot == "/Own/nt"


def test_a_directory_of_that_name_is_no_system() -> None:
    for files in ({"Windows": {"System32": {"config": {}}}}, {"Windows": b"file"}, {"Program Files": {}}):
        disk = [memoryfs.Part(memoryfs.MemoryFS(files), "ntfs")]
        assert inspect_guest(memoryfs.MemoryGuest(disk)) == []


def test_damaged_hives_are_a_warning() -> None:
    system = inspected(windows_tree(system=b"no hive" * 1000, software=b""))
    assert (system.type, system.hostname, system.product_name) == ("windows", "unknown", "unknown")
    assert system.drive_mappings == {}
    assert system.drives == {b"c:": "/dev/sda1"}  # its own, whatever it is called
    assert len(system.warnings) == 2
    assert system.windows_system_hive == "/WINNT/system32/config/system"


def test_a_missing_hive_is_none() -> None:
    tree = windows_tree()
    del tree["WINNT"]["system32"]["config"]["system"]  # type: ignore[index]
    system = inspected(tree)
    assert (system.hostname, system.windows_system_hive, system.warnings) == ("unknown", "", ())
    assert system.product_name == "Windows Server 2022 Standard"


def test_a_dirty_hive_without_its_log_is_told() -> None:
    import hivewriter

    dirty = hivewriter.sequences(recipe.system_hive("dos", True), 9, 8)
    system = inspected(windows_tree(system=dirty))
    assert system.hostname == "WINBOX"
    assert any("no log" in warning for warning in system.warnings)


@pytest.mark.fuse
def test_links_between_drives_work_in_a_mount(image: Path, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    command = [sys.executable, "-m", "guestkit.cli.mount", "--foreground", str(image), str(point)]
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(200):
            if os.path.ismount(point):
                break
            time.sleep(0.05)
        assert os.path.ismount(point)
        assert (point / "os" / "data" / "File.txt").read_bytes() == b"on D"
        assert (point / "os" / "file-link").read_bytes() == b"on D"
        assert (point / "partitions/sda2/back/Users/Public/Own.txt").read_bytes() == b"on C"
        for path in ("os/data", "os/Documents and Settings", "partitions/sda1/whole"):
            shown = os.readlink(point / path)
            assert shown.startswith(f"{point}/")
            assert os.lstat(point / path).st_size == len(shown)
    finally:
        subprocess.run(["fusermount3", "-u", point], check=True)
        daemon.communicate(timeout=20)
