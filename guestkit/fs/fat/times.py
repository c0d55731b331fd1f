"""FAT's dates and times: local, in steps of two seconds (ten milliseconds for the creation) since 1980.

Spec: Microsoft fatgen103, "Date and Time Formats"; what impossible ones mean (month 0, month 15) is Linux's answer.
"""

from __future__ import annotations

from collections.abc import Callable

_BEFORE_MONTH = (0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 0, 0, 0)
_TO_1980 = 3652  # days from 1970
_2100 = 120  # no leap year
_DAY = 86_400
_KEPT = 1 << 14
HUNDREDTH = 10_000_000  # nanoseconds of a hundredth of a second


def seconds(date: int, time: int) -> int:
    """Seconds from 1970 to a local date and time, both as they stand in a directory entry."""
    year, month, day = date >> 9, max(1, date >> 5 & 15), max(1, date & 31) - 1
    leaps = (year + 3) // 4 - (year > _2100) + (not year & 3 and year != _2100 and month > 2)
    days = year * 365 + leaps + _BEFORE_MONTH[month] + day + _TO_1980
    return days * _DAY + (time >> 11) * 3600 + (time >> 5 & 63) * 60 + (time & 31) * 2


class Times(dict[tuple[int, int], int]):
    """(date, time) -> nanoseconds since 1970 in UTC, remembering what was asked lately."""

    def __init__(self, utc: Callable[[int], int]) -> None:
        """`utc`: of local seconds."""
        super().__init__()
        self._utc = utc

    def __missing__(self, key: tuple[int, int]) -> int:
        if len(self) > _KEPT:
            self.clear()
        self[key] = found = self._utc(seconds(*key)) * 1_000_000_000
        return found
