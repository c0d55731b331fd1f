"""Ext images that need more than filling: dirty journals, an external journal, encryption, verity."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import trees
from .host import copy_sparse, debugfs, loop_device, loop_mount, run


def needs_recovery(image: Path) -> bool:
    """Whether s_feature_incompat has RECOVER."""
    with image.open("rb") as file:
        file.seek(1024 + 0x60)
        return bool(struct.unpack("<I", file.read(4))[0] & 4)


def fsync(path: Path) -> None:
    """Commit through one file: sync would write the metadata back as well, and leave nothing to replay."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dirty(
    recipe: Any,
    image: Path,
    *,
    act: Callable[[Path], Any],
    options: str = "",
    prepare: Callable[[Path], Any] | None = None,
) -> None:
    """Copy the image while it is mounted, after `act` committed changes that are not written back."""
    from .ext import mkfs

    work = image.with_name(image.name + ".mounted")
    mkfs(recipe, work)
    with loop_mount(work, options="rw,commit=300" + options, kind="ext4") as top:
        (prepare or before)(top)
        run("sync", "-f", top)
        run("sync", "-f", top)
        held = act(top)
        run("sync", work)
        copy_sparse(work, image)
        if held is not None:
            os.close(held)
    work.unlink()
    if not needs_recovery(image):
        raise RuntimeError(f"{recipe.name}: the copy is not dirty")


def before(top: Path) -> None:
    for number in range(12):
        trees.write(top / f"old-{number}", trees.pattern(3000, "old"))
    (top / "old-dir").mkdir()
    for number in range(8):
        trees.write(top / "old-dir" / f"name-{number}", b"")


def changes(top: Path) -> None:
    """Names come, go and move; two commits, with blocks revoked between."""
    for number in range(0, 12, 2):
        (top / f"old-{number}").unlink()
    (top / "old-1").rename(top / "moved")
    trees.write(top / "new-a", trees.pattern(5000, "new"))
    os.setxattr(top / "new-a", "user.new", b"value")
    fsync(top / "new-a")
    for path in sorted((top / "old-dir").iterdir()):
        path.unlink()
    (top / "old-dir").rmdir()
    (top / "new-dir").mkdir()
    for number in range(10):
        trees.write(top / "new-dir" / f"inside-{number}", trees.pattern(100, "in"))
    trees.write(top / "new-b", trees.pattern(20_000, "new"))
    fsync(top / "new-b")
    trees.write(top / "never-committed", b"lost")


def escaped(top: Path) -> None:
    """Journalled data that begins with the journal's own magic number, and must be escaped there."""
    trees.write(top / "escaped", b"\xc0\x3b\x39\x98" + trees.pattern(9000))
    fsync(top / "escaped")
    changes(top)


def orphans(top: Path) -> int:
    """A file that is unlinked and still open, and one that is being shortened."""
    changes(top)
    held = os.open(top / "old-3", os.O_RDWR)
    (top / "old-3").unlink()
    trees.write(top / "after-orphan", b"x")
    fsync(top / "after-orphan")
    return held


def wrapped(top: Path) -> None:
    """Enough commits to go round a journal of 1 MiB."""
    for number in range(900):
        path = trees.write(top / f"turn-{number % 20}", b"%d" % number)
        os.setxattr(path, "user.turn", b"%d" % number)
        fsync(path)
    changes(top)


def small_steps(top: Path) -> None:
    """One fsync for each small change, which fast commits record one by one."""
    for number in range(5):
        path = trees.write(top / f"fast-{number}", trees.pattern(1000 * number + 1, "fast"))
        fsync(path)
    with (top / "old-2").open("ab") as file:
        file.write(trees.pattern(9000, "more"))
    fsync(top / "old-2")
    os.link(top / "old-3", top / "linked")
    fsync(top / "linked")
    (top / "old-4").unlink()
    os.truncate(top / "old-6", 100)
    fsync(top / "old-6")
    (top / "old-5").rename(top / "renamed")
    fsync(top / "renamed")
    trees.write(top / "fast-1", b"rewritten")
    fsync(top / "fast-1")


def make_synthetic(recipe: Any, image: Path, *, checksums: str) -> None:
    """Transactions written by debugfs: a block, its revocation, the block again; and a commit that is missing."""
    from .ext import mkfs

    mkfs(recipe, image)
    with loop_mount(image, options="rw", kind="ext4") as top:
        for number in range(4):
            trees.write(top / f"file-{number}", b"old %d\n" % number)
    blocks = [int(run("debugfs", "-R", f"bmap /file-{n} 0", image).split()[0]) for n in range(4)]
    pages = []
    for number in range(4):
        page = image.with_name(f"{image.name}.page{number}")
        page.write_bytes(trees.pattern(recipe.block, f"new {number}"))
        pages.append(page)
    flags = f"-c -v {checksums}" if checksums else ""
    debugfs(
        image,
        f"jo {flags}",
        f"jw -b {blocks[0]} {pages[0]}",
        f"jw -b {blocks[1]} {pages[1]}",
        f"jw -b {blocks[2]} {pages[2]}",
        f"jw -r {blocks[1]}",
        "jc",
    )
    for page in pages:
        page.unlink()


