"""Deflate (RFC 1951), bare or in zlib's wrapping (RFC 1950): isal's when it is installed, else zlib's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from guestkit.errors import Corrupt


def decompress(data: bytes | memoryview, limit: int, *, wrapped: bool = False) -> bytes:
    """Return what `data` inflates to, stopping after `limit` bytes; bytes after the end of the stream are ignored.

    `wrapped`: in zlib's header and checksum, else bare. The checksum counts only when the stream ends within `limit`.
    Raises: Corrupt when the stream is damaged, or ends early with less than `limit` bytes made.
    """
    make, failure = _library()
    stream = make(15 if wrapped else -15)
    try:
        made: bytes = stream.decompress(data, limit) if limit else b""
    except failure as error:
        raise Corrupt(f"deflate stream: {error}") from None
    if len(made) < limit and not stream.eof:
        raise Corrupt("deflate stream ends early", "bytes", found=len(made))
    return made


@cache
def _library() -> tuple[Callable[[int], Any], type[Exception]]:
    import zlib

    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj, zlib.error
    library: Any = isal_zlib  # its types call the exception class an instance
    return library.decompressobj, library.error
