"""Fast commits of ext4: against the kernel's view of the same images, and hand-made tags."""

from __future__ import annotations

import random
import stat
import struct
import time
from typing import Any

import pytest
from dirtyext import image, kernel_view, view

from guestkit.checksum import crc32c
from guestkit.errors import GuestkitError
from guestkit.fs import ext4
from guestkit.fs.ext4 import fastcommit
from guestkit.fs.ext4.fastcommit import ADD_RANGE, CREATE, DEL_RANGE, HEAD, INODE, LINK, PAD, TAIL, UNLINK, scan
from guestkit.fs.ext4.journal import parse_journal_superblock
from guestkit.fs.ext4.superblock import parse_superblock
from guestkit.limits import Limits
from guestkit.source import BytesSource, Overlay, Patch

IMAGES = ("fast-commit", "fast-names", "fast-tree", "fast-links")


def without_times_of_directories(tree: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The kernel stamps a directory that its replay changes with the time of the replay."""
    return {path: [*facts[:5], 0, *facts[6:]] if stat.S_ISDIR(facts[0]) else facts for path, facts in tree.items()}


def fast_area(name: str) -> tuple[int, int, int]:
    """(byte offset, blocks, block size) of the fast commits of a fixture, which stand in a row."""
    source = BytesSource(image(name))
    superblock = parse_superblock(source.read(1024, 1024))
    size = superblock.block_size
    runs = ext4.journal_runs(source, superblock, 1024, Limits())
    header = parse_journal_superblock(source.read(runs[0][1] * size, size), size, sum(run[2] for run in runs))
    place = next(p + header.fast_blocks[0] - at for at, p, count in runs if at <= header.fast_blocks[0] < at + count)
    return place * size, len(header.fast_blocks), size


def fast_tags(name: str) -> list[fastcommit.Tag]:
    place, count, size = fast_area(name)
    data = image(name)
    blocks = [data[place + n * size : place + (n + 1) * size] for n in range(count)]
    sequence = int.from_bytes(blocks[0][8:12], "little")
    return scan(blocks, sequence, 256)[0]


@pytest.mark.parametrize("name", IMAGES)
def test_tree_after_fast_commits_is_what_the_kernel_shows(name: str) -> None:
    fs, found = view(BytesSource(image(name)))
    assert fs.state.kind == "replayed"
    assert fs.problems()[0] == 0
    assert without_times_of_directories(found) == without_times_of_directories(kernel_view(name))
    for path in found:
        key = fs.root
        for part in path.split("/"):
            key = fs.lookup(key, part.encode("latin-1")) if part != "." else key


@pytest.mark.parametrize(
    ("name", "free", "inodes", "grown"),
    [
        ("fast-commit", 18408, 6113, 0),
        ("fast-names", 23503, 7724, 0),
        ("fast-tree", 23616, 7733, 2),
        ("fast-links", 5568, 8159, 0),
    ],
)
def test_free_blocks_and_inodes_after_fast_commits_are_those_of_the_kernel(
    name: str, free: int, inodes: int, grown: int
) -> None:
    """`free`, `inodes`: the kernel's figures; `grown`: blocks that only its replay gives to a directory's index."""
    figures = ext4.open([BytesSource(image(name))], Limits(), {}).statvfs()
    assert (figures.bfree - grown, figures.ffree) == (free, inodes)


def test_wild_block_counts_in_fast_commits_leave_the_figures_within_the_filesystem() -> None:
    place, count, size = fast_area("fast-commit")
    data = image("fast-commit")
    tid = int.from_bytes(data[place + 8 : place + 12], "little")
    value = bytearray(next(tag.value for tag in fast_tags("fast-commit") if tag.kind == INODE))
    value[4 + 26 : 4 + 32] = b"\1\0\xff\xff\xff\xff"  # i_links_count, i_blocks_lo
    changed = block_of((INODE, bytes(value)), tid=tid, size=size).ljust(count * size, b"\0")
    fs = ext4.open([Overlay(BytesSource(data), [Patch(place, len(changed), BytesSource(changed), 0)])], Limits(), {})
    assert fs.state.kind == "replayed"
    assert (fs.statvfs().bfree, fs.statvfs().bavail) == (0, 0)


def test_fixtures_hold_every_kind_of_tag() -> None:
    kinds = {tag.kind for name in IMAGES for tag in fast_tags(name)}
    assert kinds == {ADD_RANGE, DEL_RANGE, CREATE, LINK, UNLINK, INODE}


@pytest.mark.parametrize("name", IMAGES)
def test_without_its_fast_commits_the_same_image_shows_an_older_tree(name: str) -> None:
    place, _, size = fast_area(name)
    silenced = Overlay(BytesSource(image(name)), [Patch(place, size, BytesSource(bytes(size)), 0)])
    fs, older = view(silenced)
    assert fs.state.kind == "replayed"
    assert older != view(BytesSource(image(name)))[1]


def test_damage_in_the_first_fast_commit_is_said() -> None:
    place, _, size = fast_area("fast-commit")
    data = bytearray(image("fast-commit")[place : place + size])
    data[30] ^= 1
    fs, _ = view(Overlay(BytesSource(image("fast-commit")), [Patch(place, size, BytesSource(bytes(data)), 0)]))
    assert fs.state.kind == "dirty-not-replayed" and "checksum" in fs.state.reason
    assert fs.problems()[0] == 1


def test_what_cannot_be_applied_is_counted_in_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastcommit, "_MOST_EXTENTS", 0)
    fs, _ = view(BytesSource(image("fast-commit")))
    assert fs.state.kind == "dirty-not-replayed"
    assert f"fast commits not replayed, {len(fast_tags('fast-commit'))} tags" in fs.state.reason


def block_of(*tags: tuple[int, bytes], tid: int = 5, size: int = 1024, head: bool = True) -> bytes:
    body = b""
    for kind, value in ((HEAD, struct.pack("<II", 0, tid)), *tags) if head else tags:
        body += struct.pack("<HH", kind, len(value)) + value
    body += struct.pack("<HHI", TAIL, size - len(body) - 4, tid)
    return (body + crc32c(body, 0).to_bytes(4, "little")).ljust(size, b"\0")


RANGE = (DEL_RANGE, struct.pack("<III", 12, 0, 1))


def test_tags_count_up_to_the_last_good_tail() -> None:
    good = block_of(RANGE, (PAD, b"\0" * 9), RANGE)
    more = block_of(RANGE, head=False)
    broken = more[:6] + b"\xff" + more[7:]
    assert len(scan([good], 5, 256)[0]) == 2
    assert len(scan([good, more], 5, 256)[0]) == 3
    assert scan([good, broken, more], 5, 256) == ([fastcommit.Tag(*RANGE)] * 2, "")
    assert scan([good], 6, 256) == ([], "")
    assert scan([bytes(1024)], 5, 256) == ([], "")
    assert scan([good, bytes(1024), more], 5, 256)[0] == [fastcommit.Tag(*RANGE)] * 2


@pytest.mark.parametrize(
    "tag",
    [
        (ADD_RANGE, b"x" * 15),
        (INODE, b"x" * 40),
        (INODE, b"x" * 261),
        (LINK, b"x" * 8),
        (CREATE, b"x" * 264),
        (77, b""),
    ],
)
def test_tags_of_a_wrong_size_or_kind_are_not_taken(tag: tuple[int, bytes]) -> None:
    tags, wrong = scan([block_of(tag)], 5, 256)
    assert not tags and wrong
    assert len(scan([block_of(RANGE), block_of(tag, head=False)], 5, 256)[0]) == 1


def test_unknown_features_are_not_taken() -> None:
    data = struct.pack("<HHII", HEAD, 8, 1, 5).ljust(1024, b"\0")
    assert scan([data], 5, 256) == ([], "fast commit features 0x1")


@pytest.mark.parametrize("name", IMAGES)
def test_mutants_of_fast_commits_give_a_result_or_a_typed_error(name: str) -> None:
    base = BytesSource(image(name))
    place, count, size = fast_area(name)
    tags = fast_tags(name)
    used = max(1, sum(any(base.data[place + n * size : place + (n + 1) * size]) for n in range(count)) // 2)
    rng = random.Random(name)
    results = set()
    for round_ in range(130):
        if round_ % 2:  # bytes anywhere
            at = place + rng.randrange(used) * size + rng.randrange(size)
            changed = bytes([rng.randrange(256)])
        else:  # good checksums around wild values
            at = place
            chosen = []
            room = size - 40
            for tag in rng.sample(tags, min(len(tags), 8)):
                value = bytearray(tag.value)
                for _ in range(rng.randint(0, 3)):
                    value[rng.randrange(len(value))] = rng.choice((0, 1, 2, 11, 0x7F, 0x80, 0xFF, rng.randrange(256)))
                if len(value) + 4 <= room:
                    chosen.append((tag.kind, bytes(value)))
                    room -= len(value) + 4
            changed = block_of(*chosen, tid=int.from_bytes(base.data[place + 8 : place + 12], "little"), size=size)
        begin = time.process_time()
        try:
            fs = ext4.open([Overlay(base, [Patch(at, len(changed), BytesSource(changed), 0)])], Limits(), {})
            results.add(fs.state.kind)
            for _, ino, status in fs.walk():
                if status is not None and stat.S_ISREG(status.mode):
                    try:
                        fs.open(ino).read(0, min(status.size, 100))
                    except GuestkitError:
                        pass
        except GuestkitError:
            pass
        assert time.process_time() - begin < 2
    assert results == {"replayed", "dirty-not-replayed"}
