"""The images of tests/data/ext4-journal: their bytes, the kernel's view of them and guestkit's."""

from __future__ import annotations

import hashlib
import json
import lzma
import stat
from functools import cache
from pathlib import Path
from typing import Any

from guestkit.fs import ext4
from guestkit.limits import Limits
from guestkit.source import Source

DATA = Path(__file__).parent / "data" / "ext4-journal"

Tree = dict[str, list[Any]]


@cache
def image(name: str) -> bytes:
    return lzma.decompress((DATA / f"{name}.img.xz").read_bytes())


@cache
def kernel_view(name: str) -> Tree:
    """What the kernel showed after mounting a copy."""
    found: Tree = json.loads(lzma.decompress((DATA / f"{name}.json.xz").read_bytes()))
    return found


def view(source: Source, **options: str) -> tuple[ext4.Ext4, Tree]:
    fs = ext4.open([source], Limits(), options)
    found: Tree = {}
    for path, ino, status in [(b".", fs.root, fs.stat(fs.root)), *fs.walk()]:
        if status is None:
            found[path.decode("latin-1")] = ["damaged"]
            continue
        attributes, content = {}, ""
        if not stat.S_ISLNK(status.mode):
            attributes = {name.decode(): fs.xattr(ino, name).hex() for name in sorted(fs.xattr_names(ino))}
        if stat.S_ISREG(status.mode):
            file = fs.open(ino)
            content = hashlib.sha256(file.read(0, file.size)).hexdigest()
        elif stat.S_ISLNK(status.mode):
            content = fs.readlink(ino).target.decode("latin-1")
        size = 0 if stat.S_ISDIR(status.mode) else status.size
        found[path.decode("latin-1")] = [
            *(status.mode, status.uid, status.gid, status.nlink, size, status.mtime_ns),
            attributes,
            content,
        ]
    return fs, found
