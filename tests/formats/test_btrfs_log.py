"""Btrfs's log trees: replayed as the kernel replays them, refused as it refuses them, damaged ones survived."""

from __future__ import annotations

import json
import lzma
import random
import struct
import time
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import manifest
import pytest

from guestkit import registry
from guestkit.errors import Corrupt, GuestkitError, SourceError, Unsupported
from guestkit.fs.base import FileSystem, Problems
from guestkit.fs.btrfs import logtree
from guestkit.fs.btrfs.assembly import ROOT_ITEM, RootItem, Trees, assemble
from guestkit.fs.btrfs.checksums import checksum
from guestkit.fs.btrfs.log import put_checksums
from guestkit.fs.btrfs.logitems import (
    CSUM_OBJECTID,
    DIR_INDEX,
    DIR_ITEM,
    DIR_LOG_INDEX,
    EXTENT_CSUM,
    EXTENT_DATA,
    INODE_EXTREF,
    INODE_ITEM,
    INODE_REF,
    LAST,
    XATTR_ITEM,
    Inode,
    extref_hash,
    make_name,
    make_ref,
    name_hash,
    parse_extent,
    parse_names,
    parse_refs,
)
from guestkit.fs.btrfs.logreplay import Format, Replay
from guestkit.fs.btrfs.logtree import Changed
from guestkit.fs.btrfs.superblock import read_superblock
from guestkit.fs.btrfs.tree import END_KEY, LOG_TREE, Entry, Found, Items, Key, Node
from guestkit.limits import Budget, Limits
from guestkit.source import BytesSource, Overlay, Patch, Source

DATA = Path(__file__).parent.parent / "data" / "btrfs-log"
NAMES = sorted(path.name.removesuffix(".json") for path in DATA.glob("*.json"))
SUPER = 0x10000


@cache
def told(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, bytes]]:
    """Raw images by name, decompressed when first asked for."""

    class Images(dict[str, bytes]):
        def __missing__(self, name: str) -> bytes:
            self.clear()  # tests come by name: one at a time is enough
            self[name] = lzma.decompress((DATA / f"{name}.img.xz").read_bytes())
            return self[name]

    kept = Images()
    yield kept
    kept.clear()


def opened(source: Source, **options: str) -> FileSystem:
    return registry.open_filesystem("btrfs", [source], Limits(), options)


def differences(fs: FileSystem, wanted: manifest.Tree) -> list[str]:
    """As manifest.differences, but for times that the kernel sets in the replay, which the manifest leaves out."""
    tree = manifest.from_filesystem(fs)
    for path, entry in tree.items():
        for field in ("mtime", "ctime"):
            if field not in wanted.get(path, entry):
                del entry[field]
    return [*manifest.differences(wanted, tree), *manifest.index_differences(fs, tree)]


@pytest.mark.parametrize("name", NAMES)
def test_replayed_tree_is_what_the_kernel_shows(name: str, images: dict[str, bytes]) -> None:
    fs = opened(BytesSource(images[name]))
    assert fs.state.kind == "replayed"
    assert differences(fs, manifest.unpack(told(name)["tree"])) == []
    assert fs.problems()[0] == 0


@pytest.mark.parametrize("name", NAMES)
def test_without_replay_the_last_commit_shows_and_the_state_says_so(name: str, images: dict[str, bytes]) -> None:
    fs = opened(BytesSource(images[name]), nologreplay="")
    assert fs.state.kind == "dirty-not-replayed"
    committed = manifest.unpack(told(name)["committed"])
    assert differences(fs, committed) == []
    assert committed != manifest.unpack(told(name)["tree"])


@pytest.mark.parametrize(
    ("options", "replayed"),
    [
        ({"norecovery": ""}, False),
        ({"rescue": "nologreplay"}, False),
        ({"rescue": "ignorebadroots:nologreplay"}, False),
        ({"rescue": "all"}, False),
        ({"nologreplay": "no"}, True),
        ({"rescue": "usebackuproot"}, True),
        ({"noload": ""}, True),
    ],
)
def test_options_decide_about_the_replay(options: dict[str, str], replayed: bool, images: dict[str, bytes]) -> None:
    assert (opened(BytesSource(images["names"]), **options).state.kind == "replayed") is replayed


# damage


def patched(image: bytes, offset: int, data: bytes) -> Source:
    return Overlay(BytesSource(image), [Patch(offset, len(data), BytesSource(data), 0)])


