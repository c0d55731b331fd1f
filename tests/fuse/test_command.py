"""guestkit-mount, guestkit-umount and mount.fuse.guestkit as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestkit.cli import mount as command

pytestmark = pytest.mark.fuse


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of the programs, wherever it is installed."""
    line = [sys.executable, "-m", f"guestkit.cli.{program}", *(str(argument) for argument in arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def image(tmp_path: Path, tools_path: None) -> Path:
    top = tmp_path / "top"
    (top / "directory").mkdir(parents=True)
    (top / "directory" / "file").write_bytes(b"content")
    (top / "link").symlink_to("/directory/file")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "label", "-d", top, path], check=True)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    at = tmp_path / "mnt"
    at.mkdir()
    yield at
    subprocess.run(["fusermount3", "-u", "-z", "-q", str(at)], check=False, stderr=subprocess.DEVNULL)


def gone(pid: int) -> bool:
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.tool("mke2fs")
def test_it_returns_when_the_mount_answers_and_unmounts(image, place, tmp_path):
    done = run("mount", "--pid-file", tmp_path / "pid", image, place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place / "partitions/sda/link").read_bytes() == b"content"
    assert (place / "by-label/label/directory/file").read_bytes() == b"content"
    assert (place / "disks/sda").stat().st_size == 8 << 20
    pid = int((tmp_path / "pid").read_text())
    done = run("umount", place)
    assert (done.returncode, done.stderr) == (0, "")
    assert gone(pid)
    assert not (tmp_path / "pid").exists()
    assert "is not mounted" in run("umount", place).stderr


@pytest.mark.tool("mke2fs")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_in_the_foreground(image, place, number):
    process = subprocess.Popen([sys.executable, "-m", "guestkit.cli.mount", "-f", "-m", "/dev/sda", image, place])
    for _ in range(500):
        if os.path.ismount(place):
            break
        time.sleep(0.01)
    assert (place / "directory/file").read_bytes() == b"content"
    process.send_signal(number)
    assert process.wait(2) == 0
    assert not os.path.ismount(place)


@pytest.mark.tool("mke2fs")
def test_a_killed_mount_is_replaced_and_a_living_one_is_not(image, place, tmp_path):
    for _ in range(2):
        assert run("mount", "--pid-file", tmp_path / "pid", image, place).returncode == 0
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        with pytest.raises(OSError):
            os.listdir(place)
    assert run("mount", image, place).returncode == 0
    again = run("mount", image, place)
    assert again.returncode == 1
    assert "mounted there already" in again.stderr
    assert run("umount", place).returncode == 0


@pytest.mark.tool("mke2fs")
@pytest.mark.root
def test_the_helper_serves_fstab(image, place):
    done = run("mount_helper", image, place, "-o", "rw,partition=sda", "-v")
    assert done.returncode == 1
    done = run("mount_helper", image, place, "-o", "ro,noauto,nofail,partition=sda,links=raw,fsname=guest", "-s")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.readlink(place / "link") == "/directory/file"
    assert any(
        line.startswith(f"guest {place} fuse.guestkit ro") for line in Path("/proc/mounts").read_text().splitlines()
    )
    assert run("mount_helper", "/nowhere/image", place, "-o", "ro").returncode == 32


def lines(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.tool("mke2fs")
def test_mount_points_that_do_not_serve(image, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"")
    for place, words in (("none", "does not exist"), ("disk.img", "not a directory"), ("full", "not empty")):
        done = run("mount", image, tmp_path / place)
        assert done.returncode == 1
        assert words in lines(done)
    done = run("mount", "-o", "nonempty", image, tmp_path / "full")
    assert done.returncode == 0, done.stderr
    assert run("umount", tmp_path / "full").returncode == 0


def test_images_that_do_not_serve(tmp_path, place):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"no disk image" * 1000)
    for name in ("none", "mnt", "empty", "text", "odd\x1b[31mname"):
        done = run("mount", tmp_path / name, place)
        assert done.returncode == 1
        assert "\x1b" not in lines(done)
        assert not os.path.ismount(place)


def test_any_file_is_shown_when_its_format_is_given(tmp_path, place):
    (tmp_path / "text").write_bytes(b"no disk image" * 1000)
    assert run("mount", "--format", "raw", tmp_path / "text", place).returncode == 0
    assert (place / "disks/sda").read_bytes().rstrip(b"\0") == b"no disk image" * 1000  # to the next sector
    assert run("umount", place).returncode == 0


def test_usage_errors():
    for arguments in ([], ["image"], ["--nonsense", "a", "b"], ["-o", "rw", "a", "b"], ["-o", "uid=x", "a", "b"]):
        done = run("mount", *arguments)
        assert done.returncode == 2
        lines(done)
    done = run("mount", "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert run("mount", "--version").stdout.startswith("guestkit-mount 0")


def test_without_pyfuse3_it_says_what_to_install(tmp_path, place):
    (tmp_path / "pyfuse3.py").write_text("raise ModuleNotFoundError('no', name='pyfuse3')")
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    line = [sys.executable, "-m", "guestkit.cli.mount", "--format", "raw", str(image), str(place)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment, timeout=30)
    assert done.returncode == 1
    assert "guestkit[mount]" in lines(done)


def test_the_command_line_is_read_as_guestmounts():
    given = ["-a", "a.img", "--add", "b.img", "-m", "/dev/sda1:/:noload", "-m", "sdb1:/home", "--ro", "-v", "place"]
    parsed = command.parse(given)
    assert parsed.images == ["a.img", "b.img"]
    assert parsed.points == [("/dev/sda1", "/", "noload"), ("sdb1", "/home", "")]
    assert parsed.mountpoint == "place"
    parsed = command.parse(["-o", "allow_other,umask=022,uid=5,noload,links=raw", "a", "b", "--partition", "sda2"])
    assert parsed.mount_options == {"allow_other": True, "umask": 0o22, "uid": 5, "raw_links": True}
    assert parsed.filesystem_options == {"noload": ""}
    assert parsed.points == [("sda2", "/", "")]
    assert command.parse(["a", "b"]).mount_options == {}
