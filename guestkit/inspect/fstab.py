"""/etc/fstab: its lines, and which device of this guest each of them names.

Spec: fstab(5), and udev's /dev/disk/by-* links. Every spelling that names a device by something found in the image
is resolved: tags, links by label, UUID, partition and number, kernel names of all buses, LVM names. What a serial
number or a PCI path would tell is only used as far as its "-partN" leaves no choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from guestkit.errors import GuestkitError
from guestkit.guest import Device, Guest, canonical_device_name, letters
from guestkit.inspect.look import Look
from guestkit.inspect.system import FstabEntry
from guestkit.mountable import SELECTING, subvolume_name

_MOST_ENTRIES = 10_000
_OCTAL = re.compile(rb"\\([0-7]{3})")
_HEX = re.compile(r"\\x([0-9A-Fa-f]{2})")
_PART = re.compile(r"-part([0-9]{1,4})$")
_NUMBERED = re.compile(r"/dev/(?:nvme([0-9]{1,3})n1|mmcblk([0-9]{1,3}))(?:p([0-9]{1,4}))?")
_CCISS = re.compile(r"/dev/(?:cciss|ida)/c([0-9]{1,2})d([0-9]{1,2})(?:p([0-9]{1,4}))?")
_REMOVABLE = re.compile(r"/dev/(?:fd|floppy|cdrom|dvd|cdrw|dvdrw|sr|scd|cd)[0-9]*")

_TAGS = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid", "PARTLABEL": "partlabel"}
_LINKS = {f"/dev/disk/by-{kind}/": kind for kind in _TAGS.values()}

# never a filesystem on a disk of the guest
_VIRTUAL = (
    "proc sysfs tmpfs ramfs devtmpfs devpts securityfs debugfs configfs cgroup cgroup2 mqueue hugetlbfs bpf tracefs "
    "efivarfs binfmt_misc usbfs usbdevfs rootfs none nfs nfs4 cifs smbfs smb3 ncpfs afs ceph glusterfs lustre 9p "
    "virtiofs overlay aufs autofs davfs fuse.sshfs fuse.glusterfs"
)
_IGNORED_TYPES = frozenset(_VIRTUAL.split())


def parse_fstab(data: bytes) -> list[FstabEntry]:
    """Parse the lines of an fstab; comments and lines of fewer than two fields are left out."""
    entries: list[FstabEntry] = []
    for raw in data.split(b"\n"):
        fields = raw.split(None, 4)
        if len(fields) < 2 or fields[0].startswith(b"#"):
            continue
        texts = [_unescape(field) for field in fields[:4]] + ["auto", "defaults"][len(fields) - 2 :]
        spec, point, kind, options = texts[:4]
        tag, equals, value = spec.partition("=")
        if equals and tag.upper() in _TAGS:
            spec = f"{tag.upper()}={_unquoted(value)}"
        else:
            spec = _unquoted(spec)
        entries.append(FstabEntry(spec, _clean(_unquoted(point)), kind, tuple(options.split(","))))
        if len(entries) == _MOST_ENTRIES:
            break
    return entries


def _unescape(field: bytes) -> str:
    return _OCTAL.sub(_octal, field).decode("utf-8", "surrogateescape")


def _octal(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 8) & 0xFF,))


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _clean(point: str) -> str:
    """A mount point without doubled and trailing slashes; what does not begin with one is left as it is."""
    if not point.startswith("/"):
        return point
    return "/" + "/".join(name for name in point.split("/") if name and name != ".")


class DeviceIndex:
    """Finds the devices of a guest by everything that an fstab can call them."""

    def __init__(self, guest: Guest, options: Mapping[str, str] | None = None) -> None:
        """`options`: mount options for every filesystem, with which its subvolumes are looked up."""
        self._guest = guest
        self._options = options or {}
        self._names: set[str] = set()
        self._by: dict[tuple[str, str], list[Device]] = {}
        for device in guest.devices():
            self._names.add(device.name)
            self._add_partition(device)
            if device.volume is not None and device.volume.problem:
                continue
            try:
                detected = guest.detect(device)
            except GuestkitError:  # filesystems.json tells; here the device just has no label and no UUID
                continue
            self._add("uuid", detected.uuid.lower(), device)
            self._add("label", detected.label, device)
        for mountable, _ in guest.filesystems(self._options):
            self._names.add(mountable)

    def _add(self, kind: str, value: str, device: Device) -> None:
        if value:
            self._by.setdefault((kind, value), []).append(device)

    def _add_partition(self, device: Device) -> None:
        volume, disk = device.volume, device.disk
        if volume is None or disk is None or disk.table is None:
            return
        self._add("partlabel", volume.label, device)
        if disk.table.scheme == "msdos" and disk.table.uuid:
            identity = disk.table.uuid.lower().removeprefix("0x")
            self._add("partuuid", f"{identity}-{volume.number:02x}", device)
        elif volume.uuid:
            self._add("partuuid", volume.uuid.lower(), device)

    def mountable(self, entry: FstabEntry, root: str = "") -> str:
        """The mountable that a line of fstab shows: find()'s, or the subvolume of it that its options choose.

        A filesystem on several devices goes by the name under which it is listed, whichever member is named.
        """
        name = self.find(entry.spec, root)
        try:
            device, subvolume = self._guest.split(name) if name else (None, None)
        except GuestkitError:  # "/dev/root" of a root that the caller made up
            return name
        if device is None or subvolume is not None:
            return name
        name = self._guest.first_member(device).name
        chosen = {key: value for key, equals, value in (option.partition("=") for option in entry.options) if equals}
        if entry.type != "btrfs" or not chosen.keys() & set(SELECTING):
            return name
        if "subvol" in chosen:
            return subvolume_name(name, chosen["subvol"].strip("/").encode("utf-8", "surrogateescape"))
        try:
            fs, key = self._guest.root_of(name, {**self._options, **chosen})
        except GuestkitError:  # mounting it tells why
            return name
        paths = [volume.path for volume in fs.roots() if volume.root == key]
        return subvolume_name(name, paths[0]) if paths else name

    def find(self, spec: str, root: str = "") -> str:
        """The device that `spec` names, "" when there is none.

        `root`: the mountable of the system that says so; of several devices that answer to one name (a copied
        disk), the one on the same disk is meant.
        """
        tag, equals, value = spec.partition("=")
        if equals and tag in _TAGS:
            return self._tagged(_TAGS[tag], value, root)
        for prefix, kind in _LINKS.items():
            if spec.startswith(prefix):
                return self._tagged(kind, _HEX.sub(lambda match: chr(int(match[1], 16)), spec[len(prefix) :]), root)
        if spec.startswith(("/dev/disk/by-id/", "/dev/disk/by-path/", "/dev/disk/by-diskseq/")):
            return self._numbered(spec)
        if spec in ("/dev/root", "rootfs"):
            return root
        if not spec.startswith("/dev/"):
            return ""
        name = self._kernel_name(spec)
        return name if name in self._names else ""

    def _tagged(self, kind: str, value: str, root: str) -> str:
        if kind == "uuid" or kind == "partuuid":
            value = value.lower()
        devices = self._by.get((kind, value), [])
        root = self._device_of(root)
        for device in devices:
            if device.disk is not None and any(part.name == root for part in (device.disk, *device.disk.partitions)):
                return device.name
        return devices[0].name if devices else ""

    def _device_of(self, mountable: str) -> str:
        try:
            return self._guest.split(mountable)[0].name
        except GuestkitError:  # no device of this guest: then none is on its disk
            return mountable

    def _numbered(self, spec: str) -> str:
        """/dev/disk/by-id and by-path: a device-mapper name, or a partition number that only one disk has."""
        name = spec.rpartition("/")[2]
        if name.startswith("dm-name-"):
            mapped = self._kernel_name("/dev/mapper/" + name.removeprefix("dm-name-"))
            return mapped if mapped in self._names else ""
        match = _PART.search(name)
        if match is None:
            return self._guest.disks[0].name if len(self._guest.disks) == 1 else ""
        wanted = int(match[1])
        found = [
            part.name
            for disk in self._guest.disks
            for part in disk.partitions
            if part.volume is not None and part.volume.number == wanted
        ]
        return found[0] if len(found) == 1 else ""

    @staticmethod
    def _kernel_name(spec: str) -> str:
        """Turn a name that a guest's kernel or device mapper gives into libguestfs's."""
        match = _NUMBERED.fullmatch(spec)
        if match:
            return f"/dev/sd{letters(int(match[1] or match[2] or 0))}{match[3] or ''}"
        match = _CCISS.fullmatch(spec)
        if match:
            return f"/dev/sd{letters(int(match[1]) * 16 + int(match[2]))}{match[3] or ''}"
        if spec.startswith("/dev/mapper/"):
            group, hyphen, volume = _split_mapper(spec.removeprefix("/dev/mapper/"))
            return f"/dev/{group}/{volume}" if hyphen else spec
        return canonical_device_name(spec)


def _split_mapper(name: str) -> tuple[str, str, str]:
    """Split "vg--a-root" at the one hyphen that is not doubled: ("vg-a", "-", "root")."""
    group, hyphen, volume = name.replace("--", "\0").partition("-")
    return group.replace("\0", "-"), hyphen, volume.replace("\0", "-")


def read_fstab(look: Look, index: DeviceIndex, root: str) -> list[FstabEntry]:
    """The lines of /etc/fstab that name a device of a disk, each with what it was found to be."""
    data = look.read(b"/etc/fstab")
    if data is None:
        return []
    entries = parse_fstab(data)
    if len(entries) == _MOST_ENTRIES:
        look.warn(f"/etc/fstab: more than {_MOST_ENTRIES} lines, the rest not read")
    return [entry._replace(device=index.mountable(entry, root)) for entry in _of_disks(entries)]


def _of_disks(entries: Iterable[FstabEntry]) -> Iterable[FstabEntry]:
    for entry in entries:
        if entry.type in _IGNORED_TYPES or "bind" in entry.options or "rbind" in entry.options:
            continue
        if not entry.spec.startswith(("/dev/", *(f"{tag}=" for tag in _TAGS))) or _REMOVABLE.fullmatch(entry.spec):
            continue
        yield entry
