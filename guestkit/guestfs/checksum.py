"""Checksums of files and devices."""

from __future__ import annotations

import errno
import hashlib
import stat
import zlib
from typing import Protocol

from guestkit.errors import GuestkitError
from guestkit.guestfs.call import Device, FileOut, Pathname, api
from guestkit.guestfs.errors import Failure, describe
from guestkit.guestfs.handle import Handle
from guestkit.guestfs.transfer import CHUNK, Sink, copy
from guestkit.source import Source

_HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_UNKNOWN = "unknown checksum type, expecting crc|" + "|".join(_HASHES)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_MASK = 0xFFFFFFFF
_ZEROS = bytes(CHUNK)


class _Sum(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


class Cksum:
    """POSIX cksum: CRC-32 with the bits in the other order than zlib's, so that zlib does it on reversed bytes."""

    def __init__(self) -> None:
        self._value = _MASK  # zlib inverts at both ends: this is a register of 0
        self._size = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data.translate(_REVERSED), self._value)
        self._size += len(data)

    def hexdigest(self) -> str:
        """The sum, decimal as cksum prints it."""
        size = self._size.to_bytes((self._size.bit_length() + 7) // 8, "little")
        register = zlib.crc32(size.translate(_REVERSED), self._value) ^ _MASK
        return str(int(f"{register:032b}"[::-1], 2) ^ _MASK)


def _sum(kind: str) -> _Sum:
    if kind == "crc":
        return Cksum()
    if kind not in _HASHES:
        raise Failure(_UNKNOWN, errno.EINVAL)
    return hashlib.new(kind, usedforsecurity=False)


def digest(kind: str, source: Source) -> str:
    """The checksum of all bytes of `source`."""
    total = _sum(kind)

    def zeros(count: int) -> None:
        while count:
            total.update(_ZEROS if count >= CHUNK else _ZEROS[:count])
            count -= min(count, CHUNK)

    copy(source, total.update, zeros)
    return total.hexdigest()


class Checksum(Handle):
    @api(syscall="")
    def checksum(self, csumtype: str, path: Pathname) -> str:
        """A file's checksum: crc (POSIX cksum), md5, sha1, sha224, sha256, sha384 or sha512. Raises: GuestfsError."""
        self._need_root(path)
        _sum(csumtype)
        try:
            return digest(csumtype, self._open(path))
        except GuestkitError as error:
            raise _at(path, error) from error

    @api()
    def checksum_device(self, csumtype: str, device: Device) -> str:
        """A device's checksum. Raises: GuestfsError."""
        source = self._source(self._device(device))
        _sum(csumtype)
        return digest(csumtype, source)

    @api()
    def checksums_out(self, csumtype: str, directory: Pathname, sumsfile: FileOut) -> None:
        """Write the checksum of every regular file below a directory to a host file, as sha256sum prints them.

        Raises: GuestfsError.
        """
        top = self._node(directory)
        if not stat.S_ISDIR(self._table.stat(top).mode):
            raise Failure(f"{directory}: not a directory", errno.ENOTDIR)
        _sum(csumtype)
        with Sink(self, sumsfile) as sink:
            for path, node, status in self._walk(top):
                if not stat.S_ISREG(status.mode):
                    continue
                try:
                    value = digest(csumtype, self._table.open(node))
                except GuestkitError as error:
                    raise _at(path.decode("utf-8", "replace"), error) from error
                sink.write(_line(csumtype, value, status.size, b"./" + path))


def _line(kind: str, value: str, size: int, path: bytes) -> bytes:
    if kind == "crc":
        return b"%s %d %s\n" % (value.encode(), size, path)
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"%s%s  %s\n" % (b"\\" if escaped != path else b"", value.encode(), escaped)


def _at(path: str, error: GuestkitError) -> Failure:
    return Failure(f"{path}: {describe(error)}", error.errno or errno.EIO)
