"""Decoded: the base of leaves whose bytes must be made, unit by unit: inflated, decrypted, verified.

Owns what all of them need: the byte-bounded cache, the refusal to keep a thread waiting that may not wait,
decoding several units at once, and read-ahead when reads are sequential (zlib and zstd release the GIL).
"""

from __future__ import annotations

from abc import abstractmethod
from threading import Lock
from typing import TYPE_CHECKING

from guestkit.errors import WouldBlock
from guestkit.limits import Limits
from guestkit.source import Leaf, patience

if TYPE_CHECKING:
    from concurrent.futures import Future

_AHEAD_BYTES = 1 << 20  # decoded ahead of a sequential reader


class Decoded(Leaf):
    """A leaf of `size` bytes made in units of `unit` bytes (the last may be shorter)."""

    def __init__(self, size: int, unit: int, limits: Limits) -> None:
        self.size = size
        self.unit = unit
        self._limits = limits
        self._token = limits.token()
        self._pending: dict[int, Future[bytes]] = {}
        self._lock = Lock()
        self._next = -1  # the unit that a sequential reader asks for next

    @abstractmethod
    def decode(self, index: int) -> bytes:
        """Return all bytes of unit `index`; called from several threads.

        Raises: Corrupt when they cannot be made; SourceError when the host does not give the input.
        """

    def read_into(self, offset: int, buf: memoryview) -> None:
        length = len(buf)
        self.check(offset, length)
        if not length:
            return
        unit = self.unit
        first, last = offset // unit, (offset + length - 1) // unit
        ahead = last
        if first <= self._next <= last + 1:
            ahead = min(last + max(2, _AHEAD_BYTES // unit), (self.size - 1) // unit)
        self._next = last + 1
        if ahead > first:
            self._start(first, ahead)
        at = 0
        for index in range(first, last + 1):
            data = self._unit(index)
            skip = offset + at - index * unit
            take = min(len(data) - skip, length - at)
            buf[at : at + take] = data if take == len(data) else memoryview(data)[skip : skip + take]
            at += take

    def wanted(self, index: int) -> bool:
        """Whether unit `index` is worth decoding ahead; a layer with gaps says no for them."""
        return True

    def _start(self, first: int, last: int) -> None:
        """Begin to decode the units of [first, last] that are not there yet."""
        pool = self._limits.pool()
        if pool is None:
            return
        cache, token = self._limits.cache, self._token
        room = max(2, 2 * _AHEAD_BYTES // self.unit)
        with self._lock:
            for index in range(first, last + 1):
                if len(self._pending) >= room:
                    stale = [known for known in self._pending if known < first or known > last]
                    for known in stale:
                        self._pending.pop(known).cancel()
                    if len(self._pending) >= room:
                        return
                if index not in self._pending and cache.get((token, index)) is None and self.wanted(index):
                    self._pending[index] = pool.submit(self.decode, index)

    def _unit(self, index: int) -> bytes:
        key = (self._token, index)
        data: bytes | None = self._limits.cache.get(key)
        if data is not None:
            return data
        future = self._pending.get(index)
        if not patience.may_block and (future is None or not future.done()):
            raise WouldBlock
        if future is None:
            data = self.decode(index)
        else:
            try:
                data = future.result() if not future.cancelled() else self.decode(index)
            finally:
                with self._lock:
                    self._pending.pop(index, None)
        self._limits.cache.put(key, data, len(data) + 100)
        return data
