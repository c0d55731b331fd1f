"""The NTFS reader. `open` finds a good boot sector and gives the FileSystem.

Spec: libfsntfs documentation, "New Technologies File System (NTFS)". Options, by ntfs-3g's names: uid, gid, umask,
fmask, dmask, show_sys_files, ignore_case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guestkit.errors import Unsupported
from guestkit.fs.base import Problems
from guestkit.fs.ntfs.boot import find_boot
from guestkit.fs.ntfs.filesystem import Ntfs
from guestkit.fs.ntfs.volume import Volume, parse_options
from guestkit.limits import Limits
from guestkit.resolve import resolve
from guestkit.source import Source


def open(sources: Sequence[Source], limits: Limits, options: Mapping[str, str]) -> Ntfs:
    """Open the filesystem on `sources[0]`.

    Raises: Corrupt when the boot sector, $MFT or the root cannot be used; Unsupported for an unknown version;
    InvalidArgument for a bad option.
    """
    device = resolve(sources[0])
    damage = Problems()
    chosen = parse_options(options)
    boot, wrong = find_boot(device)
    if wrong:
        damage.add("boot sector", wrong)
    if boot.clusters * boot.cluster_size > device.size:
        damage.add("boot sector", f"the volume has {boot.clusters} clusters, the device is smaller")
    fs = Ntfs(Volume(device, boot, limits, damage), chosen, damage)
    version = (fs.information.major, fs.information.minor)
    if version > (3, 1):
        raise Unsupported(f"NTFS version {version[0]}.{version[1]}")
    return fs


__all__ = ["Ntfs", "open"]
