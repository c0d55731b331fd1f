"""GPT tables: verified before they are believed, the backup used when the primary is damaged, and hostile ones."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import time
import uuid
import zlib
from pathlib import Path

import pytest

from guestkit import registry
from guestkit.errors import SourceError
from guestkit.limits import Limits
from guestkit.source import BytesSource, FileSource, Slice
from guestkit.volume import gpt
from guestkit.volume.base import Table

LINUX = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
ESP = uuid.UUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
DISK = uuid.UUID("11111111-2222-3333-4444-555555555555")


def entry(type: uuid.UUID, number: int, first: int, last: int, name: str = "", attributes: int = 0) -> bytes:
    identity = uuid.UUID(int=number)
    raw = name.encode("utf-16-le").ljust(72, b"\0")
    return type.bytes_le + identity.bytes_le + struct.pack("<QQQ", first, last, attributes) + raw


PARTS = [entry(ESP, 1, 64, 163, "EFI \u00e9\U0001f600", 1), bytes(128), entry(LINUX, 3, 200, 1199, "root", 1 << 60)]


def header(lba: int, alternate: int, entries_lba: int, entries: bytes, last: int, **change: int) -> bytes:
    fields = {"size": 92, "count": 128, "width": 128, "here": lba, "crc": zlib.crc32(entries), **change}
    raw = bytearray(92)
    struct.pack_into("<8sIIII", raw, 0, b"EFI PART", 0x10000, fields["size"], 0, 0)
    struct.pack_into("<QQQQ16s", raw, 24, fields["here"], alternate, 34, last - 33, DISK.bytes_le)
    struct.pack_into("<QIII", raw, 72, entries_lba, fields["count"], fields["width"], fields["crc"])
    struct.pack_into("<I", raw, 16, zlib.crc32(raw))
    return bytes(raw)


def image(parts: list[bytes] = PARTS, size: int = 4096, unit: int = 512, width: int = 128, **change: int) -> bytearray:
    raw = bytearray(size * unit)
    raw[446:462] = struct.pack("<BxxxBxxxII", 0, 0xEE, 1, size - 1)
    raw[510:512] = b"\x55\xaa"
    count = change.get("count", 128)
    entries = b"".join(part.ljust(width, b"\0") for part in parts).ljust(min(count, 1024) * width, b"\0")
    change = {"width": width, **change}
    backup = size - 1 - -(-len(entries) // unit)
    for lba, alternate, at in ((1, size - 1, 2), (size - 1, 1, backup)):
        raw[lba * unit : lba * unit + 92] = header(lba, alternate, at, entries, size - 1, **change)
        raw[at * unit : at * unit + len(entries)] = entries
    return raw


def read(raw: bytes | bytearray, unit: int = 512) -> Table | None:
    source = BytesSource(bytes(raw))
    source.sector_size = unit
    return gpt.open(source, Limits())


def table(raw: bytes | bytearray, unit: int = 512) -> Table:
    found = read(raw, unit)
    assert found is not None
    return found


def test_every_field_of_a_partition() -> None:
    found = table(image())
    assert (found.scheme, found.uuid, found.sector_size, found.problems) == ("gpt", str(DISK), 512, ())
    first, third = found.volumes
    assert (first.number, first.start, first.size) == (1, 64 * 512, 100 * 512)
    assert (first.type_id, first.label, first.attributes) == (str(ESP).upper(), "EFI \u00e9\U0001f600", 1)
    assert (third.number, third.name, third.uuid) == (3, "3", str(uuid.UUID(int=3)))
    assert (third.start, third.size, third.attributes) == (200 * 512, 1000 * 512, 1 << 60)


def test_partition_gives_the_bytes_where_it_stands() -> None:
    raw = image()
    raw[200 * 512 : 200 * 512 + 4] = b"root"
    assert table(raw).volumes[1].open().read(0, 4) == b"root"


@pytest.mark.parametrize("unit", [512, 4096])
@pytest.mark.parametrize("told", [512, 4096])
def test_both_sector_sizes_are_found_whatever_the_image_says(unit: int, told: int) -> None:
    found = table(image(unit=unit), told)
    assert (found.sector_size, found.problems) == (unit, ())
    assert found.volumes[0].open().sector_size == unit
    assert found.volumes[0].start == 64 * unit


@pytest.mark.parametrize("at", [512, 512 + 60, 512 + 88, 1024, 1024 + 300])
def test_backup_is_used_when_the_primary_is_damaged(at: int) -> None:
    raw = image()
    raw[at] ^= 1
    found = table(raw)
    assert [each.number for each in found.volumes] == [1, 3]
    assert len(found.problems) == 1
    assert "its backup is used" in found.problems[0]


def test_backup_of_a_disk_that_has_grown_is_found_where_the_primary_says() -> None:
    raw = image() + bytes(1 << 20)
    assert table(raw).problems == ()
    raw[1024] ^= 1
    found = table(raw)
    assert [each.number for each in found.volumes] == [1, 3]
    assert "its backup is used" in found.problems[0]


def test_damaged_or_missing_backup_is_reported() -> None:
    raw = image()
    raw[-512] ^= 1
    assert "the backup GPT is damaged" in table(raw).problems[0]
    other = image([entry(LINUX, 9, 64, 99)])
    mixed = image()
    mixed[2048 * 512 :] = other[2048 * 512 :]
    assert "differs" in table(mixed).problems[0]
    assert [each.number for each in table(mixed).volumes] == [1, 3]


def test_gpt_that_cannot_be_believed_is_a_table_without_partitions() -> None:
    raw = image()
    raw[1024] ^= 1
    raw[-33 * 512] ^= 1
    found = table(raw)
    assert found.volumes == ()
    assert "cannot be read" in found.problems[0]


def test_disk_without_protective_mbr() -> None:
    raw = image()
    raw[446:512] = bytes(66)
    found = table(raw)  # wiped: the GPT is intact
    assert [each.number for each in found.volumes] == [1, 3]
    assert found.problems == ("there is no protective MBR",)
    raw[450], raw[458] = 0x83, 9
    raw[510:512] = b"\x55\xaa"
    assert read(raw) is None  # a plain MBR is what the kernel believes
    assert read(bytes(1 << 20)) is None


def test_hybrid_mbr_does_not_hide_the_gpt() -> None:
    raw = image()
    raw[462:478] = struct.pack("<BxxxBxxxII", 0x80, 0x83, 200, 1000)
    found = registry.partition_table(BytesSource(bytes(raw)), Limits())
    assert found is not None
    assert (found.scheme, len(found.volumes)) == ("gpt", 2)


@pytest.mark.parametrize("width", [128, 256, 512, 4096])
def test_entries_may_be_larger(width: int) -> None:
    assert [each.label for each in table(image(width=width)).volumes] == ["EFI \u00e9\U0001f600", "root"]


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0xFFFFFFFF},
        {"count": 1025},
        {"width": 0},
        {"width": 64},
        {"width": 192},
        {"width": 8192},
        {"size": 91},
        {"size": 513},
        {"size": 0xFFFFFFFF},
        {"here": 7},
        {"crc": 1},
    ],
)
def test_header_beyond_the_bounds_is_refused_at_once(change: dict[str, int]) -> None:
    raw = image()
    entries = bytes(raw[1024 : 1024 + 128 * 128])
    for lba, alternate, at in ((1, 4095, 2), (4095, 1, 4063)):
        raw[lba * 512 : lba * 512 + 92] = header(lba, alternate, at, entries, 4095, **change)
    start = time.process_time()
    found = table(raw)
    assert time.process_time() - start < 0.1
    assert (found.volumes, len(found.problems)) == ((), 1)


def test_partition_beyond_the_disk_is_listed_and_only_the_missing_part_fails() -> None:
    raw = image([entry(LINUX, 1, 4000, 9000)])
    raw[4000 * 512] = 7
    found = table(raw)
    assert len(found.problems) == 1
    source = found.volumes[0].open()
    assert (source.size, source.read(0, 1)) == (5001 * 512, b"\7")
    with pytest.raises(SourceError):
        source.read(96 * 512, 512)
    whole = BytesSource(bytes(image()))
    cut = gpt.open(Slice(whole, 0, 600 * 512), Limits())
    assert cut is not None
    assert [each.number for each in cut.volumes] == [1, 3]
    assert len(cut.problems) == 2  # the backup and the partition


def test_impossible_places_are_left_out_and_reported() -> None:
    parts = [
        entry(LINUX, 1, 100, 99),
        entry(LINUX, 2, 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFFFFFFFFFF),
        entry(LINUX, 3, 0, 0xFFFFFFFFFFFFFFFF),
        entry(LINUX, 4, 100, 100),
        entry(LINUX, 5, 100, 200),
    ]
    found = table(image(parts))
    assert [each.number for each in found.volumes] == [4, 5]
    assert len(found.problems) == 3


def test_name_with_a_lone_surrogate_is_kept() -> None:
    part = bytearray(entry(LINUX, 1, 64, 99))
    part[56:60] = b"a\0\0\xd8"
    assert table(image([bytes(part)])).volumes[0].label == "a\ud800"


@pytest.mark.tool("sfdisk")
def test_numbers_places_names_and_identities_are_those_of_sfdisk(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(16 << 20))
    script = 'label: gpt\nsize=1M,type=U,name="ESP one"\nsize=2M,type=S\n'
    script += 'start=20480,size=3M,type=L,attrs="RequiredPartition,GUID:63"\n'
    subprocess.run(["sfdisk", "-q", str(path)], input=script, text=True, check=True)
    said = json.loads(subprocess.check_output(["sfdisk", "-J", str(path)]))["partitiontable"]
    source = FileSource.open(path)
    found = registry.partition_table(source, Limits())
    source.close()
    assert found is not None
    assert (found.uuid.upper(), found.problems) == (said["id"], ())
    ours = [
        (each.start // 512, each.size // 512, each.type_id, each.uuid.upper(), each.label) for each in found.volumes
    ]
    theirs = [
        (each["start"], each["size"], each["type"], each["uuid"], each.get("name", "")) for each in said["partitions"]
    ]
    assert ours == theirs
    assert found.volumes[2].attributes == 1 | 1 << 63


@pytest.mark.tool("sgdisk")
def test_what_sgdisk_writes_with_few_entries_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(16 << 20))
    arguments = ["-n", "2:2048:4095", "-c", "2:two", "-n", "7:8192:9215", "-t", "7:8200", "-S", "256"]
    subprocess.run(["sgdisk", *arguments, str(path)], check=True, stdout=subprocess.DEVNULL)
    found = registry.partition_table(BytesSource(path.read_bytes()), Limits())
    assert found is not None
    assert [(each.number, each.start, each.size, each.label) for each in found.volumes] == [
        (2, 1 << 20, 1 << 20, "two"),
        (7, 4 << 20, 1 << 19, ""),
    ]
    assert found.problems == ()


def test_mutants_give_a_table_or_none_and_never_a_wrong_one() -> None:
    rng = random.Random(4)
    raw = bytes(image(size=256, parts=[entry(ESP, 1, 40, 60, "one"), entry(LINUX, 2, 61, 200, "two")]))
    right = [(each.number, each.start, each.size, each.uuid, each.label) for each in table(raw).volumes]
    good = 0
    for _ in range(2500):
        mutant = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 6))):
            base = rng.choice((446, 512, 512, 1024, 1024, 255 * 512, 223 * 512))
            at = base + rng.randrange(92 if base != 446 else 66)
            width = rng.choice((1, 4, 8))
            mutant[at : at + width] = rng.choice((rng.randbytes(width), b"\xff" * width, bytes(width)))
        found = read(mutant[: rng.choice((len(raw), len(raw), len(raw), rng.randrange(len(raw))))])
        if found is not None and found.volumes:
            good += 1
            assert [(each.number, each.start, each.size, each.uuid, each.label) for each in found.volumes] == right
    assert good > 1000
