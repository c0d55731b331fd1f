"""Canonical Huffman codes as tables that are looked up with the next bits of the stream (XPRESS and LZX share them).

A table has an entry for every value of the next `bits` bits, so one look gives the symbol whatever its code's length.
`bits` is the longest length in use: small chunks have short codes, and filling a table is most of what they cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TypeVar

from guestkit.errors import Corrupt

Entry = TypeVar("Entry")


def is_complete(lengths: bytes | bytearray) -> bool:
    """Return whether every row of bits begins with just one of the codes of `lengths`, of 16 bits at most."""
    return sum(lengths.count(length) << 16 - length for length in range(1, 17)) == 1 << 16


def table(lengths: bytes | bytearray, entries: Sequence[Sequence[Entry]], what: str) -> tuple[list[Entry], int]:
    """Return the table of the code with `lengths` (one a symbol, 0 = unused), and how many bits it is looked up with.

    `entries[length][symbol]` is what the table holds for that symbol. Without any used symbol the table is empty.
    Raises: Corrupt unless the lengths make a complete code, or are all 0.
    """
    symbols = sorted(compress(range(len(lengths)), lengths), key=lengths.__getitem__)
    if not symbols:
        return [], 0
    if not is_complete(lengths):
        raise Corrupt(f"{what}: the lengths of its codes make no complete code")
    bits = lengths[symbols[-1]]
    found: list[Entry] = []
    first = 0
    for length in range(1, bits + 1):
        count = lengths.count(length)
        row = entries[length]
        if length == bits:
            found += [row[symbol] for symbol in symbols[first:]]
        elif count:
            copies = 1 << bits - length
            for symbol in symbols[first : first + count]:
                found += [row[symbol]] * copies
        first += count
    return found, bits
