"""Guest: disks -> devices -> volumes -> filesystems. Names, keys, nesting and lifetime are decided here.

Device names are libguestfs's: /dev/sda in the order of adding, /dev/sda1 for its partitions. The Guest owns
every host file and closes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from guestkit import registry
from guestkit.errors import GuestkitError, InvalidArgument, NotFound
from guestkit.files import HostFiles
from guestkit.fs.base import FileSystem, Problem, Problems
from guestkit.image.base import Image
from guestkit.limits import Limits
from guestkit.mountable import PREFIX, SELECTING, choose_root, has_subvolumes, subvolume_name
from guestkit.probe import Detected
from guestkit.resolve import resolve
from guestkit.source import FileSource, Source, ZeroSource
from guestkit.volume.base import Keys, Table, Volume

# a device as people write it: /dev/sda, sda1, /dev/vdb2, xvda1, hdc
_DEVICE = re.compile(r"(?:/dev/)?(?:sd|hd|vd|xvd|ubd)([a-z]{1,3})(\d*)")

# partition types whose content is never a filesystem of the guest
_MSR = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
_LDM_METADATA = "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3"
_LDM_DATA = "AF9B60A0-1431-4F62-BC68-3311714A69AD"
_LDM_MBR = "42"
_NO_FILESYSTEM = (_MSR, _LDM_METADATA, _LDM_DATA, _LDM_MBR)
_WITH_SUBVOLUMES = ("btrfs",)

# the ways to name a device by what stands on it, and udev's directories of them
_TAGS = {"by-uuid": "UUID", "by-label": "LABEL", "by-partuuid": "PARTUUID", "by-partlabel": "PARTLABEL"}
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


@dataclass
class Device:
    """A whole disk, a partition, or another volume, under its libguestfs name.

    kind: "disk", "partition", "lv", "md" or "crypt". `size` in bytes. `volume` is None for a whole disk.
    """

    name: str
    kind: str
    size: int
    sector_size: int
    volume: Volume | None = None
    disk: Disk | None = None
    _source: Source | None = field(default=None, repr=False)
    _detected: Detected | None = field(default=None, repr=False)

    def open(self, keys: Keys | None = None) -> Source:
        """Return the device's bytes, resolved. Raises: as Volume.open."""
        if self._source is None:
            assert self.volume is not None
            try:
                self._source = resolve(self.volume.open(keys))
            except GuestkitError as error:
                error.within(self.short)
                raise
        return self._source

    @property
    def short(self) -> str:
        """The name without /dev/."""
        return self.name.removeprefix("/dev/")


@dataclass
class Disk(Device):
    """One added image. `path` is as the user gave it."""

    path: str = ""
    image: Image | None = field(default=None, repr=False)
    label: str = ""
    table: Table | None = field(default=None, repr=False)
    partitions: list[Device] = field(default_factory=list, repr=False)


