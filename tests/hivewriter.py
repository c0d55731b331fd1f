"""Writes small registry hives and their logs for tests: what hivex cannot write, or what is to be damaged."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from guestkit.hive.marvin import marvin32

PAGE = 4096
NONE = 0xFFFFFFFF
SEED_TIME = 133_000_000_000_000_000
SECURITY = bytes.fromhex("01000480") + struct.pack("<4I", 0, 0, 0, 0)


def reg_sz(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


@dataclass
class Node:
    """One key. `lists`: "lf", "lh" or "li"; `split`: how many subkeys a leaf holds before an index root is used."""

    name: str
    values: Sequence[tuple[str, int, bytes]] = ()
    subkeys: Sequence[Node] = ()
    class_name: str = ""
    flags: int = 0
    lists: str = "lh"
    split: int = 1000
    wide: bool = False  # the name in UTF-16 though it need not be
    layer: int = 0
    values_count: int | None = None


@dataclass
class Writer:
    """`minor`: of the version. After build() `places` holds the offset of each cell by what it is."""

    minor: int = 5
    bins: list[bytearray] = field(default_factory=list)
    used: int = PAGE  # in the last bin
    size: int = 0
    places: dict[str, int] = field(default_factory=dict)

    def cell(self, data: bytes, name: str = "") -> int:
        """Allocate a cell and return its offset."""
        need = (len(data) + 4 + 7) & ~7
        if not self.bins or self.used + need > len(self.bins[-1]):
            self._close()
            length = -(-(need + 32) // PAGE) * PAGE
            new = bytearray(length)
            struct.pack_into("<4sIIQQI", new, 0, b"hbin", self.size, length, 0, SEED_TIME if not self.bins else 0, 0)
            self.bins.append(new)
            self.used = 32
            self.size += length
        start = self.size - len(self.bins[-1]) + self.used
        struct.pack_into("<i", self.bins[-1], self.used, -need)
        self.bins[-1][self.used + 4 : self.used + 4 + len(data)] = data
        self.used += need
        if name:
            self.places[name] = start
        return start

    def _close(self) -> None:
        if self.bins and self.used < len(self.bins[-1]):
            struct.pack_into("<i", self.bins[-1], self.used, len(self.bins[-1]) - self.used)

    def patch(self, offset: int, data: bytes) -> None:
        """Change bytes at an offset of the bins."""
        at = 0
        for each in self.bins:
            if offset < at + len(each):
                each[offset - at : offset - at + len(data)] = data
                return
            at += len(each)
        raise AssertionError(offset)

    def build(self, root: Node, *, primary: int = 7, secondary: int = 7, name: str = "SYSTEM") -> bytes:
        """The whole hive."""
        top = self._key(root, NONE, "", True)
        self._close()
        head = self.header(top, primary, secondary, name)
        return head + b"".join(self.bins)

    def header(self, root: int, primary: int, secondary: int, name: str, kind: int = 0) -> bytes:
        return base_block(root, self.size, primary, secondary, self.minor, name, kind)

    def _key(self, node: Node, parent: int, path: str, root: bool = False) -> int:
        path = f"{path}\\{node.name}" if not root else ""
        try:
            raw, flag = node.name.encode("latin-1"), 0x20
        except UnicodeEncodeError:
            raw, flag = b"", 0
        if not flag or node.wide:
            raw, flag = node.name.encode("utf-16-le", "surrogatepass"), 0
        flags = node.flags | flag | (0x2C if root else 0)
        if root:
            flags = flags & ~0x20 | flag
        about = node.class_name.encode("utf-16-le")
        fixed = bytearray(76)
        place = self.cell(bytes(fixed) + raw, "key " + path)
        if root:  # the root is the first cell, as some readers will have it
            about_security = struct.pack("<2sHIIII", b"sk", 0, 0, 0, 1, len(SECURITY)) + SECURITY
            security = self.cell(about_security, "security")
            self.patch(security + 8, struct.pack("<II", security, security))
        security = self.places["security"]
        values = NONE
        if node.values:
            offsets = [self._value(each, path) for each in node.values]
            values = self.cell(struct.pack(f"<{len(offsets)}I", *offsets), "values " + path)
        class_place = self.cell(about, "class " + path) if about else NONE
        ordered = sorted(node.subkeys, key=lambda each: each.name.upper())
        below = [(each, self._key(each, place, path)) for each in ordered]
        subkeys = self._list(node, below, path) if below else NONE
        count = len(node.values) if node.values_count is None else node.values_count
        struct.pack_into("<2sHQBBHI", fixed, 0, b"nk", flags, SEED_TIME + place, 0, node.layer, 0, parent)
        struct.pack_into("<IIIIIIII", fixed, 20, len(below), 0, subkeys, NONE, count, values, security, class_place)
        struct.pack_into("<IIIII", fixed, 52, 100, 0, 100, 1000, 0)
        struct.pack_into("<HH", fixed, 72, len(raw), len(about))
        self.patch(place + 4, bytes(fixed))
        return place

    def _list(self, node: Node, below: list[tuple[Node, int]], path: str) -> int:
        leaves = []
        for at in range(0, len(below), node.split):
            part = below[at : at + node.split]
            data = struct.pack("<2sH", node.lists.encode(), len(part))
            for each, place in part:
                data += struct.pack("<I", place)
                if node.lists == "lf":
                    data += each.name.encode("latin-1", "replace")[:4].ljust(4, b"\0")
                elif node.lists == "lh":
                    total = 0
                    for unit in struct.iter_unpack("<H", each.name.upper().encode("utf-16-le", "surrogatepass")):
                        total = total * 37 + unit[0] & 0xFFFFFFFF
                    data += struct.pack("<I", total)
            leaves.append(self.cell(data, f"list {path} {at}"))
        if len(leaves) == 1:
            return leaves[0]
        return self.cell(struct.pack(f"<2sH{len(leaves)}I", b"ri", len(leaves), *leaves), "index " + path)

    def _value(self, value: tuple[str, int, bytes], path: str) -> int:
        name, kind, data = value
        try:
            raw, flag = name.encode("latin-1"), 1
        except UnicodeEncodeError:
            raw, flag = name.encode("utf-16-le", "surrogatepass"), 0
        size = len(data)
        if size <= 4:
            size |= 0x80000000
            offset = int.from_bytes(data.ljust(4, b"\0"), "little")
        elif size > 16344 and self.minor > 3:
            segments = [self.cell(data[at : at + 16344] + bytes(4)) for at in range(0, size, 16344)]
            listed = self.cell(struct.pack(f"<{len(segments)}I", *segments))
            offset = self.cell(struct.pack("<2sHI", b"db", len(segments), listed), f"data {path} {name}")
        else:
            offset = self.cell(data, f"data {path} {name}")
        about = struct.pack("<2sHIIIHH", b"vk", len(raw), size, offset, kind, flag, 0)
        return self.cell(about + raw, f"value {path} {name}")


def base_block(
    root: int, size: int, primary: int, secondary: int, minor: int = 5, name: str = "SYSTEM", kind: int = 0
) -> bytes:
    head = bytearray(PAGE)
    struct.pack_into("<4sIIQIIIIIII", head, 0, b"regf", primary, secondary, SEED_TIME, 1, minor, kind, 1, root, size, 1)
    head[48:112] = name.encode("utf-16-le").ljust(64, b"\0")[:64]
    return seal(bytes(head))


def seal(hive: bytes) -> bytes:
    """The same with the right sum in its base block."""
    total = 0
    for word in struct.unpack_from("<127I", hive):
        total ^= word
    total = {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(total, total)
    return hive[:508] + struct.pack("<I", total) + hive[512:]


def sequences(hive: bytes, primary: int, secondary: int) -> bytes:
    """The same hive with other sequence numbers: different ones make it dirty."""
    return seal(hive[:4] + struct.pack("<II", primary, secondary) + hive[12:])


def dirty_pages(old: bytes, new: bytes, unit: int = PAGE) -> list[int]:
    """The offsets, from the first bin, of the pages in which two hives differ."""
    return [at - PAGE for at in range(PAGE, len(new), unit) if old[at : at + unit] != new[at : at + unit]]


def log_entry(new: bytes, pages: Sequence[int], sequence: int, unit: int = PAGE) -> bytes:
    """An entry of the new format that writes `pages` of the hive `new`."""
    body = b"".join(struct.pack("<II", page, unit) for page in pages)
    body += b"".join(new[PAGE + page : PAGE + page + unit] for page in pages)
    body += bytes(-(len(body) + 40) % 512)
    size = struct.unpack_from("<I", new, 40)[0]
    head = struct.pack("<4sIIIIIQ", b"HvLE", len(body) + 40, 0, sequence, size, len(pages), marvin32(body))
    return head + struct.pack("<Q", marvin32(head)) + body


def new_log(hive: bytes, sequence: int, entries: Sequence[bytes]) -> bytes:
    """A log of the new format; `sequence`: of its first entry."""
    head = bytearray(hive[:512])
    struct.pack_into("<II", head, 4, sequence, sequence)
    struct.pack_into("<I", head, 28, 6)
    return seal(bytes(head)) + b"".join(entries)


def old_log(old: bytes, new: bytes, sector: int = 512) -> bytes:
    """A log of the old format that turns one hive into another."""
    head = bytearray(new[:sector])
    struct.pack_into("<II", head, 4, 20, 20)
    struct.pack_into("<I", head, 28, 1)
    struct.pack_into("<I", head, 44, sector // 512)
    size = struct.unpack_from("<I", new, 40)[0]
    vector = bytearray(size // 512 // 8)
    pages = b""
    for page in dirty_pages(old, new):
        vector[page // 4096] = 0xFF
        pages += new[PAGE + page : PAGE + page + PAGE]
    data = b"DIRT" + bytes(vector)
    return seal(bytes(head)) + data + bytes(-len(data) % sector) + pages
