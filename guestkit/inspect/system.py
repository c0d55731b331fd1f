"""The values that inspection gives: OperatingSystem, FstabEntry, Application. Names are libguestfs's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

UNKNOWN = "unknown"


class FstabEntry(NamedTuple):
    """One line of /etc/fstab, escapes and quotes undone; bytes that are not UTF-8 stand as surrogates.

    `device` is the mountable that `spec` names in this guest, or "" when none does.
    """

    spec: str
    mountpoint: str
    type: str
    options: tuple[str, ...]
    device: str = ""

    @property
    def is_swap(self) -> bool:
        return self.type == "swap" or self.mountpoint == "swap"

    @property
    def automatic(self) -> bool:
        """Whether the guest mounts it by itself."""
        return "noauto" not in self.options


@dataclass(frozen=True)
class OperatingSystem:
    """One installed system. Texts that are not known are "unknown", numbers 0, as libguestfs has them.

    root         the mountable of its root filesystem ("/dev/sda2")
    mountpoints  {mount point: mountable}, only what was found among the disks, "/" first
    filesystems  mountables of the root and of every fstab line, swap too; what was not found as it is written
    fstab        the lines of /etc/fstab that name a device
    warnings     what could not be read, a sentence each

    Windows only: `drive_mappings` {"C": mountable} as the registry has them; `drives`, for links, {"c:" or
    "volume{guid}": mountable} with the system's own; `windows_*` as libguestfs's functions of these names.
    """

    root: str
    type: str = "linux"
    distro: str = UNKNOWN
    product_name: str = UNKNOWN
    product_variant: str = UNKNOWN
    major_version: int = 0
    minor_version: int = 0
    hostname: str = UNKNOWN
    arch: str = UNKNOWN
    package_format: str = UNKNOWN
    package_management: str = UNKNOWN
    osinfo: str = UNKNOWN
    codename: str = ""
    build_id: str = ""
    mountpoints: Mapping[str, str] = field(default_factory=dict)
    filesystems: tuple[str, ...] = ()
    fstab: tuple[FstabEntry, ...] = ()
    warnings: tuple[str, ...] = ()
    drive_mappings: Mapping[str, str] = field(default_factory=dict)
    drives: Mapping[bytes, str] = field(default_factory=dict)
    windows_systemroot: str = ""
    windows_current_control_set: str = ""
    windows_software_hive: str = ""
    windows_system_hive: str = ""


class Application(NamedTuple):
    """An installed package. `release` is what follows the version's last hyphen; `epoch` is 0 when there is none."""

    name: str
    version: str
    release: str = ""
    epoch: int = 0
    arch: str = ""
    display_name: str = ""
    publisher: str = ""
    url: str = ""
    source_package: str = ""
    summary: str = ""
    description: str = ""
    install_path: str = ""
    trans_path: str = ""
    section: str = ""

    def application2(self) -> dict[str, str | int]:
        """The 17 keys of libguestfs's struct application2, in its order."""
        return {
            "app2_name": self.name,
            "app2_display_name": self.display_name,
            "app2_epoch": self.epoch,
            "app2_version": self.version,
            "app2_release": self.release,
            "app2_arch": self.arch,
            "app2_install_path": self.install_path,
            "app2_trans_path": self.trans_path,
            "app2_publisher": self.publisher,
            "app2_url": self.url,
            "app2_source_package": self.source_package,
            "app2_summary": self.summary,
            "app2_description": self.description,
            "app2_class": self.section,
            "app2_spare2": "",
            "app2_spare3": "",
            "app2_spare4": "",
        }
