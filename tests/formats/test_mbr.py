"""MBR tables: the kernel's numbers, chains of logical partitions, boot sectors that are none, and hostile ones."""

from __future__ import annotations

import json
import lzma
import random
import struct
import subprocess
from pathlib import Path

import pytest

from guestkit import registry
from guestkit.errors import SourceError
from guestkit.limits import Limits
from guestkit.source import BytesSource, FileSource
from guestkit.volume import mbr
from guestkit.volume.base import Table

Entry = tuple[int, int, int, int]  # status, type, start, sectors


def sector(*entries: Entry, signature: int = 0) -> bytes:
    raw = bytearray(512)
    struct.pack_into("<I", raw, 440, signature)
    for slot, (status, type, start, size) in enumerate(entries):
        struct.pack_into("<BxxxBxxxII", raw, 446 + 16 * slot, status, type, start, size)
    raw[510:512] = b"\x55\xaa"
    return bytes(raw)


def disk(sectors: dict[int, bytes], size: int = 4096, unit: int = 512) -> BytesSource:
    raw = bytearray(size * unit)
    for at, data in sectors.items():
        raw[at * unit : at * unit + len(data)] = data
    source = BytesSource(bytes(raw))
    source.sector_size = unit
    return source


def table(source: BytesSource) -> Table:
    found = mbr.open(source, Limits())
    assert found is not None
    return found


def shape(found: Table) -> list[tuple[int, int, int, str]]:
    return [(each.number, each.start, each.size, each.type_id) for each in found.volumes]


CHAIN = {
    0: sector((0x80, 0x83, 64, 100), (0, 0x05, 1000, 2000), signature=0x1234ABCD),
    1000: sector((0, 0x83, 8, 90), (0, 0x05, 500, 600)),
    1500: sector((0, 0x82, 8, 50), (0, 0x05, 1200, 700)),
    2200: sector((0, 0x83, 16, 40)),
}


