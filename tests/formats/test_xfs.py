"""XFS: superblocks and options, and what no image at hand shows."""

from __future__ import annotations

import dataclasses
import lzma
import struct

import pytest
from xfs_images import DATA, Image, extent, fixture, reader, seal, u16, u32, u64

from guestkit.errors import Corrupt, NameTooLong, NotFound, SourceError, Unsupported
from guestkit.fs.xfs import dabtree
from guestkit.fs.xfs import open as open_xfs
from guestkit.fs.xfs.dirdata import directory_format, parse_short
from guestkit.fs.xfs.features import feature_names
from guestkit.fs.xfs.groups import sums
from guestkit.fs.xfs.superblock import parse_superblock
from guestkit.fs.xfs.xattr import kernel_acl
from guestkit.limits import Limits
from guestkit.source import BytesSource, Slice

# the superblock


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0, b"XFSC", "sb_magicnum"),
        (4, u32(4095), "sb_blocksize"),
        (4, u32(1 << 17), "sb_blocksize"),
        (102, u16(8192), "sb_sectsize"),
        (104, u16(4096), "sb_inodesize"),
        (106, u16(9), "sb_inopblock"),
        (120, b"\x20", "sb_blocklog|sb_blocksize"),
        (121, b"\x20", "sb_sectsize"),
        (123, b"\5", "sb_inopblog"),
        (124, b"\5", "sb_agblklog"),
        (84, u32(0), "sb_agblocks"),
        (84, u32(1 << 31), "sb_agblklog"),
        (88, u32(0), "sb_agcount"),
        (88, u32(1 << 30), "sb_dblocks"),
        (8, u64(0), "sb_dblocks"),
        (8, u64(1 << 60), "sb_dblocks"),
        (56, u64(0), "sb_rootino"),
        (56, u64((1 << 64) - 1), "sb_rootino"),
        (48, u64(1 << 50), "sb_logstart"),
        (96, u32(1 << 30), "sb_logstart|sb_logblocks"),
        (126, b"\1", "sb_inprogress"),
        (127, b"\xff", "sb_imax_pct"),
        (179, b"\1", "sb_shared_vn"),
        (192, b"\7", "sb_dirblklog"),
        (196, u32(1 << 20), "sb_logsunit"),
        (100, u16(0xB4A6), "sb_versionnum"),
        (16, u64(100), "sb_rextents"),
    ],
)
def test_superblock_that_cannot_be_is_corrupt(offset: int, value: bytes, field: str) -> None:
    image = Image()
    data = bytearray(image.superblock((offset, value))[:4096])
    with pytest.raises(Corrupt, match=field):
        parse_superblock(bytes(data))


def test_checksum_of_the_superblock_covers_its_sector() -> None:
    for offset in (12, 300, 511):
        image = Image()
        image.data[offset] ^= 1
        with pytest.raises(Corrupt, match="sb_crc"):
            parse_superblock(bytes(image.data[:512]))
    image = Image("xfs-sector4k")
    image.data[4000] ^= 1
    with pytest.raises(Corrupt, match="sb_crc"):
        parse_superblock(bytes(image.data[:4096]))
    with pytest.raises(Corrupt, match="length"):
        parse_superblock(bytes(image.data[:512]))


@pytest.mark.parametrize(
    ("bit", "name"),
    [(0x200, "ZONED"), (0x400, "ZONE_GAPS"), (0x800, "BIT11"), (1 << 31, "BIT31")],
)
def test_incompatible_features_that_are_not_read_are_refused_by_name(bit: int, name: str) -> None:
    with pytest.raises(Unsupported, match=name) as caught:
        reader(Image().incompat(bit))
    assert caught.value.bit == bit


