"""NTFS structures one by one: what the format allows is read, what contradicts it is told and costs only itself."""

from __future__ import annotations

import errno
import lzma
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from recipes import ntfs as recipe

from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, NeedKey, NotFound, Unsupported
from guestkit.fs.ntfs import Ntfs
from guestkit.fs.ntfs import open as open_ntfs
from guestkit.fs.ntfs.boot import parse_boot
from guestkit.fs.ntfs.ea import parse_eas
from guestkit.fs.ntfs.mft import parse_list
from guestkit.fs.ntfs.record import fix_run, fixed, parse_record
from guestkit.fs.ntfs.reparse import feature, parse_reparse, parse_target
from guestkit.fs.ntfs.runs import HOLE, RunMap, Segment, decode_runs
from guestkit.fs.ntfs.wof import wof_source
from guestkit.limits import Limits
from guestkit.source import BytesSource, Extent, Source, ZeroSource

DATA = Path(__file__).parent.parent / "data" / "ntfs"


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str = "ntfs") -> Path:
        path = tmp_path / f"{name}.img"
        path.write_bytes(lzma.decompress((DATA / f"{name}.img.xz").read_bytes()))
        return path

    return make


Make = Callable[..., Path]


def opened(path: Path, **options: str) -> Ntfs:
    return open_ntfs([BytesSource(path.read_bytes())], Limits(), options)


def find(fs: Ntfs, path: str) -> int:
    inode = fs.root
    for part in path.split("/"):
        inode = fs.lookup(inode, part.encode())
    return inode


def change(path: Path, number: int, kind: int, offset: int, data: bytes) -> None:
    """Edit an attribute of a record at `offset` from its begin."""
    raw = recipe.read_record(path, number)
    at = recipe.find(path, number, kind) + offset
    raw[at : at + len(data)] = data
    recipe.write_record(path, number, raw)


# runs


def test_runs_with_holes_and_negative_steps() -> None:
    data = b"\x11\x10\x20" + b"\x01\x05" + b"\x11\x04\xf0" + b"\x21\x02\x00\x01" + b"\0"
    assert decode_runs(Segment(0, 26, data), 1000) == [(0, 32, 16), (16, HOLE, 5), (21, 16, 4), (25, 272, 2)]


def test_run_numbers_may_have_eight_bytes() -> None:
    data = b"\x88" + struct.pack("<qq", 3, 1 << 40) + b"\0"
    assert decode_runs(Segment(5, 7, data), 1 << 41) == [(5, 1 << 40, 3)]


def test_a_hole_may_be_larger_than_the_volume() -> None:
    assert decode_runs(Segment(0, (1 << 40) - 1, b"\x06" + (1 << 40).to_bytes(6, "little") + b"\0"), 10) == [
        (0, HOLE, 1 << 40)
    ]


def test_lcn_minus_one_is_a_hole_of_ntfs_1_2() -> None:
    assert decode_runs(Segment(0, 6, b"\x11\x04\xff\x11\x03\x06\0"), 100) == [(0, HOLE, 4), (4, 5, 3)]


@pytest.mark.parametrize(
    "data",
    [
        b"",  # too short
        b"\x11\x0b\x01\0",  # too long
        b"\x11\x05\x7f\0",  # outside the volume
        b"\x11\x0a\xf0\0",  # before it
        b"\x10\x0a\0",  # no length
        b"\x19\x0a\0",  # nine bytes of length
        b"\x11\x00\x01\0",  # nothing
        b"\x18\x0a",  # cut off
    ],
)
def test_runs_that_contradict_the_attribute_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_runs(Segment(0, 9, data), 100)


def test_pieces_must_follow_each_other() -> None:
    first, second = Segment(0, 4, b"\x11\x05\x01\0"), Segment(5, 9, b"\x11\x05\x20\0")
    assert list(RunMap([first, second], 100).runs(3, 8)) == [(3, 4, 2), (5, 32, 3)]
    for bad in ([second], [first, Segment(6, 9, b"")], [first, Segment(4, 9, b"")]):
        with pytest.raises(Corrupt):
            RunMap(bad, 100)
    with pytest.raises(Corrupt):
        list(RunMap([first], 100).runs(3, 8))


# boot sector


