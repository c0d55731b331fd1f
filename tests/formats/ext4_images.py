"""Small ext images made on the spot by mke2fs, and a source that counts what is read from it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from guestkit.fs.ext4 import open as open_ext4
from guestkit.fs.ext4.filesystem import Ext4
from guestkit.limits import Limits
from guestkit.source import BytesSource

MKE2FS = "/usr/sbin/mke2fs"
DEBUGFS = "/usr/sbin/debugfs"


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout


def make(path: Path, size: str, *options: str, tree: Path | None = None) -> Path:
    """An image of `size` with the files below `tree`."""
    run("truncate", "-s", size, str(path))
    run(MKE2FS, "-q", "-F", *options, *(("-d", str(tree)) if tree else ()), str(path))
    return path


def debugfs(image: Path, *requests: str) -> str:
    commands = image.with_suffix(".cmd")
    commands.write_text("\n".join(requests) + "\n")
    return run(DEBUGFS, "-w", "-f", str(commands), str(image))


class Counted(BytesSource):
    """Bytes in memory that remember each read as (offset, length)."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.reads.append((offset, len(buf)))
        super().read_into(offset, buf)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return super().read(offset, length)

    def blocks(self, block_size: int) -> list[int]:
        """Each block read, as often as it was."""
        found = []
        for offset, length in self.reads:
            found += range(offset // block_size, -(-(offset + length) // block_size))
        return found


def reader(image: Path | bytes | BytesSource, options: Mapping[str, str] | None = None) -> Ext4:
    """Open an image that lies in memory."""
    if isinstance(image, Path):
        image = image.read_bytes()
    source = BytesSource(image) if isinstance(image, bytes) else image
    return open_ext4([source], Limits(decode_threads=0), options or {})


def path(fs: Ext4, *names: bytes) -> int:
    """The inode at a path."""
    ino = fs.root
    for name in names:
        ino = fs.lookup(ino, name)
    return ino


def content(fs: Ext4, *names: bytes) -> bytes:
    source = fs.open(path(fs, *names))
    return source.read(0, source.size)
