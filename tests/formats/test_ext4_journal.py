"""Replay of dirty ext journals: against the kernel's view, e2fsck, debugfs and hand-made logs."""

from __future__ import annotations

import hashlib
import random
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from dirtyext import image, kernel_view, view

from guestkit.checksum import crc32_be, crc32c
from guestkit.errors import Corrupt, GuestkitError, Unsupported
from guestkit.fs import ext4
from guestkit.fs.ext4 import journal
from guestkit.fs.ext4.journal import MAGIC, Recovery, recover
from guestkit.fs.ext4.superblock import parse_superblock
from guestkit.limits import Limits
from guestkit.source import BytesSource, FileSource, Overlay, Patch, Source

IMAGES = ("csum-v3", "revoke-1k", "no-checksum-1k", "ext3", "compat-checksum", "escape", "wrap-1k")


def replay(source: Source) -> Recovery:
    superblock = parse_superblock(source.read(1024, 1024))
    runs = ext4.journal_runs(source, superblock, 1024, Limits())
    return recover(source, superblock.block_size, superblock.blocks_count, superblock.needs_recovery, runs)


def journal_place(name: str) -> tuple[int, int]:
    """(byte offset, block size) of a fixture's journal, which is contiguous."""
    source = BytesSource(image(name))
    superblock = parse_superblock(source.read(1024, 1024))
    runs = ext4.journal_runs(source, superblock, 1024, Limits())
    assert runs[0][0] == 0
    return runs[0][1] * superblock.block_size, superblock.block_size


def with_bytes(source: Source, offset: int, data: bytes) -> Source:
    return Overlay(source, [Patch(offset, len(data), BytesSource(data), 0)])


@pytest.mark.parametrize("name", IMAGES)
def test_replayed_tree_is_what_the_kernel_shows(name: str) -> None:
    fs, found = view(BytesSource(image(name)))
    assert fs.state.kind == "replayed"
    assert fs.problems()[0] == 0
    assert found == kernel_view(name)


@pytest.mark.parametrize("name", ["csum-v3", "no-checksum-1k", "ext3", "escape", "wrap-1k"])
def test_without_replay_an_older_tree_shows_and_the_state_says_so(name: str) -> None:
    fs, found = view(BytesSource(image(name)), noload="1")
    assert fs.state.kind == "dirty-not-replayed"
    assert set(found) != set(kernel_view(name)) or found != kernel_view(name)


@pytest.mark.tool("e2fsck")
@pytest.mark.parametrize("name", IMAGES)
def test_every_block_equals_that_of_e2fsck(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image(name))
    subprocess.run(["e2fsck", "-E", "journal_only", "-y", path], capture_output=True, check=False)
    expected = path.read_bytes()
    place, size = journal_place(name)
    recovery = replay(BytesSource(image(name)))
    found = recovery.source.read(0, len(expected))
    different = [at for at in range(0, len(found), size) if found[at : at + size] != expected[at : at + size]]
    assert set(different) <= {1024 // size * size, place}  # the two superblocks say that recovery was done
    assert recovery.blocks > 20 and recovery.revoked >= (name in ("revoke-1k", "no-checksum-1k"))


def test_a_log_that_goes_round_its_end_is_replayed_whole() -> None:
    place, size = journal_place("wrap-1k")
    start = int.from_bytes(image("wrap-1k")[place + 28 : place + 32], "big")
    recovery = replay(BytesSource(image("wrap-1k")))
    assert recovery.transactions > 20
    lowest = min(patch.source_offset for patch in recovery.source._patches)  # type: ignore[attr-defined]
    assert lowest < place + start * size  # what was logged last stands before what was logged first


def test_replayed_blocks_are_places_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image("csum-v3"))
    file = FileSource.open(path)
    place, size = journal_place("csum-v3")
    recovery = replay(file)
    moved = [e for e in recovery.source.extents(0, file.size) if e.source is not None and e.offset != e.source_offset]
    assert sum(extent.length for extent in moved) == recovery.blocks * size
    assert all(extent.source is file and place < extent.source_offset < place + 1024 * size for extent in moved)
    file.close()


