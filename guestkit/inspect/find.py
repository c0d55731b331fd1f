"""inspect_guest(): which filesystems hold an operating system, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from guestkit.errors import GuestkitError
from guestkit.guest import Guest
from guestkit.inspect import linux
from guestkit.inspect.elf import architecture
from guestkit.inspect.fstab import DeviceIndex, read_fstab
from guestkit.inspect.look import Look
from guestkit.inspect.mounting import filesystem_options
from guestkit.inspect.release import find_release
from guestkit.inspect.system import UNKNOWN, FstabEntry, OperatingSystem
from guestkit.namespace import MountTable

_WINDOWS = ("ntfs", "vfat")  # filesystems that Windows can have its root on


class _Root(NamedTuple):
    """A filesystem, or a subvolume of one, that holds the root of a system of type `system`."""

    mountable: str
    system: str
    table: MountTable
    look: Look
    fstab: list[FstabEntry]


def inspect_guest(guest: Guest, options: Mapping[str, str] | None = None) -> list[OperatingSystem]:
    """Look at every filesystem that can be opened and describe each that is the root of a system.

    `options`: mount options for every filesystem. One that cannot be opened is passed over here;
    report.filesystems_document tells why. The caller keeps the result.
    """
    roots: list[_Root | OperatingSystem] = []
    index: DeviceIndex | None = None
    for mountable, kind in guest.filesystems(options):
        if kind in ("swap", "unknown"):
            continue
        table = MountTable()
        try:
            fs, key = guest.root_of(mountable, options)
            table.mount(fs, root=key, source=mountable)
        except GuestkitError:
            continue
        look = Look(table)
        system = linux.system_type(look)
        if system:
            index = index or DeviceIndex(guest, options)
            roots.append(_Root(mountable, system, table, look, read_fstab(look, index, mountable)))
        elif kind in _WINDOWS:
            windows = _describe_windows(guest, mountable, look)
            if windows is not None:
                roots.append(windows)
    found = {root.mountable: root for root in roots if isinstance(root, _Root)}
    systems: list[OperatingSystem] = []
    for root in roots:
        if not isinstance(root, _Root):
            systems.append(root)
        elif not _is_snapshot(guest, root, found):
            systems.append(_describe(guest, root, options or {}))
    return systems


def _is_snapshot(guest: Guest, root: _Root, found: Mapping[str, _Root]) -> bool:
    """Whether a subvolume is an older state of another root: the one that its own fstab mounts at "/".

    What has no line for "/" (read-only systems) is taken for the state of the default subvolume, if that is a root.
    """
    device, subvolume = guest.split(root.mountable)
    own = next((entry.device for entry in root.fstab if entry.mountpoint == "/"), "")
    if not own:
        return subvolume is not None and device.name in found
    return own != root.mountable and own in found and guest.split(own)[0] is device


def _describe_windows(guest: Guest, root: str, look: Look) -> OperatingSystem | None:
    from guestkit.inspect import windows

    directory = windows.systemroot(look)
    if not directory:
        return None
    facts = windows.describe(guest, look, root, directory)
    return OperatingSystem(
        root=root,
        type="windows",
        distro="windows",
        product_name=facts.product_name,
        product_variant=facts.product_variant,
        major_version=facts.major,
        minor_version=facts.minor,
        hostname=facts.hostname,
        arch=facts.arch,
        osinfo=facts.osinfo,
        build_id=facts.build_id,
        mountpoints={"/": root},
        filesystems=(root,),
        warnings=tuple(look.warnings),
        drive_mappings=facts.drive_mappings,
        drives=facts.drives,
        windows_systemroot=facts.systemroot,
        windows_current_control_set=facts.current_control_set,
        windows_software_hive=facts.software_hive,
        windows_system_hive=facts.system_hive,
    )


def _describe(guest: Guest, found: _Root, options: Mapping[str, str]) -> OperatingSystem:
    root, system, table, look, fstab = found
    mountpoints = _mountpoints(root, fstab)
    if "/usr" in mountpoints:  # its programs and os-release are the system's
        entry = next(entry for entry in fstab if entry.mountpoint == "/usr" and entry.device)
        try:
            usr, key = guest.root_of(entry.device, filesystem_options(entry, options))
            table.mount(usr, table.resolve(b"/usr"), b"/usr", root=key, source=entry.device)
        except GuestkitError as error:
            look.warn(f"/usr: {error}")
    release = find_release(look)
    return OperatingSystem(
        root=root,
        type=system,
        distro=release.distro,
        product_name=release.product_name,
        major_version=release.major,
        minor_version=release.minor,
        hostname=linux.hostname(look) or UNKNOWN,
        arch=architecture(look) or UNKNOWN,
        package_format=linux.package_format(release),
        package_management=linux.package_management(look, release),
        osinfo=linux.osinfo(release) if system == "linux" else UNKNOWN,
        codename=release.codename,
        build_id=release.build_id,
        mountpoints=mountpoints,
        filesystems=_filesystems(root, fstab),
        fstab=tuple(fstab),
        warnings=tuple(look.warnings),
    )


def _mountpoints(root: str, fstab: list[FstabEntry]) -> dict[str, str]:
    """{mount point: mountable} with "/" first, which is the filesystem looked at, whatever fstab calls it."""
    found = {"/": root}
    for entry in fstab:
        if entry.device and entry.automatic and not entry.is_swap and entry.mountpoint.startswith("/"):
            found.setdefault(entry.mountpoint, entry.device)
    return found


def _filesystems(root: str, fstab: list[FstabEntry]) -> tuple[str, ...]:
    names = {root: None}
    for entry in fstab:
        if entry.mountpoint != "/":
            names.setdefault(entry.device or entry.spec)
    return tuple(names)
