"""Limits: what one Guest may use. Cache bytes shared by all its readers, and work budgets for hostile input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any

from guestkit.errors import Corrupt

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

MIB = 1 << 20
# glibc gives what is free at the end of a thread's memory back to the kernel, as soon as it is twice as much as the
# largest block that was ever freed: units that a thread makes and another drops would cost page faults each time
_FREED = 4 * MIB


class Cache:
    """A map bounded in bytes that drops what was used longest ago. Safe to use from several threads.

    Keys must be unique over all users of the cache: (id-like token of the owner, index).
    """

    __slots__ = ("_bytes", "_entries", "_lock", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Any:
        """Return the value, or None."""
        entries = self._entries
        entry = entries.get(key)
        if entry is None:
            return None
        try:
            entries.move_to_end(key)
        except KeyError:  # another thread dropped it between the two steps; the value is still good
            pass
        return entry[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep `value`, counted as `size` bytes; what alone exceeds a quarter of the limit is not kept."""
        if size > self.limit >> 2:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self._bytes -= old[1]
            self._entries[key] = (value, size)
            self._bytes += size
            while self._bytes > self.limit:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._bytes -= dropped

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Keep none of the `keys`; those that are not there are passed over."""
        with self._lock:
            for key in keys:
                entry = self._entries.pop(key, None)
                if entry is not None:
                    self._bytes -= entry[1]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    @property
    def bytes(self) -> int:
        return self._bytes

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0


class Budget:
    """A count of work that one operation may do; it bounds fan-out as well as depth."""

    __slots__ = ("left", "what")

    def __init__(self, units: int, what: str) -> None:
        self.left = units
        self.what = what

    def spend(self, units: int = 1) -> None:
        """Take `units`. Raises: Corrupt (EUCLEAN) when nothing is left."""
        self.left -= units
        if self.left < 0:
            raise Corrupt(self.what, "names more than the format can hold")


class Limits:
    """One object a Guest, passed to every opener: its cache and its pool of decoding threads."""

    def __init__(self, cache_bytes: int = 32 * MIB, decode_threads: int = 2) -> None:
        """`decode_threads`: how many decompress for a sequential reader, its own among them; below 2 no others."""
        self.cache = Cache(cache_bytes)
        self.decode_threads = decode_threads
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._token = 0
        self._lock = Lock()

    def token(self) -> int:
        """A number that no other user of this object's cache has."""
        with self._lock:
            self._token += 1
            return self._token

    def pool(self) -> ThreadPoolExecutor | None:
        """The threads that decode ahead, started when first needed; None when there are to be none."""
        if self._pool is None and self.decode_threads > 1 and not self._closed:
            from concurrent.futures import ThreadPoolExecutor

            bytes(_FREED)
            with self._lock:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self.decode_threads - 1, "guestkit-decode")
        return self._pool

    def close(self) -> None:
        """End the threads and drop the cache. May be repeated."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        self.cache.clear()
