"""Life cycle, drives, devices, partitions, mounting: what a migration tool's integration suite asks of them."""

from __future__ import annotations

import copy
import gc
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import guestkit
from guestkit import ClosedHandle, GuestFS, Guestfs, GuestfsError

IMAGE = Path(__file__).parents[2] / "data" / "api" / "linux.qcow2"


def fails(text: str) -> Any:
    """The call in the block raises GuestfsError with exactly this text."""
    return pytest.raises(GuestfsError, match=f"^{re.escape(text)}$")


def test_calls_before_launch_say_so() -> None:
    with (
        Guestfs() as g,
        fails("ls0: call launch before using this function\n(in guestfish, don't forget to use the 'run' command)"),
    ):
        g.ls("/")


def test_second_launch_and_late_drive_are_refused(g: Guestfs) -> None:
    with fails("launch: this function can only be called in the config state"):
        g.launch()
    with fails("add_drive: this function can only be called in the config state"):
        g.add_drive(str(IMAGE))


def test_closed_handle_raises_value_error_everywhere(g: Guestfs) -> None:
    g.close()
    for call in (g.close, g.list_devices, lambda: g.ls("/"), g.shutdown):
        with pytest.raises(ClosedHandle, match="GuestFS: method called on closed handle") as caught:
            call()
        assert isinstance(caught.value, ValueError)
        assert not isinstance(caught.value, RuntimeError)


def test_shutdown_keeps_the_getters(g: Guestfs) -> None:
    g.shutdown()
    g.shutdown()
    assert g.get_state() == 0
    assert g.version()["major"] == 1
    with pytest.raises(GuestfsError):
        g.list_devices()


def test_missing_image_fails_at_add_drive(tmp_path: Path) -> None:
    with Guestfs() as g, fails(f"add_drive: {tmp_path}/none: No such file or directory"):
        g.add_drive(f"{tmp_path}/none")


def test_wrong_format_fails_at_launch() -> None:
    with Guestfs() as g:
        g.add_drive(str(IMAGE), format="vmdk")
        with pytest.raises(GuestfsError):
            g.launch()


def test_null_drive_is_an_empty_disk() -> None:
    with Guestfs() as g:
        g.add_drive("/dev/null")
        g.launch()
        assert g.blockdev_getsize64("/dev/sda") == 4096
        assert g.list_filesystems() == {"/dev/sda": "unknown"}
        with fails("part_list: /dev/sda: unrecognised disk label: Invalid argument"):
            g.part_list("/dev/sda")


def test_hash_tables_are_pairs_unless_asked_otherwise() -> None:
    with GuestFS() as g:
        g.add_drive_ro(str(IMAGE))
        g.launch()
        assert g.list_filesystems() == [("/dev/sda1", "ext4")]
        g.mount_ro("/dev/sda1", "/")
        assert g.mountpoints() == [("/dev/sda1", "/")]


def test_types_are_checked_before_the_state() -> None:
    with Guestfs() as g:
        for arguments in ((), (1,), ("/", "x"), (b"/",), (None,)):
            with pytest.raises(TypeError):
                g.ls(*arguments)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
            g.is_file("/", followsymlinks="no")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="unexpected keyword argument 'follow'"):
            g.is_file("/", follow=True)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="null character"):
            g.ls("/\0")


def test_errors_carry_errno_and_function(g: Guestfs) -> None:
    g.mount("/dev/sda1", "/")
    with pytest.raises(RuntimeError) as caught:
        g.cat("/none")
    assert isinstance(caught.value, GuestfsError)
    assert (caught.value.errno, caught.value.func) == (2, "download")
    assert str(copy.copy(caught.value)) == "download: /none: No such file or directory"


def test_dropped_handle_closes_quietly() -> None:
    g = Guestfs()
    g.add_drive(str(IMAGE))
    g.launch()
    del g
    gc.collect()


