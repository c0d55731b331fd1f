"""XPRESS with Huffman codes: the specification's examples, wimlib's chunks, every symbol, damaged and early ends."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from guestkit.codec import xpress
from guestkit.errors import Corrupt

DATA = Path(__file__).parent.parent / "data" / "codec"
CHUNKS = [entry for entry in json.loads(DATA.joinpath("manifest.json").read_text()) if entry["codec"] == "xpress"]


@pytest.fixture(params=["libfwnt", "own"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each decoder in turn; where libfwnt is not installed, ours serves twice."""
    if request.param == "own":
        monkeypatch.setitem(sys.modules, "pyfwnt", None)
    xpress._library.cache_clear()
    yield
    xpress._library.cache_clear()


def header(lengths: dict[int, int]) -> bytes:
    return bytes(lengths.get(n, 0) | lengths.get(n + 1, 0) << 4 for n in range(0, 512, 2))


class Packer:
    """A chunk, token by token: words of bits, and bytes where a decoder looks for them."""

    def __init__(self, lengths: dict[int, int]) -> None:
        self.codes: dict[int, tuple[int, int]] = {}
        code = before = 0
        for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
            code <<= length - before
            self.codes[symbol] = code, length
            code += 1
            before = length
        self.out = bytearray(header(lengths))
        self.bits = ""
        self.words: list[int] = []
        self.plain = bytearray()

    def put(self, value: int, count: int) -> None:
        if count:
            self.bits += f"{value:0{count}b}"
        while len(self.words) < 1 + -(-len(self.bits) // 16):
            self.words.append(len(self.out))
            self.out += b"\0\0"

    def literal(self, value: int) -> None:
        self.put(*self.codes[value])
        self.plain.append(value)

    def match(self, distance: int, length: int, *, wide: int = 1) -> None:
        """`wide` is how many bytes a long length takes at least."""
        low = distance.bit_length() - 1
        self.put(*self.codes[256 + (low << 4 | min(length - 3, 15))])
        if length >= 18:
            if length < 273 and wide < 2:
                self.out.append(length - 18)
            elif length < 65539 and wide < 4:
                self.out += b"\xff" + (length - 3).to_bytes(2, "little")
            else:
                self.out += b"\xff\0\0" + (length - 3).to_bytes(4, "little")
        self.put(distance - (1 << low), low)
        self.plain += (self.plain[-distance:] * (length // distance + 1))[:length]

    def done(self) -> bytes:
        bits = self.bits.ljust(len(self.words) * 16, "0")
        for number, place in enumerate(self.words):
            self.out[place : place + 2] = int(bits[16 * number : 16 * number + 16], 2).to_bytes(2, "little")
        return bytes(self.out)


EVEN = dict.fromkeys(range(512), 9)


def random_chunk(choice: random.Random, lengths: dict[int, int], size: int) -> tuple[bytes, bytes]:
    """Return a chunk of any of the tokens that `lengths` has codes for, and the `size` bytes it stands for."""
    packer = Packer(lengths)
    literals = [symbol for symbol in lengths if symbol < 256]
    matches = [symbol - 256 for symbol in lengths if symbol > 255]
    while len(packer.plain) < size:
        token = choice.choice(matches)
        low, length = token >> 4, (token & 15) + 3
        if length == 18:
            length = choice.choice((18, 19, 100, 272, 273, 274, 1000))
        least, room = 1 << low, size - len(packer.plain)
        if len(packer.plain) < least or length > room or choice.random() < 0.4:
            packer.literal(choice.choice(literals))
        else:
            packer.match(choice.randint(least, min(2 * least - 1, len(packer.plain))), length)
    return packer.done(), bytes(packer.plain)


def test_the_examples_of_the_specification() -> None:
    lengths = {ord(letter): 5 for letter in "abcdefghijklmnopqrstuvwxyz"} | {ord(letter): 4 for letter in "wxyz"}
    packed = header(lengths | {256: 4}) + bytes.fromhex("d8523ed794115be9195ff9d67cdf8d0400000000")
    assert xpress.decompress(packed, 26) == b"abcdefghijklmnopqrstuvwxyz"
    packed = header({97: 3, 98: 3, 99: 2, 256: 2, 287: 2}) + bytes.fromhex("a8dc0000ff2601")
    assert xpress.decompress(packed, 300) == b"abc" * 100


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk["name"])
def test_chunks_that_wimlib_packed(chunk: dict[str, str | int]) -> None:
    made = xpress.decompress(memoryview(DATA.joinpath(str(chunk["name"])).read_bytes()), int(chunk["size"]))
    assert len(made) == chunk["size"]
    assert hashlib.sha256(made).hexdigest() == chunk["sha256"]


def test_every_symbol_and_bytes_of_lengths_at_any_place() -> None:
    choice = random.Random(1)
    for size in (*range(1, 300, 7), 4096, 4096, 8192, 65536):
        packed, plain = random_chunk(choice, EVEN, size)
        assert xpress.decompress(packed, size) == plain
        assert xpress.decompress(packed + b"what follows", size) == plain


def test_codes_of_any_length() -> None:
    choice = random.Random(2)
    for _ in range(30):
        symbols = choice.sample(range(256), 8) + choice.sample(range(256, 512), 7) + [choice.randrange(256) + 256]
        symbols = list(dict.fromkeys([choice.randrange(256), *symbols, 256 + 15, 256 + 15 * 16]))
        choice.shuffle(symbols)
        lengths = {symbol: number + 1 for number, symbol in enumerate(symbols[:16])}
        lengths[symbols[15]] = 15
        if not any(symbol > 255 for symbol in lengths) or not any(symbol < 256 for symbol in lengths):
            continue
        packed, plain = random_chunk(choice, lengths, 4096)
        assert xpress.decompress(packed, 4096) == plain


@pytest.mark.parametrize("wide", [1, 2, 4])
@pytest.mark.parametrize("length", [18, 272, 273, 4095, 65535])
def test_lengths_of_one_two_and_four_bytes(length: int, wide: int) -> None:
    packer = Packer(EVEN)
    packer.literal(7)
    packer.match(1, length, wide=wide)
    if length < 65000:
        packer.match(1, 300)
        packer.literal(9)
    assert xpress.decompress(packer.done(), len(packer.plain)) == packer.plain


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk["name"])
def test_chunks_cut_short_are_corrupt(chunk: dict[str, str | int]) -> None:
    packed = DATA.joinpath(str(chunk["name"])).read_bytes()
    for cut in (6, 7, 8, 20, 60):
        with pytest.raises(Corrupt, match="XPRESS"):
            xpress.decompress(packed[:-cut], int(chunk["size"]))


def test_nothing_wanted_is_nothing() -> None:
    assert xpress.decompress(b"", 0) == b""


def broken(steps: Sequence[tuple[int, ...]], cut: int = 0) -> bytes:
    packer = Packer(EVEN)
    for step in steps:
        if len(step) == 1:
            packer.literal(*step)
        else:
            packer.match(*step)
    made = packer.done()
    return made[: len(made) - cut]


@pytest.mark.parametrize(
    ("packed", "size"),
    [
        (bytes(255), 1),  # no room for the codes
        (bytes(300), 1),  # no codes
        (header({97: 1}) + bytes(8), 1),  # half a code
        (header({97: 1, 98: 2, 99: 2, 100: 2}) + bytes(8), 1),  # too many codes
        (broken([(1,)]), 65537),
        (broken([(1,), (2, 3)]), 4),  # a match before the start
        (broken([(1,), (1, 3), (1, 40)]), 43),  # one byte more than is wanted
        (broken([(1,), (1, 5)]), 5),
        (broken([(n,) for n in range(40)]), 48),  # ends early
        (broken([(n,) for n in range(200)], cut=8), 200),
        (broken([(1,), (1, 18)], cut=1), 19),  # no byte of the length
        (broken([(1,), (1, 1000)], cut=2), 1001),
    ],
)
def test_damage_is_corrupt(packed: bytes, size: int) -> None:
    with pytest.raises(Corrupt, match="XPRESS"):
        xpress.decompress(packed, size)


def test_a_length_beyond_the_size_costs_nothing() -> None:
    packer = Packer(EVEN)
    packer.literal(7)
    packer.match(1, 20, wide=4)
    packed = packer.done().replace(b"\xff\0\0\x11\0\0\0", b"\xff\0\0\xff\xff\xff\x0f")
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="size"):
            xpress.decompress(packed, 100)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_match_near_the_end_and_literals_of_one_bit_after_it() -> None:
    for place in range(1, 420):
        packer = Packer({97: 1, 256 + 14: 1})
        for number in range(440 - 17 + 1):
            if number == place:
                packer.match(1, 17)
            else:
                packer.literal(97)
        assert xpress.decompress(packer.done(), 440) == bytes(packer.plain)


