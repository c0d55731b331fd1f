"""What detection says of a device: type, label, UUID, and blkid's whole answer; and devices found by them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from guestkit.errors import GuestkitError
from guestkit.guestfs.call import Device, Hashtable, Mountable, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle

if TYPE_CHECKING:
    from guestkit import guest, probe

_ACTIVE = 0x80


class Vfs(Handle):
    def _detect(self, mountable: str) -> probe.Detected:
        return self._opened().detect(self._mountable(mountable)[0])

    @api()
    def vfs_type(self, mountable: Mountable) -> str:
        """blkid's type of what stands on a device, "" when nothing is recognised. Raises: GuestfsError (ENOENT)."""
        return self._detect(mountable).type

    @api()
    def vfs_label(self, mountable: Mountable) -> str:
        """The label, "" when there is none. Raises: GuestfsError (ENOENT)."""
        return self._detect(mountable).label

    @api()
    def vfs_uuid(self, mountable: Mountable) -> str:
        """The UUID, "" when there is none. Raises: GuestfsError (ENOENT)."""
        return self._detect(mountable).uuid

    get_label = vfs_label
    get_uuid = vfs_uuid

    @api(deprecated="vfs_label")
    def get_e2label(self, device: Device) -> str:
        """The same as vfs_label."""
        return self._detect(device).label

    @api(deprecated="vfs_uuid")
    def get_e2uuid(self, device: Device) -> str:
        """The same as vfs_uuid."""
        return self._detect(device).uuid

    @api()
    def blkid(self, device: Device) -> Hashtable:
        """What `blkid -p -i` tells of a device, all values text, and PARTUUID and PARTLABEL besides.

        Raises: GuestfsError (ENOENT).
        """
        found = self._device(device)
        detected = self._opened().detect(found)
        sector = str(found.sector_size)
        facts = {
            "DEVNAME": found.name,
            "LABEL": detected.label,
            "UUID": detected.uuid,
            "VERSION": detected.version,
            "BLOCK_SIZE": str(detected.block_size or ""),
            "TYPE": detected.type,
            "USAGE": detected.usage,
            **_table_facts(found),
            "MINIMUM_IO_SIZE": sector,
            "PHYSICAL_SECTOR_SIZE": sector,
            "LOGICAL_SECTOR_SIZE": sector,
            **_partition_facts(self, found),
        }
        return {name: value for name, value in facts.items() if value}

    @api()
    def findfs_uuid(self, uuid: str) -> str:
        """The device whose content has this UUID. Raises: GuestfsError when there is none."""
        return self._find("UUID", uuid)

    @api()
    def findfs_label(self, label: str) -> str:
        """The device whose content has this label. Raises: GuestfsError when there is none."""
        return self._find("LABEL", label)

    @api()
    def findfs_partuuid(self, uuid: str) -> str:
        """The partition with this UUID of its own. Raises: GuestfsError when there is none."""
        return self._find("PARTUUID", uuid)

    @api()
    def findfs_partlabel(self, label: str) -> str:
        """The partition with this GPT name. Raises: GuestfsError when there is none."""
        return self._find("PARTLABEL", label)

    def _find(self, tag: str, value: str) -> str:
        guest = self._opened()
        for device in guest.devices():
            volume = device.volume
            if tag.startswith("PART"):
                if volume is None:
                    continue
                if tag == "PARTUUID":
                    here = volume.uuid.lower() == value.lower()
                else:
                    here = volume.label == value
            else:
                try:
                    detected = guest.detect(device)
                except GuestkitError as error:  # a device that cannot be read is not the one that is looked for
                    self._say(f"findfs: {device.name}: {error}")
                    continue
                here = (detected.uuid if tag == "UUID" else detected.label) == value
            if here and value:
                return device.name
        raise Failure(f"findfs exited with status 1: findfs: unable to resolve '{tag}={value}'", errno.ENOENT)


def _table_facts(device: guest.Device) -> dict[str, str]:
    disk = device.disk
    if disk is not device or disk is None or disk.table is None:
        return {}
    return {"PTUUID": disk.table.uuid, "PTTYPE": "dos" if disk.table.scheme == "msdos" else disk.table.scheme}


def _partition_facts(handle: Handle, device: guest.Device) -> dict[str, str]:
    volume = device.volume
    if volume is None or device.disk is None:
        return {}
    mbr = volume.scheme == "msdos"
    number = handle._opened().disks.index(device.disk)
    uuid = volume.uuid.lower()
    return {
        "PART_ENTRY_SCHEME": "dos" if mbr else volume.scheme,
        "PART_ENTRY_NAME": volume.label,
        "PART_ENTRY_UUID": uuid,
        "PART_ENTRY_TYPE": f"0x{int(volume.type_id, 16):x}" if mbr else volume.type_id.lower(),
        "PART_ENTRY_FLAGS": (
            ("0x80" if volume.attributes & _ACTIVE else "")
            if mbr
            else (f"0x{volume.attributes:x}" if volume.attributes else "")
        ),
        "PART_ENTRY_NUMBER": str(volume.number),
        "PART_ENTRY_OFFSET": str(volume.start // 512),
        "PART_ENTRY_SIZE": str(volume.size // 512),
        "PART_ENTRY_DISK": f"8:{16 * number}",
        "PARTUUID": uuid,
        "PARTLABEL": volume.label,
    }
