"""What a user of a mount does: client.py ROW PATH, in a process of its own, prints the seconds that it took."""

from __future__ import annotations

import os
import random
import sys
import time

# of the rows that are commands all is timed; those that run this file say themselves what counts
ROWS = {
    "walk": "find {root}/ -printf '%i %m %U %G %s %T@ %p\\n' | wc -l",
    "tar": "tar -C {root} -cf - usr | cat >/dev/null",
    "sequential": "dd if={root}/bench/noise of=/dev/null bs=1M status=none",
    "random": "exec {python} {client} random {root}/bench/noise",
    "small": "exec {python} {client} small {root}/bench/small",
}
UNITS = {"walk": "inodes/s", "tar": "MB/s", "sequential": "MB/s", "random": "reads/s", "small": "files/s"}
RANDOM_READS = 20_000


def random_offsets(size: int) -> list[int]:
    chooser = random.Random(4096)
    return [chooser.randrange(size // 4096) * 4096 for _ in range(RANDOM_READS)]


def main() -> None:
    row, path = sys.argv[1:]
    if row == "random":
        fd = os.open(path, os.O_RDONLY)
        offsets = random_offsets(os.fstat(fd).st_size)
        start = time.perf_counter()
        for offset in offsets:
            os.pread(fd, 4096, offset)
    else:
        names = [entry.path for entry in os.scandir(path)]
        start = time.perf_counter()
        for name in names:
            fd = os.open(name, os.O_RDONLY)
            while os.read(fd, 65536):
                pass
            os.close(fd)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
