"""Every failure that guestkit reports: one tree of OSErrors, errno always set.

    GuestkitError (OSError)
    +-- NotFound            ENOENT        also FileNotFoundError
    +-- NotADirectory       ENOTDIR       also NotADirectoryError
    +-- IsADirectory        EISDIR        also IsADirectoryError
    +-- LinkLoop            ELOOP
    +-- NameTooLong         ENAMETOOLONG
    +-- NoAttribute         ENODATA       no such extended attribute
    +-- InvalidArgument     EINVAL
    +-- ReadOnly            EROFS
    +-- AccessRefused       EACCES        also PermissionError; a host file that an image names and may not have
    +-- Busy                EBUSY
    +-- Corrupt             EUCLEAN       the bytes contradict the format's specification
    +-- Unsupported         EOPNOTSUPP    a feature that the format allows and guestkit does not read
    +-- NeedKey             ENOKEY
    +-- BadKey              EKEYREJECTED
    +-- SourceError         EIO           the host could not give the bytes

WouldBlock (a BlockingIOError, EAGAIN) goes only to a thread that asked not to wait (see source.patience). It is no
GuestkitError, so that nothing that deals with damage takes it for damage.

Corrupt and Unsupported are never mixed, and nothing unknown is ever turned into "not found".
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar, Self


class GuestkitError(OSError):
    """Base of all errors. `where` is the chain of places from the outside in."""

    number: ClassVar[int] = errno.EIO
    where: tuple[str, ...]

    def __init__(self, message: str = "", *, where: tuple[str, ...] | str = (), number: int | None = None) -> None:
        code = self.number if number is None else number
        super().__init__(code, message or os.strerror(code))
        self.where = (where,) if isinstance(where, str) else tuple(where)

    @property
    def message(self) -> str:
        """The text without the places."""
        return str(self.strerror)

    def within(self, *places: str) -> Self:
        """Put `places` before those already known, as the error rises through the layers."""
        self.where = (*places, *self.where)
        return self

    def __str__(self) -> str:
        return f"{' > '.join(self.where)}: {self.message}" if self.where else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.where, self.errno)


def _rebuild(kind: type[GuestkitError], message: str, where: tuple[str, ...], number: int) -> GuestkitError:
    error = kind.__new__(kind)
    GuestkitError.__init__(error, message, where=where, number=number)
    return error


class NotFound(GuestkitError, FileNotFoundError):
    number = errno.ENOENT


class NotADirectory(GuestkitError, NotADirectoryError):
    number = errno.ENOTDIR


class IsADirectory(GuestkitError, IsADirectoryError):
    number = errno.EISDIR


class LinkLoop(GuestkitError):
    number = errno.ELOOP


class NameTooLong(GuestkitError):
    number = errno.ENAMETOOLONG


class NoAttribute(GuestkitError):
    number = errno.ENODATA


class InvalidArgument(GuestkitError):
    number = errno.EINVAL


class ReadOnly(GuestkitError):
    number = errno.EROFS


class AccessRefused(GuestkitError, PermissionError):
    number = errno.EACCES


class Busy(GuestkitError):
    number = errno.EBUSY


class Corrupt(GuestkitError):
    """The bytes contradict the specification.

    Corrupt("extent header", "eh_magic", found=0, expected=0xF30A) or Corrupt("directory block 7: bad checksum").
    """

    number = errno.EUCLEAN

    def __init__(
        self,
        structure: str,
        field: str = "",
        *,
        found: object = None,
        expected: object = None,
        where: tuple[str, ...] | str = (),
    ) -> None:
        text = f"{structure}: {field}" if field else structure
        if found is not None:
            text += f" is {_show(found)}"
        if expected is not None:
            text += f", expected {_show(expected)}"
        super().__init__(text, where=where)


class Unsupported(GuestkitError):
    """A feature that is legal and that guestkit does not read; `feature` is its name, `bit` its flag if it has one."""

    number = errno.EOPNOTSUPP

    def __init__(self, feature: str, *, bit: int | None = None, where: tuple[str, ...] | str = ()) -> None:
        text = f"{feature} is not supported" if bit is None else f"{feature} (0x{bit:x}) is not supported"
        super().__init__(text, where=where)
        self.feature = feature
        self.bit = bit


class NeedKey(GuestkitError):
    number = errno.ENOKEY


class BadKey(GuestkitError):
    number = errno.EKEYREJECTED


class SourceError(GuestkitError):
    number = errno.EIO


class WouldBlock(BlockingIOError):
    """An answer would have to be waited for, and this thread asked not to: ask again in one that may."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _show(value: object) -> str:
    return f"0x{value:x}" if isinstance(value, int) and not isinstance(value, bool) and value > 9 else repr(value)