def test_events_trace_and_enter(g: Guestfs, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, bytes]] = []
    handle = g.set_event_callback(lambda event, number, text, array: seen.append((event, text)), guestkit.EVENT_ALL)
    g.set_trace(1)
    g.list_devices()
    assert seen[-3:] == [
        (guestkit.EVENT_ENTER, b"list_devices"),
        (guestkit.EVENT_TRACE, b"list_devices"),
        (guestkit.EVENT_TRACE, b'list_devices = ["/dev/sda"]'),
    ]
    g.delete_event_callback(handle)
    g.delete_event_callback(99)
    g.device_index("/dev/sdb")
    assert capsys.readouterr().err == (
        'libguestfs: trace: device_index "/dev/sdb"\nlibguestfs: trace: device_index = 1\n'
    )


def test_a_callback_that_raises_does_not_fail_the_call(g: Guestfs, capsys: pytest.CaptureFixture[str]) -> None:
    g.set_event_callback(lambda *_: 1 / 0, guestkit.EVENT_ENTER)
    assert g.list_devices() == ["/dev/sda"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_launch_and_close_are_events() -> None:
    seen: list[int] = []
    g = Guestfs()
    g.set_event_callback(lambda event, *_: seen.append(event), guestkit.EVENT_LAUNCH_DONE | guestkit.EVENT_CLOSE)
    g.add_drive(str(IMAGE))
    g.launch()
    g.close()
    assert seen == [guestkit.EVENT_LAUNCH_DONE, guestkit.EVENT_CLOSE]
    assert guestkit.event_to_string(seen[0] | seen[1]) == "close,launch_done"


def test_environment_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBGUESTFS_DEBUG", "1")
    monkeypatch.setenv("LIBGUESTFS_MEMSIZE", "700")
    with Guestfs() as g, Guestfs(environment=False) as other:
        assert (g.get_verbose(), g.get_memsize()) == (True, 700)
        assert other.get_verbose() is False
    monkeypatch.setenv("LIBGUESTFS_MEMSIZE", "much")
    with pytest.raises(GuestfsError):
        Guestfs()


def test_devices(g: Guestfs) -> None:
    assert g.list_devices() == ["/dev/sda"]
    assert g.list_partitions() == ["/dev/sda1"]
    assert g.list_filesystems() == {"/dev/sda1": "ext4"}
    assert g.blockdev_getsize64("/dev/vda") == 1 << 30
    assert g.blockdev_getsz("/dev/sda") == 1 << 21
    assert g.is_whole_device("/dev/sda") is True
    assert g.is_whole_device("/dev/sda1") is False
    assert [g.device_index(name) for name in ("/dev/sda", "/dev/vdb", "/dev/sdz", "/dev/sdaa")] == [0, 1, 25, 26]
    assert g.vfs_type("/dev/hda1") == "ext4"
    assert g.vfs_type("/dev/sda") == ""
    assert g.get_uuid("/dev/sda1") == "11111111-2222-3333-4444-555555555555"
    assert g.get_label("/dev/sda1") == "rootfs"
    assert g.findfs_label("rootfs") == "/dev/sda1"
    assert g.findfs_uuid(g.vfs_uuid("/dev/sda1")) == "/dev/sda1"
    with fails("findfs_label: findfs exited with status 1: findfs: unable to resolve 'LABEL=zz'"):
        g.findfs_label("zz")
    with pytest.raises(GuestfsError, match="/dev/sdb: No such file or directory"):
        g.blockdev_getsize64("/dev/sdb")
    with pytest.raises(GuestfsError, match="expecting a device name"):
        g.blockdev_getsize64("sda")


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("/dev/vda", "/dev/sda"),
        ("/dev/hdb3", "/dev/sdb3"),
        ("/dev/sdc", "/dev/sdc"),
        ("/dev/md0", "/dev/md0"),
        ("/dev/mapper/my--vg-lv", "/dev/my-vg/lv"),
        ("/dev/vg/lv", "/dev/vg/lv"),
        ("nothing", "nothing"),
    ],
)
def test_canonical_device_name(g: Guestfs, name: str, canonical: str) -> None:
    assert g.canonical_device_name(name) == canonical


def test_blkid(g: Guestfs) -> None:
    found = g.blkid("/dev/vda1")
    assert found["DEVNAME"] == "/dev/sda1"
    assert (found["TYPE"], found["LABEL"], found["USAGE"]) == ("ext4", "rootfs", "filesystem")
    assert (found["PART_ENTRY_SCHEME"], found["PART_ENTRY_TYPE"], found["PART_ENTRY_FLAGS"]) == ("dos", "0x83", "0x80")
    assert found["PART_ENTRY_OFFSET"] == "2048"
    assert all(isinstance(value, str) for value in found.values())


