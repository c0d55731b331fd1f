"""What listings keep of what they met: bounded, the oldest given up first, taken once."""

from __future__ import annotations

import pytest

from guestkit.fs.base import Stat
from guestkit.fs.recent import Recent


def met(numbers: range, size: int) -> list[tuple[bytes, Stat]]:
    return [(bytes(size), Stat(number, 0o40755, *[0] * 10)) for number in numbers]


@pytest.mark.parametrize("size", [128, 256, 512, 2048, 4096, 65536])
@pytest.mark.parametrize("at_once", [1, 256, 512])
def test_what_is_kept_is_bounded_however_much_is_met(size: int, at_once: int) -> None:
    recent = Recent(size)
    for first in range(0, 64 * at_once, at_once):
        recent.keep(met(range(first, first + at_once), size))
        assert len(recent) * size <= 2 << 20


def test_the_oldest_are_given_up_and_the_newest_kept() -> None:
    recent = Recent(512)
    most = (2 << 20) // 1024
    recent.keep(met(range(most), 512))
    assert len(recent) == most
    recent.keep(met(range(most, most + 100), 512))
    assert recent.take(0) is None and recent.take(99) is None
    for number in range(most, most + 100):
        found = recent.take(number)
        assert found is not None and found[1].ino == number
        assert recent.take(number) is None
