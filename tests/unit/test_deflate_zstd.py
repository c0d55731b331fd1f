"""The general decompressors: the bound on their output, damaged and early ends, and which library serves."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterator

import pytest

from guestkit.codec import deflate, zstd
from guestkit.errors import Corrupt, Unsupported


def text(size: int, seed: int = 1) -> bytes:
    choice = random.Random(seed)
    return b"".join(choice.choice([b"the ", b"quick ", b"brown ", b"fox\n"]) for _ in range(size // 4))[:size]


def bare(data: bytes, bits: int = -12) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    return packer.compress(data) + packer.flush()


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each library in turn; isal is skipped to zlib where it is not installed."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    deflate._library.cache_clear()
    yield
    deflate._library.cache_clear()


@pytest.mark.usefixtures("library")
def test_deflate_stops_at_the_limit_or_at_the_end() -> None:
    data = text(100_000)
    for bits, wrapped in ((-12, False), (-15, False), (15, True)):
        packed = bare(data, bits)
        for limit in (0, 1, 4096, 99_999, 100_000, 200_000):
            assert deflate.decompress(packed + b"what follows" * 50, limit, wrapped=wrapped) == data[:limit]


@pytest.mark.usefixtures("library")
def test_damaged_deflate_is_corrupt() -> None:
    packed = bare(text(100_000))
    for damaged in (b"", packed[:-1], packed[: len(packed) // 2], b"\xff" * 100):
        with pytest.raises(Corrupt, match="deflate"):
            deflate.decompress(damaged, 200_000)
    for seed in range(200):
        choice = random.Random(seed)
        mutant = bytearray(packed)
        mutant[choice.randrange(len(mutant))] ^= 1 << choice.randrange(8)
        try:
            assert len(deflate.decompress(bytes(mutant), 100_000)) <= 100_000
        except Corrupt:
            pass


@pytest.mark.usefixtures("library")
def test_deflate_bomb_gives_no_more_than_the_limit() -> None:
    assert deflate.decompress(bare(bytes(8 << 20)), 65536) == bytes(65536)


def pack(data: bytes) -> bytes:
    zstd._library()
    if sys.version_info >= (3, 14):
        from compression import zstd as library
    else:
        from backports import zstd as library
    return bytes(library.compress(data))


def test_zstd_stops_at_the_limit_or_at_the_end() -> None:
    data = text(300_000)
    packed = pack(data)
    for limit in (0, 1, 4096, 131_073, 300_000, 400_000):
        for tail in (b"", bytes(511), b"what follows"):
            assert zstd.decompress(packed + tail, limit) == data[:limit]
            assert zstd.decompress(memoryview(packed + tail), limit) == data[:limit]


def test_zstd_reads_frames_one_after_the_other() -> None:
    frames = pack(text(5000)) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + pack(text(7000, 2))
    assert zstd.decompress(frames + bytes(100), 12_000) == text(5000) + text(7000, 2)
    assert zstd.decompress(frames, 6000) == (text(5000) + text(7000, 2))[:6000]


def test_damaged_zstd_is_corrupt() -> None:
    packed = pack(text(100_000))
    for damaged in (b"", packed[:-1], packed[: len(packed) // 2], b"\xff" * 100):
        with pytest.raises(Corrupt, match="zstd"):
            zstd.decompress(damaged, 200_000)


def test_zstd_bomb_gives_no_more_than_the_limit() -> None:
    assert zstd.decompress(pack(bytes(8 << 20)), 65536) == bytes(65536)


def test_missing_zstd_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(b"x")
    for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    zstd._library.cache_clear()
    try:
        with pytest.raises(Unsupported, match=r"backports\.zstd"):
            zstd.decompress(packed, 1)
    finally:
        zstd._library.cache_clear()
