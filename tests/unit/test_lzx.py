"""LZX of WIM and WOF: wimlib's chunks, all kinds of blocks, recent distances, calls, damaged and early ends."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guestkit.codec import lzx
from guestkit.errors import Corrupt

DATA = Path(__file__).parent.parent / "data" / "codec"
CHUNKS = [entry for entry in json.loads(DATA.joinpath("manifest.json").read_text()) if entry["codec"] == "lzx"]


class Packer:
    """A chunk, block by block, with the simplest of codes: all of one length."""

    def __init__(self) -> None:
        self.bits = ""
        self.main = [0] * 496
        self.lengths = [0] * 249

    def put(self, value: int, count: int) -> None:
        if count:
            self.bits += f"{value:0{count}b}"

    def stored(self, data: bytes, recent: tuple[int, int, int] = (1, 1, 1)) -> None:
        self.put(3, 3)
        self.size(len(data))
        self.bits += "0" * (16 - len(self.bits) % 16)
        body = b"".join(distance.to_bytes(4, "little") for distance in recent) + data + bytes(len(data) % 2)
        for at in range(0, len(body), 2):
            self.put(int.from_bytes(body[at : at + 2], "little"), 16)

    def size(self, size: int) -> None:
        self.put(size == 32768, 1)
        if size != 32768:
            self.put(size, 16)

    def begin(self, size: int, aligned: list[int] | None = None, *, kind: int = 0) -> None:
        """Begin a block: codes of 9 bits for the first 480 main symbols and of 10 for the rest, 8 for all lengths."""
        self.put(kind or (2 if aligned else 1), 3)
        self.size(size)
        for length in aligned or ():
            self.put(length, 3)
        main = [9] * 480 + [8] * 16
        self.pretree(main[:256], self.main[:256])
        self.pretree(main[256:], self.main[256:])
        self.main = main
        lengths = [7] * 7 + [8] * 242
        self.pretree(lengths, self.lengths)
        self.lengths = lengths

    def pretree(self, wanted: list[int], before: list[int]) -> None:
        """All 20 symbols in 4 or 5 bits; runs wherever there is one."""
        codes = [4] * 12 + [5] * 8
        for length in codes:
            self.put(length, 4)
        at = 0
        while at < len(wanted):
            run = 1
            while at + run < len(wanted) and wanted[at + run] == wanted[at] and before[at + run] == before[at]:
                run += 1
            step = (before[at] - wanted[at]) % 17
            if run >= 4:
                run = min(run, 5)
                self.presymbol(19)
                self.put(run - 4, 1)
            else:
                run = 1
            self.presymbol(step)
            at += run

    def presymbol(self, symbol: int) -> None:
        self.put(symbol if symbol < 12 else 24 + symbol - 12, 4 if symbol < 12 else 5)

    def symbol(self, symbol: int) -> None:
        """A main symbol: the codes of 8 bits, which the last sixteen symbols have, come first."""
        self.put(symbol - 480 if symbol >= 480 else 32 + symbol, 8 if symbol >= 480 else 9)

    def literals(self, data: bytes) -> None:
        for value in data:
            self.symbol(value)

    def match(self, slot: int, length: int, low: int = 0, count: int = 0) -> None:
        self.symbol(256 + 8 * slot + min(length - 2, 7))
        if length >= 9:
            more = length - 9
            self.put(more if more < 7 else 14 + more - 7, 7 if more < 7 else 8)
        self.put(low, count)

    def done(self) -> bytes:
        bits = self.bits + "0" * (-len(self.bits) % 16)
        return b"".join(int(bits[at : at + 16], 2).to_bytes(2, "little") for at in range(0, len(bits), 16))


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk["name"])
def test_chunks_that_wimlib_packed(chunk: dict[str, str | int]) -> None:
    packed = DATA.joinpath(str(chunk["name"])).read_bytes()
    made = lzx.decompress(memoryview(packed), int(chunk["size"]))
    assert len(made) == chunk["size"]
    assert hashlib.sha256(made).hexdigest() == chunk["sha256"]
    assert lzx.decompress(packed + b"what follows", int(chunk["size"])) == made


def test_the_chunks_have_both_kinds_of_compressed_blocks() -> None:
    kinds = {int.from_bytes(DATA.joinpath(str(chunk["name"])).read_bytes()[:2], "little") >> 13 for chunk in CHUNKS}
    assert kinds == {1, 2}


ALIGNED = [1, 2, 3, 4, 5, 6, 7, 7]  # the codes are 0, 10, 110, ...
FIRST = [0, 0, 0, 1, 2, 4, 6, 10, 14, 22, 30, 46, 62, 94, 126, 190, 254, 382, 510, 766, 1022, 1534, 2046, 3070, 4094]
FIRST += [6142, 8190, 12286, 16382, 24574, 32766]


def random_chunk(choice: random.Random, size: int) -> tuple[bytes, bytes]:
    """Return a chunk of blocks of all kinds, and the `size` bytes without E8 that it stands for."""
    packer = Packer()
    plain = bytearray()
    recent = [1, 1, 1]
    while len(plain) < size:
        end = min(size, len(plain) + choice.choice((1, 2, 300, 5000, 32768)))
        kind = choice.choice(("stored", "verbatim", "aligned"))
        if kind == "stored":
            recent = [choice.randint(1, len(plain) + 1) for _ in range(3)]
            data = bytes(choice.choices(range(200), k=end - len(plain)))
            packer.stored(data, (recent[0], recent[1], recent[2]))
            plain += data
            continue
        packer.begin(end - len(plain), ALIGNED if kind == "aligned" else None)
        while len(plain) < end:
            slot = choice.randrange(30)
            low = max(0, slot // 2 - 1)
            bits = choice.randrange(1 << low)
            distance = recent[slot] if slot < 3 else FIRST[slot] + bits
            length = min(choice.choice((2, 3, 8, 9, 15, 16, 257)), end - len(plain))
            if distance > len(plain) or length < 2:
                plain.append(choice.randrange(200))
                packer.literals(plain[-1:])
                continue
            if kind == "aligned" and low >= 3:
                packer.match(slot, length, bits >> 3, low - 3)
                packer.put(126 + (bits & 1) if bits & 6 == 6 else (1 << (bits & 7) + 1) - 2, ALIGNED[bits & 7])
            else:
                packer.match(slot, length, bits, low)
            recent = [distance, *recent[1:]] if slot == 0 else recent
            if slot == 1:
                recent = [distance, recent[0], recent[2]]
            elif slot == 2:
                recent = [distance, recent[1], recent[0]]
            elif slot > 2:
                recent = [distance, recent[0], recent[1]]
            plain += (plain[-distance:] * (length // distance + 1))[:length]
    return packer.done(), bytes(plain)


def test_every_slot_recent_distances_and_blocks_of_all_kinds() -> None:
    choice = random.Random(1)
    for size in (1, 2, 3, 11, 500, 4096, 10000, 32767, *[32768] * 8):
        packed, plain = random_chunk(choice, size)
        assert lzx.decompress(packed, size) == plain


@pytest.mark.parametrize("literals", range(16))
def test_a_stored_block_begins_at_a_word_wherever_the_bits_end(literals: int) -> None:
    packer = Packer()
    packer.begin(literals + 1)
    packer.literals(bytes(range(literals + 1)))  # 9 bits each
    packer.stored(b"odd")
    packer.stored(b"even")
    packer.begin(4)
    packer.match(0, 4)
    assert lzx.decompress(packer.done(), literals + 12) == bytes(range(literals + 1)) + b"oddeven" + b"nnnn"


def restored(at: int, target: int, size: int = 100) -> int | None:
    """Return by what the target of a call at `at` is replaced, None when it is left alone."""
    plain = bytearray(size)
    plain[at] = 0xE8
    plain[at + 1 : at + 5] = target.to_bytes(4, "little", signed=True)
    packer = Packer()
    packer.stored(bytes(plain))
    made = lzx.decompress(packer.done(), size)
    assert made[: at + 1] + made[at + 5 :] == plain[: at + 1] + plain[at + 5 :]
    found = int.from_bytes(made[at + 1 : at + 5], "little", signed=True)
    return None if found == target else found


def test_targets_of_calls_are_made_relative_again() -> None:
    assert restored(7, 50) == 43
    assert restored(7, 3) == -4
    assert restored(0, 50) is None  # relative to 0 it is what it was
    assert restored(7, -7) == 12000000 - 7
    assert restored(7, -8) is None
    assert restored(7, 11999999) == 11999992
    assert restored(7, 12000000) is None
    assert restored(89, 50) == -39
    assert restored(90, 50) is None  # the last ten bytes are left alone
    assert restored(0, -1, size=10) is None


def test_a_call_within_the_target_of_another_is_no_call() -> None:
    packer = Packer()
    packer.stored(b"\0\xe8\xe8\0\0\0\xe8\x10\0\0\0" + bytes(20))
    expected = b"\0\xe8\xe7\0\0\0\xe8\x0a\0\0\0" + bytes(20)
    assert lzx.decompress(packer.done(), 31) == expected


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk["name"])
def test_chunks_cut_short_are_corrupt(chunk: dict[str, str | int]) -> None:
    packed = DATA.joinpath(str(chunk["name"])).read_bytes()
    for cut in (6, 7, 8, 20, 60):
        with pytest.raises(Corrupt, match="LZX"):
            lzx.decompress(packed[:-cut], int(chunk["size"]))


def test_nothing_wanted_is_nothing() -> None:
    assert lzx.decompress(b"", 0) == b""


def block(data: bytes, size: int, **more: int) -> Packer:
    packer = Packer()
    packer.begin(size, **more)  # type: ignore[arg-type]
    packer.literals(data)
    return packer


def bad_kind() -> bytes:
    return block(b"abcd", 4, kind=4).done()


def before_the_start() -> bytes:
    packer = block(b"ab", 5)
    packer.match(4, 3, 1, 1)
    return packer.done()


def past_the_block() -> bytes:
    packer = block(b"ab", 4)
    packer.match(0, 3)
    return packer.done()


def recent_of_zero() -> bytes:
    packer = Packer()
    packer.stored(b"abcd", (1, 0, 1))
    return packer.done()


def too_large() -> bytes:
    return block(b"abcde", 5).done()


def empty() -> bytes:
    return block(b"", 0).done() + bytes(100)


def stored_early_end() -> bytes:
    packer = Packer()
    packer.stored(b"abcd")
    return packer.done()[:-2]


def no_main_code() -> bytes:
    packer = Packer()
    packer.put(1, 3)
    packer.size(4)
    for count in (256, 240, 249):
        packer.pretree([0] * count, [0] * count)
    return packer.done() + bytes(100)


def no_aligned_code() -> bytes:
    packer = Packer()
    packer.begin(4, [0] * 8)
    packer.literals(b"abcd")
    return packer.done()


def half_a_code() -> bytes:
    packer = Packer()
    packer.begin(4, [1, 2, 0, 0, 0, 0, 0, 0])
    packer.literals(b"abcd")
    return packer.done()


def no_length_code() -> bytes:
    packer = Packer()
    packer.put(1, 3)
    packer.size(20)
    main = [9] * 480 + [8] * 16
    packer.pretree(main[:256], [0] * 256)
    packer.pretree(main[256:], [0] * 240)
    packer.pretree([0] * 249, [0] * 249)
    packer.literals(b"a")
    packer.match(0, 19)
    return packer.done()


def run_past_the_end() -> bytes:
    packer = Packer()
    packer.put(1, 3)
    packer.size(4)
    packer.pretree([0] * 253, [0] * 253)
    packer.presymbol(17)
    return packer.done() + bytes(300)


def run_of_a_run() -> bytes:
    packer = Packer()
    packer.put(1, 3)
    packer.size(4)
    packer.pretree([], [])
    packer.presymbol(19)
    packer.put(0, 1)
    packer.presymbol(17)
    return packer.done() + bytes(300)


def no_pretree() -> bytes:
    packer = Packer()
    packer.put(1, 3)
    packer.size(4)
    return packer.done() + bytes(300)


@pytest.mark.parametrize(
    ("make", "size", "message"),
    [
        (bad_kind, 4, "type is 4"),
        (before_the_start, 5, "before its start at byte 2"),
        (past_the_block, 4, "reaches past its end"),
        (recent_of_zero, 4, "distance of 0"),
        (too_large, 4, "size is 5"),
        (empty, 4, "size is 0"),
        (stored_early_end, 4, "ends early"),
        (no_main_code, 4, "code without symbols"),
        (no_aligned_code, 4, "code without symbols"),
        (half_a_code, 4, "aligned code: .* no complete code"),
        (no_length_code, 20, "length code without symbols"),
        (run_past_the_end, 4, "run past the end"),
        (run_of_a_run, 4, "symbol is 0x11"),
        (no_pretree, 4, "pretree: no symbols"),
        (bytes, 4, "type is 0|size is 0"),
    ],
)
def test_damage_is_corrupt(make: Callable[[], bytes], size: int, message: str) -> None:
    with pytest.raises(Corrupt, match=f"LZX .*{message}"):
        lzx.decompress(make(), size)


def test_more_than_32_kib_are_corrupt() -> None:
    with pytest.raises(Corrupt, match="LZX"):
        lzx.decompress(bytes(1000), 32769)


def test_mutants_give_all_bytes_or_corrupt_in_little_time() -> None:
    choice = random.Random(3)
    whole = [(DATA.joinpath(str(chunk["name"])).read_bytes(), int(chunk["size"])) for chunk in CHUNKS]
    whole = [(packed, size) for packed, size in whole if size < 10000]
    whole.append((random_chunk(choice, 4096)[0], 4096))
    refused = 0
    for number in range(2000):
        packed, size = whole[number % len(whole)]
        mutant = bytearray(packed)
        for _ in range(choice.randint(1, 4)):
            mutant[choice.randrange(len(mutant))] = choice.randrange(256)
        begun = time.process_time()
        try:
            assert len(lzx.decompress(mutant, size)) == size
        except Corrupt:
            refused += 1
        assert time.process_time() - begun < 1
    assert refused > 200


def test_many_small_blocks_take_little_time() -> None:
    packer = Packer()
    while len(packer.bits) < 8 * 65536:
        packer.begin(1, ALIGNED)
        packer.literals(b"a")
    begun = time.process_time()
    with pytest.raises(Corrupt, match="ends early"):
        lzx.decompress(packer.done() * 8, 32768)
    assert time.process_time() - begun < 5
