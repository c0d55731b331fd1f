"""The libguestfs-compatible class: `from guestkit import Guestfs`, or `import guestkit as guestfs`.

Guestfs answers hash tables as dicts; GuestFS as libguestfs's own binding does, as lists of pairs unless asked
otherwise. Every category of functions is one module; all of them read only.
"""

from __future__ import annotations

import os

from guestkit.guestfs.archive import Archive
from guestkit.guestfs.checksum import Checksum
from guestkit.guestfs.containers import Containers
from guestkit.guestfs.cpio import Cpio
from guestkit.guestfs.devices import Devices
from guestkit.guestfs.drives import Drives
from guestkit.guestfs.errors import ClosedHandle, Failure, GuestfsError, as_guestfs_error
from guestkit.guestfs.events import (
    EVENT_ALL,
    EVENT_APPLIANCE,
    EVENT_CLOSE,
    EVENT_ENTER,
    EVENT_LAUNCH_DONE,
    EVENT_LIBRARY,
    EVENT_LIBVIRT_AUTH,
    EVENT_PROGRESS,
    EVENT_SUBPROCESS_QUIT,
    EVENT_TRACE,
    EVENT_WARNING,
    event_to_string,
)
from guestkit.guestfs.files import Files
from guestkit.guestfs.grep import Grep
from guestkit.guestfs.inspection import Inspection
from guestkit.guestfs.lifecycle import Lifecycle
from guestkit.guestfs.local import Local
from guestkit.guestfs.magic import Magic
from guestkit.guestfs.partitions import Partitions
from guestkit.guestfs.search import Search
from guestkit.guestfs.settings import Settings
from guestkit.guestfs.stat import Metadata
from guestkit.guestfs.text import Text
from guestkit.guestfs.transfer import Transfer
from guestkit.guestfs.vfs import Vfs
from guestkit.guestfs.writes import Writes
from guestkit.guestfs.xattr import Xattrs

__all__ = [
    "EVENT_ALL",
    "EVENT_APPLIANCE",
    "EVENT_CLOSE",
    "EVENT_ENTER",
    "EVENT_LAUNCH_DONE",
    "EVENT_LIBRARY",
    "EVENT_LIBVIRT_AUTH",
    "EVENT_PROGRESS",
    "EVENT_SUBPROCESS_QUIT",
    "EVENT_TRACE",
    "EVENT_WARNING",
    "ClosedHandle",
    "GuestFS",
    "Guestfs",
    "GuestfsError",
    "event_to_string",
]


class GuestFS(
    Drives,
    Lifecycle,
    Settings,
    Devices,
    Partitions,
    Vfs,
    Inspection,
    Local,
    Files,
    Metadata,
    Xattrs,
    Search,
    Grep,
    Text,
    Checksum,
    Transfer,
    Archive,
    Cpio,
    Magic,
    Containers,
    Writes,
):
    """A handle on a guest's disks, with libguestfs's functions.

    with GuestFS(python_return_dict=True) as g:
        g.add_drive_ro("disk.qcow2")
        g.launch()
        g.mount_ro(g.inspect_os()[0], "/")
        print(g.cat("/etc/os-release"))
    """

    def __init__(self, python_return_dict: bool = False, environment: bool = True, close_on_exit: bool = True) -> None:
        """`environment`: take LIBGUESTFS_* variables. `close_on_exit`: close at the end of the program.

        Raises: GuestfsError for a variable with a bad value.
        """
        super().__init__()
        self._dictionaries = bool(python_return_dict)
        if environment:
            try:
                self._environment(os.environ)
            except Failure as error:
                raise as_guestfs_error("parse_environment", "", error) from None
        if close_on_exit:
            _close_at_exit(self)


class Guestfs(GuestFS):
    """As GuestFS, with dicts for hash tables."""

    def __init__(self, python_return_dict: bool = True, environment: bool = True, close_on_exit: bool = True) -> None:
        super().__init__(python_return_dict, environment, close_on_exit)


def _close_at_exit(handle: GuestFS) -> None:
    """Close `handle` when the interpreter ends, unless it is gone by then."""
    import atexit
    import weakref

    weak = weakref.ref(handle)

    def close() -> None:
        found = weak()
        if found is not None and not found._closed():
            found.close()

    atexit.register(close)