def test_mutants_give_all_bytes_or_corrupt_in_little_time() -> None:
    choice = random.Random(3)
    whole = [(DATA.joinpath(str(chunk["name"])).read_bytes(), int(chunk["size"])) for chunk in CHUNKS]
    whole = [(packed, size) for packed, size in whole if size <= 8192]
    refused = 0
    for number in range(2000):
        packed, size = whole[number % len(whole)]
        mutant = bytearray(packed)
        for _ in range(choice.randint(1, 4)):
            mutant[choice.randrange(len(mutant))] = choice.randrange(256)
        begun = time.process_time()
        try:
            assert len(xpress.decompress(mutant, size)) == size
        except Corrupt:
            refused += 1
        assert time.process_time() - begun < 1
    assert refused > 200


@pytest.mark.parametrize("answer", [b"short", OSError("refused"), None])
def test_what_libfwnt_refuses_or_cannot_know_is_decoded_here(
    answer: bytes | OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decompress(data: bytes, size: int) -> bytes:
        if isinstance(answer, OSError):
            raise answer
        return data[-size:] if answer is None else answer  # of what lies past the end of the chunk

    library = ModuleType("pyfwnt")
    library.lzxpress_huffman_decompress = decompress  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyfwnt", library)
    xpress._library.cache_clear()
    packed, plain = random_chunk(random.Random(5), EVEN, 20)
    assert xpress.decompress(packed, 20) == plain
    answer = bytes(20)
    assert xpress.decompress(packed, 20) == answer