def sealed(block: bytes | bytearray, kind: int = 0) -> bytes:
    """A superblock or a node with its checksum made right."""
    csum = checksum(kind)
    return csum.digest(bytes(block[32:])).ljust(32, b"\0") + bytes(block[32:])


def with_superblock(image: bytes, offset: int, value: bytes) -> Source:
    block = bytearray(image[SUPER : SUPER + 4096])
    block[offset : offset + len(value)] = value
    return patched(image, SUPER, sealed(block))


def trees_of(source: Source) -> Trees:
    return assemble([source], Limits(), Problems())


def log_blocks(trees: Trees) -> list[int]:
    """Where the nodes of all log trees stand on the only device, those of their root tree first."""
    superblock = trees.pool.superblock
    pending = [(superblock.log_root, superblock.log_root_level, superblock.generation + 1)]
    found = []
    while pending:
        address, level, generation = pending.pop(0)
        node: Node = trees.nodes.read(address, level, generation, 0, None, END_KEY)
        (piece,) = trees.pool.chunk(address).pieces(address, superblock.node_size, 0)
        found.append(piece.offset)
        if level:
            pending += [(entry[3], level - 1, entry[4]) for entry in node.entries]
        for objectid, kind, _, at, size in node.entries if not level else ():
            if (objectid, kind) == (LOG_TREE, ROOT_ITEM):
                item = RootItem(node.buffer[at : at + size])
                pending.append((item.address, item.level, item.generation))
    return found


def test_unknown_compat_ro_features_forbid_the_replay(images: dict[str, bytes]) -> None:
    image = images["names"]
    known = struct.unpack_from("<Q", image, SUPER + 180)[0]
    fs = opened(with_superblock(image, 180, struct.pack("<Q", known | 1 << 40)))
    assert str(fs.state) == (
        "dirty-not-replayed (unknown compat_ro features 0x10000000000 forbid to replay the log tree)"
    )
    assert differences(fs, manifest.unpack(told("names")["committed"])) == []


def test_damage_in_any_block_of_the_log_leaves_the_last_commit(images: dict[str, bytes]) -> None:
    image = images["many"]
    blocks = log_blocks(trees_of(BytesSource(image)))
    assert len(blocks) > 10
    for offset in blocks[:2] + blocks[2::9]:
        fs = opened(patched(image, offset + 1000, b"\xff\0\xff"))
        assert fs.state.kind == "dirty-not-replayed", offset
        assert "cannot be replayed" in fs.state.reason and "bad checksum" in fs.state.reason
        assert [entry.name for entry in fs.scan(fs.root)] == [b"file"]


def test_log_root_that_leads_nowhere_leaves_the_last_commit(images: dict[str, bytes]) -> None:
    fs = opened(with_superblock(images["many"], 96, struct.pack("<Q", 1 << 50)))
    assert fs.state.kind == "dirty-not-replayed" and "no chunk holds" in fs.state.reason
    assert [entry.name for entry in fs.scan(fs.root)] == [b"file"]


def test_log_of_another_transaction_is_not_replayed(images: dict[str, bytes]) -> None:
    image = images["names"]
    generation = struct.unpack_from("<Q", image, SUPER + 72)[0]
    first = log_blocks(trees_of(BytesSource(image)))[0]
    block = bytearray(image[first : first + 16384])
    struct.pack_into("<Q", block, 80, generation)
    fs = opened(patched(image, first, sealed(block)))
    assert fs.state.kind == "dirty-not-replayed" and "generation" in fs.state.reason


class Failing(BytesSource):
    """Raises for reads that meet the `length` bytes at `bad`."""

    def __init__(self, data: bytes, bad: int, length: int) -> None:
        super().__init__(data)
        self.bad, self.length = bad, length

    def read(self, offset: int, length: int) -> bytes:
        if offset < self.bad + self.length and self.bad < offset + length:
            raise SourceError("the host says no")
        return super().read(offset, length)

    def read_into(self, offset: int, buf: memoryview) -> None:
        buf[:] = self.read(offset, len(buf))


def test_log_that_the_host_cannot_read_is_an_error_of_the_opening(images: dict[str, bytes]) -> None:
    image = images["names"]
    for offset in log_blocks(trees_of(BytesSource(image))):
        with pytest.raises(SourceError):
            opened(Failing(image, offset, 4096))