def dirty(recipe: Any, ext3: str, ext4: str, ext4_new: str) -> list[Any]:
    """The recipes of images whose journal must be replayed."""

    def one(name: str, features: str, act: Any, block: int = 1024, options: str = "", **more: Any) -> Any:
        make = partial(make_dirty, act=act, options=options)
        return recipe(name, features, None, block, 256, more.pop("megabytes", 6), 128, make=make, **more)

    return [
        one("dirty-ext3", ext3, changes),
        one("dirty-ext4", ext4, changes),
        one("dirty-ext4-4k", ext4, changes, 4096, megabytes=10),
        one("dirty-ext4-2023", ext4_new, changes),
        one("dirty-escaped", ext4, escaped, options=",data=journal"),
        one("dirty-escaped-ext3", ext3, escaped, options=",data=journal"),
        one("dirty-orphans", ext4, orphans, free=False),
        one("dirty-orphan-file", ext4_new, orphans, free=False),
        one("dirty-wrapped", ext4, wrapped),
        one("dirty-async-commit", ext4, changes, options=",journal_async_commit,data=writeback"),
        one("dirty-checksum-ext3", ext3, changes, options=",journal_checksum"),
        one("dirty-fast-commit", ext4 + ",fast_commit", small_steps, 4096, megabytes=12, clocked=("",)),
        *(
            recipe(
                f"dirty-synthetic-v{version or 1}",
                ext4 if version else ext3,
                None,
                1024,
                256,
                4,
                64,
                make=partial(make_synthetic, checksums=version),
            )
            for version in ("", "2", "3")
        ),
    ]


def make_external(recipe: Any, image: Path, *, dirty: bool = False) -> None:
    """A filesystem whose journal is on another device, clean or with something to replay."""
    from .ext import mkfs

    journal = image.with_name(image.name + ".journal")
    with journal.open("wb") as file:
        file.truncate(8 << 20)
    run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", journal)
    with loop_device(journal, writable=True) as device:
        import dataclasses

        mkfs(dataclasses.replace(recipe, more=(*recipe.more, "-J", f"device={device}")), image)
        work = image.with_name(image.name + ".mounted")
        copy_sparse(image, work)
        with loop_mount(work, options=f"rw,commit=300,journal_path={device}", kind="ext4") as top:
            before(top)
            if dirty:
                run("sync", "-f", top)
                changes(top)
                run("sync", work)
                copy_sparse(work, image)
        if not dirty:
            copy_sparse(work, image)
        work.unlink()
    journal.unlink()


def make_verity(recipe: Any, image: Path) -> None:
    """A file with the verity flag and something behind its end, as the hash tree is."""
    from .ext import mkfs

    mkfs(recipe, image)
    with loop_mount(image, options="rw", kind="ext4") as top:
        trees.plain(top)
        trees.settle(top)


# encryption: fscrypt's ioctls, see Documentation/filesystems/fscrypt.rst

_ADD_KEY = 0xC0506617
_SET_POLICY = 0x800C6613
KEY = bytes(range(64))


def make_encrypted(recipe: Any, image: Path) -> None:
    """A directory with a v2 policy, filled while the key was there."""
    from .ext import mkfs

    mkfs(recipe, image)
    with loop_mount(image, options="rw", kind="ext4") as top:
        trees.write(top / "open", b"not encrypted\n")
        folder = top / "secret"
        folder.mkdir()
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            request = bytearray(struct.pack("<II32sII32s", 2, 0, b"", len(KEY), 0, b"") + KEY)
            buffer = (ctypes.c_char * len(request)).from_buffer(request)
            fcntl.ioctl(fd, _ADD_KEY, buffer, True)
            identifier = bytes(request[8:24])
            fcntl.ioctl(fd, _SET_POLICY, struct.pack("<BBBBB3s16s", 2, 1, 4, 3, 0, b"", identifier))
        finally:
            os.close(fd)
        trees.write(folder / "file", trees.pattern(5000))
        trees.write(folder / "empty", b"")
        trees.write(folder / ("long name " * 25)[:250], b"long")
        os.symlink("target of the link", folder / "link")
        (folder / "sub").mkdir()
        trees.write(folder / "sub" / "inner", b"inner")
        os.mkfifo(folder / "fifo")
        run("sync", "-f", top)
