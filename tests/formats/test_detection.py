"""Detection against blkid's own answers, recorded by scripts/make-detection-fixtures, and against hostile bytes."""

from __future__ import annotations

import json
import lzma
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestkit import registry
from guestkit.errors import Corrupt, GuestkitError, SourceError
from guestkit.limits import Limits
from guestkit.probe import Detected, Window
from guestkit.source import BytesSource, Concat, Extent, Leaf, Overlay, Patch, Slice, Source, ZeroSource

DATA = Path(__file__).parent.parent / "data" / "detection"
MANIFEST = json.loads((DATA / "manifest.json").read_text())
MIB = 1 << 20


class Sectors(Leaf):
    """A sparse image of a few sectors; counts what is read."""

    def __init__(self, size: int, sectors: dict[int, bytes]) -> None:
        self.size = size
        self.sectors = sectors
        self.bytes_read = 0

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        self.bytes_read += len(buf)
        buf[:] = bytes(len(buf))
        first, last = offset // 512, (offset + len(buf) - 1) // 512
        wanted = range(first, last + 1)
        for sector in sorted(self.sectors.keys() & set(wanted)) if len(wanted) < len(self.sectors) else self.sectors:
            if sector in wanted:
                at = sector * 512 - offset
                begin, end = max(0, at), min(len(buf), at + 512)
                buf[begin:end] = self.sectors[sector][begin - at : end - at]


def fixture(name: str) -> Sectors:
    entry = MANIFEST[name]
    raw = lzma.decompress((DATA / f"{name}.xz").read_bytes())
    places = [sector for first, count in entry["sectors"] for sector in range(first, first + count)]
    return Sectors(entry["size"], {place: raw[at * 512 : at * 512 + 512] for at, place in enumerate(places)})


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_type_label_and_uuid_are_those_of_blkid(name: str) -> None:
    said = MANIFEST[name]["blkid"]
    found = registry.detect(fixture(name))
    assert found.type == said["TYPE"]
    assert found.label == said.get("LABEL", "")
    assert found.uuid == said.get("UUID", "")
    assert found.version == said.get("VERSION", "")
    if "BLOCK_SIZE" in said:
        assert found.block_size == int(said["BLOCK_SIZE"])
    if "UUID_SUB" in said:
        assert found.member == said["UUID_SUB"]
    if found.type != "zfs_member":  # a filesystem in older versions of blkid, a member in newer ones
        assert found.usage == said["USAGE"]


def test_every_type_that_blkid_names_in_the_fixtures_is_in_the_table() -> None:
    assert {each["blkid"]["TYPE"] for each in MANIFEST.values()} <= {each.name for each in registry.FORMATS}


def test_what_is_zero_or_random_is_nothing() -> None:
    assert registry.detect(ZeroSource(64 * MIB)) == Detected()
    assert registry.detect(BytesSource(random.Random(1).randbytes(MIB))) == Detected()
    assert registry.detect(BytesSource(b"")) == Detected()


@pytest.mark.parametrize(
    "name", ["ext4", "xfs", "btrfs", "btrfs-sha256", "lvm2", "md-1.2", "f2fs-checksum", "stratis", "apfs", "erofs"]
)
def test_superblock_with_a_wrong_checksum_is_not_believed(name: str) -> None:
    source = fixture(name)
    label = {"ext4": 2, "xfs": 0, "lvm2": 1, "md-1.2": 8, "f2fs-checksum": 2, "stratis": 1, "apfs": 0, "erofs": 2}.get(
        name, 128
    )
    at = {"erofs": 60, "f2fs-checksum": 200, "ext4": 200, "stratis": 60, "lvm2": 100, "apfs": 300, "xfs": 150}.get(
        name, 100
    )
    changed = bytearray(source.sectors[label])
    changed[at] ^= 0x10
    source.sectors[label] = bytes(changed)
    assert registry.detect(source) == Detected()


