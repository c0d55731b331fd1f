"""Superblocks that are refused or replaced, damaged descriptors, and mutants: a result or one typed error."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest
from ext4_images import Counted, debugfs, make, path, reader, run

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, SourceError, Unsupported
from guestkit.fs.ext4 import open as open_ext4
from guestkit.fs.ext4.features import INCOMPAT_READ
from guestkit.fs.ext4.filesystem import Ext4
from guestkit.limits import Limits
from guestkit.namespace import MountTable
from guestkit.source import BytesSource

pytestmark = pytest.mark.tool("mke2fs", "debugfs", "e2fsck")


def patched(image: Path, offset: int, value: bytes, *, seal: bool = True) -> bytes:
    """The image with `value` at `offset` of its superblock; `seal`: the checksum made anew."""
    data = bytearray(image.read_bytes())
    data[1024 + offset : 1024 + offset + len(value)] = value
    if seal:
        data[1024 + 0x3FC : 2048] = struct.pack("<I", crc32c(bytes(data[1024 : 1024 + 0x3FC])))
    return bytes(data)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("plain") / "p.img", "4M", "-t", "ext4")


@pytest.mark.parametrize("bit", [bit for bit in range(32) if not INCOMPAT_READ >> bit & 1])
def test_incompatible_feature_that_is_not_read_is_refused_by_bit(plain: Path, bit: int) -> None:
    (word,) = struct.unpack_from("<I", plain.read_bytes(), 1024 + 0x60)
    with pytest.raises(Unsupported) as caught:
        reader(patched(plain, 0x60, struct.pack("<I", word | 1 << bit)))
    assert caught.value.bit == 1 << bit


def test_refusals_name_the_feature(plain: Path) -> None:
    (word,) = struct.unpack_from("<I", plain.read_bytes(), 1024 + 0x60)
    for bit, name in ((0x1, "compression"), (0x8, "journal_dev"), (0x1000, "dirdata")):
        with pytest.raises(Unsupported, match=name):
            reader(patched(plain, 0x60, struct.pack("<I", word | bit)))


def test_unknown_compatible_features_are_read_and_listed(plain: Path) -> None:
    (word,) = struct.unpack_from("<I", plain.read_bytes(), 1024 + 0x64)
    fs = reader(patched(plain, 0x64, struct.pack("<I", word | 1 << 30)))
    assert "FEATURE_R30" in fs.details()["features"]  # type: ignore[operator]
    assert path(fs, b"lost+found") == 11


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x18, 7),  # block size
        (0x20, 0),  # blocks in a group
        (0x28, 0),  # inodes in a group
        (0x28, 0xFFFFFFFF),
        (0x14, 5),  # first data block
        (0x58, 300),  # inode size
        (0xFC, 0x00070000),  # descriptor size
        (0x0, 1),  # inodes
    ],
)
def test_impossible_geometry_is_refused(plain: Path, offset: int, value: int) -> None:
    with pytest.raises(Corrupt):
        reader(patched(plain, offset, struct.pack("<I", value)))


def test_superblock_with_a_wrong_checksum_is_refused(plain: Path) -> None:
    with pytest.raises(Corrupt, match="s_checksum"):
        reader(patched(plain, 0x78, b"other", seal=False))


def test_backup_superblock_and_descriptors_serve(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_text("x")
    options = ("-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^flex_bg,^has_journal")
    image = make(tmp_path / "b.img", "8M", *options, tree=tree)
    data = bytearray(image.read_bytes())
    data[2048 : 2048 + 1024] = bytes(1024)
    fs = reader(bytes(data))
    assert path(fs, b"f") > 11 and fs.stat(path(fs, b"f")).size == 1
    assert "backup" in fs.problems()[1][0].message
    data[1024:2048] = bytes(1024)
    with pytest.raises(Corrupt, match="s_magic"):
        reader(bytes(data))  # groups of 1024 blocks: the copies do not stand where they are looked for
    fs = reader(bytes(data), {"sb": "1025"})
    assert path(fs, b"f") > 11
    for bad in ("x", "-1", "9" * 30):
        with pytest.raises(InvalidArgument):
            reader(bytes(data), {"sb": bad})


def test_lost_superblock_is_found_in_the_first_group_that_has_a_copy(tmp_path: Path) -> None:
    data = bytearray(make(tmp_path / "c.img", "16M", "-t", "ext4", "-b", "1024").read_bytes())
    data[1024:2048] = bytes(1024)
    fs = reader(bytes(data))
    assert path(fs, b"lost+found") == 11
    assert "the copy in group 1 was used" in fs.problems()[1][0].message


def test_external_journal_that_needs_recovery_is_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "j.img", "4M", "-t", "ext4", "-O", "^metadata_csum,^has_journal")
    data = image.read_bytes()
    compat, incompat = struct.unpack_from("<II", data, 1024 + 0x5C)
    assert path(reader(patched(image, 0x5C, struct.pack("<I", compat | 4), seal=False)), b"lost+found") == 11
    with pytest.raises(Unsupported, match="external journal"):
        reader(patched(image, 0x5C, struct.pack("<II", compat | 4, incompat | 4), seal=False))


def test_opening_reads_little(tmp_path: Path) -> None:
    source = Counted(make(tmp_path / "o.img", "64M", "-t", "ext4").read_bytes())
    fs = reader(source)
    fs.stat(fs.root)
    assert sum(length for _, length in source.reads) < 32 << 10


def survey(fs: Ext4) -> dict[bytes, tuple[object, ...]]:
    """Everything that can be read, with None where it cannot."""
    found: dict[bytes, tuple[object, ...]] = {}
    for name, ino, status in fs.walk():
        assert len(found) < 5000
        row: list[object] = [ino, status]
        if status is not None:
            for ask in (fs.readlink, fs.parent, fs.xattr_names, _content(fs), _attributes(fs)):
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


def _content(fs: Ext4):  # type: ignore[no-untyped-def]
    def ask(ino: int) -> tuple[bytes, bytes]:
        source = fs.open(ino)
        tail = max(0, source.size - 4096)
        return source.read(0, min(source.size, 65536)), source.read(tail, source.size - tail)

    return ask


def _attributes(fs: Ext4):  # type: ignore[no-untyped-def]
    return lambda ino: [fs.xattr(ino, name) for name in fs.xattr_names(ino)]


KINDS = {
    "ext2": ("-t", "ext2"),
    "ext4": ("-t", "ext4", "-O", "^metadata_csum,^has_journal"),
    "inline": ("-t", "ext4", "-O", "inline_data,ea_inode,^metadata_csum,^has_journal"),
    "checked": ("-t", "ext4", "-O", "^has_journal"),
}


@pytest.fixture(scope="module", params=list(KINDS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    folder = tmp_path_factory.mktemp("mutants")
    tree = folder / "tree"
    (tree / "dir").mkdir(parents=True)
    for number in range(60):
        (tree / "dir" / f"a-rather-long-file-name-{number:03}").write_bytes(b"x" * number)
    (tree / "long").symlink_to("q" * 90)
    (tree / "short").symlink_to("q")
    with (tree / "holes").open("wb") as file:
        for number in range(0, 60, 2):
            file.seek(number * 3000)
            file.write(b"z" * 700)
    image = make(folder / "m.img", "1M", "-b", "1024", "-N", "128", *KINDS[request.param], tree=tree)
    (folder / "value").write_bytes(b"v" * 300)
    debugfs(image, f"ea_set -f {folder / 'value'} /holes user.one", "ea_set /holes user.two 2")
    run("/usr/sbin/e2fsck", "-fyD", str(image), check=False)
    return request.param, image.read_bytes()


def test_mutants_give_results_or_typed_errors(base: tuple[str, bytes]) -> None:
    kind, data = base
    whole = survey(reader(data))
    assert len(whole) == 65 and not any(row[1] is None for row in whole.values())
    chance = random.Random(20_260_101)
    used = [at for at in range(0, len(data), 1024) if any(data[at : at + 1024])]
    opened = 0
    for _ in range(520):
        mutant = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 4))):
            at = chance.choice(used[:60]) + chance.randrange(1024)
            way = chance.random()
            if way < 0.5:
                mutant[at] = chance.randrange(256)
            elif way < 0.8:
                word = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", chance.randbytes(4)))
                mutant[at & ~3 : (at & ~3) + 4] = word
            else:
                other = chance.choice(used)
                mutant[at & ~1023 : (at & ~1023) + 1024] = data[other : other + 1024]
        begin = time.process_time()
        try:
            found = survey(reader(bytes(mutant)))
            opened += 1
        except GuestkitError:
            continue
        assert time.process_time() - begin < 3
        if kind == "checked":  # what is shown of names and inodes is what was there
            for name, row in found.items():
                assert row[0] == whole[name][0] and row[1] in (None, whole[name][1])
    assert opened > 400


def test_directory_that_names_one_block_without_end_is_left_soon(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "dir").mkdir(parents=True)
    for number in range(40):
        (tree / "dir" / f"name{number}").touch()
    image = make(tmp_path / "f.img", "4M", "-t", "ext2", "-b", "1024", tree=tree)
    fs = reader(image)
    inode = fs.table.read(path(fs, b"dir"))
    block = int.from_bytes(inode.i_block[:4], "little")
    data = bytearray(image.read_bytes())
    for table, target in ((3000, block), (3001, 3000), (3002, 3001)):
        data[table * 1024 : table * 1024 + 1024] = struct.pack("<I", target) * 256
    at = bytes(data).find(inode.raw)
    data[at + 40 : at + 100] = struct.pack("<15I", *[block] * 12, 3000, 3001, 3002)
    data[at + 4 : at + 8] = b"\xff" * 4
    fs = reader(bytes(data))
    begin = time.process_time()
    names = []
    with pytest.raises(Corrupt, match="not met before"):
        for found in fs.scan(path(fs, b"dir")):
            names.append(found.name)
    with pytest.raises(Corrupt):
        fs.lookup(path(fs, b"dir"), b"none")
    assert len(list(fs.walk())) < 200
    assert len(names) == 40
    assert time.process_time() - begin < 3


def test_directories_with_two_names_each_do_not_make_a_tree_without_end(tmp_path: Path) -> None:
    """Of sixty directories in a row each leads to the next by two names: 2^60 paths, of which one each is walked."""
    tree = tmp_path / "tree"
    inner = tree
    for level in range(60):
        inner = inner / f"d{level}"
    inner.mkdir(parents=True)
    image = make(tmp_path / "image", "8M", "-t", "ext4", tree=tree)
    path = ""
    requests = []
    for level in range(60):
        requests.append(f"ln {path}/d{level} {path}/other")
        path += f"/d{level}"
    debugfs(image, *requests)
    fs = open_ext4([BytesSource(image.read_bytes())], Limits(), {})
    failed: list[bytes] = []
    names = [name for name, _, _ in fs.walk(failed=lambda path, error: failed.append(path))]
    assert len(names) == 60 * 2 + 1 and len(failed) == 60
    table = MountTable()
    table.mount(fs)
    assert len(list(table.walk(table.root))) == len(names)


def test_an_unreadable_sector_costs_a_listing_the_inodes_in_it_alone(tmp_path: Path) -> None:
    class Failing(BytesSource):
        bad = -1  # byte offset of a record that cannot be read

        def read(self, offset: int, length: int) -> bytes:
            if offset <= self.bad < offset + length:
                raise SourceError("I/O error")
            return super().read(offset, length)

    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(200):
        (tree / f"file{number}").touch()
    source = Failing(make(tmp_path / "image", "8M", "-t", "ext4", tree=tree).read_bytes())
    fs = open_ext4([source], Limits(), {})
    name, victim = next((entry.name, entry.ino) for entry in fs.scan(fs.root) if entry.ino == 110)
    group, index = divmod(victim - 1, fs.superblock.inodes_per_group)
    table = fs.groups.inode_table(group) * fs.superblock.block_size
    source.bad = table + index * fs.superblock.inode_size
    fs = open_ext4([source], Limits(), {})
    lost = [entry.name for entry, status in fs.scan_stat(fs.root) if status is None]
    assert lost == [name]


def test_bulk_reads_and_kept_records_are_bounded_in_bytes(tmp_path: Path) -> None:
    """Inodes as large as a block: a thousand of them are no small read."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(900):
        (tree / f"link{number}").symlink_to("target")
    image = make(tmp_path / "image", "64M", "-t", "ext4", "-b", "4096", "-I", "4096", "-N", "1200", tree=tree)
    source = Counted(image.read_bytes())
    fs = open_ext4([source], Limits(), {})
    source.reads.clear()
    assert sum(status is not None for _, status in fs.scan_stat(fs.root)) == 901
    assert max(length for _, length in source.reads) <= 1 << 18
    assert 4096 * len(fs.table._recent) <= 2 << 20