def test_partitions(g: Guestfs) -> None:
    size = (1 << 30) - (1 << 20)
    whole = {"part_num": 1, "part_start": 1 << 20, "part_end": (1 << 30) - 1, "part_size": size}
    assert g.part_list("/dev/sda") == [whole]
    assert g.part_list("/dev/sda1") == [{"part_num": 1, "part_start": 0, "part_end": size - 1, "part_size": size}]
    assert g.part_get_parttype("/dev/sda") == "msdos"
    assert g.part_get_bootable("/dev/sda", 1) is True
    assert g.part_get_mbr_id("/dev/sda", 1) == 0x83
    assert g.part_get_mbr_part_type("/dev/sda", 1) == "primary"
    assert g.part_to_dev("/dev/sda1") == "/dev/sda"
    assert g.part_to_partnum("/dev/vda1") == 1
    with fails("part_to_dev: device name is not a partition"):
        g.part_to_dev("/dev/sda")
    with fails("part_get_parttype: /dev/sda1: not a partitioned device"):
        g.part_get_parttype("/dev/sda1")
    for call in (g.part_get_bootable, g.part_get_mbr_id):
        with pytest.raises(GuestfsError):
            call("/dev/sda", 2)
    with pytest.raises(GuestfsError):
        g.part_get_gpt_type("/dev/sda", 1)


def test_mount_and_umount(g: Guestfs) -> None:
    with fails("ls0: ls0_stub: you must call 'mount' first to mount the root filesystem"):
        g.ls("/")
    with fails("mount: mount: /nope: mount point is not a directory"):
        g.mount("/dev/sda1", "/nope")
    with fails("mount: mount_stub: /dev/sdz: No such file or directory"):
        g.mount("/dev/sdz", "/")
    with fails("mount: mount_stub: word: No such file or directory"):
        g.mount("word", "/")
    with pytest.raises(GuestfsError, match="wrong fs type, bad option, bad superblock on /dev/sda"):
        g.mount("/dev/sda", "/")
    g.mount("/dev/sda1", "/")
    assert g.mounts() == ["/dev/sda1"]
    assert g.mountpoints() == {"/dev/sda1": "/"}
    with pytest.raises(GuestfsError, match="already mounted"):
        g.mount("/dev/sda1", "/")
    g.mount_options("ro, noload", "/dev/sda1", "/data/dirlink")
    assert g.mountpoints() == {"/dev/sda1": "/data/sub"}
    assert g.is_dir("/data/sub/etc")
    with pytest.raises(GuestfsError, match="already mounted"):
        g.mount("/dev/sda1", "/data/sub")
    with pytest.raises(GuestfsError, match="busy"):
        g.umount("/")
    g.umount("/data/sub")
    assert g.is_file("/data/sub/deep/leaf")
    g.umount("/dev/sda1")
    with pytest.raises(GuestfsError):
        g.umount("/")
    g.umount_all()


def test_mount_vfs_wants_the_type(g: Guestfs) -> None:
    with pytest.raises(GuestfsError, match="wrong fs type"):
        g.mount_vfs("ro", "xfs", "/dev/sda1", "/")
    g.mount_vfs("ro", "ext4", "/dev/sda1", "/")
    g.umount_all()


def test_mountpoints_before_a_root(g: Guestfs) -> None:
    g.mkmountpoint("/a")
    with fails("mkmountpoint: /a: File exists"):
        g.mkmountpoint("/a")
    with pytest.raises(GuestfsError, match="you must call 'mount' first"):
        g.ls("/")
    g.mount("/dev/sda1", "/a")
    assert g.ls("/") == ["a"]
    assert "etc" in g.ls("/a")
    g.umount("/a")
    g.rmmountpoint("/a")
    with pytest.raises(GuestfsError, match="No such file or directory"):
        g.rmmountpoint("/a")
    g.mount("/dev/sda1", "/")
    with fails("mkmountpoint: /b: Read-only file system"):
        g.mkmountpoint("/b")