def test_btrfs_is_told_by_its_mirror_when_the_first_superblock_is_gone() -> None:
    whole = fixture("btrfs")
    mirror = bytearray(b"".join(whole.sectors.get(128 + at, bytes(512)) for at in range(8)))
    struct.pack_into("<Q", mirror, 48, 64 * MIB)
    from guestkit.checksum import crc32c

    mirror[:4] = (crc32c(mirror[32:]) ^ 0xFFFFFFFF).to_bytes(4, "little")
    sectors = {131072 + at: bytes(mirror[at * 512 : at * 512 + 512]) for at in range(8)}
    assert registry.detect(Sectors(whole.size, sectors)).label == "blab"


def laid_over(*names: str, size: int = 70 * MIB) -> Source:
    """Several formats on one device."""
    sectors: dict[int, bytes] = {}
    for name in names:
        part = fixture(name)
        shift = (size - part.size) // 512
        tail = part.size // 512 - 256
        sectors.update({place + shift if place > tail else place: data for place, data in part.sectors.items()})
    return Sectors(size, sectors)


def test_raid_member_at_the_end_wins_over_the_filesystem_at_the_start() -> None:
    found = list(registry.candidates(laid_over("ext4", "md-0.90", size=32 * MIB)))
    assert [each.type for each in found] == ["linux_raid_member"]
    assert registry.detect(laid_over("xfs", "isw", size=320 * MIB)).type == "isw_raid_member"


def test_tiny_device_holds_nothing_and_a_floppy_no_array() -> None:
    whole = fixture("md-1.2")
    assert registry.detect(Slice(whole, 0, 2 * MIB)).type == "linux_raid_member"
    assert registry.detect(Slice(whole, 0, 1440 * 1024)).type == ""
    assert registry.detect(BytesSource(b"XFSB" + bytes(1020))).type == ""
    assert registry.detect(BytesSource(b"LUKS\xba\xbe\0\1" + bytes(1017))).type == "crypto_LUKS"


def test_stale_labels_of_zfs_lose_to_a_filesystem_made_since() -> None:
    source = laid_over("ext4", "zfs", size=MANIFEST["zfs"]["size"])
    assert [each.type for each in registry.candidates(source)] == ["ext4", "zfs_member"]


def test_luks_is_told_by_its_second_header() -> None:
    source = fixture("luks2")
    raw = bytearray(source.sectors[0])
    raw[:6] = b"SKUL\xba\xbe"
    struct.pack_into(">Q", raw, 256, 0x4000)
    second = Sectors(source.size, {32: bytes(raw)})
    found = registry.detect(second)
    assert (found.type, found.label) == ("crypto_LUKS", "lab")
    source.sectors[0] = b"\0" * 512
    assert registry.detect(Sectors(source.size, {32: source.sectors[0]})).type == ""


def test_bcachefs_is_told_and_named() -> None:
    raw = bytearray(8192)
    magic = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
    uuid = bytes(range(16))
    struct.pack_into("<HH4x16s16s16s32sQQHBBI", raw, 4112, 1, 1, magic, uuid, uuid[::-1], b"label", 8, 1, 8, 0, 1, 0)
    found = registry.detect(BytesSource(bytes(raw)))
    assert (found.type, found.label, found.block_size) == ("bcachefs", "label", 4096)
    assert found.uuid == "0f0e0d0c-0b0a-0908-0706-050403020100"


def test_only_an_error_of_the_host_fails_detection() -> None:
    class Broken(ZeroSource):
        def __init__(self, error: GuestkitError) -> None:
            super().__init__(MIB)
            self.error = error

        def extents(self, offset: int, length: int) -> Iterator[Extent]:
            raise self.error

    with pytest.raises(SourceError):
        registry.detect(Broken(SourceError("the disk is gone")))
    assert registry.detect(Broken(Corrupt("an L2 table"))) == Detected()


def test_filesystem_on_a_truncated_disk_is_told_by_what_is_there() -> None:
    whole = fixture("ext4")
    disk = Slice(whole, 0, 4 * MIB)
    part = Slice(disk, 0, whole.size)
    with pytest.raises(SourceError):
        registry.detect(part)
    assert registry.detect(part, 4 * MIB).label == "four 4"


def test_detection_reads_little_of_a_huge_disk() -> None:
    source = Sectors(2 << 40, fixture("ext4").sectors)
    assert registry.detect(source).type == "ext4"
    assert source.bytes_read < MIB
    start = time.process_time()
    blank = ZeroSource(2 << 40)
    assert registry.detect(blank).type == ""
    assert registry.partition_table(blank, Limits()) is None
    assert time.process_time() - start < 0.5


