"""Inspection: the operating systems of the guest, as guestkit.inspect finds them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from guestkit.guest import canonical_device_name
from guestkit.guestfs.call import Hashtable, Mountable, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.mount import Mounting
from guestkit.mountable import PREFIX

if TYPE_CHECKING:
    from guestkit.inspect import OperatingSystem

_NOT_WINDOWS = "not a Windows guest, or systemroot could not be determined"


class Inspection(Mounting):
    @api()
    def inspect_os(self) -> list[str]:
        """Look for operating systems on all filesystems: the mountable of each one's root.

        Takes everything out of the tree first; what is found is kept for the inspect_get functions.
        Raises: GuestfsError.
        """
        from guestkit.inspect import inspect_guest

        self._unmount_all()
        self._systems = inspect_guest(self._opened(), {})
        for system in self._systems:
            for warning in system.warnings:
                self._say(f"inspect_os: {system.root}: {warning}")
        return [system.root for system in self._systems]

    def _system(self, root: str) -> OperatingSystem:
        if not self._systems:
            raise Failure("no inspection data: call guestfs_inspect_os first", errno.EINVAL)
        wanted = self._canonical(root)
        for system in self._systems:
            if system.root in (root, wanted):
                return system
        raise Failure(
            f"{root}: root device not found: only call this function with a root device previously returned by "
            "guestfs_inspect_os",
            errno.ENOENT,
        )

    @staticmethod
    def _canonical(root: str) -> str:
        device = root.removeprefix(PREFIX)
        if device == root:
            return canonical_device_name(root)
        place, slash, path = device.removeprefix("/dev/").partition("/")
        return f"{PREFIX}{canonical_device_name('/dev/' + place)}{slash}{path}"

    @api()
    def inspect_get_roots(self) -> list[str]:
        """What inspect_os found, without looking again. Raises: GuestfsError."""
        return [system.root for system in self._systems or ()]

    @api()
    def inspect_get_type(self, root: Mountable) -> str:
        """ "linux", "windows", ... or "unknown". Raises: GuestfsError for a root that was not found."""
        return self._system(root).type

    @api()
    def inspect_get_distro(self, root: Mountable) -> str:
        """libguestfs's id of the distribution, or "unknown". Raises: as inspect_get_type."""
        return self._system(root).distro

    @api()
    def inspect_get_product_name(self, root: Mountable) -> str:
        """The system's name for people, or "unknown". Raises: as inspect_get_type."""
        return self._system(root).product_name

    @api()
    def inspect_get_product_variant(self, root: Mountable) -> str:
        """The variant of a product, or "unknown". Raises: as inspect_get_type."""
        return self._system(root).product_variant

    @api()
    def inspect_get_arch(self, root: Mountable) -> str:
        """The architecture of the programs, or "unknown". Raises: as inspect_get_type."""
        return self._system(root).arch

    @api()
    def inspect_get_major_version(self, root: Mountable) -> int:
        """The major version, 0 when it is not known. Raises: as inspect_get_type."""
        return self._system(root).major_version

    @api()
    def inspect_get_minor_version(self, root: Mountable) -> int:
        """The minor version, 0 when it is not known. Raises: as inspect_get_type."""
        return self._system(root).minor_version

    @api()
    def inspect_get_hostname(self, root: Mountable) -> str:
        """The host name, or "unknown". Raises: as inspect_get_type."""
        return self._system(root).hostname

    @api()
    def inspect_get_package_format(self, root: Mountable) -> str:
        """ "rpm", "deb", ... or "unknown". Raises: as inspect_get_type."""
        return self._system(root).package_format

    @api()
    def inspect_get_package_management(self, root: Mountable) -> str:
        """ "apt", "dnf", ... or "unknown". Raises: as inspect_get_type."""
        return self._system(root).package_management

    @api()
    def inspect_get_osinfo(self, root: Mountable) -> str:
        """libosinfo's short id, or "unknown". Raises: as inspect_get_type."""
        return self._system(root).osinfo

    @api()
    def inspect_get_build_id(self, root: Mountable) -> str:
        """The build, or "unknown". Raises: as inspect_get_type."""
        return self._system(root).build_id or "unknown"

    @api()
    def inspect_get_mountpoints(self, root: Mountable) -> Hashtable:
        """The mount points of the system's fstab, each with its mountable. Raises: as inspect_get_type."""
        return dict(self._system(root).mountpoints)

    @api()
    def inspect_get_filesystems(self, root: Mountable) -> list[str]:
        """The filesystems that belong to the system, swap too. Raises: as inspect_get_type."""
        return list(self._system(root).filesystems)

    @api()
    def inspect_get_drive_mappings(self, root: Mountable) -> Hashtable:
        """The drive letters of Windows; none for other systems. Raises: as inspect_get_type."""
        return dict(self._system(root).drive_mappings)

    @api()
    def inspect_list_applications2(self, root: Mountable) -> list[dict[str, Any]]:
        """The installed packages; the system must be mounted at /. Raises: GuestfsError."""
        return [application.application2() for application in self._applications(root)]

    @api(deprecated="inspect_list_applications2")
    def inspect_list_applications(self, root: Mountable) -> list[dict[str, Any]]:
        """As inspect_list_applications2, with fewer keys. Raises: GuestfsError."""
        found = []
        for application in self._applications(root):
            facts = application.application2()
            found.append({name: facts[name.replace("app_", "app2_")] for name in _OLD_KEYS})
        return found

    def _applications(self, root: str) -> list[Any]:
        from guestkit.inspect import list_applications

        system = self._system(root)
        self._need_root("/")
        warnings: list[str] = []
        found = list_applications(self._table, system, None, warnings)
        for warning in warnings:
            self._say(f"inspect_list_applications: {warning}")
        return found

    @api(deprecated=True)
    def inspect_is_live(self, root: Mountable) -> bool:
        """Always False, as in libguestfs. Raises: as inspect_get_type."""
        self._system(root)
        return False

    @api(deprecated=True)
    def inspect_is_netinst(self, root: Mountable) -> bool:
        """Always False, as in libguestfs. Raises: as inspect_get_type."""
        self._system(root)
        return False

    @api(deprecated=True)
    def inspect_is_multipart(self, root: Mountable) -> bool:
        """Always False, as in libguestfs. Raises: as inspect_get_type."""
        self._system(root)
        return False

    @api(deprecated=True)
    def inspect_get_format(self, root: Mountable) -> str:
        """Always "installed", as in libguestfs. Raises: as inspect_get_type."""
        self._system(root)
        return "installed"

    @api()
    def inspect_get_windows_systemroot(self, root: Mountable) -> str:
        """The directory of Windows, "/Windows". Raises: GuestfsError for another system."""
        return self._windows(root, "windows_systemroot", _NOT_WINDOWS)

    @api()
    def inspect_get_windows_current_control_set(self, root: Mountable) -> str:
        """ "ControlSet001". Raises: GuestfsError for another system, or where the registry does not tell."""
        missing = "not a Windows guest, or CurrentControlSet could not be determined"
        return self._windows(root, "windows_current_control_set", missing)

    @api()
    def inspect_get_windows_software_hive(self, root: Mountable) -> str:
        """The path of the hive SOFTWARE. Raises: GuestfsError for another system, or where it is not there."""
        missing = "not a Windows guest, or software hive not found"
        return self._windows(root, "windows_software_hive", missing)

    @api()
    def inspect_get_windows_system_hive(self, root: Mountable) -> str:
        """The path of the hive SYSTEM. Raises: GuestfsError for another system, or where it is not there."""
        return self._windows(root, "windows_system_hive", "not a Windows guest, or system hive not found")

    def _windows(self, root: str, name: str, missing: str) -> str:
        found: str = getattr(self._system(root), name)
        if not found:
            raise Failure(missing, errno.EINVAL)
        return found


_OLD_KEYS = (
    "app_name",
    "app_display_name",
    "app_epoch",
    "app_version",
    "app_release",
    "app_install_path",
    "app_trans_path",
    "app_publisher",
    "app_url",
    "app_source_package",
    "app_summary",
    "app_description",
)
