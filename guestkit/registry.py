"""FORMATS: every format that guestkit knows, readable or not: a table, data only.

Adding a format is one module and one line here (and its row in the README). Modules are named by string and
imported when first needed. Detection reads the head and the tail of a source once and never fails on content,
only on an I/O error.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One line of the table.

    name    blkid's and libguestfs's type name, qemu-img's for images
    kind    "image", "table", "volume" (a member of a volume manager or a container), "filesystem" or "other"
    magics  (offset, bytes) pairs of which one must stand in the source; a negative offset counts from the end;
            empty: the probe decides
    probe   "module:function", (Window) -> Detected | None: confirms and reads label and UUID
    open    "module:function" of the opener, "" where the format is only recognised
    """

    name: str
    kind: str
    magics: tuple[tuple[int, bytes], ...]
    probe: str = ""
    open: str = ""
