"""The JSON documents of a guest: os.json, disks.json, filesystems.json. Their keys are described in docs/inspect.md.

Keys are stable: one may be added, none renamed. Sizes are bytes, times ISO 8601 in UTC. A value that is not known is
null, "" or "unknown" as the page says. Text that is not UTF-8 stands as lone surrogates, which JSON writes as \\udcXX.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from guestkit.errors import GuestkitError
from guestkit.fs.base import Subvolume
from guestkit.guest import Device, Disk, Guest
from guestkit.inspect.system import Application, OperatingSystem
from guestkit.probe import Detected

_MOST_TEXT = 65_536  # characters of one value that an image's own header gives
_DEPTH = 8

# what a person calls them -> MBR ids and GPT GUIDs
_MBR_NAMES = {
    "00": "empty",
    "01": "FAT12",
    "04": "FAT16 <32M",
    "05": "extended",
    "06": "FAT16",
    "07": "NTFS or exFAT",
    "0b": "FAT32",
    "0c": "FAT32 LBA",
    "0e": "FAT16 LBA",
    "0f": "extended LBA",
    "27": "Windows recovery",
    "42": "Windows LDM",
    "82": "Linux swap",
    "83": "Linux",
    "85": "Linux extended",
    "8e": "Linux LVM",
    "a5": "FreeBSD",
    "a6": "OpenBSD",
    "a9": "NetBSD",
    "ee": "GPT protective",
    "ef": "EFI system",
    "fd": "Linux RAID",
}
_GPT_NAMES = {
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B": "EFI system",
    "21686148-6449-6E6F-744E-656564454649": "BIOS boot",
    "0FC63DAF-8483-4772-8E79-3D69D8477DE4": "Linux filesystem",
    "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": "Linux swap",
    "E6D6D379-F507-44C2-A23C-238F2A3DF928": "Linux LVM",
    "A19D880F-05FC-4D3B-A006-743F0F84911E": "Linux RAID",
    "BC13C2FF-59E6-4262-A352-B275FD6F7172": "Linux extended boot",
    "933AC7E1-2EB4-4F13-B844-0E14E2AEF915": "Linux home",
    "3B8F8425-20E0-4F3B-907F-1A25A76F98E8": "Linux server data",
    "4D21B016-B534-45C2-A9FB-5C16E091FD2D": "Linux variable data",
    "44479540-F297-41B2-9AF7-D131D5F0458A": "Linux root (x86)",
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": "Linux root (x86-64)",
    "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3": "Linux root (ARM)",
    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE": "Linux root (ARM64)",
    "CA7D7CCB-63ED-4C53-861C-1742536059CC": "Linux LUKS",
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "Microsoft basic data",
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE": "Microsoft reserved",
    "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC": "Windows recovery",
    "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3": "Windows LDM metadata",
    "AF9B60A0-1431-4F62-BC68-3311714A69AD": "Windows LDM data",
    "516E7CB4-6ECF-11D6-8FF8-00022D09712B": "FreeBSD",
    "516E7CBA-6ECF-11D6-8FF8-00022D09712B": "FreeBSD ZFS",
    "6A898CC3-1DD2-11B2-99A6-080020736631": "Solaris /usr or ZFS",
}
_GPT_BOOTABLE = 1 << 2  # legacy BIOS bootable


def to_json(document: object) -> bytes:
    """Serialise a document as ASCII with a newline at the end."""
    import json

    return json.dumps(document, indent=2, ensure_ascii=True).encode("ascii") + b"\n"


def os_document(guest: Guest, systems: Sequence[OperatingSystem]) -> dict[str, object]:
    """The operating systems found, in the order of their roots."""
    return {"systems": [system_facts(system) for system in systems]}


def system_facts(system: OperatingSystem) -> dict[str, object]:
    """One operating system, JSON-ready."""
    return {
        "root": system.root,
        "type": system.type,
        "distro": system.distro,
        "product_name": system.product_name,
        "product_variant": system.product_variant,
        "major_version": system.major_version,
        "minor_version": system.minor_version,
        "codename": system.codename,
        "build_id": system.build_id,
        "osinfo": system.osinfo,
        "hostname": system.hostname,
        "arch": system.arch,
        "package_format": system.package_format,
        "package_management": system.package_management,
        "mountpoints": dict(system.mountpoints),
        "filesystems": list(system.filesystems),
        "fstab": [
            {
                "spec": entry.spec,
                "mountpoint": entry.mountpoint,
                "type": entry.type,
                "options": list(entry.options),
                "device": entry.device,
            }
            for entry in system.fstab
        ],
        "drive_mappings": dict(system.drive_mappings),
        "windows_systemroot": system.windows_systemroot,
        "windows_current_control_set": system.windows_current_control_set,
        "warnings": list(system.warnings),
    }


def application_facts(application: Application) -> dict[str, object]:
    """One package, JSON-ready, under the names of Application's fields."""
    return dict(application._asdict())


def disks_document(guest: Guest) -> dict[str, object]:
    """The images, their partition tables and partitions."""
    return {"disks": [_disk(disk) for disk in guest.disks]}