def test_logical_partitions_count_from_their_own_ebr_and_links_from_the_first() -> None:
    found = table(disk(CHAIN))
    assert shape(found) == [
        (1, 64 * 512, 100 * 512, "83"),
        (2, 1000 * 512, 2000 * 512, "05"),
        (5, 1008 * 512, 90 * 512, "83"),
        (6, 1508 * 512, 50 * 512, "82"),
        (7, 2216 * 512, 40 * 512, "83"),
    ]
    assert found.scheme == "msdos"
    assert found.uuid == "1234abcd"
    assert found.problems == ()
    assert [each.uuid for each in found.volumes][::4] == ["1234abcd-01", "1234abcd-07"]
    assert [each.role for each in found.volumes] == ["", "extended", "", "", ""]
    assert [each.attributes for each in found.volumes] == [0x80, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", [0x05, 0x0F, 0x85])
def test_every_kind_of_extended_partition_is_followed(kind: int) -> None:
    found = table(disk({0: sector((0, kind, 100, 500)), 100: sector((0, 7, 2, 9))}))
    assert [each.number for each in found.volumes] == [1, 5]
    assert found.volumes[0].role == "extended"


def test_partition_gives_the_bytes_where_it_stands() -> None:
    raw = {0: sector((0, 0x83, 64, 2)), 64: b"first" + bytes(507), 65: b"second"}
    source = table(disk(raw)).volumes[0].open()
    assert (source.size, source.read(0, 5), source.read(512, 6)) == (1024, b"first", b"second")


def test_chain_that_leads_back_ends_and_is_reported() -> None:
    loop = dict(CHAIN)
    loop[2200] = sector((0, 0x83, 16, 40), (0, 0x05, 500, 600))
    found = table(disk(loop))
    assert [each.number for each in found.volumes] == [1, 2, 5, 6, 7]
    assert found.problems == ("the chain of logical partitions leads back to sector 1500",)
    itself = table(disk({0: sector((0, 5, 100, 900)), 100: sector((0, 0x83, 1, 1), (0, 5, 0, 900))}))
    assert [each.number for each in itself.volumes] == [1, 5]
    assert len(itself.problems) == 1


def test_two_extended_partitions_that_share_a_chain_do_not_list_it_twice() -> None:
    found = table(disk({0: sector((0, 5, 100, 900), (0, 15, 100, 900)), 100: sector((0, 0x83, 1, 1))}))
    assert [each.number for each in found.volumes] == [1, 2, 5]


def test_broken_chain_keeps_what_came_before() -> None:
    broken = dict(CHAIN)
    del broken[2200]
    found = table(disk(broken))
    assert [each.number for each in found.volumes] == [1, 2, 5, 6]
    assert found.problems == ("the chain of logical partitions is broken at sector 2200",)


def test_logical_partitions_are_bounded() -> None:
    count = 400
    sectors = {0: sector((0, 5, 100, 8 * count))}
    for index in range(count):
        sectors[100 + 8 * index] = sector((0, 0x83, 1, 4), (0, 5, 8 * index + 8, 8))
    found = table(disk(sectors, 100 + 8 * count + 8))
    assert len(found.volumes) == 1 + mbr.MAX_LOGICAL
    assert found.problems == ("more than 256 logical partitions: the rest is left out",)
    empty = {at: sector((0, 5, at - 100 + 1, 8)) for at in range(100, 400)}
    found = table(disk({0: sector((0, 5, 100, 900)), **empty}))
    assert len(found.problems) == 1


def test_empty_links_and_empty_entries_are_skipped() -> None:
    found = table(
        disk(
            {
                0: sector((0, 0x83, 5, 0), (0, 5, 100, 900)),
                100: sector((0, 0, 0, 0), (0, 5, 50, 9)),
                150: sector((0, 7, 1, 3)),
            }
        )
    )
    assert shape(found) == [(2, 51200, 460800, "05"), (5, 151 * 512, 3 * 512, "07")]


def test_partition_beyond_the_disk_is_listed_and_only_the_missing_part_fails() -> None:
    found = table(disk({0: sector((0, 0x83, 4000, 200), (0, 0x83, 9000, 10)), 4000: b"here"}))
    assert [each.number for each in found.volumes] == [1, 2]
    assert len(found.problems) == 2
    source = found.volumes[0].open()
    assert source.read(0, 4) == b"here"
    with pytest.raises(SourceError):
        source.read(96 * 512, 512)


def test_large_sectors_scale_every_place() -> None:
    found = table(disk(CHAIN, 4096, 4096))
    assert found.sector_size == 4096
    assert shape(found)[-1] == (7, 2216 * 4096, 40 * 4096, "83")
    assert found.volumes[0].open().sector_size == 4096


def test_large_sectors_are_tried_when_nothing_stands_where_small_ones_say() -> None:
    swap = bytearray(16384)
    swap[1024:1032] = struct.pack("<II", 1, 3)
    swap[4086:4096] = b"SWAPSPACE2"
    raw = bytearray(8 << 20)
    raw[:512] = sector((0, 0x82, 256, 4))
    raw[256 * 4096 : 256 * 4096 + 16384] = swap
    source = BytesSource(bytes(raw))
    found = registry.partition_table(source, Limits())
    assert found is not None
    assert found.sector_size == 4096
    assert registry.detect(found.volumes[0].open()).type == "swap"


def test_sector_that_is_no_mbr_is_none() -> None:
    assert mbr.open(disk({}), Limits()) is None
    assert mbr.open(disk({0: sector((0x41, 0x83, 1, 5))}), Limits()) is None  # a status that no table has
    assert mbr.open(BytesSource(b"\x55\xaa"), Limits()) is None


@pytest.mark.parametrize("name", ["fat12", "fat16", "fat32", "ntfs", "exfat", "bitlocker", "refs"])
def test_boot_sector_of_a_filesystem_is_not_a_table(name: str) -> None:
    data = Path(__file__).parent.parent / "data" / "detection"
    entry = json.loads((data / "manifest.json").read_text())[name]
    kept = lzma.decompress((data / f"{name}.xz").read_bytes())
    raw = bytearray(entry["size"])
    at = 0
    for first, count in entry["sectors"]:
        raw[first * 512 : (first + count) * 512] = kept[at : at + count * 512]
        at += count * 512
    raw[446:462] = sector((0x80, 0x0C, 2048, 100))[446:462]
    raw[510:512] = b"\x55\xaa"
    source = BytesSource(bytes(raw))
    assert registry.detect(source).type == entry["blkid"]["TYPE"]
    assert registry.partition_table(source, Limits()) is None


def test_filesystem_on_the_whole_disk_wins_over_an_implausible_table() -> None:
    data = Path(__file__).parent.parent / "data" / "detection"
    kept = lzma.decompress((data / "ext4.xz").read_bytes())
    raw = bytearray(16 << 20)
    raw[1024 : 1024 + 1024] = kept[:1024]
    for boot, partitions in (
        (sector(), None),
        (sector((0x80, 0x83, 5, 0xFFFFFFF0)), None),
        (sector((0x80, 0x83, 2048, 2048)), 1),  # as the kernel has it
    ):
        raw[:512] = boot
        found = registry.partition_table(BytesSource(bytes(raw)), Limits())
        assert (found and len(found.volumes)) == partitions


def test_hybrid_iso_image_shows_its_partitions() -> None:
    data = Path(__file__).parent.parent / "data" / "detection"
    entry = json.loads((data / "manifest.json").read_text())["iso9660"]
    kept = lzma.decompress((data / "iso9660.xz").read_bytes())
    raw = bytearray(entry["size"])
    for first, count in entry["sectors"]:
        raw[first * 512 : (first + count) * 512], kept = kept[: count * 512], kept[count * 512 :]
    raw[:512] = sector((0x80, 0, 0, 100), (0x80, 0x17, 0, len(raw) // 512), (0, 0xEF, 64, 100))
    source = BytesSource(bytes(raw))
    assert registry.detect(source).type == "iso9660"
    found = registry.partition_table(source, Limits())
    assert found is not None
    assert [(each.number, each.start) for each in found.volumes] == [(1, 0), (2, 0), (3, 32768)]
    assert registry.detect(found.volumes[1].open()).type == "iso9660"


def test_table_without_partitions_is_a_table() -> None:
    found = registry.partition_table(disk({0: sector(signature=5)}), Limits())
    assert found is not None
    assert (found.scheme, found.volumes, found.uuid) == ("msdos", (), "00000005")


def test_table_of_another_kind_is_named_and_not_silently_empty() -> None:
    found = registry.partition_table(disk({1: b"PM\0\0" + bytes(508)}), Limits())
    assert found is not None
    assert found.scheme == "mac"
    assert found.problems == ("mac partition tables are not read",)


@pytest.mark.tool("sfdisk")
def test_numbers_places_and_identities_are_those_of_sfdisk(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(64 << 20))
    script = "label: dos\nsize=4M,type=83,bootable\nsize=20M,type=f\nsize=2M,type=c\n"
    script += "".join("size=1M,type=82\n" for _ in range(9))
    subprocess.run(["sfdisk", "-q", str(image)], input=script, text=True, check=True)
    said = json.loads(subprocess.check_output(["sfdisk", "-J", str(image)]))["partitiontable"]
    source = FileSource.open(image)
    found = registry.partition_table(source, Limits())
    source.close()
    assert found is not None
    assert f"0x{found.uuid}" == said["id"]
    assert found.problems == ()
    ours = [(f"{image}{each.number}", each.start // 512, each.size // 512, each.type_id) for each in found.volumes]
    assert ours == [(each["node"], each["start"], each["size"], each["type"].zfill(2)) for each in said["partitions"]]
    assert [each.attributes == 0x80 for each in found.volumes] == [
        each.get("bootable", False) for each in said["partitions"]
    ]


@pytest.mark.tool("partx")
def test_numbers_and_places_are_those_of_libblkid(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(disk(CHAIN).data)
    said = subprocess.check_output(["partx", "-b", "-g", "-r", "-o", "NR,START,SIZE,UUID", str(image)], text=True)
    ours = [f"{each.number} {each.start // 512} {each.size} {each.uuid}" for each in table(disk(CHAIN)).volumes]
    assert [line.strip() for line in said.splitlines()] == ours


def test_mutants_give_a_table_or_none() -> None:
    rng = random.Random(3)
    raw = disk(CHAIN).data
    tables = 0
    for _ in range(2500):
        mutant = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.choice((0, 0, 1000, 1500, 2200)) * 512 + rng.choice((rng.randrange(440, 512), rng.randrange(512)))
            width = rng.choice((1, 4))
            mutant[at : at + width] = rng.choice((rng.randbytes(width), b"\xff" * width, bytes(width)))
        source = BytesSource(bytes(mutant[: rng.choice((len(raw), len(raw), rng.randrange(len(raw))))]))
        found = mbr.open(source, Limits())
        if found is not None:
            tables += 1
            for volume in found.volumes:
                assert volume.open().size == volume.size
    assert tables > 1200
