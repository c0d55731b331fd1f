"""A real mount, driven by real tools, answered directly and by pyfuse3's own session loop."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from memory import Failing, MemoryFS, Slow, load

from guestkit.errors import Busy, Corrupt, NeedKey, NotFound, Unsupported, WouldBlock
from guestkit.fuse import MountOptions, serve, stop
from guestkit.namespace import MountTable
from guestkit.source import FileSource, patience

pytestmark = pytest.mark.fuse
both_loops = pytest.mark.parametrize("plain_loop", [False, True], ids=["direct", "plain"])


def output(*command: str | os.PathLike[str]) -> str:
    done = subprocess.run([os.fspath(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    for number in range(12):
        below = top / f"dir{number}" / "deeper"
        below.mkdir(parents=True)
        for size in (0, 1, 511, 4096, 4097, 200_000):
            (below / f"file{size}").write_bytes(os.urandom(size))
        (below / "link").symlink_to("file511")
        (below / "up").symlink_to("../deeper/file1")
    (top / "sparse").write_bytes(b"")
    os.truncate(top / "sparse", 1 << 20)
    many = top / "many"
    many.mkdir()
    for number in range(1000):
        (many / f"a name that is long enough to need several replies {number}").write_bytes(b"%d" % number)
    os.mkfifo(top / "pipe")
    os.utime(top / "sparse", ns=(-5_000_000_001, -5_000_000_001))
    (top / "sparse").chmod(0o4751)
    return top


@both_loops
def test_tools_see_what_the_source_holds(source, mounted, plain_loop, tmp_path):
    fs = MemoryFS()
    load(fs, str(source))
    mount = mounted(fs, plain_loop=plain_loop)
    listing = ["-mindepth", "1", "-printf", "%P %y %m %U %G %s %T@ %l\\n"]

    def files(top):
        return sorted(line for line in output("find", top, *listing).splitlines() if " d " not in line)

    assert files(mount.at) == files(source)
    assert output("rsync", "-n", "-c", "-a", "-i", "--omit-dir-times", f"{source}/", f"{mount.at}/") == ""
    output("cp", "-r", "--sparse=always", mount.at / "sparse", tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size == 1 << 20
    archive = tmp_path / "all.tar"
    output("tar", "-C", mount.at, "-cf", archive, ".")
    assert output("tar", "-C", source, "--compare", "-f", archive, "--exclude", "./sparse") == ""
    walked = [(here[len(str(mount.at)) :], sorted(d), sorted(f)) for here, d, f in os.walk(mount.at)]
    wanted = [(here[len(str(source)) :], sorted(d), sorted(f)) for here, d, f in os.walk(source)]
    assert sorted(walked) == sorted(wanted)
    assert set(output("ls", "-a", mount.at / "many").splitlines()) >= {".", ".."}
    assert mount.end() == 0


@both_loops
def test_ten_thousand_errors_later_it_still_serves(mounted, plain_loop):
    fs = MemoryFS()
    fs.file(2, b"corrupt", Failing(Corrupt("block", "checksum")))
    fs.file(2, b"unsupported", Failing(Unsupported("that")))
    fs.file(2, b"defect", Failing(ZeroDivisionError("oops")))
    fs.file(2, b"recursion", Failing(RecursionError()))
    fs.file(2, b"good", b"good")
    broken = fs.file(2, b"inode")
    broken.error = Corrupt("inode", "i_mode")

    def hook(name: bytes) -> None:
        if name.startswith(b"bad"):
            raise ValueError(name)
        if name.startswith(b"none"):
            raise NotFound

    fs.lookup_hook = hook
    mount = mounted(fs, plain_loop=plain_loop)
    for name, number in (
        ("corrupt", errno.EUCLEAN),
        ("unsupported", errno.EOPNOTSUPP),
        ("defect", errno.EIO),
        ("recursion", errno.EIO),
    ):
        fd = os.open(mount.at / name, os.O_RDONLY)
        for _ in range(500):
            with pytest.raises(OSError) as caught:
                os.pread(fd, 100, 0)
            assert caught.value.errno == number
        os.close(fd)
    for number in range(4000):
        with pytest.raises(OSError) as caught:
            os.stat(mount.at / f"bad{number}")
        assert caught.value.errno == errno.EIO
        with pytest.raises(FileNotFoundError):
            os.stat(mount.at / f"none{number}")
    assert "inode" in os.listdir(mount.at)
    with pytest.raises(OSError) as caught:
        os.stat(mount.at / "inode")
    assert caught.value.errno == errno.EUCLEAN
    assert (mount.at / "good").read_bytes() == b"good"
    assert mount.log.read_text().count("defect of guestkit") == 3  # each kind once
    assert mount.end() == 0


@both_loops
def test_slow_reads_delay_nobody_else(mounted, plain_loop):
    fs = MemoryFS()
    for number in range(6):
        fs.file(2, b"slow%d" % number, Slow(4096, 1.0))
    fs.file(2, b"fast", b"fast")
    mount = mounted(fs, plain_loop=plain_loop)
    readers = [subprocess.Popen(["cat", mount.at / f"slow{n}"], stdout=subprocess.DEVNULL) for n in range(6)]
    time.sleep(0.2)
    before = time.monotonic()
    assert (mount.at / "fast").read_bytes() == b"fast"
    assert time.monotonic() - before < 0.6
    assert [reader.wait(10) for reader in readers] == [0] * 6
    assert (mount.at / "slow0").stat().st_size == 4096
    assert mount.end() == 0


@both_loops
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_though_a_read_is_in_flight(mounted, plain_loop, number):
    fs = MemoryFS()
    fs.file(2, b"slow", Slow(4096, 5.0))
    mount = mounted(fs, plain_loop=plain_loop)
    reader = subprocess.Popen(["cat", mount.at / "slow"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.2)
    assert mount.end(number) == 0
    assert not os.path.ismount(mount.at)
    reader.wait(5)


def test_cycles_leave_nothing_behind(mounted, tmp_path):
    fs = MemoryFS()
    fs.file(2, b"file", b"x")
    for number in range(8):
        mount = mounted(fs, at=tmp_path / "same", plain_loop=bool(number & 1))
        assert (mount.at / "file").read_bytes() == b"x"
        if number % 3 == 2:
            output("fusermount3", "-u", mount.at)
            assert mount.end(0) == 0
        else:
            assert mount.end() == 0
        assert not os.path.ismount(mount.at)


def test_a_mount_whose_program_was_killed_is_cleared_at_the_next_start(mounted, tmp_path):
    fs = MemoryFS()
    fs.file(2, b"file", b"x")
    mount = mounted(fs, at=tmp_path / "same")
    assert mount.end(signal.SIGKILL) == -signal.SIGKILL
    with pytest.raises(OSError):
        os.listdir(mount.at)
    again = mounted(fs, at=tmp_path / "same")
    assert (again.at / "file").read_bytes() == b"x"
    assert again.end() == 0


def test_streaming_starves_nobody(mounted):
    fs = MemoryFS()
    fs.file(2, b"big", bytes(64 << 20))
    for number in range(50):
        fs.file(2, b"f%d" % number, b"x")
    mount = mounted(fs)
    stream = subprocess.Popen(
        ["sh", "-c", f"while :; do dd if={mount.at}/big of=/dev/null bs=1M iflag=direct; done"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(0.3)
        waits = []
        for number in range(50):
            before = time.monotonic()
            os.stat(mount.at / f"f{number}")
            waits.append(time.monotonic() - before)
        assert sorted(waits)[-3] < 0.1  # the machine itself may pause
        before = time.monotonic()
        assert mount.end() == 0
        assert time.monotonic() - before < 1
    finally:
        os.killpg(stream.pid, signal.SIGKILL)
        stream.wait()


@both_loops
def test_an_idle_mount_uses_no_processor_and_leaks_no_descriptor(mounted, plain_loop):
    fs = MemoryFS()
    for number in range(300):
        fs.file(fs.directory(2, b"d%d" % number), b"file", bytes(9000))
    mount = mounted(fs, plain_loop=plain_loop)
    output("find", mount.at, "-type", "f", "-exec", "cat", "{}", "+")
    descriptors = mount.descriptors()
    for _ in range(5):
        output("find", mount.at, "-type", "f", "-exec", "cat", "{}", "+")
    assert mount.descriptors() <= descriptors
    time.sleep(0.1)
    before = mount.cpu_seconds()
    time.sleep(1)
    assert mount.cpu_seconds() - before <= 0.02


def test_names_that_may_not_be_shown_do_not_spoil_the_listing(mounted):
    fs = MemoryFS()
    for name in (b"a/b", b"a\0b", b"", b".", b"..", b"/", b"x" * 1025, b"good", b"n\n", b"\xff\xfe", b"y" * 255):
        fs.nodes[2].names[name] = fs.file(2, b"good", b"").ino
    mount = mounted(fs)
    assert sorted(os.listdir(os.fsencode(mount.at))) == sorted([b"good", b"n\n", b"\xff\xfe", b"y" * 255])
    assert mount.end() == 0


def link_tree():
    fs = MemoryFS()
    etc = fs.directory(2, b"etc")
    deep = fs.directory(fs.directory(2, b"a"), b"b")
    fs.file(etc, b"passwd", b"guest")
    fs.link(2, b"absolute", b"/etc/passwd")
    fs.link(deep, b"escaping", b"../../../../../../../../../etc/passwd")
    fs.link(deep, b"inside", b"../../etc/passwd")
    fs.link(deep, b"through", b"../../etc/../../../../etc/passwd")
    fs.link(2, b"loop", b"loop")
    fs.link(2, b"self", b"/self")
    shared = fs.link(deep, b"shared", b"../../etc/passwd")
    shared.nlink = 2
    fs.nodes[2].names[b"shared"] = shared.ino
    fs.link(2, b"dangling", b"/etc/none")
    return fs


@both_loops
def test_links_stay_inside_the_mount(mounted, plain_loop):
    mount = mounted(link_tree(), plain_loop=plain_loop)
    names = [
        "absolute",
        "a/b/escaping",
        "a/b/inside",
        "a/b/through",
        "a/b/shared",
        "shared",
        "loop",
        "self",
        "dangling",
    ]
    for _ in range(2):
        for name in names:
            path = mount.at / name
            assert os.lstat(path).st_size == len(os.readlink(os.fsencode(path)))
            if name in ("loop", "self"):
                with pytest.raises(OSError) as caught:
                    path.read_bytes()
                assert caught.value.errno == errno.ELOOP
            elif name != "dangling":
                assert path.read_bytes() == b"guest", name
        output("find", mount.at, "-ls")
    assert not (mount.at / "dangling").exists()
    assert os.readlink(mount.at / "a/b/inside") == "../../etc/passwd"
    assert mount.end() == 0


def test_raw_links_are_the_guests(mounted):
    mount = mounted(link_tree(), raw_links=True)
    assert os.readlink(mount.at / "absolute") == "/etc/passwd"
    assert os.readlink(mount.at / "a/b/escaping") == "../../../../../../../../../etc/passwd"
    assert os.lstat(mount.at / "absolute").st_size == len("/etc/passwd")


def test_nothing_can_be_written(mounted):
    fs = MemoryFS()
    fs.file(2, b"file", b"x")
    mount = mounted(fs)
    for action in (
        lambda: os.open(mount.at / "file", os.O_WRONLY),
        lambda: os.mkdir(mount.at / "new"),
        lambda: os.unlink(mount.at / "file"),
        lambda: os.chmod(mount.at / "file", 0o600),
        lambda: os.rename(mount.at / "file", mount.at / "other"),
        lambda: os.symlink("x", mount.at / "link"),
        lambda: os.setxattr(mount.at / "file", "user.x", b""),
    ):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EROFS
    flags = os.statvfs(mount.at).f_flag
    assert flags & os.ST_RDONLY and flags & os.ST_NOSUID and flags & os.ST_NODEV
    line = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {mount.at} " in line)
    assert "allow_other" not in line and " fuse.guestkit " in line


def test_extended_attributes(mounted):
    fs = MemoryFS(xattrs=True)
    node = fs.file(2, b"file", b"x")
    node.xattrs = {b"user.one": b"1", b"security.selinux": b"ctx\0", b"user.big": bytes(60_000)}
    fs.file(2, b"none", b"x")
    mount = mounted(fs)
    assert sorted(os.listxattr(mount.at / "file")) == ["security.selinux", "user.big", "user.one"]
    assert os.getxattr(mount.at / "file", "user.one") == b"1"
    assert os.getxattr(mount.at / "file", "user.big") == bytes(60_000)
    assert os.listxattr(mount.at / "none") == []
    with pytest.raises(OSError) as caught:
        os.getxattr(mount.at / "none", "user.one")
    assert caught.value.errno == errno.ENODATA
    without = mounted(MemoryFS())
    with pytest.raises(OSError) as caught:
        os.getxattr(without.at, "user.one")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_each_filesystem_has_its_own_figures(mounted):
    top, one, two = MemoryFS(files=1), MemoryFS(files=11), MemoryFS(files=22)
    table = MountTable(first_index=0)
    table.mount(top)
    for name, fs in ((b"one", one), (b"two", two)):
        table.mount(fs, top.directory(2, name), b"/" + name)
    mount = mounted(table)
    for name, files in (("one", 11), ("two", 22), ("one", 11)):
        figures = output("df", "--output=itotal", mount.at / name)
        assert figures.split()[-1] == str(files)


def test_owner_and_mode_options(mounted):
    fs = MemoryFS()
    fs.file(2, b"file", b"x")
    mount = mounted(fs, uid=1234, gid=70_000, umask=0o027)
    status = (mount.at / "file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 70_000, 0o750)
    assert mount.at.stat().st_uid == 1234


def test_wide_nodes_and_odd_numbers(mounted):
    fs = MemoryFS()
    for key in (1, 1 << 60, (1 << 64) - 1):
        node = fs.file(2, b"k%d" % key, b"%d" % key)
        fs.nodes[key] = fs.nodes.pop(node.ino)
        fs.nodes[key].ino = key
        fs.nodes[2].names[b"k%d" % key] = key
    table = MountTable(first_index=0)
    table.mount(fs)
    mount = mounted(table)
    for _ in range(2):
        for key in (1, 1 << 60, (1 << 64) - 1):
            assert (mount.at / f"k{key}").read_bytes() == b"%d" % key
        assert len({entry.inode() for entry in os.scandir(mount.at)}) == 3
    assert mount.end() == 0


def test_without_a_descriptor_of_its_own_the_plain_loop_serves(mounted, monkeypatch):
    """Whoever has another mount's descriptor open gets pyfuse3's loop: which of the two is meant cannot be told."""
    from guestkit.fuse import device, direct

    monkeypatch.setattr(device, "descriptor", lambda before: -1)
    monkeypatch.setattr(direct, "Direct", None)
    fs = MemoryFS()
    fs.file(2, b"file", b"x")
    mount = mounted(fs)
    assert (mount.at / "file").read_bytes() == b"x"
    assert mount.end() == 0


def test_init_speaks_what_both_sides_know():
    from guestkit.errors import GuestkitError
    from guestkit.fuse import protocol

    def ask(major, minor):
        return protocol.init_reply(struct.pack("=IIII", major, minor, 131072, 0xFFFFFFFF))

    reply, able = ask(7, 45)
    major, minor, readahead, flags = struct.unpack_from("=IIII", reply)
    assert able == 0xFFFFFFFF and (major, minor, readahead, len(reply)) == (7, 31, 131072, 64)
    assert flags & 1 << 13 and not flags & 1 << 14 and not flags & 1 << 16  # readdirplus always; no write-back
    assert struct.unpack_from("=II", ask(7, 25)[0]) == (7, 25) and len(ask(7, 20)[0]) == 24
    reply, _ = ask(8, 0)
    assert struct.unpack_from("=II", reply) == (7, 31)
    with pytest.raises(GuestkitError, match="is too old"):
        ask(7, 8)


def test_a_kernel_that_must_open_files_and_directories_may(mounted, monkeypatch):
    """Linux before 5.1 takes ENOSYS for an error, where directories are opened."""
    from guestkit.fuse import protocol

    monkeypatch.setattr(protocol, "NO_OPEN", 0)
    monkeypatch.setattr(protocol, "NO_OPENDIR", 0)
    fs = MemoryFS()
    inner = fs.directory(2, b"inner")
    for number in range(500):
        fs.file(inner, b"file %d" % number, b"x")
    mount = mounted(fs)
    for _ in range(2):
        assert len(os.listdir(mount.at / "inner")) == 500
    assert output("find", mount.at, "-type", "f").count("\n") == 500
    assert (mount.at / "inner/file 7").read_bytes() == b"x"
    assert mount.end() == 0


both_ways = pytest.mark.parametrize("refuses", [False, True], ids=["shut", "opened"])


@both_ways
def test_files_are_opened_only_where_some_may_be_refused(mounted, tmp_path, refuses):
    log = tmp_path / "opened"
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fs = MemoryFS()
    fs.refuses = refuses
    fs.open_hook = lambda: os.write(written, b".")
    content = [random.Random(number).randbytes(300_000) for number in range(100)]
    for number, data in enumerate(content):
        fs.file(2, b"file%d" % number, data)
    fs.file(2, b"sealed", b"secret").refusal = NeedKey("sealed")
    mount = mounted(fs)
    files = [os.open(mount.at / f"file{number}", os.O_RDONLY) for number in range(100)]
    assert log.stat().st_size == (100 if refuses else 0)
    for offset in (200_000, 100_000, 299_000, 0):  # more files in turn than are kept
        for fd, data in zip(files, content, strict=True):
            assert os.pread(fd, 5000, offset) == data[offset : offset + 5000]
    for fd in files:
        os.close(fd)
    if refuses:
        with pytest.raises(OSError) as caught:
            os.open(mount.at / "sealed", os.O_RDONLY)
    else:
        fd = os.open(mount.at / "sealed", os.O_RDONLY)
        with pytest.raises(OSError) as caught:
            os.read(fd, 10)
        os.close(fd)
    assert caught.value.errno == errno.ENOKEY
    assert mount.end() == 0


@both_ways
def test_a_file_that_must_be_waited_for_is_opened_by_a_thread_that_may(mounted, refuses):
    def wait() -> None:
        if not patience.may_block:
            raise WouldBlock

    fs = MemoryFS()
    fs.refuses = refuses
    fs.open_hook = wait
    fs.file(2, b"file", b"late" * 5000)
    mount = mounted(fs)
    assert (mount.at / "file").read_bytes() == b"late" * 5000
    assert mount.end() == 0


@both_ways
def test_holes_can_be_sought(mounted, tmp_path, refuses):
    plain = tmp_path / "sparse"
    with plain.open("wb") as file:
        file.truncate(1 << 20)
        file.seek(300 << 10)
        file.write(bytes(range(256)) * 256)
    fs = MemoryFS()
    fs.refuses = refuses
    fs.file(2, b"sparse", FileSource.open(plain))
    fs.file(2, b"dense", b"x" * 5000)
    mount = mounted(fs)
    for name, wanted in (("sparse", plain), ("dense", None)):
        fd = os.open(mount.at / name, os.O_RDONLY)
        try:
            if wanted is None:
                assert os.lseek(fd, 10, os.SEEK_DATA) == 10 and os.lseek(fd, 0, os.SEEK_HOLE) == 5000
                with pytest.raises(OSError) as caught:
                    os.lseek(fd, 5000, os.SEEK_DATA)
                assert caught.value.errno == errno.ENXIO
                continue
            other = os.open(wanted, os.O_RDONLY)
            for offset in (0, 4096, 300 << 10, 310 << 10, 400 << 10):
                for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                    assert _seek(fd, offset, whence) == _seek(other, offset, whence)
            os.close(other)
        finally:
            os.close(fd)
    output("cp", mount.at / "sparse", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == plain.read_bytes()
    assert mount.end() == 0


def _seek(fd, offset, whence):
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        return error.errno


def test_a_second_listing_asks_nothing(mounted):
    fs = MemoryFS()
    inner = fs.directory(2, b"inner")
    for number in range(700):
        fs.file(inner, b"a name of some length %d" % number, b"x")
    mount = mounted(fs)
    listed = sorted(os.listdir(mount.at / "inner"))
    assert len(listed) == 700
    before = mount.cpu_seconds()
    for _ in range(300):
        assert len(os.listdir(mount.at / "inner")) == 700
    assert mount.cpu_seconds() - before < 0.1
    with os.scandir(mount.at / "inner") as entries:  # a listing that is left and begun again
        next(entries)
    assert sorted(os.listdir(mount.at / "inner")) == listed
    assert mount.end() == 0


def test_a_request_that_is_no_request_gets_an_error(mounted):
    """ioctl, fallocate and the like are refused and not left without an answer."""
    import fcntl

    fs = MemoryFS()
    fs.file(2, b"file", b"x")
    mount = mounted(fs)
    fd = os.open(mount.at / "file", os.O_RDONLY)
    with pytest.raises(OSError) as caught:
        fcntl.ioctl(fd, 0x80086601)  # FS_IOC_GETFLAGS
    assert caught.value.errno in (errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP)
    os.fsync(fd)
    os.close(fd)
    assert (mount.at / "file").read_bytes() == b"x"
    assert mount.end() == 0


def test_the_table_of_numbers_forgets_with_the_kernel():
    from guestkit.fuse.nodes import MOST, Nodes

    nodes = Nodes(7)
    assert nodes.number(7) == 1 and nodes.node(1) == 7 and nodes.number(12) == 12
    wide = nodes.number(1 << 70)
    assert nodes.number(1 << 70) == wide and nodes.node(wide) == 1 << 70
    assert nodes.number(12, b"target") != nodes.number(12, b"other")
    nodes.counted(wide)
    nodes.counted(wide)
    nodes.forget(wide, 1)
    assert nodes.node(wide) == 1 << 70
    nodes.forget(wide, 1)
    with pytest.raises(NotFound):
        nodes.node(wide)
    for number in range(MOST + 10):  # never counted: the table does not grow with what was only listed
        nodes.number(1 << 80 | number)
    assert len(nodes) <= MOST


def test_files_made_late_have_their_size(mounted):
    from guestkit.synthetic import SyntheticFS

    fs = SyntheticFS()
    fs.add_file(1, b"late.json", lambda: b"{}" * 3000)
    fs.add_file(1, b"broken.json", lambda: 1 / 0)
    mount = mounted(fs)
    assert sorted(os.listdir(mount.at)) == ["broken.json", "late.json"]
    assert (mount.at / "late.json").stat().st_size == 6000
    assert (mount.at / "late.json").read_bytes() == b"{}" * 3000
    with pytest.raises(OSError):
        (mount.at / "broken.json").read_bytes()
    assert mount.end() == 0


def test_a_thread_serves_and_another_ends_it(tmp_path):
    fs = MemoryFS()
    fs.file(2, b"file", b"content")
    table = MountTable()
    table.mount(fs)
    place = tmp_path / "mnt"
    place.mkdir()
    for _ in range(2):
        ready = threading.Event()
        handler = signal.getsignal(signal.SIGTERM)
        thread = threading.Thread(target=serve, args=(table, str(place), MountOptions(), ready.set))
        thread.start()
        assert ready.wait(10)
        assert output("cat", place / "file") == "content"
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        with pytest.raises(Busy):
            serve(table, str(other))
        assert signal.getsignal(signal.SIGTERM) is handler
        assert stop()
        thread.join(5)
        assert not thread.is_alive()
        assert not os.path.ismount(place)
    assert not stop()


@both_loops
def test_a_directory_that_is_its_own_ancestor_is_not_entered(mounted, plain_loop):
    fs = MemoryFS()
    middle = fs.directory(2, b"middle")
    inner = fs.directory(middle, b"inner")
    fs.file(inner, b"file", b"x")
    for name, key in ((b"root", 2), (b"middle", middle), (b"inner", inner)):
        fs.nodes[inner].names[name] = key
    mount = mounted(fs, plain_loop=plain_loop)
    done = subprocess.run(["find", mount.at], capture_output=True, text=True, check=False, timeout=10)
    assert done.stdout.count("\n") < 20
    with pytest.raises(OSError) as caught:
        os.listdir(mount.at / "middle/inner/root")
    assert caught.value.errno in (errno.ELOOP, errno.EIO)
    assert (mount.at / "middle/inner/file").read_bytes() == b"x"
    assert mount.end() == 0


def test_reading_goes_on_after_errors_in_a_listing(mounted):
    class Damaged(MemoryFS):
        def scan(self, directory, cookie=0):
            yield from super().scan(directory, cookie)
            if directory == self.damaged:
                raise Corrupt("directory block 3: bad checksum")

    fs = Damaged()
    fs.damaged = fs.directory(2, b"damaged")
    for number in range(500):
        fs.file(fs.damaged, b"f%d" % number, b"x")
    mount = mounted(fs)
    names = []
    with pytest.raises(OSError) as caught, os.scandir(mount.at / "damaged") as entries:
        for entry in entries:
            names.append(entry.name)
    assert caught.value.errno == errno.EUCLEAN
    assert len(names) == 500
    assert (mount.at / "damaged/f499").read_bytes() == b"x"
    assert mount.end() == 0


@both_loops
def test_links_that_must_be_waited_for_do_not_shorten_a_listing(mounted, plain_loop):
    class ColdLinks(MemoryFS):
        def readlink(self, ino):
            if not patience.may_block:
                raise WouldBlock
            return super().readlink(ino)

    fs = ColdLinks()
    inner = fs.directory(2, b"inner")
    names = []
    for number in range(300):
        names += [f"file {number}", f"link {number}"]
        fs.file(inner, b"file %d" % number, b"x")
        fs.link(inner, b"link %d" % number, b"file %d" % number)
    mount = mounted(fs, plain_loop=plain_loop)
    assert sorted(os.listdir(mount.at / "inner")) == sorted(names)
    assert all(os.readlink(mount.at / "inner" / f"link {number}") == f"file {number}" for number in range(300))
    assert mount.end() == 0


@both_loops
def test_a_target_that_is_too_long_for_the_kernel_is_that_links_error(mounted, plain_loop):
    """The longest that a guest can have, with the mount's own path before it, met where it must be waited for."""

    class ColdLinks(MemoryFS):
        def readlink(self, ino):
            if not patience.may_block:
                raise WouldBlock
            return super().readlink(ino)

    fs = ColdLinks()
    fs.link(2, b"long", b"/" + b"x" * 4090)
    fs.file(2, b"good", b"good")
    mount = mounted(fs, plain_loop=plain_loop)
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            os.readlink(mount.at / "long")
        assert caught.value.errno == errno.ENAMETOOLONG
        assert (mount.at / "good").read_bytes() == b"good"
    assert "defect" not in mount.log.read_text()
    assert mount.end() == 0