def test_unknown_compatible_features_are_read_on_and_listed() -> None:
    image = Image()
    image.superblock((208, u32(1 << 20)), (212, u32(image.sup.ro_compat | 1 << 21)))
    fs = image.open()
    assert [each[0] for each in fs.walk()] == [each[0] for each in image.fs.walk()]
    features = fs.details()["features"]
    assert isinstance(features, list)
    assert "FEATURE_R21" in features


def test_features_of_version_4_are_a_closed_set() -> None:
    image = Image("xfs-v4")
    bits, two = image.sup.version_bits, image.sup.features2
    with pytest.raises(Unsupported, match="SHARED"):
        reader(image.superblock((100, u16(bits | 0x200))))
    with pytest.raises(Unsupported, match="version 1 directories"):
        reader(image.superblock((100, u16(bits & ~0x2000))))
    with pytest.raises(Unsupported, match="BIT20"):
        reader(image.superblock((100, u16(bits)), (200, u32(two | 1 << 20)), (204, u32(two | 1 << 20))))
    with pytest.raises(Unsupported, match="XFS version 3"):
        reader(image.superblock((100, u16(bits & ~15 | 3)), (200, u32(two)), (204, u32(two))))


def test_features_have_the_names_that_xfs_db_prints() -> None:
    sup = Image().sup
    names = feature_names(sup.version_bits, sup.features2, sup.ro_compat, sup.incompat)
    wanted = (
        "ATTR NLINK ALIGN LOGV2 EXTFLG DIRV2 MOREBITS ATTR2 LAZYSBCOUNT PROJID32BIT CRC FTYPE FINOBT SPARSE_INODES "
        "REFLINK INOBTCNT BIGTIME"
    )
    assert set(names) == set(wanted.split())


def test_realtime_groups_are_refused_and_a_metadata_directory_alone_is_read() -> None:
    image = Image()
    image.incompat(0x100)
    assert image.open().superblock.metadir
    image.superblock((16, u64(4096)), (24, u64(4096)), (80, u32(1)))
    with pytest.raises(Unsupported, match="realtime groups"):
        image.open()


def test_places_are_computed_with_groups_of_any_size() -> None:
    sup = Image("xfs-groups").sup
    assert sup.ag_count == 3
    assert sup.ag_blocks & (sup.ag_blocks - 1)
    fsblock = 2 << sup.ag_block_log | 5
    assert sup.split(fsblock) == (2, 5)
    assert sup.fsblock_offset(fsblock) == (2 * sup.ag_blocks + 5) * 4096
    assert sup.has_fsblock(fsblock)
    assert not sup.has_fsblock(1 << sup.ag_block_log | sup.ag_blocks)
    assert not sup.has_fsblock(3 << sup.ag_block_log)
    ino = fsblock << sup.inodes_per_block_log | 3
    assert sup.inode_place(ino) == (2, 5, 3 * 512)
    assert sup.inode_offset(ino) == (2 * sup.ag_blocks + 5) * 4096 + 3 * 512


def test_damaged_superblock_is_replaced_by_a_copy_and_a_truncated_one_is_not() -> None:
    image = Image("xfs-groups")
    image.data[130] ^= 1  # a counter: where the groups are is still told
    fs = image.open()
    assert [each[0] for each in fs.walk()] == [each[0] for each in image.fs.walk()]
    assert "the copy in allocation group 2 was used" in fs.problems()[1][0].message
    assert fs.statvfs() == image.fs.statvfs()
    for length in (0, 100, 512, 4096):
        with pytest.raises((Corrupt, SourceError)):
            reader(bytes(image.data[:length]))


# opening


class Counted(BytesSource):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.total = 0

    def read(self, offset: int, length: int) -> bytes:
        self.total += length
        return super().read(offset, length)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.total += len(buf)
        super().read_into(offset, buf)


def test_opening_reads_little() -> None:
    source = Counted(fixture("xfs"))
    fs = reader(source)
    fs.stat(fs.root)
    assert source.total < 1 << 20  # most of it the end of the log


