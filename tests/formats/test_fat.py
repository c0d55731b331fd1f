"""FAT12, FAT16 and FAT32: what no tool writes, and what is damaged."""

from __future__ import annotations

import random
import stat
import struct
import time

import fatwriter
import pytest
from fatwriter import BAD, END, Volume, long, short

from guestkit.chains import Chain, Chains
from guestkit.errors import Corrupt, InvalidArgument, IsADirectory, NotADirectory, NotFound, Unsupported
from guestkit.fs.fat import open as open_fat
from guestkit.fs.fat.boot import parse_info
from guestkit.fs.fat.filesystem import Fat
from guestkit.limits import Limits
from guestkit.source import BytesSource, Extent, Leaf, Source, ZeroSource

KINDS = [(12, 300), (16, 5000), (32, 66_000)]


def opened(volume: Volume | Source, **options: str) -> Fat:
    source = volume if isinstance(volume, Source) else BytesSource(volume.bytes())
    return open_fat([source], Limits(), options)


def names(fs: Fat, directory: int = 1) -> list[bytes]:
    return [entry.name for entry in fs.scan(directory)]


def content(fs: Fat, name: bytes) -> bytes:
    source = fs.open(fs.lookup(fs.root, name))
    return source.read(0, source.size)


# the kind, the table


@pytest.mark.parametrize(
    ("clusters", "kind"), [(4084, "FAT12"), (4085, "FAT16"), (65_524, "FAT16")], ids=lambda value: str(value)
)
def test_kind_is_told_by_the_number_of_clusters_alone(clusters: int, kind: str) -> None:
    volume = Volume(12 if kind == "FAT12" else 16, clusters)
    assert opened(volume).details()["type"] == kind


def test_a_small_volume_without_a_16_bit_table_size_is_fat32() -> None:
    assert opened(Volume(32, 100)).details()["type"] == "FAT32"


@pytest.mark.parametrize(("bits", "clusters"), KINDS)
def test_fragmented_file_is_read_in_its_order(bits: int, clusters: int) -> None:
    volume = Volume(bits, clusters)
    data = random.Random(bits).randbytes(40 * 512 + 7)
    taken = random.Random(1).sample(range(10, 200), 41)
    volume.root = short(b"SCATTER", volume.chain(data, taken), len(data))
    volume.root += short(b"STRAIGHTBIN", volume.chain(data, list(range(210, 251))), len(data))
    fs = opened(volume)
    assert content(fs, b"SCATTER") == data
    assert content(fs, b"STRAIGHT.BIN") == data
    assert fs.problems() == (0, ())


