"""file(): what a file holds, in the words of libmagic where the host has it, else in a few of our own.

libmagic gets the first bytes of a file, never a name, and starts nothing; compressed content is opened here. It
is C code that reads what the guest wrote: environments that cannot have that set GUESTKIT_LIBMAGIC=0.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from guestkit.guestfs.call import DevOrPath, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle

if TYPE_CHECKING:
    import ctypes

_LOOK = 1 << 20  # bytes, as file(1) looks at
_RAW = 0x100  # MAGIC_RAW: control characters as they are
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}


class Magic(Handle):
    @api(syscall="path")
    def file(self, path: DevOrPath) -> str:
        """What a file is, in file(1)'s words; a link is not followed, compressed content is looked into.

        Raises: GuestfsError.
        """
        if path.startswith("/dev/"):
            source = self._source(self._device(path))
        else:
            node = self._node(path, follow=False)
            kind = _KINDS.get(stat.S_IFMT(self._table.stat(node).mode))
            if kind is not None:
                return kind
            source = self._table.open(node)
        return describe(source.read(0, min(_LOOK, source.size)))

    @api(syscall="path", deprecated="file")
    def zfile(self, meth: str, path: DevOrPath) -> str:
        """As file; compressed content is looked into whatever `meth` is."""
        if meth not in ("compress", "gzip", "bzip2"):
            raise Failure(f"{meth}: unknown compression method", errno.EINVAL)
        source = self._open(path)
        return describe(source.read(0, min(_LOOK, source.size)))


def describe(data: bytes) -> str:
    """What `data` is; "A (B)" for A compressed as B."""
    outer = _describe(data)
    inner = _inflated(data)
    return outer if inner is None else f"{_describe(inner)} ({outer})"


def _describe(data: bytes) -> str:
    found = _libmagic(data)
    return _own(data) if found is None else found


def _inflated(data: bytes) -> bytes | None:
    """The beginning of what is compressed in `data`, None when nothing is."""
    import bz2
    import lzma

    try:
        if data.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(data, _LOOK)
        if data.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(data, _LOOK)
        if data.startswith(b"\xfd7zXZ\0"):
            return lzma.LZMADecompressor(memlimit=64 << 20).decompress(data, _LOOK)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return None  # looks compressed and is not: what it looks like is the answer
    return None


_lock = Lock()


@cache
def _library() -> tuple[ctypes.CDLL, int] | None:
    """libmagic with its database loaded, or None."""
    import ctypes

    if os.environ.get("GUESTKIT_LIBMAGIC") == "0":
        return None
    try:
        library = ctypes.CDLL("libmagic.so.1")
        library.magic_open.restype = ctypes.c_void_p
        library.magic_open.argtypes = [ctypes.c_int]
        library.magic_load.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.magic_buffer.restype = ctypes.c_char_p
        library.magic_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    except (OSError, AttributeError):  # not on this host, or not what we know
        return None
    cookie = library.magic_open(_RAW)
    if not cookie or library.magic_load(cookie, None) != 0:
        return None
    return library, cookie


def _libmagic(data: bytes) -> str | None:
    with _lock:
        library = _library()
        if library is None:
            return None
        text = library[0].magic_buffer(library[1], data, len(data))
    return None if text is None else str(text.decode("utf-8", "replace"))


_STARTS = (
    (b"\x7fELF", "ELF"),
    (b"\x1f\x8b", "gzip compressed data"),
    (b"BZh", "bzip2 compressed data"),
    (b"\xfd7zXZ\0", "XZ compressed data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard compressed data"),
    (b"PK\x03\x04", "Zip archive data"),
    (b"%PDF-", "PDF document"),
    (b"\x89PNG\r\n\x1a\n", "PNG image data"),
    (b"\xff\xd8\xff", "JPEG image data"),
    (b"GIF8", "GIF image data"),
    (b"SQLite format 3\0", "SQLite 3.x database"),
    (b"regf", "MS Windows registry file"),
    (b"MZ", "MS-DOS executable"),
    (b"07070", "cpio archive"),
    (b"!<arch>\n", "current ar archive"),
)


def _own(data: bytes) -> str:
    """A short description where there is no libmagic."""
    if not data:
        return "empty"
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[257:262] == b"ustar":
        return "POSIX tar archive"
    if b"\0" not in data:
        script = " script, " if data.startswith(b"#!") else " "
        if data.isascii():
            return f"ASCII{script}text".replace("ASCII script,", "a script, ASCII")
        try:
            data[:-3].decode()
        except UnicodeDecodeError:
            return "data"
        return "Unicode text, UTF-8 text"
    return "data"
