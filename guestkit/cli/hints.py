"""What to do about an error: the second half of the one line that a command prints."""

from __future__ import annotations

import errno
import os

from guestkit.errors import AccessRefused, GuestkitError, IsADirectory, NeedKey, NotFound, Unsupported


def describe(error: GuestkitError, image: str) -> str:
    """One line for an error: the image, what, and what to do about it where that is known."""
    text = str(error)
    named = bool(error.where) and error.where[0] == image
    line = text if named else f"{image}: {text}"
    hint = _hint(error, named)
    return f"{line} ({hint})" if hint else line


def _hint(error: GuestkitError, opening: bool) -> str:
    """What to do. `opening`: the error is about the image or what it names, else about something in the guest."""
    message = error.message.lower()
    if isinstance(error, NeedKey):
        return "it is encrypted, and keys cannot be given yet"
    if not opening:
        return "`guestkit info` lists the devices" if message == "no such device" else ""
    backing = len(error.where) > 1
    if isinstance(error, AccessRefused):
        if message in (os.strerror(errno.EACCES).lower(), os.strerror(errno.EPERM).lower()):
            return "ask for read permission or run as its owner"
        return "--allow DIRECTORY lets images name files there" if backing else ""
    if isinstance(error, IsADirectory):
        return "name the image file in it"
    if isinstance(error, NotFound) and message == os.strerror(errno.ENOENT).lower():
        return "the image needs that file: put it there" if backing else "check the path"
    if isinstance(error, Unsupported) and not backing and "image format" in message:
        return "`qemu-img convert -O qcow2` makes an image that is"
    if error.errno in (errno.EIO, errno.EUCLEAN):
        return "is the file whole? --format names its format if the guess was wrong"
    return ""