def test_log_on_what_is_cut_off_leaves_the_last_commit(images: dict[str, bytes]) -> None:
    image = images["names"]
    last = max(log_blocks(trees_of(BytesSource(image))))
    fs = opened(Failing(image[: len(image) - 4096], last, 4096))
    assert fs.state.kind == "dirty-not-replayed" and "the host says no" in fs.state.reason


@pytest.mark.parametrize("name", ["names", "data", "attributes", "subvolumes", "random-103"])
def test_mutants_of_the_log_give_a_result_or_a_typed_error(name: str, images: dict[str, bytes]) -> None:
    image = images[name]
    trees = trees_of(BytesSource(image))
    size, kind = trees.pool.superblock.node_size, trees.pool.superblock.csum_type
    blocks = log_blocks(trees)
    dice = random.Random(name)
    kinds = {"replayed": 0, "dirty-not-replayed": 0}
    for _ in range(60):
        offset = dice.choice(blocks)
        block = bytearray(image[offset : offset + size])
        used = [at for at in range(101, size) if block[at]]
        for at in dice.sample(used, min(len(used), dice.choice((1, 1, 2, 20)))):
            block[at] = dice.choice((0, 1, 0x7F, 0xFF, dice.randrange(256)))
        start = time.process_time()
        try:
            fs = opened(patched(image, offset, sealed(block, kind)))
            kinds[fs.state.kind] += 1
            for _, ino, status in fs.walk():
                if status is not None and status.mode & 0o170000 == 0o100000 and status.size < 1 << 20:
                    try:
                        fs.open(ino).read(0, status.size)
                    except GuestkitError:
                        pass
        except GuestkitError:
            pass
        assert time.process_time() - start < 10
    assert all(kinds.values())


# the tree with changes over it


class Plain(Items):
    """Items of a dict, `step` to a run."""

    def __init__(self, items: dict[Key, bytes], step: int = 3) -> None:
        self.keys = sorted(items)
        self.kept = items
        self.step = step

    def runs(
        self, start: Key, end: Key, flaws: list[GuestkitError] | None = None
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        keys = self.keys[bisect_left(self.keys, start) : bisect_left(self.keys, end)]
        for at in range(0, len(keys), self.step):
            buffer, entries = b"#", []
            for key in keys[at : at + self.step]:
                entries.append((*key, len(buffer), len(self.kept[key])))
                buffer += self.kept[key]
            yield buffer, entries

    def before(self, key: Key) -> Found | None:
        at = bisect_left(self.keys, key) - 1
        return None if at < 0 else (*self.keys[at], self.kept[self.keys[at]])


@pytest.mark.parametrize("seed", range(40))
def test_changed_tree_reads_as_a_dict_that_was_changed(seed: int) -> None:
    dice = random.Random(seed)

    def some_key() -> Key:
        return dice.randrange(6), dice.choice((1, 12)), dice.randrange(5)

    model = {some_key(): dice.randbytes(dice.randrange(4)) for _ in range(dice.choice((0, 5, 40)))}
    tree = Changed(Plain(dict(model), dice.choice((1, 3, 100))))
    for _ in range(dice.choice((0, 3, 30, 80))):
        key = some_key()
        if dice.random() < 0.5:
            tree.delete(key)
            model.pop(key, None)
        else:
            item = dice.randbytes(dice.randrange(4))
            tree.put(key, item)
            model[key] = item
    wanted = [(*key, model[key]) for key in sorted(model)]
    assert list(tree.items()) == wanted
    for turn in range(40):
        if turn == 15:
            tree.freeze()
        low, high = some_key(), some_key()
        assert list(tree.items(low, high)) == [found for found in wanted if low <= found[:3] < high]
        assert tree.get(low) == model.get(low)
        below = [found for found in wanted if found[:3] < low]
        assert tree.before(low) == (below[-1] if below else None)


def test_changes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logtree, "MOST_CHANGES", 3)
    tree = Changed(Plain({}))
    for number in (1, 2, 3, 1, 2):
        tree.put((number, 1, 0), b"")
    with pytest.raises(Unsupported):
        tree.delete((4, 1, 0))


SHAPE = Format(4096, 16384, 4, 10, True)