class Guest:
    """A virtual machine's disks, opened read-only.

    with Guest() as guest:
        guest.add("disk.qcow2")
        fs = guest.filesystem("/dev/sda1")
    """

    def __init__(self, *, limits: Limits | None = None, allowed: Iterable[str] = ()) -> None:
        """`allowed`: host directories, besides each image's own, in which images may name further files."""
        self.limits = limits or Limits()
        self.disks: list[Disk] = []
        self._allowed = tuple(allowed)
        self._filesystems: dict[tuple[str, tuple[tuple[str, str], ...]], FileSystem] = {}
        self._leaves: list[FileSource] = []
        self._stamps: dict[FileSource, tuple[int, int]] = {}
        self._keys: dict[str, bytes] = {}
        self._damage = Problems()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every host file; what was opened from this Guest raises SourceError afterwards. May be repeated."""
        self._filesystems.clear()
        self.limits.close()
        for leaf in self._leaves:
            leaf.close()
        self._leaves.clear()
        self._stamps.clear()

    def _own(self, leaf: FileSource) -> None:
        """Take over a host file: it is closed with the Guest, and what it looks like now is remembered."""
        self._leaves.append(leaf)
        self._stamps[leaf] = _stamp(leaf)

    # disks

    def add(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        snapshot: str | None = None,
        label: str = "",
        sector_size: int | None = None,
    ) -> Disk:
        """Open a disk image that the user names and look for partitions.

        `format`: qemu-img's name; None: detected. `snapshot`: an internal snapshot's id or name.
        `sector_size`: 512 or 4096 where the image does not say.
        Nothing stays open when it raises.
        Raises: NotFound, AccessRefused, IsADirectory, InvalidArgument, SourceError, Corrupt, Unsupported, NeedKey.
        """
        text = os.fsdecode(path)
        if sector_size not in (None, 512, 4096):
            raise InvalidArgument(f"a sector size of {sector_size}, which is neither 512 nor 4096")
        known = len(self._leaves)
        try:
            disk = self._opened(text, format, snapshot, label, sector_size)
            self._partition(disk)
        except BaseException as error:
            for leaf in self._leaves[known:]:
                self._stamps.pop(leaf, None)
                leaf.close()
            del self._leaves[known:]
            if isinstance(error, GuestkitError) and text not in error.where:
                error.within(text)
            raise
        self.disks.append(disk)
        return disk

    def _opened(self, text: str, format: str | None, snapshot: str | None, label: str, sector_size: int | None) -> Disk:
        leaf = FileSource.open(text, sector_size=sector_size or 512)
        self._own(leaf)
        if not leaf.size:
            raise InvalidArgument("is empty, not a disk image")
        directory = os.path.dirname(os.path.realpath(text))
        files = HostFiles(directory, self._allowed, registry.image_opener(self.limits), self._own)
        image = registry.open_image(leaf, files, self.limits, format)
        if not image.size or (image.format == "raw" and leaf.size < 512):
            raise InvalidArgument(f"holds {min(image.size, leaf.size)} bytes, not a disk")
        shown: Source = image if snapshot is None else image.snapshot(snapshot)
        name = "/dev/sd" + letters(len(self.disks))
        disk = Disk(
            name,
            "disk",
            shown.size,
            sector_size or shown.sector_size,
            None,
            None,
            resolve(shown),
            None,
            text,
            image,
            label,
        )
        disk.disk = disk
        return disk

    def add_empty(self, size: int, *, label: str = "", sector_size: int | None = None) -> Disk:
        """Add a disk of `size` zero bytes, which no host file stands behind."""
        sector = sector_size or 512
        name = "/dev/sd" + letters(len(self.disks))
        disk = Disk(name, "disk", size, sector, None, None, ZeroSource(size, sector_size=sector), None, "", None, label)
        disk.disk = disk
        self.disks.append(disk)
        return disk

    def _partition(self, disk: Disk) -> None:
        source = disk.open()
        disk._detected = registry.detect(source)
        disk.table = table = registry.partition_table(source, self.limits, disk._detected)
        if table is None:
            return
        disk.sector_size = table.sector_size
        for volume in table.volumes:
            device = Device(f"{disk.name}{volume.number}", "partition", volume.size, table.sector_size, volume, disk)
            disk.partitions.append(device)

    # devices

    def devices(self) -> list[Device]:
        """Every disk, each followed by its partitions."""
        return [device for disk in self.disks for device in (disk, *disk.partitions)]

    def device(self, name: str) -> Device:
        """Find a device by any spelling: /dev/sda1, sda1, /dev/vda1, /dev/hda1, /dev/disk/guestfs/LABEL[N].

        udev's names below /dev/disk/by-uuid, by-label, by-partuuid and by-partlabel are understood as well.
        Raises: NotFound.
        """
        place, _, value = name.removeprefix("/dev/disk/").partition("/")
        if name.startswith("/dev/disk/by-") and place in _TAGS:
            found = self.find(_TAGS[place], _ESCAPE.sub(lambda match: chr(int(match[1], 16)), value))
            if found is None:
                raise NotFound("no such device", where=name)
            return found
        wanted = canonical_device_name(name if name.startswith("/dev/") else f"/dev/{name}")
        label = wanted.removeprefix("/dev/disk/guestfs/")
        for disk in self.disks:
            if label != wanted and disk.label and label.startswith(disk.label):
                wanted = disk.name + label[len(disk.label) :]
            for device in (disk, *disk.partitions):
                if device.name == wanted:
                    return device
        raise NotFound("no such device", where=name)

    def detect(self, device: Device) -> Detected:
        """What stands on `device`; computed once. Raises: SourceError when the host cannot read it."""
        if device._detected is None:
            source = device.open(self._keys)
            available = None
            if device.volume is not None and device.disk is not None:  # on a truncated disk the rest is still told
                available = device.disk.size - device.volume.start
            try:
                device._detected = registry.detect(source, available)
            except GuestkitError as error:
                error.within(device.short)
                raise
        return device._detected

    def find(self, kind: str, value: str) -> Device | None:
        """The device whose "UUID", "LABEL", "PARTUUID" or "PARTLABEL" is `value`, or None; the first of several.

        UUIDs are compared without regard to case. A partitioned disk itself comes last.
        """
        if not value or kind not in _TAGS.values():
            return None
        whole = [disk for disk in self.disks if disk.partitions]
        devices = [device for device in self.devices() if not (isinstance(device, Disk) and device.partitions)]
        for device in [*devices, *whole]:
            volume = device.volume
            if kind == "PARTUUID":
                matches = volume is not None and volume.uuid.lower() == value.lower()
            elif kind == "PARTLABEL":
                matches = volume is not None and volume.label == value
            else:
                detected = self._try_detect(device)
                matches = detected.label == value if kind == "LABEL" else detected.uuid.lower() == value.lower()
            if matches:
                return device
        return None

    def _try_detect(self, device: Device) -> Detected:
        """As detect(); what cannot be read is put into problems() and taken for unknown."""
        try:
            return self.detect(device)
        except GuestkitError as error:
            self._damage.add(device.short, error.message)
            return Detected()

    def split(self, mountable: str) -> tuple[Device, str | None]:
        """(device, subvolume) of a mountable: "/dev/sda2" has None, "btrfsvol:/dev/sda2/@/home" has "@/home".

        Where a subvolume could begin at several places, the longest name of a device counts. Raises: NotFound.
        """
        rest = mountable.removeprefix(PREFIX)
        if rest == mountable:
            return self.device(mountable), None
        prefix = rest
        while prefix:
            try:
                return self.device(prefix), rest[len(prefix) + 1 :]
            except NotFound:
                prefix = prefix.rpartition("/")[0]
        raise NotFound("no such device", where=mountable)

    def members(self, device: Device) -> list[Device]:
        """The devices that hold the filesystem on `device`, in the order of devices(); mostly itself alone.

        Raises: InvalidArgument when two devices claim to be the same member; SourceError.
        """
        detected = self.detect(device)
        if detected.usage != "filesystem" or not detected.members:
            return [device]
        found: dict[tuple[str, int], Device] = {}
        for other in self.devices():
            if isinstance(other, Disk) and other.partitions:
                continue
            their = self._try_detect(other)
            if (their.type, their.set_uuid) != (detected.type, detected.set_uuid):
                continue
            for (member, number), known in found.items():
                if member == their.member or number == their.member_id:
                    raise InvalidArgument(
                        f"{known.short} and {other.short} both are device {number} of {detected.type} {detected.uuid}: "
                        "copies of one filesystem cannot be told apart; give one of them",
                        where=device.short,
                    )
            found[their.member, their.member_id] = other
        return list(found.values())

    def _seeds(self, detected: Detected) -> list[Device]:
        """What a filesystem on several devices may stand on besides: its reader knows which of them it does."""
        if detected.members < 2:
            return []
        found = []
        for other in self.devices():
            if not (isinstance(other, Disk) and other.partitions):
                their = self._try_detect(other)
                if their.seed and their.type == detected.type and their.set_uuid != detected.set_uuid:
                    found.append(other)
        return found

    def first_member(self, device: Device) -> Device:
        """The member under whose name a filesystem is listed; `device` itself where members cannot be told apart."""
        try:
            return self.members(device)[0]
        except GuestkitError:
            return device

    def filesystems(self, options: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
        """(mountable, type) in libguestfs's order and with its omissions; "unknown" and "swap" are types here.

        Bare disks come first, then partitions. Left out: partitioned disks, extended partitions, Microsoft
        reserved and LDM partitions, members of volume managers, encrypted containers. What stands on several
        devices is listed once, and behind it every subvolume but the default one, as "btrfsvol:DEVICE/PATH".
        `options`: as for filesystem(), with which the subvolumes are looked for.
        """
        found: list[tuple[str, str]] = []
        whole = [disk for disk in self.disks if not disk.partitions]
        for device in [*whole, *(part for disk in self.disks for part in disk.partitions)]:
            volume = device.volume
            if volume is not None and (volume.role or volume.type_id in _NO_FILESYSTEM):
                continue
            kind = self._try_detect(device).type
            if kind.endswith("_member") or kind in ("crypto_LUKS", "BitLocker"):
                continue
            if self.first_member(device) is not device:
                continue
            found.append((device.name, kind or "unknown"))
            if kind in _WITH_SUBVOLUMES:
                found += [(name, kind) for name in self._subvolumes(device, options)]
        return found

    def _subvolumes(self, device: Device, options: Mapping[str, str] | None) -> list[str]:
        try:
            volumes = self.filesystem(device.name, options).roots()
        except GuestkitError as error:
            self._damage.add(device.short, error.message)
            return []
        return [subvolume_name(device.name, volume.path) for volume in volumes if volume.path and not volume.default]

    def filesystem(
        self, mountable: str, options: Mapping[str, str] | None = None, kind: str | None = None
    ) -> FileSystem:
        """Open the filesystem on a device; the same one when asked again with the same options.

        Any member of a filesystem on several devices opens it with all members that are here. `options` are mount
        options ({"noload": ""}); those that mean nothing for reading are ignored, and those that choose a subvolume
        are root_of()'s. `kind`: open it as this type, whatever detection says (a damaged superblock, with
        {"sb": "32768"}).
        Raises: NotFound (no such device), InvalidArgument (nothing recognised there, or two copies of one member),
        Unsupported, Corrupt, NeedKey.
        """
        device = self.split(mountable)[0]
        detected = self.detect(device)
        forced = kind not in (None, detected.type)
        members = [device] if forced else self.members(device)
        chosen = {name: value for name, value in (options or {}).items() if name not in SELECTING}
        key = (members[0].name, tuple(sorted(chosen.items())))
        fs = self._filesystems.get(key)
        if fs is None:
            kind = kind or detected.type
            if not kind:
                raise InvalidArgument("no filesystem that guestkit knows", where=device.short)
            try:
                sources = self._sources(device, members + ([] if forced else self._seeds(detected)))
                fs = registry.open_filesystem(kind, sources, self.limits, chosen)
            except GuestkitError as error:
                error.within(device.short)
                raise
            self._filesystems[key] = fs
        return fs

    def _sources(self, device: Device, members: list[Device]) -> list[Source]:
        """The bytes of each member; one that cannot be opened, though `device` can, is left out and told."""
        sources = []
        for member in members:
            try:
                sources.append(member.open(self._keys))
            except GuestkitError as error:
                if member is device:
                    raise
                self._damage.add(member.short, error.message)
        return sources

    def root_of(
        self, mountable: str, options: Mapping[str, str] | None = None, kind: str | None = None
    ) -> tuple[FileSystem, int]:
        """Open what a mountable names: the filesystem, and the inode key of the root that a mount of it shows.

        "btrfsvol:DEVICE/PATH" and the options "subvol" and "subvolid" choose a subvolume, else it is the default one.
        Raises: as filesystem; NotFound and InvalidArgument for a subvolume that is not there.
        """
        device, path = self.split(mountable)
        fs = self.filesystem(device.name, options, kind)
        if path is not None and not has_subvolumes(fs):
            raise InvalidArgument(f"{fs.kind} has no subvolumes", where=device.short)
        try:
            return fs, choose_root(fs, path, options or {})
        except GuestkitError as error:
            error.within(device.short)
            raise

    def problems(self) -> list[Problem]:
        """What is wrong with images, partition tables and devices, each with its place; filesystems tell their own."""
        found = []
        for disk in self.disks:
            if disk.image is not None:
                found += [Problem(disk.short, text) for text in disk.image.problems()]
            if disk.table is not None:
                found += [Problem(disk.short, text) for text in disk.table.problems]
            for device in disk.partitions:
                if device.volume is not None and device.volume.problem:
                    found.append(Problem(device.short, device.volume.problem))
        for leaf, stamp in self._stamps.items():
            if leaf.fd >= 0 and _stamp(leaf) != stamp:
                found.append(Problem(leaf.path, "has changed since it was opened"))
        return [*found, *self._damage.first()]

    def unlock(self, device: str, key: bytes) -> None:
        """Give the key of an encrypted volume. Raises: NotFound; a wrong key is found when the volume is opened."""
        self._keys[self.device(device).name] = key


def open_guest(*paths: str | os.PathLike[str], format: str | None = None, limits: Limits | None = None) -> Guest:
    """Open one guest's disk images. Raises: as Guest.add; nothing stays open then."""
    guest = Guest(limits=limits)
    try:
        for path in paths:
            guest.add(path, format=format)
    except BaseException:
        guest.close()
        raise
    return guest


def _stamp(leaf: FileSource) -> tuple[int, int]:
    status = os.fstat(leaf.fd)
    return status.st_size, status.st_mtime_ns


def letters(index: int) -> str:
    """The letters of the disk at `index`: a .. z, aa .. zz, aaa .."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def letters_index(text: str) -> int:
    """The inverse of letters()."""
    index = 0
    for letter in text:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


def canonical_device_name(name: str) -> str:
    """Turn /dev/hdX, /dev/vdX, /dev/xvdX into /dev/sdX; anything else is returned as it is."""
    match = _DEVICE.fullmatch(name)
    return f"/dev/sd{match[1]}{match[2]}" if match and name.startswith("/dev/") else name
