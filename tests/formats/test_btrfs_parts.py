"""Parity, compression, keys and the odd corners of Btrfs, each by itself."""

from __future__ import annotations

import struct
import zlib
from itertools import combinations
from random import Random

import pytest
from btrfs_images import HEADER, ITEM, Edited, find_item, opened, put, unpacked

from guestkit.errors import Corrupt, IsADirectory, NoAttribute, NotADirectory, NotFound, Unsupported
from guestkit.fs.btrfs.checksums import checksum
from guestkit.fs.btrfs.chunks import Chunk, Stripe
from guestkit.fs.btrfs.compression import decompress
from guestkit.fs.btrfs.diritem import name_hash
from guestkit.fs.btrfs.keys import make_key, split_key, stub_key
from guestkit.fs.btrfs.parity import recover
from guestkit.limits import Limits
from guestkit.namespace import MountTable, node_of, split_node
from guestkit.source import FileSource

# parity


def _row(width: int) -> dict[int, bytes]:
    """A row with both parities, Q by the definition, byte by byte."""
    data = [Random(place).randbytes(64) for place in range(width)]
    first = bytearray(64)
    second = bytearray(64)
    for at in range(64):
        for place in reversed(range(width)):
            first[at] ^= data[place][at]
            second[at] = (second[at] << 1 ^ (0x11D if second[at] & 0x80 else 0)) & 0xFF ^ data[place][at]
    return {**dict(enumerate(data)), width: bytes(first), width + 1: bytes(second)}


@pytest.mark.parametrize("width", [1, 2, 3, 7, 20])
def test_any_two_stripes_of_a_row_are_made_again_from_the_others(width: int) -> None:
    row = _row(width)
    for lost in combinations(range(width + 2), 2):
        known = {place: stripe for place, stripe in row.items() if place not in lost}
        for place in lost:
            if place < width:
                assert recover(known, place, width) == row[place]


def test_three_lost_stripes_are_not_made_up() -> None:
    row = _row(4)
    for lost in combinations(range(4), 3):
        assert recover({place: row[place] for place in row if place not in lost}, lost[0], 4) is None
    assert recover({1: row[1], 2: row[2], 3: row[3]}, 0, 4) is None
    assert recover({1: row[1], 2: row[2], 4: row[4]}, 0, 4) is None


def test_one_parity_makes_one_stripe_again() -> None:
    row = _row(3)
    assert recover({1: row[1], 2: row[2], 3: row[3]}, 0, 3) == row[0]
    assert recover({1: row[1], 2: row[2], 4: row[4]}, 0, 3) == row[0]


# chunks


def _chunk(profile: int, count: int, sub: int = 1) -> Chunk:
    stripes = tuple(Stripe(n, n << 40, bytes([n]) * 16) for n in range(1, count + 1))
    return Chunk(1 << 30, 1 << 26, 1 | profile, profile, 65536, sub, stripes)


def test_stripes_turn_as_the_kernel_turns_them() -> None:
    start = 1 << 30
    k = 65536
    raid0 = _chunk(8, 3)
    places = [(piece.stripe.devid, piece.offset & 0xFFFFFFFF) for piece in raid0.pieces(start, 5 * k)]
    assert places == [(1, 0), (2, 0), (3, 0), (1, k), (2, k)]
    raid10 = _chunk(64, 4, 2)
    assert [[piece.stripe.devid for piece in raid10.pieces(start, 3 * k, copy)] for copy in (0, 1)] == [
        [1, 3, 1],
        [2, 4, 2],
    ]
    raid5 = _chunk(128, 3)
    assert [(piece.stripe.devid, piece.offset >> 16 & 0xFF) for piece in raid5.pieces(start, 6 * k)] == [
        *((1, 0), (2, 0)),
        *((2, 1), (3, 1)),
        *((3, 2), (1, 2)),
    ]
    assert [raid5.stripe(row, 2).devid for row in range(3)] == [3, 1, 2]
    raid6 = _chunk(256, 4)
    assert [piece.stripe.devid for piece in raid6.pieces(start, 4 * k)] == [1, 2, 2, 3]
    assert [(raid6.stripe(row, 2).devid, raid6.stripe(row, 3).devid) for row in range(2)] == [(3, 4), (4, 1)]


def test_a_range_in_the_middle_of_stripes_is_cut_at_their_ends() -> None:
    chunk = _chunk(8, 2)
    pieces = list(chunk.pieces((1 << 30) + 65000, 2000))
    assert [(piece.length, piece.stripe.devid) for piece in pieces] == [(536, 1), (1464, 2)]


# checksums


