"""Runs: which clusters an attribute stands in, by virtual cluster number.

Spec: libfsntfs documentation, "Data runs". A run is (VCN, LCN or -1 for a hole, count). The pieces of a fragmented
attribute are decoded when first looked into, so that a file of a million runs costs what is read of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt

Run = tuple[int, int, int]  # VCN, LCN or HOLE, clusters
HOLE = -1
_KEPT = 64  # pieces whose runs are kept decoded


class Segment(NamedTuple):
    """The encoded runs of the VCNs from `lowest` to `highest`."""

    lowest: int
    highest: int
    runs: bytes


def decode_runs(segment: Segment, clusters: int) -> list[Run]:
    """Decode the runs of one piece; `clusters` bounds what they may name.

    Raises: Corrupt (EUCLEAN) for a run outside the volume, or when they do not cover just the piece's VCNs.
    """
    vcn, highest, data = segment
    end = highest + 1
    found: list[Run] = []
    lcn = 0
    at = 0
    size = len(data)
    while at < size:
        head = data[at]
        if not head:
            break
        low, high = head & 15, head >> 4
        place = at + 1 + low
        at = place + high
        if not 1 <= low <= 8 or high > 8 or at > size:
            raise Corrupt("data runs", "header", found=head)
        count = int.from_bytes(data[place - low : place], "little", signed=True)
        if count <= 0 or vcn + count > end:
            raise Corrupt("data runs", "length", found=count, expected=f"1 to {end - vcn}")
        if high:
            lcn += int.from_bytes(data[place:at], "little", signed=True)
            if lcn == -1:  # how NTFS 1.2 marks a hole
                found.append((vcn, HOLE, count))
            elif lcn < 0 or lcn + count > clusters:
                raise Corrupt("data runs", "LCN", found=lcn, expected=f"0 to {clusters - count}")
            else:
                found.append((vcn, lcn, count))
        else:
            found.append((vcn, HOLE, count))
        vcn += count
    if vcn != end:
        raise Corrupt("data runs", "highest VCN", found=vcn - 1, expected=highest)
    return found


class RunMap:
    """The runs of one attribute over all its pieces."""

    __slots__ = ("_clusters", "_decoded", "_segments", "_starts", "end")

    def __init__(self, segments: Sequence[Segment], clusters: int) -> None:
        """`segments` ascending from VCN 0 without a gap; `clusters`: how many the volume has. Raises: Corrupt."""
        at = 0
        for segment in segments:
            if segment.lowest != at:
                raise Corrupt("attribute", "lowest_vcn", found=segment.lowest, expected=at)
            at = segment.highest + 1
        self.end = at  # VCNs in all
        self._segments = segments
        self._starts = [segment.lowest for segment in segments]
        self._clusters = clusters
        self._decoded: dict[int, tuple[list[Run], list[int]]] = {}

    def _piece(self, index: int) -> tuple[list[Run], list[int]]:
        known = self._decoded.get(index)
        if known is None:
            runs = decode_runs(self._segments[index], self._clusters)
            known = runs, [run[0] for run in runs]
            if len(self._decoded) >= _KEPT:
                self._decoded = {}
            self._decoded[index] = known
        return known

    def runs(self, first: int, end: int) -> Iterator[Run]:
        """Yield the runs that tile the VCNs from `first` up to `end`, cut to that range.

        Raises: Corrupt where they end early or are damaged.
        """
        if first >= end:
            return
        index = bisect_right(self._starts, first) - 1
        while first < end:
            if index < 0 or index >= len(self._segments):
                raise Corrupt("attribute", "runs", found=f"none for VCN {first}", expected=f"{end} VCNs")
            runs, starts = self._piece(index)
            at = max(0, bisect_right(starts, first) - 1)
            while at < len(runs) and first < end:
                vcn, lcn, count = runs[at]
                skip = first - vcn
                take = min(count - skip, end - first)
                if take > 0:
                    yield first, lcn if lcn < 0 else lcn + skip, take
                    first += take
                at += 1
            index += 1
