"""Volume: the device with its clusters, the options that decide what is shown, and its part of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from guestkit.errors import InvalidArgument
from guestkit.fs.base import Problems
from guestkit.fs.ntfs.boot import Boot
from guestkit.limits import Limits
from guestkit.source import Source


class Volume:
    """What all parts of the reader share."""

    __slots__ = ("boot", "cache", "cluster", "clusters", "damage", "device", "limits", "token")

    def __init__(self, device: Source, boot: Boot, limits: Limits, damage: Problems) -> None:
        self.device = device
        self.boot = boot
        self.cluster = boot.cluster_size
        self.clusters = boot.clusters
        self.limits = limits
        self.cache = limits.cache
        self.token = limits.token()
        self.damage = damage


_OFF = ("0", "no", "false", "off")


@dataclass(frozen=True)
class Options:
    """Mount options by the names that ntfs-3g gives them."""

    uid: int = 0
    gid: int = 0
    fmask: int = 0
    dmask: int = 0
    show_sys_files: bool = False
    ignore_case: bool = False


def parse_options(options: Mapping[str, str]) -> Options:
    """Read "uid", "gid" (decimal), "umask", "fmask", "dmask" (octal), "show_sys_files" and "ignore_case".

    Raises: InvalidArgument for a value that is no such number.
    """
    umask = _number(options, "umask", 8, 0o7777, 0)
    return Options(
        _number(options, "uid", 10, 0xFFFFFFFF, 0),
        _number(options, "gid", 10, 0xFFFFFFFF, 0),
        _number(options, "fmask", 8, 0o7777, umask),
        _number(options, "dmask", 8, 0o7777, umask),
        _flag(options, "show_sys_files"),
        _flag(options, "ignore_case"),
    )


def _number(options: Mapping[str, str], name: str, base: int, most: int, default: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16 or (base == 8 and set(text) & {"8", "9"}):
        raise InvalidArgument(f"{name}={text} is not a number")
    value = int(text, base)
    if value > most:
        raise InvalidArgument(f"{name}={text} is too large")
    return value


def _flag(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name)
    return text is not None and text.lower() not in _OFF
