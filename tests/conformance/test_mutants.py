"""Any bytes give a result or one typed error, soon and in bounded memory: seeded mutants of every fixture."""

from __future__ import annotations

import json
import lzma
import os
import random
import resource
import stat
import time
from pathlib import Path

import pytest

from guestkit import registry
from guestkit.errors import GuestkitError
from guestkit.fs.base import FileSystem
from guestkit.limits import Limits
from guestkit.source import BytesSource, Overlay, Patch, Source

DATA = Path(__file__).parent.parent / "data"
MUTANTS = int(os.environ.get("GUESTKIT_MUTANTS", "2400"))  # a format; scripts/fuzz asks for more
_SEEDS = 384 << 20  # bytes
SLOWEST = 3.0  # seconds of work for one image
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _seeds(reader: str) -> list[tuple[str, bytes]]:
    """The smallest fixtures (type, bytes) that `reader` opens, at most 40, and what fits into memory."""
    found = []
    for path in DATA.glob("*/*.img.xz"):
        manifest = path.with_name(path.name.removesuffix(".img.xz") + ".json")
        if manifest.exists() and {"tree"} <= json.loads(manifest.read_text()).keys():
            found.append((path.stat().st_size, path))
    seeds = []
    for _, path in sorted(found):
        data = lzma.decompress(path.read_bytes())
        format = registry.find_format("filesystem", registry.detect(BytesSource(data)).type)
        if format is not None and format.open == reader:
            seeds.append((format.name, data))
        if len(seeds) == 40 or sum(len(data) for _, data in seeds) > _SEEDS:
            break
    return seeds


def _used(data: bytes) -> list[int]:
    """The 512-byte sectors that hold anything: what a mutation can hurt."""
    zeros = bytes(512)
    return [at for at in range(0, len(data), 512) if data[at : at + 512] != zeros]


def _mutant(data: bytes, sectors: list[int], chooser: random.Random) -> Source:
    patches = {}
    for _ in range(chooser.choice((1, 1, 1, 2, 5))):
        at = chooser.choice(sectors)
        sector = bytearray(data[at : at + 512])
        way = chooser.randrange(6)
        place = chooser.randrange(512)
        if way == 0:
            sector[place] ^= 1 << chooser.randrange(8)
        elif way == 1:
            sector[place] = chooser.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif way == 2:
            place &= ~3
            sector[place : place + 4] = chooser.choice(_NUMBERS).to_bytes(4, "little")
        elif way == 3:
            place &= ~1
            sector[place : place + 2] = (chooser.choice(_NUMBERS) & 0xFFFF).to_bytes(2, "little")
        elif way == 4:
            other = chooser.choice(sectors)
            sector[:] = data[other : other + 512].ljust(512, b"\0")
        else:
            sector[:] = bytes(512)
        patches[at] = bytes(sector)
    return Overlay(
        BytesSource(data),
        [Patch(at, min(512, len(data) - at), BytesSource(patches[at]), 0) for at in sorted(patches)],
    )


def _look(fs: FileSystem) -> None:
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
                if source.size > 65536:
                    source.read(source.size - 4096, 4096)
            elif stat.S_ISDIR(status.mode):
                fs.parent(ino)
                fs.lookup(ino, b"name")
        except GuestkitError as error:
            assert error.errno
    fs.statvfs()
    fs.details()
    fs.problems()


@pytest.mark.parametrize("reader", sorted({format.open for format in registry.readers("filesystem")}))
def test_mutants_give_results_or_typed_errors(reader: str) -> None:
    seeds = [(kind, data, _used(data)) for kind, data in _seeds(reader)]
    assert seeds
    opened = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(MUTANTS):
        chooser = random.Random(f"{reader} {number}")
        kind, data, sectors = seeds[number % len(seeds)]
        source = _mutant(data, sectors, chooser)
        start = time.process_time()
        try:
            fs = registry.open_filesystem(kind, [source], Limits(), {})
            _look(fs)
            opened += 1
        except GuestkitError as error:
            assert error.errno, number
        except Exception as error:
            raise AssertionError(f"mutant {number} of {kind}") from error
        assert time.process_time() - start < SLOWEST, f"mutant {number} of {kind} took too long"
    assert opened > MUTANTS // 3, "most mutants must still open, else nothing is tested"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10