def test_external_log_is_refused_by_name_when_it_is_not_there() -> None:
    image = Image()
    image.superblock((48, u64(0)))
    with pytest.raises(Unsupported, match="external log"):
        image.open()
    fs = image.open({"norecovery": ""})
    assert fs.state.kind == "dirty-not-replayed"
    assert "another device" in fs.state.reason
    assert fs.details()["log"] == "external"
    assert len(list(fs.walk())) == len(list(image.fs.walk()))


def test_external_log_may_be_the_second_source() -> None:
    image = Image()
    start = image.sup.fsblock_offset(image.sup.log_start)
    log = bytes(image.data[start : start + image.sup.log_blocks * 4096])
    image.superblock((48, u64(0)))
    fs = open_xfs([BytesSource(bytes(image.data)), BytesSource(log)], Limits(decode_threads=0), {})
    assert fs.state.kind == "clean"


def test_free_space_comes_from_the_groups_when_the_superblock_may_be_old() -> None:
    image = Image()
    image.superblock((48, u64(0)), (136, u64(image.sup.free_inodes + 3)), (144, u64(5)))
    fs = image.open({"norecovery": ""})
    found, wanted = fs.statvfs(), image.fs.statvfs()
    assert (found.ffree, found.bfree, found.files) == (wanted.ffree, wanted.bfree, wanted.files)


def test_unknown_feature_of_the_log_matters_only_when_the_log_does() -> None:
    image = Image()
    assert reader(image.superblock((220, u32(1 << 5)))).state.kind == "clean"
    data = bytearray(lzma.decompress((DATA.parent / "xfs-log" / "create.img.xz").read_bytes()))
    assert reader(data).state.kind == "replayed"
    for bits, known in ((1, True), (1 << 5, False)):
        data[220:224] = u32(bits)
        seal(data, 0, 512, 224)
        if known:
            assert reader(data).state.kind == "replayed"
        else:
            with pytest.raises(Unsupported, match="log feature") as caught:
                reader(data)
            assert caught.value.bit == bits
            assert reader(data, {"norecovery": ""}).state.kind == "dirty-not-replayed"


def test_counters_of_groups_agree_with_the_superblock_and_are_verified() -> None:
    image = Image("xfs-groups")
    found = sums(image.fs.blocks)
    assert found[:3] == (image.sup.free_blocks, image.sup.inode_count, image.sup.free_inodes)
    size = image.sup.ag_blocks * 4096
    for at in (size + 512 + 52, size + 1024 + 16):
        damaged = Image("xfs-groups")
        damaged.data[at] ^= 1
        with pytest.raises(Corrupt, match="allocation group 1"):
            sums(damaged.open().blocks)


# inodes


def test_links_of_an_inode_of_version_1_are_counted_in_the_old_place() -> None:
    image = Image("xfs-v4")
    image.inode("size-61", (4, b"\1"), (6, u16(7)), (16, u32(0)))
    fs = image.open()
    assert fs.stat(image.ino("size-61")).nlink == 7
    assert [status.nlink for path, _, status in fs.walk() if path == b"size-61" and status] == [7]


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"), [(0, 0), (-1, 999_999_999), (-(1 << 31), 5), ((1 << 31) - 1, 1), (1, 2)]
)
def test_timestamps_of_the_old_kind(seconds: int, nanoseconds: int) -> None:
    image = Image()
    stamp = struct.pack(">iI", seconds, nanoseconds)
    image.inode("blocks", (32, stamp), (40, stamp), (48, stamp), (120, u64(0)), (144, stamp))
    status = image.open().stat(image.ino("blocks"))
    wanted = seconds * 10**9 + nanoseconds
    assert (status.atime_ns, status.mtime_ns, status.ctime_ns, status.btime_ns) == (wanted,) * 4


