"""Guest: names of devices, what is listed and what is left out, and failures that leave nothing open."""

from __future__ import annotations

import json
import lzma
import os
import struct
import time
from pathlib import Path

import pytest

from guestkit.errors import (
    AccessRefused,
    GuestkitError,
    InvalidArgument,
    IsADirectory,
    NotFound,
    SourceError,
    Unsupported,
)
from guestkit.guest import Guest, canonical_device_name, letters, letters_index, open_guest

DATA = Path(__file__).parent.parent / "data" / "detection"
MANIFEST = json.loads((DATA / "manifest.json").read_text())
MIB = 1 << 20


def write_fixture(path: Path, name: str, at: int = 0) -> None:
    """Write the sectors of a detection fixture into a file, `at` bytes into it."""
    kept = lzma.decompress((DATA / f"{name}.xz").read_bytes())
    done = 0
    with path.open("r+b") as file:
        for first, count in MANIFEST[name]["sectors"]:
            file.seek(at + first * 512)
            file.write(kept[done : done + count * 512])
            done += count * 512


def bare(path: Path, name: str) -> Path:
    """An image of one fixture and nothing else."""
    path.touch()
    os.truncate(path, MANIFEST[name]["size"])
    write_fixture(path, name)
    return path


def mbr(path: Path, size: int, *parts: tuple[int, int, int, str], signature: int = 0x1234ABCD) -> Path:
    """An image with (type, first MiB, MiBs, fixture) in the MBR."""
    path.touch()
    os.truncate(path, size)
    raw = bytearray(512)
    struct.pack_into("<I", raw, 440, signature)
    for slot, (type, first, length, _) in enumerate(parts):
        struct.pack_into("<BxxxBxxxII", raw, 446 + 16 * slot, 0, type, first * 2048, length * 2048)
    raw[510:512] = b"\x55\xaa"
    with path.open("r+b") as file:
        file.write(raw)
    for _, first, _, name in parts:
        if name:
            write_fixture(path, name, first * MIB)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return mbr(
        tmp_path / "disk.img",
        64 * MIB,
        (0x83, 1, 16, "ext4"),
        (0x82, 20, 1, "swap"),
        (0x8E, 24, 8, "lvm2"),
        (0x83, 40, 4, ""),
    )


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_devices_filesystems_and_what_is_left_out(disk: Path) -> None:
    with open_guest(disk) as guest:
        assert [device.name for device in guest.devices()] == ["/dev/sda", *(f"/dev/sda{n}" for n in range(1, 5))]
        assert guest.filesystems() == [("/dev/sda1", "ext4"), ("/dev/sda2", "swap"), ("/dev/sda4", "unknown")]
        assert guest.detect(guest.device("sda3")).type == "LVM2_member"
        assert guest.problems() == []


def test_bare_disks_come_before_partitions_and_partitioned_disks_are_left_out(tmp_path: Path, disk: Path) -> None:
    with open_guest(disk, bare(tmp_path / "b", "vmfs"), bare(tmp_path / "c", "luks1")) as guest:
        guest.add_empty(MIB)
        listed = [name for name, _ in guest.filesystems()]
        assert listed == ["/dev/sdb", "/dev/sdd", "/dev/sda1", "/dev/sda2", "/dev/sda4"]
        assert guest.disks[1].table is None


@pytest.mark.parametrize("type", [0x05, 0x42])
def test_partitions_that_hold_no_filesystem_are_left_out(tmp_path: Path, type: int) -> None:
    with open_guest(mbr(tmp_path / "a", 40 * MIB, (type, 1, 20, ""), (0x83, 30, 1, ""))) as guest:
        assert guest.filesystems() == [("/dev/sda2", "unknown")]


def test_two_drives_with_the_same_content_are_two_disks(disk: Path) -> None:
    with open_guest(disk, disk) as guest:
        assert [disk.name for disk in guest.disks] == ["/dev/sda", "/dev/sdb"]
        first, second = guest.device("sda1"), guest.device("sdb1")
        assert guest.detect(first) == guest.detect(second)
        assert guest.find("UUID", guest.detect(second).uuid) is first


def test_device_by_any_spelling(disk: Path) -> None:
    with Guest() as guest:
        guest.add(disk, label="data")
        wanted = guest.devices()[2]
        for name in ("/dev/sda2", "sda2", "/dev/vda2", "vda2", "/dev/hda2", "/dev/xvda2", "/dev/disk/guestfs/data2"):
            assert guest.device(name) is wanted
        assert guest.device("/dev/disk/guestfs/data") is guest.disks[0]
        for name in ("/dev/sdb", "sda9", "", "/dev/", "/dev/disk/by-uuid/none", "/dev/disk/by-id/x"):
            with pytest.raises(NotFound):
                guest.device(name)


def test_find_by_what_stands_there(disk: Path) -> None:
    said = MANIFEST["ext4"]["blkid"]
    with open_guest(disk) as guest:
        one = guest.device("sda1")
        assert guest.find("UUID", said["UUID"].upper()) is one
        assert guest.find("LABEL", "four 4") is one
        assert guest.find("LABEL", "FOUR 4") is None
        assert guest.find("PARTUUID", "1234ABCD-02") is guest.device("sda2")
        assert guest.find("PARTLABEL", "") is guest.find("UUID", "") is guest.find("ID", "x") is None
        assert guest.device("/dev/disk/by-label/four\\x204") is one
        assert guest.device(f"/dev/disk/by-uuid/{said['UUID']}") is one


