"""XFS images that lie: each costs the object that lies, soon, with a typed error, and nothing else."""

from __future__ import annotations

import random
import stat
import time
from collections.abc import Callable

import pytest
from xfs_images import Image, extent, fixture, reader, u16, u32, u64

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError, Unsupported
from guestkit.fs.xfs.blocks import BMAP, DA, DIRECTORY, Header
from guestkit.fs.xfs.filesystem import Xfs
from guestkit.source import BytesSource

LEAF = 1 << 35  # bytes: where a directory's index begins


def survey(fs: Xfs) -> dict[bytes, tuple[object, ...]]:
    """Everything that can be read, with None where it cannot."""
    found: dict[bytes, tuple[object, ...]] = {}
    for name, ino, status in fs.walk():
        assert len(found) < 5000
        row: list[object] = [ino, status]
        for ask in (fs.readlink, fs.parent, _content(fs), _attributes(fs)) if status is not None else ():
            try:
                row.append(ask(ino))
            except GuestkitError:
                row.append(None)
        found[name] = tuple(row)
    try:
        fs.statvfs()
    except GuestkitError:
        pass
    return found


def _content(fs: Xfs) -> Callable[[int], object]:
    def ask(ino: int) -> object:
        source = fs.open(ino)
        tail = max(0, source.size - 4096)
        return source.read(0, min(source.size, 65536)), source.read(tail, source.size - tail)

    return ask


def _attributes(fs: Xfs) -> Callable[[int], object]:
    return lambda ino: [(name, fs.xattr(ino, name)) for name in fs.xattr_names(ino)]


def changed(image: Image) -> set[bytes]:
    """The paths that read otherwise than in the fixture."""
    begin = time.process_time()
    before, after = survey(image.fs), survey(image.open())
    assert time.process_time() - begin < 6
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


# one inode


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"XX"),
        (2, u16(0o170644)),
        (4, b"\2"),
        (5, b"\1"),
        (5, b"\4"),
        (56, u64(1 << 63)),
        (64, u64(1 << 40)),
        (120, u64(8 | 16)),
        (152, u64(1)),
        (160, bytes(16)),
    ],
    ids=["magic", "mode", "version", "local-file", "format", "size", "blocks", "nrext64", "ino", "uuid"],
)
def test_inode_that_lies_costs_itself_alone(offset: int, value: bytes) -> None:
    image = Image()
    image.inode("dir/hard-b", (offset, value))
    assert changed(image) == {b"size-61", b"hard-a", b"dir/hard-b"}
    fs = image.open()
    with pytest.raises(Corrupt, match="inode"):
        fs.stat(image.ino("size-61"))
    list(fs.walk())
    assert fs.problems()[0] == 1


def test_inode_with_a_wrong_checksum_is_refused_in_bulk_and_alone() -> None:
    image = Image()
    image.data[image.inode("blocks") + 300] ^= 1
    assert changed(image) == {b"blocks"}
    with pytest.raises(Corrupt, match="di_crc"):
        image.open().stat(image.ino("blocks"))


def test_name_of_an_inode_that_is_not_in_use_is_not_found() -> None:
    image = Image()
    image.inode("blocks", (2, u16(0)))
    fs = image.open()
    with pytest.raises(NotFound):
        fs.stat(fs.lookup(fs.root, b"blocks"))
    assert changed(image) == {b"blocks"}


def test_inode_of_metadata_is_not_reached_by_a_name() -> None:
    image = Image()
    image.inode("blocks", (120, u64(8 | 32)))
    image.incompat(0x100)
    with pytest.raises(Corrupt, match="metadata"):
        image.open().stat(image.ino("blocks"))
    assert changed(image) == {b"blocks"}


def test_realtime_file_is_refused_by_name_and_has_a_stat() -> None:
    image = Image()
    image.inode("blocks", (90, u16(1)))
    fs = image.open()
    assert fs.stat(image.ino("blocks")) == image.fs.stat(image.ino("blocks"))
    with pytest.raises(Unsupported, match="realtime"):
        fs.open(image.ino("blocks"))


# maps


