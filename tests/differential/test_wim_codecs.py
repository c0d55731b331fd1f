"""XPRESS and LZX against wimlib's own decompressor: random data and tokens, and which damage both refuse."""

from __future__ import annotations

import importlib.util
import random
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from guestkit.codec import lzx, xpress
from guestkit.errors import Corrupt

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.tool("wimlib-imagex")  # its library comes with it


def load(path: Path) -> ModuleType:
    loader = SourceFileLoader(path.stem.replace("-", "_"), str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = was
    return module


@pytest.fixture(scope="module")
def maker() -> Any:
    return load(ROOT / "scripts" / "make-codec-fixtures")


@pytest.fixture(scope="module")
def wimlib(maker: Any) -> Any:
    return maker.Wimlib()


def test_what_wimlib_packs(maker: Any, wimlib: Any) -> None:
    choice = random.Random(1)
    for kind in maker.KINDS.values():
        for algorithm, chunk, decompress in (
            *((maker.XPRESS, chunk, xpress.decompress) for chunk in (4096, 8192, 16384, 65536)),
            (maker.LZX, 32768, lzx.decompress),
        ):
            for level in (20, 50, 90):
                plain = kind(choice, choice.randint(chunk // 2, chunk))
                assert decompress(wimlib.pack(algorithm, plain, chunk, level), len(plain)) == plain


def test_wimlib_reads_the_tokens_of_the_unit_tests_alike(maker: Any, wimlib: Any) -> None:
    choice = random.Random(2)
    ours: Any = load(ROOT / "tests" / "unit" / "test_lzx.py")
    for size in (3, 500, 10000, *[32768] * 5):
        packed, plain = ours.random_chunk(choice, size)
        assert wimlib.unpack(maker.LZX, packed, size, 32768) == plain
    ours = load(ROOT / "tests" / "unit" / "test_xpress.py")
    for size in (3, 500, 10000, *[65536] * 3):
        packed, plain = ours.random_chunk(choice, ours.EVEN, size)
        assert wimlib.unpack(maker.XPRESS, packed, size, 65536) == plain


@pytest.mark.parametrize(("codec", "chunk"), [(xpress, 4096), (lzx, 8192)], ids=["xpress", "lzx"])
def test_damage_that_wimlib_refuses_is_corrupt_and_what_it_reads_is_read_alike(
    codec: Any, chunk: int, maker: Any, wimlib: Any
) -> None:
    choice = random.Random(3)
    algorithm = maker.XPRESS if codec is xpress else maker.LZX
    room = chunk if codec is xpress else 32768
    refused = 0
    kinds = list(maker.KINDS.values())[:4]
    whole = [wimlib.pack(algorithm, kind(choice, chunk), room, 20) for kind in kinds for _ in range(10)]
    for _ in range(500):
        mutant = bytearray(choice.choice(whole))
        for _ in range(choice.randint(1, 3)):
            mutant[choice.randrange(len(mutant))] ^= 1 << choice.randrange(8)
        expected = wimlib.unpack(algorithm, bytes(mutant), chunk, room)
        try:
            assert codec.decompress(mutant, chunk) == expected
        except Corrupt as error:
            refused += 1
            # wimlib takes bits past the end for zeros, and a run in a pretree past the end for one up to it
            assert expected is None or "ends early" in str(error) or "past the end" in str(error)
    assert 50 < refused < 450
