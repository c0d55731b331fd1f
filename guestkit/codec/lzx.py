"""LZX as WIM and WOF use it: one chunk of up to 32 KiB, each a stream of its own with a window of 32 KiB.

[MS-PATCH] 2 describes LZX DELTA, of which WIM's kind leaves out the chunk sizes, the extended lengths and the bit for
the translation of calls: that is always done, as for a file of 12000000 bytes (wimlib describes this kind). A block
says its size in 16 bits, or with one bit that it has 32768 bytes. The stream consists of 16-bit little-endian words,
read from their highest bit on. Cabinets, and windows other than 32 KiB, are left out.
"""

from __future__ import annotations

from array import array
from functools import cache

from guestkit.codec import huffman
from guestkit.errors import Corrupt

_LARGEST = 32768
_MOST = 65536  # bytes that are looked at: more than any chunk has that is worth packing, and a bound on the time
_SLOTS = 30  # ranges of distances that a window of 32 KiB needs
_MAIN = 256 + 8 * _SLOTS
_LENGTHS = 249
_LONG = 9  # the length of a match that goes on in a symbol of the length code
_LONGEST = _LONG + _LENGTHS - 1
_CODE_FILE = 12000000

_VERBATIM, _ALIGNED, _STORED = 1, 2, 3

_REFILL = 30  # bytes; a longer buffer costs every look at it, a shorter one is filled more often
_NEEDED = 64  # bits: a main code, a length code and a distance have 49 at most
_PADDING = bytes(2 * _REFILL)

# bits of the code; literal, or -1; the least distance, or 0, -1, -2 for a recent one; low bits of it; length
_Main = tuple[int, int, int, int, int]
_Symbol = tuple[int, int]  # bits of the code; symbol


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """Return the `size` bytes, 32768 at most, that the chunk `data` stands for; what follows in `data` is ignored.

    Raises: Corrupt.
    """
    if size > _LARGEST:
        raise Corrupt("LZX chunk", "size", found=size)
    bits = _Bits(bytes(data[:_MOST]))
    out = bytearray()
    recent = (1, 1, 1)
    main, lengths = bytearray(_MAIN), bytearray(_LENGTHS)
    while len(out) < size:
        kind = bits.read(3)
        wanted = _LARGEST if bits.read(1) else bits.read(16)
        if not 0 < wanted <= size - len(out):
            raise Corrupt("LZX block", "size", found=wanted)
        if kind == _STORED:
            recent = _stored(bits, out, wanted)
        elif kind in (_VERBATIM, _ALIGNED):
            recent = _Block(bits, kind == _ALIGNED, main, lengths).expand(out, len(out) + wanted, recent)
        else:
            raise Corrupt("LZX block", "type", found=kind)
    _restore_calls(out)
    return bytes(out)


class _Bits:
    """The stream: `held` bits of `buffer` are still to be used, and the bytes from `place` on."""

    __slots__ = ("buffer", "data", "held", "place", "words")

    def __init__(self, data: bytes) -> None:
        self.data = data
        words = array("H", (data + _PADDING)[: len(data) + len(_PADDING) & ~1])
        words.byteswap()
        self.words = words.tobytes()
        self.place = self.held = self.buffer = 0

    def fill(self) -> None:
        if self.place > len(self.data) + _REFILL // 2:
            raise Corrupt("LZX chunk ends early", "bytes", found=len(self.data))
        more = int.from_bytes(self.words[self.place : self.place + _REFILL], "big")
        self.buffer = (self.buffer & (1 << self.held) - 1) << 8 * _REFILL | more
        self.place += _REFILL
        self.held += 8 * _REFILL

    def read(self, count: int) -> int:
        """Return the next `count` bits, 16 at most."""
        if self.held < count:
            self.fill()
        self.held -= count
        return self.buffer >> self.held & (1 << count) - 1

    def check(self) -> None:
        """Refuse that bits from after the end were used."""
        if self.held < (self.place - len(self.data)) * 8:
            raise Corrupt("LZX chunk ends early", "bytes", found=len(self.data))


def _stored(bits: _Bits, out: bytearray, wanted: int) -> tuple[int, int, int]:
    # the rest of the word is skipped, and a whole one when none is begun
    place = ((bits.place * 8 - bits.held >> 4) + 1) * 2
    head = bits.data[place : place + 12]
    body = bits.data[place + 12 : place + 12 + wanted]
    if len(body) < wanted:
        raise Corrupt("LZX chunk ends early", "bytes", found=len(bits.data))
    recent = (
        int.from_bytes(head[:4], "little"),
        int.from_bytes(head[4:8], "little"),
        int.from_bytes(head[8:], "little"),
    )
    if not all(recent):
        raise Corrupt("LZX block: a recent distance of 0")
    out += body
    bits.place = place + 12 + wanted + (wanted & 1)
    bits.held = 0
    return recent


