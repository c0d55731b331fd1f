"""Who owns files, what may be done with them and when it is, on formats that keep none of these: by mount options.

The options are those of mount(8) for vfat and exfat: "uid" and "gid" (0 by default); "umask", or "fmask" for files and
"dmask" for directories, in octal (022 by default, as guestmount shows it; 0 on NTFS); for local times "tz" ("UTC", the
default, an offset such as "+01:00", or a zone by name such as "Europe/Berlin") or "time_offset", minutes ahead of UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo

from guestkit.errors import InvalidArgument

_OFFSET = re.compile(r"([+-])([0-9]{2}):?([0-9]{2})")
_MOST_MINUTES = 24 * 60
_MOST_ID = 0xFFFFFFFE


class Ownership:
    """`file_mode` and `dir_mode` are the permission bits that the masks leave."""

    __slots__ = ("_offset", "_zone", "dir_mode", "file_mode", "gid", "uid")

    def __init__(self, options: Mapping[str, str], umask: int = 0o022) -> None:
        """`umask`: what counts without an option. Raises: InvalidArgument for an option that makes no sense."""
        self.uid = _number(options, "uid")
        self.gid = _number(options, "gid")
        mask = _mask(options, "umask", umask)
        self.file_mode = 0o777 & ~_mask(options, "fmask", mask)
        self.dir_mode = 0o777 & ~_mask(options, "dmask", mask)
        self._offset, self._zone = _zone(options)

    def utc(self, local: int) -> int:
        """Turn local time, in seconds since 1970 began there, into seconds since 1970 in UTC."""
        if self._zone is None:
            return local - self._offset
        try:
            return int(datetime.fromtimestamp(local, UTC).replace(tzinfo=self._zone).timestamp())
        except (ValueError, OverflowError, OSError):  # beyond what datetime holds
            return local


def _number(options: Mapping[str, str], name: str) -> int:
    text = options.get(name, "0")
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _MOST_ID:
        raise InvalidArgument(f"{name}={text} is not a number of an owner or a group")
    return int(text)


def _mask(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not re.fullmatch("0?[0-7]{1,4}", text):
        raise InvalidArgument(f"{name}={text} is not an octal mask")
    return int(text, 8) & 0o777


def _zone(options: Mapping[str, str]) -> tuple[int, tzinfo | None]:
    """(seconds ahead of UTC, zone): one of the two counts."""
    minutes = options.get("time_offset")
    if minutes is not None:
        if not re.fullmatch("[+-]?[0-9]{1,4}", minutes) or abs(int(minutes)) > _MOST_MINUTES:
            raise InvalidArgument(f"time_offset={minutes} is not a number of minutes within a day")
        return int(minutes) * 60, None
    name = options.get("tz", "UTC")
    if name.upper() in ("UTC", ""):
        return 0, None
    offset = _OFFSET.fullmatch(name)
    if offset:
        sign, hours, minutes = offset.groups()
        if int(hours) < 24 and int(minutes) < 60:
            return (int(hours) * 60 + int(minutes)) * (60 if sign == "+" else -60), None
    from zoneinfo import ZoneInfo

    try:
        return 0, ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # among them ZoneInfoNotFoundError
        raise InvalidArgument(f"tz={name} is neither an offset nor a known zone") from None
