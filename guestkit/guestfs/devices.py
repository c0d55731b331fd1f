"""Devices: disks and partitions by name, sizes, and what stands on them."""

from __future__ import annotations

import errno
import re

from guestkit.guest import canonical_device_name, letters, letters_index
from guestkit.guestfs.call import Device, Hashtable, Mountable, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle

_WHOLE = re.compile(r"/dev/(?:[a-z]{1,2}d)([a-z]{1,3})")
_ANY_DISK = re.compile(r"/dev/[a-z]{1,2}(d[a-z]{1,3}\d*)")
_MAPPED = re.compile(r"/dev/mapper/((?:[^-/]|--)+)-((?:[^-/]|--)+)")
_MOST_DISKS = 255


class Devices(Handle):
    @api()
    def list_devices(self) -> list[str]:
        """The disks, in the order of adding: /dev/sda, /dev/sdb, ..."""
        return [disk.name for disk in self._opened().disks]

    @api()
    def list_partitions(self) -> list[str]:
        """The partitions of all disks, by disk and number, extended ones included; never a whole disk."""
        return [part.name for disk in self._opened().disks for part in disk.partitions]

    @api()
    def list_filesystems(self) -> Hashtable:
        """Every mountable and its type; "swap" and "unknown" are types here, containers are left out."""
        return self._opened().filesystems()

    @api()
    def list_dm_devices(self) -> list[str]:
        """Unlocked containers; none are, as guestkit unlocks none yet."""
        return [device.name for device in self._opened().devices() if device.kind == "crypt"]

    @api()
    def list_md_devices(self) -> list[str]:
        """Assembled software RAID arrays."""
        return [device.name for device in self._opened().devices() if device.kind == "md"]

    @api()
    def blockdev_getsize64(self, device: Device) -> int:
        """A device's size in bytes. Raises: GuestfsError (ENOENT)."""
        return self._device(device).size

    @api()
    def blockdev_getsz(self, device: Device) -> int:
        """A device's size in units of 512 bytes, whatever its sectors are. Raises: GuestfsError (ENOENT)."""
        return self._device(device).size // 512

    @api()
    def blockdev_getss(self, device: Device) -> int:
        """The bytes of a sector. Raises: GuestfsError (ENOENT)."""
        return self._device(device).sector_size

    @api()
    def blockdev_getbsz(self, device: Device) -> int:
        """The kernel's block size for the device, which is 4096. Raises: GuestfsError (ENOENT)."""
        self._device(device)
        return 4096

    @api()
    def blockdev_getro(self, device: Device) -> bool:
        """Always False, as libguestfs answers for read-only drives too. Raises: GuestfsError (ENOENT)."""
        self._device(device)
        return False

    @api(state=None)
    def canonical_device_name(self, device: str) -> str:
        """A device's name as this interface spells it; what is no known spelling comes back as it is."""
        mapped = _MAPPED.fullmatch(device)
        if mapped:
            return "/dev/" + "/".join(part.replace("--", "-") for part in mapped.groups())
        match = _ANY_DISK.fullmatch(device)
        if match and not device.startswith("/dev/md"):
            return "/dev/s" + match[1]
        return canonical_device_name(device)

    @api(state=None)
    def device_index(self, device: Device) -> int:
        """The position that a disk's letters mean, from 0; the disk need not exist. Raises: GuestfsError."""
        match = _WHOLE.fullmatch(device)
        if not match:
            raise Failure(f"{device}: device not found")
        return letters_index(match[1])

    @api(state=None)
    def device_name(self, index: int) -> str:
        """The name of the disk at `index`. Raises: GuestfsError when there is none."""
        if index < 0 or index >= self._count():
            raise Failure(f"{index}: device index out of range")
        return "/dev/sd" + letters(index)

    def _count(self) -> int:
        return len(self._opened().disks) if self._guest is not None else len(getattr(self, "_added", ()))

    @api()
    def nr_devices(self) -> int:
        """How many disks there are."""
        return len(self._opened().disks)

    @api(state=None)
    def max_disks(self) -> int:
        """How many disks libguestfs could have."""
        return _MOST_DISKS

    @api()
    def is_whole_device(self, device: Device) -> bool:
        """Whether the device is a disk, not a partition or another volume. Raises: GuestfsError (ENOENT)."""
        return self._device(device).kind == "disk"

    @api()
    def is_lv(self, mountable: Mountable) -> bool:
        """Whether it is a logical volume. Raises: GuestfsError (ENOENT)."""
        device, volume = self._mountable(mountable)
        return volume is None and device.kind == "lv"

    @api()
    def mountable_device(self, mountable: Mountable) -> str:
        """The device of a mountable. Raises: GuestfsError (ENOENT)."""
        return self._mountable(mountable)[0].name

    @api()
    def mountable_subvolume(self, mountable: Mountable) -> str:
        """The subvolume of a mountable. Raises: GuestfsError (EINVAL) for a plain device."""
        volume = self._mountable(mountable)[1]
        if volume is None:
            raise Failure(f"{mountable}: not a btrfs subvolume identifier", errno.EINVAL)
        return volume

    @api()
    def blockdev_flushbufs(self, device: Device) -> None:
        """Do nothing. Raises: GuestfsError (ENOENT)."""
        self._device(device)

    @api()
    def blockdev_rereadpt(self, device: Device) -> None:
        """Do nothing: what is read-only does not change. Raises: GuestfsError (ENOENT)."""
        self._device(device)
