"""Zstandard (RFC 8878): the standard library's from Python 3.14, before that backports.zstd."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from guestkit.errors import Corrupt, Unsupported


def decompress(data: bytes | memoryview, limit: int) -> bytes:
    """Return what the frames in `data` hold, stopping after `limit` bytes.

    Bytes after a frame are taken for another frame as long as they begin as one, and are ignored otherwise.
    Raises: Corrupt when a frame is damaged, or ends early with less than `limit` bytes made; Unsupported without
    the library.
    """
    make, failure = _library()
    parts: list[bytes] = []
    left = limit
    rest: bytes | memoryview = data
    while left:
        stream = make()
        try:
            part: bytes = stream.decompress(rest, left)
            # a call may stop at a block's end before it made what it can
            while part and len(part) < left and not stream.eof and not stream.needs_input:
                more: bytes = stream.decompress(b"", left - len(part))
                if not more:
                    break
                part += more
        except failure as error:
            if parts:
                break
            raise Corrupt(f"zstd frame: {error}") from None
        parts.append(part)
        left -= len(part)
        if not left:
            break
        if not stream.eof:
            raise Corrupt("zstd frame ends early", "bytes", found=limit - left)
        rest = stream.unused_data
        if rest[:4] != b"\x28\xb5\x2f\xfd" and rest[1:4] != b"\x2a\x4d\x18":
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


@cache
def _library() -> tuple[Callable[[], Any], type[Exception]]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
    except ImportError:
        try:
            from backports import zstd  # type: ignore[no-redef,unused-ignore]
        except ImportError:
            raise Unsupported("zstd compression without the package backports.zstd") from None
    return zstd.ZstdDecompressor, zstd.ZstdError
