"""exFAT: what no tool writes, and what is damaged. Volumes are made from a kept empty-but-small one."""

from __future__ import annotations

import lzma
import struct
import time
from functools import cache
from pathlib import Path

import pytest
from recipes.exfat_writer import Volume, stamp, sum16, sum32

from guestkit.errors import Corrupt, InvalidArgument, IsADirectory, NotADirectory, NotFound, Unsupported
from guestkit.fs.exfat import open as open_exfat
from guestkit.fs.exfat.filesystem import ExFat
from guestkit.fs.exfat.upcase import parse_table
from guestkit.limits import Limits
from guestkit.source import BytesSource

DATA = Path(__file__).parent.parent / "data" / "fat"


@cache
def _base() -> bytes:
    return lzma.decompress((DATA / "exfat-unknown.img.xz").read_bytes())


@pytest.fixture
def volume() -> Volume:
    return Volume(_base())


def opened(volume: Volume, **options: str) -> ExFat:
    volume.close()
    return open_exfat([BytesSource(bytes(volume.image))], Limits(), options)


def content(fs: ExFat, name: str) -> bytes:
    source = fs.open(fs.lookup(fs.root, name.encode()))
    return source.read(0, source.size)


def names(fs: ExFat, directory: int = 1) -> list[str]:
    return [entry.name.decode("utf-8", "surrogatepass") for entry in fs.scan(directory)]


def test_a_stream_without_a_chain_is_contiguous_whatever_the_table_says(volume: Volume) -> None:
    data = bytes(range(256)) * 20
    clusters = volume.file(volume.root, "file", data)
    for cluster in clusters:
        volume.put(cluster, 3)
    assert content(opened(volume), "file") == data


def test_a_chained_stream_follows_the_table_alone(volume: Volume) -> None:
    data = bytes(range(256)) * 20
    clusters = volume.file(volume.root, "file", data, chained=True)
    volume.link([clusters[0], clusters[2], clusters[1], *clusters[3:]])
    found = content(opened(volume), "file")
    size = volume.size
    assert found[size : 2 * size] == data[2 * size : 3 * size]


def test_the_root_directory_is_always_chained(volume: Volume) -> None:
    volume.file(volume.root, "between", b"x" * 3000)
    wanted = [f"file number {number} with a long name" for number in range(100)]
    for name in wanted:
        volume.file(volume.root, name, b"")
    fs = opened(volume)
    assert len(volume.root.clusters) > 10
    assert names(fs)[-100:] == wanted
    assert fs.stat(1).size == len(volume.root.clusters) * volume.size


def test_bytes_behind_the_valid_length_are_zeros(volume: Volume) -> None:
    clusters = volume.file(volume.root, "file", b"valid", size=3000)
    for cluster in clusters:
        volume.image[volume.place(cluster) + 5 : volume.place(cluster) + volume.size] = b"\xee" * (volume.size - 5)
    assert content(opened(volume), "file") == b"valid".ljust(3000, b"\0")


@pytest.mark.parametrize("wrong", ["free", "bad", "loop", "end", "beyond"])
def test_a_broken_chain_costs_what_is_behind_the_break(volume: Volume, wrong: str) -> None:
    data = bytes(range(256)) * 20
    clusters = volume.file(volume.root, "file", data, chained=True)
    value = {"free": 0, "bad": 0xFFFFFFF7, "loop": clusters[0], "end": 0xFFFFFFFF, "beyond": volume.clusters + 2}
    volume.put(clusters[2], value[wrong])
    fs = opened(volume)
    source = fs.open(fs.lookup(1, b"file"))
    assert source.read(0, 3 * volume.size) == data[: 3 * volume.size]
    with pytest.raises(Corrupt):
        source.read(3 * volume.size, 1)


def test_a_set_with_a_bad_checksum_hides_only_itself(volume: Volume) -> None:
    volume.file(volume.root, "one", b"1")
    at = len(volume.root.entries)
    volume.file(volume.root, "two", b"2")
    volume.file(volume.root, "three", b"3")
    volume.root.entries[at + 66] ^= 1
    fs = opened(volume)
    seen = []
    with pytest.raises(Corrupt, match="SetChecksum"):
        for entry in fs.scan(1):
            seen.append(entry.name)
    assert seen == [b"vendor extension", b"one", b"three"]
    assert content(fs, "three") == b"3"
    with pytest.raises(Corrupt):
        fs.lookup(1, b"two")
    assert fs.problems()[0] == 1


