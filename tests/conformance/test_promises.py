"""The promises of docs/security.md over a whole guest: faults of the host, changes under us, leaks, damage."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import stat
import threading
import tracemalloc
from pathlib import Path

import pytest

from guestkit.errors import GuestkitError, SourceError
from guestkit.guest import Guest
from guestkit.limits import Limits
from guestkit.namespace import MountTable
from guestkit.source import FileSource

ROOT = "/dev/sda2"  # the sample guest's root filesystem


def _contents(guest: Guest, device: str = ROOT) -> dict[bytes, object]:
    """{path: what can be seen of it}; an error stands where it was met."""
    table = MountTable()
    table.mount(guest.filesystem(device), source=device)
    seen: dict[bytes, object] = {}
    for path, node, status in table.walk(table.root):
        try:
            status = status or table.stat(node)
            what: object = status
            if stat.S_ISREG(status.mode):
                source = table.open(node)
                data = source.read(0, min(source.size, 1 << 20))
                what = (status, hashlib.sha256(data).hexdigest())
            elif stat.S_ISLNK(status.mode):
                what = (status, table.readlink(node))
            seen[path] = (what, [(name, table.xattr(node, name)) for name in table.xattr_names(node)])
        except GuestkitError as error:
            seen[path] = error
    return seen


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, sample_image: Path) -> Path:
    """The sample guest as a sparse raw image."""
    path = tmp_path_factory.mktemp("promises") / "sample.raw"
    with Guest() as guest, path.open("wb") as out:
        source = guest.add(sample_image).open()
        out.truncate(source.size)
        for extent in source.extents(0, source.size):
            if extent.source is not None:
                out.seek(extent.offset)
                out.write(extent.source.read(extent.source_offset, extent.length))
    return path


@pytest.fixture(scope="module")
def base(raw: Path) -> dict[bytes, object]:
    with Guest() as guest:
        guest.add(raw)
        seen = _contents(guest)
    assert len(seen) > 100
    assert not [error for error in seen.values() if isinstance(error, GuestkitError)]
    return seen


def test_raw_and_compressed_qcow2_show_the_same(sample_image: Path, base: dict[bytes, object]) -> None:
    with Guest() as guest:
        guest.add(sample_image)
        assert _contents(guest) == base


class _Faults:
    """Makes the k-th read of host files fail, in one of four ways."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = -1
        self.kind: type[Exception] = SourceError
        real_preadv, real_pread = os.preadv, os.pread

        def due() -> bool:
            self.count += 1
            return self.count == self.at

        def preadv(fd, buffers, offset, flags=0):
            if due():
                if self.kind is EOFError:
                    return 0
                raise self.kind(5, "injected")
            return real_preadv(fd, buffers, offset, flags)

        def pread(fd, length, offset):
            if due():
                if self.kind is EOFError:
                    return b""
                raise self.kind(5, "injected")
            return real_pread(fd, length, offset)

        monkeypatch.setattr(os, "preadv", preadv)
        monkeypatch.setattr("guestkit.resolve._pread", pread, raising=False)


@pytest.mark.parametrize("kind", [OSError, EOFError], ids=["EIO", "short"])
def test_a_fault_of_the_host_costs_only_what_it_touched(
    raw: Path, base: dict[bytes, object], monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    faults = _Faults(monkeypatch)
    faults.kind = kind
    with Guest() as guest:
        guest.add(raw)
        _contents(guest)
    reads = faults.count
    assert reads > 20
    for at in range(1, reads + 1, max(1, reads // 60)):
        faults.count, faults.at = 0, at
        with Guest() as guest:
            try:
                guest.add(raw)
                seen = _contents(guest)
            except GuestkitError:
                faults.at = -1
                continue
            faults.at = -1
            for path, what in seen.items():
                assert isinstance(what, GuestkitError) or what == base[path], path
            again = _contents(guest)  # nothing wrong was kept
            for path, what in again.items():
                assert what == base[path], path
            assert again.keys() == base.keys()


def test_an_image_that_changes_under_us_gives_results_or_errors(raw: Path, tmp_path: Path) -> None:
    copy = tmp_path / "changing.raw"
    copy.write_bytes(raw.read_bytes())
    size = copy.stat().st_size
    stop = threading.Event()

    def flip() -> None:
        chooser = random.Random(7)
        with copy.open("r+b", buffering=0) as file:
            while not stop.is_set():
                offset = chooser.randrange(size)
                file.seek(offset)
                byte = file.read(1)
                file.seek(offset)
                file.write(bytes([byte[0] ^ 1 << chooser.randrange(8)]))

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(10):
            with Guest() as guest:
                try:
                    guest.add(copy)
                    _contents(guest)
                except GuestkitError:
                    continue
    finally:
        stop.set()
        thread.join()


def test_opening_walking_and_closing_leaks_nothing(sample_image: Path) -> None:
    def round_trip() -> None:
        with Guest() as guest:
            guest.add(sample_image)
            fs = guest.filesystem(ROOT)
            for _, ino, status in fs.walk():
                if status is not None and stat.S_ISREG(status.mode) and status.size:
                    fs.open(ino).read(0, 1)

    round_trip()
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        round_trip()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert set(threading.enumerate()) <= threads
    assert grown < 1 << 20


def test_a_closed_guest_reads_nothing_more(sample_image: Path) -> None:
    guest = Guest()
    disk = guest.add(sample_image)
    source = disk.open()
    fs = guest.filesystem(ROOT)
    guest.close()
    decoy = [os.open("/dev/zero", os.O_RDONLY) for _ in range(8)]  # takes the numbers that were closed
    try:
        with pytest.raises(GuestkitError):
            source.read(0, 4096)
        with pytest.raises(GuestkitError):
            list(fs.scan(fs.root))
    finally:
        for fd in decoy:
            os.close(fd)


def test_caches_stay_within_their_limit(raw: Path) -> None:
    limits = Limits(cache_bytes=1 << 20)
    with Guest(limits=limits) as guest:
        guest.add(raw)
        _contents(guest)
        assert limits.cache.bytes <= 1 << 20


def test_only_the_named_image_is_opened(sample_image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = FileSource.open.__func__

    def record(cls: type[FileSource], path: str, **options: int) -> FileSource:
        opened.append(os.fspath(path))
        return real(cls, path, **options)

    monkeypatch.setattr(FileSource, "open", classmethod(record))
    with Guest() as guest:
        guest.add(sample_image)
        _contents(guest)
    assert opened == [os.fspath(sample_image)]
