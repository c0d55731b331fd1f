"""Fills a new FAT32 volume with a host directory, each file and directory in one run, for trees too large for mtools.

From Microsoft's fatgen103 alone. mkfs.vfat has made the volume; hard links become files of their own, and names must
be such as FAT allows. Times are those of the host's files, in UTC.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from array import array
from pathlib import Path

from fatwriter import END, long, short

_ENTRY = 32
_DIRECTORY, _FILE = 0x10, 0x20


def fill(image: Path, top: Path) -> None:
    """Put the contents of `top` into the root directory of `image`."""
    with image.open("r+b") as file:
        per_cluster, reserved, fats = struct.unpack_from("<BHB", file.read(512), 13)
        file.seek(36)
        (sectors,) = struct.unpack("<I", file.read(4))
        size = per_cluster * 512
        data = (reserved + fats * sectors) * 512
        table = array("I", bytes(sectors * 512))
        file.seek(reserved * 512)
        table[0], table[1] = struct.unpack("<II", file.read(8))
        room = sectors * 128
        following = 2

        def allocate(length: int) -> int:
            nonlocal following
            first, count = following, max(1, -(-length // size))
            following += count
            if following > room:
                raise RuntimeError(f"{image} is too small")
            for cluster in range(first, first + count - 1):
                table[cluster] = cluster + 1
            table[first + count - 1] = END[32]
            return first

        def put(cluster: int, content: bytes) -> None:
            file.seek(data + (cluster - 2) * size)
            file.write(content)

        # the label's entry, with which mkfs.vfat begins the root directory, is kept
        file.seek(data)
        head = file.read(_ENTRY)
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
        pending = [(allocate(_length(entries) + _ENTRY), 0, entries, head if head[11] == 8 else b"")]
        number = 0
        while pending:
            here, above, entries, content = pending.pop()
            parts = [content]
            if here != 2:
                parts += short(b".", here, 0, _DIRECTORY), short(b"..", above, 0, _DIRECTORY)
            for entry in entries:
                number += 1
                status = entry.stat()
                alias = b"F%07X   " % number
                if entry.is_dir():
                    below = sorted(os.scandir(entry.path), key=lambda entry: entry.name)
                    cluster = allocate(_length(below))
                    pending.append((cluster, 0 if here == 2 else here, below, b""))
                    made = short(alias, cluster, 0, _DIRECTORY, times=_times(status.st_mtime))
                else:
                    cluster = allocate(status.st_size) if status.st_size else 0
                    if cluster:
                        put(cluster, Path(entry.path).read_bytes())
                    made = short(alias, cluster, status.st_size, _FILE, times=_times(status.st_mtime))
                parts += long(entry.name, alias), made
            put(here, b"".join(parts))
        if sys.byteorder == "big":
            table.byteswap()
        for copy in range(fats):
            file.seek((reserved + copy * sectors) * 512)
            file.write(table.tobytes())
        file.seek(512 + 488)  # FSInfo: what is free is to be counted
        file.write(b"\xff" * 8)


def _length(entries: list[os.DirEntry[str]]) -> int:
    return _ENTRY * (2 + sum(1 + -(-len(entry.name) // 13) for entry in entries))


def _times(seconds: float) -> tuple[int, int, int, int, int, int]:
    year, month, day, hour, minute, second, *_ = time.gmtime(max(seconds, 315_532_800))
    date = year - 1980 << 9 | month << 5 | day
    clock = hour << 11 | minute << 5 | second // 2
    return 0, clock, date, date, clock, date
