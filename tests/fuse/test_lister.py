"""The process that lists ahead: what it may hand over, and that a mount serves as well without it."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from memory import MemoryFS

from guestkit.errors import Corrupt
from guestkit.fuse import lister_process
from guestkit.fuse.lister_process import Frame, ListerProcess

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: nothing lists beside"),
]
both_loops = pytest.mark.parametrize("plain_loop", [False, True], ids=["direct", "plain"])


class Told(MemoryFS):
    """Tells which process lists which directory, in a file; some are damaged."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.broken: set[int] = set()

    def scan(self, directory, cookie=0):
        os.write(self.log, b"%d %d\n" % (os.getpid(), directory))
        yield from super().scan(directory, cookie)
        if directory in self.broken:
            error = Corrupt("directory")
            self.damage.add(f"inode {directory}", error)
            raise error


def grown(fs: MemoryFS, wide: int = 30, deep: int = 6) -> None:
    for number in range(wide):
        at = fs.root
        for level in range(deep):
            at = fs.directory(at, b"d%d" % number if level == 0 else b"deeper")
            for file in range(5):
                fs.file(at, b"file%d" % file, b"%d" % file)
            fs.link(at, b"link", b"/d1/file1")
            out = b"../" * 9 + b"d2" if number % 10 == 0 else b"file2"  # one that leads out is for the mount to list
            fs.link(at, b"out", out)


