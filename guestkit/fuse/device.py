"""Which descriptors of this process are /dev/fuse: pyfuse3 opens one and tells nobody."""

from __future__ import annotations

import os


def opened() -> set[int]:
    """The descriptors of this process that are /dev/fuse."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
        except OSError:  # the one that lists the directory is gone again
            continue
    return found


def descriptor(before: set[int]) -> int:
    """The descriptor of /dev/fuse that is open and was not among `before`, or -1 when that is not one."""
    new = list(opened() - before)
    return new[0] if len(new) == 1 else -1
