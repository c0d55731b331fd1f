"""Directories: listing, resuming, the index, inline ones, and damage that hides only itself."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from ext4_images import Counted, content, make, path, reader, run

from guestkit.errors import Corrupt, NameTooLong, NotADirectory, NotFound
from guestkit.fs.ext4.directory import Format, parse_names
from guestkit.fs.ext4.filesystem import Ext4

pytestmark = pytest.mark.tool("mke2fs", "debugfs", "e2fsck")

FORM = Format((0, 8, 4, 2, 6, 1, 12, 10) + (0,) * 248, 11, 10_000, 1024)


def entry(ino: int, name: bytes, length: int = 0, kind: int = 1, name_len: int | None = None) -> bytes:
    length = length or 8 + (len(name) + 3 & ~3)
    head = struct.pack("<IHBB", ino, length, len(name) if name_len is None else name_len, kind)
    return (head + name).ljust(length, b"\0")


def test_entries_are_decoded_with_the_place_behind_them() -> None:
    block = (
        entry(2, b".", 12, 2) + entry(2, b"..", 12, 2) + entry(12, b"one") + entry(0, b"gone") + entry(13, b"b", 40, 2)
    )
    found = parse_names(block, 0, len(block), 4096, FORM)
    assert found.entries == [(b"one", 12, 8, 4096 + 36), (b"b", 13, 4, 4096 + 88)]
    assert found.flaw is None


def test_length_zero_ends_the_block_with_damage() -> None:
    block = entry(12, b"one") + struct.pack("<IHBB", 13, 0, 1, 1) + bytes(100)
    found = parse_names(block, 0, len(block), 0, FORM)
    assert [name for name, *_ in found.entries] == [b"one"]
    assert isinstance(found.flaw, Corrupt)


@pytest.mark.parametrize(
    "bad",
    [
        entry(20_000, b"far"),
        entry(7, b"reserved"),
        entry(12, b"long", 12, 1, 200),
        entry(12, b"a/b"),
        entry(12, b"a\0b"),
    ],
)
def test_damaged_entry_hides_only_itself(bad: bytes) -> None:
    block = entry(12, b"one") + bad + entry(13, b"two")
    found = parse_names(block, 0, len(block), 0, FORM)
    assert [name for name, *_ in found.entries] == [b"one", b"two"]
    assert isinstance(found.flaw, Corrupt)


def test_record_of_a_whole_block_of_64_kib() -> None:
    form = FORM._replace(block_size=65536)
    block = entry(12, b"all", 12).ljust(65536, b"\0")
    for stored in (0, 0xFFFF):
        whole = block[:4] + struct.pack("<H", stored) + block[6:]
        assert parse_names(whole, 0, 65536, 0, form).entries == [(b"all", 12, 8, 65536)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An image with an indexed directory of 20,000 names."""
    folder = tmp_path_factory.mktemp("large")
    image = make(folder / "l.img", "32M", "-t", "ext4", "-b", "4096", "-N", "22000", "-O", "^has_journal")
    mount = folder / "mount"
    mount.mkdir()
    run("mount", "-o", "loop", str(image), str(mount))  # mke2fs takes a minute for so many names
    try:
        (mount / "dir").mkdir()
        for number in range(20_000):
            (mount / "dir" / f"name-{number:06}").touch()
    finally:
        run("umount", str(mount))
    return image.read_bytes()


@pytest.mark.root
def test_lookup_in_a_large_directory_reads_few_blocks(large: bytes) -> None:
    for name in (b"name-000000", b"name-012345", b"name-019999"):
        source = Counted(large)
        fs = reader(source)
        directory = fs.lookup(2, b"dir")
        fs.stat(directory)
        source.reads.clear()
        assert fs.lookup(directory, name) > 11
        assert len(source.blocks(4096)) <= 8
    with pytest.raises(NotFound):
        fs.lookup(directory, b"name-020000")


@pytest.mark.root
def test_listing_a_large_directory_reads_each_block_once(large: bytes) -> None:
    source = Counted(large)
    fs = reader(source)
    directory = fs.lookup(2, b"dir")
    fs.stat(directory)
    source.reads.clear()
    names = [found.name for found in fs.scan(directory)]
    assert sorted(names) == [b"name-%06d" % number for number in range(20_000)]
    read = source.blocks(4096)
    assert len(read) == len(set(read)) <= fs.stat(directory).size // 4096 + 2


@pytest.mark.root
def test_index_and_search_agree(large: bytes) -> None:
    fs = reader(large)
    directory = fs.lookup(2, b"dir")
    for found in list(fs.scan(directory))[::97]:
        assert fs.lookup(directory, found.name) == found.ino


@pytest.mark.root
def test_listing_resumes_at_every_cookie(large: bytes) -> None:
    fs = reader(large)
    directory = fs.lookup(2, b"dir")
    entries = list(fs.scan(directory))
    assert all(0 < found.cookie < 1 << 63 for found in entries)
    for index in (0, 1, 77, 5000, 19_998):
        assert list(fs.scan(directory, entries[index].cookie))[:50] == entries[index + 1 : index + 51]
    assert list(fs.scan(directory, entries[-1].cookie)) == []


