"""Named streams of NTFS as name:stream: in the namespace, the Guestfs class and the command line; ntfs-3g agrees."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import memoryfs
import pytest

from guestkit import Guestfs
from guestkit.cli.main import main
from guestkit.errors import InvalidArgument, NoAttribute, NotADirectory, NotFound
from guestkit.fs.ntfs import open as open_ntfs
from guestkit.guestfs.errors import GuestfsError
from guestkit.limits import Limits
from guestkit.namespace import MountTable, split_node, stream_node, stream_of
from guestkit.source import BytesSource

DATA = Path(__file__).parent.parent / "data" / "ntfs"
ZONE = "/streams:Zone.Identifier"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "ntfs.img"
    path.write_bytes(lzma.decompress((DATA / "ntfs.img.xz").read_bytes()))
    return path


@pytest.fixture(scope="module")
def g(image: Path) -> Iterator[Guestfs]:
    with Guestfs(environment=False) as handle:
        handle.add_drive_opts(str(image), readonly=True, format="raw")
        handle.launch()
        handle.mount_ro("/dev/sda", "/")
        yield handle


@pytest.fixture(scope="module")
def table(image: Path) -> MountTable:
    found = MountTable()
    found.mount(open_ntfs([BytesSource(image.read_bytes())], Limits(), {}))
    return found


@pytest.mark.parametrize("node", [0, 1, (1 << 52) - 1, 5 << 52 | 77, 1 << 128 | 3 << 64 | 1 << 60])
@pytest.mark.parametrize("stream", [b"a", b"Zone.Identifier", "\u00e9\ufeff".encode(), b"\xed\xa0\x80", b"x" * 765])
def test_a_node_holds_its_stream(node: int, stream: bytes) -> None:
    held = stream_node(node, stream)
    assert stream_of(held) == stream
    assert split_node(held) == split_node(node)
    assert stream_of(node) == b""


def test_every_reading_function_takes_a_stream(g: Guestfs, tmp_path: Path) -> None:
    content = g.getxattr("/streams", "user.Zone.Identifier")
    assert len(content) == 26
    assert g.read_file(ZONE) == content
    assert g.cat(ZONE) == content.decode()
    assert g.read_lines(ZONE) == content.decode().splitlines()
    assert g.pread(ZONE, 5, 3) == content[3:8]
    assert g.filesize(ZONE) == 26
    assert [line.rstrip() for line in g.head(ZONE)] == content.decode().splitlines()
    assert [line.rstrip() for line in g.tail_n(1, ZONE)] == content.decode().splitlines()[-1:]
    assert g.checksum("sha256", ZONE) == hashlib.sha256(content).hexdigest()
    assert len(g.grep("Zone", ZONE)) == 2
    assert g.strings(ZONE) == content.decode().splitlines()
    g.download(ZONE, str(tmp_path / "zone"))
    assert (tmp_path / "zone").read_bytes() == content
    g.download_offset(ZONE, str(tmp_path / "part"), 3, 5)
    assert (tmp_path / "part").read_bytes() == content[3:8]
    g.copy_out(ZONE, str(tmp_path))
    assert (tmp_path / "streams:Zone.Identifier").read_bytes() == content
    assert not g.is_zero(ZONE)
    assert g.wc_c(ZONE) == 26


def test_a_stream_is_a_regular_file_of_its_own_size(g: Guestfs) -> None:
    assert g.exists(ZONE)
    assert g.is_file(ZONE)
    assert not g.is_dir(ZONE)
    file, stream = g.statns("/streams"), g.lstatns(ZONE)
    assert (stream["st_ino"], stream["st_uid"], stream["st_mode"]) == (file["st_ino"], file["st_uid"], file["st_mode"])
    assert g.lstatnslist("/", ["streams:empty", "streams:larger", "streams:none"])[1]["st_size"] == 9000
    assert g.lstatnslist("/", ["streams:none"])[0]["st_ino"] == -1
    assert g.realpath(ZONE) == ZONE
    assert list(g.lgetxattrs(ZONE)) == []


def test_a_directory_has_streams_too(g: Guestfs) -> None:
    path = "/empty-dir:on a directory"
    assert g.is_file(path)
    assert len(g.read_file(path)) == 9
    assert g.is_dir("/empty-dir")
    for below in (path + "/x", path + "/", path + "/.."):
        assert not g.exists(below)
    with pytest.raises(GuestfsError, match="Not a directory"):
        g.ls(path)
    with pytest.raises(GuestfsError, match=r"not a directory|Not a directory"):
        g.find(path)


def test_what_is_no_stream_is_not_found(g: Guestfs) -> None:
    for path in ("/streams:none", "/none:none", "/streams:zone.identifier", "/:x", "/streams:empty:$DATA"):
        assert not g.exists(path), path
    with pytest.raises(GuestfsError, match="No such file or directory"):
        g.read_file("/streams:none")
    assert g.read_file("/streams:empty") == b""
    assert g.filesize("/streams:") == g.filesize("/streams")  # as ntfs-3g has it


def test_system_files_show_their_streams(table: MountTable) -> None:
    assert table.stat(table.resolve(b"/$Secure:$SDS")).size > 0


def test_a_stream_is_no_link_directory_or_attribute(table: MountTable) -> None:
    node = table.resolve(ZONE.encode())
    for call in (table.lookup, table.xattr):
        with pytest.raises((NotADirectory, NoAttribute)):
            call(node, b"x")
    with pytest.raises(NotADirectory):
        list(table.scan(node))
    with pytest.raises(NotADirectory):
        list(table.walk(node))
    with pytest.raises(InvalidArgument):
        table.readlink(node)
    assert table.streams(node) == ()


def test_names_with_colons_of_other_filesystems_stay_themselves() -> None:
    table = MountTable()
    table.mount(memoryfs.MemoryFS({b"a:b": b"of that name", b"a": b"other"}))
    source = table.open(table.resolve(b"/a:b"))
    assert source.read(0, source.size) == b"of that name"
    with pytest.raises(NotFound):
        table.resolve(b"/a:c")


def run(capsysbinary: pytest.CaptureFixture[bytes], *words: str) -> tuple[int, bytes]:
    status = main(list(words))
    return status, capsysbinary.readouterr().out


def test_the_command_line_reads_streams(
    capsysbinary: pytest.CaptureFixture[bytes], image: Path, tmp_path: Path
) -> None:
    content = run(capsysbinary, "cat", "-p", "sda", str(image), ZONE)[1]
    assert len(content) == 26
    assert run(capsysbinary, "cat", str(image), "sda:" + ZONE) == (0, content)
    assert main(["cp", str(image), "/partitions/sda" + ZONE, str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == content
    capsysbinary.readouterr()
    assert run(capsysbinary, "cat", "-p", "sda", str(image), "/streams:none")[0] == 1


def test_ls_and_stat_show_streams(capsysbinary: pytest.CaptureFixture[bytes], image: Path) -> None:
    plain = run(capsysbinary, "ls", "-p", "sda", str(image), "/")[1].splitlines()
    assert not [line for line in plain if b":" in line]
    status, out = run(capsysbinary, "ls", "-p", "sda", "--streams", str(image), "/")
    added = [line for line in out.splitlines() if line not in plain]
    assert status == 0
    assert added == [b"empty-dir:on a directory", b"streams:empty", b"streams:larger", b"streams:Zone.Identifier"]
    long = run(capsysbinary, "ls", "-l", "-p", "sda", "--streams", str(image), "/")[1]
    assert [line.split()[4] for line in long.splitlines() if b"streams:larger" in line] == [b"9000"]
    told = json.loads(run(capsysbinary, "ls", "-p", "sda", "--streams", "--json", str(image), "/")[1])
    assert [each["streams"] for each in told if each["path"] == "/empty-dir"] == [
        [{"name": "on a directory", "size": 9}]
    ]
    shown = run(capsysbinary, "stat", "-p", "sda", str(image), "/streams")[1]
    assert b"Stream: larger (9000 bytes)" in shown
    assert b"Size: 9000 " in run(capsysbinary, "stat", "-p", "sda", str(image), "/streams:larger")[1]


@pytest.mark.root
@pytest.mark.tool("ntfs-3g")
def test_ntfs_3g_gives_the_same_streams(image: Path, table: MountTable, tmp_path: Path) -> None:
    mounted = tmp_path / "m"
    mounted.mkdir()
    subprocess.run(["ntfs-3g", "-o", "ro,streams_interface=windows", image, mounted], check=True)
    try:
        for path in (
            "streams:Zone.Identifier",
            "streams:larger",
            "streams:empty",
            "empty-dir:on a directory",
            "streams:",
        ):
            theirs = os.stat(mounted / path)
            node = table.resolve(b"/" + path.encode())
            ours = table.stat(node)
            assert (ours.ino, ours.mode, ours.nlink, ours.size, ours.blocks) == (
                theirs.st_ino,
                theirs.st_mode,
                theirs.st_nlink,
                theirs.st_size,
                theirs.st_blocks,
            ), path
            source = table.open(node)
            assert source.read(0, source.size) == (mounted / path).read_bytes()
        for path in ("streams:none", "streams:zone.identifier", "none:x", "streams:empty:$DATA"):
            with pytest.raises(FileNotFoundError):
                os.stat(mounted / path)
    finally:
        subprocess.run(["fusermount3", "-u", mounted], check=True)
