"""Tree: what a mount shows, as a Namespace.

    /partitions/sda1   every filesystem that can be read, under its device's name; of several devices, the first one's
    /partitions/sda2@top  the top level, with all subvolumes by path, of a filesystem whose default subvolume is another
    /os, /os-2         each operating system's root, with its own fstab's mounts in place
    /inspect/*.json    os, disks, filesystems; made when first looked at
    /disks/sda, sda1   every device's bytes, whatever the image format
    /by-label, /by-uuid  links into /partitions

Absolute links inside a filesystem resolve at its own top, or at the top of its operating system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from guestkit.errors import GuestkitError
from guestkit.guest import Device, Guest
from guestkit.inspect import OperatingSystem, inspect_guest, mount_os
from guestkit.mountable import subvolume_name
from guestkit.namespace import MountTable, node_of
from guestkit.source import Source
from guestkit.synthetic import SyntheticFS

_NO_FILESYSTEM = ("swap", "unknown")
_TOP = b"@top"  # behind a device's name: the top level of its subvolumes


class Tree(MountTable):
    """The whole tree of a Guest. `warnings` names each device that cannot be shown, with the reason."""

    def __init__(self, guest: Guest, options: Mapping[str, str] | None = None) -> None:
        """`options`: mount options for every filesystem, such as {"noload": ""}."""
        super().__init__(first_index=0)
        self.guest = guest
        self.options = dict(options or {})
        self.warnings: list[str] = []
        self.fs = SyntheticFS()
        self.mount(self.fs)
        self._partitions()
        self.systems: list[OperatingSystem] = inspect_guest(guest, self.options)
        self._systems()
        self._documents()
        self._disks()

    def _mount_directory(self, parent: int, path: bytes) -> tuple[int, bytes]:
        key = self.fs.add_directory(parent, path.rpartition(b"/")[2])
        return node_of(0, key), path

    def _partitions(self) -> None:
        top = self.fs.add_directory(1, b"partitions")
        by_label = by_uuid = 0
        for mountable, kind in self.guest.filesystems(self.options):
            device, subvolume = self.guest.split(mountable)
            if kind in _NO_FILESYSTEM or subvolume is not None:
                continue
            name = device.short.encode()
            try:
                fs, root = self.guest.root_of(mountable, self.options)
            except GuestkitError as error:
                self.warnings.append(f"{error}" if error.where else f"{device.short}: {error}")
                continue
            at, path = self._mount_directory(top, b"/partitions/" + name)
            self.mount(fs, at, path, root=root, confine=True, source=mountable)
            for volume in fs.roots():
                if volume.id and not volume.path and volume.root != root:
                    at, path = self._mount_directory(top, b"/partitions/" + name + _TOP)
                    self.mount(fs, at, path, root=volume.root, confine=True, source=subvolume_name(mountable, b""))
            detected = self.guest.detect(device)
            for directory, text in ((b"by-label", detected.label), (b"by-uuid", detected.uuid)):
                if not text:
                    continue
                if directory == b"by-label":
                    by_label = parent = by_label or self.fs.add_directory(1, directory)
                else:
                    by_uuid = parent = by_uuid or self.fs.add_directory(1, directory)
                link = _link_name(text)
                if link not in (entry.name for entry in self.fs.scan(parent)):  # the first of two owners has it
                    self.fs.add_link(parent, link, b"../partitions/" + name)

    def _systems(self) -> None:
        for number, system in enumerate(self.systems, 1):
            name = b"os" if number == 1 else b"os-%d" % number
            at, path = self._mount_directory(1, b"/" + name)
            for warning in mount_os(self.guest, system, self, at, path, self.options):
                self.warnings.append(f"{name.decode()}: {warning}")
        windows = [system for system in self.systems if system.drives]
        for mount in self.mounts.values() if windows else ():
            if mount.index == mount.confine and mount.source:  # its own system's drives, else the first one's
                own = next((system for system in windows if system.root == mount.source), windows[0])
                self.drives.setdefault(mount.index, own.drives)

    def _documents(self) -> None:
        top = self.fs.add_directory(1, b"inspect")
        for name, make in (
            (b"os.json", self._os_json),
            (b"disks.json", self._disks_json),
            (b"filesystems.json", self._filesystems_json),
        ):
            self.fs.add_file(top, name, make)

    def _os_json(self) -> bytes:
        from guestkit.inspect.report import os_document, to_json

        return to_json(os_document(self.guest, self.systems))

    def _disks_json(self) -> bytes:
        from guestkit.inspect.report import disks_document, to_json

        return to_json(disks_document(self.guest))

    def _filesystems_json(self) -> bytes:
        from guestkit.inspect.report import filesystems_document, to_json

        return to_json(filesystems_document(self.guest, self.options))

    def _disks(self) -> None:
        top = self.fs.add_directory(1, b"disks")
        for device in self.guest.devices():
            if device.volume is None or not device.volume.problem:
                self.fs.add_file(top, device.short.encode(), _opener(device))


def _opener(device: Device) -> Callable[[], Source]:
    return lambda: device.open()


def _link_name(text: str) -> bytes:
    """A label as one path component: "/", control characters and what else udev escapes as \\xNN."""
    name = b"".join(
        byte.to_bytes() if byte > 0x20 and byte not in b'/\\"' and byte != 0x7F else b"\\x%02x" % byte
        for byte in text.encode("utf-8", "surrogateescape")
    )
    return name if name not in (b".", b"..") else b"\\x2e" * len(name)


def mount_points(guest: Guest, points: list[tuple[str, str, str]], options: Mapping[str, str]) -> MountTable:
    """Mount devices as guestmount -m does: (device, mount point, options), the root first, whatever their order.

    The option "type" opens a device as that type where detection fails ("type=ext4,sb=32768").

    Raises: as Guest.filesystem and MountTable.mount; NotFound for a mount point that is not there.
    """
    table = MountTable()
    for device, point, text in sorted(points, key=lambda point: point[1].count("/") if point[1] != "/" else -1):
        wanted = {**options, **parse_options(text)}
        fs, root = guest.root_of(device, wanted, wanted.pop("type", None))
        if point in ("", "/"):
            table.mount(fs, root=root, source=device)
        else:
            table.mount(fs, table.resolve(point.encode()), point.rstrip("/").encode(), root=root, source=device)
    return table


def mount_system(guest: Guest, options: Mapping[str, str]) -> tuple[MountTable, list[str]]:
    """Mount the first operating system as guestmount -i does; with the warnings for what could not be mounted.

    Raises: NotFound when there is none.
    """
    from guestkit.errors import NotFound

    systems = inspect_guest(guest, options)
    if not systems:
        raise NotFound("no operating system was found; name a filesystem with -m, or mount the whole tree")
    table = MountTable()
    return table, mount_os(guest, systems[0], table, None, b"", options)


def parse_options(text: str) -> dict[str, str]:
    """Split "noload,subvol=@" into {"noload": "", "subvol": "@"}; blanks round the commas do not matter."""
    pairs = (item.strip().partition("=") for item in text.split(",") if item.strip())
    return {name: value for name, _, value in pairs}
