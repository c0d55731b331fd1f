"""Drives: which disk images a handle is to open."""

from __future__ import annotations

import errno
import os
import re
import stat

from guestkit.guestfs.call import CONFIG, Hashtable, StringList, api
from guestkit.guestfs.errors import Failure, not_supported
from guestkit.guestfs.handle import Drive, Handle

_LABEL = re.compile(r"[A-Za-z]{1,20}")
_FORMAT = re.compile(r"[A-Za-z0-9_-]+")
_NULL_SIZE = 4096  # bytes of the disk that /dev/null stands for


class Drives(Handle):
    @api(state=CONFIG)
    def add_drive(
        self,
        filename: str,
        readonly: bool | None = None,
        format: str | None = None,
        iface: str | None = None,
        name: str | None = None,
        label: str | None = None,
        protocol: str | None = None,
        server: StringList | None = None,
        username: str | None = None,
        secret: str | None = None,
        cachemode: str | None = None,
        discard: str | None = None,
        copyonread: bool | None = None,
        blocksize: int | None = None,
    ) -> None:
        """Name a disk image to open at launch; the first becomes /dev/sda. It is never written to.

        Raises: GuestfsError when it cannot be read, or for a parameter that makes no sense.
        """
        if protocol not in (None, "file"):
            raise not_supported(f"the protocol '{protocol}'")
        if server:
            raise Failure(f"{'file'}: you cannot specify a server with this protocol")
        if cachemode not in (None, "writeback", "unsafe"):
            raise Failure("cachemode parameter must be 'writeback' (default) or 'unsafe'")
        if discard not in (None, "disable", "enable", "besteffort"):
            raise Failure("discard parameter must be 'disable', 'enable' or 'besteffort'")
        if readonly and discard in ("enable", "besteffort"):
            raise Failure("discard support cannot be enabled on read-only drives")
        self._add(filename, format, label, blocksize)

    add_drive_opts = add_drive

    @api(state=CONFIG)
    def add_drive_ro(self, filename: str) -> None:
        """Name a disk image to open at launch. Raises: GuestfsError when it cannot be read."""
        self._add(filename, None, None, None)

    @api(state=CONFIG)
    def add_drive_scratch(
        self, size: int, name: str | None = None, label: str | None = None, blocksize: int | None = None
    ) -> None:
        """Add an empty disk of `size` bytes. Raises: GuestfsError for a size that is not positive."""
        if size <= 0:
            raise Failure("scratch disk size must be > 0")
        self._added.append(Drive("", "raw", self._label(label), self._block_size(blocksize), size))

    @api(state=CONFIG, deprecated="add_drive_ro")
    def add_cdrom(self, filename: str) -> None:
        """The same as add_drive_ro."""
        self._add(filename, None, None, None)

    @api(state=CONFIG, deprecated="add_drive")
    def add_drive_with_if(self, filename: str, iface: str) -> None:
        """The same as add_drive."""
        self._add(filename, None, None, None)

    @api(state=CONFIG, deprecated="add_drive")
    def add_drive_ro_with_if(self, filename: str, iface: str) -> None:
        """The same as add_drive_ro."""
        self._add(filename, None, None, None)

    def _label(self, label: str | None) -> str:
        if label is not None and not _LABEL.fullmatch(label):
            raise Failure("label parameter is empty or contains disallowed characters")
        return label or ""

    def _block_size(self, size: int | None) -> int | None:
        if size not in (None, 512, 4096):
            raise Failure(f"blocksize parameter must be 512 or 4096, not {size}")
        return size

    def _add(self, filename: str, format: str | None, label: str | None, block_size: int | None) -> None:
        if format is not None and not _FORMAT.fullmatch(format):
            raise Failure("format parameter is empty or contains disallowed characters")
        if ":" in filename and not os.path.exists(filename):
            raise Failure(f"{filename}: No such file or directory", errno.ENOENT)
        if filename == "/dev/null":
            if format not in (None, "raw"):
                raise Failure("for device '/dev/null', format must be 'raw'")
            self._added.append(Drive("", "raw", self._label(label), self._block_size(block_size), _NULL_SIZE))
            return
        drive = Drive(filename, format, self._label(label), self._block_size(block_size))
        try:
            with open(filename, "rb", opener=_patient) as file:
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise Failure(f"{filename}: {error.strerror}", error.errno or 0) from None
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise Failure(f"{filename}: is neither a regular file nor a block device")
        self._added.append(drive)

    @api()
    def list_disk_labels(self) -> Hashtable:
        """The labels given with add_drive: label to device, and label and number to partition."""
        found = {}
        for disk in self._opened().disks:
            if disk.label:
                found[disk.label] = disk.name
                for device in disk.partitions:
                    found[disk.label + device.name.removeprefix(disk.name)] = device.name
        return found


def _patient(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not make us wait
