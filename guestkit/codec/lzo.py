"""LZO1X, the format of one block: lzallright's decompressor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from guestkit.errors import Corrupt, Unsupported


def decompress(data: bytes | memoryview, limit: int) -> bytes:
    """Return what the block `data` holds, at most `limit` bytes; bytes behind its end are ignored.

    The library makes all of a block, so `data` must be short: a caller bounds it by what `limit` bytes can need.
    Raises: Corrupt when it is damaged; Unsupported without the library.
    """
    make, failure, trailing = _library()
    try:
        made = make(data, limit)
    except trailing as error:
        made = error.args[1]
    except failure as error:
        raise Corrupt(f"LZO block: {error}") from None
    return made if len(made) <= limit else made[:limit]


def decompress_all(blocks: Sequence[bytes], limit: int) -> list[bytes]:
    """Return what each of the blocks holds, as decompress() does. Raises: as that."""
    make, failure, _ = _library()
    try:
        made = [make(block, limit) for block in blocks]
    except failure:
        return [decompress(block, limit) for block in blocks]
    return made if max(map(len, made), default=0) <= limit else [part[:limit] for part in made]


@cache
def _library() -> tuple[Callable[[bytes | memoryview, int], bytes], type[Exception], type[Exception]]:
    try:
        import lzallright
    except ImportError:
        raise Unsupported("LZO compression without the package lzallright") from None
    library: Any = lzallright
    return library.LZOCompressor.decompress, library.LZOError, library.InputNotConsumed