def _disk(disk: Disk) -> dict[str, object]:
    image = disk.image
    table = disk.table
    return {
        "device": disk.name,
        "image": os.path.basename(disk.path),
        "format": image.format if image is not None else "raw",
        "size": disk.size,
        "sector_size": disk.sector_size,
        "label": disk.label,
        "info": _plain(dict(image.info())) if image is not None else {},
        "snapshots": [
            {"id": snapshot.id, "name": snapshot.name, "size": snapshot.size, "time": iso_time(snapshot.time_ns)}
            for snapshot in (image.snapshots() if image is not None else ())
        ],
        "table": None if table is None else {"scheme": table.scheme, "uuid": table.uuid},
        "partitions": [_partition(part) for part in disk.partitions],
        "problems": [*(image.problems() if image is not None else ()), *(table.problems if table is not None else ())],
    }


def _partition(device: Device) -> dict[str, object]:
    volume = device.volume
    assert volume is not None
    if volume.scheme == "gpt":
        type_name = _GPT_NAMES.get(volume.type_id.upper(), "")
        bootable = bool(volume.attributes & _GPT_BOOTABLE)
    else:
        type_name = _MBR_NAMES.get(volume.type_id.lower(), "")
        bootable = volume.attributes == 0x80
    return {
        "device": device.name,
        "number": volume.number,
        "start": volume.start,
        "size": volume.size,
        "type_id": volume.type_id,
        "type": type_name,
        "role": volume.role,
        "label": volume.label,
        "uuid": volume.uuid,
        "attributes": volume.attributes,
        "bootable": bootable,
        "problem": volume.problem,
    }


def filesystems_document(guest: Guest, options: Mapping[str, str] | None = None) -> dict[str, object]:
    """Every device that can hold a filesystem, with what stands there; `reason` says why one can't be shown."""
    found = []
    for device in guest.devices():
        volume = device.volume
        if (isinstance(device, Disk) and device.partitions) or (volume is not None and volume.role):
            continue
        found.append(filesystem_facts(guest, device, options))
    return {"filesystems": found}


def filesystem_facts(guest: Guest, device: Device, options: Mapping[str, str] | None = None) -> dict[str, object]:
    """One device and its filesystem, JSON-ready."""
    facts: dict[str, object] = {
        "device": device.name,
        "type": "unknown",
        "usage": "",
        "label": "",
        "uuid": "",
        "version": "",
        "members": [],
        "subvolumes": [],
        "size": device.size,
        "capacity": None,
        "used": None,
        "free": None,
        "state": "",
        "problems": {"count": 0, "first": []},
        "details": {},
        "reason": "",
    }
    try:
        detected = guest.detect(device)
    except GuestkitError as error:
        facts["reason"] = error.message
        return facts
    facts.update(
        type=detected.type or "unknown",
        usage=detected.usage,
        label=detected.label,
        uuid=detected.uuid,
        version=detected.version,
    )
    facts["reason"] = _not_shown(detected)
    if facts["reason"]:
        return facts
    try:
        members = [member.name for member in guest.members(device)]
        if len(members) > 1:
            facts["members"] = members
        if device.name != members[0]:
            facts["reason"] = f"a part of the filesystem on {members[0]}"
            return facts
        fs = guest.filesystem(device.name, options or {})
        facts["subvolumes"] = [_subvolume(volume) for volume in fs.roots() if volume.id]
        facts["state"] = str(fs.state)
        facts["details"] = _plain(dict(fs.details()))
        statistics = fs.statvfs()
        unit = statistics.frsize
        facts["capacity"] = statistics.blocks * unit
        facts["used"] = (statistics.blocks - statistics.bfree) * unit
        facts["free"] = statistics.bavail * unit
        count, first = fs.problems()
        facts["problems"] = {
            "count": count,
            "first": [{"where": problem.where, "message": problem.message} for problem in first[:10]],
        }
    except GuestkitError as error:
        facts["reason"] = error.message
    return facts


def _subvolume(volume: Subvolume) -> dict[str, object]:
    return {
        "id": volume.id,
        "path": volume.path.decode("utf-8", "surrogateescape"),
        "default": volume.default,
        "read_only": volume.read_only,
    }


def _not_shown(detected: Detected) -> str:
    """Why what was detected holds no files to show, or ""."""
    if not detected.type:
        return "nothing that guestkit knows"
    if detected.type == "swap":
        return "swap space"
    if detected.usage == "crypto" or detected.type in ("crypto_LUKS", "BitLocker"):
        return f"encrypted ({detected.type}), which is not supported yet"
    if detected.usage == "raid" or detected.type.endswith("_member"):
        return f"a part of a volume group or an array ({detected.type}), which is not supported yet"
    return ""


def iso_time(time_ns: int) -> str:
    """A time in UTC as ISO 8601; the number itself where no calendar reaches."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ns // 1_000_000_000))
    except (ValueError, OverflowError, OSError):
        return f"@{time_ns // 1_000_000_000}"


def _plain(value: object, depth: int = 0) -> object:
    """Turn what a format's own facts hold into what JSON holds."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value[:_MOST_TEXT]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value[:_MOST_TEXT]).decode("utf-8", "surrogateescape")
    if depth < _DEPTH and isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if depth < _DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    return str(value)[:_MOST_TEXT]
