"""Btrfs images that lie: each lie is one typed error, soon, and costs only what it touches."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import manifest
import pytest
from btrfs_images import HEADER, ITEM, POINTER, Edited, find_item, put, told

from guestkit.errors import Corrupt, GuestkitError, NotFound, Unsupported
from guestkit.fs.base import DirEntry
from guestkit.fs.btrfs.chunks import ChunkMap, parse_chunk, parse_system_chunks
from guestkit.fs.btrfs.content import BtrfsFile
from guestkit.fs.btrfs.diritem import name_hash
from guestkit.fs.btrfs.extents import ExtentMap
from guestkit.fs.btrfs.filesystem import Btrfs
from guestkit.fs.btrfs.tree import Entry, Found, Items, Key


@pytest.fixture
def image() -> Edited:
    return Edited()


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 20


def damaged(fs: Btrfs) -> set[str]:
    """The paths that differ from the kernel's tree of the sound image."""
    wanted = manifest.unpack(told("default")["tree"])
    tree = manifest.from_filesystem(fs)
    for entry in (*wanted.values(), *tree.values()):
        if entry.get("ino") == 2:
            entry["mtime"] = entry["ctime"] = 0
    return {line.split("'")[1] for line in manifest.differences(wanted, tree)}


# superblocks


@pytest.mark.parametrize(
    ("bit", "name"),
    [(12, "zoned"), (13, "extent-tree-v2"), (14, "raid-stripe-tree"), (17, "remap-tree"), (40, "unknown")],
)
def test_features_that_are_not_read_are_refused_by_name_and_bit(image: Edited, bit: int, name: str) -> None:
    image.superblock(incompat=(188, "Q", image.trees.pool.superblock.incompat | 1 << bit))
    with pytest.raises(Unsupported, match=name) as caught:
        image.open()
    assert caught.value.bit == 1 << bit


def test_features_that_matter_to_writers_alone_are_read_over_and_listed(image: Edited) -> None:
    sup = image.trees.pool.superblock
    image.superblock(
        compat_ro=(180, "Q", sup.compat_ro | 1 << 2 | 1 << 50), incompat=(188, "Q", sup.incompat | 1 << 16)
    )
    features = image.open().details()["features"]
    assert {"verity", "simple-quota", "compat-ro-0x4000000000000"} <= set(features)  # type: ignore[call-overload]


def test_an_unknown_checksum_type_is_refused(image: Edited) -> None:
    image.superblock(csum_type=(196, "H", 9))
    with pytest.raises(Unsupported, match="checksum type 9"):
        image.open()


@pytest.mark.parametrize(
    "field",
    [
        (144, "I", 3000),
        (144, "I", 0),
        (148, "I", 1 << 20),
        (148, "I", 2048),
        (160, "I", 4000),
        (160, "I", 60),
        (198, "B", 8),
        (199, "B", 200),
        (80, "Q", 12345),
        (136, "Q", 0),
    ],
)
def test_impossible_superblocks_are_refused(image: Edited, field: tuple[int, str, int]) -> None:
    image.superblock(field=field)
    with pytest.raises(Corrupt):
        image.open()


@pytest.mark.parametrize("root", [80, 88])
def test_a_root_outside_of_all_chunks_is_refused(image: Edited, root: int) -> None:
    image.superblock(root=(root, "Q", 1 << 50))
    with pytest.raises(Corrupt, match=r"no .*chunk holds"):
        image.open().stat(256)


# chunks


def _chunk(
    length: int, kind: int, count: int, *, stripe_len: int = 65536, sub: int = 0, stripes: int | None = None
) -> bytes:
    head = struct.pack("<QQQQIIIHH", length, 2, stripe_len, kind, 65536, 65536, 4096, count, sub)
    return head + b"".join(
        struct.pack("<QQ16s", n + 1, 1 << 20, bytes(16)) for n in range(count if stripes is None else stripes)
    )


