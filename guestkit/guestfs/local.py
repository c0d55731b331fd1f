"""mount_local: the handle's tree as a FUSE mount of the host."""

from __future__ import annotations

import errno
import os
import threading

from guestkit.errors import GuestkitError
from guestkit.guestfs.call import api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle


class Local(Handle):
    _local: str | None = None
    _serving: threading.Event | None = None

    @api()
    def mount_local(
        self,
        localmountpoint: str,
        readonly: bool | None = None,
        options: str | None = None,
        cachetimeout: int | None = None,
        debugcalls: bool | None = None,
    ) -> None:
        """Choose the host directory at which mount_local_run shows the tree. Raises: GuestfsError."""
        if self._local is not None:
            raise Failure("filesystem is already mounted in another thread", errno.EBUSY)
        if not os.path.isdir(localmountpoint):
            raise Failure(f"{localmountpoint}: Not a directory", errno.ENOTDIR)
        self._local = localmountpoint

    @api(lock=False)
    def mount_local_run(self) -> None:
        """Show the tree until it is unmounted. Raises: GuestfsError when it cannot be mounted."""
        place = self._local
        if place is None:
            raise Failure("you must call guestfs_mount_local first", errno.EINVAL)
        from guestkit import fuse

        done = self._serving = threading.Event()
        try:
            fuse.serve(self._table, os.path.abspath(place))
        except GuestkitError as error:
            raise Failure(str(error), error.errno or 0) from error
        finally:
            self._local = None
            self._serving = None
            done.set()

    @api(lock=False)
    def umount_local(self, retry: bool | None = None) -> None:
        """End mount_local_run, from any thread. Raises: GuestfsError when nothing is shown."""
        if self._local is None:
            raise Failure("no filesystem is mounted", errno.EINVAL)
        done = self._serving
        if done is None:
            self._local = None
            return
        from guestkit import fuse

        fuse.stop()
        done.wait(10)