@pytest.mark.parametrize(
    "rows",
    [
        [extent(5, 600, 3), extent(7, 700, 1)],
        [extent(5, 600, 3), extent(4, 700, 1)],
        [extent(0, 600, 0)],
        [extent(0, 0, 1)],
        [extent(0, 4090, 100)],
        [extent(0, 1 << 40, 1)],
        [extent((1 << 54) - 1, 600, 5)],
    ],
    ids=["overlap", "disorder", "empty", "superblock", "beyond-group", "beyond-filesystem", "beyond-file"],
)
def test_extents_that_cannot_be_are_an_error_of_that_file(rows: list[bytes]) -> None:
    image = Image()
    image.inode("blocks", (image.fork("blocks"), b"".join(rows)), (76, u32(len(rows))), (64, u64(1000)))
    with pytest.raises(Corrupt, match=r"extent|fsblock"):
        image.open().open(image.ino("blocks"))
    assert changed(image) == {b"blocks"}


def test_more_extents_than_the_fork_holds_are_an_error() -> None:
    image = Image()
    for count in (50, 0xFFFFFFFF):
        image.inode("blocks", (76, u32(count)), (64, u64(4000)))
        with pytest.raises(Corrupt, match="extents"):
            image.open().open(image.ino("blocks")).read(0, 10)


def test_attribute_fork_beyond_the_inode_is_an_error() -> None:
    image = Image()
    image.inode("blocks", (82, b"\xff"))
    with pytest.raises(Corrupt, match="di_forkoff"):
        image.open().open(image.ino("blocks"))


def _tree(image: Image) -> tuple[int, int]:
    """(place of the root in the inode, block of the first child) of the file "deep"."""
    fork = image.fork("deep")
    root = image.fs.table.read(image.ino("deep")).data_fork
    room = (len(root) - 4) // 16
    return fork, image.fs.blocks.number(int.from_bytes(root[4 + 8 * room : 12 + 8 * room], "big"))