@pytest.mark.parametrize(
    "item",
    [
        _chunk(1 << 20, 1, 1, stripe_len=0),
        _chunk(1 << 20, 1, 1, stripe_len=4096),
        _chunk(1 << 20, 1, 0, stripes=1),
        _chunk(1 << 20, 1, 9, stripes=1),
        _chunk(1 << 20, 1, 65535, stripes=2),
        _chunk(0, 1, 1),
        _chunk((1 << 64) - 4096, 1, 1),
        _chunk(1000, 1, 1),
        _chunk(1 << 20, 0, 1),
        _chunk(1 << 20, 1 | 8 | 16, 2),
        _chunk(1 << 20, 1 | 16, 3),
        _chunk(1 << 20, 1 | 64, 4, sub=0),
        _chunk(1 << 20, 1 | 64, 3, sub=2),
        _chunk(1 << 20, 1 | 128, 1),
        _chunk(1 << 20, 1 | 256, 2),
        b"",
        bytes(48),
    ],
)
def test_impossible_chunks_are_refused(item: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_chunk(1 << 20, item, 4096)


def test_chunks_that_overlap_are_refused() -> None:
    chunks = ChunkMap()
    chunks.add(parse_chunk(1 << 20, _chunk(1 << 20, 1, 1), 4096))
    chunks.add(parse_chunk(1 << 20, _chunk(1 << 20, 1, 1), 4096))  # the same again is none
    for start, length in ((1 << 20, 1 << 19), ((1 << 20) + 65536, 1 << 20), (0, 2 << 20)):
        with pytest.raises(Corrupt, match=r"overlaps|same"):
            chunks.add(parse_chunk(start, _chunk(length, 1, 1), 4096))


def test_a_system_chunk_array_that_ends_early_is_refused() -> None:
    whole = struct.pack("<QBQ", 256, 228, 1 << 20) + _chunk(1 << 20, 2, 1)
    assert len(parse_system_chunks(whole, 4096)) == 1
    for array in (whole[:-1], whole[:30], whole + whole[:20], whole.replace(b"\xe4", b"\xe5")):
        with pytest.raises(Corrupt):
            parse_system_chunks(array, 4096)


def test_a_chunk_tree_that_no_system_chunk_holds_does_not_look_for_itself(image: Edited) -> None:
    image.superblock(first=(811 + 9, "Q", 1 << 40))
    with pytest.raises(Corrupt, match="no system chunk"):
        image.open().stat(256)


# nodes


def _children(image: Edited) -> tuple[int, bytearray]:
    root = image.root(5)
    node = image.node(root)
    assert node[100] == 1
    return root, node


@pytest.mark.parametrize(
    "change",
    [
        put(48, "Q", 4096),
        put(32, "16s", b"somebody else's."),
        put(80, "Q", 1),
        put(88, "Q", 2),
        put(96, "I", 0xFFFFFFFF),
        put(96, "I", 700),
        put(96, "I", 0),
        put(100, "B", 1),
        put(100, "B", 255),
        put(HEADER + 17, "I", 0xFFFFFFFF),
        put(HEADER + 21, "I", 0xFFFFFFFF),
        put(HEADER, "Q", 1),
        put(HEADER + 25, "Q", 1),
    ],
)
def test_a_leaf_that_lies_about_itself_is_damage_of_that_leaf(
    image: Edited, change: Callable[[bytearray], None]
) -> None:
    _, node = _children(image)
    middle = POINTER.unpack_from(node, HEADER + 3 * POINTER.size)[3]
    image.edit(middle, change)
    fs = image.open()
    lost = damaged(fs)
    assert lost
    assert len(lost) < 400
    assert fs.problems()[0]


def test_a_node_that_names_its_ancestor_ends(image: Edited) -> None:
    root, node = _children(image)
    generation = struct.unpack_from("<Q", node, 80)[0]
    image.edit(root, _child(1, root, generation))
    lost = damaged(image.open())
    assert lost


def _child(slot: int, address: int, generation: int) -> Callable[[bytearray], None]:
    return lambda node: struct.pack_into("<QQ", node, HEADER + slot * POINTER.size + 17, address, generation)


def test_a_node_that_names_one_child_in_every_slot_is_not_followed(image: Edited) -> None:
    root, node = _children(image)
    objectid, kind, offset, address, generation = POINTER.unpack_from(node, HEADER)

    def fill(node: bytearray) -> None:
        room = (image.size - HEADER) // POINTER.size
        struct.pack_into("<I", node, 96, room)
        for slot in range(room):
            POINTER.pack_into(node, HEADER + slot * POINTER.size, objectid, kind, offset + slot, address, generation)

    image.edit(root, fill)
    fs = image.open()
    tree = fs.volumes.tree(0)
    flaws: list[GuestkitError] = []
    entries = sum(len(found) for _, found in tree.runs((0, 0, 0), (1 << 64, 0, 0), flaws))
    assert entries < 1000
    assert flaws
    with pytest.raises(Corrupt):
        list(tree.items())


def test_a_tree_whose_level_is_not_that_of_its_root_is_refused(image: Edited) -> None:
    image.superblock(level=(198, "B", 7))
    with pytest.raises(Corrupt, match="level"):
        image.open()


# names


def _index_of(image: Edited, directory: int, name: bytes) -> int:
    fs = image.open()
    return next(entry.cookie for entry in fs.scan(directory) if entry.name == name)


@pytest.mark.parametrize("name", [b"size/59", b"size\x0059", b"../ab59", b"/......"])
def test_names_that_cannot_be_shown_are_left_out_and_told(image: Edited, name: bytes) -> None:
    cookie = _index_of(image, 256, b"size-59")
    image.item(5, (256, 96, cookie), put(30, "7s", name))
    fs = image.open()
    with pytest.raises(Corrupt, match="name"):
        list(fs.scan(256))
    names = [entry.name for entry in _until(fs.scan(256))]
    assert name not in names
    assert b"size-60" in names
    assert fs.problems()[0]


def test_a_directory_that_is_its_own_ancestor_is_not_entered(image: Edited) -> None:
    fs = image.open()
    inner = fs.lookup(fs.lookup(fs.root, b"dir"), b"deeper")
    cookie = _index_of(image, inner, b"deepest")
    image.item(5, (inner, 96, cookie), put(0, "Q", inner))
    fs = image.open()
    told_of: list[bytes] = []
    paths = [path for path, _, _ in fs.walk(failed=lambda path, error: told_of.append(path))]
    assert len(paths) < 1000
    assert told_of == [b"dir/deeper/deepest"]


@pytest.mark.parametrize(
    "change",
    [
        put(27, "H", 0),
        put(27, "H", 65535),
        put(25, "H", 65535),
        put(0, "Q", 5),
        put(8, "B", 200),
        put(29, "B", 99),
    ],
)
def test_a_damaged_entry_hides_itself_alone(image: Edited, change: Callable[[bytearray], None]) -> None:
    cookie = _index_of(image, 256, b"size-59")
    image.item(5, (256, 96, cookie), change)
    fs = image.open()
    names = [entry.name for entry in _until(fs.scan(256))]
    assert b"size-60" in names
    assert b"zstd" in names
    assert b"size-59" not in names
    with pytest.raises(Corrupt):
        list(fs.scan(256))


def _until(entries: Iterator[DirEntry]) -> Iterator[DirEntry]:
    try:
        yield from entries
    except Corrupt:
        return


def test_an_entry_that_leads_to_no_inode_is_listed_without_stat(image: Edited) -> None:
    cookie = _index_of(image, 256, b"size-59")
    image.item(5, (256, 96, cookie), put(0, "Q", 1 << 60))
    fs = image.open()
    found = {entry.name: (entry, status) for entry, status in fs.scan_stat(256)}
    entry, status = found[b"size-59"]
    assert status is None
    assert entry.ino > 1 << 64
    with pytest.raises(NotFound):
        fs.stat(entry.ino)


def test_a_subvolume_that_hangs_elsewhere_shows_an_empty_directory(image: Edited) -> None:
    fs = image.open()
    number = next(volume.id for volume in fs.roots() if volume.path == b"sub")
    image.item(1, (5, 156, number), put(0, "Q", 999))
    fs = image.open()
    key = fs.lookup(fs.root, b"sub")
    assert fs.stat(key).ino == 2
    assert list(fs.scan(key)) == []
    assert fs.parent(key) == fs.root
    with pytest.raises(NotFound):
        fs.lookup(key, b"file")


def test_subvolumes_inside_each_other_are_told(image: Edited) -> None:
    fs = image.open()
    numbers = {volume.path: volume.id for volume in fs.roots()}
    sub, inner = numbers[b"sub"], numbers[b"sub/inner"]

    def turn(node: bytearray) -> None:
        index, _, _ = find_item(node, (sub, 144, 5))
        struct.pack_into("<Q", node, HEADER + index * ITEM.size + 9, inner)

    image.edit(image.leaf(1, (sub, 144, 5)), turn)
    fs = image.open()
    paths = {volume.path for volume in fs.roots()}
    assert b"sub" not in paths
    assert b"" in paths
    assert fs.problems()[0]


# data


def _extent(image: Edited, path: bytes, start: int = 0) -> tuple[Key, int]:
    fs = image.open()
    key = fs.root
    for name in path.split(b"/"):
        key = fs.lookup(key, name)
    return (key, 108, start), key


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (b"zstd/size-131072", put(8, "Q", 1 << 40)),
        (b"zstd/size-131072", put(45, "Q", 1 << 40)),
        (b"zstd/size-131072", put(29, "Q", 1 << 30)),
        (b"zstd/size-131072", put(37, "Q", 4096)),
        (b"zstd/size-131072", put(16, "B", 2)),
        (b"zstd/size-131072", put(16, "B", 1)),
        (b"lzo/size-131072", put(16, "B", 3)),
        (b"zlib/size-131072", put(21, "Q", 1 << 50)),
        (b"blocks", put(21, "Q", 4097)),
        (b"blocks", put(29, "Q", 4096)),
        (b"blocks", put(45, "Q", 0)),
        (b"blocks", put(45, "Q", 100)),
        (b"blocks", put(37, "Q", 1 << 62)),
        (b"blocks", put(20, "B", 7)),
    ],
)
def test_a_file_extent_that_lies_is_an_error_of_that_file(
    image: Edited, path: bytes, change: Callable[[bytearray], None]
) -> None:
    key, ino = _extent(image, path)
    image.item(5, key, change)
    fs = image.open()
    with pytest.raises(Corrupt):
        fs.open(ino).read(0, 40_000)
    assert damaged(fs) == {path.decode()}