@pytest.mark.root
def test_damaged_index_is_noted_and_all_blocks_are_searched(large: bytes) -> None:
    fs = reader(large)
    directory = path(fs, b"dir")
    extents = _directory_extents(fs, directory)
    data = bytearray(large)
    at = extents[0]
    data[at + 40] ^= 0xFF
    fs = reader(bytes(data))
    assert fs.lookup(directory, b"name-012345") > 11
    assert "all blocks were searched" in fs.problems()[1][0].message


def _directory_extents(fs: Ext4, directory: int) -> list[int]:
    """Device offset of each block of a directory."""
    from guestkit.fs.ext4.content import mapping

    inode = fs.table.read(directory)
    size = fs.superblock.block_size
    runs = mapping(fs.blocks, fs.table, inode).runs(0, inode.size // size)
    return [(physical + step) * size for _, physical, count in runs for step in range(count)]


@pytest.mark.root
def test_damaged_block_is_reported_after_the_rest_was_listed(large: bytes) -> None:
    fs = reader(large)
    directory = path(fs, b"dir")
    data = bytearray(large)
    data[_directory_extents(fs, directory)[3] + 100] ^= 1
    fs = reader(bytes(data))
    names = []
    with pytest.raises(Corrupt, match="det_checksum"):
        for found in fs.scan(directory):
            names.append(found.name)
    assert 19_000 < len(names) < 20_000
    assert fs.problems()[0] >= 1
    lost = next(b"name-%06d" % number for number in range(20_000) if b"name-%06d" % number not in set(names))
    with pytest.raises(Corrupt):
        fs.lookup(directory, lost)


@pytest.mark.root
def test_scan_stat_and_walk_equal_scan_and_stat(large: bytes) -> None:
    fs = reader(large)
    directory = path(fs, b"dir")
    both = list(fs.scan_stat(directory))
    assert [found for found, _ in both] == list(fs.scan(directory))
    for found, status in both[::501]:
        assert status == fs.stat(found.ino)
    walked = {name: (ino, status) for name, ino, status in fs.walk()}
    assert len(walked) == 20_002
    assert walked[b"dir/name-000007"] == (path(fs, b"dir", b"name-000007"), fs.stat(path(fs, b"dir", b"name-000007")))


@pytest.mark.parametrize("size", [256, 1024])
def test_inline_directories_list_and_resume(tmp_path: Path, size: int) -> None:
    tree = tmp_path / "tree"
    for count in (0, 1, 3, 6, 12):
        (tree / f"d{count}").mkdir(parents=True)
        for number in range(count):
            (tree / f"d{count}" / f"f{number}").write_bytes(b"x" * number)
    fs = reader(make(tmp_path / "i.img", "4M", "-t", "ext4", "-O", "inline_data", "-I", str(size), tree=tree))
    inline = 0
    for count in (0, 1, 3, 6, 12):
        directory = path(fs, b"d%d" % count)
        inline += bool(fs.table.read(directory).flags & 0x10000000)
        entries = list(fs.scan(directory))
        assert sorted(found.name for found in entries) == sorted(b"f%d" % number for number in range(count))
        for index, found in enumerate(entries):
            assert list(fs.scan(directory, found.cookie)) == entries[index + 1 :]
            assert fs.lookup(directory, found.name) == found.ino
        assert fs.parent(directory) == 2
    assert inline >= 3  # mke2fs keeps no more inline; the kernel does


def test_names_are_looked_up_exactly(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    name = b"\xff\xfe\x80name"
    Path(os.fsdecode(bytes(tree) + b"/sub/" + name)).write_text("bytes")
    fs = reader(make(tmp_path / "n.img", "4M", "-t", "ext2", tree=tree))
    assert content(fs, b"sub", name) == b"bytes"
    with pytest.raises(NotFound):
        fs.lookup(2, b"SUB")
    with pytest.raises(NotADirectory):
        fs.lookup(path(fs, b"sub", name), b"x")
    with pytest.raises(NameTooLong):
        fs.lookup(2, b"x" * 256)


def test_htree_that_leads_back_to_its_root_ends(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "dir").mkdir(parents=True)
    for number in range(400):
        (tree / "dir" / f"a-name-that-fills-the-blocks-{number:04}").touch()
    image = make(tmp_path / "h.img", "4M", "-t", "ext4", "-b", "1024", "-N", "800", "-O", "^metadata_csum", tree=tree)
    run("/usr/sbin/e2fsck", "-fyD", str(image), check=False)
    data = bytearray(image.read_bytes())
    fs = reader(bytes(data))
    directory = path(fs, b"dir")
    root = _directory_extents(fs, directory)[0]
    count = int.from_bytes(data[root + 34 : root + 36], "little")
    assert count > 2
    for index in range(count):
        data[root + 36 + 8 * index : root + 40 + 8 * index] = bytes(4)
    fs = reader(bytes(data))
    assert fs.lookup(directory, b"a-name-that-fills-the-blocks-0123") > 11
    assert fs.problems()[0] == 1
