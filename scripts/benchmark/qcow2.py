"""Reads a compressed qcow2 whole: qcow2.py IMAGE prints MB/s with no thread, with two, and of the library alone."""

from __future__ import annotations

import sys
import time
import zlib
from typing import Any

from guestkit.guest import Guest
from guestkit.limits import Limits

CLUSTER = 65536
LIBRARY = 64 << 20  # bytes of it that the library is given


def main() -> None:
    rates = []
    for threads in (0, 2):
        disk = Guest(limits=Limits(decode_threads=threads)).add(sys.argv[1]).open()
        start = time.perf_counter()
        for offset in range(0, disk.size, 1 << 20):
            disk.read(offset, min(1 << 20, disk.size - offset))
        rates.append(disk.size / (time.perf_counter() - start) / 1e6)
    expand: Any = zlib.decompress
    try:
        from isal.isal_zlib import decompress as expand
    except ImportError:
        pass
    data = disk.read(0, min(disk.size, LIBRARY))
    packed = []
    for offset in range(0, len(data), CLUSTER):
        tool = zlib.compressobj(6, zlib.DEFLATED, -12)
        packed.append(tool.compress(data[offset : offset + CLUSTER]) + tool.flush())
    start = time.perf_counter()
    for blob in packed:
        expand(blob, -12, CLUSTER)
    print(*rates, len(data) / (time.perf_counter() - start) / 1e6)


main()
