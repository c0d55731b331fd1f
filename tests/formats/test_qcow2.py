"""qcow2 against what QEMU read from the committed images (scripts/make-qcow2-fixtures)."""

from __future__ import annotations

import json
import lzma
import os
import random
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from imagefiles import Faulty, content, digest, opened

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError, Unsupported, WouldBlock
from guestkit.image import qcow2
from guestkit.limits import Limits
from guestkit.resolve import resolve
from guestkit.source import BytesSource, FileSource, NoFiles, patience

DATA = Path(__file__).parent.parent / "data" / "qcow2"
MANIFEST = json.loads((DATA / "manifest.json").read_text())
IMAGES = {entry["file"]: entry for entry in MANIFEST["images"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("qcow2")
    for stored in DATA.rglob("*.xz"):
        path = place / stored.relative_to(DATA).with_suffix("")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(lzma.decompress(stored.read_bytes()))
    (place / "up.qcow2").write_bytes((place / "sub" / "up.qcow2").read_bytes())
    return place


@pytest.mark.parametrize("name", [name for name in IMAGES if not name.startswith("sub/")])
def test_image_reads_as_qemu_reads_it(images: Path, name: str) -> None:
    entry = IMAGES[name]
    for threads in (0, 2):
        with opened(images / name, entry["format"], Limits(decode_threads=threads)) as image:
            assert image.size == entry["size"]
            assert digest(image) == entry["sha256"]
            assert digest(resolve(image), 128 << 10) == entry["sha256"]


def test_backing_file_in_the_directory_above_needs_permission(images: Path) -> None:
    with pytest.raises(GuestkitError, match=r"backing file > .*outside"), opened(images / "sub" / "up.qcow2"):
        pass


def test_backing_file_above_opens_when_its_directory_is_allowed(images: Path) -> None:
    from guestkit import Guest

    with Guest(allowed=[str(images)]) as guest:
        disk = guest.add(images / "sub" / "up.qcow2")
        assert digest(disk.open()) == IMAGES["sub/up.qcow2"]["sha256"]


@pytest.mark.parametrize("name", [name for name, entry in IMAGES.items() if "info" in entry and "/" not in name])
def test_info_says_what_qemu_img_says(images: Path, name: str) -> None:
    theirs = IMAGES[name]["info"]
    with opened(images / name) as image:
        facts = image.info()
    for key in ("format", "virtual-size", "cluster-size", "dirty-flag", "backing-filename", "backing-filename-format"):
        assert facts.get(key) == theirs.get(key), key
    details = theirs["format-specific"]["data"]
    details.pop("bitmaps", None)
    assert facts["format-specific"] == {"type": "qcow2", "data": details}


def test_snapshots_are_listed_and_open_by_id_and_name(images: Path) -> None:
    entry = IMAGES["snap.qcow2"]
    theirs = entry["info"]["snapshots"]
    with opened(images / "snap.qcow2") as image:
        found = image.snapshots()
        assert [(s.id, s.name) for s in found] == [(s["id"], s["name"]) for s in theirs]
        for snapshot, known in zip(found, theirs, strict=True):
            assert snapshot.time_ns == known["date-sec"] * 10**9 + known["date-nsec"]
        assert [s.size for s in found] == [2 << 20, 3 << 20]
        for name, (size, sha256) in entry["snapshots"].items():
            by_id = next(s.id for s in found if s.name == name)
            for key in (name, by_id):
                source = image.snapshot(key)
                assert (source.size, digest(source)) == (size, sha256)
        with pytest.raises(NotFound):
            image.snapshot("third")


def test_dirty_bit_is_reported_and_the_image_read(images: Path) -> None:
    with opened(images / "dirty.qcow2") as image:
        assert image.info()["dirty-flag"] is True
        assert any("dirty" in problem for problem in image.problems())


@pytest.mark.parametrize(("name", "feature"), [("aes.qcow2", "AES"), ("luks.qcow2", "LUKS")])
def test_encryption_is_refused_by_name(images: Path, name: str, feature: str) -> None:
    with pytest.raises(Unsupported, match=feature), opened(images / name):
        pass


@pytest.mark.parametrize("name", ["ext-over.qcow2", "shorter.qcow2", "zlib.qcow2", "zlib-512.qcow2", "c512.qcow2"])
def test_random_reads_equal_slices(images: Path, name: str) -> None:
    choice = random.Random(name)
    with opened(images / name) as image, opened(images / name) as other:
        whole = content(other)
        fast = resolve(image)
        for _ in range(300):
            offset = choice.choice([choice.randrange(image.size), choice.randrange(image.size >> 12) << 12])
            length = min(choice.choice([0, 1, 511, 4096, 65536, 1 << 20]), image.size - offset)
            want = whole[offset : offset + length]
            assert fast.read(offset, length) == want
            assert image.read(offset, length) == want
            into = bytearray(length)
            fast.read_into(offset, memoryview(into))
            assert into == want


@pytest.mark.parametrize("name", ["plain.qcow2", "ext16k.qcow2", "data.qcow2", "over-raw.qcow2"])
def test_uncompressed_extents_lead_to_the_host_file(images: Path, name: str) -> None:
    with opened(images / name) as image:
        whole = content(image)
        at = 0
        for extent in image.extents(0, image.size):
            assert extent.offset == at and extent.length > 0
            part = whole[at : at + extent.length]
            if extent.source is None:
                assert not any(part)
            else:
                assert isinstance(extent.source, FileSource)
                with open(extent.source.path, "rb") as file:
                    file.seek(extent.source_offset)
                    assert file.read(extent.length) == part
            at += extent.length
        assert at == image.size


def test_neighbouring_clusters_are_one_extent(images: Path) -> None:
    with opened(images / "dirty.qcow2") as image:
        stored = [extent for extent in image.extents(0, image.size) if extent.source]
        assert [(extent.offset, extent.length) for extent in stored] == [(0, 128 * 1024)]
    with opened(images / "zlib.qcow2") as image:
        packed = {
            id(e.source) for e in image.extents(0, image.size) if e.source and not isinstance(e.source, FileSource)
        }
        assert len(packed) == 1


# headers made here


def header(**fields: int) -> bytearray:
    """A version 3 image of one cluster of tables, 2 TiB large and empty, with fields by offset changed."""
    values = {
        "version": 3,
        "backing_offset": 0,
        "backing_size": 0,
        "cluster_bits": 16,
        "size": 2 << 40,
        "crypt": 0,
        "l1_size": 4096,
        "l1_offset": 65536,
        "snapshots": 0,
        "snapshots_offset": 0,
        "incompatible": 0,
        "compatible": 0,
        "autoclear": 0,
        "refcount_order": 4,
        "length": 104,
    }
    values.update(fields)
    v = values
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        *(v["version"], v["backing_offset"], v["backing_size"], v["cluster_bits"], v["size"], v["crypt"]),
        *(v["l1_size"], v["l1_offset"], 0, 0, v["snapshots"], v["snapshots_offset"]),
        *(v["incompatible"], v["compatible"], v["autoclear"], v["refcount_order"], v["length"]),
    )
    image = bytearray(4 * 65536)
    image[: len(head)] = head
    return image


def from_bytes(image: bytes | bytearray) -> qcow2.Qcow2:
    return qcow2.open(BytesSource(bytes(image)), NoFiles(), Limits(decode_threads=0))


def test_empty_image_of_two_tebibytes_is_one_extent() -> None:
    extents = list(from_bytes(header()).extents(0, 2 << 40))
    assert [(extent.offset, extent.length, extent.source) for extent in extents] == [(0, 2 << 40, None)]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cluster_bits": 8}, "cluster_bits"),
        ({"cluster_bits": 22}, "cluster_bits"),
        ({"cluster_bits": 13, "incompatible": 16}, "cluster_bits"),
        ({"l1_size": (32 << 20) // 8 + 1}, "l1_size"),
        ({"l1_size": 4095}, "l1_size"),
        ({"l1_offset": 65537}, "l1_table_offset"),
        ({"l1_offset": 1 << 40}, "offset"),
        ({"length": 96}, "header_length"),
        ({"length": 108}, "header_length"),
        ({"length": 1 << 20}, "header_length"),
        ({"crypt": 3}, "crypt_method"),
        ({"refcount_order": 7}, "refcount_order"),
        ({"incompatible": 8}, "compression_type"),
        ({"backing_offset": 1 << 20, "backing_size": 5}, "backing_file_offset"),
        ({"backing_offset": 200, "backing_size": 1024}, "backing_file_size"),
    ],
)
def test_impossible_header_is_corrupt_and_names_the_field(fields: dict[str, int], field: str) -> None:
    with pytest.raises(Corrupt, match=field):
        from_bytes(header(**fields))


def test_other_versions_are_refused() -> None:
    for version in (1, 4):
        with pytest.raises(Unsupported, match=f"version {version}"):
            from_bytes(header(version=version))


def test_unknown_incompatible_feature_is_refused_by_the_name_that_the_image_gives() -> None:
    image = header(incompatible=1 << 40)
    image[104:112] = struct.pack(">II", 0x6803F857, 48)
    image[112:160] = bytes([0, 40]) + b"telepathy".ljust(46, b"\0")
    with pytest.raises(Unsupported, match="telepathy") as caught:
        from_bytes(image)
    assert caught.value.bit == 1 << 40
    with pytest.raises(Unsupported, match="feature 41"):
        from_bytes(header(incompatible=1 << 41))


def test_unknown_compatible_and_autoclear_features_and_extensions_are_ignored() -> None:
    image = header(compatible=1 << 9, autoclear=1 << 33)
    image[104:112] = struct.pack(">II", 0x12345678, 16)
    assert from_bytes(image).read(0, 512) == bytes(512)


def test_corrupt_bit_is_reported_and_the_image_read() -> None:
    image = from_bytes(header(incompatible=2))
    assert "corrupt" in image.problems()[0]
    assert image.read(1 << 30, 10) == bytes(10)


def test_extension_longer_than_its_area_is_corrupt() -> None:
    image = header()
    image[104:112] = struct.pack(">II", 0x12345678, 1 << 30)
    with pytest.raises(Corrupt, match="0x12345678"):
        from_bytes(image)


def test_too_many_snapshots_are_refused_and_the_disk_read() -> None:
    image = from_bytes(header(snapshots=65_537))
    assert image.read(0, 1) == b"\0"
    with pytest.raises(Corrupt, match="nb_snapshots"):
        image.snapshots()


def with_clusters(entries: dict[int, int], **fields: int) -> bytearray:
    """An image whose first L2 table, in the third cluster, has `entries`; the fourth cluster is 0xAB."""
    image = header(**fields)
    struct.pack_into(">Q", image, 65536, 2 * 65536 | 1 << 63)
    for index, entry in entries.items():
        struct.pack_into(">Q", image, 2 * 65536 + index * 8, entry)
    image[3 * 65536 :] = b"\xab" * 65536
    return image


STORED = 3 * 65536 | 1 << 63


@pytest.mark.parametrize(
    ("entry", "error", "reason"),
    [
        (1 << 40, SourceError, "truncated"),
        (3 * 65536 + 512, Corrupt, "offset"),
        (1 << 62 | 1 << 40, SourceError, "truncated"),
        (1 << 62 | 3 * 65536, Corrupt, "deflate"),
    ],
)
def test_damaged_cluster_does_not_fail_its_neighbours(entry: int, error: type[GuestkitError], reason: str) -> None:
    image = from_bytes(with_clusters({0: STORED, 1: entry, 2: STORED}))
    for source in (image, resolve(image)):
        for _ in range(2):
            assert source.read(0, 65536) == b"\xab" * 65536
            assert source.read(2 * 65536, 65536) == b"\xab" * 65536
            with pytest.raises(error, match=reason):
                source.read(65536, 10)
            with pytest.raises(error, match=reason):
                source.read(0, 3 * 65536)


def test_cluster_that_reaches_over_the_end_of_the_file_gives_what_is_there() -> None:
    image = from_bytes(with_clusters({0: STORED})[: 3 * 65536 + 1000])
    assert image.read(0, 1000) == b"\xab" * 1000
    with pytest.raises(SourceError, match="truncated"):
        image.read(999, 2)


def test_damaged_l2_table_costs_only_what_it_maps() -> None:
    image = with_clusters({0: STORED})
    struct.pack_into(">QQ", image, 65536 + 8, 1 << 40, 3 * 65536 + 512)
    disk = from_bytes(image)
    assert disk.read(0, 4) == b"\xab" * 4
    with pytest.raises(SourceError):
        disk.read(512 << 20, 4)
    with pytest.raises(Corrupt):
        disk.read(1024 << 20, 4)
    assert disk.read(1536 << 20, 4) == bytes(4)


def test_zero_flag_beats_the_host_cluster_and_is_corrupt_in_version_2() -> None:
    assert from_bytes(with_clusters({0: STORED | 1, 1: 1})).read(0, 2 * 65536) == bytes(2 * 65536)
    with pytest.raises(Corrupt, match="zero flag"):
        from_bytes(with_clusters({0: STORED | 1}, version=2)).read(0, 1)


@pytest.mark.parametrize(
    ("entry", "bitmap", "reason"),
    [(STORED, 1 | 1 << 32, "both allocated and zero"), (0, 1, "allocated in no cluster")],
)
def test_impossible_subclusters_are_corrupt(entry: int, bitmap: int, reason: str) -> None:
    image = with_clusters({0: entry, 1: bitmap, 2: STORED, 3: 0xFFFFFFFF}, incompatible=16, l1_size=8192)
    disk = from_bytes(image)
    with pytest.raises(Corrupt, match=reason):
        disk.read(0, 1)
    assert disk.read(65536, 1) == b"\xab"


def test_every_combination_of_subclusters_reads_as_the_bitmap_says() -> None:
    choice = random.Random(7)
    for _ in range(200):
        stored = choice.choice([choice.getrandbits(32), 0xFFFFFFFF, 0, 0x80000001])
        zeros = choice.getrandbits(32) & ~stored
        disk = from_bytes(with_clusters({0: STORED, 1: stored | zeros << 32}, incompatible=16, l1_size=8192))
        want = b"".join((b"\xab" if stored >> sub & 1 else b"\0") * 2048 for sub in range(32))
        start = choice.randrange(65536)
        end = choice.randrange(start, 65537)
        assert disk.read(start, end - start) == want[start:end]
        tiles = list(disk.extents(start, end - start))
        assert [e.offset for e in tiles] == [start, *(e.offset + e.length for e in tiles[:-1])][: len(tiles)]


def test_compressed_bomb_gives_one_cluster_at_most() -> None:
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = packer.compress(bytes(16 << 20)) + packer.flush()
    image = with_clusters({0: 1 << 62 | 63 << 54 | 3 * 65536})
    image[3 * 65536 : 3 * 65536 + len(bomb)] = bomb
    assert from_bytes(image).read(0, 65536) == bytes(65536)


def test_compressed_data_may_end_with_the_file() -> None:
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = random.Random(1).randbytes(30000).ljust(65536, b"x")
    packed = packer.compress(data) + packer.flush()
    image = with_clusters({0: 1 << 62 | 127 << 54 | 3 * 65536 + 77})[: 3 * 65536 + 77] + packed
    assert from_bytes(image).read(0, 65536) == data
    with pytest.raises(Corrupt, match="ends early"):
        from_bytes(image[:-100]).read(0, 65536)


def test_metadata_may_overlap_and_still_ends() -> None:
    image = header(l1_offset=0)
    disk = from_bytes(image)
    for offset in range(0, disk.size, 512 << 20):
        try:
            disk.read(offset, 1)
        except GuestkitError as error:
            assert error.errno


def test_thread_that_may_not_wait_gets_would_block_until_a_cluster_is_decoded(images: Path) -> None:
    with opened(images / "zstd.qcow2") as image:
        disk = resolve(image)
        packed = next(e for e in image.extents(0, image.size) if e.source and not isinstance(e.source, FileSource))
        patience.may_block = False
        try:
            with pytest.raises(WouldBlock):
                disk.read(packed.offset, 10)
            patience.may_block = True
            data = disk.read(packed.offset, 10)
            patience.may_block = False
            assert disk.read(packed.offset, 10) == data
        finally:
            patience.may_block = True


# faults and mutants


@pytest.mark.parametrize("name", ["plain.qcow2", "zlib.qcow2", "ext16k.qcow2", "zstd.qcow2"])
def test_failed_read_is_an_error_once_and_right_when_repeated(images: Path, name: str) -> None:
    raw = (images / name).read_bytes()
    want = content(from_bytes(raw))

    def walk(source: Faulty, repeat: bool) -> int:
        failed = 0
        disk = None
        while disk is None:
            try:
                disk = resolve(qcow2.open(source, NoFiles(), Limits(decode_threads=0)))
            except SourceError:
                failed += 1
        for at in range(0, disk.size, 200_000):
            length = min(200_000, disk.size - at)
            for _ in range(2):
                try:
                    assert disk.read(at, length) == want[at : at + length]
                    break
                except SourceError:
                    failed += 1
                    assert repeat
            else:
                raise AssertionError("failed twice")
        return failed

    clean = Faulty(raw)
    assert walk(clean, False) == 0
    # a table is asked for again at once when it was not to be had, so not every fault is seen
    seen = [walk(Faulty(raw, lambda number, k=k: number == k), True) for k in range(1, clean.reads + 1)]
    assert set(seen) == {0, 1}


def mutants(raw: bytes, count: int, places: Callable[[random.Random], int]) -> list[bytes]:
    found = []
    for seed in range(count):
        choice = random.Random(seed)
        image = bytearray(raw)
        for _ in range(choice.choice([1, 1, 2, 4])):
            at = places(choice)
            width = choice.choice([1, 2, 4, 8])
            value = choice.choice([0, 1, (1 << 8 * width) - 1, choice.getrandbits(8 * width)])
            image[at : at + width] = value.to_bytes(width, "big")
        found.append(bytes(image[: len(raw)]))
    return found


@pytest.mark.parametrize("name", ["plain.qcow2", "zlib-512.qcow2", "ext16k.qcow2", "zstd.qcow2", "snap.qcow2"])
def test_mutants_give_bytes_or_one_guestkit_error(images: Path, name: str) -> None:
    raw = (images / name).read_bytes()
    cluster = from_bytes(raw)._header.cluster_size if name != "snap.qcow2" else 65536
    l1 = int.from_bytes(raw[40:48], "big")
    l2 = int.from_bytes(raw[l1 : l1 + 8], "big") & (1 << 56) - 512
    good = refused = 0

    class Zeros(NoFiles):
        def open(self, name: str, format: str | None = None) -> BytesSource:
            return BytesSource(bytes(1 << 20))

    def place(choice: random.Random) -> int:
        kind = choice.random()
        if kind < 0.5:
            return choice.randrange(112)
        if kind < 0.7:
            return l1 + choice.randrange(64)
        return l2 + choice.randrange(min(cluster, 1024))

    for image in mutants(raw, 420, place):
        try:
            disk = qcow2.open(BytesSource(image), Zeros(), Limits(decode_threads=0))
            disk.info()
            disk.problems()
            for snapshot in disk.snapshots():
                disk.snapshot(snapshot.id).read(0, 512)
            for offset in (0, 70_000, 1 << 20, disk.size - 100_000):
                length = min(100_000, disk.size - offset)
                if offset >= 0 and length > 0:
                    disk.read(offset, length)
            sum(1 for _ in disk.extents(0, min(disk.size, 8 << 20)))
            good += 1
        except GuestkitError as error:
            assert error.errno
            refused += 1
    assert good > 20 and refused > 20


def test_metadata_that_changes_meanwhile_gives_bytes_or_errors(images: Path) -> None:
    raw = (images / "zlib-512.qcow2").read_bytes()
    l1 = int.from_bytes(raw[40:48], "big")
    l2 = int.from_bytes(raw[l1 : l1 + 8], "big") & (1 << 56) - 512
    source = Faulty(raw)
    disk = resolve(qcow2.open(source, NoFiles(), Limits(cache_bytes=0, decode_threads=2)))
    ended = threading.Event()

    def flip() -> None:
        choice = random.Random(11)
        while not ended.is_set():
            changed = bytearray(raw)
            at = choice.choice([l1, l2]) + choice.randrange(512)
            changed[at] ^= 1 << choice.randrange(8)
            source.data = bytes(changed)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for number in range(300):
            try:
                assert len(disk.read(number * 7919 % (disk.size - 5000), 5000)) == 5000
            except GuestkitError as error:
                assert error.errno
    finally:
        ended.set()
        thread.join()


def test_opening_and_closing_leaves_no_descriptor_and_no_thread(images: Path) -> None:
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    for _ in range(100):
        with opened(images / "ext-over.qcow2", limits=Limits(decode_threads=2)) as image:
            image.read(0, 1 << 20)
        with opened(images / "zstd.qcow2", limits=Limits(decode_threads=2)) as image:
            resolve(image).read(0, 1 << 20)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert set(threading.enumerate()) <= threads  # those of other tests may end
