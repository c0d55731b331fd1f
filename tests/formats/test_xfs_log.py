"""Replay of dirty XFS logs: fixtures against the kernel's view, and records written by hand."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import manifest
import pytest
import xfs_log_images as logs
from imagefiles import Faulty
from recipes.host import loop_device, loop_mount, mounted
from xfs_log_images import BLOCK, CONTINUE, END, WAS_CONTINUED, LogWriter

from guestkit.checksum import crc32c
from guestkit.errors import SourceError, Unsupported, WouldBlock
from guestkit.fs import xfs
from guestkit.fs.xfs.filesystem import Xfs
from guestkit.fs.xfs.log_record import Ring
from guestkit.limits import Limits
from guestkit.source import BytesSource, Extent, FileSource, Leaf, Overlay, Source, patience

RECOVERED = [name for name in logs.NAMES if logs.told(name)["oracle"] == "recovered"]
SETTLED = [name for name in RECOVERED if logs.told(name)["settled"]]
MOUNTED = [name for name in SETTLED if not name.startswith("v4")]


def opened(source: Source, **options: str) -> Xfs:
    return xfs.open([source], Limits(), options)


# fixtures


@pytest.mark.parametrize("name", logs.NAMES)
def test_replayed_tree_is_what_the_kernel_shows(name: str) -> None:
    fs = opened(BytesSource(logs.image(name)))
    assert fs.state.kind == "replayed"
    wanted = manifest.unpack(logs.told(name)["tree"])
    assert list(manifest.differences(wanted, manifest.from_filesystem(fs))) == []
    assert list(manifest.index_differences(fs, manifest.from_filesystem(fs))) == []
    assert fs.problems() == (0, ())


@pytest.mark.parametrize("name", SETTLED)
def test_figures_of_free_space_are_those_after_recovery(name: str) -> None:
    fs = opened(BytesSource(logs.image(name)))
    assert list(manifest.figure_differences(logs.told(name)["statvfs"], manifest.api_statvfs(fs))) == []


@pytest.mark.parametrize("name", [name for name in logs.NAMES if name != "frozen"])
def test_without_replay_an_older_tree_shows_and_the_state_says_so(name: str) -> None:
    fs = opened(BytesSource(logs.image(name)), norecovery="1")
    assert fs.state.kind == "dirty-not-replayed"
    wanted = manifest.unpack(logs.told(name)["tree"])
    assert list(manifest.differences(wanted, manifest.from_filesystem(fs))) != []


@pytest.mark.parametrize("name", ["wrapped-1k", "v4-log-v1"])
def test_the_log_of_some_fixtures_went_round(name: str) -> None:
    source = BytesSource(logs.image(name))
    sup = logs.superblock_of(source)
    blocks = sup.log_blocks * sup.block_size // 512
    ring = Ring(source, sup.fsblock_offset(sup.log_start), blocks, sup.log_version, 0, sup.uuid)
    assert min(ring.cycles(0, 1)[0], ring.cycles(blocks - 1, 1)[0]) >= 1
    assert max(ring.cycles(0, 1)[0], ring.cycles(blocks - 1, 1)[0]) > 1


def test_a_frozen_filesystem_has_little_to_be_replayed() -> None:
    result, state, problems = logs.replay(BytesSource(logs.image("frozen")))
    assert state.kind == "replayed" and problems.count == 0
    assert isinstance(result, Overlay)
    assert sum(patch.length for patch in result._patches) <= 4096


def test_replayed_blocks_have_the_checksum_and_the_log_sequence_number_of_their_change() -> None:
    result, _, _ = logs.replay(BytesSource(logs.image("mixed-copied")))
    assert isinstance(result, Overlay)
    seen = 0
    for patch in result._patches:
        for at in range(patch.offset, patch.offset + patch.length, 4096):
            data = result.read(at, 4096)
            if data[:4] in (b"XDB3", b"XDD3"):
                assert crc32c(data[:4] + bytes(4) + data[8:]) ^ 0xFFFFFFFF == int.from_bytes(data[4:8], "little")
                assert int.from_bytes(data[16:24], "big") > 1 << 32
                seen += 1
    assert seen


@pytest.mark.root
@pytest.mark.tool("mount")
@pytest.mark.parametrize("name", MOUNTED)
def test_every_block_equals_that_of_the_kernel(name: str, tmp_path: Path) -> None:
    result, _, _ = logs.replay(BytesSource(logs.image(name)))
    path = tmp_path / "image"
    path.write_bytes(logs.image(name))
    with loop_mount(path, options="rw,noatime,nouuid", kind="xfs"):
        pass
    expected = path.read_bytes()
    assert isinstance(result, Overlay)
    compared, different = 0, []
    for patch in result._patches:
        found = result.read(patch.offset, patch.length)
        for at in range(0, patch.length, 512):
            place = patch.offset + at
            compared += 1
            if found[at : at + 512] != expected[place : place + 512]:
                different.append(place)
    # the superblock was written once more, at unmounting, with the same counters
    assert set(different) <= {0}
    assert compared > 20 or name == "frozen"
    assert result.read(128, 24) == expected[128:152]


@pytest.mark.root
@pytest.mark.tool("mkfs.xfs", "xfs_io", "xfs_repair")
def test_a_replayed_copy_satisfies_xfs_repair(tmp_path: Path) -> None:
    source = BytesSource(logs.image("inode-2k"))
    result, _, _ = logs.replay(source)
    path = tmp_path / "image"
    path.write_bytes(result.read(0, result.size))
    done = subprocess.run(["xfs_repair", "-f", "-n", path], capture_output=True, text=True, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "would" in line or "bad" in line]
    assert complaints == []


@pytest.mark.tool("mkfs.xfs")
def test_a_clean_log_costs_few_reads(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", path], check=True, capture_output=True)
    source = FileSource.open(path)
    reads: list[int] = []

    class Watched(Leaf):
        size = source.size

        def read_into(self, offset: int, buf: memoryview) -> None:
            reads.append(len(buf))
            source.read_into(offset, buf)

    _, state, problems = logs.replay(Watched())
    assert state.kind == "clean" and problems.count == 0
    assert len(reads) < 40 and sum(reads) < 3 << 20  # of 64 MiB
    source.close()


@pytest.mark.root
@pytest.mark.tool("mkfs.xfs", "xfs_io")
@pytest.mark.parametrize(
    ("options", "mount"),
    [
        ("-b size=4096", "logbsize=256k"),
        ("-b size=1024", "logbsize=16k"),
        ("-m rmapbt=1 -i nrext64=1", ""),
        ("-n size=16384 -s size=4096", "logbsize=64k"),
    ],
)
def test_a_copy_taken_while_it_is_written_reads_as_the_kernel_reads_it(
    options: str, mount: str, tmp_path: Path
) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    with live.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", *options.split(), live], check=True, capture_output=True)
    with loop_mount(live, options=",".join(filter(None, ("rw", mount))), kind="xfs") as top:
        for number in range(800):
            path = top / f"d{number % 7}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"%d" % number * (number % 50))
            if not number % 3:
                os.setxattr(path, "user.some", b"x" * number)
            if number % 5 == 4:
                (top / f"d{(number - 3) % 7}" / f"f{number - 3}").unlink()
            if not number % 200:
                subprocess.run(["sync", "-f", top], check=True)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        subprocess.run(["cp", "--sparse=always", live, copy], check=True)
    file = FileSource.open(copy)
    fs = opened(file)
    assert fs.state.kind == "replayed"
    found = manifest.from_filesystem(fs)
    assert fs.problems()[0] == 0
    assert len(found) > 600
    file.close()
    with loop_mount(copy, options="rw,noatime", kind="xfs"):
        pass
    with loop_mount(copy, options="ro", kind="xfs") as top:
        assert list(manifest.differences(manifest.from_directory(top), found)) == []


@pytest.mark.root
@pytest.mark.tool("mkfs.xfs", "xfs_io")
def test_a_log_on_another_device_is_replayed_when_it_is_given(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    for path, size in ((data, 320 << 20), (log, 64 << 20)):
        with path.open("wb") as file:
            file.truncate(size)
    with loop_device(data, writable=True) as one, loop_device(log, writable=True) as two:
        subprocess.run(["mkfs.xfs", "-q", "-l", f"logdev={two}", one], check=True, capture_output=True)
        with mounted(one, options=f"logdev={two}", kind="xfs") as top:
            for number in range(50):
                (top / f"file-{number}").write_bytes(b"%d" % number)
            subprocess.run(["xfs_io", "-x", "-c", "shutdown -f", top], check=True)
    sources = [FileSource.open(data), FileSource.open(log)]
    fs = xfs.open(sources, Limits(), {})
    assert fs.state.kind == "replayed"
    assert sorted(entry.name for entry in fs.scan(fs.root)) == sorted(b"file-%d" % number for number in range(50))
    with pytest.raises(Unsupported, match="external log"):
        xfs.open(sources[:1], Limits(), {})
    for source in sources:
        source.close()


@pytest.mark.root
@pytest.mark.tool("mkfs.xfs", "xfs_io", "xfs_growfs")
def test_groups_that_only_the_log_knows_of_are_there(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", path], check=True, capture_output=True)
    os.truncate(path, 1 << 30)
    with loop_device(path, writable=True) as device, mounted(device, kind="xfs") as top:
        subprocess.run(["xfs_growfs", top], check=True, capture_output=True)
        for number in range(30):  # each directory in another allocation group
            (top / f"d{number}").mkdir()
            (top / f"d{number}" / "inside").write_bytes(b"%d" % number)
        subprocess.run(["xfs_io", "-x", "-c", "shutdown -f", top], check=True)
    source = FileSource.open(path)
    before = logs.superblock_of(source)
    fs = opened(source)
    assert fs.state.kind == "replayed"
    assert fs.superblock.ag_count > before.ag_count
    found = manifest.from_filesystem(fs)
    assert fs.problems()[0] == 0
    with loop_mount(path, options="rw,noatime", kind="xfs"):
        pass
    with loop_mount(path, options="ro", kind="xfs") as top:
        assert list(manifest.differences(manifest.from_directory(top), found)) == []
        assert list(manifest.figure_differences(manifest.host_statvfs(top), manifest.api_statvfs(fs))) == []
    source.close()


@pytest.mark.parametrize("name", ["create", "wrapped-1k"])
def test_a_read_that_fails_is_an_error_and_a_retry_is_right(name: str) -> None:
    data = logs.image(name)
    sup = logs.superblock_of(BytesSource(data))
    wanted, _, _ = logs.replay(BytesSource(data))
    assert isinstance(wanted, Overlay)
    places = [(patch.offset, patch.length) for patch in wanted._patches]
    failed = 0
    for number in range(1, 60):
        device = Faulty(data, lambda reads, number=number: reads == number)  # type: ignore[misc]
        for _ in range(2):
            try:
                found, state, _ = logs.replay(device, sup)
            except SourceError:
                failed += 1
                continue
            assert state.kind == "replayed"
            for offset, length in places[:40:8]:
                if offset:  # the superblock's counters are those of groups that can be read
                    try:
                        data_of = found.read(offset, length)
                    except SourceError:
                        data_of = found.read(offset, length)
                    assert data_of == wanted.read(offset, length)
            break
        else:
            pytest.fail("the retry failed too")
    assert failed > 20


def test_blocks_are_not_made_by_a_thread_that_may_not_wait() -> None:
    result, _, _ = logs.replay(BytesSource(logs.image("create")))
    assert isinstance(result, Overlay)
    patch = result._patches[-1]
    patience.may_block = False
    try:
        with pytest.raises(WouldBlock):
            result.read(patch.offset, 512)
        patience.may_block = True
        data = result.read(patch.offset, 512)
        patience.may_block = False
        assert result.read(patch.offset, 512) == data
    finally:
        patience.may_block = True


# records written by hand

DIRECTORY = 20 * 8  # blkno of a block that has an LSN
PLAIN = 30 * 8  # of one that has none
DATA_TYPE = 11 << 11


def put(log: LogWriter, blkno: int, data: bytes) -> None:
    log.device[blkno * 512 : blkno * 512 + len(data)] = data


def chunk(fill: int) -> bytes:
    return bytes([fill]) * 128


def at(source: Source, blkno: int, length: int = BLOCK) -> bytes:
    return source.read(blkno * 512, length)


def replayed(log: LogWriter, version: int = 5, **fields: int) -> tuple[Source, str]:
    result, state, problems = logs.replay(log.source(), logs.superblock(version, **fields))
    assert (state.kind, problems.count) == ("replayed", 0), state
    return result, state.reason


def refused(log: LogWriter, version: int = 5, **fields: int) -> str:
    source = log.source()
    result, state, problems = logs.replay(source, logs.superblock(version, **fields))
    assert state.kind == "dirty-not-replayed"
    assert problems.count == 1
    assert result is source
    return state.reason


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [32768, 65536, 262144])
@pytest.mark.parametrize("where", [0, 1, 5, 9])
def test_long_records_that_wrap_are_unpacked(version: int, size: int, where: int) -> None:
    if version == 1 and size > 32768:
        size = 32768
    log = (
        LogWriter(at=LogWriter().blocks - where, cycle=4, size=size, version=version)
        if where
        else LogWriter(size=size, version=version)
    )
    count = 60 if size <= 32768 else 200
    for number in range(count):
        log.transaction(logs.buffer_item(PLAIN, 8, {number % 32: chunk(number + 1)}), tid=number + 1)
    log.record()
    result, _ = replayed(log, log_version=version)
    last = {number % 32: number + 1 for number in range(count)}
    assert at(result, PLAIN) == b"".join(chunk(last[index]) for index in range(32))


@pytest.mark.parametrize("first", [4, 12, 16, 20, 32, 36, 100, 128, 132])
def test_regions_and_headers_that_are_split_over_records(first: int) -> None:
    """`first` bytes of all that the transaction logs stand in the first record."""
    log = LogWriter()
    regions = [struct.pack("<IIiI", 0x5452414E, 40, 5, 1), *logs.buffer_item(PLAIN, 8, {3: chunk(1), 4: chunk(2)})]
    log.op(5, flags=1)
    left = first
    for index, region in enumerate(regions):
        if left <= 0 or left >= len(region):
            log.op(5, region)
        else:
            log.op(5, region[:left], CONTINUE)
            log.record()
            middle = (left + len(region)) // 8 * 4 if index else left
            if index:  # the header comes in two parts at most
                log.op(5, region[left:middle], WAS_CONTINUED | CONTINUE)
                log.transaction(logs.buffer_item(PLAIN, 8, {9: chunk(9)}), tid=6)
                log.record()
            log.op(5, region[middle:], WAS_CONTINUED | END)
        left -= len(region)
        assert index < 3
    log.op(5, flags=2)
    log.record()
    result, _ = replayed(log)
    data = at(result, PLAIN)
    assert data[384:512] == chunk(1) and data[512:640] == chunk(2)


def test_transactions_without_beginning_or_end_do_not_count() -> None:
    log = LogWriter()
    for region in logs.buffer_item(PLAIN, 8, {0: chunk(1)}):
        log.op(3, region)  # its beginning was written back, and overwritten
    log.op(3, flags=2)
    log.transaction(logs.buffer_item(PLAIN, 8, {1: chunk(2)}))
    log.begin(4)
    for region in logs.buffer_item(PLAIN, 8, {2: chunk(3)}):
        log.op(4, region)
    log.record()
    result, reason = replayed(log)
    assert at(result, PLAIN, 512) == chunk(0) + chunk(2) + bytes(256)
    assert reason.startswith("1 transactions")


def test_an_unmounted_filesystem_is_clean() -> None:
    log = LogWriter()
    log.transaction(logs.buffer_item(PLAIN, 8, {0: chunk(1)}))
    log.record()
    log.unmount()
    source = log.source()
    result, state, _ = logs.replay(source, logs.superblock())
    assert state.kind == "clean" and result is source


def test_a_log_of_zeros_is_clean() -> None:
    log = LogWriter()
    assert logs.replay(log.source(), logs.superblock())[1].kind == "clean"


def test_replay_begins_where_the_last_record_says() -> None:
    log = LogWriter()
    log.transaction(logs.buffer_item(PLAIN, 8, {0: chunk(1)}))
    log.record()
    log.transaction(logs.buffer_item(PLAIN, 8, {1: chunk(2)}))
    tail = log.cycle << 32 | log.at
    log.record(tail)
    result, _ = replayed(log)
    assert at(result, PLAIN, 256) == chunk(0) + chunk(2)


def test_a_cancelled_buffer_is_replayed_only_from_there_on() -> None:
    log = LogWriter()
    log.transaction(logs.buffer_item(PLAIN, 8, {0: chunk(1)}), logs.buffer_item(PLAIN + 8, 8, {0: chunk(1)}))
    log.record()
    log.transaction(logs.cancel_item(PLAIN, 8), logs.buffer_item(PLAIN + 8, 8, {1: chunk(2)}))
    log.record()
    log.transaction(logs.buffer_item(PLAIN, 8, {2: chunk(3)}))
    log.record()
    result, _ = replayed(log)
    assert at(result, PLAIN, 512) == bytes(256) + chunk(3) + bytes(128)
    assert at(result, PLAIN + 8, 512) == chunk(1) + chunk(2) + bytes(256)


def test_a_cancellation_covers_inodes_and_the_creation_of_their_cluster() -> None:
    log = LogWriter(cycle=3)
    log.transaction(logs.inode_item(PLAIN, 32, 512, logs.core()))
    log.record()
    log.transaction(logs.cancel_item(PLAIN, 32))
    log.record()
    result, _ = replayed(log)
    assert at(result, PLAIN, 32 * 512) == bytes(32 * 512)


@pytest.mark.parametrize(("older", "applied"), [(True, True), (False, False)])
def test_a_block_that_is_newer_is_left_alone(older: bool, applied: bool) -> None:
    log = LogWriter(cycle=5)
    lsn = (5 << 32) + (-1 if older else 0)
    put(log, DIRECTORY, logs.directory_block(lsn, 7))
    log.transaction(logs.buffer_item(DIRECTORY, 8, {20: chunk(8)}, DATA_TYPE))
    log.record()
    result, _ = replayed(log)
    data = at(result, DIRECTORY)
    assert (data[20 * 128 : 21 * 128] == chunk(8)) == applied
    assert int.from_bytes(data[16:24], "big") == (5 << 32 if applied else lsn)
    assert crc32c(data[:4] + bytes(4) + data[8:]) ^ 0xFFFFFFFF == int.from_bytes(data[4:8], "little")


def test_a_block_of_another_filesystem_is_older_than_any_change() -> None:
    log = LogWriter(cycle=5)
    stale = bytearray(logs.directory_block(9 << 32, 7))
    stale[24:40] = bytes(16)
    put(log, DIRECTORY, bytes(stale))
    log.transaction(logs.buffer_item(DIRECTORY, 8, {20: chunk(8)}, DATA_TYPE))
    log.record()
    assert at(replayed(log)[0], DIRECTORY)[20 * 128 : 21 * 128] == chunk(8)


def test_changes_of_one_record_do_not_hide_each_other() -> None:
    log = LogWriter(cycle=5)
    put(log, DIRECTORY, logs.directory_block(1 << 32, 7))
    for number in range(3):
        log.transaction(logs.buffer_item(DIRECTORY, 8, {20 + number: chunk(number)}, DATA_TYPE), tid=number + 1)
    log.record()
    assert at(replayed(log)[0], DIRECTORY)[20 * 128 : 23 * 128] == chunk(0) + chunk(1) + chunk(2)


def test_version_4_blocks_are_always_replayed_and_not_summed() -> None:
    log = LogWriter(cycle=5)
    block = logs.directory_block(9 << 32, 7)
    put(log, DIRECTORY, block)
    log.transaction(logs.buffer_item(DIRECTORY, 8, {20: chunk(8)}))
    log.record()
    data = at(replayed(log, 4)[0], DIRECTORY)
    assert data == block[: 20 * 128] + chunk(8) + block[21 * 128 :]


def inode_fields(data: bytes, version: int = 3) -> dict[str, object]:
    names = ("mode", "version", "format", "uid", "gid", "nlink")
    found: dict[str, object] = dict(zip(names, struct.unpack_from(">HBBxxIII", data, 2), strict=True))
    found["times"] = struct.unpack_from(">6i", data, 32)
    found["size"], found["nblocks"], found["extsize"], found["nextents"] = struct.unpack_from(">QQII", data, 56)
    if version == 3:
        found["lsn"] = int.from_bytes(data[112:120], "big")
        assert crc32c(data[:100] + bytes(4) + data[104:]) ^ 0xFFFFFFFF == int.from_bytes(data[100:104], "little")
    return found


@pytest.mark.parametrize("short", [0, 1])
def test_a_logged_inode_is_turned_into_that_of_the_disk(short: int) -> None:
    log = LogWriter(cycle=5)
    put(log, PLAIN, logs.inode_buffer(3, 4, 512))
    extents = struct.pack(">QQ", 1 << 9, 77)
    item = logs.inode_item(PLAIN, 4, 512, logs.core(nextents=1, forkoff=20), extents, what=5, short=short)
    log.transaction(item)
    lsn = log.record()
    result, _ = replayed(log)
    data = at(result, PLAIN, 2048)
    inode = data[512:1024]
    assert data[:512] == logs.inode_buffer(3, 1, 512) and data[1024:] == logs.inode_buffer(3, 4, 512)[1024:]
    assert inode_fields(inode) == {
        "mode": 0o100644,
        "version": 3,
        "format": 2,
        "uid": 1000,
        "gid": 2000,
        "nlink": 1,
        "times": (-5, 6, 7, 8, 9, 10),
        "size": 99,
        "nblocks": 8,
        "extsize": 3,
        "nextents": 1,
        "lsn": lsn,
    }
    assert inode[82] == 20 and inode[92:100] == struct.pack(">Ii", 77, -1)
    assert inode[144:176] == struct.pack(">iiQ", 50, 60, 64) + logs.UUID
    assert inode[176:192] == extents


def test_large_times_and_counts_are_turned_round_as_whole_numbers() -> None:
    log = LogWriter(cycle=5)
    put(log, PLAIN, logs.inode_buffer(3, 1, 512))
    body = bytearray(logs.core(flags2=8 | 16, big_nextents=3, nblocks=9))
    body[32:56] = struct.pack("<QQQ", 1 << 62, 5, 6)
    body[76:82] = struct.pack("<IH", 4, 0)
    log.transaction(logs.inode_item(PLAIN, 1, 0, bytes(body)))
    log.record()
    inode = at(replayed(log, nrext64=True)[0], PLAIN, 512)
    assert inode[32:56] == struct.pack(">QQQ", 1 << 62, 5, 6)
    assert inode[24:32] == struct.pack(">Q", 3) and inode[76:82] == struct.pack(">IH", 4, 0)


def test_an_inode_that_is_newer_is_left_alone() -> None:
    for lsn, applied in ((4 << 32, True), (5 << 32, True), (6 << 32, False)):
        log = LogWriter(cycle=5)
        put(log, PLAIN, logs.inode_buffer(3, 1, 512, lsn=lsn))
        log.transaction(logs.inode_item(PLAIN, 1, 0, logs.core()))
        log.record()
        inode = at(replayed(log)[0], PLAIN, 512)
        assert (inode_fields(inode)["size"] == 99) == applied


@pytest.mark.parametrize(
    ("disk", "logged", "applied"),
    [(5, 6, True), (5, 5, True), (6, 5, False), (0xFFFF, 3, True), (0xFFFF, 0x8000, False)],
)
def test_the_flush_count_decides_for_inodes_of_version_2(disk: int, logged: int, applied: bool) -> None:
    log = LogWriter(cycle=5)
    old = bytearray(logs.inode_buffer(2, 1, 256))
    old[30:32] = disk.to_bytes(2, "big")
    put(log, PLAIN, bytes(old))
    body = logs.core(version=2, flushiter=logged)
    log.transaction(logs.inode_item(PLAIN, 1, 0, body, what=0x11, rdev=0x1234))
    log.record()
    inode = at(replayed(log, 4, inode_size=256, inode_log=8)[0], PLAIN, 256)
    if applied:
        assert inode_fields(inode, 2)["size"] == 99 and inode[30:32] == bytes(2)
        assert inode[100:104] == bytes.fromhex("00001234")
    else:
        assert inode == bytes(old)


@pytest.mark.parametrize(
    ("what", "forks", "fields"),
    [
        (1 | 4, (bytes(500),), {}),  # longer than the inode
        (1 | 4, (bytes(200),), {"forkoff": 20}),  # longer than the fork
        (1 | 8, (bytes(200),), {}),  # a root of level 0
        (1 | 8, (bytes(20),), {}),
        (1 | 0x40, (bytes(8),), {}),  # attributes without a place
        (1 | 0x40, (bytes(8),), {"forkoff": 250}),
    ],
)
@pytest.mark.parametrize("version", [3, 2])
def test_forks_that_do_not_fit_make_the_inode_unreadable(
    what: int, forks: tuple[bytes, ...], fields: dict[str, int], version: int
) -> None:
    log = LogWriter(cycle=5)
    put(log, PLAIN, logs.inode_buffer(version, 2, 512))
    form = 3 if what & 8 else 2
    log.transaction(logs.inode_item(PLAIN, 2, 0, logs.core(form=form, version=version, **fields), *forks, what=what))
    log.record()
    result, state, problems = logs.replay(log.source(), logs.superblock(5 if version == 3 else 4))
    assert state.kind == "replayed"
    data = at(result, PLAIN, 1024)
    assert data[:2] == bytes(2) and data[512:] == logs.inode_buffer(version, 2, 512)[512:]
    assert problems.count == 1


@pytest.mark.parametrize(("version", "header"), [(3, 72), (2, 24)])
def test_the_root_of_an_extent_tree_loses_its_header_and_its_gap(version: int, header: int) -> None:
    log = LogWriter(cycle=5)
    put(log, PLAIN, logs.inode_buffer(version, 1, 512))
    held, records = 9, 2
    root = bytearray(header + held * 16)
    root[4:8] = struct.pack(">HH", 1, records)
    root[header : header + 16] = struct.pack(">QQ", 0, 500)
    root[header + held * 8 : header + held * 8 + 16] = struct.pack(">QQ", 111, 222)
    body = logs.core(form=3, forkoff=10, nextents=3, version=version)
    item = logs.inode_item(PLAIN, 1, 0, body, bytes(root), b"attributes..", what=1 | 8 | 0x40)
    log.transaction(item)
    log.record()
    inode = at(replayed(log, 5 if version == 3 else 4)[0], PLAIN, 512)
    start = 176 if version == 3 else 100
    room = (80 - 4) // 16
    assert inode[start : start + 20] == struct.pack(">HHQQ", 1, records, 0, 500)
    assert inode[start + 4 + room * 8 :][:16] == struct.pack(">QQ", 111, 222)
    assert inode[start + 80 : start + 92] == b"attributes.."


def test_only_the_unlinked_list_is_taken_from_a_buffer_of_inodes() -> None:
    log = LogWriter(cycle=5)
    put(log, PLAIN, logs.inode_buffer(3, 8, 512))
    log.transaction(logs.buffer_item(PLAIN, 8, {4: chunk(9), 12: chunk(8)}, 1 | 8 << 11))
    log.record()
    data = at(replayed(log)[0], PLAIN)
    clean = logs.inode_buffer(3, 8, 512)
    for number, fill in ((1, 9), (3, 8)):
        inode = data[number * 512 : number * 512 + 512]
        assert inode[96:100] == bytes([fill]) * 4
        inode_fields(inode)
        assert inode[:96] + inode[104:] == clean[number * 512 :][:96] + clean[number * 512 + 104 :][:408]
    assert data[:512] == clean[:512]


def test_created_inodes_are_free_and_follow_each_other() -> None:
    log = LogWriter(cycle=5)
    log.transaction([struct.pack("<HH6I", 0x123F, 1, *(swapped(v) for v in (0, 40, 64, 512, 8, 0x1234)))])
    log.record()
    result, _ = replayed(log)
    for number in (0, 31, 32, 63):
        inode = at(result, 40 * 8, 8 * BLOCK)[number * 512 :][:512]
        assert inode[:6] == b"IN\0\0\x03\0" and inode[92:100] == struct.pack(">Ii", 0x1234, -1)
        assert int.from_bytes(inode[152:160], "big") == 40 * 8 + number
        inode_fields(inode)


def swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), "little")


def test_buffers_of_quotas_are_left_out() -> None:
    log = LogWriter()
    log.transaction(
        logs.buffer_item(PLAIN, 8, {0: chunk(1)}, 4 | 1 << 11),
        [struct.pack("<HHIqiI", 0x123D, 2, 0, 0, 0, 0), bytes(104)],
    )
    log.record()
    assert at(replayed(log)[0], PLAIN) == bytes(BLOCK)


def test_unfinished_intents_are_named() -> None:
    log = LogWriter()
    efi = [struct.pack("<HHIQQII", 0x1236, 1, 1, 0xA, 5, 5, 0)]
    done = [struct.pack("<HHIQQII", 0x1237, 1, 1, 0xA, 5, 5, 0)]
    bui = [struct.pack("<HHIQQQQII", 0x1244, 1, 1, 0xB, 64, 5, 0, 5, 1)]
    log.transaction(efi, tid=1)
    log.record()
    assert "free of an extent (1)" in replayed(log)[1]
    log.transaction(done, bui, tid=2)
    log.record()
    _, state, problems = logs.replay(log.source(), logs.superblock())
    assert state.kind == "replayed" and "extent map (1)" in state.reason and "free of" not in state.reason
    assert problems.count == 1
    assert problems.first()[0].where == "inode 64" and "extent map" in problems.first()[0].message


# damage


def three(crc: bool = True) -> LogWriter:
    log = LogWriter(crc=crc)
    for number in range(12):
        log.transaction(logs.buffer_item(PLAIN, 8, {number: chunk(number + 1)}), tid=number + 1)
        log.record()
    return log


def damage(log: LogWriter, record: int, offset: int = 600) -> None:
    log.log[log.records[record] * 512 + offset] ^= 0x40


@pytest.mark.parametrize("record", [4, 8, 11])
def test_a_torn_write_ends_the_log(record: int) -> None:
    log = three()
    damage(log, record)
    result, reason = replayed(log)
    assert at(result, PLAIN, 12 * 128) == b"".join(chunk(n + 1) if n < record else chunk(0) for n in range(12))
    assert "its checksum is wrong; what follows was not written whole" in reason


@pytest.mark.parametrize("record", [0, 2, 3])
def test_damage_where_no_write_was_under_way_forbids_the_replay(record: int) -> None:
    log = three()
    damage(log, record)
    assert "checksum is wrong" in refused(log)


def test_a_tail_that_the_newest_writes_overwrote_is_moved_on() -> None:
    log = LogWriter(at=0, cycle=4)
    tail = None
    while log.cycle == 4:
        log.transaction(logs.buffer_item(PLAIN, 8, {log.at % 32: chunk(log.at % 251)}), tid=log.at + 1)
        log.record(tail)
        tail = tail or 4 << 32
        if log.at >= log.blocks - 2:
            break
    damage(log, 0)
    result, _ = replayed(log)
    assert at(result, PLAIN) != bytes(BLOCK)


def test_records_without_checksums_are_those_of_old_version_4_filesystems() -> None:
    log = three(crc=False)
    assert at(replayed(log, 4)[0], PLAIN, 128) == chunk(1)
    assert "no checksum" in refused(log, 5)


def refusals() -> Iterator[tuple[str, LogWriter, str]]:
    log = LogWriter()
    log.transaction([struct.pack("<HHI", 0x1299, 1, 0)])
    yield "kind", log, "unknown kind, 0x1299"
    log = LogWriter()
    log.transaction(logs.buffer_item(1 << 40, 8, {0: chunk(1)}))
    yield "beyond", log, "not there"
    log = LogWriter()
    log.transaction(logs.buffer_item(-8, 8, {0: chunk(1)}))
    yield "negative", log, "not there"
    log = LogWriter()
    log.transaction(logs.buffer_item(PLAIN, 8, {32: chunk(1)}))
    yield "chunk", log, "beyond the end of the buffer"
    log = LogWriter()
    log.transaction([*logs.buffer_item(PLAIN, 8, {0: chunk(1), 1: chunk(1)})[:1], chunk(1)])
    yield "missing", log, "less of the buffer"
    log = LogWriter()
    log.transaction(logs.inode_item(PLAIN, 4, 2048, logs.core()))
    yield "boffset", log, "at byte 2048 of 2048"
    log = LogWriter()
    log.transaction([struct.pack("<HH6I", 0x123F, 1, *(swapped(v) for v in (0, 40, 64, 256, 8, 0)))])
    yield "icreate", log, "creates 64 inodes"
    log = LogWriter()
    log.begin(1)
    log.op(1, struct.pack("<HH", 0x123C, 0))
    yield "regions", log, "has 0 regions"
    log = LogWriter()
    log.begin(1)
    log.op(1, bytes(100), length=1 << 31)
    yield "length", log, "oh_len"
    log = LogWriter()
    log.op(1, client=3)
    yield "client", log, "oh_clientid is 3"
    log = LogWriter()
    log.op(1, flags=1)
    log.op(1, b"NOT THE HEADER..")
    yield "header", log, "without its header"
    log = LogWriter()
    log.begin(1)
    for region in logs.buffer_item(PLAIN, 8, {0: chunk(1)})[:1]:
        log.op(1, region)
    log.op(1, flags=2)
    yield "short", log, "ends within an item"
    log = LogWriter()
    log.uuid = b"x" * 16
    log.transaction(logs.buffer_item(PLAIN, 8, {0: chunk(1)}))
    yield "uuid", log, "another filesystem"
    log = LogWriter()
    log.format = 2
    log.transaction(logs.buffer_item(PLAIN, 8, {0: chunk(1)}))
    yield "format", log, "another kind"


@pytest.mark.parametrize(("log", "text"), [pytest.param(*rest, id=name) for name, *rest in refusals()])
def test_what_the_kernel_would_not_replay_is_not_replayed_at_all(log: LogWriter, text: str) -> None:
    log.record()
    assert text in refused(log)


def test_an_inode_that_cannot_be_restored_is_told_and_costs_no_other() -> None:
    log = LogWriter(cycle=5)
    put(log, PLAIN, logs.inode_buffer(3, 2, 512))
    bad = logs.core(nextents=100)
    log.transaction(logs.inode_item(PLAIN, 2, 0, bad), logs.inode_item(PLAIN, 2, 512, logs.core()))
    log.record()
    result, state, problems = logs.replay(log.source(), logs.superblock())
    data = at(result, PLAIN, 1024)
    assert state.kind == "replayed" and problems.count == 1
    assert data[:2] == bytes(2)  # reading it is an error
    assert inode_fields(data[512:])["size"] == 99


def test_an_external_log_is_looked_at_only_where_it_is_given() -> None:
    log = LogWriter()
    log.transaction(logs.buffer_item(PLAIN, 8, {0: chunk(1)}))
    log.record()
    sup = logs.superblock(log_start=0)
    from guestkit.fs.base import Problems
    from guestkit.fs.xfs.log import recover

    device = BytesSource(bytes(log.device))
    same, state = recover(device, sup, Limits(), Problems())
    assert same is device and state.kind == "dirty-not-replayed" and "another device" in state.reason
    result, state = recover(device, sup, Limits(), Problems(), BytesSource(bytes(log.log)))
    assert state.kind == "replayed" and at(result, PLAIN, 128) == chunk(1)


def test_the_log_of_a_truncated_image_is_not_there() -> None:
    log = LogWriter()
    log.record()
    source = BytesSource(log.bytes()[: (logs.LOG_AT + 2) * BLOCK])
    result, state, _ = logs.replay(source, logs.superblock())
    assert result is source and state.kind == "dirty-not-replayed" and "beyond the end" in state.reason


def test_extents_of_what_is_not_replayed_stay_those_of_the_device() -> None:
    result, _, _ = logs.replay(BytesSource(logs.image("mixed-copied")))
    extents = list(result.extents(0, result.size))
    kept: list[Extent] = [extent for extent in extents if isinstance(extent.source, BytesSource) and extent.offset]
    assert sum(extent.length for extent in kept) > result.size * 0.9
    assert all(extent.offset == extent.source_offset for extent in kept)