def test_escaped_blocks_begin_with_the_magic_number_again() -> None:
    recovery = replay(BytesSource(image("escape")))
    heads = [patch for patch in recovery.source._patches if patch.length == 4]  # type: ignore[attr-defined]
    assert len(heads) >= 2
    assert all(recovery.source.read(patch.offset, 4) == MAGIC.to_bytes(4, "big") for patch in heads)


@pytest.mark.root
@pytest.mark.tool("xfs_io")
@pytest.mark.tool("mke2fs")
@pytest.mark.parametrize("block,journal", [(1024, "ordered"), (4096, "journal"), (2048, "ordered")])
def test_a_copy_taken_while_mounted_reads_as_the_kernel_reads_it(block: int, journal: str, tmp_path: Path) -> None:
    live, copy, root = tmp_path / "live", tmp_path / "copy", tmp_path / "mnt"
    root.mkdir()
    run = lambda *words: subprocess.run([str(w) for w in words], check=True, capture_output=True)  # noqa: E731
    run("truncate", "-s", "24M", live)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", block, live)
    run("mount", "-o", f"loop,commit=300,data={journal}", live, root)
    try:
        (root / "a").write_bytes(b"A" * 3000)
        run("sync", "-f", root)
        time.sleep(1)
        (root / "a").unlink()
        for index in range(150):
            (root / f"b{index}").write_bytes(struct.pack(">II", MAGIC, index) * 700)
        run("xfs_io", "-c", "fsync", root / "b7")
        run("cp", "--sparse=always", live, copy)
    finally:
        run("umount", root)
    file = FileSource.open(copy)
    raw_fs, raw = view(file, noload="1")
    fs, found = view(file)
    assert "a" in raw and "a" not in found and "b7" in found
    assert (raw_fs.state.kind, fs.state.kind) == ("dirty-not-replayed", "replayed")
    second = tmp_path / "second"
    run("cp", "--sparse=always", copy, second)
    run("mount", "-o", "loop", second, root)
    try:
        names = {str(path.relative_to(root)) for path in root.rglob("*")}
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.glob("b*")}
    finally:
        run("umount", root)
    assert names == set(found) - {"."}
    assert all(found[name][7] == value for name, value in sums.items())
    file.close()


def test_big_endian_crc32_is_that_of_the_specification() -> None:
    assert crc32_be(b"123456789") == 0x0376E6E7
    assert crc32_be(b"6789", crc32_be(b"12345")) == 0x0376E6E7
    assert crc32_be(b"", 0x12345678) == 0x12345678


# logs made by hand: one journal of contiguous blocks at the end of a device

BLOCK = 1024
DEVICE_BLOCKS = 400
AT = 300  # first block of the journal
LENGTH = 64
REVOKE, BIT64, ASYNC, V2, V3 = 1, 2, 4, 8, 16
UUID = b"0123456789abcdef"
SEED = crc32c(UUID)


class Log:
    """A journal that is written block by block, wrapping at its end."""

    def __init__(self, incompat: int, compat: int = 0, start: int = 1, sequence: int = 7, version: int = 4) -> None:
        self.blocks = [bytes(BLOCK)] * DEVICE_BLOCKS
        for number in range(AT):
            self.blocks[number] = b"old%04d!" % number * (BLOCK // 8)
        self.incompat, self.compat, self.version = incompat, compat, version
        self.start, self.at, self.sequence = start, start, sequence
        self.first = sequence
        self.time = 1000
        self.crc = 0xFFFFFFFF

    @property
    def summed(self) -> bool:
        return bool(self.incompat & (V2 | V3))

    def put(self, data: bytes) -> int:
        place = AT + self.at
        assert len(data) == BLOCK
        self.blocks[place] = data
        self.at = self.at + 1 if self.at + 1 < LENGTH else 1
        return place

    def tail(self, body: bytes) -> bytes:
        if not self.summed:
            return body.ljust(BLOCK, b"\0")
        body = body.ljust(BLOCK - 4, b"\0")
        return body + crc32c(body + bytes(4), SEED).to_bytes(4, "big")

    def header(self, kind: int) -> bytes:
        return struct.pack(">III", MAGIC, kind, self.sequence)

    def blocks_of(self, changes: Sequence[tuple[int, bytes]], uuid_each: bool = False) -> int:
        """Log `changes`; return the device block of the descriptor."""
        body = self.header(1)
        logged = []
        for index, (target, data) in enumerate(changes):
            flags = 0 if index == 0 or uuid_each else 2
            if data[:4] == MAGIC.to_bytes(4, "big"):
                flags |= 1
                data = bytes(4) + data[4:]
            if index == len(changes) - 1:
                flags |= 8
            logged.append(data)
            checksum = crc32c(data, crc32c(self.sequence.to_bytes(4, "big"), SEED)) if self.summed else 0
            low, high = target & 0xFFFFFFFF, target >> 32
            if self.incompat & V3:
                body += struct.pack(">IIII", low, flags, high, checksum)
            else:
                body += struct.pack(">IHH", low, checksum & 0xFFFF, flags)
                body += struct.pack(">I", high) if self.incompat & BIT64 else b""
                body += b"\0\0" if self.incompat & V2 else b""
            if not flags & 2:
                body += UUID
        descriptor = self.tail(body)
        place = self.put(descriptor)
        self.crc = crc32_be(descriptor, self.crc)
        for data in logged:
            self.put(data)
            self.crc = crc32_be(data, self.crc)
        return place

    def revoke(self, *targets: int) -> int:
        width = 8 if self.incompat & BIT64 else 4
        body = self.header(5) + (16 + width * len(targets)).to_bytes(4, "big")
        return self.put(self.tail(body + b"".join(target.to_bytes(width, "big") for target in targets)))

    def commit(self, seconds: int | None = None) -> int:
        self.time += 1
        kind, size, total = (1, 4, self.crc) if self.compat & 1 else (0, 0, 0)
        body = self.header(2) + struct.pack(">BBHI", kind, size, 0, total) + bytes(28)
        body = (body + struct.pack(">QI", self.time if seconds is None else seconds, 0)).ljust(BLOCK, b"\0")
        if self.summed:
            body = body[:16] + crc32c(body, SEED).to_bytes(4, "big") + body[20:]
        place = self.put(body)
        self.sequence = self.sequence + 1 & 0xFFFFFFFF
        self.crc = 0xFFFFFFFF
        return place

    def device(self, **fields: int) -> Source:
        start, errno = fields.get("start", self.start), fields.get("errno", 0)
        body = struct.pack(">III", MAGIC, self.version, 0) + struct.pack(">III", BLOCK, LENGTH, 1)
        body += struct.pack(">IIi", self.first, start, errno) + struct.pack(">III", self.compat, self.incompat, 0)
        body = bytearray((body + UUID).ljust(1024, b"\0"))
        body[80] = 4 if self.summed else 0
        if self.summed:
            body[252:256] = crc32c(body).to_bytes(4, "big")
        self.blocks[AT] = bytes(body)
        return BytesSource(b"".join(self.blocks))


def run(device: Source, needs_recovery: bool = True) -> Recovery:
    return recover(device, BLOCK, DEVICE_BLOCKS, needs_recovery, [(0, AT, LENGTH)])


def new(text: bytes) -> bytes:
    return text.ljust(BLOCK, b".")


def at(recovery: Recovery, block: int) -> bytes:
    return recovery.source.read(block * BLOCK, BLOCK)


VARIANTS = [(0, 0), (REVOKE, 0), (REVOKE | BIT64, 0), (REVOKE, 1), (V2, 0), (V2 | BIT64, 0), (V3, 0), (V3 | BIT64, 0)]


@pytest.mark.parametrize("incompat,compat", VARIANTS)
@pytest.mark.parametrize("start", [1, LENGTH - 3])
@pytest.mark.parametrize("uuid_each", [False, True])
def test_tags_of_every_size_and_a_log_that_wraps(incompat: int, compat: int, start: int, uuid_each: bool) -> None:
    log = Log(incompat, compat, start)
    old = log.blocks[33]
    log.blocks_of([(10, new(b"ten")), (20, MAGIC.to_bytes(4, "big") + b"x" * (BLOCK - 4)), (11, new(b"z"))], uuid_each)
    log.commit()
    log.blocks_of([(30, new(b"thirty")), (10, new(b"ten again"))], uuid_each)
    log.blocks_of([(31, new(b"thirty-one"))], uuid_each)
    log.commit()
    recovery = run(log.device())
    assert (recovery.state.kind, recovery.transactions, recovery.blocks) == ("replayed", 2, 5)
    assert at(recovery, 10) == new(b"ten again") and at(recovery, 11) == new(b"z")
    assert at(recovery, 20)[:5] == MAGIC.to_bytes(4, "big") + b"x"
    assert at(recovery, 30) == new(b"thirty") and at(recovery, 31) == new(b"thirty-one")
    assert at(recovery, 33) == old


@pytest.mark.parametrize("incompat", [REVOKE, REVOKE | BIT64, REVOKE | V2, REVOKE | V3 | BIT64])
def test_a_revocation_ends_with_its_own_transaction(incompat: int) -> None:
    log = Log(incompat)
    log.blocks_of([(10, new(b"before")), (11, new(b"before")), (12, new(b"kept"))])
    log.commit()
    log.revoke(10, 11)
    log.blocks_of([(13, new(b"x")), (11, new(b"in the same transaction"))])
    log.commit()
    log.blocks_of([(10, new(b"logged again"))])
    log.commit()
    old = log.blocks[11]
    recovery = run(log.device())
    assert at(recovery, 10) == new(b"logged again")
    assert at(recovery, 11) == old
    assert at(recovery, 12) == new(b"kept")
    assert recovery.revoked == 3


def test_a_clean_journal_is_not_replayed() -> None:
    log = Log(V3)
    log.blocks_of([(10, new(b"stale"))])
    log.commit()
    for recovery in (run(log.device(start=0)), run(log.device(), needs_recovery=False)):
        assert recovery.state.kind == "clean" and recovery.blocks == 0
        assert at(recovery, 10) == log.blocks[10]


def test_older_commits_behind_the_last_one_are_not_replayed() -> None:
    log = Log(V3, start=1, sequence=3)
    for sequence in range(3, 9):
        log.blocks_of([(sequence * 10, new(b"stale %d" % sequence))])
        log.commit()
    log.at, log.sequence, log.first = 1, 9, 9
    log.blocks_of([(10, new(b"current"))])
    log.commit()
    recovery = run(log.device())
    assert (recovery.state.kind, recovery.transactions, recovery.blocks) == ("replayed", 1, 1)
    assert at(recovery, 40) == log.blocks[40]


def test_a_skipped_sequence_number_ends_the_log() -> None:
    log = Log(V3)
    log.blocks_of([(10, new(b"one"))])
    log.commit()
    log.sequence += 1
    log.blocks_of([(11, new(b"two"))])
    log.commit()
    recovery = run(log.device())
    assert (recovery.state.kind, recovery.transactions) == ("replayed", 1)


def test_a_transaction_without_commit_is_not_replayed() -> None:
    for cut in ("blocks", "revoke"):
        log = Log(V3 | REVOKE)
        log.blocks_of([(10, new(b"one"))])
        log.commit()
        log.revoke(10) if cut == "revoke" else log.blocks_of([(10, new(b"two"))])
        recovery = run(log.device())
        assert (recovery.state.kind, recovery.transactions, recovery.revoked) == ("replayed", 1, 0)
        assert at(recovery, 10) == new(b"one")


def test_sequence_numbers_wrap() -> None:
    log = Log(V3 | REVOKE, sequence=0xFFFFFFFE)
    log.blocks_of([(10, new(b"a")), (12, new(b"kept"))])
    log.commit()
    log.blocks_of([(11, new(b"b"))])
    log.commit()
    log.revoke(10)
    log.commit()
    recovery = run(log.device())
    assert (recovery.transactions, recovery.revoked, recovery.next_sequence) == (3, 1, 1)
    assert at(recovery, 11) == new(b"b") and at(recovery, 12) == new(b"kept")


def three(incompat: int, compat: int = 0) -> tuple[Log, list[int], list[int]]:
    log = Log(incompat, compat)
    descriptors, commits = [], []
    for index in range(3):
        descriptors.append(log.blocks_of([(10 + index, new(b"change %d" % index)), (20, new(b"twenty %d" % index))]))
        commits.append(log.commit())
    return log, descriptors, commits


def damage(log: Log, block: int, at_byte: int) -> None:
    data = bytearray(log.blocks[block])
    data[at_byte] ^= 0x40
    log.blocks[block] = bytes(data)


@pytest.mark.parametrize("incompat,compat", [(V2, 0), (V3, 0), (V3 | BIT64, 0), (0, 1)])
def test_replay_stops_before_a_damaged_commit_and_says_so(incompat: int, compat: int) -> None:
    log, _, commits = three(incompat, compat)
    damage(log, commits[1], 17)
    recovery = run(log.device())
    assert recovery.state.kind == "dirty-not-replayed" and "commit" in recovery.state.reason
    assert not recovery.complete and recovery.transactions == 1
    assert at(recovery, 20) == new(b"twenty 0") and at(recovery, 12) == log.blocks[12]


def test_replay_stops_before_a_damaged_descriptor_and_says_so() -> None:
    log, descriptors, _ = three(V3)
    damage(log, descriptors[1], 13)
    recovery = run(log.device())
    assert recovery.state.kind == "dirty-not-replayed" and "descriptor" in recovery.state.reason
    assert recovery.transactions == 1 and at(recovery, 20) == new(b"twenty 0")


def test_a_damaged_descriptor_of_an_older_log_is_just_its_end() -> None:
    log, descriptors, _ = three(V3)
    log.at, log.sequence = descriptors[2] - AT, log.sequence - 1
    log.blocks_of([(12, new(b"x")), (20, new(b"y"))])
    log.commit(seconds=5)  # before the commits that precede it
    damage(log, descriptors[2], 13)
    recovery = run(log.device())
    assert (recovery.state.kind, recovery.transactions) == ("replayed", 2)


@pytest.mark.parametrize("incompat", [V2, V3])
def test_a_damaged_logged_block_is_left_out_and_reported(incompat: int) -> None:
    log, descriptors, _ = three(incompat)
    damage(log, descriptors[2] + 2, 500)
    recovery = run(log.device())
    assert recovery.state.kind == "dirty-not-replayed" and "logged block 20" in recovery.state.reason
    assert at(recovery, 20) == new(b"twenty 1") and at(recovery, 12) == new(b"change 2")


def test_an_asynchronous_commit_that_did_not_complete_is_no_damage() -> None:
    log, _, commits = three(ASYNC, 1)
    damage(log, commits[2], 17)
    recovery = run(log.device())
    assert (recovery.state.kind, recovery.transactions) == ("replayed", 2)
    log, _, commits = three(ASYNC, 1)
    damage(log, commits[1], 17)
    recovery = run(log.device())
    assert (recovery.state.kind, recovery.transactions) == ("dirty-not-replayed", 1)


def test_a_block_beyond_the_filesystem_ends_the_replay() -> None:
    log = Log(V3 | BIT64)
    log.blocks_of([(10, new(b"good"))])
    log.commit()
    log.blocks_of([(11, new(b"half")), (1 << 40, new(b"far"))])
    log.commit()
    recovery = run(log.device())
    assert "beyond the filesystem" in recovery.state.reason
    assert at(recovery, 10) == new(b"good") and at(recovery, 11) == log.blocks[11]


def test_revocations_behind_the_end_of_the_replay_do_not_count() -> None:
    log = Log(REVOKE)
    log.blocks_of([(10, new(b"good"))])
    log.commit()
    log.blocks_of([(DEVICE_BLOCKS, new(b"far"))])
    log.commit()
    log.revoke(10)
    log.commit()
    recovery = run(log.device())
    assert (recovery.transactions, recovery.revoked, len(recovery.problems)) == (1, 0, 1)
    assert at(recovery, 10) == new(b"good")


def test_an_earlier_error_in_the_journal_is_reported() -> None:
    log, _, _ = three(V3)
    assert "-5" in run(log.device(errno=-5)).problems[0]


def test_a_superblock_of_version_1_has_no_features() -> None:
    log = Log(0, version=3)
    log.blocks_of([(10, new(b"v1"))])
    log.commit()
    assert at(run(log.device()), 10) == new(b"v1")


@pytest.mark.parametrize("field,value", [(0, 1), (4, 9), (12, 4096), (16, 0), (16, 999), (20, 0), (28, 5000)])
def test_a_journal_superblock_out_of_bounds_is_corrupt(field: int, value: int) -> None:
    log, _, _ = three(0)
    device = with_bytes(log.device(), AT * BLOCK + field, value.to_bytes(4, "big"))
    with pytest.raises(Corrupt):
        run(device)


def test_a_damaged_journal_superblock_is_corrupt_and_unknown_features_are_refused() -> None:
    log, _, _ = three(V3)
    with pytest.raises(Corrupt):
        run(with_bytes(log.device(), AT * BLOCK + 24, b"\0\0\0\x09"))
    log, _, _ = three(0x40)
    with pytest.raises(Unsupported, match="0x40"):
        run(log.device())


def test_a_log_that_has_no_end_is_cut_short() -> None:
    log = Log(0)
    while log.at != LENGTH - 1:
        log.put(log.header(5).ljust(BLOCK, b"\0"))
    log.put(log.header(5).ljust(BLOCK, b"\0"))
    recovery = run(log.device())
    assert "more than once" in recovery.state.reason and recovery.blocks == 0


def test_a_journal_in_pieces_and_with_a_hole() -> None:
    log, _, _ = three(V3)
    device = log.device()
    pieces = [(0, AT, 5), (5, AT + 5, 1), (6, AT + 6, LENGTH - 6)]
    assert recover(device, BLOCK, DEVICE_BLOCKS, True, pieces).transactions == 3
    holed = recover(device, BLOCK, DEVICE_BLOCKS, True, [pieces[0], pieces[2]])
    assert holed.state.kind == "dirty-not-replayed" and holed.transactions == 1
    with pytest.raises(Corrupt):
        recover(device, BLOCK, DEVICE_BLOCKS, True, [(0, AT, 5), (3, AT + 5, 60)])
    with pytest.raises(Corrupt):
        recover(device, BLOCK, DEVICE_BLOCKS, True, [(0, DEVICE_BLOCKS - 1, 5)])


@pytest.mark.parametrize("kind", ["one tag each", "full", "revocations"])
def test_work_and_memory_are_bounded_by_the_log(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_MOST_BLOCKS", 100)
    monkeypatch.setattr(journal, "_MOST_REVOKES", 100)
    log = Log(REVOKE)
    log.blocks_of([(3, new(b"first"))])
    log.commit()
    for turn in range(5):
        if kind == "revocations":
            log.revoke(*range(turn * 60, turn * 60 + 60))
        elif kind == "one tag each":
            log.blocks_of([(10 + turn, new(b"x"))])
        else:
            data = log.header(1) + b"".join(struct.pack(">IHH", (turn * 120 + n) % 300, 0, 2) for n in range(120))
            log.put(data.ljust(BLOCK, b"\0"))
            log.at = (log.at + 126) % (LENGTH - 1) or 1
    log.commit()
    recovery = run(log.device())
    assert recovery.state.kind == ("replayed" if kind == "one tag each" else "dirty-not-replayed")
    assert recovery.blocks <= 100 and at(recovery, 3) == new(b"first")


@pytest.mark.tool("debugfs")
@pytest.mark.tool("e2fsck")
@pytest.mark.tool("mke2fs")
@pytest.mark.parametrize("first,later", [("jo", "jo"), ("jo -c -v 2", "jo"), ("jo -c -v 3", "jo")])
@pytest.mark.parametrize("features", ["64bit,metadata_csum", "^64bit,metadata_csum", "64bit,^metadata_csum"])
def test_transactions_that_debugfs_wrote(first: str, later: str, features: str, tmp_path: Path) -> None:
    path, payload = tmp_path / "image", tmp_path / "payload"
    payload.write_bytes(b"".join(new(b"payload %d" % index) for index in range(4)))
    subprocess.run(["truncate", "-s", "12M", path], check=True)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", features, path], check=True)
    commands = [
        first,
        f"jw -b 9000,9001,9002 {payload}",
        "jc",
        later,
        "jw -r 9001",
        "jc",
        later,
        f"jw -b 9003 {payload}",
    ]
    script = "\n".join([*commands, "jc", ""])
    subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", path], input=script.encode(), check=True, capture_output=True)
    dirty = path.read_bytes()
    recovery = replay(BytesSource(dirty))
    result = subprocess.run(["e2fsck", "-E", "journal_only", "-y", path], capture_output=True, check=False)
    expected = path.read_bytes()
    found = recovery.source.read(0, len(dirty))
    # debugfs does not sum the later transactions of a log with the old kind of checksum
    assert (b"corrupt" in result.stdout) == (recovery.state.kind == "dirty-not-replayed")
    assert recovery.complete or (first != later and "^metadata_csum" in features)
    for block in range(9000, 9004):
        assert found[block * 1024 : (block + 1) * 1024] == expected[block * 1024 : (block + 1) * 1024], block
    assert found[9000 * 1024 : 9001 * 1024] == new(b"payload 0")
    if recovery.complete:
        assert (recovery.transactions, recovery.blocks, recovery.revoked) == (3, 3, 1)
        assert found[9001 * 1024 : 9002 * 1024] == dirty[9001 * 1024 : 9002 * 1024]


@pytest.mark.parametrize("name", ["revoke-1k", "no-checksum-1k", "compat-checksum", "wrap-1k"])
def test_mutants_of_the_log_give_a_result_or_a_typed_error(name: str) -> None:
    base = BytesSource(image(name))
    place, size = journal_place(name)
    superblock = parse_superblock(base.read(1024, 1024))
    runs = ext4.journal_runs(base, superblock, 1024, Limits())
    rng = random.Random(name)
    used = [n for n in range(1024) if any(base.data[place + n * size : place + (n + 1) * size])]
    good = 0
    slowest = 0.0
    for _ in range(550):
        block = rng.choice(used)
        data = bytearray(base.data[place + block * size : place + (block + 1) * size])
        for _ in range(rng.randint(1, 4)):
            where = rng.randrange(64) if rng.random() < 0.7 else rng.randrange(size)
            data[where] = rng.choice((0, 1, 2, 5, 8, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if block == 0 and rng.random() < 0.7 and superblock.metadata_csum:
            data[252:256] = crc32c(bytes(data[:252]) + bytes(4) + bytes(data[256:1024])).to_bytes(4, "big")
        device = with_bytes(base, place + block * size, bytes(data))
        begin = time.process_time()
        try:
            recovery = recover(device, superblock.block_size, superblock.blocks_count, True, runs)
            recovery.source.read(0, 8192)
            good += recovery.blocks > 0
        except GuestkitError:
            pass
        slowest = max(slowest, time.process_time() - begin)
    assert good > 50
    assert slowest < 1.0
