"""The directory that a mount will cover: what must be true of it, and what a killed mount left there."""

from __future__ import annotations

import errno
import os
import subprocess

from guestkit.errors import AccessRefused, Busy, GuestkitError, NotADirectory, NotFound, SourceError, Unsupported


def prepare(mountpoint: str, *, nonempty: bool = False) -> None:
    """See that a mount can stand at `mountpoint`; a dead mount of guestkit's there is cleared.

    Raises: NotFound, NotADirectory, AccessRefused, Busy (not empty, or mounted already), SourceError.
    """
    try:
        status = os.stat(mountpoint)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise _refused(error, mountpoint) from None
        _clear(mountpoint)
        try:
            status = os.stat(mountpoint)
        except OSError as again:
            raise _refused(again, mountpoint) from None
    if not os.path.isdir(mountpoint):
        raise NotADirectory("the mount point is not a directory", where=mountpoint)
    if nonempty:
        return
    place = os.path.realpath(mountpoint)
    if os.stat(os.path.dirname(place)).st_dev != status.st_dev or place == "/":
        raise Busy(
            "something is mounted there already (guestkit-umount it first, or give -o nonempty)", where=mountpoint
        )
    try:
        with os.scandir(mountpoint) as entries:
            filled = next(entries, None) is not None
    except OSError as error:
        raise _refused(error, mountpoint) from None
    if filled:
        raise Busy("the mount point is not empty (-o nonempty mounts over it)", where=mountpoint)


def _refused(error: OSError, mountpoint: str) -> GuestkitError:
    if error.errno == errno.ENOENT:
        return NotFound("the mount point does not exist (mkdir it first)", where=mountpoint)
    if error.errno == errno.ENOTDIR:
        return NotADirectory("the mount point is not a directory", where=mountpoint)
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessRefused("the mount point cannot be read", where=mountpoint)
    return SourceError(error.strerror or str(error), where=mountpoint)


def mount_type(mountpoint: str) -> str:
    """The type of what is mounted at `mountpoint`, topmost; "" when nothing is."""
    place = os.path.abspath(mountpoint)
    parent = os.path.realpath(os.path.dirname(place))
    place = os.path.join(parent, os.path.basename(place))
    found = ""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split()
            if _unescaped(fields[4]) == os.fsencode(place):
                found = fields[fields.index(b"-") + 1].decode("ascii", "replace")
    return found


def _unescaped(text: bytes) -> bytes:
    for escape, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(escape, byte)
    return text


def _clear(mountpoint: str) -> None:
    """Take away a mount whose program is gone."""
    kind = mount_type(mountpoint)
    if kind != "fuse.guestkit":
        raise Busy(f"a dead {kind or 'fuse'} mount stands there (fusermount3 -u -z {mountpoint})", where=mountpoint)
    unmount(mountpoint, lazy=True)


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount what is mounted at `mountpoint`. Raises: Busy, Unsupported without fusermount3, SourceError."""
    for command in (["fusermount3", "-u", *(["-z"] if lazy else [])], ["umount", *(["-l"] if lazy else [])]):
        try:
            done = subprocess.run([*command, "--", mountpoint], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            return
        said = done.stderr.strip().partition("\n")[0]
        if "busy" in said.lower():
            raise Busy("in use: leave the directory and close its files, or give --lazy", where=mountpoint)
        raise SourceError(said or "cannot be unmounted", where=mountpoint)
    raise Unsupported("unmounting without fusermount3 (install the fuse3 package)")