def test_window_reads_each_end_once() -> None:
    source = Sectors(8 * MIB, {0: b"a" * 512, 8 * MIB // 512 - 1: b"z" * 512})
    window = Window(source)
    assert (window.at(0, 2), window.at(-1, 1), window.at(-2, 3)) == (b"aa", b"z", b"")
    read = source.bytes_read
    assert (window.at(511, 2), window.at(-513, 2)) == (b"a\0", b"\0z")
    assert source.bytes_read == read


def test_mutants_of_every_superblock_give_a_result_and_nothing_else() -> None:
    rng = random.Random(20)
    names = sorted(MANIFEST)
    originals = {name: fixture(name) for name in names}
    same = changed = 0
    for _ in range(28):
        for name in names:
            original = originals[name]
            sectors = dict(original.sectors)
            for _ in range(rng.choice((1, 1, 2, 8))):
                place = rng.choice(sorted(sectors))
                raw = bytearray(sectors[place])
                at = rng.randrange(512)
                kind = rng.randrange(4)
                if kind == 0:
                    raw[at] ^= 1 << rng.randrange(8)
                elif kind == 1:
                    raw[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\0\0\0\x80", b"\x7f\xff\xff\xff"))[
                        : 512 - at
                    ]
                elif kind == 2:
                    raw[at : at + 8] = rng.randbytes(8)[: 512 - at]
                else:
                    raw[at:] = bytes(512 - at)
                sectors[place] = bytes(raw[:512])
            size = original.size if rng.random() < 0.9 else rng.randrange(original.size)
            source = Sectors(size, sectors)
            found = list(registry.candidates(source))
            table = registry.partition_table(source, Limits(), found[0] if found else Detected())
            assert table is None or len(table.volumes) <= 1024
            if found and found[0].type == MANIFEST[name]["blkid"]["TYPE"]:
                same += 1
            else:
                changed += 1
    assert same + changed > 2000
    assert same > changed > 100  # neither all refused nor all taken


def test_image_formats_are_told_by_their_magic_and_refused_by_name() -> None:
    from guestkit.errors import InvalidArgument, Unsupported
    from guestkit.source import NoFiles

    for name, offset, magic in (
        ("vmdk", 0, b"KDMV"),
        ("vmdk", 0, b"# Disk DescriptorFile"),
        ("vhdx", 0, b"vhdxfile"),
        ("vpc", -512, b"conectix"),
        ("vdi", 64, b"\x7f\x10\xda\xbe"),
        ("qed", 0, b"QED\0"),
        ("parallels", 0, b"WithoutFreeSpace"),
        ("dmg", -512, b"koly"),
        ("gzip", 0, b"\x1f\x8b\x08"),
    ):
        row = registry.find_format("image", name)
        assert row is not None
        zeros = ZeroSource(MIB)
        at = offset if offset >= 0 else MIB + offset
        source = Overlay(zeros, [Patch(at, len(magic), BytesSource(magic), 0)])
        assert registry.detect_image(source) == row
        if not row.open:
            with pytest.raises(Unsupported, match=name):
                registry.open_image(source, NoFiles(), Limits())
        assert registry.open_image(source, NoFiles(), Limits(), "raw").size == MIB  # what the user says holds
    with pytest.raises(InvalidArgument, match="not a qcow2 image"):
        registry.open_image(ZeroSource(MIB), NoFiles(), Limits(), "qcow2")
    with pytest.raises(InvalidArgument, match="no image format 'tape'"):
        registry.open_image(ZeroSource(MIB), NoFiles(), Limits(), "tape")


def test_image_opener_opens_by_the_format_that_is_stated_or_guessed() -> None:
    from guestkit.source import NoFiles

    opener = registry.image_opener(Limits())
    source = Concat([ZeroSource(MIB), BytesSource(b"end" * 512)])
    for format in (None, "raw"):
        opened = opener(source, NoFiles(), format)
        assert opened.size == source.size
        assert opened.read(MIB, 3) == b"end"
