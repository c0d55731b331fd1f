"""LZNT1: the specification's example, ntfs-3g's units, every split of a match, short and damaged chunks."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from guestkit.codec import lznt1
from guestkit.errors import Corrupt

DATA = Path(__file__).parent.parent / "data" / "codec"
UNITS = [entry for entry in json.loads(DATA.joinpath("manifest.json").read_text()) if entry["codec"] == "lznt1"]
SONG = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A "
SONG += b"F# F# G A A G F# E D D E F# E D D\0"
SONG_PACKED = bytes.fromhex(
    "38b08846232000204720410010a24701a045204400084501507900c045200524138805b4024a44ef0358028c091601484500be009e00040118"
    "9000"
)


@pytest.fixture(params=["libfwnt", "own"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each decoder in turn; where libfwnt is not installed, ours serves twice."""
    if request.param == "own":
        monkeypatch.setitem(sys.modules, "pyfwnt", None)
    lznt1._library.cache_clear()
    yield
    lznt1._library.cache_clear()


def chunk(tokens: bytes, *, compressed: bool = True) -> bytes:
    return (len(tokens) - 1 | 0x3000 | compressed << 15).to_bytes(2, "little") + tokens


def match(place: int, distance: int, length: int) -> bytes:
    bits = max(4, (place - 1).bit_length())
    return ((distance - 1) << 16 - bits | length - 3).to_bytes(2, "little")


def random_chunk(choice: random.Random) -> tuple[bytes, bytes]:
    """Return a chunk that stands for 4096 bytes, and these."""
    plain = bytearray()
    tokens: list[bytes] = []
    flags = ""
    while len(plain) < 4096:
        room = 4096 - len(plain)
        if plain and room > 2 and choice.random() < 0.6:
            most = 0xFFFF >> max(4, (len(plain) - 1).bit_length())
            length = min(choice.choice((3, 4, 9, most + 3)), most + 3, room)
            distance = choice.choice((1, min(2, len(plain)), len(plain), choice.randint(1, len(plain))))
            tokens.append(match(len(plain), distance, length))
            flags += "1"
            for _ in range(length):
                plain.append(plain[-distance])
        else:
            tokens.append(choice.randbytes(1))
            flags += "0"
            plain += tokens[-1]
    packed = b""
    for first in range(0, len(tokens), 8):
        # flags of tokens that do not exist are set: they mean nothing
        packed += bytes((int(flags[first : first + 8].ljust(8, "1")[::-1], 2),)) + b"".join(tokens[first : first + 8])
    return (chunk(packed) if len(packed) < 4096 else chunk(bytes(plain), compressed=False)), bytes(plain)


def test_the_example_of_the_specification() -> None:
    assert lznt1.decompress(SONG_PACKED, 65536) == SONG


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit["name"])
def test_units_that_ntfs_3g_packed(unit: dict[str, str | int]) -> None:
    packed = DATA.joinpath(str(unit["name"])).read_bytes()
    size = int(unit["size"])
    made = lznt1.decompress(memoryview(packed), size)
    assert len(made) == size
    assert hashlib.sha256(made).hexdigest() == unit["sha256"]
    whole = lznt1.decompress(packed, 65536)
    assert whole[:size] == made and not any(whole[size:])


def test_every_split_of_a_match_and_every_group() -> None:
    choice = random.Random(1)
    for _ in range(30):
        pairs = [random_chunk(choice) for _ in range(4)]
        packed = b"".join(packed for packed, _ in pairs)
        plain = b"".join(plain for _, plain in pairs)
        assert lznt1.decompress(packed, 65536) == plain
        assert lznt1.decompress(packed + b"\0\0what was there before", 65536) == plain


def test_it_stops_at_the_size_at_the_end_mark_and_at_the_end() -> None:
    packed, plain = random_chunk(random.Random(2))
    stored = chunk(plain, compressed=False)
    for size in (0, 1, 4095, 4096):
        assert lznt1.decompress(packed + stored, size) == plain[:size]
    assert lznt1.decompress(packed + stored, 4097) == plain + plain[:1]
    assert lznt1.decompress(stored + b"\0\0" + stored, 65536) == plain
    assert lznt1.decompress(stored + b"\xff", 65536) == plain
    assert lznt1.decompress(chunk(b"end", compressed=False), 65536) == b"end"
    assert lznt1.decompress(b"", 65536) == b""


def test_a_short_chunk_before_another_is_filled_up_with_zeros() -> None:
    packed = chunk(b"\0abc") + chunk(b"\0de")
    assert lznt1.decompress(packed, 65536) == b"abc" + bytes(4093) + b"de"
    assert lznt1.decompress(chunk(b"x", compressed=False) + chunk(b"\0de"), 65536) == b"x" + bytes(4095) + b"de"


def test_matches_do_not_reach_into_the_chunk_before() -> None:
    first, _ = random_chunk(random.Random(3))
    with pytest.raises(Corrupt, match="LZNT1 chunk at byte"):
        lznt1.decompress(first + chunk(b"\x02a" + match(1, 2, 3)), 65536)


@pytest.mark.parametrize(
    "packed",
    [
        b"\x05\x80\0abcde",  # no signature
        b"\x05\xb0\0abc",  # longer than what there is
        chunk(b"\x01" + match(0, 1, 3)),  # a match before any byte
        chunk(b"\x02ab")[:-1],
        chunk(b"\x02a" + match(1, 1, 3)[:1]),  # half a match
        chunk(b"\x02a" + match(1, 1, 4096)),  # 4097 bytes
        chunk(b"\x02a" + match(1, 1, 4095) + bytes(3)),  # 4099 bytes
        chunk(b"\x06a" + match(1, 1, 4095) + match(4096, 1, 3)),
        chunk(b"\x0ea" + match(1, 1, 4095) + match(4096, 1, 3) + match(4099, 1, 3)),
    ],
)
def test_damage_is_corrupt(packed: bytes) -> None:
    with pytest.raises(Corrupt, match="LZNT1 chunk at byte 0"):
        lznt1.decompress(packed, 65536)


def test_mutants_give_bytes_or_corrupt_in_little_time() -> None:
    choice = random.Random(4)
    whole = [DATA.joinpath(str(unit["name"])).read_bytes() for unit in UNITS]
    refused = 0
    for number in range(2000):
        mutant = bytearray(whole[number % len(whole)])
        for _ in range(choice.randint(1, 4)):
            mutant[choice.randrange(len(mutant))] = choice.randrange(256)
        begun = time.process_time()
        try:
            assert len(lznt1.decompress(mutant, 65536)) <= 65536
        except Corrupt:
            refused += 1
        assert time.process_time() - begun < 1
    assert refused > 200


@pytest.mark.parametrize("answer", [b"", b"x" * 4095, OSError("refused")])
def test_what_libfwnt_refuses_or_leaves_short_is_decoded_here(
    answer: bytes | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def decompress(data: bytes, size: int) -> bytes:
        calls.append((data, size))
        if isinstance(answer, OSError):
            raise answer
        return answer

    library = ModuleType("pyfwnt")
    library.lznt1_decompress = decompress  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyfwnt", library)
    lznt1._library.cache_clear()
    packed, plain = random_chunk(random.Random(5))
    assert lznt1.decompress(packed, 65536) == plain
    assert calls == [(packed, 4096)]
    answer = plain[::-1]
    assert lznt1.decompress(packed, 65536) == answer
