"""Compare what guestkit reads with what another reader shows: the kernel's mount, or any tree already mounted.

Knows no format. Owns the oracle's mount (a recovered copy for a dirty filesystem) and guestkit's own mount.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import manifest
from recipes.host import copy_sparse, loop_mount, run


def raw_copy(image: Path, work: Path) -> Path:
    """The image itself when it is raw, else a raw copy by qemu-img in `work`."""
    told = json.loads(run("qemu-img", "info", "--output=json", image))
    if told["format"] == "raw":
        return image
    copy = work / "raw"
    run("qemu-img", "convert", "-O", "raw", image, copy)
    return copy


def partition(image: Path, number: int) -> tuple[int, int]:
    """(offset, size) in bytes of a partition, as sfdisk reads the table."""
    table = json.loads(run("sfdisk", "-J", image))["partitiontable"]
    sector = table.get("sectorsize", 512)
    for entry in table["partitions"]:
        if entry["node"].endswith((f"{image.name}{number}", f"{image.name}p{number}")):
            return entry["start"] * sector, entry["size"] * sector
    raise RuntimeError(f"{image} has no partition {number}")


@contextmanager
def kernel_tree(
    image: Path,
    device: str = "/dev/sda",
    *,
    options: str = "",
    recover: bool = True,
    members: Sequence[Path] | None = None,
) -> Iterator[Path]:
    """Mount what stands on `device` of the image by the kernel, read-only.

    recover: a copy is mounted for writing first, so that the kernel replays a journal. Without it `options` should
    say noload or norecovery. `members`: the further devices of a Btrfs, each a whole image.
    """
    with ExitStack() as stack:
        if members is not None:
            with_members = _btrfs_tree([image, *members], options=options, recover=recover)
            yield stack.enter_context(with_members)
            return
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guestkit-compare-", dir="/var/tmp")))
        shown = raw_copy(image, work)
        number = device.rstrip("/").lstrip("/devsabchx")
        offset, size = partition(shown, int(number)) if number else (0, 0)
        if recover:
            copy = work / "copy"
            part = ("skip=" + str(offset), "count=" + str(size), "iflag=skip_bytes,count_bytes") if number else ()
            run("dd", f"if={shown}", f"of={copy}", "bs=1M", "conv=sparse", "status=none", *part)
            os.truncate(copy, size or shown.stat().st_size)
            shown, offset, size = copy, 0, 0
            with loop_mount(shown, options="rw"):
                pass
        mount = loop_mount(shown, options=",".join(filter(None, ("ro", options))), offset=offset, size=size)
        yield stack.enter_context(mount)


@contextmanager
def _btrfs_tree(images: Sequence[Path], *, options: str, recover: bool) -> Iterator[Path]:
    """Mount the filesystem on the devices' images, by their copies where it has to be recovered."""
    from recipes.btrfs import kernel_mount

    with tempfile.TemporaryDirectory(prefix="guestkit-compare-", dir="/var/tmp") as work:
        shown = [raw_copy(image, Path(work)) for image in images]
        if recover:
            copies = [Path(work) / f"copy{number}" for number in range(len(shown))]
            for image, copy in zip(shown, copies, strict=True):
                copy_sparse(image, copy)
            shown = copies
        with kernel_mount(shown, options=",".join(filter(None, ("ro", options)))) as top:
            yield top


@contextmanager
def guestkit_mount(
    image: Path, device: str = "/dev/sda", *, options: str = "", members: Sequence[Path] = ()
) -> Iterator[Path]:
    """Mount the image by guestkit-mount, links as the guest has them."""
    repository = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="guestkit-fuse-") as name:
        top = Path(name) / "m"
        top.mkdir()
        given = ",".join(filter(None, ("links=raw", options)))
        start = "import sys; from guestkit.cli.mount import main; sys.exit(main())"
        command = [sys.executable, "-c", start, "-m", device, "-o", given, str(image)]
        command += [*map(str, members), str(top)]
        env = dict(os.environ, PYTHONPATH=str(repository))
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"guestkit-mount: {done.stderr}")
        try:
            yield top
        finally:
            for attempt in range(20):
                if not subprocess.run(["fusermount3", "-u", top], capture_output=True).returncode:
                    break
                time.sleep(0.05 * attempt)
            else:
                subprocess.run(["fusermount3", "-uz", top], check=True)


def api_differences(
    fs: Any, wanted: manifest.Tree, figures: dict[str, int], *, ignore: Iterable[str] = ()
) -> Iterator[str]:
    """Yield a line for whatever `fs`, a FileSystem, tells otherwise than the oracle's tree and statvfs figures.

    Also where its own ways of finding the same thing disagree.
    """
    tree = manifest.from_filesystem(fs)
    yield from manifest.differences(wanted, tree, ignore=ignore)
    yield from manifest.figure_differences(figures, manifest.api_statvfs(fs))
    yield from manifest.index_differences(fs, tree)
    yield from manifest.content_differences(fs, tree)


def mount_differences(
    mounted: Path,
    top: Path,
    wanted: manifest.Tree,
    figures: dict[str, int],
    *,
    ignore: Iterable[str] = (),
    bits: int = 52,
) -> Iterator[str]:
    """Yield a line for whatever guestkit's mount at `mounted` shows otherwise than the oracle's tree at `top`.

    The mount's inode numbers hold the mount index above the guest's number, the root's is always 1, and FUSE knows no
    creation times. `bits`: how many of them are the guest's; what is above 2^63 has no number of its own.
    """
    tree = manifest.from_directory(mounted, holes_of=top)
    for entry in tree.values():
        if "ino" in entry:
            entry["ino"] = entry["ino"] & (1 << bits) - 1 if entry["ino"] < 1 << 63 else 2
    if "ino" in wanted[""]:
        tree[""]["ino"] = wanted[""]["ino"]
    yield from manifest.differences(wanted, tree, ignore={"btime", *ignore})
    yield from manifest.figure_differences(figures, manifest.host_statvfs(mounted))
