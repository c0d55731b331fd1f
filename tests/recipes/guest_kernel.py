"""Ask another kernel what it shows of images that this one cannot mount: a QEMU guest of busybox and that kernel.

`tree` is where a kernel package was unpacked: boot/vmlinuz-* and lib/modules/*. Needs qemu-system-x86_64, busybox,
cpio and xz; no root, no KVM (52 s for twelve images under emulation). Names with a new line are not understood.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .host import run

MODULES = (
    *("fs/nls/nls_cp437", "fs/nls/nls_ascii", "fs/nls/nls_utf8", "fs/nls/nls_iso8859-1"),
    *("fs/fat/fat", "fs/fat/vfat", "fs/exfat/exfat", "drivers/block/loop"),
)
MOUNTS = {"vfat": "ro,utf8=1,tz=UTC", "exfat": "ro,iocharset=utf8"}
FIELDS = ("mode", "uid", "gid", "nlink", "size", "blocks", "mtime", "atime", "ctime")

_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
$B echo 1 > /proc/sys/kernel/printk
for m in %s; do $B insmod /mod/$m.ko 2>/dev/null; done
$B echo  # behind what the firmware left on the line
while read name kind options; do
  $B losetup /dev/loop0 /images/$name
  $B echo "@IMAGE $name"
  if $B mount -t $kind -o $options /dev/loop0 /m; then
    cd /m
    $B echo "@STATFS $($B stat -f -c '%%S %%b %%f %%a %%l' .)"
    $B find . -exec $B stat -c '@S|%%a|%%u|%%g|%%h|%%s|%%b|%%Y|%%X|%%Z|%%n' {} \\;
    $B find . -type f -exec $B sha256sum {} \\; | $B sed 's/^/@H|/'
    cd /; $B umount /m
  fi
  $B losetup -d /dev/loop0
done < /list
$B poweroff -f
"""


def ask(images: Mapping[str, tuple[Path, str]], tree: Path, work: Path) -> dict[str, dict[str, Any]]:
    """Return {name: {"statvfs": figures, "tree": {path: fields}}} of what the kernel mounts.

    `images`: the packed file and the type of each.
    """
    top = work / "init"
    for name in ("bin", "proc", "sys", "dev", "m", "mod", "images"):
        (top / name).mkdir(parents=True)
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    shutil.copy(busybox, top / "bin" / "busybox")
    for word in run("ldd", busybox, ok=(0, 1)).split():
        if word.startswith("/"):
            target = top / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)
    (modules,) = (tree / "lib" / "modules").glob("*/kernel")
    for name in MODULES:
        shutil.copy(modules / f"{name}.ko", top / "mod")
    lines = []
    for name, (packed, kind) in images.items():
        (top / "images" / name).write_bytes(lzma.decompress(packed.read_bytes()))
        lines.append(f"{name} {kind} {MOUNTS[kind]}\n")
    (top / "list").write_text("".join(lines))
    (top / "init").write_text(_INIT % " ".join(name.rpartition("/")[2] for name in MODULES))
    (top / "init").chmod(0o755)
    archive = work / "initrd.gz"
    subprocess.run(f"find . | cpio -o -H newc 2>/dev/null | gzip -1 > '{archive}'", shell=True, cwd=top, check=True)
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    said = subprocess.run(
        [
            *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1024", "-nographic"),
            *("-no-reboot", "-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1"),
        ],
        capture_output=True,
        check=True,
        timeout=600,
    ).stdout
    return _views(said.decode("utf-8", "surrogateescape").replace("\r", ""))


def _views(said: str) -> dict[str, dict[str, Any]]:
    views: dict[str, dict[str, Any]] = {}
    tree: dict[str, dict[str, Any]] = {}
    name = ""
    for line in said.split("\n"):
        if line.startswith("@IMAGE "):
            tree = {}
            name = line[7:]
        elif line.startswith("@STATFS "):
            size, blocks, free, available, longest = map(int, line.split()[1:])
            figures = {"bsize": size, "blocks": blocks, "bfree": free, "bavail": available, "namemax": longest}
            views[name] = {"statvfs": figures, "tree": tree}
        elif line.startswith("@S|"):
            mode, *numbers, path = line[3:].split("|", len(FIELDS))
            values = [int(mode, 8), *map(int, numbers)]
            tree[path[2:]] = dict(zip(FIELDS, values, strict=True))
            for field in ("mtime", "atime", "ctime"):
                tree[path[2:]][field] *= 10**9
        elif line.startswith("@H|"):
            digest, path = line[3:].split("  ", 1)
            tree[path[2:]]["sha256"] = digest
    return views
