"""Nodes changed at random with their checksums made good: results or one typed error, soon.

What tests/conformance/test_mutants.py changes is mostly noticed by its checksum; this goes behind it.
"""

from __future__ import annotations

import os
import random
import stat
import struct
import time

import pytest
from btrfs_images import HEADER, ITEM, POINTER, Edited, told, unpacked

from guestkit.checksum import crc32c
from guestkit.errors import GuestkitError
from guestkit.fs.btrfs import open as open_btrfs
from guestkit.fs.btrfs.filesystem import Btrfs
from guestkit.limits import Limits
from guestkit.source import BytesSource, Overlay, Patch

MUTANTS = int(os.environ.get("GUESTKIT_BTRFS_MUTANTS", "250"))
SLOWEST = 3.0  # seconds of work
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x1000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)


def nodes(image: Edited) -> list[int]:
    """The addresses of all nodes but those of trees that no reader asks."""
    pending = [image.root(number) for number in (1, 2, 3, 5, 7, *(each[0] for each in told("default")["subvolumes"]))]
    found = []
    while pending:
        address = pending.pop()
        found.append(address)
        node = image.node(address)
        if node[100]:
            (count,) = struct.unpack_from("<I", node, 96)
            pending += [POINTER.unpack_from(node, HEADER + n * POINTER.size)[3] for n in range(count)]
    return found


@pytest.fixture(scope="module")
def image() -> Edited:
    return Edited("default")


def mutated(node: bytearray, chooser: random.Random) -> None:
    """Change one to three fields: of the header, of an item's head, or of an item."""
    (count,) = struct.unpack_from("<I", node, 96)
    each = POINTER.size if node[100] else ITEM.size
    for _ in range(chooser.choice((1, 1, 2, 3))):
        way = chooser.randrange(8)
        slot = HEADER + chooser.randrange(max(1, count)) * each
        if way == 0:
            at = chooser.randrange(32, HEADER)
        elif way <= 2 or node[100]:
            at = slot + chooser.randrange(each)
        else:
            *_, begin, size = ITEM.unpack_from(node, slot)
            at = min(HEADER + begin + chooser.randrange(max(1, size)), len(node) - 8)
        width = chooser.choice((1, 1, 2, 4, 8))
        value = chooser.choice(_NUMBERS) if chooser.random() < 0.7 else chooser.getrandbits(64)
        at = min(at, len(node) - width)
        node[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def look(fs: Btrfs) -> None:
    """Touch everything once, reads bounded."""
    for _, ino, status in fs.walk():
        try:
            if status is None:
                fs.stat(ino)
                continue
            for name in fs.xattr_names(ino):
                fs.xattr(ino, name)
            if stat.S_ISLNK(status.mode):
                fs.readlink(ino)
            elif stat.S_ISREG(status.mode):
                source = fs.open(ino)
                source.read(0, min(source.size, 65536))
                source.read(max(0, source.size - 4096), min(source.size, 4096))
            elif stat.S_ISDIR(status.mode):
                fs.parent(ino)
                fs.lookup(ino, b"name")
        except GuestkitError as error:
            assert error.errno
    fs.roots()
    fs.details()
    fs.statvfs()


def test_changed_nodes_give_results_or_typed_errors(image: Edited) -> None:
    data = unpacked("default")[0]
    addresses = nodes(image)
    assert len(addresses) >= 20
    opened = 0
    for number in range(MUTANTS):
        chooser = random.Random(f"btrfs {number}")
        address = chooser.choice(addresses)
        node = image.node(address)
        mutated(node, chooser)
        node[:4] = (crc32c(node[32:]) ^ 0xFFFFFFFF).to_bytes(4, "little")
        patch = Patch(image.place(address), len(node), BytesSource(bytes(node)), 0)
        start = time.process_time()
        try:
            fs = open_btrfs([Overlay(BytesSource(data), [patch])], Limits(decode_threads=0), {})
            opened += 1
            look(fs)
        except GuestkitError as error:
            assert error.errno, number
        except Exception as error:
            raise AssertionError(f"mutant {number} of the node at {address}") from error
        assert time.process_time() - start < SLOWEST, f"mutant {number} of the node at {address} took too long"
    assert opened > MUTANTS // 2, "most mutants must still open, else nothing is tested"
