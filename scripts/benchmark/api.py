#!/usr/bin/env python3
"""One row through the API, in a process of its own: api.py SUBJECT KIND ROW IMAGE; prints seconds, CPU seconds, amount.

Subjects: guestkit; dissect (in its own environment; AGPL, so it is only run); preadv, the host file alone; and, for
Btrfs, preadv+crc32c and the libraries that decompress. What is opened and imported before a row is not counted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from client import random_offsets  # beside this file

PIECE = 1 << 20
NOISE = 512 << 20
EXTENT = 128 << 10  # bytes that Btrfs compresses at once
SECTOR = 4096

Work = Callable[[], int]  # returns the amount: names, bytes, reads or files


# ---------------------------------------------------------------- guestkit


def guestkit(kind: str, row: str, image: str) -> Work:
    from guestkit.guest import Guest
    from guestkit.limits import Limits
    from guestkit.resolve import resolve

    row, _, threads = row.partition("-")
    guest = Guest(limits=Limits(decode_threads=int(threads))) if threads else Guest()
    device = guest.add(image)

    def opened() -> Any:
        return guest.filesystem(device.name)

    if row == "open":
        import_of(kind)
        return lambda: sum(1 for fs in [opened()] for _ in fs.scan(fs.root))
    fs = opened()
    if row == "walk":
        return lambda: sum(1 for _ in fs.walk())
    if row == "small":
        from guestkit import Guestfs

        g = Guestfs()
        g.add_drive_ro(image)
        g.launch()
        g.mount_ro("/dev/sda", "/")
        names = g.ls("/bench/small")

        def small() -> int:
            for name in names:
                g.read_file("/bench/small/" + name)
            return len(names)

        return small
    name = b"noise" if row in ("sequential", "random") else row.encode()
    source = resolve(fs.open(fs.lookup(fs.lookup(fs.root, b"bench"), name)))
    if row == "random":
        offsets = random_offsets(source.size) * 5

        def reads() -> int:
            for offset in offsets:
                source.read(offset, 4096)
            return len(offsets)

        return reads

    def sequential() -> int:
        size = source.size
        buf = memoryview(bytearray(PIECE))  # a caller's buffer is filled again and again, as by preadv
        for offset in range(0, size, PIECE):
            source.read_into(offset, buf[: size - offset])
        return size

    return sequential


def import_of(kind: str) -> None:
    """Import what opening needs: it is timed without that."""
    from importlib import import_module

    import_module("guestkit.fs." + {"vfat": "fat"}.get(kind, kind))


# ---------------------------------------------------------------- dissect, a class a filesystem


class Dissect:
    """`root`; `names(node)`: (name, child) with what stat tells read; `folder(node)`; `open(node)`; `key(node)`."""

    def __init__(self, file: Any) -> None:
        self.root: Any = None

    def names(self, node: Any) -> Iterator[tuple[str, Any]]:
        raise NotImplementedError

    def look(self, node: Any) -> None:
        """Have the node's stat read; names() need not."""

    def folder(self, node: Any) -> bool:
        raise NotImplementedError

    def key(self, node: Any) -> int:
        return id(node)

    def open(self, node: Any) -> Any:
        return node.open()

    def find(self, path: str) -> Any:
        node = self.root
        for part in path.split("/"):
            node = next(child for name, child in self.names(node) if name == part)
        return node


class DissectExt(Dissect):
    def __init__(self, file: Any) -> None:
        from dissect.extfs import ExtFS

        self.root = ExtFS(file).root

    def names(self, node: Any) -> Iterator[tuple[str, Any]]:
        for name, child in node.listdir().items():
            if name not in (".", ".."):
                yield name, child

    def look(self, node: Any) -> None:
        node.size, node.mtime, node.inode.i_mode  # noqa: B018

    def folder(self, node: Any) -> bool:
        return bool(node.filetype == 0x4000)

    def key(self, node: Any) -> int:
        return int(node.inum)


class DissectNtfs(Dissect):
    def __init__(self, file: Any) -> None:
        from dissect.ntfs import NTFS

        self.root = NTFS(file).mft.get(5)

    def names(self, node: Any) -> Iterator[tuple[str, Any]]:
        for child in node.iterdir(dereference=True, ignore_dos=True):
            if child.segment < 24:  # the volume's own files
                continue
            yield child.filename, child

    def look(self, node: Any) -> None:
        about = node.attributes[0x10][0]
        about.last_modification_time, about.file_attributes  # noqa: B018
        if not node.is_dir():
            node.size()

    def folder(self, node: Any) -> bool:
        return bool(node.is_dir())

    def key(self, node: Any) -> int:
        return int(node.segment)


class DissectFat(Dissect):
    def __init__(self, file: Any) -> None:
        from dissect.fat.fat import FATFS

        self.root = FATFS(file).get("/")

    def names(self, node: Any) -> Iterator[tuple[str, Any]]:
        for child in node.iterdir():
            if child.name not in (".", "..") and not child.is_volume_id():
                yield child.name, child

    def look(self, node: Any) -> None:
        node.size, node.mtime, node.atime, node.ctime  # noqa: B018

    def folder(self, node: Any) -> bool:
        return bool(node.is_directory())


class DissectExfat(Dissect):
    """It reads the whole tree when it opens the volume, into dicts of (entry, dict or None); files have no open()."""

    def __init__(self, file: Any) -> None:
        from dissect.fat.exfat import ExFAT

        self.volume = ExFAT(file)
        self.root = next(iter(self.volume.root_directory.dict.values()))

    def names(self, node: Any) -> Iterator[tuple[str, Any]]:
        yield from node[1].items()

    def folder(self, node: Any) -> bool:
        return bool(node[1])


