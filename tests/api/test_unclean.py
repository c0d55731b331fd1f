"""A volume that was not closed, or hibernates, is shown as it stands: its state says so, and so does a warning."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guestkit import Guestfs
from guestkit.cli.main import main

DATA = Path(__file__).parent.parent / "data"
IMAGES = {"ntfs/ntfs-hibernated": "hibern", "ntfs/ntfs-dirty": "marked dirty", "fat/exfat-dirty": "in use"}


@pytest.fixture(params=IMAGES)
def unclean(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "image.img"
    path.write_bytes(lzma.decompress((DATA / f"{request.param}.img.xz").read_bytes()))
    return path, IMAGES[request.param]


def test_the_command_warns(unclean: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    path, reason = unclean
    assert main(["ls", str(path), "/"]) == 0
    warnings = capfd.readouterr().err
    assert "warning" in warnings and reason in warnings
    assert warnings.count(reason) == 1
    assert main(["ls", "--strict", str(path), "/"]) == 1


def test_the_class_tells_who_listens(unclean: tuple[Path, str]) -> None:
    path, reason = unclean
    heard: list[bytes] = []
    with Guestfs(environment=False) as g:
        g.set_event_callback(lambda event, handle, text, numbers: heard.append(text), 0x20)
        g.add_drive_opts(str(path), readonly=True, format="raw")
        g.launch()
        g.mount_ro("/dev/sda", "/")
    assert any(reason.encode() in text for text in heard)


@pytest.mark.fuse
def test_a_mount_warns_and_its_documents_say_so(unclean: tuple[Path, str], tmp_path: Path) -> None:
    path, reason = unclean
    point = tmp_path / "mnt"
    point.mkdir()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "guestkit.cli.mount", "--foreground", path, point], stderr=subprocess.PIPE
    )
    try:
        for _ in range(200):
            if os.path.ismount(point):
                break
            time.sleep(0.05)
        assert reason in (point / "inspect" / "filesystems.json").read_text()
    finally:
        subprocess.run(["fusermount3", "-u", point], check=True)
    assert reason.encode() in daemon.communicate(timeout=20)[1]
