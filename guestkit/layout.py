"""Layout: field offsets as the specification gives them -> one precompiled struct.Struct.

For structures that exist once a file or a block (an inode, an extent header, a key), where a parse must cost
well under a microsecond. Structures that are read once an image use construct instead.
"""

from __future__ import annotations

import struct
from typing import Any

from guestkit.errors import Corrupt

_WIDTH = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "Q": 8}


class Layout:
    """A fixed-size structure: `Layout("ext4_extent", 12, "<", ee_block=(0, "I"), ee_len=(4, "H"), ...)`.

    `order` is "<" or ">"; a field is (offset, code) with a struct code or "Ns" for N bytes. Fields stand in
    ascending order; overlap, disorder and overrun are errors when the module is imported, so a wrong offset
    never reaches data. `unpack_from` returns the fields as a tuple in their order; `names` gives that order.
    """

    __slots__ = ("iter_unpack", "name", "names", "size", "struct", "unpack_from")

    def __init__(self, name: str, size: int, order: str, /, **fields: tuple[int, str]) -> None:
        parts = [order]
        at = 0
        for field, (offset, code) in fields.items():
            width = int(code[:-1]) if code.endswith("s") else _WIDTH[code]
            if offset < at:
                raise ValueError(f"{name}.{field} at {offset} overlaps what ends at {at}")
            if offset > at:
                parts.append(f"{offset - at}x")
            parts.append(code)
            at = offset + width
        if at > size:
            raise ValueError(f"{name} ends at {at}, beyond its size {size}")
        if at < size:
            parts.append(f"{size - at}x")
        self.name = name
        self.names = tuple(fields)
        self.size = size
        self.struct = struct.Struct("".join(parts))
        self.unpack_from = self.struct.unpack_from
        self.iter_unpack = self.struct.iter_unpack

    def parse(self, buffer: bytes | bytearray | memoryview, offset: int = 0) -> dict[str, Any]:
        """Return {field: value}; for tests and cold paths.

        Raises: Corrupt (EUCLEAN) when `buffer` is too short.
        """
        if offset < 0 or len(buffer) - offset < self.size:
            raise Corrupt(self.name, "length", found=max(0, len(buffer) - offset), expected=self.size)
        return dict(zip(self.names, self.unpack_from(buffer, offset), strict=True))
