"""The session loop's stand-in for trio: it spins before it sleeps and skips the checkpoints of each request.

pyfuse3's session loop takes trio from a module global (its own asyncio support replaces it the same way). What is
put there answers at once while requests keep arriving: waking an idle core costs more than a request does. That is
no public interface, so it is used only with versions that it was tested with and that look as expected; every
other one gets pyfuse3's own loop.

One session loop at a time reads requests. Before a handler waits for a worker thread it calls `relieve()`, which
starts another one; a loop that comes back and finds its place taken ends.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from time import perf_counter
from types import ModuleType
from typing import Any

TESTED = ("3.4.0", "3.4.1", "3.5.0")  # of pyfuse3
SPIN_SECONDS = 100e-6  # 60 to 200 us are equal, 30 is too short
YIELD_SECONDS = 25e-3  # signals, worker threads and cancellation get their turn this often
MOST_LOOPS = 64  # that wait for worker threads at one time; then requests queue up in the kernel

_READABLE = select.POLLIN | select.POLLERR | select.POLLHUP
_UNLIMITED = 1 << 30


class _Done:
    """An awaitable that has its (empty) result already."""

    __slots__ = ()
    _finished: Iterator[None] = iter(())

    def __await__(self) -> Iterator[None]:
        return self._finished


_DONE = _Done()


class _NoLock:
    """Only one loop reads at a time, so that there is nothing to lock."""

    def __aenter__(self) -> _Done:
        return _DONE

    def __aexit__(self, *exc: object) -> _Done:
        return _DONE


class _LowLevel:
    """trio.lowlevel with another wait_readable."""

    def __init__(self, real: Any, wait_readable: Callable[[int], Any]) -> None:
        self.current_task = real.current_task
        self.current_trio_token = real.current_trio_token
        self.notify_closing = real.notify_closing
        self.wait_readable = wait_readable


class SpinningLoop:
    """What pyfuse3 sees as its `trio` while run() runs. `idle` does one piece of useful work; False: there is none."""

    def __init__(self, trio: ModuleType, pyfuse3: Any, idle: Callable[[], bool]) -> None:
        self._trio = trio
        self._pyfuse3 = pyfuse3
        self._idle = idle
        self._nursery: Any = None
        self._poll = select.poll()
        self._fd = -1
        self._waiting = False
        self._surplus = False
        self._blocked = 0
        self._yield_at = 0.0
        self.ClosedResourceError = trio.ClosedResourceError
        self.Lock = _NoLock
        self.lowlevel = _LowLevel(trio.lowlevel, self.wait_readable)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trio, name)

    async def run(self) -> None:
        """Serve until the session ends or is cancelled."""
        pyfuse3 = self._pyfuse3
        pyfuse3.trio = self
        try:
            async with self._trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._session_loop)
        finally:
            pyfuse3.trio = self._trio

    async def _session_loop(self) -> None:
        # min_tasks: a loop never ends by its own count; max_tasks: nor does it start others
        await self._pyfuse3._session_loop(self._nursery, _UNLIMITED, -_UNLIMITED)
        if self._surplus:
            self._surplus = False
        else:
            self._nursery.cancel_scope.cancel()

    def relieve(self) -> None:
        """Start another loop, for the one that calls is about to wait. Followed by relieved()."""
        self._blocked += 1
        if not self._waiting and self._blocked < MOST_LOOPS:
            self._nursery.start_soon(self._session_loop)

    def relieved(self) -> None:
        self._blocked -= 1

    def wait_readable(self, fd: int) -> Any:
        """Return an awaitable that is done when a request stands at `fd`."""
        if self._waiting:
            self._surplus = True
            raise self.ClosedResourceError
        if fd != self._fd:
            self._poll.register(fd, _READABLE)
            self._fd = fd
        poll = self._poll.poll
        now = perf_counter()
        if self._blocked:
            return self._sleep(fd) if now >= self._yield_at or not poll(0) else _DONE
        until = now + SPIN_SECONDS
        idle = self._idle
        while not poll(0):
            if idle():
                until = perf_counter() + SPIN_SECONDS
            elif perf_counter() > until:
                return self._sleep(fd)
        return _DONE if now < self._yield_at else self._sleep(fd)

    async def _sleep(self, fd: int) -> None:
        self._waiting = True
        try:
            await self._trio.lowlevel.wait_readable(fd)
        finally:
            self._waiting = False
            self._yield_at = perf_counter() + YIELD_SECONDS


def unsuitable(pyfuse3: ModuleType, trio: ModuleType) -> str:
    """Why the stand-in cannot be used with this pyfuse3, or ""."""
    version = getattr(pyfuse3, "__version__", "unknown")
    if version not in TESTED:
        return f"pyfuse3 {version} is not one of those tested ({', '.join(TESTED)})"
    if getattr(pyfuse3, "trio", None) is not trio:
        return "pyfuse3 does not take trio from its module global"
    if not callable(getattr(pyfuse3, "_session_loop", None)) or not callable(
        getattr(pyfuse3, "_wait_fuse_readable", None)
    ):
        return "pyfuse3's session loop is not where it was"
    if any(
        not hasattr(trio.lowlevel, name)
        for name in ("wait_readable", "notify_closing", "current_task", "current_trio_token")
    ):
        return "trio.lowlevel is not as expected"
    return ""