def test_unknown_entries_are_passed_over_or_refused_as_they_say(volume: Volume) -> None:
    volume.file(volume.root, "benign", b"x", more=bytes([0xE5]) + bytes(31))
    volume.root.entries += bytes([0xBF]) + b"\xff" * 31  # a benign primary one
    volume.root.entries += bytes([0x05, 2]) + bytes(30)  # not in use
    fs = opened(volume)
    assert names(fs) == ["vendor extension", "benign"]
    volume.file(volume.root, "critical", b"x", more=bytes([0xC5]) + bytes(31))
    volume.file(volume.root, "behind", b"x")
    fs = opened(volume)
    seen = []
    with pytest.raises(Unsupported, match="0xc5"):
        for entry in fs.scan(1):
            seen.append(entry.name)
    assert seen == [b"vendor extension", b"benign", b"behind"]


def test_a_critical_primary_entry_that_is_not_known_is_told_by_its_type(volume: Volume) -> None:
    volume.root.entries += bytes([0x9F]) + bytes(31)
    volume.file(volume.root, "behind", b"x")
    fs = opened(volume)
    with pytest.raises(Unsupported, match="0x9f"):
        list(fs.scan(1))
    assert content(fs, "behind") == b"x"


@pytest.mark.parametrize("count", [0, 1, 19, 255])
def test_a_set_of_an_impossible_length_hides_only_itself(volume: Volume, count: int) -> None:
    at = len(volume.root.entries)
    volume.file(volume.root, "one", b"1")
    volume.file(volume.root, "two", b"2")
    volume.root.entries[at + 1] = count
    fs = opened(volume)
    with pytest.raises(Corrupt):
        list(fs.scan(1))
    assert content(fs, "two") == b"2"


def test_a_set_that_the_end_of_the_directory_cuts_off_is_damage(volume: Volume) -> None:
    volume.file(volume.root, "a name of several entries", b"1")
    del volume.root.entries[-32:]
    with pytest.raises(Corrupt, match="length"):
        list(opened(volume).scan(1))


def test_sets_that_span_scattered_clusters_are_found_by_their_keys(volume: Volume) -> None:
    folder = volume.folder(volume.root, "dir", 12, step=3)
    for number in range(100):
        volume.file(folder, f"n{number}", b"%d" % number)
    fs = opened(volume)
    directory = fs.lookup(1, b"dir")
    pairs = list(fs.scan_stat(directory))
    assert len(pairs) == 100
    for entry, status in pairs:
        assert fs.stat(entry.ino) == status
        assert fs.open(entry.ino).read(0, 1) == entry.name[1:2]


def test_folding_is_the_volumes_table(volume: Volume) -> None:
    volume.file(volume.root, "Stra\xdfe \u0436 \U0001f600", b"x")
    fs = opened(volume)
    wanted = fs.lookup(1, "Stra\xdfe \u0436 \U0001f600".encode())
    assert fs.lookup(1, "STRA\xdfE \u0416 \U0001f600".encode()) == wanted
    with pytest.raises(NotFound):
        fs.lookup(1, "STRASSE \u0416 \U0001f600".encode())
    with pytest.raises(NotFound):
        fs.lookup(1, b"\xff")