def test_disk_that_is_one_filesystem(tmp_path: Path) -> None:
    with open_guest(bare(tmp_path / "a", "fat16")) as guest:
        assert guest.disks[0].table is None
        assert guest.filesystems() == [("/dev/sda", "vfat")]


def test_truncated_image_keeps_its_partitions_and_says_so(disk: Path) -> None:
    os.truncate(disk, 4 * MIB)
    with open_guest(disk) as guest:
        assert [device.name for device in guest.disks[0].partitions] == [f"/dev/sda{n}" for n in range(1, 5)]
        assert guest.filesystems()[0] == ("/dev/sda1", "ext4")
        assert guest.detect(guest.device("sda4")).type == ""
        assert len(guest.problems()) == 4
        assert all(problem.where == "sda" for problem in guest.problems())
        with pytest.raises(SourceError):
            guest.device("sda1").open().read(8 * MIB, 512)


def test_filesystem_that_is_not_read_is_refused_with_its_place(disk: Path) -> None:
    with open_guest(disk) as guest:
        with pytest.raises(Unsupported, match="sda2: swap"):
            guest.filesystem("/dev/sda2")
        with pytest.raises(InvalidArgument, match="sda4: no filesystem that guestkit knows"):
            guest.filesystem("/dev/sda4")
        with pytest.raises(NotFound):
            guest.filesystem("/dev/sdz1")


class TestRefusals:
    def check(self, path: str | Path, kind: type[GuestkitError], text: str, **options: object) -> None:
        before = descriptors()
        guest = Guest()
        with pytest.raises(kind) as caught:
            guest.add(path, **options)  # type: ignore[arg-type]  # options are what the test gives
        assert type(caught.value) is kind
        assert text in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert descriptors() == before
        assert guest.disks == []
        guest.close()

    def test_no_such_file(self, tmp_path: Path) -> None:
        self.check(tmp_path / "none", NotFound, "No such file or directory")

    def test_directory(self, tmp_path: Path) -> None:
        self.check(tmp_path, IsADirectory, "is a directory, not a disk image")

    def test_character_device(self) -> None:
        self.check("/dev/zero", SourceError, "neither a regular file nor a block device")

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        self.check(tmp_path / "a", InvalidArgument, "is empty, not a disk image")

    def test_a_few_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("no disk\n")
        self.check(tmp_path / "a", InvalidArgument, "holds 8 bytes, not a disk")

    def test_unknown_format(self, disk: Path) -> None:
        self.check(disk, InvalidArgument, "no image format 'tape'", format="tape")

    def test_other_format(self, disk: Path) -> None:
        self.check(disk, InvalidArgument, "not a qcow2 image", format="qcow2")

    def test_format_that_is_only_known_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"QED\0" + bytes(4096))
        self.check(tmp_path / "a", Unsupported, "qed")

    def test_sector_size_that_no_disk_has(self, disk: Path) -> None:
        before = descriptors()
        with pytest.raises(InvalidArgument, match="sector size of 1000"):
            Guest().add(disk, sector_size=1000)
        assert descriptors() == before

    def test_no_permission(self, disk: Path) -> None:
        disk.chmod(0)
        if os.geteuid() == 0:
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    os.seteuid(65534)
                    Guest().add(disk)
                except AccessRefused as error:
                    code = 0 if "Permission denied" in str(error) else 2
                except BaseException:
                    code = 3
                os._exit(code)
            disk.parent.chmod(0o755)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        else:
            self.check(disk, AccessRefused, "Permission denied")

    def test_second_image_of_several(self, disk: Path, tmp_path: Path) -> None:
        before = descriptors()
        with pytest.raises(NotFound):
            open_guest(disk, tmp_path / "none")
        assert descriptors() == before

    def test_other_disks_stay(self, disk: Path, tmp_path: Path) -> None:
        with open_guest(disk) as guest:
            with pytest.raises(NotFound):
                guest.add(tmp_path / "none")
            assert guest.device("sda1").open().read(1080, 2) == b"\x53\xef"


def test_closed_guest_reads_nothing_and_holds_nothing(disk: Path) -> None:
    before = descriptors()
    guest = open_guest(disk)
    source = guest.device("sda1").open()
    guest.close()
    guest.close()
    assert descriptors() == before
    with pytest.raises(SourceError):
        source.read(0, 512)


def test_image_that_changes_while_open_is_noticed(disk: Path) -> None:
    with open_guest(disk) as guest:
        assert guest.problems() == []
        os.utime(disk, ns=(1, 1))
        problems = guest.problems()
        assert len(problems) == 1
        assert "has changed since it was opened" in problems[0].message


def test_huge_sparse_disk_opens_at_once(tmp_path: Path, disk: Path) -> None:
    path = mbr(tmp_path / "huge", 2 << 40, (0x83, 1, 2_000_000, "ext4"))
    open_guest(disk).close()  # imports
    start = time.process_time()
    with open_guest(path) as guest:
        assert guest.filesystems() == [("/dev/sda1", "ext4")]
    assert time.process_time() - start < 0.25


def test_disk_letters() -> None:
    assert [letters(index) for index in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]
    assert all(letters_index(letters(index)) == index for index in range(0, 20000, 7))
    assert canonical_device_name("/dev/vdab12") == "/dev/sdab12"
    assert canonical_device_name("/dev/mapper/x") == "/dev/mapper/x"
