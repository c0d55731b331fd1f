"""What a guest is: operating systems, their facts and mount points, packages, and the JSON reports.

    systems = inspect_guest(guest)
    table = MountTable()
    warnings = mount_os(guest, systems[0], table)
    applications = list_applications(table, systems[0])

Linux and Windows guests; packages of Linux only, for now. Everything is read through a Namespace with caps on size;
nothing of the guest is run.
"""

from __future__ import annotations

from guestkit.inspect.find import inspect_guest
from guestkit.inspect.mounting import mount_os
from guestkit.inspect.packages import list_applications
from guestkit.inspect.system import Application, FstabEntry, OperatingSystem

__all__ = ["Application", "FstabEntry", "OperatingSystem", "inspect_guest", "list_applications", "mount_os"]