def test_checksums_have_their_known_values() -> None:
    data = b"123456789"
    assert checksum(0).digest(data).hex() == "839206e3"
    assert checksum(1).digest(data) == bytes.fromhex("8cb841db40e6ae83")[::-1]
    assert checksum(2).digest(data).hex() == "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
    assert len(checksum(3).digest(data)) == checksum(3).size == 32
    with pytest.raises(Unsupported):
        checksum(4)


def test_names_have_the_hash_of_the_kernel() -> None:
    assert name_hash(b"default") == 2378154706  # the key of the root tree's directory


# compression


def _lzo(data: bytes, sector: int = 4096) -> bytes:
    """Compress as the kernel frames it."""
    import lzallright

    compressor = lzallright.LZOCompressor()
    out = bytearray(4)
    for at in range(0, len(data), sector):
        if len(out) % sector > sector - 4:
            out += bytes(-len(out) % sector)
        segment = compressor.compress(data[at : at + sector])
        out += len(segment).to_bytes(4, "little") + segment
    out[:4] = len(out).to_bytes(4, "little")
    return bytes(out)


def _text(length: int, seed: int = 1) -> bytes:
    chooser = Random(seed)
    return bytes(chooser.choice(b"abcd") for _ in range(length))


def test_a_length_of_lzo_never_straddles_sectors() -> None:
    noise = Random(1).randbytes(4096)
    begins = set()
    for length in range(4030, 4096):
        data = noise[:length].ljust(4096, b"\0") + _text(9000)
        framed = _lzo(data)
        begins.add((8 + int.from_bytes(framed[4:8], "little")) % 4096)
        assert decompress(2, framed + bytes(-len(framed) % 4096), len(data), 4096) == data
    assert begins >= {4092, 4093, 4094, 4095, 0, 1}


def _zstd(data: bytes) -> bytes:
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return bytes(zstd.compress(data))


MAKERS = {1: zlib.compress, 2: _lzo, 3: _zstd}


@pytest.mark.parametrize("method", MAKERS)
def test_what_is_longer_than_it_should_be_is_cut_off(method: int) -> None:
    data = _text(4096)
    packed = MAKERS[method](data)
    assert decompress(method, packed, 300, 4096) == data[:300]
    assert decompress(method, packed, 300, 4096, inline=True) == data[:300]
    assert decompress(method, packed + b"\0" * 500, 4096, 4096) == data
    assert decompress(method, packed, 0, 4096) == b""


@pytest.mark.parametrize("method", MAKERS)
def test_what_is_shorter_goes_on_with_zeros_but_not_inline(method: int) -> None:
    packed = MAKERS[method](b"short")
    assert decompress(method, packed, 100, 4096) == b"short" + bytes(95)
    with pytest.raises(Corrupt):
        decompress(method, packed, 100, 4096, inline=True)


