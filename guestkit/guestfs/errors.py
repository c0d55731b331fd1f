"""What the Guestfs class raises, with the texts that libguestfs gives.

GuestfsError is a RuntimeError, as libguestfs raises, with an errno and the name of the function besides.
"""

from __future__ import annotations

import errno
import os

from guestkit.errors import GuestkitError

READ_ONLY = os.strerror(errno.EROFS)

# errors that say all there is to say: the kernel's words for them are enough
_PLAIN = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EROFS,
        errno.ENODATA,
        errno.EBUSY,
        errno.EEXIST,
    )
)


class GuestfsError(RuntimeError):
    """A call failed. `errno` is the reason (0: none is known), `func` libguestfs's function that failed."""

    def __init__(self, text: str, errno: int = 0, func: str = "") -> None:
        super().__init__(text)
        self.errno = errno
        self.func = func

    def __reduce__(self) -> tuple[type[GuestfsError], tuple[str, int, str]]:
        return type(self), (str(self), self.errno, self.func)


class ClosedHandle(ValueError):
    """A method was called after close()."""


class Failure(Exception):
    """Raised inside a method; the call's frame puts the function's name before the text.

    `stub`: the text is that of the check of an argument, before which libguestfs puts the name twice.
    """

    def __init__(self, text: str, number: int = errno.EINVAL, *, stub: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.number = number
        self.stub = stub


def missing_feature(group: str) -> Failure:
    """The failure of a function whose group of features this build cannot do."""
    return Failure(
        f"feature '{group}' is not available in this\n"
        "build of libguestfs. Read 'AVAILABILITY' in the guestfs(3) man page for\n"
        "how to check for the availability of features.",
        errno.ENOTSUP,
    )


def not_supported(what: str) -> Failure:
    return Failure(f"{what} is not supported by guestkit", errno.ENOTSUP)


def describe(error: OSError) -> str:
    """The tail of an error's text: the kernel's words, after the details where there are any."""
    number = error.errno or errno.EIO
    words = os.strerror(number)
    if isinstance(error, GuestkitError) and number not in _PLAIN:
        return f"{error}: {words}"
    return words


def as_guestfs_error(func: str, place: str, error: Exception) -> GuestfsError:
    """Turn what a method met into what its caller gets. `place`: the syscall or path that the text names."""
    if isinstance(error, Failure):
        return GuestfsError(
            f"{func}: {func}_stub: {error.text}" if error.stub else f"{func}: {error.text}", error.number, func
        )
    assert isinstance(error, OSError)
    if not isinstance(error, GuestkitError) and error.filename is not None:
        place = os.fsdecode(error.filename)
    return GuestfsError(
        f"{func}: {place}: {describe(error)}" if place else f"{func}: {describe(error)}", error.errno or errno.EIO, func
    )
