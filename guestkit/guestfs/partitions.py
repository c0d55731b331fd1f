"""Partition tables, as parted and sfdisk tell of them in libguestfs. Offsets and sizes are in bytes."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any

from guestkit.guestfs.call import Device, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle

if TYPE_CHECKING:
    from guestkit.volume.base import Table, Volume

_PARTITION = re.compile(r"(/dev/(?:[a-z]+\d+(?=p)|[a-z]+\d+n\d+(?=p)|[a-z]+))p?(\d+)")
_MBR_ACTIVE = 0x80
_GPT_LEGACY_BOOT = 1 << 2


class Partitions(Handle):
    def _partition_table(self, device: str) -> Table | None:
        """The table on a device; None where a filesystem stands on it whole."""
        found = self._device(device)
        for disk in self._opened().disks:
            if disk is found and disk.table is not None:
                return disk.table
        if not self._opened().detect(found).type:
            raise Failure(f"{device}: unrecognised disk label: Invalid argument", errno.EINVAL)
        return None

    def _volume(self, device: str, number: int, scheme: str = "", what: str = "") -> Volume:
        if number <= 0:
            raise Failure("partition number must be >= 1", errno.EINVAL)
        table = self._partition_table(device)
        if table is None:
            raise Failure(f"{device}: not a partitioned device", errno.EINVAL)
        if scheme and table.scheme != scheme:
            raise Failure(
                f"{what} can only be used on {'MBR' if scheme == 'msdos' else 'GPT'} partitions", errno.EINVAL
            )
        for volume in table.volumes:
            if volume.number == number:
                return volume
        raise Failure(f"{device}: partition number {number} not found", errno.EINVAL)

    @api()
    def part_list(self, device: Device) -> list[dict[str, Any]]:
        """The partitions of a disk: part_num, part_start, part_end (the last byte), part_size.

        A filesystem on the bare disk is one partition. Raises: GuestfsError for a blank disk.
        """
        table = self._partition_table(device)
        if table is None:
            size = self._device(device).size
            return [{"part_num": 1, "part_start": 0, "part_end": size - 1, "part_size": size}]
        return [
            {
                "part_num": volume.number,
                "part_start": volume.start,
                "part_end": volume.start + volume.size - 1,
                "part_size": volume.size,
            }
            for volume in table.volumes
        ]

    @api()
    def part_get_parttype(self, device: Device) -> str:
        """The kind of table: "msdos", "gpt". Raises: GuestfsError (EINVAL) where there is none."""
        table = self._partition_table(device)
        if table is None:
            raise Failure(f"{device}: not a partitioned device", errno.EINVAL)
        return table.scheme

    @api()
    def part_get_bootable(self, device: Device, partnum: int) -> bool:
        """Whether a partition is marked active (MBR) or for legacy boot (GPT). Raises: GuestfsError (EINVAL)."""
        volume = self._volume(device, partnum)
        return bool(volume.attributes & (_MBR_ACTIVE if volume.scheme == "msdos" else _GPT_LEGACY_BOOT))

    @api()
    def part_get_mbr_id(self, device: Device, partnum: int) -> int:
        """The MBR type byte. Raises: GuestfsError (EINVAL)."""
        return int(self._volume(device, partnum, "msdos", "part_get_mbr_id").type_id, 16)

    @api()
    def part_get_mbr_part_type(self, device: Device, partnum: int) -> str:
        """ "primary", "extended" or "logical"; on GPT always "primary". Raises: GuestfsError (EINVAL)."""
        volume = self._volume(device, partnum)
        if volume.role == "extended":
            return "extended"
        return "logical" if volume.scheme == "msdos" and volume.number > 4 else "primary"

    @api()
    def part_get_gpt_type(self, device: Device, partnum: int) -> str:
        """The type GUID, upper case. Raises: GuestfsError (EINVAL)."""
        return self._volume(device, partnum, "gpt", "part_get_gpt_type").type_id.upper()

    @api()
    def part_get_gpt_guid(self, device: Device, partnum: int) -> str:
        """The partition's own GUID, upper case. Raises: GuestfsError (EINVAL)."""
        return self._volume(device, partnum, "gpt", "part_get_gpt_guid").uuid.upper()

    @api()
    def part_get_gpt_attributes(self, device: Device, partnum: int) -> int:
        """The 64 attribute bits, as a signed number. Raises: GuestfsError (EINVAL)."""
        bits = self._volume(device, partnum, "gpt", "part_get_gpt_attributes").attributes
        return bits - (1 << 64) if bits >> 63 else bits

    @api()
    def part_get_name(self, device: Device, partnum: int) -> str:
        """The GPT name of a partition. Raises: GuestfsError (EINVAL)."""
        return self._volume(device, partnum, "gpt", "part_get_name").label

    @api()
    def part_get_disk_guid(self, device: Device) -> str:
        """The GUID of a GPT, upper case. Raises: GuestfsError (EINVAL)."""
        table = self._partition_table(device)
        if table is None or table.scheme != "gpt":
            raise Failure("part_get_disk_guid can only be used on GPT partitions", errno.EINVAL)
        return table.uuid.upper()

    @api()
    def part_to_dev(self, partition: Device) -> str:
        """The disk that a partition is on. Raises: GuestfsError (EINVAL) for a whole disk."""
        return self._split(partition)[0]

    @api()
    def part_to_partnum(self, partition: Device) -> int:
        """The number of a partition. Raises: GuestfsError (EINVAL) for a whole disk."""
        return self._split(partition)[1]

    def _split(self, partition: str) -> tuple[str, int]:
        match = _PARTITION.fullmatch(self._device(partition).name)
        if not match:
            raise Failure("device name is not a partition", errno.EINVAL)
        return match[1], int(match[2])
