"""Writes files into an exFAT volume that mkfs.exfat made: what no tool of the host does without a kernel's driver.

Made from Microsoft's exFAT specification alone; it shares nothing with the reader that it tests. It needs no order and
no care: clusters are taken from the front, entry sets are laid behind each other when close() is called.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise

END = 0xFFFFFFFF


def ror(value: int, bits: int) -> int:
    return ((value << (bits - 1)) | (value >> 1)) & ((1 << bits) - 1)


def sum16(data: bytes, skip: tuple[int, ...] = ()) -> int:
    total = 0
    for index, byte in enumerate(data):
        if index not in skip:
            total = (ror(total, 16) + byte) & 0xFFFF
    return total


def sum32(data: bytes, skip: tuple[int, ...] = ()) -> int:
    total = 0
    for index, byte in enumerate(data):
        if index not in skip:
            total = (ror(total, 32) + byte) & 0xFFFFFFFF
    return total


def stamp(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    return (year - 1980) << 25 | month << 21 | day << 16 | hour << 11 | minute << 5 | second // 2


DEFAULT_STAMP = stamp(2020, 9, 13, 12, 26, 40)


@dataclass
class Folder:
    """A directory being written: its entries, and where they will stand."""

    clusters: list[int]
    chained: bool
    entries: bytearray = field(default_factory=bytearray)


class Volume:
    """An exFAT image in memory."""

    def __init__(self, image: bytes) -> None:
        self.image = bytearray(image)
        fields = struct.unpack_from("<QQIIIIIIHHBBB", image, 64)
        _, _, fat, self.fat_sectors, heap, self.clusters, self.root_cluster, _, _, _, shift, cluster_shift, _ = fields
        self.sector = 1 << shift
        self.size = 1 << (shift + cluster_shift)
        self.fat, self.heap = fat << shift, heap << shift
        self.root = Folder(self.chain(self.root_cluster), True)
        root = self.image[self.place(self.root_cluster) : self.place(self.root_cluster) + self.size]
        end = next(at for at in range(0, len(root), 32) if root[at] == 0)
        self.root.entries += root[:end]
        at = next(at for at in range(0, end, 32) if root[at] == 0x81)
        first, length = struct.unpack_from("<IQ", root, at + 20)
        self.bitmap = self.place(first)
        self.upcase = self._read_upcase(root, end)
        self.folders = [self.root]
        assert length >= (self.clusters + 7) // 8

    def _read_upcase(self, root: bytes, end: int) -> list[int]:
        at = next(at for at in range(0, end, 32) if root[at] == 0x82)
        first, length = struct.unpack_from("<IQ", root, at + 20)
        words = struct.unpack_from(f"<{length // 2}H", self.image, self.place(first))
        table: list[int] = []
        skip = False
        for word in words:
            if skip:
                table += range(len(table), len(table) + word)
                skip = False
            elif word == 0xFFFF and len(table) < 0xFFFF:
                skip = True
            else:
                table.append(word)
        return table + list(range(len(table), 0x10000))

    def place(self, cluster: int) -> int:
        return self.heap + (cluster - 2) * self.size

    def get(self, cluster: int) -> int:
        return int(struct.unpack_from("<I", self.image, self.fat + 4 * cluster)[0])

    def put(self, cluster: int, value: int) -> None:
        struct.pack_into("<I", self.image, self.fat + 4 * cluster, value)

    def chain(self, cluster: int) -> list[int]:
        found = []
        while cluster != END:
            found.append(cluster)
            cluster = self.get(cluster)
        return found

    def used(self, cluster: int) -> bool:
        return bool(self.image[self.bitmap + (cluster - 2) // 8] >> (cluster - 2) % 8 & 1)

    def take(self, count: int, *, step: int = 1) -> list[int]:
        """Allocate free clusters, each `step`-th one of those."""
        free = (cluster for cluster in range(2, self.clusters + 2) if not self.used(cluster))
        found = []
        for index, cluster in enumerate(free):
            if len(found) == count:
                break
            if index % step == 0:
                found.append(cluster)
        if len(found) < count:
            raise RuntimeError("the volume is full")
        for cluster in found:
            self.image[self.bitmap + (cluster - 2) // 8] |= 1 << (cluster - 2) % 8
        return found

    def link(self, clusters: list[int]) -> None:
        for cluster, behind in zip(clusters, [*clusters[1:], END], strict=True):
            self.put(cluster, behind)

    def store(self, data: bytes, clusters: list[int]) -> None:
        for index, cluster in enumerate(clusters):
            piece = data[index * self.size : (index + 1) * self.size]
            self.image[self.place(cluster) : self.place(cluster) + len(piece)] = piece

    def entry_set(
        self,
        name: str | tuple[int, ...],
        attributes: int,
        first: int,
        size: int,
        valid: int,
        *,
        chained: bool,
        times: tuple[int, int, int] = (DEFAULT_STAMP,) * 3,
        tenths: tuple[int, int] = (0, 0),
        offsets: tuple[int, int, int] = (0x80, 0x80, 0x80),
        more: bytes = b"",
    ) -> bytes:
        """The bytes of an entry set. `times`: creation, change, access; `more`: further secondary entries."""
        units = (
            list(struct.unpack(f"<{len(name.encode('utf-16-le')) // 2}H", name.encode("utf-16-le")))
            if isinstance(name, str)
            else list(name)
        )
        folded = [self.upcase[unit] for unit in units]
        hashed = sum16(struct.pack(f"<{len(folded)}H", *folded))
        flags = (1 if first else 0) | (0 if chained or not first else 2)
        names = b""
        for at in range(0, len(units), 15):
            part = units[at : at + 15]
            names += struct.pack("<BB15H", 0xC1, 0, *(part + [0] * (15 - len(part))))
        body = struct.pack("<BBBBHHQIIQ", 0xC0, flags | 1, 0, len(units), hashed, 0, valid, 0, first, size)
        body += names + more
        head = bytearray(
            struct.pack("<BBHHHIIIBBBBB7x", 0x85, len(body) // 32, 0, attributes, 0, *times, *tenths, *offsets)
        )
        struct.pack_into("<H", head, 2, sum16(bytes(head) + body, (2, 3)))
        return bytes(head) + body

    def file(
        self,
        folder: Folder,
        name: str | tuple[int, ...],
        data: bytes,
        *,
        size: int | None = None,
        attributes: int = 0x20,
        step: int = 1,
        chained: bool = False,
        **more: object,
    ) -> list[int]:
        """Write a file; `size` beyond the data is never written. `step` above 1 leaves gaps between its clusters."""
        length = len(data) if size is None else size
        chained = chained or step > 1
        clusters = self.take(-(-length // self.size), step=step)
        if any(b != a + 1 for a, b in pairwise(clusters)):
            chained = True
        if chained and clusters:
            self.link(clusters)
        self.store(data, clusters)
        first = clusters[0] if clusters else 0
        folder.entries += self.entry_set(name, attributes, first, length, len(data), chained=chained, **more)  # type: ignore[arg-type]
        return clusters

    def folder(
        self, above: Folder, name: str, clusters: int = 1, *, step: int = 1, chained: bool = False, **more: object
    ) -> Folder:
        taken = self.take(clusters, step=step)
        chained = chained or step > 1 or any(b != a + 1 for a, b in pairwise(taken))
        if chained:
            self.link(taken)
        length = clusters * self.size
        above.entries += self.entry_set(name, 0x10, taken[0], length, length, chained=chained, **more)  # type: ignore[arg-type]
        made = Folder(taken, chained)
        self.folders.append(made)
        return made

    def close(self) -> bytes:
        """Lay down the directories and return the image."""
        for folder in self.folders:
            while len(folder.entries) > len(folder.clusters) * self.size:
                if folder is not self.root:
                    raise RuntimeError("the folder is too small")
                folder.clusters += self.take(1)
                self.link(folder.clusters)
            room = len(folder.clusters) * self.size
            self.store(bytes(folder.entries).ljust(room, b"\0"), folder.clusters)
        return bytes(self.image)

    def sum_boot(self, *, region: int = 0) -> None:
        """Write the checksum of a boot region (0 or 12) anew."""
        start = region * self.sector
        total = sum32(bytes(self.image[start : start + 11 * self.sector]), (106, 107, 112))
        self.image[start + 11 * self.sector : start + 12 * self.sector] = struct.pack("<I", total) * (self.sector // 4)
