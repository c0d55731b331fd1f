"""A small maker of FAT volumes in memory, for what no tool writes. From Microsoft's fatgen103 alone."""

from __future__ import annotations

import struct

END = {12: 0xFFF, 16: 0xFFFF, 32: 0x0FFFFFFF}
BAD = {12: 0xFF7, 16: 0xFFF7, 32: 0x0FFFFFF7}
DATE = (2020 - 1980) << 9 | 9 << 5 | 13
TIME = 12 << 11 | 26 << 5 | 20


def short(
    name: bytes,
    cluster: int = 0,
    size: int = 0,
    attributes: int = 0x20,
    *,
    case: int = 0,
    high: int | None = None,
    times: tuple[int, int, int, int, int, int] = (0, TIME, DATE, DATE, TIME, DATE),
) -> bytes:
    """A 32-byte entry; `times` as they stand in it: 10 ms, creation time and date, access date, write time and date."""
    above = cluster >> 16 if high is None else high
    tenth, *others = times
    return struct.pack(
        "<11sBBBHHHHHHHI",
        name.ljust(11),
        attributes,
        case,
        tenth,
        *others[:3],
        above,
        *others[3:],
        cluster & 0xFFFF,
        size,
    )


def checksum(name: bytes) -> int:
    total = 0
    for byte in name.ljust(11):
        total = ((total & 1) * 0x80 + (total >> 1) + byte) % 256
    return total


def long(name: str | tuple[int, ...], alias: bytes, *, sum_of: int | None = None) -> bytes:
    """The long entries that stand before the short name `alias`."""
    if isinstance(name, str):
        raw = name.encode("utf-16-le", "surrogatepass")
        name = struct.unpack(f"<{len(raw) // 2}H", raw)
    units = list(name)
    if len(units) % 13:
        units.append(0)
    units += [0xFFFF] * (-len(units) % 13)
    total = checksum(alias) if sum_of is None else sum_of
    slots = []
    for number in range(len(units) // 13):
        part = units[number * 13 : number * 13 + 13]
        order = number + 1 | (0x40 if number == len(units) // 13 - 1 else 0)
        slots.append(struct.pack("<B5HBBB6HH2H", order, *part[:5], 0x0F, 0, total, *part[5:11], 0, *part[11:]))
    return b"".join(reversed(slots))


class Volume:
    """`bits` 12, 16 or 32; the root directory's entries are put into `root`."""

    def __init__(
        self, bits: int = 16, clusters: int = 5000, *, sector: int = 512, per_cluster: int = 1, fats: int = 2,
        entries: int = 512, flags: int = 0, dirty: int = 0, root: int = 2,
    ) -> None:  # fmt: skip
        self.bits, self.sector, self.size, self.fats = bits, sector, sector * per_cluster, fats
        reserved = 32 if bits == 32 else 1
        entries = 0 if bits == 32 else entries
        self.fat_sectors = -(-(clusters + 2) * bits // 8 // sector) + 1
        self.fat = reserved * sector
        self.root_start = (reserved + fats * self.fat_sectors) * sector
        self.data = self.root_start + -(-entries * 32 // sector) * sector
        total = self.data // sector + clusters * per_cluster
        self.image = bytearray(total * sector)
        self.image[:3], self.image[510:512] = b"\xeb\x3c\x90", b"\x55\xaa"
        small = total if total < 65536 else 0
        struct.pack_into(
            "<8sHBHBHHBH", self.image, 3, b"writer", sector, per_cluster, reserved, fats, entries, small, 0xF8,
            0 if bits == 32 else self.fat_sectors,
        )  # fmt: skip
        struct.pack_into("<I", self.image, 32, 0 if small else total)
        at = 64 if bits == 32 else 36
        if bits == 32:
            struct.pack_into("<IHHIH", self.image, 36, self.fat_sectors, flags, 0, root, 0)
        struct.pack_into("<BBBI", self.image, at, 0x80, dirty, 0x29, 0x1234ABCD)
        self.image[at + 18 : at + 26] = b"FAT12   "  # which says nothing
        self.root = b""
        self.root_cluster = root if bits == 32 else 0
        for number, value in ((0, END[bits] & ~7), (1, END[bits])):
            self.put(number, value)
        if bits == 32:
            self.put(root, END[32])

    def put(self, cluster: int, value: int, table: int | None = None) -> None:
        for index in range(self.fats) if table is None else (table,):
            at = self.fat + index * self.fat_sectors * self.sector
            if self.bits == 12:
                where = at + cluster * 3 // 2
                old = int.from_bytes(self.image[where : where + 2], "little")
                new = old & 0x000F | value << 4 if cluster & 1 else old & 0xF000 | value
                self.image[where : where + 2] = new.to_bytes(2, "little")
            else:
                struct.pack_into("<H" if self.bits == 16 else "<I", self.image, at + cluster * self.bits // 8, value)

    def place(self, cluster: int) -> int:
        return self.data + (cluster - 2) * self.size

    def chain(self, data: bytes, clusters: list[int]) -> int:
        """Lay `data` into `clusters`, linked. Returns the first."""
        for index, cluster in enumerate(clusters):
            piece = data[index * self.size : (index + 1) * self.size]
            self.image[self.place(cluster) : self.place(cluster) + len(piece)] = piece
            self.put(cluster, clusters[index + 1] if index + 1 < len(clusters) else END[self.bits])
        return clusters[0]

    def folder(self, cluster: int, entries: bytes, above: int = 0, *, more: list[int] | None = None) -> int:
        dots = short(b".", cluster, 0, 0x10) + short(b"..", above, 0, 0x10)
        return self.chain(dots + entries, [cluster, *(more or [])])

    def bytes(self) -> bytes:
        at = self.place(self.root_cluster) if self.bits == 32 else self.root_start
        self.image[at : at + len(self.root)] = self.root
        return bytes(self.image)