def test_a_table_of_its_own_changes_what_is_the_same_name(volume: Volume) -> None:
    table = list(range(0x10000))
    table[ord("a")] = ord("Z")
    data = struct.pack("<65536H", *table)
    clusters = volume.take(-(-len(data) // volume.size))
    volume.link(clusters)
    volume.store(data, clusters)
    at = next(at for at in range(0, len(volume.root.entries), 32) if volume.root.entries[at] == 0x82)
    struct.pack_into("<I", volume.root.entries, at + 4, sum32(data))
    struct.pack_into("<IQ", volume.root.entries, at + 20, clusters[0], len(data))
    volume.file(volume.root, "abc", b"x")
    fs = opened(volume)
    assert fs.lookup(1, b"Zbc") == fs.lookup(1, b"abc")
    with pytest.raises(NotFound):
        fs.lookup(1, b"ABC")


def test_a_damaged_table_is_told_and_ascii_still_folds(volume: Volume) -> None:
    at = next(at for at in range(0, len(volume.root.entries), 32) if volume.root.entries[at] == 0x82)
    volume.root.entries[at + 4] ^= 1
    volume.file(volume.root, "File", b"x")
    fs = opened(volume)
    assert fs.lookup(1, b"fILE")
    assert "TableChecksum" in fs.problems()[1][0].message


def test_compressed_tables_skip_what_is_the_same() -> None:
    data = struct.pack("<5H", 0x1111, 0xFFFF, 0x60, 0x41, 0x42)
    table = parse_table(data, sum32(data))
    assert (table[0], table[1], table[0x60], table[0x61], table[0x62], table[0x63]) == (
        *(0x1111, 1, 0x60),
        *(0x41, 0x42, 0x63),
    )


def test_times_with_and_without_an_offset(volume: Volume) -> None:
    local = stamp(2001, 2, 3, 4, 5, 6)
    volume.file(volume.root, "t", b"", times=(local,) * 3, tenths=(199, 0), offsets=(0x80 | 0x40, 0, 0x80 | 0x3F))
    base = 981_173_106
    fs = opened(volume, time_offset="60")
    status = fs.stat(fs.lookup(1, b"t"))
    assert status.btime_ns == (base + 64 * 900) * 10**9 + 1_990_000_000
    assert status.mtime_ns == (base - 3600) * 10**9
    assert status.atime_ns == (base - 63 * 900) * 10**9


def test_modes_and_owners_are_the_options(volume: Volume) -> None:
    volume.file(volume.root, "locked", b"", attributes=0x21)
    volume.folder(volume.root, "dir")
    fs = opened(volume, uid="7", gid="8", fmask="0137", dmask="0077")
    locked, directory = fs.stat(fs.lookup(1, b"locked")), fs.stat(fs.lookup(1, b"dir"))
    assert (locked.mode & 0o777, locked.uid, locked.gid, directory.mode & 0o777) == (0o440, 7, 8, 0o700)
    with pytest.raises(InvalidArgument):
        opened(volume, dmask="rwx")


def test_parents_are_found_without_having_been_listed(volume: Volume) -> None:
    outer = volume.folder(volume.root, "outer")
    inner = volume.folder(outer, "inner")
    volume.file(inner, "leaf", b"x")
    fs = opened(volume)
    one = fs.lookup(1, b"OUTER")
    two = fs.lookup(one, b"inner")
    again = opened(volume)
    assert (again.parent(two), again.parent(one), again.parent(1)) == (one, 1, 1)
    assert (fs.stat(1).nlink, fs.stat(one).nlink, fs.stat(two).nlink) == (3, 3, 2)
    leaf = fs.lookup(two, b"leaf")
    with pytest.raises(NotADirectory):
        fs.parent(leaf)
    with pytest.raises(IsADirectory):
        fs.open(two)


def test_directories_that_share_clusters_end(volume: Volume) -> None:
    folder = volume.folder(volume.root, "dir", 40)
    first = folder.clusters[0]
    for number in range(300):
        folder.entries += volume.entry_set(f"d{number}", 0x10, first, 40 * volume.size, 40 * volume.size, chained=False)
    volume.root.entries += volume.entry_set("root", 0x10, volume.root_cluster, volume.size, volume.size, chained=True)
    fs = opened(volume)
    walked = list(fs.walk())
    assert len(walked) == 303
    assert [path for path, _, status in walked if status is not None and status.mode & 0o40000] == [b"dir"]
    with pytest.raises(Corrupt):
        fs.stat(fs.lookup(fs.lookup(1, b"dir"), b"d5"))


def test_names_that_may_not_be_shown_are_left_out(volume: Volume) -> None:
    for name in ("a/b", "..", ".", (0x41, 0, 0x42)):
        volume.file(volume.root, name, b"x")
    volume.file(volume.root, (0x41, 0xD800), b"x")
    fs = opened(volume)
    assert names(fs) == ["vendor extension", "A\ud800"]
    assert fs.problems()[0] == 4


@pytest.mark.parametrize(("size", "valid"), [(1 << 63, 5), (1 << 40, 0), (5, 6)])
def test_impossible_sizes_are_damage(volume: Volume, size: int, valid: int) -> None:
    cluster = volume.take(1)[0]
    volume.root.entries += volume.entry_set("huge", 0x20, cluster, size, valid, chained=False)
    fs = opened(volume)
    with pytest.raises(Corrupt):
        for entry, status in fs.scan_stat(1):
            if entry.name == b"huge":
                assert status is None
                fs.stat(entry.ino)
    fs = opened(volume)
    with pytest.raises(Corrupt):
        content(fs, "huge")


def test_a_large_directory_is_searched_by_hash_and_resumed() -> None:
    volume = Volume(lzma.decompress((DATA / "exfat-32k.img.xz").read_bytes()))
    folder = volume.folder(volume.root, "large", 36)
    wanted = [f"n{number:05}" for number in range(11_700)]
    folder.entries += b"".join(volume.entry_set(name, 0x20, 0, 0, 0, chained=False) for name in wanted)
    fs = opened(volume)
    directory = fs.lookup(1, b"large")
    entries = list(fs.scan(directory))
    assert [entry.name.decode() for entry in entries] == wanted
    assert list(fs.scan(directory, entries[11_000].cookie)) == entries[11_001:]
    began = time.process_time()
    assert fs.lookup(directory, b"N11699") == entries[-1].ino
    with pytest.raises(NotFound):
        fs.lookup(directory, b"n11700")
    assert time.process_time() - began < 3
    assert fs.stat(directory).nlink == 2
    began = time.process_time()
    some = entries[::20]
    assert [fs.lookup(directory, entry.name) for entry in some] == [entry.ino for entry in some]
    assert time.process_time() - began < 10  # they are not searched for in all entries one after the other


def test_a_damaged_set_in_a_large_directory_costs_no_other_name() -> None:
    volume = Volume(lzma.decompress((DATA / "exfat-32k.img.xz").read_bytes()))
    folder = volume.folder(volume.root, "large", 36)
    sets = [volume.entry_set(f"n{number:05}", 0x20, 0, 0, 0, chained=False) for number in range(11_700)]
    sets[7000] = sets[7000][:70] + b"?" + sets[7000][71:]
    folder.entries += b"".join(sets)
    fs = opened(volume)
    directory = fs.lookup(1, b"large")
    assert fs.lookup(directory, b"n06999") < fs.lookup(directory, b"N07001")
    for name in (b"n07000", b"n11700"):  # either may be the damaged one
        with pytest.raises(Corrupt, match="SetChecksum"):
            fs.lookup(directory, name)


def test_free_clusters_are_those_of_the_bitmap(volume: Volume) -> None:
    before = opened(volume).statvfs()
    volume.take(77)
    after = opened(volume).statvfs()
    assert before.blocks == after.blocks == volume.clusters
    assert before.bfree - after.bfree == 77
    assert (after.bsize, after.namemax) == (volume.size, 1530)


def test_the_backup_serves_when_the_boot_region_is_damaged(volume: Volume) -> None:
    for place in (100, 3 * volume.sector):
        copy = Volume(bytes(volume.close()))
        copy.image[place] ^= 0xFF
        fs = opened(copy)
        assert fs.uuid == "1234-ABCD"
        assert "backup was used" in fs.problems()[1][0].message
        copy.image[12 * volume.sector + place] ^= 0xFF
        with pytest.raises(Corrupt, match="BootChecksum"):
            opened(copy)


@pytest.mark.parametrize(
    ("offset", "data", "error"),
    [
        (11, b"\1", Corrupt),
        (80, b"\1\0\0\0", Corrupt),
        (84, b"\0\0\0\0", Corrupt),
        (92, b"\xff\xff\xff\xff", Corrupt),
        (96, b"\1\0\0\0", Corrupt),
        (105, b"\2", Unsupported),
        (108, b"\x0d", Corrupt),
        (109, b"\x1f", Corrupt),
        (110, b"\3", Corrupt),
    ],
)
def test_a_boot_sector_that_makes_no_sense_is_refused(
    volume: Volume, offset: int, data: bytes, error: type[Exception]
) -> None:
    for region in (0, 12):
        at = region * volume.sector + offset
        volume.image[at : at + len(data)] = data
        volume.sum_boot(region=region)
    with pytest.raises(error):
        opened(volume)


def test_flags_that_may_change_do_not_count_in_the_checksum(volume: Volume) -> None:
    volume.image[106] = 0x06
    volume.image[112] = 99
    state = opened(volume).state
    assert state.kind == "dirty-not-replayed"
    assert "medium failed" in state.reason


def test_keys_that_name_nothing_are_not_found(volume: Volume) -> None:
    fs = opened(volume)
    inside = volume.place(volume.root_cluster) // 32
    for key in (0, 2, inside, inside + 1, 2**40, 2**51):
        with pytest.raises(NotFound):
            fs.stat(key)
    assert sum16(b"") == 0