@pytest.mark.parametrize(("at", "code", "value"), [(16, "B", 9), (17, "B", 1), (18, "H", 3)])
def test_unknown_compression_and_encryption_are_refused(image: Edited, at: int, code: str, value: int) -> None:
    key, ino = _extent(image, b"blocks")
    image.item(5, key, put(at, code, value))
    fs = image.open()
    with pytest.raises(Unsupported):
        fs.open(ino).read(0, 100)
    assert damaged(fs) == {"blocks"}


def test_extents_that_overlap_are_refused(image: Edited) -> None:
    key, ino = _extent(image, b"maps/every-second")
    image.item(5, key, put(21, "QQQQ", (0, 0, 0, 16384)))  # a hole as long as the next extents
    with pytest.raises(Corrupt, match="offset"):
        image.open().open(ino).read(0, 40_000)


def test_a_file_that_claims_to_be_huge_reads_zeros_in_pieces(image: Edited) -> None:
    _, ino = _extent(image, b"size-59")
    image.item(5, (ino, 1, 0), put(16, "Q", (1 << 63) - 1))
    source = image.open().open(ino)
    assert source.size == (1 << 63) - 1
    assert source.read(0, 59).rstrip(b"\0")
    assert source.read(1 << 62, 5) == bytes(5)


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1])
def test_a_size_beyond_what_a_file_can_have_is_refused(image: Edited, size: int) -> None:
    _, ino = _extent(image, b"size-59")
    image.item(5, (ino, 1, 0), put(16, "Q", size))
    with pytest.raises(Corrupt, match="size"):
        image.open().stat(ino)


