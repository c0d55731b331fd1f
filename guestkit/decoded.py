"""Decoded: the base of leaves whose bytes must be made, unit by unit: inflated, decrypted, verified.

Owns what all of them need: the byte-bounded cache, the refusal to keep a thread waiting that may not wait,
decoding several units at once, and read-ahead when reads are sequential (zlib and zstd release the GIL).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from guestkit.errors import GuestkitError, WouldBlock
from guestkit.limits import Limits
from guestkit.source import Leaf, patience

if TYPE_CHECKING:
    from concurrent.futures import Future

_FIRST_AHEAD = 1 << 19  # decoded ahead of a reader that went on where it stopped; doubled each time it does
_MOST_AHEAD = 1 << 22
_SKIP = 1 << 18  # a reader that leaves out this much still goes on
_READERS = 8  # sequential readers that are told apart: the files of a guest share one disk


class Decoded(Leaf):
    """A leaf of `size` bytes made in units of `unit` bytes (the last may be shorter)."""

    batch_bytes = 1 << 19  # decoded by one job: long enough to pay for its start, though less may be wanted

    def __init__(self, size: int, unit: int, limits: Limits, *, in_threads: bool = True) -> None:
        """`in_threads`: whether threads help, as they do when decode() lets go of the interpreter for long enough."""
        self.size = size
        self.unit = unit
        self._limits = limits
        self._in_threads = in_threads and limits.decode_threads > 1
        self._cache = limits.cache
        self._token = limits.token()
        self._most_ahead = min(_MOST_AHEAD, limits.cache.limit // 4)
        self._batch = max(1, min(self.batch_bytes, self._most_ahead) // unit)  # units
        self._pending: dict[int, Future[None]] = {}  # by batch; what a job makes goes into the cache
        self._lock = Lock()
        # of each: where it goes on, how far ahead to decode, the first batch that was not yet begun for it
        self._readers = [(-1 << 62, 0, 0)] * _READERS
        self._oldest = 0

    @abstractmethod
    def decode(self, index: int) -> bytes:
        """Return all bytes of unit `index`; called from several threads.

        Raises: Corrupt when they cannot be made; SourceError when the host does not give the input.
        """

    def wanted(self, index: int) -> bool:
        """Whether unit `index` is worth decoding ahead; a layer with gaps says no for them."""
        return True

    def read(self, offset: int, length: int) -> bytes:
        self.check(offset, length)
        if not length:
            return b""
        unit = self.unit
        first, last = offset // unit, (offset + length - 1) // unit
        passed = self._ahead(offset, length, first, last)
        if first == last:
            start = offset - first * unit
            return self._unit(first)[start : start + length]
        parts: list[bytes | memoryview] = [self._unit(index, index < passed) for index in range(first, last + 1)]
        if passed:
            self._drop(first, passed)
        if start := offset - first * unit:
            parts[0] = memoryview(parts[0])[start:]
        if (offset + length) % unit:
            parts[-1] = memoryview(parts[-1])[: offset + length - last * unit]
        return b"".join(parts)

    def read_into(self, offset: int, buf: memoryview) -> None:
        length = len(buf)
        self.check(offset, length)
        if not length:
            return
        unit = self.unit
        first, last = offset // unit, (offset + length - 1) // unit
        passed = self._ahead(offset, length, first, last)
        at = 0
        for index in range(first, last + 1):
            data = self._unit(index, index < passed)
            skip = offset + at - index * unit
            take = min(len(data) - skip, length - at)
            buf[at : at + take] = data if take == len(data) else memoryview(data)[skip : skip + take]
            at += take
        if passed:
            self._drop(first, passed)

    def _unit(self, index: int, passing: bool = False) -> bytes:
        """The bytes of a unit. `passing`: it is not worth keeping, so that the next one is made in its memory."""
        key = (self._token, index)
        cache = self._cache
        data: bytes | None = cache.get(key)
        if data is None:
            job = self._pending.get(index // self._batch)
            if not patience.may_block and (job is None or not job.done()):
                raise WouldBlock
            if job is not None and not job.cancel():  # begun: it is nearer to the end than this thread could be
                while not job.done() and self._help():
                    pass
                job.exception()  # waits
            data = cache.get(key)  # a job may have ended meanwhile
            if data is None:
                data = self.decode(index)
                if not passing:
                    cache.put(key, data, len(data) + 100)
        return data

    def _help(self) -> bool:
        """Decode the first batch that was not yet begun; False when there is none."""
        for number, job in list(self._pending.items()):
            if job.cancel():
                self._decode_batch(number, min((number + 1) * self._batch - 1, (self.size - 1) // self.unit))
                return True
        return False

    def _drop(self, first: int, end: int) -> None:
        """Keep no longer what a reader has passed: not before all of its read was there, as it may be repeated."""
        token = self._token
        self._cache.drop([(token, index) for index in range(first, end)])

    def _ahead(self, offset: int, length: int, first: int, last: int) -> int:
        """Have the pool decode what this read needs and, when a reader goes on, what it will ask for next.

        Return the first unit that this read does not take to its end, when the reader has gone on for long and takes
        several units at once of more than the cache would hold: a stream that would only drive what others use out of
        it. Else 0.
        """
        readers = self._readers
        ahead = 0
        begin = first // self._batch
        slot = self._oldest
        for number, (goes_on, far, begun) in enumerate(readers):
            if 0 <= offset - goes_on <= _SKIP:
                ahead = min(max(_FIRST_AHEAD, far * 2), self._most_ahead)
                begin = max(begin, begun)
                slot = number
                break
        else:
            self._oldest = (slot + 1) % _READERS
        if (ahead or last - first >= self._batch) and self._in_threads:
            begin = self._start(begin, min(last + ahead // self.unit, (self.size - 1) // self.unit))
        readers[slot] = (offset + length, ahead, begin)
        streams = last > first and ahead == self._most_ahead and self.size > self._cache.limit >> 2
        return (offset + length) // self.unit if streams else 0

    def _start(self, batch: int, last: int) -> int:
        """Begin to decode the batches from `batch` to that of unit `last`; return the first that was not begun."""
        pool = self._limits.pool()
        if pool is None:
            return batch
        size, pending = self._batch, self._pending
        room = 2 * max(2, self._most_ahead // (size * self.unit))
        for number in range(batch, last // size + 1):
            if number in pending:
                continue
            if len(pending) >= room:
                return number
            end = min((number + 1) * size - 1, (self.size - 1) // self.unit)
            with self._lock:
                if number in pending:
                    continue
                try:
                    pending[number] = job = pool.submit(self._decode_batch, number, end)
                except RuntimeError:  # the pool was shut down: whoever reads decodes
                    return number
            job.add_done_callback(lambda _, number=number: pending.pop(number, None))  # type: ignore[misc]
        return max(batch, last // size + 1)

    def _decode_batch(self, number: int, end: int) -> None:
        cache, token = self._cache, self._token
        missing = [index for index in range(number * self._batch, end + 1) if (token, index) not in cache]
        missing = [index for index in missing if self.wanted(index)]
        for index, data in self.decode_some(missing) if missing else ():
            cache.put((token, index), data, len(data) + 100)

    def decode_some(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (index, bytes) of those of the ascending units, one at least, that can be made; for read-ahead.

        A layer whose input lies together may read it at once.
        """
        for index in indices:
            try:
                yield index, self.decode(index)
            except GuestkitError:  # whoever reads that unit decodes it again and is told
                continue
