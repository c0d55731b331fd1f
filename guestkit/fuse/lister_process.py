"""A Lister in a process of its own, on another processor than the one that answers the kernel.

The process is forked from the mount's, so that both see the same Namespace; it reads what it is to list from one pipe
and writes encoded listings to another. Either end may vanish: then the mount lists for itself, or the process ends.
What is damaged, or means something only in the mount's own process, is not handed over: the mount lists it itself.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from guestkit.fuse.directory import Directory
from guestkit.fuse.lister import Lister

_ORDER = struct.Struct("=QQ")  # node, size in bytes or _DROP
_DROP = (1 << 64) - 1
_MOST_ORDERS = 4096 // _ORDER.size  # of one write, which is whole or not at all up to PIPE_BUF
_HEADER = struct.Struct("=QQII")  # node, last cookie, entries, bytes of the records
_LARGE = 1 << 18  # bytes of a directory that the mount lists itself, piece by piece
_MOST_ENTRIES = 8192  # of a directory, likewise
_STEPS = 16  # of the lister, half a millisecond each at most, before it looks for orders
_MOST_KEPT = 1 << 16  # directories that are not handed over
_PIPE = 1 << 16  # bytes of one read
_HELD = 1 << 18  # bytes that a pipe holds
_ENDINGS = (signal.SIGINT, signal.SIGHUP)  # sent to the whole group; the mount's end is what ends the process


class Frame(NamedTuple):
    """The whole of a directory, encoded: `lengths` of the records in bytes; `cookie` of the last."""

    node: int
    cookie: int
    lengths: array[int]
    records: bytes

    def split(self) -> Iterator[bytes]:
        start = 0
        for end in accumulate(self.lengths):
            yield self.records[start:end]
            start = end


class ListerProcess:
    """The mount's end. Has what a Lister has; nothing here waits."""

    busy = False

    def __init__(self, pid: int, orders: int, results: int) -> None:
        self.done: list[Frame] = []
        self.ended = False
        self._pid = pid
        self._orders = orders
        self._results = results
        self._arrived = bytearray()
        os.set_blocking(orders, False)
        os.set_blocking(results, False)

    def want(self, nodes: dict[int, int]) -> None:
        self._order([(node, size) for node, size in reversed(nodes.items()) if size <= _LARGE and node <= _DROP])

    def drop(self, node: int) -> None:
        if node <= _DROP:
            self._order([(node, _DROP)])

    def _order(self, orders: list[tuple[int, int]]) -> None:
        if self.ended:
            return
        try:
            for at in range(0, len(orders), _MOST_ORDERS):
                os.write(self._orders, b"".join([_ORDER.pack(*order) for order in orders[at : at + _MOST_ORDERS]]))
        except BlockingIOError:  # it is behind: what is not ordered is listed when it is asked for
            pass
        except OSError:
            self._leave()

    def step(self) -> bool:
        """Take in what has arrived; False when nothing has."""
        if self.ended:
            return False
        try:
            data = os.read(self._results, _PIPE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._leave()
            return False
        arrived = self._arrived
        arrived += data
        at = 0
        while len(arrived) - at >= _HEADER.size:
            node, cookie, count, size = _HEADER.unpack_from(arrived, at)
            start = at + _HEADER.size + 2 * count
            if len(arrived) < start + size:
                break
            lengths = array("H", bytes(arrived[at + _HEADER.size : start]))
            self.done.append(Frame(node, cookie, lengths, bytes(arrived[start : start + size])))
            at = start + size
        del arrived[:at]
        return True

    def at_once(self, node: int) -> None:
        """Take in all that is there."""
        while self.step():
            pass

    def close(self) -> None:
        """End the process."""
        if not self.ended:
            os.kill(self._pid, signal.SIGKILL)
            self._leave(os.WNOHANG)  # one that waits for a disk ends later than the mount

    def _leave(self, wait: int = 0) -> None:
        self.ended = True
        os.close(self._orders)
        os.close(self._results)
        os.waitpid(self._pid, wait)


def start(
    lister: Callable[[], Lister], damage: Callable[[], int], private: Callable[[], Iterable[int]]
) -> ListerProcess | None:
    """Fork; None where it would not pay or is not safe: with one processor, or with threads that may hold locks.

    `lister` makes what the process uses; `damage` counts what was found damaged; `private`: descriptors that it must
    not keep.
    """
    if len(os.sched_getaffinity(0)) < 2 or len(os.listdir("/proc/self/task")) != 1:
        return None
    theirs, orders = os.pipe()
    results, ours = os.pipe()
    try:
        pid = os.fork()
    except OSError:  # no more processes or no memory: a mount works without
        for fd in (theirs, orders, results, ours):
            os.close(fd)
        return None
    if not pid:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number in _ENDINGS:
                signal.signal(number, signal.SIG_IGN)
            for fd in (orders, results, *private()):
                os.close(fd)
            used = lister()
            used.largest, used.longest = _LARGE, _MOST_ENTRIES
            _work(used, damage, theirs, ours)
        except BrokenPipeError:  # the mount is gone
            pass
        except Exception as error:
            import logging

            log = logging.getLogger("guestkit.fuse")
            log.error("the lister ended: %s: %s (a defect of guestkit)", type(error).__name__, error)
            log.debug("where it happened", exc_info=error)
        finally:
            os._exit(0)
    try:
        fcntl.fcntl(results, fcntl.F_SETPIPE_SZ, _HELD)
    except OSError:  # the user has too many large pipes: the usual size will do
        pass
    os.close(theirs)
    os.close(ours)
    return ListerProcess(pid, orders, results)


def _work(lister: Lister, damage: Callable[[], int], orders: int, results: int) -> None:
    """Do as ordered until the mount is gone."""
    found = damage()
    kept: set[int] = set()  # directories that were met with damage, or together with some: it is counted only once
    waits = blocking = True
    while True:
        if waits != blocking:
            os.set_blocking(orders, waits)
            blocking = waits
        try:
            data = os.read(orders, _PIPE)
            if not data:
                return
            for node, size in _ORDER.iter_unpack(data):
                if size == _DROP:
                    lister.drop(node)
                else:
                    lister.want({node: size})
        except BlockingIOError:
            pass
        for _ in range(_STEPS):
            waits = not lister.step()
            if waits or lister.done:
                break
        if lister.done:
            before, found = found, damage()
            if found != before:
                kept.update([listing.node for listing in lister.done])
                if len(kept) > _MOST_KEPT:  # too much is damaged for this to help: the mount lists for itself
                    return
            for listing in lister.done:
                if listing.node not in kept:
                    _send(results, listing)
            lister.done.clear()


def _send(results: int, listing: Directory) -> None:
    if not listing.ended or not listing.portable:
        return
    records = [record for _, record, _, _ in listing.pending]
    body = b"".join(records)
    header = _HEADER.pack(listing.node, listing.pending[-1][2], len(records), len(body))
    data = memoryview(header + array("H", map(len, records)).tobytes() + body)
    while data:
        data = data[os.write(results, data) :]
