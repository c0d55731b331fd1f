"""Several devices: in any order, some missing, some bad. What can still be told is told right, the rest is an error."""

from __future__ import annotations

import hashlib
import stat
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random

import manifest
import pytest
from btrfs_images import Edited, opened, told, unpacked
from imagefiles import Faulty

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, SourceError
from guestkit.fs.btrfs import open as open_btrfs
from guestkit.fs.btrfs.data import Verified
from guestkit.fs.btrfs.filesystem import Btrfs
from guestkit.guest import open_guest
from guestkit.limits import Limits

# how many devices may be missing
SPARE = {"raid1": 1, "raid1c3": 2, "raid1c4": 3, "raid10": 1, "raid5": 1, "raid6": 2}
_HEAD = 1 << 20  # bytes of a device that no chunk uses; the superblock stands there


def whole(name: str) -> manifest.Tree:
    return manifest.unpack(told(name)["tree"])


@cache
def spoiled(device: bytes) -> bytes:
    """The device with noise in all that chunks use, its superblocks left alone."""
    noise = bytearray(device)
    mark = Random(1).randbytes(4096)
    changed = 0
    for at in range(_HEAD, len(noise), 4096):
        if at != 0x4000000 and any(noise[at : at + 64]) | any(noise[at + 2000 : at + 2064]):
            noise[at : at + 4096] = mark
            changed += 1
    assert changed > 100
    return bytes(noise)


def shown(fs: Btrfs) -> manifest.Tree:
    return manifest.from_filesystem(fs)


@pytest.mark.parametrize("name", SPARE)
def test_any_devices_that_can_be_spared_may_be_missing(name: str) -> None:
    devices = unpacked(name)
    expected = whole(name)
    for lost in list(combinations(range(len(devices)), SPARE[name]))[:6]:
        fs = opened(*(device for at, device in enumerate(devices) if at not in lost))
        assert list(manifest.differences(expected, shown(fs))) == []
        assert fs.details()["devices_present"] == [at + 1 for at in range(len(devices)) if at not in lost]


@pytest.mark.parametrize("name", SPARE)
def test_noise_on_any_devices_that_can_be_spared_changes_nothing(name: str) -> None:
    devices = unpacked(name)
    expected = whole(name)
    noticed = 0
    for bad in list(combinations(range(len(devices)), SPARE[name]))[:3]:
        fs = opened(*(spoiled(device) if at in bad else device for at, device in enumerate(devices)))
        found = shown(fs)
        for path in [path for path in expected if path.startswith("nocow/")]:  # nothing tells which copy is right
            del found[path]
        kept = {path: entry for path, entry in expected.items() if not path.startswith("nocow/")}
        assert list(manifest.differences(kept, found)) == []
        count, first = fs.problems()
        noticed += count
        assert all(problem.message.endswith("bad checksum; another copy was used") for problem in first)
    assert noticed  # what stands in first copies


@pytest.mark.parametrize("lost", [False, True], ids=["noise", "missing"])
@pytest.mark.parametrize("name", SPARE)
def test_a_callers_buffer_is_filled_with_what_is_right_too(name: str, lost: bool) -> None:
    devices = unpacked(name)
    expected = whole(name)
    bad = set(range(SPARE[name]))
    left = [spoiled(device) if at in bad else device for at, device in enumerate(devices) if not lost or at not in bad]
    fs = opened(*left)
    read = 0
    for path, ino, status in fs.walk():
        if status is None or not stat.S_ISREG(status.mode) or path.startswith(b"nocow/"):
            continue
        source = fs.open(ino)
        buf = bytearray(source.size)
        source.read_into(0, memoryview(buf))
        assert hashlib.sha256(buf).hexdigest() == expected[path.decode()]["sha256"]
        if source.size > 2:  # neither begins nor ends with a sector
            part = bytearray(source.size - 2)
            source.read_into(1, memoryview(part))
            assert part == buf[1:-1]
        read += source.size
    assert read > 100_000
    assert lost or fs.problems()[0]