class DissectXfs(Dissect):
    def __init__(self, file: Any) -> None:
        from dissect.xfs import XFS

        self.root = XFS(file).get("/")

    def names(self, node: Any) -> Iterator[tuple[str, Any]]:
        for name, child in node.listdir().items():
            if name not in (".", ".."):
                yield name, child

    def look(self, node: Any) -> None:
        node.size, node.mtime, node.inode  # noqa: B018

    def folder(self, node: Any) -> bool:
        return bool(node.filetype == 0x4000)

    def key(self, node: Any) -> int:
        return int(node.inum)


class DissectBtrfs(Dissect):
    def __init__(self, file: Any) -> None:
        from dissect.btrfs import Btrfs

        self.root = Btrfs(file).get("/")

    def names(self, node: Any) -> Iterator[tuple[str, Any]]:
        for name, child in node.iterdir():
            if name not in (".", ".."):
                yield name, child

    def look(self, node: Any) -> None:
        node.size, node.mtime, node.mode  # noqa: B018

    def folder(self, node: Any) -> bool:
        return bool(node.is_dir())

    def key(self, node: Any) -> int:
        return int(node.inum)


_DISSECT: dict[str, type[Dissect]] = {
    "ext4": DissectExt,
    "ntfs": DissectNtfs,
    "vfat": DissectFat,
    "exfat": DissectExfat,
    "xfs": DissectXfs,
    "btrfs": DissectBtrfs,
}


def dissect(kind: str, row: str, image: str) -> Work:
    import logging

    logging.disable(logging.CRITICAL)
    from dissect.target.container import open as open_container

    make = _DISSECT[kind]
    if row == "walk":
        make(open_container(image))  # so that what it imports is not counted
        return lambda: _dissect_walk(make(open_container(image)))
    fs = make(open_container(image))
    if row == "small":
        nodes = [node for _, node in fs.names(fs.find("bench/small"))]

        def small() -> int:
            for node in nodes:
                fs.open(node).read()
            return len(nodes)

        return small
    source = fs.open(fs.find("bench/noise"))
    offsets = random_offsets(NOISE) if row == "random" else range(0, NOISE, PIECE)
    length = 4096 if row == "random" else PIECE

    def reads() -> int:
        for offset in offsets:
            source.seek(offset)
            source.read(length)
        return len(offsets) if row == "random" else NOISE

    return reads


def _dissect_walk(fs: Dissect) -> int:
    count = 0
    seen = set()
    pending = [fs.root]
    while pending:
        for _, child in fs.names(pending.pop()):
            count += 1
            fs.look(child)
            if fs.folder(child) and fs.key(child) not in seen:
                seen.add(fs.key(child))
                pending.append(child)
    return count


# ---------------------------------------------------------------- the host file and the libraries


def preadv(kind: str, row: str, image: str) -> Work:
    fd = os.open(image, os.O_RDONLY)
    base = max(0, os.fstat(fd).st_size - NOISE) & ~4095
    if row == "random":
        offsets = [base + offset for offset in random_offsets(NOISE)] * 5
        page = bytearray(4096)

        def reads() -> int:
            for offset in offsets:
                os.preadv(fd, [page], offset)
            return len(offsets)

        return reads

    def sequential() -> int:
        buf = bytearray(PIECE)
        for offset in range(base, base + NOISE, PIECE):
            os.preadv(fd, [buf], offset)
        return NOISE

    return sequential


def preadv_crc32c(kind: str, row: str, image: str) -> Work:
    """What reading and verifying costs without any filesystem: a checksum for each 4 KiB."""
    import google_crc32c

    fd = os.open(image, os.O_RDONLY)
    base = max(0, os.fstat(fd).st_size - NOISE) & ~4095
    value = google_crc32c.value

    def sequential() -> int:
        buf = memoryview(bytearray(PIECE))
        for offset in range(base, base + NOISE, PIECE):
            os.preadv(fd, [buf], offset)
            for at in range(0, PIECE, SECTOR):
                value(bytes(buf[at : at + SECTOR]))  # it takes nothing but bytes
        return NOISE

    return sequential


def library(kind: str, row: str, image: str) -> Work:
    """What decompresses the same text on one core: zstd by extents, LZO by sectors as Btrfs has it."""
    plain = b"".join(_text(image, row))
    if row == "zstd":
        try:
            from compression import zstd
        except ImportError:
            from backports import zstd
        packed = [zstd.compress(plain[at : at + EXTENT], 3) for at in range(0, len(plain), EXTENT)]

        def work() -> int:
            for blob in packed:
                zstd.decompress(blob)
            return len(plain)

        return work
    from lzallright import LZOCompressor

    tool = LZOCompressor()
    packed = [tool.compress(plain[at : at + SECTOR]) for at in range(0, len(plain), SECTOR)]

    def segments() -> int:
        for blob in packed:
            tool.decompress(blob, output_size_hint=SECTOR)
        return len(plain)

    return segments


def _text(image: str, name: str) -> Iterator[bytes]:
    from guestkit.guest import open_guest

    guest = open_guest(image)
    fs = guest.filesystem("/dev/sda")
    source = fs.open(fs.lookup(fs.lookup(fs.root, b"bench"), name.encode()))
    for at in range(0, source.size, PIECE):
        yield source.read(at, min(PIECE, source.size - at))


SUBJECTS: dict[str, Callable[[str, str, str], Work]] = {
    "guestkit": guestkit,
    "dissect": dissect,
    "preadv": preadv,
    "preadv+crc32c": preadv_crc32c,
    "library": library,
}


def main() -> None:
    subject, kind, row, image = sys.argv[1:]
    work = SUBJECTS[subject](kind, row, image)
    start, used = time.perf_counter(), time.process_time()
    amount = work()
    print(time.perf_counter() - start, time.process_time() - used, amount)


if __name__ == "__main__":
    main()