class _Block:
    """The codes of a compressed block; `main` and `lengths` are those of the block before it, and become its own."""

    __slots__ = ("aligned", "bits", "lengths", "main")

    def __init__(self, bits: _Bits, aligned: bool, main: bytearray, lengths: bytearray) -> None:
        self.bits = bits
        self.aligned: tuple[list[_Symbol], int] = ([], 0)
        if aligned:
            self.aligned = huffman.table(bytes(bits.read(3) for _ in range(8)), _plain(), "LZX aligned code")
        _read_lengths(bits, main, 0, 256)
        _read_lengths(bits, main, 256, _MAIN)
        self.main = huffman.table(main, _entries(), "LZX main code")
        _read_lengths(bits, lengths, 0, _LENGTHS)
        self.lengths = huffman.table(lengths, _plain(), "LZX length code")
        if not self.main[0] or (aligned and not self.aligned[0]):
            raise Corrupt("LZX block: a code without symbols")

    def expand(self, out: bytearray, end: int, recent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Append to `out`, until it has `end` bytes, what the block stands for, and return the recent distances."""
        bits = self.bits
        table, width = self.main
        mask = (1 << width) - 1
        length_table, length_width = self.lengths
        length_mask = (1 << length_width) - 1
        aligned, aligned_width = self.aligned
        aligned_mask = (1 << aligned_width) - 1
        first, second, third = recent
        append = out.append
        spare = bits.held - width  # bits left in `buffer`, less those of one look
        buffer = bits.buffer
        careful = end - 8 * _REFILL - _NEEDED - _LONGEST
        while len(out) < end:
            if spare < _NEEDED - width:
                bits.held = spare + width
                bits.buffer = buffer
                bits.fill()
                buffer = bits.buffer
                spare = bits.held - width
            # a symbol takes a bit at least, so that what lies above `stop` holds no more literals than there is room
            stop = max(_NEEDED - width - 1, spare - end + len(out))
            while spare > stop:
                taken, literal, distance, low, length = table[buffer >> spare & mask]
                spare -= taken
                if literal >= 0:
                    append(literal)
                    continue
                if length == _LONG:
                    if not length_table:
                        raise Corrupt("LZX block: a length code without symbols")
                    taken, more = length_table[buffer >> spare + width - length_width & length_mask]
                    spare -= taken
                    length += more
                if distance > 0:
                    if low:
                        if aligned and low > 2:
                            spare -= low - 3
                            distance += (buffer >> spare + width & (1 << low - 3) - 1) << 3
                            taken, more = aligned[buffer >> spare + width - aligned_width & aligned_mask]
                            spare -= taken
                            distance += more
                        else:
                            spare -= low
                            distance += buffer >> spare + width & (1 << low) - 1
                    third = second
                    second = first
                    first = distance
                elif not distance:
                    distance = first
                elif distance == -1:
                    distance = second
                    second = first
                    first = distance
                else:
                    distance = third
                    third = first
                    first = distance
                now = len(out)
                start = now - distance
                if start < 0:
                    raise Corrupt(f"LZX chunk: a match from before its start at byte {now}")
                if length <= distance:
                    out += out[start : start + length]
                else:
                    out += (out[start:] * (length // distance + 1))[:length]
                if now > careful:
                    break
        if len(out) > end:
            raise Corrupt("LZX block: a match reaches past its end")
        bits.held = spare + width
        bits.buffer = buffer
        bits.check()
        return first, second, third


def _read_lengths(bits: _Bits, lengths: bytearray, place: int, end: int) -> None:
    """Set `lengths[place:end]` to what the stream tells, as differences to what they were."""
    table, width = huffman.table(bytes(bits.read(4) for _ in range(20)), _plain(), "LZX pretree")
    if not table:
        raise Corrupt("LZX pretree: no symbols")
    mask = (1 << width) - 1

    def symbol() -> int:
        if bits.held < 16:
            bits.fill()
        taken, found = table[bits.buffer >> bits.held - width & mask]
        bits.held -= taken
        return found

    while place < end:
        found = symbol()
        if found < 17:
            lengths[place] = (lengths[place] - found) % 17
            place += 1
            continue
        if found == 17:
            count, value = 4 + bits.read(4), 0
        elif found == 18:
            count, value = 20 + bits.read(5), 0
        else:
            count = 4 + bits.read(1)
            found = symbol()
            if found > 16:
                raise Corrupt("LZX pretree", "symbol", found=found)
            value = (lengths[place] - found) % 17
        if count > end - place:
            raise Corrupt("LZX pretree: a run past the end")
        lengths[place : place + count] = bytes((value,)) * count
        place += count


def _restore_calls(out: bytearray) -> None:
    """Turn the targets of x86 call instructions, which LZX stores as places in the chunk, into distances again."""
    end = len(out) - 10
    at = out.find(0xE8, 0, max(0, end))
    while at >= 0:
        target = int.from_bytes(out[at + 1 : at + 5], "little", signed=True)
        if -at <= target < _CODE_FILE:
            target += _CODE_FILE if target < 0 else -at
            out[at + 1 : at + 5] = target.to_bytes(4, "little", signed=True)
        at = out.find(0xE8, at + 5, end)


@cache
def _plain() -> list[list[_Symbol]]:
    return [[(length, symbol) for symbol in range(_LENGTHS)] for length in range(17)]


@cache
def _entries() -> list[list[_Main]]:
    """What the table of a main code holds for each length of a code and each symbol."""
    matches = []
    least = 1
    for slot in range(_SLOTS):
        low = max(0, slot // 2 - 1)
        for header in range(8):
            matches.append((-1, least if slot > 2 else -slot, low, header + 2))
        if slot > 2:
            least += 1 << low
    return [
        [(length, literal, 0, 0, 0) for literal in range(256)] + [(length, *match) for match in matches]
        for length in range(17)
    ]