@pytest.mark.parametrize("name", ["raid0", "raid5", "raid6", "raid1"])
def test_what_more_devices_would_be_needed_for_is_an_error_and_never_zeros(name: str) -> None:
    devices = unpacked(name)
    expected = whole(name)
    good = failed = 0
    for kept in combinations(range(len(devices)), len(devices) - SPARE.get(name, 0) - 1):
        try:
            fs = opened(*(devices[at] for at in kept))
        except GuestkitError:
            failed += 1
            continue
        for path, entry in shown(fs).items():
            if "error" in entry:
                failed += 1
            elif path in expected and entry.get("sha256") != expected[path].get("sha256"):
                raise AssertionError(f"{path} reads wrong")
            else:
                good += 1
    assert failed


def test_noise_on_all_copies_of_a_files_data_costs_that_file_alone() -> None:
    devices = [bytearray(device) for device in unpacked("raid1")]
    fs = opened(*devices)
    key = fs.lookup(fs.root, b"long")
    extent = next(fs.open(key).extents(0, 4096))
    for device in devices:
        at = device.find(fs.open(key).read(0, 64))
        assert at > 0
        device[at + 8192 : at + 8200] = b"overwrit"
    assert extent.length
    again = opened(*devices)
    found = shown(again)
    assert found["long"]["error"] == "EUCLEAN"
    expected = whole("raid1")
    del found["long"], expected["long"]
    assert list(manifest.differences(expected, found)) == []
    with pytest.raises(Corrupt, match=r"inode|logical address"):
        again.open(key).read(8192, 100)
    assert again.open(key).read(0, 8192) == fs_pattern(8192)


def fs_pattern(length: int) -> bytes:
    return "".join(f"{'long':6}{at:9x}\n" for at in range(0, length, 16)).encode()


def test_one_copy_of_a_node_suffices_and_none_is_an_error() -> None:
    image = Edited("dup")
    leaf = image.leaf(5, (256, 96, 0))
    first, second = image.place(leaf), image.place(leaf, 1)
    image.data[first + 500] ^= 1
    fs = image.open()
    assert list(manifest.differences(whole("dup"), shown(fs))) == []
    assert fs.problems()[0] == 1
    image.data[second + 500] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        fs = image.open()
        fs.stat(fs.root)


def test_devices_of_two_filesystems_or_one_twice_are_refused() -> None:
    one, two = unpacked("raid1")
    other = Edited("default")
    other.superblock(fsid=(32, "16s", b"another one that"))
    with pytest.raises(InvalidArgument, match="devices of the filesystems"):
        opened(one, other.data)
    with pytest.raises(InvalidArgument, match="two devices claim to be device 2"):
        opened(one, two, two)


def test_a_missing_device_is_named() -> None:
    devices = unpacked("raid0")
    problems: list[str] = []
    for kept in combinations(devices, 2):
        try:
            fs = opened(*kept)
            for _, ino, status in fs.walk():
                if status is not None and stat.S_ISREG(status.mode):
                    fs.open(ino).read(0, status.size)
        except SourceError as error:
            problems.append(str(error))
    assert problems
    assert all("device" in problem and "missing" in problem for problem in problems)


def test_the_copy_of_the_superblock_serves_when_the_first_is_gone() -> None:
    image = Edited("dup")
    image.data[0x10000:0x11000] = bytes(4096)
    fs = image.open()
    assert list(manifest.differences(whole("dup"), shown(fs))) == []
    assert fs.problems()[0] == 1


def test_a_read_that_the_host_fails_costs_only_what_it_touched_and_nothing_wrong_is_kept() -> None:
    (data,) = unpacked("mixed")
    counting = Faulty(data)
    expected = seen(open_btrfs([counting], Limits(decode_threads=0), {}))
    assert len(expected) > 100
    assert counting.reads > 100
    for number in range(1, counting.reads, 2):
        fails = {number, number + 1}  # the second copy too, where there are two
        source = Faulty(data, lambda count, fails=fails: count in fails)  # type: ignore[misc]
        try:
            fs = open_btrfs([source], Limits(decode_threads=0), {})
        except GuestkitError:
            continue
        for path, what in seen(fs).items():
            assert isinstance(what, GuestkitError) or what == expected[path], path
        source.fails = lambda count: False
        assert seen(fs) == expected


