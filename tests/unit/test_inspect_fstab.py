"""fstab: its syntax, and every spelling of a device."""

from __future__ import annotations

import time

import pytest
from memoryfs import MemoryFS, MemoryGuest, Part

from guestkit.inspect.fstab import DeviceIndex, parse_fstab
from guestkit.inspect.system import FstabEntry


def parse(text: str) -> list[FstabEntry]:
    return parse_fstab(text.encode())


def test_fields_comments_and_blank_lines() -> None:
    text = "# /etc/fstab\n\n \t\n/dev/sda1 / ext4 rw,noatime 0 1\n/dev/sda2\t/home\n  # x y\nalone\n"
    assert parse(text) == [
        FstabEntry("/dev/sda1", "/", "ext4", ("rw", "noatime")),
        FstabEntry("/dev/sda2", "/home", "auto", ("defaults",)),
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/a\\040b", "/a b"),
        ("/a\\011b\\012c\\134d\\043e", "/a\tb\nc\\d#e"),
        ('"/quoted"', "/quoted"),
        ("//usr//local/", "/usr/local"),
        ("/./x/.", "/x"),
        ("/", "/"),
        ("/\\303\\244", "/\u00e4"),
        ("/\\377", "/\udcff"),
        ("/a\\9", "/a\\9"),
    ],
)
def test_mount_points_lose_their_escapes(written: str, meant: str) -> None:
    assert parse(f"/dev/sda1 {written} ext4 defaults 0 0")[0].mountpoint == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [("UUID=ab", "UUID=ab"), ('UUID="ab"', "UUID=ab"), ("LABEL='a'", "LABEL=a"), ("label=a\\040b", "LABEL=a b")],
)
def test_tags_lose_their_quotes(written: str, meant: str) -> None:
    assert parse(f"{written} / ext4")[0].spec == meant


def test_number_of_lines_is_bounded_and_parsing_is_linear() -> None:
    start = time.process_time()
    entries = parse("/dev/sda1 /m ext4 defaults 0 0\n" * 100_000)
    assert len(entries) == 10_000
    assert time.process_time() - start < 1


def empty() -> MemoryFS:
    return MemoryFS({})


@pytest.fixture
def index() -> DeviceIndex:
    return DeviceIndex(
        MemoryGuest(
            [
                Part(empty(), uuid="1234-ABCD", label="EFI", partuuid="AAAA-01", partlabel="EFI system"),
                Part(empty(), uuid="aa11-bb22", label="root fs", partuuid="BBBB-02"),
            ],
            [Part(empty(), uuid="AA11-BB22", label="twin"), Part(None), Part(empty(), uuid="third")],
            Part(empty(), uuid="bare"),
        )
    )


@pytest.mark.parametrize(
    ("spec", "device"),
    [
        ("UUID=1234-ABCD", "/dev/sda1"),
        ("UUID=1234-abcd", "/dev/sda1"),
        ("LABEL=EFI", "/dev/sda1"),
        ("LABEL=efi", ""),  # labels keep their case
        ("LABEL=root fs", "/dev/sda2"),
        ("PARTUUID=aaaa-01", "/dev/sda1"),
        ("PARTLABEL=EFI system", "/dev/sda1"),
        ("/dev/disk/by-uuid/1234-ABCD", "/dev/sda1"),
        ("/dev/disk/by-label/root\\x20fs", "/dev/sda2"),
        ("/dev/disk/by-partuuid/bbbb-02", "/dev/sda2"),
        ("/dev/disk/by-partlabel/EFI\\x20system", "/dev/sda1"),
        ("/dev/disk/by-id/ata-VBOX_HARDDISK-part3", "/dev/sdb3"),  # only one disk has a third partition
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part3", "/dev/sdb3"),
        ("/dev/disk/by-id/ata-VBOX_HARDDISK-part1", ""),  # two have a first
        ("/dev/disk/by-id/ata-VBOX_HARDDISK", ""),
        ("/dev/sda1", "/dev/sda1"),
        ("/dev/vda1", "/dev/sda1"),
        ("/dev/xvdb3", "/dev/sdb3"),
        ("/dev/hdc", "/dev/sdc"),
        ("/dev/nvme0n1p2", "/dev/sda2"),
        ("/dev/nvme1n1p3", "/dev/sdb3"),
        ("/dev/mmcblk0p1", "/dev/sda1"),
        ("/dev/cciss/c0d1p3", "/dev/sdb3"),
        ("/dev/root", "/dev/sda2"),
        ("UUID=bare", "/dev/sdc"),
        ("UUID=nothing", ""),
        ("/dev/sdz9", ""),
        ("/dev/mapper/vg-root", ""),
        ("/dev/mapper/control", ""),
        ("/dev/", ""),
        ("nfs:/export", ""),
        ("", ""),
    ],
)
def test_every_spelling_of_a_device(index: DeviceIndex, spec: str, device: str) -> None:
    assert index.find(spec, "/dev/sda2") == device


def test_of_two_disks_with_one_uuid_the_root_s_own_is_meant(index: DeviceIndex) -> None:
    assert index.find("UUID=aa11-bb22", "/dev/sda2") == "/dev/sda2"
    assert index.find("UUID=aa11-bb22", "/dev/sdb3") == "/dev/sdb1"


def test_single_disk_by_id_needs_no_number() -> None:
    index = DeviceIndex(MemoryGuest(Part(empty())))
    assert index.find("/dev/disk/by-id/virtio-serial") == "/dev/sda"


def test_mbr_partuuid_is_the_disk_s_identity_and_the_number() -> None:
    index = DeviceIndex(MemoryGuest([Part(empty()), Part(empty())], scheme="msdos", table_uuid="DEADbeef"))
    assert index.find("PARTUUID=deadbeef-02") == "/dev/sda2"
    assert index.find("PARTUUID=DEADBEEF-01") == "/dev/sda1"
