"""Decoded: bytes made in units, with and without threads; what fails, what is kept, who waits."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from test_source import check_whole

from guestkit.decoded import Decoded
from guestkit.errors import Corrupt, SourceError, WouldBlock
from guestkit.limits import Cache, Limits
from guestkit.source import patience


class Made(Decoded):
    """`data` in units, counted; `fail(index, how many times it was asked for)` may raise."""

    def __init__(
        self, data: bytes, unit: int, limits: Limits, fail: Callable[[int, int], None] = lambda index, times: None
    ) -> None:
        super().__init__(len(data), unit, limits)
        self.data = data
        self.fail = fail
        self.times: dict[int, int] = {}
        self.lock = threading.Lock()

    def decode(self, index: int) -> bytes:
        with self.lock:
            self.times[index] = self.times.get(index, 0) + 1
            times = self.times[index]
        self.fail(index, times)
        return self.data[index * self.unit : (index + 1) * self.unit]


@pytest.fixture(params=[0, 2, 4])
def limits(request: pytest.FixtureRequest) -> Limits:
    return Limits(cache_bytes=8 << 20, decode_threads=request.param)


@pytest.mark.parametrize("unit", [7, 512, 4096, 1 << 16, 1 << 21])
def test_bytes_are_those_of_the_units(limits: Limits, unit: int) -> None:
    data = random.Random(unit).randbytes(min(unit * 50 + unit // 2 + 1, 700_000))
    check_whole(Made(data, unit, limits), data, 60)
    limits.close()


@pytest.mark.parametrize("step", [512, 5000, 100_000, 1 << 17, 300_000, 1 << 20])
def test_sequential_reads_are_right_and_make_each_unit_once(limits: Limits, step: int) -> None:
    data = random.Random(2).randbytes(4 << 20)
    leaf = Made(data, 1 << 16, limits)
    got = b"".join(leaf.read(at, min(step, len(data) - at)) for at in range(0, len(data), step))
    assert got == data
    limits.close()
    # a thread and the reader may meet at a unit
    assert sum(leaf.times.values()) <= 64 + 64 // 4
    assert set(leaf.times) == set(range(64))


def test_several_sequential_readers_do_not_disturb_one_another(limits: Limits) -> None:
    data = random.Random(3).randbytes(6 << 20)
    leaf = Made(data, 1 << 16, limits)
    third = len(data) // 3
    for at in range(0, third, 1 << 17):
        for start in (0, third, 2 * third):
            length = min(1 << 17, third - at)
            assert leaf.read(start + at, length) == data[start + at : start + at + length]
    limits.close()
    assert sum(leaf.times.values()) <= 96 + 96 // 4


def test_random_reads_decode_nothing_ahead() -> None:
    limits = Limits(decode_threads=2)
    leaf = Made(bytes(4 << 20), 4096, limits)
    choice = random.Random(4)
    touched = set()
    for _ in range(50):
        index = choice.randrange(0, 1024, 100)
        touched.add(index)
        leaf.read(index * 4096, 4096)
    limits.close()
    assert set(leaf.times) == touched


def test_unit_that_cannot_be_made_fails_alone_and_every_time(limits: Limits) -> None:
    def fail(index: int, times: int) -> None:
        if index == 5:
            raise Corrupt("made up")

    data = random.Random(5).randbytes(1 << 20)
    leaf = Made(data, 1 << 16, limits, fail)
    for _ in range(2):
        for at in range(0, len(data), 1 << 15):
            if at >> 16 == 5:
                with pytest.raises(Corrupt, match="made up"):
                    leaf.read(at, 1 << 15)
            else:
                assert leaf.read(at, 1 << 15) == data[at : at + (1 << 15)]
    limits.close()


def test_fault_of_a_moment_is_not_kept(limits: Limits) -> None:
    def fail(index: int, times: int) -> None:
        if times == 1:
            raise SourceError("for now")

    data = random.Random(6).randbytes(1 << 20)
    leaf = Made(data, 1 << 16, limits, fail)
    for at in range(0, len(data), 1 << 16):
        for _ in range(3):
            try:
                got = leaf.read(at, 1 << 16)
                break
            except SourceError:
                continue
        assert got == data[at : at + (1 << 16)]
    limits.close()


def test_thread_that_may_not_wait_is_told_until_the_unit_is_there(limits: Limits) -> None:
    leaf = Made(b"x" * 100_000, 10_000, limits)
    patience.may_block = False
    try:
        with pytest.raises(WouldBlock):
            leaf.read(5, 10)
        with pytest.raises(WouldBlock):
            leaf.read_into(5, memoryview(bytearray(10)))
        patience.may_block = True
        leaf.read(5, 10)
        patience.may_block = False
        assert leaf.read(0, 10_000) == b"x" * 10_000
        with pytest.raises(WouldBlock):
            leaf.read(0, 10_001)
    finally:
        patience.may_block = True
        limits.close()


def test_reading_goes_on_without_threads_when_they_were_ended() -> None:
    limits = Limits(decode_threads=2)
    data = random.Random(7).randbytes(1 << 20)
    leaf = Made(data, 1 << 14, limits)
    assert leaf.read(0, 1 << 19) == data[: 1 << 19]
    limits.close()
    assert leaf.read(1 << 19, 1 << 19) == data[1 << 19 :]
    assert limits.pool() is None


def test_a_reader_decodes_what_is_next_while_another_thread_makes_what_it_waits_for() -> None:
    limits = Limits(decode_threads=2)
    reader = threading.get_ident()
    begun, helped = threading.Event(), threading.Event()
    by: dict[int, int] = {}

    def fail(index: int, times: int) -> None:
        by[index] = threading.get_ident()
        if threading.get_ident() != reader:
            begun.set()
            assert helped.wait(10)
        elif begun.is_set():
            helped.set()

    data = random.Random(12).randbytes(4 << 20)
    leaf = Made(data, 1 << 18, limits, fail)
    leaf._start(0, 7)  # four batches, of which the pool begins one
    assert begun.wait(10)
    assert leaf.read(0, len(data)) == data
    limits.close()
    assert helped.is_set() and by[0] != reader and by[2] == reader
    assert set(leaf.times) == set(range(16)) and sum(leaf.times.values()) <= 18


def test_many_threads_read_the_same_bytes() -> None:
    limits = Limits(cache_bytes=1 << 20, decode_threads=2)
    data = random.Random(8).randbytes(2 << 20)
    leaf = Made(data, 1 << 14, limits)
    wrong = []

    def read(seed: int) -> None:
        choice = random.Random(seed)
        at = choice.randrange(len(data))
        for _ in range(100):
            length = choice.randrange(1, 100_000)
            if leaf.read(at, min(length, len(data) - at)) != data[at : at + length]:
                wrong.append(at)
            at = (at + length) % len(data) if choice.random() < 0.7 else choice.randrange(len(data))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limits.close()
    assert not wrong


def test_a_file_that_the_cache_can_hold_is_made_once_for_two_readings(limits: Limits) -> None:
    data = random.Random(2).randbytes(2 << 20)
    leaf = Made(data, 1 << 15, limits)
    for _ in range(2):
        assert b"".join(leaf.read(at, 1 << 17) for at in range(0, len(data), 1 << 17)) == data
    limits.close()
    assert sum(leaf.times.values()) <= 64 + 64 // 4  # a thread and the reader may meet at a unit


def test_long_stream_leaves_what_others_cached() -> None:
    limits = Limits(cache_bytes=4 << 20, decode_threads=0)
    limits.cache.put("metadata", b"m", 100_000)
    data = bytes(16 << 20)
    leaf = Made(data, 1 << 16, limits)
    for at in range(0, len(data), 1 << 20):
        leaf.read(at, 1 << 20)
    assert limits.cache.get("metadata") == b"m"


def test_long_stream_keeps_no_more_than_is_decoded_ahead(limits: Limits) -> None:
    data = random.Random(10).randbytes(12 << 20)
    leaf = Made(data, 1 << 16, limits)
    buf = bytearray(len(data))
    step = 300_000
    for at in range(0, len(data), step):
        leaf.read_into(at, memoryview(buf)[at : at + step])
    assert buf == data
    # what was read before it was long, and the unit in which it ended
    assert limits.cache.bytes <= 5 * step + (2 << 16)
    assert leaf.read(0, 1 << 16) == data[: 1 << 16]
    limits.close()


def test_stream_that_may_not_wait_loses_nothing_of_what_it_has_to_read_again() -> None:
    limits = Limits(cache_bytes=4 << 20, decode_threads=0)
    data = random.Random(11).randbytes(8 << 20)
    leaf = Made(data, 1 << 16, limits)
    for at in range(0, 4 << 20, 1 << 18):
        leaf.read(at, 1 << 18)
    leaf.read((4 << 20) + (1 << 16), 1)
    patience.may_block = False
    try:
        with pytest.raises(WouldBlock):
            leaf.read((4 << 20) + (1 << 16), 1 << 17)
    finally:
        patience.may_block = True
    assert leaf.read(4 << 20, 1 << 18) == data[4 << 20 : (4 << 20) + (1 << 18)]
    assert set(leaf.times.values()) == {1}


def test_cache_stays_within_its_bytes_and_drops_the_longest_unused() -> None:
    cache = Cache(1000)
    for number in range(10):
        cache.put(number, number, 100)
    assert cache.bytes == 1000
    cache.get(0)
    cache.put("new", 1, 200)
    assert cache.bytes <= 1000
    assert 0 in cache and 1 not in cache and 2 not in cache and 3 in cache
    cache.put("huge", 1, 251)
    assert "huge" not in cache
    cache.put(0, "again", 50)
    assert cache.get(0) == "again" and cache.bytes == 950
    cache.drop([0, "nothing"])
    assert 0 not in cache and cache.bytes == 900
    cache.clear()
    assert cache.bytes == 0 and cache.get(3) is None


def test_gaps_are_not_asked_for_again_and_again() -> None:
    class Gappy(Made):
        asked = 0

        def wanted(self, index: int) -> bool:
            self.asked += 1
            return index % 2 == 0

    limits = Limits(decode_threads=2)
    data = random.Random(9).randbytes(4 << 20)
    leaf = Gappy(data, 1 << 14, limits)
    for at in range(0, len(data), 1 << 15):
        assert leaf.read(at, 1 << 14) == data[at : at + (1 << 14)]
    limits.close()
    assert leaf.asked <= 256 + 64