def test_a_file_that_ends_within_a_sector_costs_one_read() -> None:
    (data,) = unpacked("default")
    counting = Faulty(data)
    fs = open_btrfs([counting], Limits(decode_threads=0), {})
    done = 0
    for _, ino, status in fs.walk():
        if (
            status is None
            or not stat.S_ISREG(status.mode)
            or not 4096 < status.size < 1 << 17
            or not status.size % 4096
        ):
            continue
        source = fs.open(ino)
        extents = list(source.extents(0, status.size))
        if len(extents) == 1 and isinstance(extents[0].source, Verified):
            buf = memoryview(bytearray(status.size))
            source.read_into(0, buf)  # looks for its checksums
            before = counting.reads
            source.read_into(0, buf)
            assert counting.reads == before + 1
            done += 1
    assert done


def seen(fs: Btrfs) -> dict[bytes, object]:
    """{path: what can be told of it}, an error where one was met."""
    found: dict[bytes, object] = {}
    for path, ino, status in fs.walk():
        try:
            status = status or fs.stat(ino)
            what: list[object] = [status, [(name, fs.xattr(ino, name)) for name in fs.xattr_names(ino)]]
            if stat.S_ISREG(status.mode) and status.size < 1 << 20:
                what.append(fs.open(ino).read(0, status.size))
            elif stat.S_ISLNK(status.mode):
                what.append(fs.readlink(ino))
            found[path] = what
        except GuestkitError as error:
            found[path] = error
    return found


def test_seeds_that_are_none_of_ours_change_nothing_and_a_missing_one_is_an_error() -> None:
    top, middle, bottom = unpacked("sprout")
    expected = whole("sprout")
    other = Edited("default")
    other.superblock(flags=(56, "Q", 1 | 1 << 32))  # a seed, with a device 1 of its own
    fs = opened(other.data, bottom, middle, top)
    assert list(manifest.differences(expected, shown(fs))) == []
    assert fs.details()["devices_present"] == [1, 2, 3]
    with pytest.raises(InvalidArgument, match="two devices claim to be seed device 1"):
        opened(bottom, bottom, middle, top)
    fs = opened(top, middle)
    assert fs.problems()[1][0].message == "of 3 devices these are here: 2, 3"
    with pytest.raises(SourceError, match="device 1 of the Btrfs filesystem is missing"):
        fs.open(fs.lookup(fs.root, b"long")).read(0, 4096)
    # the seeds alone are what they were before anything stood on them
    below = opened(middle, bottom)
    assert b"new in sprout.img" not in {entry.name for entry in below.scan(below.root)}
    assert below.details()["devices_present"] == [1, 2]
    assert opened(bottom, middle).details()["devices_present"] == [1]
    with pytest.raises(Corrupt, match="superblock"):
        opened(bytes(1 << 21), middle, bottom)


def test_a_device_with_the_number_of_a_seed_is_not_taken_for_it() -> None:
    top, middle, bottom = unpacked("sprout")
    stranger = bytearray(bottom)
    stranger[0x10000 + 267 : 0x10000 + 283] = b"not that device!"
    sum = crc32c(stranger[0x10000 + 32 : 0x11000]) ^ 0xFFFFFFFF
    stranger[0x10000:0x10004] = sum.to_bytes(4, "little")
    fs = opened(top, middle, stranger)
    assert fs.details()["devices_present"] == [2, 3]
    with pytest.raises(SourceError, match="device 1 of the Btrfs filesystem is missing"):
        fs.open(fs.lookup(fs.root, b"long")).read(0, 4096)


def test_guest_finds_the_seeds_of_what_is_opened(tmp_path: Path) -> None:
    names = []
    for number, device in enumerate(unpacked("sprout")):
        names.append(tmp_path / f"{number}.img")
        names[-1].write_bytes(device)
    expected = whole("sprout")
    for order in ((0, 1, 2), (2, 0, 1)):
        with open_guest(*(names[at] for at in order), format="raw") as guest:
            fs = guest.filesystem("/dev/sd" + "abc"[order.index(0)])
            assert list(manifest.differences(expected, manifest.from_filesystem(fs))) == []
            assert len(guest.filesystems()) == 3
            seed = guest.filesystem("/dev/sd" + "abc"[order.index(2)])
            assert seed.lookup(seed.root, b"many") and seed.problems() == (0, ())
            middle = guest.filesystem("/dev/sd" + "abc"[order.index(1)])
            assert middle.details()["devices_present"] == [1, 2]
            assert middle.lookup(middle.root, b"new in sprout.img.2")
