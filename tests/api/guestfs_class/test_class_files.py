"""Reading files through the Guestfs class, on the fixture that tests/data/api/make_image.py makes."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

import guestkit
from guestkit import Corrupt, Guestfs, GuestfsError
from guestkit.guestfs.checksum import Cksum
from guestkit.guestfs.search import expand_braces, matches
from guestkit.guestfs.text import hexdump, printable

LINES = [f"line {number}" for number in range(1, 31)]
TEXT = "".join(line + "\n" for line in LINES).encode()


def test_whole_files(m: Guestfs) -> None:
    assert m.read_file("/data/lines") == TEXT
    assert m.cat("/data/link") == TEXT.decode()
    assert m.read_file("/data/absolute") == b"127.0.0.1 localhost\n::1 localhost\n"
    assert m.cat("/data/nul") == "before"
    assert m.read_file("/data/nul") == b"before\0after"
    assert m.read_lines("/data/crlf") == ["one", "two"]
    assert m.read_lines("/data/empty") == []
    assert m.pread("/data/lines", 6, 7) == b"line 2"
    assert m.pread("/data/lines", 100, len(TEXT) - 3) == b"30\n"
    assert m.pread("/data/lines", 5, 10**9) == b""
    assert m.pread_device("/dev/sda", 2, 510) == b"\x55\xaa"
    with pytest.raises(UnicodeDecodeError):
        m.cat("/data/latin1")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda g: g.cat("/none"), "download: /none: No such file or directory"),
        (lambda g: g.read_file("/data"), "download: /data: is a directory"),
        (lambda g: g.cat("/data/lines/x"), "download: /data/lines/x: Not a directory"),
        (lambda g: g.read_lines("/data/loop"), "download: /data/loop: Too many levels of symbolic links"),
        (lambda g: g.ls("/data/lines"), "ls0: opendir: /data/lines: Not a directory"),
        (lambda g: g.ls("/none"), "ls0: opendir: /none: No such file or directory"),
        (lambda g: g.find("/data/lines"), "find0: /data/lines: not a directory"),
        (lambda g: g.readdir("/none"), "internal_readdir: /none: No such file or directory"),
        (lambda g: g.statns("/none"), "statns: /none: No such file or directory"),
        (lambda g: g.readlink("/data/lines"), "readlink: /data/lines: Invalid argument"),
        (lambda g: g.getxattr("/data/lines", "user.x"), "getxattr: getxattr: No data available"),
        (lambda g: g.ls("data"), "ls0: ls0_stub: path must start with a / character"),
        (lambda g: g.exists("data"), "exists: exists_stub: path must start with a / character"),
        (lambda g: g.case_sensitive_path("/none/x"), "case_sensitive_path: none: not found"),
        (lambda g: g.pread("/data/lines", -1, 0), "pread: count is negative"),
        (lambda g: g.copy_out("/none", "/tmp"), "copy_out: \u2018/none\u2019 is not a file or directory"),
        (lambda g: g.tar_out("/data/lines", "/tmp/x"), "tar_out: /data/lines: not a directory"),
        (lambda g: g.tar_out("/data", "/tmp/x", compress="zip"), "tar_out: unknown compression type: zip"),
        (
            lambda g: g.mountable_subvolume("/dev/sda1"),
            "mountable_subvolume: /dev/sda1: not a btrfs subvolume identifier",
        ),
        (
            lambda g: g.checksum("adler", "/data/lines"),
            "checksum: unknown checksum type, expecting crc|md5|sha1|sha224|sha256|sha384|sha512",
        ),
        (lambda g: g.grep(r"\(", "/data/lines"), r"grep: \(: grep: Unmatched ( or \("),
    ],
)
def test_error_texts(m: Guestfs, call: Any, text: str) -> None:
    with pytest.raises(GuestfsError) as caught:
        call(m)
    assert str(caught.value) == text


def test_listing(m: Guestfs) -> None:
    names = m.ls("/data")
    assert names == sorted(names)
    assert "." not in names and "lines" in names
    entries = m.readdir("/data")
    assert [each["name"] for each in entries[:2]] == [".", ".."]
    types = {each["name"]: each["ftyp"] for each in entries}
    assert (types["sub"], types["lines"], types["link"], types["fifo"]) == ("d", "r", "l", "f")
    inodes = {each["name"]: each["ino"] for each in entries}
    assert inodes["lines"] == inodes["hard"] == m.lstatns("/data/lines")["st_ino"]
    assert m.find("/data/sub") == ["deep", "deep/leaf"]
    assert m.find("/data/dirlink/..")[:2] == ["UPPER", "absolute"]
    lines = m.ll("/data").splitlines()
    assert lines[0].startswith("total ")
    assert any(line.endswith(" link -> lines") and line.startswith("lrwxrwxrwx 1 0 0") for line in lines)
    for call in (m.ls, m.find, m.readdir):
        with pytest.raises(UnicodeDecodeError):
            call("/odd")


def test_a_walk_that_met_damage_fails_every_time(m: Guestfs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fs = next(iter(m._table.mounts.values())).fs
    assert m.find("/data/sub") == ["deep", "deep/leaf"]
    before = fs.walk

    def damaged(directory: int | None = None, failed: Any = None) -> Any:
        yield from before(directory)
        fs.passed_over(99, b"deep/", Corrupt("directory block 0: bad checksum"), failed)

    monkeypatch.setattr(fs, "walk", damaged)
    for _ in range(2):
        with pytest.raises(GuestfsError, match="find0: deep: directory block 0: bad checksum") as caught:
            m.find("/data/sub")
        assert caught.value.errno == errno.EUCLEAN
        with pytest.raises(GuestfsError, match="bad checksum"):
            m.du("/data/sub")
        with pytest.raises(GuestfsError, match="bad checksum"):
            m.checksums_out("md5", "/data/sub", str(tmp_path / "sums"))


def test_what_is_there(m: Guestfs) -> None:
    assert m.exists("/data/dangling") is True
    assert m.exists("/data/none") is False
    assert m.exists("/data/lines/below") is False
    assert m.is_file("/data/link") is False
    assert m.is_file("/data/link", followsymlinks=True) is True
    assert m.is_dir("/data/dirlink") is False
    assert m.is_dir_opts("/data/dirlink", True) is True
    assert m.is_symlink("/data/dangling") is True
    assert (m.is_fifo("/data/fifo"), m.is_socket("/data/fifo"), m.is_chardev("/data/fifo")) == (True, False, False)
    assert m.is_blockdev("/data/none") is False
    assert m.is_zero("/data/empty") is True
    assert m.is_zero("/data/sparse") is False


def test_many_lookups_in_one_directory_answer_as_the_first(m: Guestfs) -> None:
    names = ["lines", "link", "none", "dangling", "sub", ".", "..", ""]
    first = [(m.exists(f"/data/{name}"), m.is_symlink(f"/data/{name}"), m.is_dir(f"/data/{name}")) for name in names]
    for _ in range(100):
        m.exists("/data/lines")
    again = [(m.exists(f"/data/{name}"), m.is_symlink(f"/data/{name}"), m.is_dir(f"/data/{name}")) for name in names]
    assert first == again
    with pytest.raises(GuestfsError, match="path must start with"):
        m.exists("data/lines")
    m.exists("/etc")
    with pytest.raises(GuestfsError, match="path must start with"):
        m.exists("etc")


def test_metadata_of_many_names_is_that_of_each(m: Guestfs) -> None:
    for directory in ("/", "/data", "/etc"):
        names = [*m.ls(directory), "none", ".", "..", ""]
        each = [m.lstatnslist(directory, [name])[0] for name in names]
        many = names * (64 // len(names) + 1)
        assert m.lstatnslist(directory, many) == each * (64 // len(names) + 1)
    with pytest.raises(GuestfsError, match="'a/b' is not a file name"):
        m.lstatnslist("/data", ["lines"] * 64 + ["a/b"])
    assert {found["st_ino"] for found in m.lstatnslist("/data/lines", ["name"] * 64)} == {-1}


def test_metadata(m: Guestfs) -> None:
    assert m.filesize("/data/link") == len(TEXT)
    assert m.lstatns("/data/link")["st_size"] == 5
    found = m.statns("/data/lines")
    assert (found["st_nlink"], found["st_size"], found["st_mode"] & 0o170000) == (2, len(TEXT), 0o100000)
    assert len(found) == 22
    with pytest.warns(DeprecationWarning, match=r"use GuestFS.statns\(\) instead of GuestFS.stat\(\)"):
        old = m.stat("/data/lines")
    numbers = ["dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"]
    assert list(old) == [*numbers, "atime", "mtime", "ctime"]
    assert [each["st_ino"] for each in m.lstatnslist("/data", ["none"])] == [-1]
    assert [each["st_size"] for each in m.lstatnslist("/data", ["lines", "link"])] == [len(TEXT), 5]
    with pytest.raises(GuestfsError, match="'a/b' is not a file name"):
        m.lstatnslist("/data", ["a/b"])
    assert m.readlinklist("/data", ["link", "lines", "none"]) == ["lines", "", ""]
    assert m.readlink("/data/absolute") == "/etc/hosts"
    assert m.lxattrlist("/data", ["lines", "none"]) == [
        {"attrname": "", "attrval": b"0\0"},
        {"attrname": "", "attrval": b""},
    ]
    statvfs = m.statvfs("/")
    assert statvfs["bsize"] == 4096 and 0 < statvfs["bfree"] <= statvfs["blocks"] and statvfs["namemax"] == 255
    each = m.lstatns("/data/lines")["st_blocks"] // 2
    assert m.du("/data/lines") == each
    assert (
        m.du("/data/sub")
        == sum(m.lstatns(f"/data/sub{path}")["st_blocks"] for path in ("", "/deep", "/deep/leaf")) // 2
    )


def test_paths(m: Guestfs) -> None:
    assert m.realpath("/data/absolute") == "/etc/hosts"
    assert m.realpath("/../data/./dirlink/deep/..") == "/data/sub"
    assert m.case_sensitive_path("/DATA/upper") == "/data/UPPER"
    assert m.case_sensitive_path("/data/none") == "/data/none"
    with pytest.raises(GuestfsError):
        m.case_sensitive_path("/data/lines/")
    assert m.glob_expand("/data/{li,up,UP}*") == ["/data/UPPER", "/data/lines", "/data/lines.gz", "/data/link"]
    assert m.glob_expand("/data/su?") == ["/data/sub/"]
    assert m.glob_expand("/data/su?", directoryslash=False) == ["/data/sub"]
    assert m.glob_expand("/*/sub/d*/[k-m]eaf") == ["/data/sub/deep/leaf"]
    assert m.glob_expand("/data/dang*") == ["/data/dangling"]
    assert m.glob_expand("/none*") == []


def test_brace_and_pattern_matching() -> None:
    assert sorted(expand_braces(b"a{b,c{d,e}}f")) == [b"abf", b"acdf", b"acef"]
    assert expand_braces(b"a{}b") == [b"a{}b"]
    assert expand_braces(b"a{b") == [b"a{b"]
    assert matches(b"*.[ch]", b"x.c") and not matches(b"*.[!ch]", b"x.c")
    assert matches(b"[[:upper:]]?", b"Ab") and not matches(b"[[:upper:]]?", b"ab")
    assert matches(rb"\*", b"*") and not matches(rb"\*", b"x")
    assert not matches(b"*a" * 50 + b"b", b"a" * 5000)


def test_text_tools(m: Guestfs) -> None:
    path = "/data/lines"
    assert m.head(path) == LINES[:10]
    assert m.tail(path) == LINES[-10:]
    assert (m.head_n(2, path), m.head_n(-28, path), m.head_n(0, path)) == (LINES[:2], LINES[:2], [])
    assert (m.tail_n(2, path), m.tail_n(-29, path), m.tail_n(0, path)) == (LINES[-2:], LINES[28:], [])
    assert (m.wc_c(path), m.wc_l(path), m.wc_w(path)) == (len(TEXT), 30, 60)
    assert m.strings("/data/nul") == ["before", "after"]
    assert m.file(path) == "ASCII text"
    assert m.file("/data/link") == "symbolic link"
    assert m.file("/data/lines.gz").startswith("ASCII text (gzip compressed data")
    assert m.file("/data") == "directory"
    assert m.hexdump("/data/nul") == (
        "00000000  62 65 66 6f 72 65 00 61  66 74 65 72              |before.after|\n0000000c\n"
    )


def test_hexdump_folds_equal_lines() -> None:
    assert hexdump(bytes(64)).splitlines() == [
        "00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "*",
        "00000040",
    ]


@pytest.mark.tool("strings")
@pytest.mark.parametrize("encoding", ["s", "S", "b", "l", "B", "L"])
def test_strings_agree_with_binutils(tmp_path: Path, encoding: str) -> None:
    words = b"\0\1hello\0abc\0\xff\tworld wide\n12345".ljust(64, b"\0") + "wide text".encode("utf-16-le") + bytes(7)
    data = words + "big text".encode("utf-16-be") + bytes(9) + "four bytes".encode("utf-32-le") + b"last"
    (tmp_path / "data").write_bytes(data)
    said = subprocess.run(["strings", "-a", "-e", encoding, tmp_path / "data"], capture_output=True, check=True).stdout
    pieces = (data[at : at + 13] for at in range(0, len(data), 13))
    assert list(printable(pieces, encoding)) == said.split(b"\n")[:-1]


def test_grep(m: Guestfs) -> None:
    path = "/data/lines"
    assert m.grep("line 1.", path) == LINES[9:19]
    assert m.grep("2$", path) == ["line 2", "line 12", "line 22"]
    assert m.grep(r"\(1\)\1", path) == ["line 11"]
    assert m.grep("(1|2)5", path) == []
    assert m.grep("(1|2)5", path, extended=True) == ["line 15", "line 25"]
    assert m.grep("LINE 3", path, insensitive=True) == ["line 3", "line 30"]
    assert m.grep(".", path, fixed=True) == []
    assert m.grep("line 7", "/data/lines.gz") == []
    assert m.grep("line 7", "/data/lines.gz", compressed=True) == ["line 7"]
    assert m.grep("line 7", path, compressed=True) == ["line 7"]
    with pytest.warns(DeprecationWarning):
        assert m.egrep("^line (4|5)$", path) == ["line 4", "line 5"]
    with pytest.warns(DeprecationWarning):
        assert m.fgrep("line 29", path) == ["line 29"]


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512"])
def test_checksums(m: Guestfs, kind: str) -> None:
    assert m.checksum(kind, "/data/lines") == hashlib.new(kind, TEXT).hexdigest()


@pytest.mark.tool("cksum")
@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_crc_is_that_of_cksum(size: int) -> None:
    data = bytes(index * 7 & 0xFF for index in range(size))
    total = Cksum()
    total.update(data[:100])
    total.update(data[100:])
    said = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.split()
    assert total.hexdigest().encode() == said[0]


def test_checksums_out(m: Guestfs, tmp_path: Path) -> None:
    m.checksums_out("md5", "/data/sub", f"{tmp_path}/sums")
    expected = hashlib.md5(b"leaf\n").hexdigest()
    assert (tmp_path / "sums").read_text() == f"{expected}  ./deep/leaf\n"


def test_download(m: Guestfs, tmp_path: Path) -> None:
    target = tmp_path / "out"
    m.download("/data/sparse", str(target))
    data = target.read_bytes()
    assert len(data) == (8 << 20) + 3 and data.endswith(b"end") and not any(data[: 8 << 20])
    assert target.stat().st_blocks * 512 < 1 << 20
    target.write_bytes(b"longer than before" * 100)
    m.download("/data/lines", str(target))
    assert target.read_bytes() == TEXT
    read, write = os.pipe()
    m.download("/data/lines", f"/dev/fd/{write}")
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == TEXT
    m.download_offset("/dev/sda", str(target), 510, 2)
    assert target.read_bytes() == b"\x55\xaa"


def test_failed_download_leaves_no_file(m: Guestfs, tmp_path: Path) -> None:
    for path in ("/none", "/data", "/data/fifo"):
        with pytest.raises(GuestfsError):
            m.download(path, f"{tmp_path}/out")
    handle = m.set_event_callback(lambda *_: m.user_cancel(), guestkit.EVENT_PROGRESS)
    with pytest.raises(GuestfsError, match="cancelled"):
        m.download("/dev/sda", f"{tmp_path}/out")
    m.delete_event_callback(handle)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GuestfsError, match="No such file or directory"):
        m.download("/data/lines", f"{tmp_path}/no/out")


def test_copy_out(m: Guestfs, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("x")
    m.copy_out("/data", str(tmp_path))
    assert (tmp_path / "data/lines").read_bytes() == TEXT
    assert os.readlink(tmp_path / "data/absolute") == "/etc/hosts"
    assert not (tmp_path / "data/fifo").exists()
    assert (tmp_path / "data/hard").stat().st_ino == (tmp_path / "data/lines").stat().st_ino
    m.copy_out("/etc/hosts", str(tmp_path))
    assert (tmp_path / "hosts").exists()
    with pytest.raises(GuestfsError):
        m.copy_out("/data", f"{tmp_path}/none")


@pytest.mark.parametrize(("compress", "mode"), [(None, "r:"), ("gzip", "r:gz"), ("bzip2", "r:bz2"), ("xz", "r:xz")])
def test_tar_out(m: Guestfs, tmp_path: Path, compress: str | None, mode: Any) -> None:
    m.tar_out("/data", f"{tmp_path}/t", compress=compress)
    with tarfile.open(tmp_path / "t", mode) as tar:
        members = {each.name: each for each in tar}
        assert members["."].isdir() and members["./sub/deep/leaf"].isfile()
        assert members["./link"].linkname == "lines"
        assert members["./fifo"].isfifo()
        assert {members["./lines"].islnk(), members["./hard"].islnk()} == {True, False}
        content = tar.extractfile("./lines")
        assert content is not None and content.read() == TEXT
        assert (members["./lines"].uname, members["./sparse"].size) == ("root", (8 << 20) + 3)


def test_tar_out_excludes_and_numbers(m: Guestfs, tmp_path: Path) -> None:
    m.tar_out("/data", f"{tmp_path}/t", numericowner=True, excludes=["deep", "l*", "./UPPER"])
    with tarfile.open(tmp_path / "t") as tar:
        members = {each.name: each for each in tar}
    assert "./sub" in members and "./hard" in members
    assert not {"./sub/deep", "./sub/deep/leaf", "./lines", "./link", "./UPPER"} & set(members)
    assert members["./hard"].uname == ""
    with pytest.raises(GuestfsError, match="not supported"):
        m.tar_out("/data", f"{tmp_path}/t2", compress="lzop")
    assert not (tmp_path / "t2").exists()


@pytest.mark.tool("cpio")
@pytest.mark.parametrize("format", [None, "newc", "crc"])
def test_cpio_out_is_read_by_cpio(m: Guestfs, tmp_path: Path, format: str | None) -> None:
    m.cpio_out("/data", f"{tmp_path}/archive", format=format)
    (tmp_path / "out").mkdir()
    with open(tmp_path / "archive", "rb") as archive:
        subprocess.run(["cpio", "-idm", "--quiet"], stdin=archive, cwd=tmp_path / "out", check=True)
    assert (tmp_path / "out/lines").read_bytes() == TEXT
    assert (tmp_path / "out/hard").stat().st_ino == (tmp_path / "out/lines").stat().st_ino
    assert (tmp_path / "out/sparse").stat().st_size == (8 << 20) + 3
    assert os.readlink(tmp_path / "out/dangling") == "nowhere"


def test_find0_and_ls0_keep_odd_names(m: Guestfs, tmp_path: Path) -> None:
    m.find0("/odd", f"{tmp_path}/f")
    m.ls0("/odd", f"{tmp_path}/l")
    assert (tmp_path / "f").read_bytes() == (tmp_path / "l").read_bytes() == b"bad\xff\0"


def test_gzip_bomb_is_bounded_by_the_line(m: Guestfs) -> None:
    from guestkit.guestfs.errors import Failure
    from guestkit.guestfs.grep import lines
    from guestkit.source import BytesSource

    with pytest.raises(Failure, match="too long"):
        for _ in lines(BytesSource(gzip.compress(bytes(40 << 20))), compressed=True):
            pass
    with pytest.raises(Failure, match="end of file"):
        list(lines(BytesSource(gzip.compress(b"text")[:-4]), compressed=True))
