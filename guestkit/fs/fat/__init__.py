"""The reader of FAT12, FAT16 and FAT32, with long names (Linux's and blkid's "vfat").

Spec: Microsoft fatgen103. Options: those of guestkit.ownership; "codepage" of the short names (437 by default).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guestkit.errors import Corrupt
from guestkit.fs.fat.boot import SIZE, parse_boot
from guestkit.fs.fat.filesystem import Fat
from guestkit.limits import Limits
from guestkit.resolve import resolve
from guestkit.source import Source


def open(sources: Sequence[Source], limits: Limits, options: Mapping[str, str]) -> Fat:
    """Open the filesystem on `sources[0]`.

    Raises: Corrupt when the boot sector makes no sense; Unsupported for a version; InvalidArgument for an option.
    """
    device = resolve(sources[0])
    if device.size < SIZE:
        raise Corrupt("boot sector", "device size", found=device.size, expected=f"at least {SIZE}")
    boot = parse_boot(device.read(0, SIZE), device.size)
    fs = Fat(device, boot, limits, options)
    if boot.volume_size > device.size:
        fs.damage.add("boot sector", f"the volume has {boot.volume_size} bytes, the device {device.size}")
    return fs