def _csum_key(image: Edited) -> Key:
    node = image.node(image.leaf(7, ((1 << 64) - 10, 128, 0)))
    found: tuple[int, int, int, int, int] = ITEM.unpack_from(node, HEADER)
    return found[:3]


def test_a_checksum_item_of_odd_size_is_refused(image: Edited) -> None:
    key = _csum_key(image)
    leaf = image.leaf(7, key)

    def shorten(node: bytearray) -> None:
        index, at, size = find_item(node, key)
        assert index == 0
        struct.pack_into("<II", node, HEADER + 17, at - HEADER + 1, size - 1)
        (count,) = struct.unpack_from("<I", node, 96)
        if count > 1:  # what is behind begins where this one does
            end = at - HEADER + 1
            struct.pack_into("<II", node, HEADER + ITEM.size + 17, *_moved(node, end))

    def _moved(node: bytearray, end: int) -> tuple[int, int]:
        size = ITEM.unpack_from(node, HEADER + ITEM.size)[4]
        return end - size - 1, size + 1

    image.edit(leaf, shorten)
    fs = image.open()
    lost = damaged(fs)
    assert lost
    assert len(lost) < 150


def test_data_without_a_checksum_is_an_error_unless_the_file_keeps_none(image: Edited) -> None:
    key = _csum_key(image)

    def rename(node: bytearray) -> None:
        index, _, _ = find_item(node, key)
        struct.pack_into("<Q", node, HEADER + index * ITEM.size, (1 << 64) - 11)

    image.edit(image.leaf(7, key), rename)
    fs = image.open()
    lost = damaged(fs)
    assert lost
    assert not any(path.startswith("nocow/") for path in lost)


