"""What the last listings met and is likely to be asked for next: directories, which are entered, and links."""

from __future__ import annotations

from collections.abc import Iterable

from guestkit.fs.base import Stat

_BYTES = 2 << 20
_STAT_BYTES = 512  # of a Stat and what holds it


class Recent:
    """Records of inodes with their Stats, the oldest given up first; several threads may use it."""

    __slots__ = ("_kept", "_most")

    def __init__(self, size: int) -> None:
        """`size`: bytes of a record."""
        self._most = _BYTES // (size + _STAT_BYTES)
        self._kept: dict[int, tuple[bytes, Stat]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, ino: int) -> tuple[bytes, Stat] | None:
        """The record and Stat of `ino`, which is kept no longer."""
        return self._kept.pop(ino, None)

    def keep(self, met: Iterable[tuple[bytes, Stat]]) -> None:
        """Keep the records and Stats that were `met`."""
        kept = self._kept
        kept.update([(each[1][0], each) for each in met])
        if len(kept) > self._most:
            # a quarter more than must, so that this is seldom done
            for ino in list(kept)[: len(kept) - self._most + (self._most >> 2)]:
                kept.pop(ino, None)