def test_numbers_outside_the_filesystem_are_not_found() -> None:
    image = Image("xfs-groups")
    for ino in (0, 1 << 51, image.sup.ag_count << image.sup.ag_inode_log):
        with pytest.raises(NotFound):
            image.fs.stat(ino)
    with pytest.raises(Corrupt):  # inside the numbers, beyond the end of the group
        image.fs.stat((1 << image.sup.ag_inode_log) - 1)


def test_inode_beyond_the_end_of_a_truncated_image_is_an_error_of_the_source() -> None:
    data = fixture("xfs-groups")
    whole = reader(data)
    cut = Slice(BytesSource(data[: len(data) // 2]), 0, len(data))
    short = open_xfs([cut], Limits(), {})
    missing = [path for path, _, status in short.walk() if status is None]
    assert 0 < len(missing) < len(list(whole.walk()))


def test_unwritten_extents_and_holes_read_as_zeros() -> None:
    image = Image()
    fork = image.fork("blocks")
    first = image.blocks("blocks")[0]
    rows = extent(0, image.fsblock(first), 1) + extent(1, image.fsblock(first + 1), 2, unwritten=True)
    image.inode("blocks", (fork, rows), (76, u32(2)))
    data = image.open().open(image.ino("blocks")).read(0, 40 * 4096)
    was = image.fs.open(image.ino("blocks")).read(0, 4096)
    assert data == was + bytes(39 * 4096)


# directories


def test_short_directory_with_large_inode_numbers() -> None:
    sup = dataclasses.replace(Image().sup, ag_count=1 << 30)
    form = directory_format(sup)
    large = (1 << 32) + 77
    fork = b"\2\1" + u64(128)
    fork += b"\1\0\x30a\1" + u64(large) + b"\2\0\x40bc\2" + u64(5)
    names = parse_short(fork, form)
    assert names.flaw is None
    assert [(name, ino, kind) for name, ino, kind, _ in names.entries] == [(b"a", large, 8), (b"bc", 5, 4)]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [(b"a", 0x61), (b"lost+found", 0x21AA60C), (b"name-0123456789-abcdefghijklmnopqrstuvwxyz", 0x736EFD8C)],
)
def test_hash_of_names_is_that_of_xfs_db(name: bytes, wanted: int) -> None:
    assert dabtree.name_hash(name) == wanted


def test_long_names_are_refused_as_the_kernel_refuses_them() -> None:
    fs = reader(fixture("xfs"))
    assert fs.lookup(fs.root, b"n" * 255)
    with pytest.raises(NameTooLong):
        fs.lookup(fs.root, b"n" * 256)


def test_large_directories_are_looked_up_by_their_index() -> None:
    source = Counted(fixture("xfs-dir4k-1k"))
    fs = reader(source)
    directory = fs.lookup(fs.root, b"many")
    before = source.total
    assert fs.lookup(directory, b"000333".ljust(120, b"w"))
    assert source.total - before < 40 << 10
    assert fs.table.read(directory).size > 80 << 10


def test_directory_without_types_reads_the_inode() -> None:
    fs = reader(fixture("xfs-no-ftype"))
    assert {entry.type for entry in fs.scan(fs.root)} == {0}
    assert b"dir/deeper/deepest/leaf" in [path for path, _, _ in fs.walk()]


# attributes


def test_acl_is_turned_into_the_kernels_form() -> None:
    stored = u32(2) + u32(1) + u32(9) + u16(6) + u16(0) + u32(2) + u32(1234) + u16(7) + u16(0)
    assert kernel_acl(stored) == struct.pack("<IHHIHHI", 2, 1, 6, 0xFFFFFFFF, 2, 7, 1234)


def test_seal_is_what_the_fixtures_carry() -> None:
    """The editor of these tests makes the checksums that mkfs.xfs and the kernel make."""
    data = bytearray(fixture("xfs"))
    before = bytes(data)
    seal(data, 0, 512, 224)
    image = Image()
    seal(data, image.sup.inode_offset(image.sup.root_ino), 512, 100)
    assert data == before