def child_of(pid: int) -> int:
    """The process that lists for the mount `pid`; it is started when the mount answers."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if found:
            (child,) = found
            return int(child)
        time.sleep(0.005)
    raise AssertionError("nothing lists")


def gone(pid: int) -> bool:
    """Whether it ends within some seconds; when its parent has ended, init buries it, and that may take its time."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def found(top: Path) -> str:
    command = ["find", top, "-mindepth", "1", "-printf", "%P %y %m %n %U %G %s %T@ %l\\n"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "".join(sorted(done.stdout.replace(str(top), "TOP").splitlines(keepends=True))) + done.stderr.replace(
        str(top), "TOP"
    )


def listers(log: Path) -> dict[int, set[int]]:
    """The processes that listed each directory."""
    told: dict[int, set[int]] = {}
    for line in log.read_text().splitlines():
        pid, directory = map(int, line.split())
        told.setdefault(directory, set()).add(pid)
    return told


@both_loops
def test_another_process_lists_ahead_of_a_walk(mounted, tmp_path, plain_loop):
    fs = Told(tmp_path / "log")
    grown(fs)
    alone, shared = mounted(fs, plain_loop=plain_loop), mounted(fs, plain_loop=plain_loop)
    os.kill(child_of(alone.pid), signal.SIGKILL)
    expected = found(alone.at)
    assert expected.count("\n") == 30 * 6 * 8
    assert all(pids == {alone.pid} for pids in listers(tmp_path / "log").values())
    (tmp_path / "log").write_text("")
    child = child_of(shared.pid)
    assert len(os.listdir(shared.at)) == 30
    until = time.monotonic() + 30
    while sum(child in pids for pids in listers(tmp_path / "log").values()) < 150:
        assert time.monotonic() < until, "it does not list ahead"
        time.sleep(0.01)
    assert found(shared.at) == expected
    # on a busy machine a walk is quicker than the lister, and what it has done goes to waste
    assert sum(pids == {child} for pids in listers(tmp_path / "log").values()) > 20
    assert alone.end() == 0 and shared.end() == 0


@both_loops
def test_damage_is_the_mounts_own(mounted, tmp_path, plain_loop):
    """What is damaged is listed, and met again, by the process that answers for it."""
    fs = Told(tmp_path / "log")
    grown(fs)
    for number in (3, 7, 20):
        fs.broken.add(fs.lookup(fs.lookup(fs.root, b"d%d" % number), b"deeper"))
    bad = fs.lookup(fs.lookup(fs.root, b"d5"), b"deeper")
    fs.nodes[fs.lookup(bad, b"file2")].error = Corrupt("inode")
    alone, shared = mounted(fs, plain_loop=plain_loop), mounted(fs, plain_loop=plain_loop)
    os.kill(child_of(alone.pid), signal.SIGKILL)
    expected = found(alone.at)
    assert expected.count("Input/output error") == 3 + 1 or expected.count("Structure needs cleaning") == 3 + 1
    (tmp_path / "log").write_text("")
    assert found(shared.at) == expected
    told = listers(tmp_path / "log")
    assert all(shared.pid in told[directory] for directory in (*fs.broken, bad))
    assert alone.end() == 0 and shared.end() == 0


def test_a_mount_outlives_its_lister(mounted, tmp_path):
    """In the middle of a walk; that is noticed when more is wanted than has arrived, or when the mount ends."""
    fs = Told(tmp_path / "log")
    grown(fs)
    mount = mounted(fs)
    child = child_of(mount.pid)
    assert len(os.listdir(mount.at)) == 30
    for number in range(10):
        assert len(os.listdir(mount.at / f"d{number}" / "deeper")) == 8
    os.kill(child, signal.SIGKILL)
    assert found(mount.at).count("\n") == 30 * 6 * 8
    assert mount.end() == 0
    assert gone(child)


def test_a_lister_that_stands_still_delays_nobody(mounted, tmp_path):
    fs = Told(tmp_path / "log")
    grown(fs)
    mount = mounted(fs)
    child = child_of(mount.pid)
    os.kill(child, signal.SIGSTOP)
    assert found(mount.at).count("\n") == 30 * 6 * 8
    assert mount.end() == 0
    assert gone(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_lister_ends_with_the_mount(mounted, tmp_path, number):
    fs = Told(tmp_path / "log")
    grown(fs)
    mount = mounted(fs)
    assert found(mount.at)
    child = child_of(mount.pid)
    mount.end(number)
    assert gone(child)
    if number == signal.SIGKILL:  # nobody else holds /dev/fuse
        with pytest.raises(OSError, match="not connected"):
            os.stat(mount.at / "not asked for yet")


def test_it_is_not_started_where_that_would_not_be_safe(monkeypatch):
    def forbidden():
        raise AssertionError("forked")

    monkeypatch.setattr(os, "fork", forbidden)
    go = threading.Event()
    other = threading.Thread(target=go.wait)
    other.start()
    try:  # the other thread may hold a lock
        assert lister_process.start(lambda: None, lambda: 0, set) is None
    finally:
        go.set()
        other.join()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert lister_process.start(lambda: None, lambda: 0, set) is None


def test_a_mount_never_waits_for_its_lister():
    """Orders that find no room are left out; frames in any pieces come whole; an end is noticed."""
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    theirs, orders = os.pipe()
    results, ours = os.pipe()
    process = ListerProcess(pid, orders, results)
    process.want(dict.fromkeys(range(1, 100000), 1))
    assert 0 < len(os.read(theirs, 1 << 20)) <= 1 << 20
    assert not process.step()
    records = [b"a" * 160, b"b" * 168]
    body = b"".join(records)
    frame = struct.pack("=QQII", 7, 9, 2, len(body)) + struct.pack("=HH", 160, 168) + body
    wire = frame * 3
    for at in range(0, len(wire), 50):
        os.write(ours, wire[at : at + 50])
        assert process.step()
    assert len(process.done) == 3
    for done in process.done:
        assert isinstance(done, Frame) and (done.node, done.cookie) == (7, 9) and list(done.split()) == records
    os.kill(pid, signal.SIGKILL)
    os.close(ours)
    assert not process.step() and process.ended
    os.close(theirs)


def test_what_is_prepared_is_bounded(tmp_path):
    """A client that goes other ways does not make what is prepared grow."""
    from guestkit.fuse import protocol
    from guestkit.fuse.ahead import Ahead
    from guestkit.fuse.options import MountOptions
    from guestkit.fuse.requests import Requests
    from guestkit.namespace import MountTable

    fs = MemoryFS()
    for number in range(400):
        at = fs.directory(2, b"d%d" % number)
        for file in range(700):
            fs.file(at, b"%d" % file)
    namespace = MountTable()
    namespace.mount(fs)
    requests = Requests(namespace, MountOptions(), protocol.Entries(MountOptions()))
    ahead: Ahead = requests.ahead
    listing = ahead.listing(namespace.root)
    while not listing.ended:
        listing.fill()
    ahead.listed(listing)
    most = 24576 + 16 * 702  # what is listed together comes whole
    for _ in range(20):
        while ahead.idle():
            pass
        assert 24576 <= ahead._held <= most
        ahead.prepared(12345)
        assert ahead._held <= 24576
    assert ahead._held == sum(count for count, _ in ahead._ready.values())


@pytest.mark.parametrize("steps", [1, 500, *range(895, 935, 3)])
def test_a_listing_that_is_asked_for_in_the_middle_goes_on_there(steps):
    """A large directory is handed over as far as it is listed; what follows is listed once."""
    from guestkit.fuse import protocol
    from guestkit.fuse.options import MountOptions
    from guestkit.fuse.requests import Requests
    from guestkit.namespace import MountTable, node_of

    fs = MemoryFS()
    large = fs.directory(2, b"large")
    for file in range(900):
        fs.file(large, b"%d" % file)
    namespace = MountTable()
    namespace.mount(fs)
    requests = Requests(namespace, MountOptions(), protocol.Entries(MountOptions()))
    node = node_of(1, large)
    requests.lister.want({node: 1 << 20})
    for _ in range(steps):
        requests.lister.step()
    listing = requests.ahead.listing(node)
    while not listing.ended:
        listing.fill(50)
    names = [name for name, *_ in listing.pending]
    assert names == [b".", b"..", *(b"%d" % file for file in range(900))]


def test_a_directory_with_damage_is_never_handed_over(tmp_path):
    """Damage that only hides a name is counted the first time alone; the mount's own process has to meet it too."""
    from guestkit.fuse import protocol
    from guestkit.fuse.options import MountOptions
    from guestkit.fuse.requests import Requests
    from guestkit.namespace import MountTable, node_of

    class Hiding(MemoryFS):
        def scan(self, directory, cookie=0):
            if directory == bad:
                self.damage.add(f"inode {directory}", "a name cannot be shown")
            yield from super().scan(directory, cookie)

    fs = Hiding()
    bad, good = fs.directory(2, b"bad"), fs.directory(2, b"good")
    fs.file(bad, b"file")
    namespace = MountTable()
    namespace.mount(fs)
    requests = Requests(namespace, MountOptions(), protocol.Entries(MountOptions()))
    theirs, orders = os.pipe()
    results, ours = os.pipe()
    worker = threading.Thread(
        target=lister_process._work, args=(requests.lister, namespace.damaged, theirs, ours), daemon=True
    )
    worker.start()
    for key in (bad, bad, good):
        before = namespace.damaged()
        os.write(orders, struct.pack("=QQ", node_of(1, key), 1))
        time.sleep(0.2)
        assert namespace.damaged() - before == (key == bad and before == 0)
    os.close(orders)
    worker.join(5)
    assert not worker.is_alive()
    (node,) = struct.unpack_from("=Q", os.read(results, 1 << 16))
    assert node == node_of(1, good)
    for fd in (theirs, results, ours):
        os.close(fd)