@pytest.mark.parametrize("method", MAKERS)
def test_what_is_cut_short_or_damaged_is_an_error(method: int) -> None:
    packed = MAKERS[method](_text(60_000))
    for broken in (packed[: len(packed) // 2], packed[:3], b"", b"\xff" * 100, bytes(100)):
        with pytest.raises(Corrupt):
            decompress(method, broken, 60_000, 4096)


def test_a_bomb_makes_no_more_than_is_asked_for() -> None:
    packed = zlib.compress(bytes(64 << 20))
    assert decompress(1, packed, 131_072, 4096) == bytes(131_072)
    packed = _zstd(bytes(64 << 20))
    assert decompress(3, packed, 131_072, 4096) == bytes(131_072)
    total = 4 + 4 + 60_000
    with pytest.raises(Corrupt, match="segment length"):
        decompress(2, total.to_bytes(4, "little") + (60_000).to_bytes(4, "little") + bytes(60_000), 131_072, 4096)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(Unsupported):
        decompress(4, b"x", 1, 4096)


def test_an_inline_extent_that_holds_more_than_its_length_is_cut() -> None:
    image = Edited()
    fs = image.open()
    key = fs.lookup(fs.lookup(fs.root, b"zstd"), b"size-2000")
    expected = fs.open(key).read(0, 2000)
    image.item(5, (key, 108, 0), put(8, "Q", 300))
    image.item(5, (key, 1, 0), put(16, "Q", 300))
    assert image.open().open(key).read(0, 300) == expected[:300]


def test_a_link_whose_target_ends_with_a_nul_is_read_without_it() -> None:
    image = Edited()
    fs = image.open()
    key = fs.lookup(fs.root, b"link-relative")
    assert fs.readlink(key).target == b"size-1"
    item = image.leaf(5, (key, 108, 0))
    image.item(5, (key, 108, 0), put(26, "s", b"\0"))
    assert item
    assert image.open().readlink(key).target == b"size-"


# keys


def test_keys_that_fit_fit_and_the_others_are_wide() -> None:
    assert make_key(0, 256) == 256
    assert make_key(3, 257) == 3 << 38 | 257
    wide = set()
    for index, number in ((1 << 14, 256), (0, 1 << 38), (5, (1 << 64) - 257), ((1 << 14) - 1, (1 << 38) - 1)):
        key = make_key(index, number)
        assert split_key(key) == (index, number, False)
        assert split_node(node_of(7, key)) == (7, key)
        wide.add(key >= 1 << 64)
    assert wide == {True, False}
    assert split_key(stub_key(2, 300)) == (2, 300, True)
    assert split_node(node_of(9, stub_key(2, 300))) == (9, stub_key(2, 300))


def test_a_snapshot_shows_an_empty_directory_where_a_subvolume_was() -> None:
    fs = opened(*unpacked("default"))
    table = MountTable()
    table.mount(fs, source="x")
    node = table.resolve(b"/snap/inner")
    assert table.stat(node).ino == 2
    assert list(table.scan_stat(node)) == []
    assert table.resolve(b"/snap/inner/..") == table.resolve(b"/snap")
    assert table.xattr_names(node) == []
    with pytest.raises(NotFound):
        table.resolve(b"/snap/inner/file")
    with pytest.raises(IsADirectory):
        table.open(node)
    with pytest.raises(NoAttribute):
        table.xattr(node, b"user.x")
    assert table.resolve(b"/sub/inner/../../sub/inner/file")
    with pytest.raises(NotADirectory):
        table.resolve(b"/sub/file/x")


# extents


def test_files_without_checksums_stand_in_the_host_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("btrfs") / "image"
    path.write_bytes(unpacked("default")[0])
    from guestkit.fs.btrfs import open as open_btrfs

    leaf = FileSource.open(path)
    try:
        fs = open_btrfs([leaf], Limits(), {})
        plain = fs.open(fs.lookup(fs.lookup(fs.root, b"nocow"), b"plain"))
        extents = list(plain.extents(0, plain.size))
        assert {extent.source for extent in extents} == {leaf}
        checked = fs.open(fs.lookup(fs.root, b"blocks"))
        assert not {extent.source for extent in checked.extents(0, checked.size)} & {leaf, None}
        hole = fs.open(fs.lookup(fs.root, b"hole-only"))
        assert {extent.source for extent in hole.extents(0, hole.size)} == {None}
    finally:
        leaf.close()


# subvolumes and figures


def test_a_deleted_subvolume_is_not_listed_and_its_name_leads_nowhere() -> None:
    image = Edited()
    fs = image.open()
    number = next(volume.id for volume in fs.roots() if volume.path == b"sub/inner")
    image.item(1, (number, 132, 0), put(160 + 56, "I", 0))
    fs = image.open()
    assert number not in [volume.id for volume in fs.roots()]
    assert len(fs.roots()) == len(Edited().open().roots()) - 1
    key = fs.lookup(fs.lookup(fs.root, b"sub"), b"inner")
    assert fs.stat(key).ino == 2
    assert list(fs.scan(key)) == []


def test_figures_come_from_the_block_group_tree_where_there_is_one() -> None:
    image = Edited("dup")
    before = image.open().statvfs()
    extents = image.root(2)
    assert not image.node(extents)[100]
    image.edit(extents, put(88, "Q", 11))

    def rename(node: bytearray) -> None:
        index, _, _ = find_item(node, (10, 132, 0))
        other, place, size = find_item(node, (2, 132, 0))
        assert other < index
        _, mine, _ = find_item(node, (10, 132, 0))
        node[mine : mine + size] = node[place : place + size]
        struct.pack_into("<Q", node, HEADER + index * ITEM.size, 11)

    image.edit(image.leaf(1, (10, 132, 0)), rename)
    image.superblock(compat_ro=(180, "Q", 8))
    fs = image.open()
    after = fs.statvfs()
    assert (after.blocks, after.bavail) == (before.blocks, before.bavail)
    assert "block-group-tree" in fs.details()["features"]  # type: ignore[operator]


def test_a_device_left_behind_is_told() -> None:
    one, two = unpacked("raid1")
    old = bytearray(two)
    struct.pack_into("<Q", old, 0x10000 + 72, 3)
    struct.pack_into("<Q", old, 0x4000000 + 72, 3)
    for place in (0x10000, 0x4000000):
        old[place : place + 4] = checksum(0).digest(bytes(old[place + 32 : place + 4096]))
    fs = opened(old, one)
    assert [problem.message for problem in fs.problems()[1]] == [
        f"was left at generation 3, the filesystem is at {fs.superblock.generation}"
    ]
    source = fs.open(fs.lookup(fs.root, b"long"))
    assert source.read(0, 16) == b"long          0\n"
