"""Checksums that are turned right before each byte, of many records at once: equal to those made one by one."""

from __future__ import annotations

import random

import pytest

from guestkit.checksum import rotating_sums
from guestkit.fs.base import whole


def one(record: bytes, columns: list[int], bits: int) -> int:
    total = 0
    for column in columns:
        total = ((total >> 1 | (total & 1) << bits - 1) + record[column]) % (1 << bits)
    return total


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 9, 300, 2048, 2049, 5000])
def test_many_are_summed_as_one_is(bits: int, count: int) -> None:
    chooser = random.Random(count * bits)
    for size in (32, 96, 608) if count < 1000 else (64,):
        columns = sorted(chooser.sample(range(size), chooser.randrange(1, size)))
        # columns of zeros are passed over, and sums overflow
        empty = set(chooser.sample(range(size), chooser.choice((0, size // 2, size - 1))))
        highest = chooser.choice((0, 1, 200))
        data = bytes(0 if at % size in empty else chooser.randrange(highest, 256) for at in range(count * size))
        records = [data[at : at + size] for at in range(0, len(data), size)]
        assert whole(rotating_sums(data, size, columns, bits)) == [one(each, columns, bits) for each in records]


def test_the_largest_bytes_do_not_run_into_their_neighbours() -> None:
    data = b"\xff" * 96 * 100
    assert set(whole(rotating_sums(data, 96, range(96), 16))) == {one(data[:96], list(range(96)), 16)}


def test_a_long_sum_pauses() -> None:
    assert sum(1 for _ in rotating_sums(b"\1" * 96 * 1000, 96, range(96), 16)) > 10
