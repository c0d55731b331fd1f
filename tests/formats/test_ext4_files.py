"""Inodes, links, attributes and contents as debugfs and mke2fs wrote them, and as the kernel shows them."""

from __future__ import annotations

import os
import random
import stat
import struct
from pathlib import Path

import pytest
from ext4_images import content, debugfs, make, path, reader, run

from guestkit.checksum import crc32c
from guestkit.errors import (
    Corrupt,
    GuestkitError,
    InvalidArgument,
    IsADirectory,
    NeedKey,
    NoAttribute,
    NotFound,
)
from guestkit.fs.ext4.filesystem import Ext4
from guestkit.fs.ext4.xattr import Attribute, entry_hashes, kernel_value

pytestmark = pytest.mark.tool("mke2fs", "debugfs")
NS = 1_000_000_000


@pytest.mark.parametrize("size", ["256", "1024"])
def test_inline_files_and_links_of_every_length(tmp_path: Path, size: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    data = bytes(range(1, 202))
    for length in range(201):
        (tree / f"f{length}").write_bytes(data[:length])
        if length:
            (tree / f"l{length}").symlink_to("t" * length)
    fs = reader(make(tmp_path / "i.img", "8M", "-t", "ext4", "-O", "inline_data", "-I", size, tree=tree))
    inline = 0
    for length in range(201):
        ino = path(fs, b"f%d" % length)
        inline += bool(fs.table.read(ino).flags & 0x10000000)
        source = fs.open(ino)
        assert source.size == length
        assert source.read(0, length) == data[:length]
        assert source.read(length // 3, length // 2) == data[length // 3 : length // 3 + length // 2]
        if length:
            assert fs.readlink(path(fs, b"l%d" % length)).target == b"t" * length
    assert inline > 60


def test_inline_file_made_longer_without_writing_ends_in_zeros(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(b"short")
    options = ("-t", "ext4", "-O", "inline_data,^metadata_csum", "-I", "256")
    image = make(tmp_path / "i.img", "4M", *options, tree=tree)
    debugfs(image, "set_inode_field /f size 3000")
    assert content(reader(image), b"f") == b"short".ljust(3000, b"\0")


# (seconds, extra word): the two low bits of the extra word are the epoch, the others nanoseconds
@pytest.mark.parametrize(
    ("seconds", "extra", "expected"),
    [
        (-(1 << 31), 0, -(1 << 31) * NS),  # 1901
        (-1, 5 << 2, -NS + 5),  # 1969
        (0, 0, 0),
        ((1 << 31) - 1, 999_999_999 << 2, ((1 << 31) - 1) * NS + 999_999_999),
        (-(1 << 31), 1, (1 << 31) * NS),  # 2038
        ((1 << 31) - 1, 3, ((1 << 31) - 1 + (3 << 32)) * NS),  # 2446
    ],
)
def test_times_reach_from_1901_to_2446(tmp_path: Path, seconds: int, extra: int, expected: int) -> None:
    image = make(tmp_path / "t.img", "4M", "-t", "ext4")
    word = seconds & 0xFFFFFFFF
    debugfs(
        image,
        *(
            f"set_inode_field /lost+found {name} {value:#x}"
            for field in ("atime", "mtime", "ctime", "crtime")
            for name, value in ((field, word), (f"{field}_extra", extra))
        ),
    )
    raw = _inode(image, 11)
    assert struct.unpack_from("<I", raw, 0x10)[0] == word, "debugfs wrote another time"
    found = reader(image).stat(11)
    assert (found.atime_ns, found.mtime_ns, found.ctime_ns, found.btime_ns) == (expected,) * 4


def _inode(image: Path, ino: int) -> bytes:
    return reader(image).table.read(ino).raw


def test_small_inodes_have_signed_seconds_and_no_creation_time(tmp_path: Path) -> None:
    image = make(tmp_path / "t.img", "4M", "-t", "ext2", "-I", "128")
    debugfs(image, "set_inode_field /lost+found mtime 0xfffffff6")
    found = reader(image).stat(11)
    assert found.mtime_ns == -10 * NS
    assert found.btime_ns is None


def test_owners_above_65535_and_device_numbers(tmp_path: Path) -> None:
    image = make(tmp_path / "o.img", "4M", "-t", "ext4", "-O", "^metadata_csum")
    debugfs(
        image,
        "mknod small c 8 1",
        "mknod large b 259 60000",
        "set_inode_field /lost+found uid 70000",
        "set_inode_field /lost+found gid 4000000000",
    )
    fs = reader(image)
    owner = fs.stat(11)
    assert (owner.uid, owner.gid) == (70000, 4_000_000_000)
    small, large = fs.stat(path(fs, b"small")), fs.stat(path(fs, b"large"))
    assert stat.S_ISCHR(small.mode) and small.rdev == os.makedev(8, 1)
    assert stat.S_ISBLK(large.mode) and large.rdev == os.makedev(259, 60000)
    with pytest.raises(InvalidArgument):
        fs.open(path(fs, b"small"))
    with pytest.raises(IsADirectory):
        fs.open(11)
    with pytest.raises(InvalidArgument):
        fs.readlink(11)


def test_reserved_inodes_are_not_reached(tmp_path: Path) -> None:
    fs = reader(make(tmp_path / "r.img", "8M", "-t", "ext4"))
    for ino in (0, 1, 3, 7, 8, 10, fs.superblock.inodes_count + 1, 1 << 40, -1):
        with pytest.raises(NotFound):
            fs.stat(ino)


def test_huge_file_blocks_count_in_blocks(tmp_path: Path) -> None:
    image = make(tmp_path / "h.img", "4M", "-t", "ext4", "-b", "2048", "-O", "^metadata_csum")
    debugfs(image, "set_inode_field /lost+found flags 0xc0000", "set_inode_field /lost+found blocks 7")
    assert reader(image).stat(11).blocks == 28


def test_damaged_inode_is_corrupt_and_hides_nothing_else(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"f{number}").write_bytes(b"%d" % number)
    image = make(tmp_path / "d.img", "4M", "-t", "ext4", tree=tree)
    fs = reader(image)
    bad = path(fs, b"f17")
    data = bytearray(image.read_bytes())
    at = bytes(data).find(fs.table.read(bad).raw)
    data[at + 4] ^= 1
    fs = reader(bytes(data))
    with pytest.raises(Corrupt, match="i_checksum"):
        fs.stat(path(fs, b"f17"))
    walked = {name: status for name, _, status in fs.walk()}
    assert walked.pop(b"f17") is None
    assert all(status is not None for status in walked.values()) and len(walked) == 40
    assert fs.problems()[0] == 1
    assert content(fs, b"f16") == b"16"


def test_deleted_inode_that_has_a_name_is_corrupt(tmp_path: Path) -> None:
    image = make(tmp_path / "d.img", "4M", "-t", "ext4")
    debugfs(image, "set_inode_field /lost+found links_count 0")
    with pytest.raises(Corrupt, match="i_links_count"):
        reader(image).stat(11)


def test_links_are_fast_up_to_59_bytes_and_in_a_block_beyond(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for length in (1, 58, 59, 60, 61, 500, 1000):
        (tree / f"l{length}").symlink_to("y" * length)
    fs = reader(make(tmp_path / "l.img", "4M", "-t", "ext4", "-b", "1024", tree=tree))
    for length in (1, 58, 59, 60, 61, 500, 1000):
        ino = path(fs, b"l%d" % length)
        assert fs.readlink(ino).target == b"y" * length
        assert fs.stat(ino).blocks == (0 if length < 60 else 2)


def test_encrypted_content_needs_a_key(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(b"x" * 2000)
    image = make(tmp_path / "e.img", "4M", "-t", "ext4", "-O", "encrypt", tree=tree)
    debugfs(image, "set_inode_field /f flags 0x80800")
    fs = reader(image)
    with pytest.raises(NeedKey):
        fs.open(path(fs, b"f"))


def attribute(kind: int, value: bytes) -> Attribute:
    return Attribute(kind, b"", value, 0, len(value), 0)


def test_acl_takes_the_kernels_form() -> None:
    stored = struct.pack("<IHHHHIHHHH", 1, 1, 6, 2, 7, 1000, 4, 4, 32, 0)
    none = 0xFFFFFFFF
    expected = struct.pack("<IHHIHHIHHIHHI", 2, 1, 6, none, 2, 7, 1000, 4, 4, none, 32, 0, none)
    assert kernel_value(attribute(2, stored), stored) == expected
    assert kernel_value(attribute(1, stored), stored) == stored
    for damaged in (stored[:-1], b"\2" + stored[1:], stored[:4] + b"\x03\0\0\0", b""):
        with pytest.raises(Corrupt):
            kernel_value(attribute(3, damaged), damaged)


def test_attributes_in_inode_block_and_own_inode(tmp_path: Path) -> None:
    image = make(tmp_path / "x.img", "8M", "-t", "ext4", "-b", "4096", "-O", "ea_inode")
    values = {"user.small": b"s", "user.block": b"b" * 900, "trusted.t": b"", "security.selinux": b"label\0"}
    for name, value in values.items():
        file = tmp_path / "value"
        file.write_bytes(value)
        debugfs(image, f"ea_set -f {file} /lost+found {name}")
    (tmp_path / "value").write_bytes(os.urandom(4000))
    debugfs(image, f"ea_set -f {tmp_path / 'value'} /lost+found user.large")
    values["user.large"] = (tmp_path / "value").read_bytes()
    fs = reader(image)
    assert set(fs.xattr_names(11)) == {name.encode() for name in values}
    for name, value in values.items():
        assert fs.xattr(11, name.encode()) == value
    with pytest.raises(NoAttribute):
        fs.xattr(11, b"user.none")
    assert fs.has_xattrs()
    inum = next(found.inum for found in fs._attributes(fs.table.read(11)) if found.inum)
    extents = list(fs._content(fs.table.read(inum)).extents(0, 1))
    data = bytearray(image.read_bytes())
    data[extents[0].source_offset] ^= 1
    fs = reader(bytes(data))
    with pytest.raises(Corrupt, match="hash"):
        fs.xattr(11, b"user.large")
    assert fs.xattr(11, b"user.block") == values["user.block"]


def test_value_outside_its_block_is_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "x.img", "4M", "-t", "ext4", "-b", "1024", "-I", "128", "-O", "^metadata_csum")
    debugfs(image, "ea_set /lost+found user.a value")
    fs = reader(image)
    block = fs.table.read(11).file_acl
    data = bytearray(image.read_bytes())
    for offset, size in ((1022, 5), (0, 5), (33, 5), (900, 0xFFFFFFFF), (65535, 65536)):
        struct.pack_into("<H", data, block * 1024 + 34, offset)
        struct.pack_into("<I", data, block * 1024 + 40, size)
        with pytest.raises(Corrupt, match="e_value_offs"):
            reader(bytes(data)).xattr_names(11)


def test_entry_hash_covers_name_and_value() -> None:
    assert entry_hashes(b"a", b"")[0] == 0x61
    assert entry_hashes(b"ab", b"\1\0\0\0")[0] == ((0x61 << 5 ^ 0x62) << 16 & 0xFFFFFFFF) ^ (0x61 << 5 ^ 0x62) >> 16 ^ 1
    plain, signed = entry_hashes(b"\xe9", b"")
    assert (plain, signed) == (0xE9, 0xFFFFFFE9)


@pytest.mark.root
@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext2", "-b", "1024"),
        ("-t", "ext4", "-O", "^sparse_super,^resize_inode"),
        ("-t", "ext4", "-O", "bigalloc", "-C", "16384", "-b", "1024"),
        ("-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024"),
        ("-t", "ext4", "-O", "inline_data", "-I", "1024"),
    ],
)
def test_kernel_shows_the_same(tmp_path: Path, options: tuple[str, ...]) -> None:
    image = make(tmp_path / "k.img", "128M", *options)
    mount = tmp_path / "mount"
    mount.mkdir()
    run("mount", "-o", "loop", str(image), str(mount))
    try:
        for count in (1, 4, 20, 300):
            (mount / f"d{count}").mkdir()
            for number in range(count):
                (mount / f"d{count}" / f"name{number}").write_bytes(b"z" * (number * 7))
    finally:
        run("umount", str(mount))
    run("mount", "-o", "loop,ro", str(image), str(mount))
    try:
        fs = reader(image)
        kernel = os.statvfs(mount)
        assert fs.statvfs()[:9] == (
            kernel.f_bsize, kernel.f_frsize, kernel.f_blocks, kernel.f_bfree, kernel.f_bavail,
            kernel.f_files, kernel.f_ffree, kernel.f_favail, kernel.f_namemax,
        )  # fmt: skip
        assert fs.statvfs().fsid == kernel.f_fsid
        seen = 0
        for name, _, status in fs.walk():
            shown = os.lstat(os.fsencode(mount) + b"/" + name)
            assert status is not None
            assert (status.ino, status.mode, status.nlink, status.size, status.blocks, status.mtime_ns) == (
                shown.st_ino, shown.st_mode, shown.st_nlink, shown.st_size, shown.st_blocks, shown.st_mtime_ns,
            )  # fmt: skip
            seen += 1
        assert seen == 330
    finally:
        run("umount", str(mount))


def _records(fs: Ext4, dice: random.Random, inos: list[int]) -> list[bytes]:
    """A record for each of `inos`: mostly usual ones, their checksums mostly good."""
    records = []
    for ino in inos:
        raw = bytearray(256)
        mode = dice.choice((0o100644, 0o100644, 0o40755, 0o120777, 0o20600, 0o10644, 0o140755, 0, 0o150000))
        struct.pack_into("<HHI", raw, 0, mode, dice.randrange(1 << 16), dice.randrange(1 << 32))
        for seconds, extra in ((0x8, 0x8C), (0x10, 0x88), (0xC, 0x84), (0x90, 0x94)):
            later = dice.choice((0, 0, 0, 0, 0, 0, 0, 1, 3))
            struct.pack_into("<i", raw, seconds, dice.randrange(-(1 << 28), 1 << 31))
            struct.pack_into("<I", raw, extra, dice.randrange(NS) << 2 | later)
        struct.pack_into("<HHII", raw, 0x18, dice.randrange(1 << 16), dice.choice((1, 1, 1, 2, 65535, 0)), 8, 0x80000)
        raw[0x64:0x68] = dice.randbytes(4)
        odd = dice.randrange(40)
        if odd < 8:  # i_flags, i_size_high, i_blocks_hi, i_uid_high, i_gid_high, ..., i_block
            at, length = ((0x20, 4), (0x6C, 4), (0x74, 2), (0x78, 2), (0x7A, 2), (0x20, 4), (40, 8), (0x9C, 40))[odd]
            raw[at : at + length] = dice.randbytes(length)
        struct.pack_into("<H", raw, 0x80, dice.choice((32, 32, 32, 32, 24, 128, 4, 20, 0, 130, 200)))
        seed = crc32c(struct.pack("<I", ino) + raw[0x64:0x68], fs.superblock.checksum_seed)
        total = crc32c(raw, seed) ^ (dice.randrange(8) == 0)
        raw[0x7C:0x7E] = (total & 0xFFFF).to_bytes(2, "little")
        if int.from_bytes(raw[0x80:0x82], "little") >= 4:
            raw[0x82:0x84] = (total >> 16).to_bytes(2, "little")
        records.append(bytes(256) if dice.randrange(50) == 0 else bytes(raw))
    return records


def test_inodes_decoded_together_are_as_each_by_itself(tmp_path: Path) -> None:
    fs = reader(make(tmp_path / "i.img", "4M", "-t", "ext4", "-I", "256"))
    dice = random.Random(1)
    usual = 0
    for count in (8, 9, 31, 256, 256, 256, 256):
        inos = [dice.randrange(11, 1000) for _ in range(count)]
        records = _records(fs, dice, inos)
        alone: dict[int, GuestkitError] = {}
        told: dict[int, GuestkitError] = {}
        expected = [fs.table._decode_one(ino, raw, alone.__setitem__) for ino, raw in zip(inos, records, strict=True)]
        assert fs.table._decode_many(inos, records, told.__setitem__) == expected
        assert {ino: str(error) for ino, error in told.items()} == {ino: str(error) for ino, error in alone.items()}
        usual += sum(status is not None for status in expected)
    assert 300 < usual < 1000


def test_stats_come_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / f"file-{number}").write_bytes(b"x" * number)
    fs = reader(make(tmp_path / "i.img", "8M", "-t", "ext4", "-I", "256", "-N", "400", tree=tree))
    last = fs.superblock.inodes_count
    inos = [entry.ino for entry in fs.scan(fs.root)]
    random.Random(2).shuffle(inos)
    inos[7:7] = [inos[200], 2, last + 1, inos[201], 5, inos[200], 0xFFFFFFFF]  # 5 is a reserved one
    told: dict[int, GuestkitError] = {}
    found = [status for piece in fs.table.stat_pieces(inos, 64, told.__setitem__) for status in piece]
    assert set(told) == {last + 1, 5, 0xFFFFFFFF} and all(isinstance(error, NotFound) for error in told.values())
    assert found == [None if ino in told else fs.stat(ino) for ino in inos]


def test_no_more_records_are_held_than_fit_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "large").mkdir(parents=True)
    for number in range(1500):
        (tree / "large" / f"name-{number}").touch()
        if number % 100 == 0:
            (tree / f"small-{number}").mkdir()
            (tree / f"small-{number}" / "file").touch()
    image = make(tmp_path / "i.img", "16M", "-t", "ext4", "-I", "256", tree=tree)
    wanted = sorted(reader(image).walk())
    monkeypatch.setattr("guestkit.fs.ext4.inode._HELD_BYTES", 100 * 256)
    fs = reader(image)
    held: list[int] = []
    gather = fs.table._gather
    monkeypatch.setattr(fs.table, "_gather", lambda inos, *rest: (held.append(len(inos)), gather(inos, *rest))[1])
    assert sorted(fs.walk()) == wanted
    entries = list(fs.scan_stat(path(fs, b"large")))
    assert len(entries) == 1500
    assert [entry for entry, _ in entries] == list(fs.scan(path(fs, b"large")))
    assert max(held) <= 100