def test_labels_and_several_drives() -> None:
    with Guestfs() as g:
        g.add_drive(str(IMAGE), label="one")
        g.add_drive_scratch(1 << 20, label="two")
        g.launch()
        assert g.list_disk_labels() == {"one": "/dev/sda", "one1": "/dev/sda1", "two": "/dev/sdb"}
        assert g.vfs_type("/dev/disk/guestfs/one1") == "ext4"
        assert g.checksum_device("md5", "/dev/sdb") == "b6d81b360a5672d80c27430f39153e2c"
        assert g.is_zero_device("/dev/sdb") is True


@pytest.mark.parametrize(
    "call",
    [
        lambda g: g.write("/x", b"y"),
        lambda g: g.write("/x", "y"),
        lambda g: g.mkdir_p("/x/y"),
        lambda g: g.chmod(0o644, "/etc/hosts"),
        lambda g: g.upload("/etc/hosts", "/x"),
        lambda g: g.cp("/etc/hosts", "/x"),
        lambda g: g.tar_in("/x.tar", "/"),
        lambda g: g.rm("/etc/hosts"),
    ],
)
def test_writing_fails_as_on_a_read_only_filesystem(m: Guestfs, call: object) -> None:
    with pytest.raises(GuestfsError, match=r"Read-only file system$") as caught:
        call(m)  # type: ignore[operator]
    assert caught.value.errno == 30


def test_commands_are_not_supported(m: Guestfs) -> None:
    for call in (lambda: m.command(["ls"]), lambda: m.sh("ls"), lambda: m.sh_lines("ls")):
        with pytest.raises(RuntimeError, match="not supported"):
            call()
    with fails("command: passed an empty list"):
        m.command([])


def test_lvm_and_luks_without_any(m: Guestfs) -> None:
    assert (m.pvs(), m.vgs(), m.lvs(), m.lvs_full()) == ([], [], [], [])
    m.vgchange_activate_all(True)
    with pytest.raises(GuestfsError, match="feature 'luks' is not available"):
        m.cryptsetup_open("/dev/sda1", "name", b"key")  # type: ignore[arg-type]


def test_inspection_of_a_disk_without_a_system(g: Guestfs) -> None:
    with fails("inspect_get_type: no inspection data: call guestfs_inspect_os first"):
        g.inspect_get_type("/dev/sda1")
    g.mount("/dev/sda1", "/")
    assert g.inspect_os() == []
    assert g.mounts() == []


def test_inspection_of_the_sample(sample_image: Path) -> None:
    with Guestfs() as g:
        g.add_drive_ro(str(sample_image))
        g.launch()
        (root,) = g.inspect_os()
        assert (g.inspect_get_type(root), g.inspect_get_distro(root)) == ("linux", "debian")
        assert (g.inspect_get_arch(root), g.inspect_get_package_format(root)) == ("x86_64", "deb")
        assert g.inspect_get_mountpoints(root)["/"] == root
        assert g.inspect_get_roots() == [root]
        with pytest.warns(DeprecationWarning):
            assert g.inspect_is_live(root) is False
        with pytest.raises(GuestfsError, match="not a Windows guest"):
            g.inspect_get_windows_systemroot(root)
        with pytest.raises(GuestfsError, match="root device not found"):
            g.inspect_get_type("/dev/sdb1")
        g.mount_ro(root, "/")
        names = [each["app2_name"] for each in g.inspect_list_applications2(root)]
        assert "adduser" in names
        with pytest.warns(DeprecationWarning):
            assert [each["app_name"] for each in g.inspect_list_applications(root)] == names


def test_threads_take_turns(m: Guestfs) -> None:
    failed: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(200):
                assert m.read_file("/etc/test-marker") == b"guestkit test image\n"
                assert m.is_dir("/data/sub")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.fuse
def test_mount_local_from_another_thread(g: Guestfs, tmp_path: Path) -> None:
    import time

    g.mount_ro("/dev/sda1", "/")
    g.mount_local(str(tmp_path))
    errors: list[Exception] = []

    def run() -> None:
        try:
            g.mount_local_run()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(300):
        if (tmp_path / "etc").exists() or errors:
            break
        time.sleep(0.02)
    try:
        assert errors == []
        assert (tmp_path / "etc/test-marker").read_bytes() == b"guestkit test image\n"
    finally:
        g.umount_local()
        thread.join(10)
    assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []
