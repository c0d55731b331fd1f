"""Hostile and damaged XFS logs: a result or one typed error, soon, in bounded memory."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator

import pytest
import xfs_log_images as logs
from xfs_log_images import BLOCK, LogWriter

from guestkit.checksum import crc32c
from guestkit.errors import GuestkitError, Unsupported
from guestkit.fs import xfs
from guestkit.fs.base import Problems
from guestkit.fs.xfs import log_changes, log_items
from guestkit.fs.xfs.log import recover
from guestkit.fs.xfs.log_record import Record, Ring
from guestkit.fs.xfs.superblock import Superblock
from guestkit.limits import Limits
from guestkit.source import BytesSource, Leaf, Overlay, Patch, Source

PLAIN = 30 * 8


def chunk(fill: int) -> bytes:
    return bytes([fill]) * 128


def everything(size: int = 32768, crc: bool = True, at: int = 0) -> LogWriter:
    """A log with an item of each kind, and a transaction that goes over a record's end."""
    log = LogWriter(cycle=3, size=size, crc=crc, at=at)
    place = PLAIN * 512
    log.device[place : place + 4096] = logs.inode_buffer(3, 8, 512)
    root = bytearray(72 + 9 * 16)
    root[4:8] = struct.pack(">HH", 1, 2)
    body = logs.core(form=3, forkoff=10, nextents=3)
    log.transaction(
        logs.buffer_item(160, 8, {0: chunk(1), 1: chunk(2), 7: chunk(3)}, 11 << 11),
        logs.inode_item(PLAIN, 8, 512, body, bytes(root), b"attributes..", what=1 | 8 | 0x40),
        logs.inode_item(PLAIN, 8, 1024, logs.core(), b"x" * 32, what=5, short=1),
        logs.buffer_item(PLAIN, 8, {4: chunk(9), 12: chunk(8)}, 1 | 8 << 11),
        [struct.pack("<HH", 0x123F, 1) + struct.pack(">6I", 0, 40, 64, 512, 8, 0x1234)],
        [struct.pack("<HHIQQII", 0x1236, 1, 1, 0xA, 5, 5, 0)],
        logs.cancel_item(168, 8),
    )
    log.record()
    log.begin(9)
    for region in logs.buffer_item(176, 8, {number: chunk(number) for number in range(30)}):
        log.op(9, region[:1024], logs.CONTINUE)
        log.record()
        log.op(9, region[1024:], logs.WAS_CONTINUED | logs.END)
    log.op(9, flags=logs.COMMIT)
    log.record()
    return log


def ring_of(source: Source, sup: Superblock) -> Ring:
    start = sup.fsblock_offset(sup.log_start)
    return Ring(source, start, sup.log_blocks * sup.block_size // 512, sup.log_version, sup.log_sunit, sup.uuid)


def seal(data: bytearray, record: Record) -> None:
    """Sum a record anew; `data` is all of it."""
    split = record.header_blocks * 512
    extended = b"".join(bytes(data[i * 512 : i * 512 + 260]) for i in range(1, -(-record.length // 32768)))
    summed = bytes(data[:32]) + bytes(4) + bytes(data[36:328]) + extended * (record.header_blocks > 1)
    crc = crc32c(summed + bytes(data[split : split + record.length])) ^ 0xFFFFFFFF
    data[32:36] = crc.to_bytes(4, "little")


def mutants(
    source: Source, sup: Superblock, records: list[Record], dice: random.Random, count: int
) -> Iterator[Source]:
    """Yield `count` devices, in each of which some bytes of one record are others; most have a good checksum."""
    ring = ring_of(source, sup)
    for _ in range(count):
        record = dice.choice(records)
        data = bytearray(ring.read(record.block, record.blocks))
        for _ in range(dice.randint(1, 4)):
            near = dice.random() < 0.5  # the header, or the first operations
            where = dice.choice(
                (dice.randrange(44), 300 + dice.randrange(28), 512 * record.header_blocks + dice.randrange(400))
            )
            where = where if near else dice.randrange(len(data))
            data[where % len(data)] = dice.choice((0, 1, 2, 4, 8, 0x10, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        if dice.random() < 0.85:
            seal(data, record)
        block = record.block
        first = min(record.blocks, ring.blocks - block) * 512
        patches = [Patch(ring.start + block * 512, first, BytesSource(bytes(data)), 0)]
        if first < len(data):
            patches.insert(0, Patch(ring.start, len(data) - first, BytesSource(bytes(data)), first))
        yield Overlay(source, patches)


def attempt(device: Source, sup: Superblock) -> str:
    """Recover, and read all that is replayed; return the state's kind, or the error's name."""
    problems = Problems()
    result, state = recover(device, sup, Limits(), problems)
    if state.kind == "dirty-not-replayed":
        assert result is device and state.reason and problems.count
    if isinstance(result, Overlay) and result is not device:
        for patch in result._patches:
            try:
                result.read(patch.offset, patch.length)
            except GuestkitError:
                pass
    return state.kind


@pytest.mark.parametrize("size", [32768, 131072])
@pytest.mark.parametrize("crc", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_mutants_give_a_result_or_a_typed_error(size: int, crc: bool, wrapped: bool) -> None:
    log = everything(size, crc, LogWriter().blocks - 4 if wrapped else 0)
    source = log.source()
    sup = logs.superblock(5 if crc else 4)
    records = list(ring_of(source, sup).iter_records(log.records[0], log.at))
    assert len(records) == 4
    dice = random.Random(f"{size} {crc} {wrapped}")
    kinds: dict[str, int] = {}
    slowest = 0.0
    for device in mutants(source, sup, records, dice, 300):
        began = time.process_time()
        kind = attempt(device, sup)
        slowest = max(slowest, time.process_time() - began)
        kinds[kind] = kinds.get(kind, 0) + 1
    assert kinds["replayed"] > 30 and kinds["dirty-not-replayed"] > 30
    assert slowest < 1


@pytest.mark.parametrize("name", ["create", "v4-log-v1", "wrapped-1k"])
def test_mutants_of_real_logs_open_or_are_refused(name: str) -> None:
    source = BytesSource(logs.image(name))
    sup = logs.superblock_of(source)
    ring = ring_of(source, sup)
    from guestkit.fs.xfs.log_head import find_span

    span = find_span(ring)
    records = list(ring.iter_records(span.tail, span.head))
    dice = random.Random(name)
    kinds: dict[str, int] = {}
    for device in mutants(source, sup, records, dice, 40):
        try:
            fs = xfs.open([device], Limits(), {})
        except Unsupported:  # a feature bit that the log's superblock has
            continue
        kinds[fs.state.kind] = kinds.get(fs.state.kind, 0) + 1
        for _, ino, status in fs.walk(failed=lambda path, error: None):
            if status is not None and status.mode & 0xF000 == 0x8000:
                try:
                    fs.open(ino).read(0, min(status.size, 4096))
                except GuestkitError:
                    pass
    assert len(kinds) > 1


class Endless(Leaf):
    """A log of 2 GiB in which every block is the same, but for those in `blocks`; counts what is read."""

    def __init__(self, pattern: bytes, blocks: dict[int, bytes]) -> None:
        self.pattern = pattern * 2048
        self.blocks = blocks
        self.size = 2 << 30
        self.bytes = 0

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        self.bytes += len(buf)
        at = 0
        while at < len(buf):
            skip = (offset + at) % 512
            take = min(len(buf) - at, len(self.pattern) - skip)
            buf[at : at + take] = self.pattern[skip : skip + take]
            at += take
        for block, data in self.blocks.items():
            start = block * 512 - offset
            if 0 <= start <= len(buf) - 512:
                buf[start : start + 512] = data


def header(**fields: int) -> bytes:
    out = bytearray(512)
    length, tail = fields.get("length", 512), fields.get("tail", 1 << 32)
    struct.pack_into(">IIIIQQIII", out, 0, 0xFEEDBABE, 1, 2, length, 1 << 32, tail, 0, 0, 1)
    struct.pack_into(">I16sI", out, 300, 1, logs.UUID, fields.get("size", 32768))
    return bytes(out)


@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {(1 << 22) - 2: header()},
        {(1 << 22) - 2: header(tail=1 << 32 | 77)},
        {(1 << 22) - 2: header(length=0xFFFFFFFF, size=0xFFFFFFFF)},
        {(1 << 22) - 2: header(length=1 << 18, size=1 << 18)},
        {0: header(), (1 << 22) - 2: header(tail=1 << 32 | 0xFFFFFFFF)},
        {0: header(), 2: header(tail=0)},
    ],
)
@pytest.mark.parametrize("cycle", [1, 0xFFFFFFFF])
def test_a_huge_log_is_not_read_as_a_whole(blocks: dict[int, bytes], cycle: int) -> None:
    log = Endless(cycle.to_bytes(4, "big") + bytes(508), blocks)
    device = BytesSource(bytes(1 << 20))
    sup = logs.superblock(log_start=0, log_blocks=1 << 19)
    began = time.process_time()
    result, state = recover(device, sup, Limits(), Problems(), log)
    assert time.process_time() - began < 1.5
    assert log.bytes < 16 << 20
    assert state.kind in ("clean", "dirty-not-replayed") and result is device


class Repeated(Leaf):
    """A log of 2 GiB that holds the same record again and again, as a small qcow2 can."""

    def __init__(self, log: LogWriter) -> None:
        self.record = bytes(log.log[: log.at * 512])
        self.size = 2 << 30
        self.end = (self.size // len(self.record) - 1) * len(self.record)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        at = 0
        while at < len(buf):
            skip = (offset + at) % len(self.record)
            take = min(len(self.record) - skip, len(buf) - at)
            whole = offset + at < self.end
            buf[at : at + take] = self.record[skip : skip + take] if whole else bytes(take)
            at += take


@pytest.mark.parametrize("what", ["transactions", "items", "records", "buffers", "runs"])
def test_a_huge_log_of_tiny_things_is_refused_soon(what: str) -> None:
    log = LogWriter(size=1 << 18)
    items = {
        "items": [[struct.pack("<HHIQ", 0x1236, 1, 0, 5)]] * 100,
        "buffers": [logs.buffer_item(160 + index * 8, 1, {0: chunk(1)}) for index in range(20)],
        "runs": [logs.buffer_item(160, 8, {index: chunk(1) for index in range(0, 32, 2)})],
    }.get(what, [])
    while len(log.ops) < {"records": 256, "buffers": 4000, "runs": 4000}.get(what, 200_000):
        log.transaction(*items)
    log.record()
    began = time.process_time()
    sup = logs.superblock(log_start=0, log_blocks=1 << 19)
    _, state = recover(BytesSource(bytes(1 << 20)), sup, Limits(), Problems(), Repeated(log))
    assert time.process_time() - began < 9  # a third of it where nothing else runs
    assert state.kind == "dirty-not-replayed" and "more than" in state.reason


def many_items() -> LogWriter:
    log = LogWriter()
    for number in range(40):
        log.transaction(
            *(logs.buffer_item(160 + index * 8, 8, {number % 32: chunk(1)}) for index in range(20)), tid=number
        )
        log.record()
    return log


def many_begun() -> LogWriter:
    log = LogWriter()
    for number in range(900):
        log.op(number, flags=logs.START)
    log.record()
    return log


def many_pieces() -> LogWriter:
    log = LogWriter()
    log.begin(1)
    for number in range(60):
        for region in logs.buffer_item(160, 8, {number % 32: chunk(1)}):
            log.op(1, region[: len(region) // 8 * 4], logs.CONTINUE)
            log.op(1, region[len(region) // 8 * 4 :], logs.WAS_CONTINUED | logs.END)
    log.op(1, flags=logs.COMMIT)
    log.record()
    return log


def many_intents() -> LogWriter:
    log = LogWriter()
    for number in range(300):
        log.transaction([struct.pack("<HHIQ", 0x1236, 1, 0, number)], tid=number)
    log.record()
    return log


def items_at_once() -> LogWriter:
    log = LogWriter()
    for number in range(200):
        log.begin(number)
        log.op(number, logs.buffer_item(160, 8, {0: chunk(1)})[0])
    log.record()
    return log


def owners() -> LogWriter:
    log = LogWriter()
    log.device[PLAIN * 512 : PLAIN * 512 + 512] = logs.inode_buffer(3, 1, 512)
    for number in range(100):
        log.transaction(logs.inode_item(PLAIN, 1, 0, logs.core(), what=0x201, ino=64 + number), tid=number)
    log.record()
    return log


def intents_at_once() -> LogWriter:
    log = LogWriter()
    log.transaction(*([struct.pack("<HHIQ", 0x1236, 1, 0, number)] for number in range(300)))
    log.record()
    return log


@pytest.mark.parametrize(
    ("cap", "value", "make", "text"),
    [
        ("MOST_ITEMS", 100, many_items, "more than 100 changes"),
        ("_MOST_KEYS", 10, many_items, "more than 10 blocks"),
        ("_MOST_OPERATIONS", 100, many_items, "more than 100 operations"),
        ("_MOST_OPEN", 50, many_begun, "more than 50 transactions"),
        ("_MOST_PIECES", 50, many_pieces, "too many pieces"),
        ("_MOST_UNFINISHED", 50, many_intents, "more than 50 intents unfinished"),
        ("_MOST_HELD", 50, items_at_once, "too many items at once"),
        ("_MOST_OWNERS", 50, owners, "more than 50 inodes"),
        ("_MOST_INTENTS", 50, intents_at_once, "more than 50 intents at once"),
    ],
)
def test_what_a_log_may_hold_is_bounded(
    cap: str, value: int, make: Callable[[], LogWriter], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make()
    assert logs.replay(log.source(), logs.superblock())[1].kind == "replayed"
    for module in (log_changes, log_items):
        if hasattr(module, cap):
            monkeypatch.setattr(module, cap, value)
    _, state, _ = logs.replay(log.source(), logs.superblock())
    assert state.kind == "dirty-not-replayed" and text in state.reason


def test_too_many_changes_of_one_block_are_an_error_for_that_block(monkeypatch: pytest.MonkeyPatch) -> None:
    log = many_items()
    log.transaction(logs.buffer_item(1000, 8, {0: chunk(5)}))
    log.record()
    monkeypatch.setattr(log_changes, "_LONG_CHAIN", 4)
    monkeypatch.setattr(log_changes, "_MOST_CHANGES", 8)
    result, state, _ = logs.replay(log.source(), logs.superblock())
    assert state.kind == "replayed"
    with pytest.raises(GuestkitError, match="changes of one buffer"):
        result.read(160 * 512, 4096)
    assert result.read(1000 * 512, 128) == chunk(5)


def test_repeated_inode_items_are_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(cycle=4)
    log.device[PLAIN * 512 : PLAIN * 512 + 1024] = logs.inode_buffer(3, 2, 512)
    for number in range(30):
        log.transaction(logs.inode_item(PLAIN, 2, 0, logs.core(size=number)), tid=number)
        log.transaction(logs.inode_item(PLAIN, 2, 512, logs.core(size=number), b"%4d" % number, what=3), tid=number)
        log.record()
    plain = logs.replay(log.source(), logs.superblock())[0].read(PLAIN * 512, 1024)
    assert int.from_bytes(plain[56:64], "big") == 29
    monkeypatch.setattr(log_changes, "_LONG_CHAIN", 4)
    monkeypatch.setattr(log_changes, "_MOST_CHANGES", 4)
    assert logs.replay(log.source(), logs.superblock())[0].read(PLAIN * 512, 1024) == plain


def test_buffers_that_overlap_are_replayed_in_order() -> None:
    log = LogWriter()
    for index, (start, length) in enumerate(((160, 16), (168, 8), (160, 8), (164, 8), (160, 16))):
        log.transaction(logs.buffer_item(start, length, {0: chunk(index + 1), 8: chunk(index + 101)}), tid=index + 1)
    log.record()
    wanted = bytearray(8192)
    for index, (start, _) in enumerate(((160, 16), (168, 8), (160, 8), (164, 8), (160, 16))):
        for place, fill in ((0, index + 1), (8, index + 101)):
            at = (start - 160) * 512 + place * 128
            wanted[at : at + 128] = chunk(fill)
    assert logs.replay(log.source(), logs.superblock())[0].read(160 * 512, 8192) == wanted


def test_a_log_that_changes_after_opening_is_an_error_where_it_is_read() -> None:
    class Changing(Leaf):
        def __init__(self, data: bytes) -> None:
            self.data = bytearray(data)
            self.size = len(data)

        def read_into(self, offset: int, buf: memoryview) -> None:
            self.check(offset, len(buf))
            buf[:] = self.data[offset : offset + len(buf)]

    log = LogWriter()
    log.transaction(logs.buffer_item(PLAIN, 8, {0: chunk(1)}))
    log.record()
    device = Changing(log.bytes())
    result, state = recover(device, logs.superblock(), Limits(cache_bytes=0), Problems())
    assert state.kind == "replayed" and result.read(PLAIN * 512, 128) == chunk(1)
    device.data[logs.LOG_AT * BLOCK + 600] ^= 1
    with pytest.raises(GuestkitError, match="changed since"):
        result.read(PLAIN * 512, 128)