class Endless(Items):
    """A million extents of a file, all of one place."""

    asked = 0
    count = 1 << 20

    def runs(
        self, start: Key, end: Key, flaws: list[GuestkitError] | None = None
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        item = struct.pack("<QQBBHBQQQQ", 1, 4096, 0, 0, 0, 1, 1 << 20, 4096, 0, 4096)
        at = -(-start[2] // 4096) if start[1] == 108 else 0
        while at < min(self.count, -(-end[2] // 4096) if end[1] == 108 else self.count):
            self.asked += 1
            yield item, [(300, 108, at * 4096, 0, len(item))]
            at += 1

    def before(self, key: Key) -> Found | None:
        self.asked += 1
        at = min((key[2] - 1) // 4096, self.count - 1)
        return next(
            ((*entries[0][:3], item) for item, entries in self.runs((300, 108, at * 4096), (300, 108, 1 << 62)))
        )


def test_a_million_extents_cost_only_those_that_are_read(image: Edited) -> None:
    fs = image.open()
    tree = Endless()
    source = BtrfsFile(fs._data, ExtentMap(tree, 300, 4096), 300, 1 << 32, True)
    assert len(list(source.extents(1 << 31, 8192))) == 2
    assert tree.asked < 10


def test_a_name_is_looked_up_by_its_hash_alone(image: Edited) -> None:
    """As the kernel does: a name under a wrong hash is not found."""
    wanted = name_hash(b"size-59")
    assert wanted == 0xFFFFFFFF & wanted
    fs = image.open()
    assert fs.lookup(256, b"size-59")
    image.item(5, (256, 84, wanted), put(30, "7s", b"size-58"))
    fs = image.open()
    with pytest.raises(NotFound):
        fs.lookup(256, b"size-59")
    with pytest.raises(NotFound):
        fs.lookup(256, b"size-58")