def boot(per_cluster: int, record: int, index: int = 1, sector: int = 512) -> bytes:
    raw = bytearray(512)
    raw[3:11] = b"NTFS    "
    struct.pack_into("<HB", raw, 11, sector, per_cluster)
    struct.pack_into("<QQQ", raw, 40, 1 << 40, 4, 8)
    struct.pack_into("<b3xb", raw, 64, record, index)
    return bytes(raw)


@pytest.mark.parametrize(
    ("code", "size"), [(1, 512), (8, 4096), (0x80, 65536), (0xF8, 131072), (0xF4, 2 << 20), (0xF7, 262144)]
)
def test_every_way_to_write_a_cluster_size(code: int, size: int) -> None:
    assert parse_boot(boot(code, -10)).cluster_size == size


def test_record_sizes_are_clusters_or_powers_of_two() -> None:
    assert parse_boot(boot(1, 2)).record_size == 1024
    assert parse_boot(boot(8, -10)).record_size == 1024
    assert parse_boot(boot(8, 1)).record_size == 4096
    assert parse_boot(boot(1, -12, sector=4096)).record_size == 4096


@pytest.mark.parametrize(
    "raw",
    [
        boot(3, -10),
        boot(0, -10),
        boot(0xF3, -10),
        boot(8, 0),
        boot(8, 3),
        boot(8, -13),
        boot(8, -8),
        boot(8, -10, 0),
        boot(8, -10, sector=520),
        boot(8, -10)[:40] + bytes(8) + boot(8, -10)[48:],
        boot(8, -10)[:48] + b"\xff" * 8 + boot(8, -10)[56:],
        bytes(512),
    ],
)
def test_boot_sectors_beyond_the_bounds_are_corrupt(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_boot(raw)


def test_without_any_boot_sector_it_is_no_ntfs(image: Make) -> None:
    path = image("ntfs-backup-boot")
    size = path.stat().st_size
    recipe.edit(path, size // 2, bytes(512))
    recipe.edit(path, size - 512, bytes(512))
    with pytest.raises(Corrupt):
        opened(path)


# records


def test_a_torn_record_costs_its_file_alone(image: Make) -> None:
    path = image()
    number = find(opened(path), "size-700")
    recipe.edit(path, recipe.record_places(path, number)[0] + 1022, b"\x55\xaa")
    fs = opened(path)
    with pytest.raises(Corrupt, match="torn"):
        fs.stat(number)
    with pytest.raises(Corrupt):
        fs.lookup(fs.root, b"size-700")
    stats = {entry.name: status for entry, status in fs.scan_stat(fs.root)}
    assert stats[b"size-700"] is None
    assert sum(status is None for status in stats.values()) == 1
    assert fs.problems()[0] == 1


@pytest.mark.parametrize("change_usa", [b"\x02\0", b"\x04\0", b"\0\0"])
def test_fixups_must_fit_the_record(image: Make, change_usa: bytes) -> None:
    path = image()
    raw = bytearray(path.read_bytes()[recipe.record_places(path, 64)[0] :][:1024])
    assert parse_record(bytes(raw), 64).number == 64
    raw[6:8] = change_usa
    with pytest.raises(Corrupt):
        fixed(bytes(raw), b"FILE")


def test_a_run_of_records_is_fixed_as_each_of_them_is_and_one_torn_leaves_it_as_it_stands(image: Make) -> None:
    path = image()
    start = recipe.record_places(path, 64)[0]
    raw = path.read_bytes()[start : start + 8 * 1024]
    buf = bytearray(raw)
    assert fix_run(buf, 1024)
    assert bytes(buf) == b"".join(fixed(raw[at : at + 1024], b"FILE") for at in range(0, len(raw), 1024))
    assert bytes(buf) != raw
    for place in (0, 4, 6, 510, 1023):  # magic, place and number of the fixups, the ends of the two sectors
        for record in (0, 5, 7):
            torn = bytearray(raw)
            torn[record * 1024 + place] ^= 0x41
            before = bytes(torn)
            assert not fix_run(torn, 1024)
            assert torn == before


def test_a_name_that_refers_to_another_use_of_a_record_is_corrupt(image: Make) -> None:
    path = image()
    number = find(opened(path), "size-700")
    raw = recipe.read_record(path, number)
    struct.pack_into("<H", raw, 16, 77)
    recipe.write_record(path, number, raw)
    fs = opened(path)
    with pytest.raises(Corrupt, match="sequence"):
        fs.lookup(fs.root, b"size-700")
    assert [entry.name for entry, status in fs.scan_stat(fs.root) if status is None] == [b"size-700"]


def test_a_name_that_refers_to_a_free_record_is_corrupt(image: Make) -> None:
    path = image()
    number = find(opened(path), "size-700")
    raw = recipe.read_record(path, number)
    struct.pack_into("<H", raw, 22, 0)
    recipe.write_record(path, number, raw)
    fs = opened(path)
    with pytest.raises(Corrupt):
        fs.lookup(fs.root, b"size-700")
    with pytest.raises(NotFound):
        fs.stat(number)


def test_bytes_behind_the_valid_length_are_zeros(image: Make) -> None:
    path = image()
    number = find(opened(path), "size-70000")
    whole = opened(path).open(number).read(0, 70_000)
    change(path, number, 0x80, 56, struct.pack("<Q", 10_001))
    source = opened(path).open(number)
    assert source.read(0, 70_000) == whole[:10_001] + bytes(59_999)
    assert [extent.source is None for extent in source.extents(10_000, 2)] == [False, True]


def test_bytes_behind_the_valid_length_of_compressed_files_are_zeros(image: Make) -> None:
    path = image("ntfs-lznt1")
    number = find(opened(path), "compressed/text")
    whole = opened(path).open(number).read(0, 200_000)
    change(path, number, 0x80, 56, struct.pack("<Q", 70_001))
    assert opened(path).open(number).read(0, 200_000) == whole[:70_001] + bytes(129_999)


def test_damage_in_a_compressed_unit_is_told(image: Make) -> None:
    path = image("ntfs-lznt1")
    fs = opened(path)
    number = find(fs, "compressed/one-unit")
    lcn = next(iter(recipe._runs(next(a for a in recipe.attributes(recipe.read_record(path, number)) if a[0] == 0x80))))
    recipe.edit(path, lcn[0] * 4096, b"\x11\x11\x11\x11")
    with pytest.raises(Corrupt, match="LZNT1"):
        opened(path).open(number).read(0, 10)


def test_an_encrypted_file_needs_its_key(image: Make) -> None:
    path = image()
    number = find(opened(path), "size-70000")
    change(path, number, 0x80, 12, b"\0\x40")
    fs = opened(path)
    assert fs.stat(number).size == 70_000
    with pytest.raises(NeedKey, match="EFS"):
        fs.open(number)


def test_an_unknown_compression_is_refused_by_name(image: Make) -> None:
    path = image()
    number = find(opened(path), "size-70000")
    change(path, number, 0x80, 12, b"\2\0")
    with pytest.raises(Unsupported, match="compression"):
        opened(path).open(number)


def test_an_unknown_version_is_refused(image: Make) -> None:
    path = image()
    recipe.edit_volume(path, 8, b"\4\0")
    with pytest.raises(Unsupported, match=r"4\.0"):
        opened(path)


def test_a_file_of_ntfs_1_2_has_no_number_of_a_descriptor(image: Make) -> None:
    """Its standard information ends before, and the descriptor stands in the file."""
    path = image()
    number = find(opened(path), "size-700")
    raw = recipe.read_record(path, number)
    parts = recipe.attributes(raw)
    at = next(index for index, part in enumerate(parts) if part[0] == 0x10)
    short = bytearray(parts[at][:72])
    struct.pack_into("<I", short, 4, 72)
    struct.pack_into("<I", short, 16, 48)
    parts[at] = bytes(short)
    recipe.write_record(path, number, recipe.with_attributes(raw, parts))
    fs = opened(path)
    assert fs.stat(number).size == 700
    assert len(fs.xattr(number, b"system.ntfs_times")) == 32


# attribute lists


def test_attribute_lists_are_bounded_and_checked(image: Make) -> None:
    path = image("ntfs-fragmented")
    fs = opened(path)
    number = find(fs, "runs-0")
    inode = fs.inodes.read(number)
    assert inode.listed is not None
    extension = next(entry.reference & 0xFFFFFFFFFFFF for entry in inode.listed if entry.lowest)
    raw = recipe.read_record(path, extension)
    struct.pack_into("<Q", raw, 32, 5 << 48 | 99)  # belongs to another file
    recipe.write_record(path, extension, raw)
    fs = opened(path)
    assert fs.stat(number).size > 0
    with pytest.raises(Corrupt, match="base record"):
        fs.open(number)


def test_an_attribute_list_that_names_itself_ends(image: Make) -> None:
    path = image("ntfs-fragmented")
    fs = opened(path)
    number = find(fs, "runs-0")
    inode = fs.inodes.read(number)
    assert inode.listed is not None
    extension = next(entry.reference & 0xFFFFFFFFFFFF for entry in inode.listed if entry.lowest)
    raw = recipe.read_record(path, extension)
    parts = recipe.attributes(raw)
    listed = struct.pack("<IIBBHHHIHH", 0x20, 56, 0, 0, 24, 0, 9, 32, 24, 0)
    listed += struct.pack("<IHBBQQH6x", 0x20, 32, 0, 26, 0, extension, 9)
    small = [listed, *(part for part in parts if len(part) < 400)]
    recipe.write_record(path, extension, recipe.with_attributes(raw, small))
    fs = opened(path)
    start = time.process_time()
    with pytest.raises(GuestkitError):
        fs.open(number).read(0, fs.stat(number).size)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<IHBBQQH6x", 0x80, 24, 0, 26, 0, 64, 1),
        struct.pack("<IHBBQQH6x", 0x80, 33, 0, 26, 0, 64, 1),
        struct.pack("<IHBBQQH6x", 0x80, 64, 0, 26, 0, 64, 1),
        struct.pack("<IHBBQQH6x", 0x80, 32, 9, 26, 0, 64, 1),
        struct.pack("<IHBBQQH6x", 0x80, 32, 0, 26, 1 << 63, 64, 1),
    ],
)
def test_entries_of_an_attribute_list_are_checked(entry: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_list(entry, "here")


@pytest.mark.parametrize("name", ["$Bitmap", "$UpCase", "$Secure"])
def test_system_files_may_have_attribute_lists(image: Make, name: str) -> None:
    """Their attributes are moved to another record: what is read of them stays the same."""
    path = image()
    before = opened(path)
    number = find(before, name)
    listed = opened(path).statvfs(), before.lookup(before.root, b"SIZE-700".lower())
    acl = before.xattr(listed[1], b"system.ntfs_acl")
    own, other = recipe.read_record(path, number), recipe.read_record(path, 20)
    parts = recipe.attributes(own)
    sequence = struct.unpack_from("<H", other, 16)[0]
    base = struct.unpack_from("<H", own, 16)[0] << 48
    stays = [part for part in parts if part[0] == 0x10]
    moved = [part for part in parts if part not in stays]
    entries = b""
    for part in parts:
        kind, instance = struct.unpack_from("<I", part)[0], struct.unpack_from("<H", part, 14)[0]
        units, at = part[9], struct.unpack_from("<H", part, 10)[0]
        place = base | number if part in stays else sequence << 48 | 20
        entry = struct.pack("<IHBBQQH", kind, -(-(26 + 2 * units) // 8) * 8, units, 26, 0, place, instance)
        entries += (entry + part[at : at + 2 * units]).ljust(-(-(26 + 2 * units) // 8) * 8, b"\0")
    entries = entries.ljust(-(-len(entries) // 8) * 8, b"\0")
    new = struct.pack("<IIBBHHHIHH", 0x20, 24 + len(entries), 0, 0, 24, 0, 61, len(entries), 24, 0) + entries
    recipe.write_record(path, number, recipe.with_attributes(own, [*stays, new]))
    made = recipe.with_attributes(other, moved)
    struct.pack_into("<H", made, 22, 1)
    struct.pack_into("<Q", made, 32, base | number)
    recipe.write_record(path, 20, made)
    fs = opened(path)
    assert fs.inodes.read(number).listed is not None
    assert fs.statvfs() == listed[0]
    assert fs.lookup(fs.root, b"size-700") == listed[1]
    assert fs.xattr(listed[1], b"system.ntfs_acl") == acl
    assert fs.problems()[0] == 0


# directories


def test_names_with_lone_surrogates_are_listed_and_found(image: Make) -> None:
    path = image()
    raw = path.read_bytes()
    old = "size-700".encode("utf-16-le")
    path.write_bytes(raw.replace(old, "size".encode("utf-16-le") + b"\x00\xd8\x01\xdc\xff\xdf0\0"))
    fs = opened(path)
    name = "size\U00010001".encode() + b"\xed\xbf\xbf0"  # a pair, and one that stands alone
    (ino,) = (entry.ino for entry in fs.scan(fs.root) if entry.name == name)
    assert fs.lookup(fs.root, name) == ino
    assert fs.stat(ino).size == 700
    assert name in [path for path, _, _ in fs.walk()]


def index_place(path: Path, number: int, block: int) -> int:
    """Where block `block` of a directory stands."""
    fs = opened(path)
    source = fs.inodes.read(number).open(0xA0, "$I30".encode("utf-16-le"))
    assert source is not None
    extent = next(iter(source.extents(block * 4096, 4096)))
    return extent.source_offset


def test_a_large_directory_is_searched_by_its_tree(image: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = opened(image("ntfs-many"))
    directory = find(fs, "many")
    names = [entry.name for entry in fs.scan(directory)]
    assert len(names) > 500
    monkeypatch.setattr(type(fs._directories), "batches", None)  # a search of all blocks would fail
    for name in names:
        fs.lookup(directory, name)
    with pytest.raises(NotFound):
        fs.lookup(directory, b"no such name")


def test_a_damaged_upcase_table_costs_speed_alone(image: Make) -> None:
    path = image("ntfs-many")
    source = opened(path).open(10)
    place = next(iter(source.extents(0, 2))).source_offset
    recipe.edit(path, place + 2 * 0x61, b"\0\0")
    fs = opened(path)
    directory = find(fs, "many")
    for entry in list(fs.scan(directory))[::50]:
        assert fs.lookup(directory, entry.name) == entry.ino
    assert any("$UpCase" in problem.where for problem in fs.problems()[1])


def test_a_damaged_block_hides_only_its_own_names(image: Make) -> None:
    path = image("ntfs-many")
    fs = opened(path)
    directory = find(fs, "many")
    every = {entry.name for entry in fs.scan(directory)}
    recipe.edit(path, index_place(path, directory, 3) + 510, b"\x12\x34")
    fs = opened(path)
    seen = []
    with pytest.raises(Corrupt, match="torn"):
        for entry in fs.scan(directory):
            seen.append(entry.name)
    assert len(every) - 60 < len(set(seen)) < len(every)
    for name in seen[::20]:
        fs.lookup(directory, name)
    for name in sorted(every - set(seen))[::7]:
        with pytest.raises(Corrupt):  # not "not found"
            fs.lookup(directory, name)


def test_a_tree_that_goes_in_circles_ends(image: Make) -> None:
    path = image("ntfs-many")
    fs = opened(path)
    directory = find(fs, "many")
    names = [entry.name for entry in fs.scan(directory)]
    listed = fs.inodes.read(directory).listed or []
    holder = next((entry.reference & 0xFFFFFFFFFFFF for entry in listed if entry.type == 0x90), directory)
    raw = recipe.read_record(path, holder)
    root = next(part for part in recipe.attributes(raw) if part[0] == 0x90)
    at = recipe.find(path, holder, 0x90)
    value = struct.unpack_from("<H", root, 20)[0]
    entry = at + value + 16 + struct.unpack_from("<I", root, value + 16)[0]
    below = []
    while True:
        length, _, flags = struct.unpack_from("<HHH", raw, entry + 8)
        if flags & 1:
            below.append(entry + length - 8)
        if flags & 2:
            break
        entry += length
    vcn = struct.unpack_from("<Q", raw, below[0])[0]
    for place in below:
        struct.pack_into("<Q", raw, place, vcn)
    recipe.write_record(path, holder, raw)
    fs = opened(path)
    for name in names[::40]:
        try:
            fs.lookup(directory, name)
        except (NotFound, Corrupt):
            continue
    block = index_place(path, directory, 0)
    recipe.edit(path, block + 16, struct.pack("<Q", 5))  # a block that says it is another
    fs = opened(path)
    for name in names[::40]:
        try:
            fs.lookup(directory, name)
        except (NotFound, Corrupt):
            continue


# reparse points and extended attributes


def test_reparse_points_are_checked() -> None:
    for value in (b"", b"\x0c\0\0\xa0\xff\0\0\0", b"\x01\0\0\0" + bytes(4)):
        with pytest.raises(Corrupt):
            parse_reparse(value)
    for value in (
        recipe.reparse(0xA000000C, b"\0" * 4),
        recipe.reparse(0xA000000C, struct.pack("<HHHHI", 0, 40, 0, 0, 0)),
        recipe.reparse(0xA0000003, struct.pack("<HHHH", 0, 0, 0, 0)),
        recipe.reparse(0xA000001D, b"\1\0\0\0x"),
    ):
        with pytest.raises(Corrupt):
            parse_target(parse_reparse(value))


def test_unknown_tags_are_named() -> None:
    assert "cloud" in feature(0x9000701A)
    assert "0x80001234" in feature(0x80001234)


def test_extended_attributes_are_checked() -> None:
    one = struct.pack("<IBBH", 20, 0, 6, 4) + b"$LXUID\0" + struct.pack("<I", 1000) + b"\0"
    two = struct.pack("<IBBH", 0, 0, 6, 4) + b"$LXGID\0" + struct.pack("<I", 7)
    assert parse_eas(one + two) == {b"$LXUID": struct.pack("<I", 1000), b"$LXGID": struct.pack("<I", 7)}
    with pytest.raises(Corrupt):
        parse_eas(struct.pack("<IBBH", 4, 0, 6, 4) + b"$LXUID\0" + bytes(4))
    with pytest.raises(Corrupt):
        parse_eas(struct.pack("<IBBH", 0, 0, 6, 400) + b"$LXUID\0" + bytes(4))


# compressed system files

FILE = struct.pack("<IIII", 1, 2, 1, 1)


def test_chunk_tables_have_eight_bytes_from_4_gib_on() -> None:
    size = (4 << 30) + 5
    count = -(-size // 32768)
    table = bytearray(8 * (count - 1))
    struct.pack_into("<Q", table, 0, 32768)
    struct.pack_into("<Q", table, 8, 32768 + 32768)
    stream = BytesSource(bytes(table) + b"a" * 32768 + b"b" * 32768)
    source = wof_source(FILE, stream, size, Limits(), "here")
    assert source.read(32760, 16) == b"a" * 8 + b"b" * 8
    with pytest.raises(Corrupt):
        source.read(3 * 32768, 1)


def test_chunk_tables_are_checked() -> None:
    stream = struct.pack("<I", 9) + b"too short"
    for table in (stream, struct.pack("<I", 1 << 30) + bytes(100), struct.pack("<I", 0) + bytes(100)):
        source = wof_source(FILE, BytesSource(table), 40_000, Limits(), "here")
        with pytest.raises(Corrupt):
            source.read(0, 40_000)
    with pytest.raises(Corrupt):
        wof_source(FILE, BytesSource(b"abc"), 40_000, Limits(), "here")
    with pytest.raises(Corrupt):
        wof_source(FILE, None, 40_000, Limits(), "here")


def test_what_wof_has_besides_is_refused_by_name() -> None:
    for data, text in (
        (struct.pack("<II", 1, 1) + bytes(40), "WIM"),
        (struct.pack("<II", 1, 9) + bytes(40), "provider"),
        (struct.pack("<II", 2, 2) + bytes(40), "version"),
        (struct.pack("<IIII", 1, 2, 1, 4), "compression"),
    ):
        with pytest.raises(Unsupported, match=text):
            wof_source(data, ZeroSource(100), 100, Limits(), "here")


# the log, and large volumes


def restart_page(flags: int, in_use: int) -> bytes:
    page = bytearray(4096)
    page[:4] = b"RSTR"
    struct.pack_into("<HHQIIH", page, 4, 30, 9, 0, 4096, 4096, 48)
    struct.pack_into("<QHHHH", page, 48, 1234, 1, 0xFFFF, in_use, flags)
    page[30:32] = b"\1\0"
    for sector in range(1, 9):
        page[sector * 512 - 2 : sector * 512] = b"\1\0"
    return bytes(page)


@pytest.mark.parametrize(
    ("flags", "in_use", "kind"),
    [(0, 0, "dirty-not-replayed"), (2, 0, "clean"), (0, 0xFFFF, "clean")],
)
def test_a_log_with_changes_is_told(image: Make, flags: int, in_use: int, kind: str) -> None:
    path = image()
    source = opened(path).inodes.read(2).open(0x80)
    assert source is not None
    place = next(iter(source.extents(0, 4096))).source_offset
    recipe.edit(path, place, restart_page(flags, in_use))
    state = opened(path).state
    assert state.kind == kind
    assert ("$LogFile" in state.reason) is (kind != "clean")


class Counting(Source):
    """Counts the bytes that are read of another source."""

    def __init__(self, below: Source) -> None:
        self.below = below
        self.size = below.size
        self.count = 0

    def extents(self, offset: int, length: int):  # type: ignore[no-untyped-def]
        self.check(offset, length)
        if length:
            yield Extent(offset, length, self, offset)  # type: ignore[arg-type]

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.count += len(buf)
        self.below.read_into(offset, buf)

    def read(self, offset: int, length: int) -> bytes:
        self.count += length
        return self.below.read(offset, length)


def test_opening_reads_little_of_the_table(image: Make) -> None:
    source = Counting(BytesSource(image("ntfs-many").read_bytes()))
    open_ntfs([source], Limits(), {})
    assert source.count < 64 << 10


def test_names_that_may_not_reach_the_tree_are_left_out(image: Make) -> None:
    path = image()
    raw = path.read_bytes()
    old, new = "size-700".encode("utf-16-le"), "size/700".encode("utf-16-le")
    assert raw.count(old) >= 2
    path.write_bytes(raw.replace(old, new))
    fs = opened(path)
    names = [entry.name for entry in fs.scan(fs.root)]
    assert names
    assert all(b"/" not in name for name in names)
    assert any("cannot be shown" in problem.message for problem in fs.problems()[1])


def test_a_bad_option_is_refused(image: Make) -> None:
    with pytest.raises(InvalidArgument):
        opened(image(), uid="root")


def test_a_stream_too_long_for_an_attribute_is_still_a_stream(image: Make) -> None:
    path = image()
    number = find(opened(path), "streams")
    change_named(path, number, 1 << 20)
    fs = opened(path)
    assert dict(fs.streams(number))[b"larger"] == 1 << 20
    with pytest.raises(GuestkitError) as caught:
        fs.xattr(number, b"user.larger")
    assert caught.value.errno == errno.E2BIG
    assert fs.open(number, b"larger").size == 1 << 20


def change_named(path: Path, number: int, size: int) -> None:
    """Make the stream "larger" one of `size` bytes that is a hole."""
    raw = recipe.read_record(path, number)
    parts = recipe.attributes(raw)
    name = "larger".encode("utf-16-le")
    at = next(index for index, part in enumerate(parts) if part[0] == 0x80 and name in part)
    head = bytearray(parts[at][:64].ljust(64, b"\0"))
    count = size // 4096
    runs = b"\x04" + struct.pack("<I", count) + b"\0"
    body = name.ljust(16, b"\0") + runs.ljust(8, b"\0")
    struct.pack_into("<I", head, 4, 64 + len(body))
    head[8:10] = bytes((1, 6))
    struct.pack_into("<HH", head, 10, 64, 0)
    struct.pack_into("<QQHB", head, 16, 0, count - 1, 80, 0)
    struct.pack_into("<QQQ", head, 40, size, size, size)
    parts[at] = bytes(head) + body
    recipe.write_record(path, number, recipe.with_attributes(raw, parts))


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.tool("mkntfs", "ntfs-3g")
@pytest.mark.parametrize("cluster", [131072, 2 << 20])
def test_the_largest_clusters_read_as_ntfs_3g_reads_them(cluster: int, tmp_path: Path) -> None:
    import manifest

    path = tmp_path / "large.img"
    made = recipe.Recipe("large", recipe.small, cluster=cluster, megabytes=32 * cluster >> 20)
    recipe.make(made, path)
    told = recipe.describe(made, path)
    fs = opened(path)
    assert fs.volume.cluster == cluster
    found = manifest.from_filesystem(fs)
    for entry in found.values():
        entry.pop("btime", None)
    assert list(manifest.differences(told["tree"], found)) == []
    assert list(manifest.figure_differences(told["statvfs"], manifest.api_statvfs(fs))) == []