@pytest.mark.parametrize("what", ["itself", "twice", "level", "count", "high-root", "keys", "first-key"])
def test_tree_of_extents_that_loops_or_lies_ends_at_once(what: str) -> None:
    image = Image("xfs-deep")
    fork, child = _tree(image)
    assert image.bytes(child)[4:6] == u16(1)  # the root is of level 2
    pointers = 72 + 8 * ((1024 - 72) // 16)
    if what == "itself":
        image.block(child, BMAP, (pointers, u64(image.fsblock(child))))
    elif what == "twice":
        image.block(child, BMAP, (pointers + 8, image.bytes(child)[pointers : pointers + 8]))
    elif what == "level":
        image.block(child, BMAP, (4, u16(3)))
    elif what == "count":
        image.block(child, BMAP, (6, u16(60_000)))
    elif what == "high-root":
        image.inode("deep", (fork, u16(200)))
    elif what == "keys":
        image.block(child, BMAP, (72 + 8, u64(0)))
    else:
        image.block(child, BMAP, (72, u64(2)))
    begin = time.process_time()
    with pytest.raises(Corrupt):
        source = image.open().open(image.ino("deep"))
        source.read(0, source.size)
    assert time.process_time() - begin < 1
    assert changed(image) <= {b"deep"}


@pytest.mark.parametrize("offset", [24, 40, 56], ids=["place", "uuid", "owner"])
def test_node_of_another_place_or_owner_is_not_taken(offset: int) -> None:
    image = Image("xfs-deep")
    _, child = _tree(image)
    image.block(child, BMAP, (offset, b"\xaa" * 8))
    with pytest.raises(Corrupt, match=r"blkno|uuid|owner"):
        image.open().open(image.ino("deep")).read(0, 10)


# directories


@pytest.mark.parametrize("offset", [8, 24, 40], ids=["place", "uuid", "owner"])
def test_directory_block_of_another_place_or_owner_hides_only_itself(offset: int) -> None:
    image = Image()
    first, second = image.blocks("directories/leaf", 0, 2)
    assert first != second
    image.block(second, DIRECTORY, (offset, b"\xaa" * 8))
    fs = image.open()
    names = []
    with pytest.raises(Corrupt, match=r"blkno|uuid|owner"):
        for entry in fs.scan(image.ino("directories/leaf")):
            names.append(entry.name)
    assert 20 < len(names) < len(list(image.fs.scan(image.ino("directories/leaf"))))
    told: list[bytes] = []
    list(fs.walk(None, lambda path, _: told.append(path)))
    assert told == [b"directories/leaf"]


def _entry(image: Image, path: str, name: bytes) -> tuple[int, int]:
    """(block, place in it) of the name in a directory that stands in blocks."""
    for block in image.blocks(path, 0, LEAF // image.sup.block_size):
        at = image.bytes(block).find(bytes([len(name)]) + name)
        if at >= 0:
            return block, at - 8
    raise AssertionError(name)


@pytest.mark.parametrize("name", [b"a/b", b"a\0b", b"..."], ids=["slash", "nul", "length"])
def test_names_that_may_not_be_hide_themselves_and_are_told(name: bytes) -> None:
    image = Image()
    block, at = _entry(image, "", b"fifo")
    length = 255 if name == b"..." else 4
    image.block(block, DIRECTORY, (at + 8, bytes([length])), (at + 9, name.ljust(4, b"x")))
    fs = image.open()
    names = []
    with pytest.raises(Corrupt):
        for entry in fs.scan(fs.root):
            names.append(entry.name)
    assert b"fifo" not in names
    assert not [each for each in names if b"/" in each or b"\0" in each]
    assert fs.problems()[0]


@pytest.mark.parametrize("name", [b".", b".."])
def test_dots_among_the_names_do_not_reach_the_tree(name: bytes) -> None:
    image = Image()
    block, at = _entry(image, "", b"few")  # the entry is as long as that of a shorter name
    image.block(block, DIRECTORY, (at + 8, bytes([len(name)])), (at + 9, name.ljust(3, b"\2")))
    names = [entry.name for entry in image.open().scan(image.fs.root)]
    assert name not in names
    assert b"few" not in names
    assert len(names) == len(list(image.fs.scan(image.fs.root))) - 1


@pytest.mark.parametrize("name", [b"a/", b"a\0", b"..", b"."], ids=["slash", "nul", "dots", "dot"])
def test_names_that_may_not_be_in_a_short_directory(name: bytes) -> None:
    image = Image()
    at = image.fork("directories/short") + 6
    image.inode("directories/short", (at, bytes([len(name)])), (at + 3, name.ljust(2, b"x")))
    names = []
    with pytest.raises(Corrupt):
        for entry in image.open().scan(image.ino("directories/short")):
            names.append(entry.name)
    assert name not in names


@pytest.mark.parametrize("edit", [(0, b"\xff"), (1, b"\xff"), (6, b"\0"), (6, b"\xff")])
def test_short_directory_whose_counts_lie(edit: tuple[int, bytes]) -> None:
    image = Image()
    fork = image.fork("directories/short")
    image.inode("directories/short", (fork + edit[0], edit[1]))
    with pytest.raises(Corrupt, match="short directory"):
        list(image.open().scan(image.ino("directories/short")))


def test_entry_of_an_inode_outside_the_filesystem_hides_itself_alone() -> None:
    image = Image()
    block, at = _entry(image, "", b"fifo")
    for ino in (0, 1 << 40, (1 << 63) - 1):
        image.block(block, DIRECTORY, (at, u64(ino)))
        fs = image.open()
        names = []
        with pytest.raises(Corrupt, match="inumber"):
            for entry in fs.scan(fs.root):
                names.append(entry.name)
        assert len(names) == len(list(image.fs.scan(fs.root))) - 1


def test_entry_of_what_is_no_inode_is_listed_without_a_stat() -> None:
    image = Image()
    block, at = _entry(image, "", b"fifo")
    image.block(block, DIRECTORY, (at, u64(8 * 3000)))  # a block of data, most likely of zeros
    fs = image.open()
    found = {entry.name: status for entry, status in fs.scan_stat(fs.root)}
    assert found[b"fifo"] is None
    assert changed(image) == {b"fifo"}


def test_unused_space_that_lies_ends_the_block_and_not_the_listing() -> None:
    image = Image()
    block, at = _entry(image, "", b"fifo")
    for length in (0, 4, 0xFFF8):
        image.block(block, DIRECTORY, (at, b"\xff\xff" + u16(length)))
        with pytest.raises(Corrupt, match="directory entry"):
            list(image.open().scan(image.fs.root))


def test_count_of_the_index_in_a_block_is_checked() -> None:
    image = Image()
    (block,) = image.blocks("removed")
    image.block(block, DIRECTORY, (-8, u32(0xFFFFFFFF)))
    with pytest.raises(Corrupt, match="count"):
        list(image.open().scan(image.ino("removed")))


def test_directory_that_is_its_own_ancestor_is_not_entered() -> None:
    image = Image()
    fork = image.fork("dir/deeper")
    image.inode("dir/deeper", (fork + 6 + 3 + len(b"deepest") + 1, u32(image.ino("dir"))))
    fs = image.open()
    told: list[bytes] = []
    paths = [path for path, _, _ in fs.walk(None, lambda path, _: told.append(path))]
    assert len(paths) < 5000
    assert told == [b"dir/deeper/deepest"]
    assert "its own ancestor" in fs.problems()[1][0].message


def test_directory_with_a_second_name_is_entered_once_and_told() -> None:
    """A few levels of directories that each name the next a hundred times would make a tree without end."""
    image = Image()
    fork = image.fork("dir/deeper")
    image.inode("dir/deeper", (fork + 6 + 3 + len(b"deepest") + 1, u32(image.ino("many"))))
    fs = image.open()
    told: list[bytes] = []
    paths = [path for path, _, _ in fs.walk(None, lambda path, _: told.append(path))]
    assert len(told) == 1
    assert told[0] in (b"many", b"dir/deeper/deepest")
    assert len(paths) == len(list(image.fs.walk())) - 1
    assert "a second name" in fs.problems()[1][0].message


def test_directory_is_entered_whatever_type_its_name_claims() -> None:
    image = Image()
    block, at = _entry(image, "", b"many")
    image.block(block, DIRECTORY, (at + 9 + 4, b"\1"))
    assert {path for path, _, _ in image.open().walk()} == {path for path, _, _ in image.fs.walk()}


def test_directory_that_names_one_block_without_end_is_left_soon() -> None:
    image = Image()
    (block, *_) = image.blocks("directories/leaf", 0, 1)
    fork = image.fork("directories/leaf")
    rows = [extent(at, image.fsblock(block), 1) for at in range(12)]
    image.inode(
        *("directories/leaf", (fork, b"".join(rows)), (76, u32(len(rows)))),
        *((56, u64(1 << 35)), (64, u64(1 << 11))),
    )
    names = []
    fs = image.open()
    begin = time.process_time()
    with pytest.raises(Corrupt, match="not met before"):
        for entry in fs.scan(image.ino("directories/leaf")):
            names.append(entry.name)
    assert time.process_time() - begin < 1
    assert len(names) == len(set(names))


def test_size_of_a_directory_is_checked() -> None:
    image = Image()
    for size in (1000, (1 << 35) + 4096, 1 << 62):
        image.inode("directories/leaf", (56, u64(size)))
        with pytest.raises(Corrupt, match="di_size"):
            list(image.open().scan(image.ino("directories/leaf")))


# the index of a directory


@pytest.mark.parametrize("what", ["loop", "level", "count", "order", "address", "root", "crc"])
def test_damaged_index_is_told_and_names_are_searched(what: str) -> None:
    image = Image()
    path = "directories/node"
    name = b"00001 x"
    index = image.blocks(path, LEAF // 4096, 2 * LEAF // 4096)
    root, leaf = index[0], index[1]
    if what == "loop":
        image.block(root, DA, *((64 + 8 * n + 4, u32(LEAF // 4096)) for n in range(10)))
    elif what == "level":
        image.block(root, DA, (58, u16(9)))
    elif what == "count":
        image.block(root, DA, (56, u16(60_000)))
    elif what == "order":
        image.block(root, DA, (64, u32(0xFFFFFFFF)))
    elif what == "address":
        for block in index[1:]:
            if image.bytes(block)[8:10] == b"\x3d\xff":
                count = int.from_bytes(image.bytes(block)[56:58], "big")
                image.block(block, DA, *((64 + 8 * n + 4, u32(0x7FFFFFFF)) for n in range(count)))
    elif what == "root":
        image.block(root, DA, (8, b"\xff\xff"))
    else:
        image.data[root * 4096 + 70] ^= 1
    fs = image.open()
    directory = image.ino(path)
    assert fs.lookup(directory, name) == image.fs.lookup(directory, name)
    assert "all blocks were searched" in fs.problems()[1][0].message
    with pytest.raises(NotFound):
        fs.lookup(directory, b"no such name")
    assert leaf != root


def test_chain_of_leaves_that_loops_ends() -> None:
    """All leaves hold one hash alone, and each names itself as the next."""
    image = Image()
    path = "directories/node"
    first = LEAF // 4096
    for number, block in enumerate(image.blocks(path, first, 2 * first)):
        if image.bytes(block)[8:10] == b"\x3d\xff":
            count = int.from_bytes(image.bytes(block)[56:58], "big")
            rows = b"".join(u32(0x61) + u32(0) for _ in range(count))
            image.block(block, DA, (0, u32(first + number)), (64, rows))
        else:
            image.block(block, DA, (64, u32(0x61)))
    fs = image.open()
    begin = time.process_time()
    with pytest.raises(NotFound):
        fs.lookup(image.ino(path), b"a")
    assert time.process_time() - begin < 2
    assert fs.problems()[0] == 1


def test_damaged_block_may_hide_a_name_and_says_so() -> None:
    image = Image()
    second = image.blocks("directories/leaf", 1, 2)[0]
    image.data[second * 4096 + 100] ^= 1
    fs = image.open()
    with pytest.raises(Corrupt):
        fs.lookup(image.ino("directories/leaf"), b"no such name")
    assert fs.lookup(image.ino("directories/leaf"), b"first")


# the whole


@pytest.mark.parametrize("name", ["xfs-1k", "xfs-sparse", "xfs-parent", "xfs-dir4k-1k"])
def test_what_mutants_with_checksums_show_is_what_was_there(name: str) -> None:
    data = fixture(name)
    whole = survey(reader(data))
    assert len(whole) > 100
    used = [at for at in range(0, len(data), 512) if any(data[at : at + 512])]
    chance = random.Random(20_260_101)
    opened = 0
    for _ in range(25):
        mutant = bytearray(data)
        for _ in range(chance.choice((1, 1, 4, 16))):
            at = chance.choice(used) + chance.randrange(512)
            mutant[at] ^= 1 << chance.randrange(8)
        begin = time.process_time()
        try:
            found = survey(reader(mutant))
            opened += 1
        except GuestkitError:
            continue
        assert time.process_time() - begin < 3
        for path, row in found.items():  # what names, inodes, links and attributes show, file contents apart
            for index, value in enumerate(row):
                assert value is None or index == 4 or value == whole[path][index]
    assert opened > 15


def test_flip_of_each_bit_of_a_block_of_metadata_is_noticed() -> None:
    image = Image()
    kinds: list[tuple[int, Header]] = [
        (image.blocks("directories/leaf", 0, 1)[0], DIRECTORY),
        (image.blocks("directories/node", LEAF // 4096, LEAF // 4096 + 1)[0], DA),
        (image.blocks("xattr-remote", 0, 1, attr=True)[0], DA),
    ]
    chance = random.Random(5)
    for block, header in kinds:
        for _ in range(40):
            buf = bytearray(image.bytes(block))
            buf[chance.randrange(len(buf))] ^= 1 << chance.randrange(8)
            with pytest.raises(Corrupt):
                image.fs.blocks.verify(bytes(buf), header, block, 0, "block")


def test_damage_of_one_object_costs_one_object() -> None:
    """Each inode of a filesystem in its turn is overwritten; all others still read."""
    image = Image("xfs-parent")
    whole = survey(image.fs)
    paths = [path for path, row in whole.items() if not stat.S_ISDIR(row[1].mode)][::12]  # type: ignore[attr-defined]
    for path in paths:
        again = Image("xfs-parent")
        at = again.sup.inode_offset(int(whole[path][0]))  # type: ignore[call-overload]
        again.data[at : at + 512] = b"\xa5" * 512
        lost = changed(again)
        assert lost == {other for other, row in whole.items() if row[0] == whole[path][0]}


class Faulty(BytesSource):
    """Bytes of which the read with number `bad` fails, once."""

    def __init__(self, data: bytes, bad: int) -> None:
        super().__init__(data)
        self.left = bad

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise SourceError("injected")

    def read(self, offset: int, length: int) -> bytes:
        self._count()
        return super().read(offset, length)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self._count()
        super().read_into(offset, buf)


def test_a_read_that_fails_once_leaves_nothing_wrong_behind() -> None:
    data = fixture("xfs-groups")
    whole = survey(reader(data))
    failed = 0
    for bad in range(1, 400):
        source = Faulty(data, bad)
        try:
            fs = reader(source)
            before = survey(fs)
        except SourceError:  # in opening
            failed += 1
            continue
        if source.left > 0:
            break
        failed += before != whole
        for path, row in before.items():
            assert all(value is None or value == wanted for value, wanted in zip(row, whole[path], strict=False))
        assert survey(fs) == whole
    else:
        raise AssertionError("the last read was not reached")
    assert failed > 20


@pytest.mark.parametrize("option", ["needsrepair", ""])
def test_filesystem_that_needs_repair_is_read_when_asked(option: str) -> None:
    image = Image()
    image.incompat(0x10)
    if option:
        assert len(survey(image.open({option: ""}))) == len(survey(image.fs))
    else:
        with pytest.raises(Unsupported, match="xfs_repair") as caught:
            image.open()
        assert caught.value.bit == 0x10
