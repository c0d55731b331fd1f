"""Have another kernel fill XFS images that this one cannot mount, and tell what it shows: a QEMU guest on 9p.

`tree` is where a kernel package was unpacked: boot/vmlinuz-* and lib/modules/*. Needs root, qemu-system-x86_64, busybox
and cpio; no KVM. The guest sees the host's root read-only under a layer of its own, so that the same recipes run there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

MODULES = (
    *("drivers/virtio/virtio", "drivers/virtio/virtio_ring", "drivers/virtio/virtio_pci_modern_dev"),
    *("drivers/virtio/virtio_pci_legacy_dev", "drivers/virtio/virtio_pci", "net/9p/9pnet", "net/9p/9pnet_virtio"),
    *("fs/netfs/netfs", "fs/fscache/fscache", "fs/9p/9p", "fs/overlayfs/overlay", "drivers/block/loop"),
    *("crypto/crc32c_generic", "lib/libcrc32c", "fs/xfs/xfs"),
)
_TESTS = Path(__file__).resolve().parent.parent

_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
for m in %s; do $B insmod /mod/$m.ko; done
O=trans=virtio,version=9p2000.L,msize=262144
$B mount -t 9p -o ro,$O root /low
$B mount -t tmpfs t /up; $B mkdir /up/u /up/w
$B mount -t overlay -o lowerdir=/low,upperdir=/up/u,workdir=/up/w o /m
$B mount -t 9p -o $O job /m/mnt
$B mount -t proc p /m/proc; $B mount -t devtmpfs d /m/dev; $B mount -t tmpfs t /m/tmp
$B mkdir -p /m/dev/shm; $B date -s @%d
PATH=/usr/sbin:/usr/bin:/sbin:/bin $B chroot /m %s %s /mnt > /m/mnt/output 2>&1
$B sync; $B poweroff -f
"""


def ask(
    names: Sequence[str], images: Path, tree: Path, work: Path, program: Path = Path(__file__)
) -> dict[str, dict[str, Any]]:
    """Fill the empty filesystems `images`/NAME.img as their recipes say. Returns {name: what the guest tells of it}.

    `program`: what does that in the guest.
    """
    top, job = work / "init", work / "job"
    for name in ("bin", "proc", "sys", "dev", "m", "mod", "low", "up"):
        (top / name).mkdir(parents=True)
    job.mkdir()
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    shutil.copy(busybox, top / "bin" / "busybox")
    found = subprocess.run(["ldd", busybox], capture_output=True, text=True).stdout
    for word in found.split():
        if word.startswith("/"):
            target = top / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)
    (modules,) = (tree / "lib" / "modules").glob("*/kernel")
    for name in MODULES:
        shutil.copy(modules / f"{name}.ko", top / "mod")
    for path in images.iterdir():
        shutil.copy(path, job)
    (job / "list.json").write_text(json.dumps(list(names)))
    python = os.path.realpath(sys.executable)
    order = " ".join(name.rpartition("/")[2] for name in MODULES)
    (top / "init").write_text(_INIT % (order, int(time.time()), python, program.resolve()))
    (top / "init").chmod(0o755)
    archive = work / "initrd.gz"
    subprocess.run(f"find . | cpio -o -H newc 2>/dev/null | gzip -1 > '{archive}'", shell=True, cwd=top, check=True)
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    shares = []
    for tag, path, more in (("root", "/", ",readonly=on"), ("job", job, "")):
        shares += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}"]
    said = subprocess.run(
        [
            *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "2048", "-nographic"),
            *("-no-reboot", "-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1"),
            *shares,
        ],
        capture_output=True,
        timeout=900,
    ).stdout
    told = {}
    for name in names:
        path = job / f"{name}.json"
        if not path.exists():
            output = (job / "output").read_text() if (job / "output").exists() else said.decode(errors="replace")
            raise RuntimeError(f"{name}: the guest did not fill it: {output[-2000:]}")
        told[name] = json.loads(path.read_text())
        shutil.copy(job / f"{name}.img", images)
    return told


def inside(job: Path) -> None:
    """What runs in the guest: fill each image, and write down what its kernel shows."""
    sys.path[:0] = [str(_TESTS)]
    import manifest

    from recipes import trees, xfs
    from recipes.host import loop_device, mounted

    recipes = {recipe.name: recipe for recipe in xfs.recipes()}
    for name in json.loads((job / "list.json").read_text()):
        recipe = recipes[name]
        image = Path("/tmp") / f"{name}.img"
        with ExitStack() as stack:
            shutil.copy(job / image.name, image)
            device = stack.enter_context(loop_device(image, writable=True))
            more = ""
            if recipe.realtime:
                second = xfs.realtime_device(image)
                shutil.copy(job / second.name, second)
                more = f",rtdev={stack.enter_context(loop_device(second, writable=True))}"
            with mounted(device, options="rw" + more, kind="xfs") as top:
                assert recipe.fill is not None
                recipe.fill(top)
                trees.settle(top)
            with mounted(device, options="ro,norecovery" + more, kind="xfs") as top:
                told = {"kernel": os.uname().release, "statvfs": manifest.host_statvfs(top)}
                told["tree"] = manifest.from_directory(top)
        for path, entry in told["tree"].items():
            if path.startswith("realtime-"):
                del entry["sha256"]
                entry["error"] = "ENOTSUP"
        shutil.copy(image, job / f"{name}.img")
        (job / f"{name}.json").write_text(json.dumps(told))
        image.unlink()


if __name__ == "__main__":
    inside(Path(sys.argv[1]))
