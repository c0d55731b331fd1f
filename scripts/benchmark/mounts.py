"""The mounts that are measured beside each other: guestkit's, its peers', and the limit of plain pyfuse3."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
PYTHON = TOP / ".venv" / "bin" / "python"
MOUNT = TOP / ".venv" / "bin" / "guestkit-mount"
DEVICE = "sda"  # the benchmark's images hold a bare filesystem
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

Subject = Callable[[], AbstractContextManager[Path]]


def sh(command: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, "PATH": _PATH}
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not os.path.ismount(path):
        if time.monotonic() > end:
            raise RuntimeError(f"nothing was mounted at {path}")
        time.sleep(0.01)


class Mounts:
    """The ways to mount one image, KIND.raw and KIND.qcow2 of `directory`."""

    def __init__(self, directory: Path, kind: str, dissect: Path | None = None) -> None:
        self.kind = kind
        self.raw, self.qcow2 = directory / f"{kind}.raw", directory / f"{kind}.qcow2"
        self._dissect = dissect
        self._memory: subprocess.Popen[str] | None = None

    def subjects(self, without: set[str]) -> dict[str, Subject]:
        """By name: guestkit, guestkit-plain (pyfuse3's own loop), limit, and what is installed and has the format."""
        found: dict[str, Subject] = {
            "guestkit": self.guestkit,
            "guestkit-plain": lambda: self.guestkit("--plain-loop"),
            "limit": self.limit,
        }
        root = os.geteuid() == 0
        if root and self.kind in _kernel_filesystems():
            found["kernel"] = self.kernel
        if self.kind == "ntfs" and shutil.which("ntfs-3g", path=_PATH):
            found["ntfs-3g"] = self.ntfs_3g
        if root and self.kind == "exfat" and shutil.which("mount.exfat-fuse", path=_PATH):
            found["exfat-fuse"] = self.exfat_fuse
        if root and self.kind == "ext4" and shutil.which("fuse2fs", path=_PATH):
            found["fuse2fs"] = self.fuse2fs
        if shutil.which("guestmount", path=_PATH):
            found["guestmount"] = self.guestmount
        return {name: subject for name, subject in found.items() if name not in without}

    @contextlib.contextmanager
    def guestkit(self, *options: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as point:
            subprocess.run([str(MOUNT), *options, str(self.qcow2), point], check=True)
            try:
                yield Path(point) / "partitions" / DEVICE
            finally:
                subprocess.run(["fusermount3", "-u", point], check=True)

    @contextlib.contextmanager
    def limit(self) -> Iterator[Path]:
        """One process holds the tree, as guestkit shows it, in memory and forks a server for each mount."""
        if self._memory is None:
            with self.guestkit() as root:
                self._memory = subprocess.Popen(
                    [str(PYTHON), str(TOP / "scripts" / "memory-mount"), "--serve", str(root)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                assert self._memory.stdout
                assert self._memory.stdout.readline().strip() == "loaded"
        assert self._memory.stdin and self._memory.stdout
        with tempfile.TemporaryDirectory() as point:
            self._memory.stdin.write(f"{point}\n")
            self._memory.stdin.flush()
            wait_for(Path(point))
            try:
                yield Path(point)
            finally:
                subprocess.run(["fusermount3", "-u", point], check=True)

    @contextlib.contextmanager
    def kernel(self) -> Iterator[Path]:
        """A loop mount, attached and mounted anew."""
        options = {"ext4": "ro,noload", "xfs": "ro,norecovery"}.get(self.kind, "ro")
        with self._loop() as loop, tempfile.TemporaryDirectory() as point:
            sh(f"mount -t {self.kind} -o {options} {loop} {point}")
            try:
                yield Path(point)
            finally:
                sh(f"umount {point}")

    @contextlib.contextmanager
    def ntfs_3g(self) -> Iterator[Path]:
        with self._program(f"ntfs-3g -o ro {self.raw}") as point:
            yield point

    @contextlib.contextmanager
    def exfat_fuse(self) -> Iterator[Path]:
        with self._loop() as loop, self._program(f"mount.exfat-fuse -o ro {loop}") as point:
            yield point

    @contextlib.contextmanager
    def fuse2fs(self) -> Iterator[Path]:
        with self._loop() as loop, self._program(f"fuse2fs -o ro,norecovery {loop}") as point:
            yield point

    @contextlib.contextmanager
    def guestmount(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as point:
            sh(f"guestmount -a {self.qcow2} -m /dev/{DEVICE} --ro {point}")
            try:
                yield Path(point)
            finally:
                sh(f"guestunmount {point}")

    @contextlib.contextmanager
    def dissect(self) -> Iterator[Path]:
        assert self._dissect
        with tempfile.TemporaryDirectory() as point:
            server = subprocess.Popen(
                [str(self._dissect.parent / "target-mount"), "-q", str(self.qcow2), point],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                wait_for(Path(point))
                yield Path(point) / "fs"
            finally:
                sh(f"fusermount3 -u {point} || fusermount -u {point} || true")
                server.wait(30)

    @contextlib.contextmanager
    def _loop(self) -> Iterator[str]:
        loop = sh(f"losetup --find --show --read-only {self.raw}").strip()
        try:
            yield loop
        finally:
            sh(f"losetup --detach {loop}")

    @contextlib.contextmanager
    def _program(self, command: str) -> Iterator[Path]:
        """A FUSE filesystem that goes into the background when it is mounted."""
        with tempfile.TemporaryDirectory() as point:
            sh(f"{command} {point}")
            wait_for(Path(point))
            try:
                yield Path(point)
            finally:
                sh(f"umount {point} || fusermount3 -u {point} || fusermount -u {point}")
                time.sleep(0.5)  # the daemon lets go of its device a little later

    def close(self) -> None:
        if self._memory is not None:
            self._memory.send_signal(signal.SIGTERM)
            self._memory.wait()
            self._memory = None


def _kernel_filesystems() -> set[str]:
    """Those that the kernel can mount, as modules too."""
    for kind in ("ext4", "xfs", "btrfs", "vfat", "exfat") if shutil.which("modprobe", path=_PATH) else ():
        subprocess.run(["modprobe", "-q", kind], check=False, capture_output=True, env={**os.environ, "PATH": _PATH})
    return {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
