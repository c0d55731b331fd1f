"""A mount in a process of its own, as the command line makes it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from guestkit.fuse import MountOptions, serve
from guestkit.namespace import MountTable, Namespace


class Mounted:
    """A serving process and the directory that it serves."""

    def __init__(self, namespace: Namespace, at: Path, options: MountOptions, plain_loop: bool) -> None:
        self.at = at
        self.log = at.parent / f"{at.name}.log"
        receive, send = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                root = logging.getLogger()
                root.handlers = [logging.StreamHandler(os.fdopen(2, "w"))]
                serve(
                    namespace,
                    str(at),
                    options,
                    lambda: os.write(send, b"\0") and None,
                    command_line=True,
                    plain_loop=plain_loop,
                )
                status = 0
            finally:
                os._exit(status)
        os.close(send)
        ready = os.read(receive, 1)
        os.close(receive)
        assert ready, self.log.read_text()

    def end(self, number: int = signal.SIGTERM, seconds: float = 2.0) -> int:
        """Send a signal and return the exit status, negative for a signal; it must come within `seconds`."""
        os.kill(self.pid, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise AssertionError(f"still there {seconds} s after signal {number}")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


Serve = Callable[..., Mounted]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Serve]:
    """mounted(fs) serves a FileSystem or a Namespace at a fresh directory."""
    started: list[Mounted] = []

    def start(fs: object, *, at: Path | None = None, plain_loop: bool = False, **options: object) -> Mounted:
        if isinstance(fs, MountTable):
            namespace = fs
        else:
            namespace = MountTable()
            namespace.mount(fs)  # type: ignore[arg-type]
        place = at or tmp_path / f"mnt{len(started)}"
        if place not in (mount.at for mount in started):
            place.mkdir()
        mount = Mounted(namespace, place, MountOptions(**options), plain_loop)  # type: ignore[arg-type]
        started.append(mount)
        return mount

    yield start
    for mount in started:
        if mount.pid:
            os.kill(mount.pid, signal.SIGKILL)
            os.waitpid(mount.pid, 0)
        subprocess.run(["fusermount3", "-u", "-z", "-q", str(mount.at)], check=False, stderr=subprocess.DEVNULL)