@pytest.mark.parametrize("seed", range(30))
def test_logged_checksums_replace_those_of_the_same_sectors(seed: int) -> None:
    dice = random.Random(seed)
    model: dict[int, bytes] = {}
    base: dict[Key, bytes] = {}
    at = 0
    while at < 40:
        count = dice.randrange(1, 6)
        item = dice.randbytes(4 * count)
        base[CSUM_OBJECTID, EXTENT_CSUM, at * 4096] = item
        model.update({at + number: item[4 * number : 4 * number + 4] for number in range(count)})
        at += count + dice.randrange(3)
    tree = Changed(Plain(base))
    for _ in range(dice.randrange(1, 6)):
        start, count = dice.randrange(45), dice.randrange(1, 12)
        item = dice.randbytes(4 * count)
        put_checksums(tree, start * 4096, item, SHAPE)
        model.update({start + number: item[4 * number : 4 * number + 4] for number in range(count)})
    found: dict[int, bytes] = {}
    for _, _, place, item in tree.items():
        for number in range(len(item) // 4):
            assert place // 4096 + number not in found
            found[place // 4096 + number] = item[4 * number : 4 * number + 4]
    assert found == model


def test_checksum_item_of_a_broken_length_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        put_checksums(Changed(Plain({})), 0, b"12345", SHAPE)


# single rules of the replay, on items made by hand


def inode(mode: int, nlink: int = 1, size: int = 0, nbytes: int = 0, generation: int = 5) -> bytes:
    made = Inode(bytes(160))
    for field, value in (("mode", mode), ("nlink", nlink), ("size", size), ("nbytes", nbytes)):
        made.set(field, value)
    made.set("generation", generation)
    return bytes(made.item)


def named(directory: int, ino: int, name: bytes, index: int, kind: int = INODE_REF, type: int = 1) -> dict[Key, bytes]:
    """The three items of a name."""
    entry = make_name(ino, type, name, 5)
    place = directory if kind == INODE_REF else extref_hash(directory, name)
    return {
        (directory, DIR_ITEM, name_hash(name)): entry,
        (directory, DIR_INDEX, index): entry,
        (ino, kind, place): make_ref(kind, directory, index, name),
    }


ROOT = 256
TOP = {(ROOT, INODE_ITEM, 0): inode(0o40755, size=2), (ROOT, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 0, b"..")}
FILE = {(257, INODE_ITEM, 0): inode(0o100644), **named(ROOT, 257, b"f", 2)}


def replayed(base: dict[Key, bytes], log: dict[Key, bytes], shape: Format = SHAPE) -> dict[Key, bytes]:
    replay = Replay(Plain(base), Plain(log), shape, Budget(10_000, "log tree"))
    replay.run()
    return {found[:3]: found[3] for found in replay.tree.items()}


def names_of(items: dict[Key, bytes], directory: int = ROOT) -> dict[bytes, int]:
    """{name: inode} by the index; the other items of each name must agree."""
    found = {}
    for (objectid, kind, index), item in items.items():
        if objectid == directory and kind == DIR_INDEX:
            (entry,) = parse_names(item)
            found[entry.name] = entry.location[0]
            hashed = parse_names(items[directory, DIR_ITEM, name_hash(entry.name)])
            assert entry.location[0] in [each.location[0] for each in hashed if each.name == entry.name]
            refs = [
                ref
                for (ino, ref_kind, place), refs in items.items()
                if ino == entry.location[0] and ref_kind in (INODE_REF, INODE_EXTREF)
                for ref in parse_refs(ref_kind, place, refs)
            ]
            assert (directory, index, entry.name) in [(ref.parent, ref.place, ref.name) for ref in refs]
    return found


def test_new_inode_gets_its_name_and_its_links_counted() -> None:
    log = {
        (258, INODE_ITEM, 0): inode(0o100644, nlink=9, size=3),
        (258, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 3, b"new"),
    }
    found = replayed({**TOP, **FILE}, log)
    assert names_of(found) == {b"f": 257, b"new": 258}
    assert Inode(found[258, INODE_ITEM, 0]).get("nlink") == 1
    assert Inode(found[ROOT, INODE_ITEM, 0]).get("size") == 2 + 2 * 3


def test_inode_logged_without_a_name_left_is_passed_over() -> None:
    log = {
        (258, INODE_ITEM, 0): inode(0o100644, nlink=0),
        (258, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 3, b"new"),
        (258, EXTENT_DATA, 0): b"not looked at",
    }
    assert replayed({**TOP, **FILE}, log) == {**TOP, **FILE}


def test_name_moves_when_the_log_has_another_one() -> None:
    log = {
        (257, INODE_ITEM, 0): inode(0o100644),
        (257, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 3, b"moved"),
    }
    found = replayed({**TOP, **FILE}, log)
    assert names_of(found) == {b"moved": 257}
    assert Inode(found[257, INODE_ITEM, 0]).get("nlink") == 1


def test_name_that_another_inode_has_is_taken_from_it() -> None:
    log = {
        (258, INODE_ITEM, 0): inode(0o100644),
        (258, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 3, b"f"),
    }
    found = replayed({**TOP, **FILE}, log)
    assert names_of(found) == {b"f": 258}
    assert Inode(found[257, INODE_ITEM, 0]).get("nlink") == 0


def test_names_with_one_hash_are_told_apart() -> None:
    one, two = b"ebblgkjwh", b"gjunzdtpb"
    assert name_hash(one) == name_hash(two)
    base = {**TOP, (257, INODE_ITEM, 0): inode(0o100644), **named(ROOT, 257, one, 2)}
    log = {
        (258, INODE_ITEM, 0): inode(0o100644),
        (258, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 3, two),
    }
    found = replayed(base, log)
    assert names_of(found) == {one: 257, two: 258}
    log = {
        (ROOT, INODE_ITEM, 0): inode(0o40755),
        (ROOT, DIR_LOG_INDEX, 2): struct.pack("<Q", 2),
    }
    assert names_of(replayed(found, log)) == {two: 258}


def test_extended_references_are_replayed_and_removed() -> None:
    far = named(ROOT, 257, b"far", 3, INODE_EXTREF)
    base = {**TOP, (257, INODE_ITEM, 0): inode(0o100644, nlink=2), **named(ROOT, 257, b"f", 2), **far}
    added = (257, INODE_EXTREF, extref_hash(ROOT, b"more"))
    log = {
        (257, INODE_ITEM, 0): inode(0o100644, nlink=3),
        (257, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 2, b"f"),
        added: make_ref(INODE_EXTREF, ROOT, 4, b"more"),
    }
    found = replayed(base, log)
    assert names_of(found) == {b"f": 257, b"far": 257, b"more": 257}
    assert Inode(found[257, INODE_ITEM, 0]).get("nlink") == 3
    log = {(ROOT, INODE_ITEM, 0): inode(0o40755), (ROOT, DIR_LOG_INDEX, 3): struct.pack("<Q", LAST)}
    found = replayed(found, log)
    assert names_of(found) == {b"f": 257}
    assert Inode(found[257, INODE_ITEM, 0]).get("nlink") == 1
    assert added not in found


def test_name_of_a_directory_that_was_not_logged_is_passed_over() -> None:
    log = {
        (258, INODE_ITEM, 0): inode(0o100644),
        (258, INODE_REF, 999): make_ref(INODE_REF, 999, 3, b"x"),
        (258, INODE_REF, ROOT): make_ref(INODE_REF, ROOT, 4, b"y"),
    }
    found = replayed(TOP, log)
    assert names_of(found) == {b"y": 258}
    assert Inode(found[258, INODE_ITEM, 0]).get("nlink") == 1


def test_logged_directory_names_only_inodes_that_are_there() -> None:
    log = {
        (ROOT, INODE_ITEM, 0): inode(0o40755),
        (ROOT, DIR_INDEX, 3): make_name(999, 1, b"unknown", 5),
        (ROOT, DIR_INDEX, 4): make_name(257, 1, b"second", 5),
    }
    found = replayed({**TOP, **FILE}, log)
    assert names_of(found) == {b"f": 257, b"second": 257}
    assert Inode(found[257, INODE_ITEM, 0]).get("nlink") == 2


def test_directory_that_lost_its_last_name_loses_what_is_in_it() -> None:
    base = {
        **TOP,
        (258, INODE_ITEM, 0): inode(0o40755, size=2),
        **named(ROOT, 258, b"d", 2, type=2),
        (259, INODE_ITEM, 0): inode(0o100644),
        **named(258, 259, b"in", 2),
    }
    log = {(ROOT, INODE_ITEM, 0): inode(0o40755), (ROOT, DIR_LOG_INDEX, 0): struct.pack("<Q", LAST)}
    found = replayed(base, log)
    assert names_of(found) == names_of(found, 258) == {}
    assert [Inode(found[ino, INODE_ITEM, 0]).get("nlink") for ino in (258, 259)] == [0, 0]


def test_inode_logged_only_to_exist_keeps_what_it_has() -> None:
    base = {**TOP, (257, INODE_ITEM, 0): inode(0o100644, size=100, nbytes=4096), **named(ROOT, 257, b"f", 2)}
    for size, wanted in ((0, 100), (50, 50)):
        log = {(257, INODE_ITEM, 0): inode(0o100600, size=size, generation=0)}
        found = Inode(replayed(base, log)[257, INODE_ITEM, 0])
        assert (found.get("mode"), found.get("size"), found.get("nbytes")) == (0o100644, wanted, 4096)


def test_extended_attributes_that_the_log_has_not_are_removed() -> None:
    kept, gone = b"user.ycbpwdxht", b"user.bounhdqyz"
    assert name_hash(kept) == name_hash(gone)
    key = (257, XATTR_ITEM, name_hash(kept))
    item = make_name(0, 8, kept, 5)
    base = {**TOP, **FILE, key: item + make_name(0, 8, gone, 5), (257, XATTR_ITEM, 1): make_name(0, 8, b"user.x", 5)}
    log = {(257, INODE_ITEM, 0): inode(0o100644), key: item}
    found = replayed(base, log)
    assert [each.name for each in parse_names(found[key])] == [kept]
    assert (257, XATTR_ITEM, 1) not in found


def extent(address: int, length: int, offset: int = 0, type: int = 1) -> bytes:
    return struct.pack("<QQBBHBQQQQ", 5, offset + length, 0, 0, 0, type, address, offset + length, offset, length)


@pytest.mark.parametrize("no_holes", [True, False])
def test_logged_extents_cut_those_that_they_overlap(no_holes: bool) -> None:
    k = 4096
    base = {
        **TOP,
        **FILE,
        (257, INODE_ITEM, 0): inode(0o100644, size=10 * k, nbytes=10 * k),
        (257, EXTENT_DATA, 0): extent(1 << 20, 8 * k),
        (257, EXTENT_DATA, 8 * k): extent(2 << 20, 2 * k),
    }
    log = {
        (257, INODE_ITEM, 0): inode(0o100644, size=10 * k, nbytes=1),
        (257, EXTENT_DATA, 2 * k): extent(3 << 20, k),
        (257, EXTENT_DATA, 7 * k): extent(0, 2 * k),
    }
    found = replayed(base, log, SHAPE._replace(no_holes=no_holes))
    shown = {
        key[2] // k: (each.address >> 20, struct.unpack_from("<Q", item, 37)[0] // k, each.length // k)
        for key, item in found.items()
        if key[1] == EXTENT_DATA and (each := parse_extent(key[2], item)) is not None
    }
    hole = {} if no_holes else {7: (0, 0, 2)}
    assert shown == {0: (1, 0, 2), 2: (3, 0, 1), 3: (1, 3, 4), **hole, 9: (2, 1, 1)}
    assert Inode(found[257, INODE_ITEM, 0]).get("nbytes") == 8 * k


def test_what_was_preallocated_behind_a_new_end_goes_and_comes_back_from_the_log() -> None:
    k = 4096
    base = {
        **TOP,
        **FILE,
        (257, INODE_ITEM, 0): inode(0o100644, size=k, nbytes=5 * k),
        (257, EXTENT_DATA, 0): extent(1 << 20, k),
        (257, EXTENT_DATA, k): extent(2 << 20, 4 * k, type=2),
    }
    logged = inode(0o100644, size=100, nbytes=2 * k)
    found = replayed(base, {(257, INODE_ITEM, 0): logged})
    assert [key[2] for key in found if key[1] == EXTENT_DATA] == [0]
    assert Inode(found[257, INODE_ITEM, 0]).get("nbytes") == k
    found = replayed(base, {(257, INODE_ITEM, 0): logged, (257, EXTENT_DATA, k): extent(3 << 20, k, type=2)})
    assert [key[2] for key in found if key[1] == EXTENT_DATA] == [0, k]
    assert Inode(found[257, INODE_ITEM, 0]).get("nbytes") == 2 * k


@pytest.mark.parametrize(
    "log",
    [
        {(999, EXTENT_DATA, 0): extent(1 << 20, 4096)},
        {(257, INODE_ITEM, 0): b"short"},
        {(257, INODE_REF, ROOT): b"short"},
        {(257, INODE_REF, ROOT): struct.pack("<QH", 3, 500) + b"n"},
        {(ROOT, DIR_INDEX, 3): b"short"},
        {(999, DIR_INDEX, 3): make_name(257, 1, b"n", 5)},
        {(257, EXTENT_DATA, 0): b"short"},
        {(257, EXTENT_DATA, 4096): extent(1 << 20, LAST)},
        {(ROOT, INODE_ITEM, 0): inode(0o40755), (ROOT, DIR_LOG_INDEX, 0): b"short"},
    ],
)
def test_logs_that_the_kernel_would_not_replay_are_corrupt(log: dict[Key, bytes]) -> None:
    with pytest.raises(Corrupt):
        replayed({**TOP, **FILE}, log)


def test_inline_data_is_replaced_whole() -> None:
    inline = struct.pack("<QQBBHB", 5, 3, 0, 0, 0, 0)
    base = {
        **TOP,
        **FILE,
        (257, INODE_ITEM, 0): inode(0o100644, size=3, nbytes=3),
        (257, EXTENT_DATA, 0): inline + b"old",
    }
    log = {(257, INODE_ITEM, 0): inode(0o100644, size=3), (257, EXTENT_DATA, 0): inline + b"new"}
    found = replayed(base, log)
    assert found[257, EXTENT_DATA, 0][-3:] == b"new"
    assert Inode(found[257, INODE_ITEM, 0]).get("nbytes") == 3


def test_reading_over_many_deleted_items_looks_at_each_of_them_once() -> None:
    class Counting(Plain):
        looks = 0

        def before(self, key: Key) -> Found | None:
            self.looks += 1
            return super().before(key)

    base = Counting({(1, 1, number): b"" for number in range(1000)})
    tree = Changed(base, Budget(2500, "log tree"))
    for number in range(1, 1000):
        tree.delete((1, 1, number))
    assert tree.before((2, 0, 0)) == (1, 1, 0, b"")
    with pytest.raises(Corrupt):
        tree.before((2, 0, 0))
    tree.freeze()
    for _ in range(100):
        assert tree.before((2, 0, 0)) == (1, 1, 0, b"")
        assert tree.before((1, 1, 500)) == (1, 1, 0, b"")
    assert base.looks < 4000


def test_work_of_a_replay_is_bounded() -> None:
    log = {(number, INODE_ITEM, 0): inode(0o100644) for number in range(1000, 2000)}
    with pytest.raises(Corrupt, match="log tree"):
        Replay(Plain(TOP), Plain(log), SHAPE, Budget(500, "log tree")).run()


def test_extents_that_all_overlap_end_the_replay_soon() -> None:
    k = 4096
    base = {**TOP, **FILE, **{(257, EXTENT_DATA, at * k): extent(1 << 30, k) for at in range(5000)}}
    log = {(257, EXTENT_DATA, at * k): extent((2 << 30) + at * k, (6000 - at) * k) for at in range(5000)}
    start = time.process_time()
    with pytest.raises(Corrupt, match="log tree"):
        Replay(Plain(base, 200), Plain(log, 200), SHAPE, Budget(300_000, "log tree")).run()
    assert time.process_time() - start < 10


def test_first_superblock_counts_though_a_copy_is_newer(images: dict[str, bytes]) -> None:
    image = bytearray(images["names"])
    assert len(image) == 64 << 20  # there is no room for the copy at 64 MiB
    block = bytearray(image[SUPER : SUPER + 4096])
    generation = struct.unpack_from("<Q", block, 72)[0]
    struct.pack_into("<QQQ", block, 48, 64 << 20, *struct.unpack_from("<QQ", block, 56))
    struct.pack_into("<Q", block, 72, generation + 5)
    superblock, flaws = read_superblock(BytesSource(bytes(image) + sealed(block)))
    assert (superblock.generation, flaws) == (generation, [])
    image[SUPER + 500] ^= 1
    superblock, flaws = read_superblock(BytesSource(bytes(image) + sealed(block)))
    assert superblock.generation == generation + 5
    assert flaws == ["copy at 65536: superblock: bad checksum"]
