"""Programs and loop mounts of the host, for making images and for asking the kernel. Needs root for mounts."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILT = 1_700_000_000  # 2023-11-14 22:13:20 UTC: what the programs take for now, where they can be told


def run(*command: str | os.PathLike[str], input: str | None = None, ok: tuple[int, ...] = (0,)) -> str:
    """Run a program and return what it printed; raise with its messages when it fails."""
    words = [os.fspath(part) for part in command]
    env = dict(os.environ, TZ="UTC", LC_ALL="C", E2FSPROGS_FAKE_TIME=str(BUILT), SOURCE_DATE_EPOCH=str(BUILT))
    env["PATH"] = env.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run(words, input=input, env=env, text=True, capture_output=True, errors="replace")
    if done.returncode not in ok:
        raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


@contextmanager
def loop_mount(
    image: str | os.PathLike[str],
    *,
    options: str = "ro",
    kind: str = "",
    offset: int = 0,
    size: int = 0,
) -> Iterator[Path]:
    """Mount a raw image, or `size` bytes of it at `offset`, and unmount it in the end."""
    words = ["loop", *options.split(",")]
    if offset or size:
        words += [f"offset={offset}", f"sizelimit={size}"]
    with mounted(image, options=",".join(words), kind=kind) as top:
        yield top


@contextmanager
def mounted(device: str | os.PathLike[str], *, options: str = "rw", kind: str = "") -> Iterator[Path]:
    """Mount a block device, and unmount it in the end."""
    with tempfile.TemporaryDirectory(prefix="guestkit-mnt-") as name:
        top = Path(name) / "m"
        top.mkdir()
        run("mount", *(("-t", kind) if kind else ()), "-o", options, device, top)
        try:
            yield top
        finally:
            run("umount", top)


@contextmanager
def loop_device(image: str | os.PathLike[str], *, writable: bool = False) -> Iterator[str]:
    """Attach a raw image to a loop device, and detach it in the end."""
    name = run("losetup", "-f", "--show", *(() if writable else ("-r",)), image).strip()
    try:
        yield name
    finally:
        run("losetup", "-d", name)


def copy_sparse(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    run("cp", "--sparse=always", source, target)


def debugfs(image: str | os.PathLike[str], *requests: str) -> str:
    """Run debugfs requests on an image, writing. Raises when one of them complains."""
    said = run("debugfs", "-w", "-f", "/dev/stdin", image, input="\n".join(requests) + "\n")
    for line in said.splitlines():
        if line.strip() and not line.startswith(
            ("debugfs", "Allocated inode:", "Creating", "Journal", "Setting csum", "Filesystem features:")
        ):
            raise RuntimeError(f"debugfs {image}: {line}")
    return said


def versions() -> dict[str, str]:
    """The oracle's identity, for a manifest."""
    tools = run("mke2fs", "-V").split()[1]
    return {"kernel": os.uname().release, "e2fsprogs": tools}