@pytest.mark.parametrize(("sector", "per_cluster"), [(512, 1), (1024, 2), (2048, 128), (4096, 1), (4096, 64)])
def test_every_sector_and_cluster_size(sector: int, per_cluster: int) -> None:
    volume = Volume(12, 30, sector=sector, per_cluster=per_cluster, entries=256)
    data = random.Random(3).randbytes(2 * volume.size + 5)
    volume.root = short(b"A", volume.chain(data, [9, 4, 7]), len(data))
    fs = opened(volume)
    status = fs.stat(fs.lookup(1, b"a"))
    assert content(fs, b"A") == data
    assert (status.blksize, status.blocks) == (volume.size, 3 * volume.size // 512)


def test_the_upper_four_bits_of_a_fat32_entry_mean_nothing() -> None:
    volume = Volume(32, 66_000)
    data = bytes(range(256)) * 5
    first = volume.chain(data, [20, 30, 40])
    for cluster, value in ((20, 30), (30, 40), (40, END[32])):
        volume.put(cluster, value | 0xA0000000)
    volume.put(50, 0xF0000000)
    volume.root = short(b"A", first, len(data))
    fs = opened(volume)
    assert content(fs, b"A") == data
    assert fs.statvfs().bfree == 66_000 - 4


def test_high_word_of_the_cluster_counts_on_fat32_alone() -> None:
    volume = Volume(16, 5000)
    volume.root = short(b"A", volume.chain(b"data", [9]), 4, high=0x1234)
    assert content(opened(volume), b"A") == b"data"
    volume = Volume(32, 70_000)
    volume.root = short(b"A", volume.chain(b"data", [69_000]), 4)
    assert content(opened(volume), b"A") == b"data"


def test_the_active_table_counts_when_mirroring_is_off() -> None:
    for flags, wanted in ((0x81, b"second"), (0x80, b"first."), (0x01, b"first.")):
        volume = Volume(32, 66_000, flags=flags)
        volume.chain(b"x" * 512, [10])
        volume.chain(b"first.", [11])
        volume.chain(b"second", [12])
        volume.put(10, 11, table=0)
        volume.put(10, 12, table=1)
        volume.root = short(b"A", 10, 518)
        assert content(opened(volume), b"A")[512:] == wanted
    with pytest.raises(Corrupt):
        opened(Volume(32, 66_000, flags=0x85))


@pytest.mark.parametrize("bits", [12, 16, 32])
@pytest.mark.parametrize("wrong", ["bad", "free", "one", "beyond", "loop", "end"])
def test_a_broken_chain_costs_what_is_behind_the_break(bits: int, wrong: str) -> None:
    clusters = dict(KINDS)[bits]
    volume = Volume(bits, clusters)
    data = random.Random(5).randbytes(6 * 512)
    volume.root = short(b"A", volume.chain(data, [20, 21, 22, 30, 31, 32]), len(data))
    volume.put(30, {"bad": BAD[bits], "free": 0, "one": 1, "beyond": clusters + 2, "loop": 21, "end": END[bits]}[wrong])
    fs = opened(volume)
    source = fs.open(fs.lookup(1, b"A"))
    assert source.size == len(data)
    assert source.read(0, 4 * 512) == data[: 4 * 512]
    with pytest.raises(Corrupt):
        source.read(4 * 512, 1)
    with pytest.raises(Corrupt):
        source.read(0, len(data))


def test_every_mark_of_the_end_ends_a_chain() -> None:
    for bits, clusters in KINDS:
        for low in range(8, 16):
            volume = Volume(bits, clusters)
            volume.root = short(b"A", volume.chain(b"x" * 600, [9, 12]), 600)
            volume.put(12, END[bits] & ~15 | low)
            assert content(opened(volume), b"A") == b"x" * 600


def test_a_chain_longer_than_the_size_is_cut() -> None:
    volume = Volume(16, 5000)
    volume.root = short(b"A", volume.chain(b"x" * 2048, [9, 12, 15, 18]), 700)
    assert content(opened(volume), b"A") == b"x" * 700


def test_a_size_without_a_cluster_is_damage_not_zeros() -> None:
    volume = Volume(16, 5000)
    volume.root = short(b"A", 0, 700) + short(b"EMPTY", 0, 0)
    fs = opened(volume)
    assert content(fs, b"EMPTY") == b""
    with pytest.raises(Corrupt):
        content(fs, b"A")


def test_runs_cross_the_windows_of_the_table() -> None:
    clusters = 40_000
    table = bytearray((clusters + 2) * 4)
    for cluster in range(2, clusters + 1):
        struct.pack_into("<I", table, 4 * cluster, cluster + 1)
    struct.pack_into("<I", table, 4 * (clusters + 1), 0x0FFFFFFF)
    chain = Chain(Chains(BytesSource(bytes(table)), 0, 28, clusters, Limits()), 2)
    chain.follow(clusters)
    assert list(chain.runs(0, clusters)) == [(0, 2, clusters)]
    assert list(chain.runs(16_000, 17_000)) == [(16_000, 16_002, 1000)]
    struct.pack_into("<I", table, 4 * (clusters + 1), 20_000)
    chain = Chain(Chains(BytesSource(bytes(table)), 0, 28, clusters, Limits()), 2)
    with pytest.raises(Corrupt, match="loop"):
        chain.follow(1 << 40)


class _Counting(Leaf):
    """A volume of 2 TiB: zeros but for a few places. Counts what is read."""

    def __init__(self, size: int, places: dict[int, bytes]) -> None:
        self.size = size
        self.places = places
        self.read_bytes = 0

    def extents(self, offset: int, length: int):  # type: ignore[no-untyped-def]
        self.check(offset, length)
        if length:
            yield Extent(offset, length, self, offset)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.read_bytes += len(buf)
        buf[:] = bytes(len(buf))
        for at, data in self.places.items():
            low, high = max(at, offset), min(at + len(data), offset + len(buf))
            if low < high:
                buf[low - offset : high - offset] = data[low - at : high - at]


def test_a_volume_of_two_tebibytes_opens_without_reading_its_table() -> None:
    small = Volume(32, 66_000, per_cluster=64)
    boot = bytearray(small.bytes()[:512])
    total, table = (1 << 32) - 1, 524_288
    struct.pack_into("<H", boot, 19, 0)
    struct.pack_into("<II", boot, 32, total, table)
    struct.pack_into("<H", boot, 48, 1)
    free = 67_000_000
    info = struct.pack("<I480xII16xI", 0x41615252, 0x61417272, free, 0xAA550000)
    head = struct.pack("<III", 0x0FFFFFF8, 0x0FFFFFFF, 0x0FFFFFFF)
    source = _Counting(total * 512, {0: bytes(boot), 512: info, 32 * 512: head})
    began = time.process_time()
    fs = opened(source)
    assert names(fs) == []
    assert time.process_time() - began < 0.3
    assert source.read_bytes < 1 << 20
    assert fs.statvfs().bfree == free
    assert source.read_bytes < 1 << 20


@pytest.mark.parametrize("free", [0xFFFFFFFF, 0, 12_345])
def test_free_clusters_are_counted_whatever_fsinfo_says(free: int) -> None:
    volume = Volume(32, 66_000)
    struct.pack_into("<H", volume.image, 48, 1)
    volume.image[512:1024] = struct.pack("<I480xII16xI", 0x41615252, 0x61417272, free, 0xAA550000)
    assert opened(volume).statvfs().bfree == 66_000 - 1


def test_fsinfo_counts_only_with_its_signatures_and_a_number_that_can_be() -> None:
    good = struct.pack("<I480xII16xI", 0x41615252, 0x61417272, 100, 0xAA550000)
    assert parse_info(good, 100) == 100
    assert parse_info(good, 99) is None
    for at in (0, 484, 508):
        assert parse_info(good[:at] + b"\1\1\1\1" + good[at + 4 :], 100) is None
    assert parse_info(good[:488] + b"\xff\xff\xff\xff" + good[492:], 100) is None


# names


def listed(entries: bytes, **options: str) -> list[bytes]:
    volume = Volume(16, 5000)
    volume.root = entries
    return names(opened(volume, **options))


def test_long_names_of_every_length() -> None:
    wanted = ["n" * length + "\u0416" for length in (0, 1, 11, 12, 13, 25, 26, 100, 254)]
    entries = b"".join(long(name, b"N%d" % i) + short(b"N%d" % i) for i, name in enumerate(wanted))
    volume = Volume(32, 66_000)
    volume.root_cluster = volume.chain(b"", list(range(2, 12)))
    volume.root = entries
    assert names(opened(volume)) == [name.encode() for name in wanted]


def test_surrogate_pairs_become_one_character_and_lone_ones_are_kept() -> None:
    entries = long("\U0001f600.txt", b"A") + short(b"A") + long((0x41, 0xD800, 0x42), b"B") + short(b"B")
    assert listed(entries) == ["\U0001f600.txt".encode(), b"A\xed\xa0\x80B"]


def test_a_long_name_whose_parts_do_not_fit_gives_way_to_the_short_one() -> None:
    alias = b"SHORT   TXT"
    slots = long("a name of three entries, all in all", alias)
    parts = [slots[at : at + 32] for at in range(0, 96, 32)]
    end = short(alias)
    for broken in (
        slots[32:],  # the first part is gone
        parts[0] + parts[2],  # one between
        parts[0] + parts[1],  # the last
        parts[0] + parts[2] + parts[1],
        parts[0] + b"\xe5" + parts[1][1:] + parts[2],
        long("another checksum", alias, sum_of=1),
        parts[0] + parts[1][:13] + b"\x77" + parts[1][14:] + parts[2],
        slots + short(b"LABEL", attributes=0x08),
    ):
        assert listed(broken + end) == [b"SHORT.TXT"]
    assert listed(slots + end) == [b"a name of three entries, all in all"]
    assert listed(parts[0] + slots + end) == [b"a name of three entries, all in all"]


def test_orphans_before_a_good_long_name_do_not_hurt_it() -> None:
    orphan = long("left behind by someone", b"GONE")
    good = long("good name.txt", b"GOOD") + short(b"GOOD")
    assert listed(orphan + good) == [b"good name.txt"]
    assert listed(orphan[:32] + good) == [b"good name.txt"]


def test_lower_case_flags_and_the_replaced_first_byte() -> None:
    entries = short(b"README  TXT", case=0x08) + short(b"NOTES   TXT", case=0x10) + short(b"BOTH    TXT", case=0x18)
    entries += short(b"\x05X") + short(b"A B     C") + short(b"NOEXT", case=0x08)
    assert listed(entries) == [b"readme.TXT", b"NOTES.txt", b"both.txt", "\u03c3X".encode(), b"A B.C", b"noext"]


@pytest.mark.parametrize(
    ("page", "wanted"),
    [("437", "\xc7\xfc"), ("850", "\xc7\xfc"), ("866", "\u0410\u0411"), ("1252", "\u20ac\x81"), ("932", None)],
)
def test_short_names_are_read_in_the_code_page(page: str, wanted: str | None) -> None:
    if page == "932":
        assert listed(short(b"\x93\xfa\x96\x7b.TX"), codepage=page) == ["\u65e5\u672c.TX".encode()]
        return
    assert wanted is not None
    found = listed(short(b"\x80\x81"), codepage=page)
    assert found == ["\u20ac?".encode() if page == "1252" else wanted.encode()]


def test_lower_case_of_a_short_name_is_that_of_the_code_page() -> None:
    assert listed(short(b"\x80\x9a\xe2", case=0x08)) == ["\xe7\xfc\u0393".encode()]


def test_labels_and_deleted_entries_are_no_files_and_nothing_is_behind_the_end() -> None:
    volume = Volume(16, 5000)
    volume.root = short(b"\xe5ONE") + short(b"MY LABEL", attributes=0x08) + short(b"TWO") + bytes(32) + short(b"GHOST")
    fs = opened(volume)
    assert names(fs) == [b"TWO"]
    assert fs.label == "MY LABEL"


def test_names_that_may_not_be_shown_leave_the_file_its_short_name() -> None:
    entries = (
        long("a/b", b"SLASH") + short(b"SLASH") + long("..", b"DOTS") + short(b"DOTS") + short(b"X/Y") + short(b"OK")
    )
    volume = Volume(16, 5000)
    volume.root = entries
    fs = opened(volume)
    assert names(fs) == [b"SLASH", b"DOTS", b"OK"]
    assert fs.problems()[0] == 3


def test_lookup_folds_case_and_knows_short_names_and_prefers_what_is_written() -> None:
    volume = Volume(16, 5000)
    volume.root = (
        long("\xc9t\xe9 long.txt", b"ETELON~1TXT") + short(b"ETELON~1TXT") + short(b"CASE", case=8) + short(b"CASE")
    )
    fs = opened(volume)
    first, lower, upper = [entry.ino for entry in fs.scan(1)]
    for name in ("\xc9t\xe9 long.txt", "\xe9T\xc9 LONG.TXT", "etelon~1.txt", "ETELON~1.TXT", "\xc9t\xe9 long.txt..."):
        assert fs.lookup(1, name.encode()) == first
    assert (fs.lookup(1, b"case"), fs.lookup(1, b"CASE"), fs.lookup(1, b"Case")) == (lower, upper, lower)
    for name in (b"etelon~2.txt", b"\xff\xfe", b"x"):
        with pytest.raises(NotFound):
            fs.lookup(1, name)


# inodes


def test_times_are_local_with_the_resolution_of_each() -> None:
    volume = Volume(16, 5000)
    date = 21 << 9 | 2 << 5 | 3
    volume.root = short(b"A", times=(123, 4 << 11 | 5 << 5 | 3, date, date, 4 << 11 | 5 << 5 | 3, date))
    base = 981_173_106  # 2001-02-03 04:05:06
    for options, ahead in (
        ({}, 0),
        ({"tz": "UTC"}, 0),
        ({"time_offset": "120"}, 7200),
        ({"tz": "-03:30"}, -12_600),
        ({"tz": "Europe/Berlin"}, 3600),
    ):
        fs = opened(volume, **options)
        status = fs.stat(fs.lookup(1, b"A"))
        assert status.mtime_ns == status.ctime_ns == (base - ahead) * 10**9
        assert status.btime_ns == (base - ahead) * 10**9 + 1_230_000_000
        assert status.atime_ns == (base - base % 86_400 - ahead) * 10**9


@pytest.mark.parametrize(
    ("date", "time_of_day", "wanted"),
    [
        (0, 0, 315_532_800),
        (0x21, 0, 315_532_800),
        (127 << 9 | 12 << 5 | 31, 0xBF7D, 4_354_819_198),
        (120 << 9 | 3 << 5 | 1, 0, 4_107_542_400),  # 2100 has no 29 February
        (20 << 9 | 2 << 5 | 29, 0, 951_782_400),
    ],
)
def test_the_first_and_the_last_time(date: int, time_of_day: int, wanted: int) -> None:
    volume = Volume(16, 5000)
    volume.root = short(b"A", times=(0, 0, 0, 0, time_of_day, date))
    fs = opened(volume)
    assert fs.stat(fs.lookup(1, b"A")).mtime_ns == wanted * 10**9


def test_modes_and_owners_are_the_options() -> None:
    volume = Volume(16, 5000)
    volume.root = short(b"FILE") + short(b"LOCKED", attributes=0x21) + short(b"DIR", volume.folder(9, b""), 0, 0x11)

    def shown(**options: str) -> list[tuple[int, int, int]]:
        fs = opened(volume, **options)
        stats = [fs.stat(1), *(status for _, status in fs.scan_stat(1) if status)]
        return [(stat.S_IMODE(status.mode), status.uid, status.gid) for status in stats]

    assert [mode for mode, _, _ in shown()] == [0o755, 0o755, 0o555, 0o755]
    assert shown(uid="5", gid="6", fmask="0133", dmask="027")[:3] == [(0o750, 5, 6), (0o644, 5, 6), (0o444, 5, 6)]
    assert [mode for mode, _, _ in shown(umask="077")] == [0o700, 0o700, 0o500, 0o700]
    for bad in ({"uid": "x"}, {"umask": "9"}, {"tz": "Mars/Olympus"}, {"time_offset": "9999"}, {"codepage": "1"}):
        with pytest.raises(InvalidArgument):
            opened(volume, **bad)


def tree() -> Volume:
    volume = Volume(32, 66_000)
    deep = volume.folder(12, short(b"LEAF", volume.chain(b"leaf", [15]), 4), 10)
    outer = short(b"DEEP", deep, 0, 0x10, times=(0, 0, 0, 0, 0, 40 << 9 | 33)) + short(
        b"DIR2", volume.folder(13, b"", 10), 0, 0x10
    )
    volume.root = short(b"OUTER", volume.folder(10, outer, more=[11]), 0, 0x10)
    return volume


def test_directories_know_their_links_size_parent_and_own_entry() -> None:
    fs = opened(tree())
    outer = fs.lookup(1, b"outer")
    deep = fs.lookup(outer, b"deep")
    assert (fs.stat(1).nlink, fs.stat(outer).nlink, fs.stat(deep).nlink) == (3, 4, 2)
    assert (fs.stat(outer).size, fs.stat(outer).blocks, fs.stat(deep).size) == (1024, 2, 512)
    assert (fs.parent(outer), fs.parent(deep), fs.parent(1)) == (1, outer, 1)
    assert fs.stat(deep).mtime_ns == 1_577_836_800 * 10**9
    leaf = fs.lookup(deep, b"leaf")
    with pytest.raises(NotADirectory):
        fs.parent(leaf)
    with pytest.raises(IsADirectory):
        fs.open(deep)


def test_a_dotdot_that_names_the_root_by_its_cluster_leads_there() -> None:
    volume = Volume(32, 66_000)
    volume.root = short(b"DIR", volume.folder(10, b"", 2), 0, 0x10)
    fs = opened(volume)
    assert fs.parent(fs.lookup(1, b"dir")) == 1


def test_a_directory_whose_dotdot_leads_elsewhere_can_still_be_read() -> None:
    volume = Volume(32, 66_000)
    inner = volume.folder(12, short(b"FILE"), 9)
    volume.root = short(b"DIR", volume.folder(10, short(b"IN", inner, 0, 0x10)), 0, 0x10)
    fs = opened(volume)
    assert {path for path, _, _ in fs.walk()} == {b"DIR", b"DIR/IN", b"DIR/IN/FILE"}
    walked = {ino: status for _, ino, status in fs.walk()}
    assert all(fs.stat(ino) == status for ino, status in walked.items())


def test_directories_that_name_each_other_end() -> None:
    volume = Volume(32, 66_000)
    many = b"".join(short(b"D%d" % n, 10, 0, 0x10) for n in range(400))
    volume.folder(10, many, more=list(range(11, 40)))
    volume.root = short(b"DIR", 10, 0, 0x10) + short(b"ROOT", 2, 0, 0x10) + short(b"NONE", 0, 0, 0x10) + short(b"F")
    fs = opened(volume)
    walked = list(fs.walk())
    assert len(walked) == 404
    assert {path for path, _, status in walked if status is None} == {b"ROOT", b"NONE"}
    assert fs.problems()[0]
    for name in (b"ROOT", b"NONE"):
        with pytest.raises(Corrupt):
            fs.stat(fs.lookup(1, name))


def test_a_broken_directory_shows_what_is_there_and_then_complains() -> None:
    volume = Volume(16, 5000)
    entries = b"".join(short(b"F%d" % n) for n in range(30))
    volume.root = short(b"DIR", volume.folder(10, entries, more=[11]), 0, 0x10)
    volume.put(11, 0)
    fs = opened(volume)
    seen = []
    with pytest.raises(Corrupt):
        for entry in fs.scan(10):
            seen.append(entry.name)
    assert len(seen) == 30
    with pytest.raises(Corrupt):
        fs.lookup(10, b"missing")
    assert fs.lookup(10, b"f3")


def test_a_directory_beyond_two_mebibytes_is_damage() -> None:
    volume = Volume(16, 6000)
    volume.root = short(b"DIR", volume.folder(10, short(b"\xe5") * (4099 * 16), more=list(range(11, 4111))), 0, 0x10)
    with pytest.raises(Corrupt, match="length"):
        list(opened(volume).scan(10))


def test_a_full_directory_of_two_mebibytes_is_read_and_searched_soon() -> None:
    volume = Volume(32, 70_000)
    entries = b"".join(short(b"F%07d" % n) for n in range(65_534))
    volume.root = short(b"DIR", volume.folder(10, entries, more=list(range(11, 10 + 4096))), 0, 0x10)
    fs = opened(volume)
    began = time.process_time()
    assert len(names(fs, 10)) == 65_534
    assert fs.lookup(10, b"f0065533")
    assert time.process_time() - began < 5


# the whole


def test_marks_of_an_unclean_volume_are_its_state() -> None:
    assert opened(Volume(16, 5000)).state.kind == "clean"
    assert opened(Volume(16, 5000, dirty=1)).state.kind == "dirty-not-replayed"
    assert opened(Volume(32, 66_000, dirty=1)).state.kind == "dirty-not-replayed"
    for bits, value in ((16, 0x7FFF), (16, 0xBFFF), (32, 0x07FFFFFF), (32, 0x0BFFFFFF)):
        volume = Volume(bits, dict(KINDS)[bits])
        volume.put(1, value)
        assert opened(volume).state.kind == "dirty-not-replayed"


@pytest.mark.parametrize(
    ("offset", "data", "error"),
    [
        (11, b"\0\1", Corrupt),
        (13, b"\3", Corrupt),
        (14, b"\0\0", Corrupt),
        (16, b"\0", Corrupt),
        (21, b"\1", Corrupt),
        (36, b"\0\0\0\0", Corrupt),
        (42, b"\0\1", Unsupported),
        (32, b"\1\0\0\0", Corrupt),
    ],
)
def test_a_boot_sector_that_makes_no_sense_is_refused(offset: int, data: bytes, error: type[Exception]) -> None:
    volume = Volume(32, 66_000)
    volume.image[offset : offset + len(data)] = data
    with pytest.raises(error):
        opened(volume)


def test_totals_of_zero_are_those_of_the_device() -> None:
    volume = Volume(16, 5000)
    struct.pack_into("<H", volume.image, 19, 0)
    assert opened(volume).details()["clusters"] == 5000


def test_keys_that_name_nothing_are_not_found() -> None:
    fs = opened(tree())
    for key in (0, 2, 66_002, 2**32, 2**32 + 5, 2**51):
        with pytest.raises(NotFound):
            fs.stat(key)


def test_a_device_without_a_boot_sector_is_refused() -> None:
    with pytest.raises(Corrupt):
        opened(ZeroSource(100))
    assert fatwriter.END[12] == 0xFFF
