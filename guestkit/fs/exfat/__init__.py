"""The reader of exFAT, TexFAT's second tables among it.

Spec: Microsoft's exFAT specification. Options: those of guestkit.ownership.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guestkit.errors import Corrupt
from guestkit.fs.base import Problems
from guestkit.fs.exfat.boot import Boot, read_boot
from guestkit.fs.exfat.filesystem import ExFat
from guestkit.limits import Limits
from guestkit.resolve import resolve
from guestkit.source import Source

_BACKUP = 12  # the sector at which the copy of the boot region begins


def open(sources: Sequence[Source], limits: Limits, options: Mapping[str, str]) -> ExFat:
    """Open the filesystem on `sources[0]`; by the backup of the boot region when the main one is damaged.

    Raises: Corrupt when neither is good; Unsupported for another revision; InvalidArgument for an option.
    """
    device = resolve(sources[0])
    damage = Problems()
    boot = _boot(device, damage)
    fs = ExFat(device, boot, limits, options)
    for problem in damage.first():
        fs.damage.add(*problem)
    if boot.volume_size > device.size:
        fs.damage.add("boot sector", f"the volume has {boot.volume_size} bytes, the device {device.size}")
    return fs


def _boot(device: Source, damage: Problems) -> Boot:
    try:
        return read_boot(device)
    except Corrupt as error:
        try:
            boot = read_boot(device, _BACKUP)
        except Corrupt:
            raise error from None
        damage.add("boot region", f"{error}; the backup was used")
        return boot
