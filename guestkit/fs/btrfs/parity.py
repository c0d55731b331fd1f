"""The stripes that are not there, from the others of their row: P (their sum) and Q (their weighted sum).

Spec: H. P. Anvin, "The mathematics of RAID-6": GF(2^8) with the polynomial 0x11d and the generator 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache


def recover(known: Mapping[int, bytes], place: int, width: int) -> bytes | None:
    """Return data stripe `place` of a row of `width` from what is known of it; None where that does not suffice.

    `known`: the other stripes by place, as long as each other; `width` stands for P, `width` + 1 for Q.
    """
    lost = [each for each in range(width) if each not in known]
    if place not in lost or len(lost) > 2:
        return known.get(place)
    first_parity, second_parity = known.get(width), known.get(width + 1)
    data = {each: stripe for each, stripe in known.items() if each < width}
    if len(lost) == 1:
        if first_parity is not None:
            return _sum([first_parity, *data.values()])
        if second_parity is None:
            return None
        return _times(_weighted(second_parity, data), _inverse(_power(place)))
    if first_parity is None or second_parity is None:
        return None
    other = lost[0] if lost[1] == place else lost[1]
    plain = _sum([first_parity, *data.values()])
    weighted = _weighted(second_parity, data)
    both = _sum([weighted, _times(plain, _power(other))])
    return _times(both, _inverse(_power(place) ^ _power(other)))


def _sum(stripes: list[bytes]) -> bytes:
    total = 0
    for stripe in stripes:
        total ^= int.from_bytes(stripe, "little")
    return total.to_bytes(len(stripes[0]), "little")


def _weighted(parity: bytes, data: Mapping[int, bytes]) -> bytes:
    return _sum([parity, *(_times(stripe, _power(place)) for place, stripe in data.items())])


def _times(stripe: bytes, factor: int) -> bytes:
    return stripe.translate(_table(factor))


def _product(left: int, right: int) -> int:
    made = 0
    while right:
        if right & 1:
            made ^= left
        left = left << 1 ^ (0x11D if left & 0x80 else 0)
        right >>= 1
    return made


@cache
def _table(factor: int) -> bytes:
    return bytes(_product(value, factor) for value in range(256))


@cache
def _power(exponent: int) -> int:
    made = 1
    for _ in range(exponent % 255):
        made = _product(made, 2)
    return made


@cache
def _inverse(value: int) -> int:
    return next(other for other in range(1, 256) if _product(value, other) == 1)
