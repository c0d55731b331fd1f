"""Make linux.qcow2: an MBR disk of 1 GiB with one bootable ext4 partition from sector 2048.

Needs sfdisk, mke2fs and qemu-img; no root. Made with e2fsprogs 1.47.0, util-linux 2.38.1, qemu-img 7.2.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

START = 2048 * 512
SIZE = 1 << 30
FILES = {
    "boot/grub2/grub.cfg": "set timeout=5\nmenuentry 'Linux' {\n  linux /vmlinuz root=/dev/vda1\n}\n",
    "etc/fstab": "/dev/vda1 / ext4 defaults 1 1\n",
    "etc/hostname": "test-linux\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/test-marker": "guestkit test image\n",
    "etc/sysconfig/network-scripts/ifcfg-eth0": "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\n",
    "etc/sysconfig/network-scripts/ifcfg-eth1": "DEVICE=eth1\nBOOTPROTO=static\nIPADDR=192.168.1.10\n",
    "data/empty": "",
    "data/lines": "".join(f"line {number}\n" for number in range(1, 31)),
    "data/crlf": "one\r\ntwo\r\n",
    "data/nul": "before\0after",
    "data/sub/deep/leaf": "leaf\n",
    "data/UPPER": "upper\n",
}


def make(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        for name, text in FILES.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        (tree / "data/latin1").write_bytes(b"caf\xe9\n")
        (tree / "data/lines.gz").write_bytes(gzip.compress(FILES["data/lines"].encode(), mtime=0))
        (tree / "data/link").symlink_to("lines")
        (tree / "data/absolute").symlink_to("/etc/hosts")
        (tree / "data/dangling").symlink_to("nowhere")
        (tree / "data/loop").symlink_to("loop")
        (tree / "data/dirlink").symlink_to("sub")
        (tree / "data/hard").hardlink_to(tree / "data/lines")
        os.mkfifo(tree / "data/fifo")
        (tree / "odd").mkdir()
        Path(os.fsdecode(os.fsencode(tree) + b"/odd/bad\xff")).write_text("x")
        with open(tree / "data/sparse", "wb") as sparse:
            sparse.seek(8 << 20)
            sparse.write(b"end")
        raw = Path(scratch, "raw")
        with open(raw, "wb") as disk:
            disk.truncate(SIZE)
        table = "label: dos\nlabel-id: 0x12345678\nstart=2048, type=83, bootable\n"
        subprocess.run(["sfdisk", "-q", raw], input=table, text=True, check=True)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", "rootfs", "-U", "11111111-2222-3333-4444-555555555555"]
            + ["-E", f"offset={START},hash_seed=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee,lazy_itable_init=1,root_owner=0:0"]
            + ["-J", "size=4", "-d", tree, raw, f"{(SIZE - START) >> 10}k"],
            check=True,
            env={**os.environ, "E2FSPROGS_FAKE_TIME": "1700000000"},
        )
        subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", raw, target], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "linux.qcow2"))
