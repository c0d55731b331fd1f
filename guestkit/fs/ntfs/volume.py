"""Volume: the device with its clusters, the options that decide what is shown, and its part of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from guestkit.fs.base import Problems
from guestkit.fs.ntfs.boot import Boot
from guestkit.limits import Limits
from guestkit.ownership import Ownership
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

    owner: Ownership
    show_sys_files: bool = False
    ignore_case: bool = False


def parse_options(options: Mapping[str, str]) -> Options:
    """Read "uid", "gid", "umask", "fmask", "dmask" (0 by default), "show_sys_files" and "ignore_case".

    Raises: InvalidArgument for a value that makes no sense.
    """
    owner = Ownership(options, umask=0)
    return Options(owner, _flag(options, "show_sys_files"), _flag(options, "ignore_case"))


def _flag(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name)
    return text is not None and text.lower() not in _OFF
