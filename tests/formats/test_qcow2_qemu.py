"""qcow2 against qemu-img on images made for the occasion: long chains of layers, large ones, qemu-img map."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from imagefiles import content, digest, opened
from programs import run

from guestkit.errors import GuestkitError
from guestkit.limits import Limits
from guestkit.resolve import resolve
from guestkit.source import FileSource

pytestmark = pytest.mark.tool("qemu-img", "qemu-io")

MIB = 1 << 20


def converted(path: Path, *options: str) -> bytes:
    out = path.parent / "converted"
    run("qemu-img", "convert", *options, "-O", "raw", path, out, cwd=path.parent)
    return out.read_bytes()


def alternating(place: Path) -> Path:
    """Four layers of which each writes other clusters of 64 KiB: raw, plain, extended L2, compressed."""
    choice = random.Random(4)
    (place / "0.raw").write_bytes(choice.randbytes(4096) * (3 * MIB // 4096))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "0.raw", "-F", "raw", place / "1.qcow2", "4M", cwd=place)
    options = {2: "extended_l2=on", 3: "cluster_size=512", 4: "compression_type=zstd"}
    for layer in (2, 3, 4):
        below = f"{layer - 1}.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", "-o", options[layer]]
        run(*command, place / f"{layer}.qcow2", cwd=place)
    for layer in (1, 2, 3, 4):
        commands = []
        for cluster in range(layer % 2, 64, layer + 1):
            length = choice.choice([65536, 512, 2048])
            kind = choice.choice(["", "", "-z "])
            if layer == 4 and not kind:
                kind, length = "-c ", 65536
            pattern = f"-P {10 * layer + cluster % 7} " if kind != "-z " else ""
            commands += ["-c", f"write {kind}{pattern}{cluster * 65536} {length}"]
        run("qemu-io", "-f", "qcow2", *commands, place / f"{layer}.qcow2", cwd=place)
    return place / "4.qcow2"


def test_alternating_layers_read_as_one_disk(tmp_path: Path) -> None:
    path = alternating(tmp_path)
    want = converted(path)
    choice = random.Random(5)
    for threads in (0, 2):
        with opened(path, limits=Limits(decode_threads=threads)) as image:
            assert image.read(0, image.size) == want
            disk = resolve(image)
            assert disk.read(0, image.size) == want
            for _ in range(500):
                offset = choice.randrange(image.size)
                length = min(choice.choice([1, 700, 4096, 131072, 1 << 20]), image.size - offset)
                assert disk.read(offset, length) == want[offset : offset + length]
                assert image.read(offset, length) == want[offset : offset + length]


def test_tiny_cache_changes_nothing(tmp_path: Path) -> None:
    path = alternating(tmp_path)
    want = converted(path)
    with opened(path, limits=Limits(cache_bytes=1000)) as image:
        assert content(resolve(image), 100_000) == want


def test_extents_agree_with_qemu_img_map(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    choice = random.Random(6)
    writes = [f"write -P 7 {choice.randrange(1000) * 65536} {choice.choice([65536, 262144])}" for _ in range(40)]
    run("qemu-io", "-f", "qcow2", *(part for write in writes for part in ("-c", write)), path)
    theirs: list[tuple[int, int, int]] = []
    for entry in json.loads(run("qemu-img", "map", "--output=json", path)):
        if entry["data"] and "offset" in entry:
            last = theirs[-1] if theirs else (0, 0, 0)
            if theirs and last[0] + last[1] == entry["start"] and last[2] + last[1] == entry["offset"]:
                theirs[-1] = (last[0], last[1] + entry["length"], last[2])
            else:
                theirs.append((entry["start"], entry["length"], entry["offset"]))
    with opened(path) as image:
        ours = [(e.offset, e.length, e.source_offset) for e in resolve(image).extents(0, image.size) if e.source]
    assert ours == theirs


@pytest.mark.tool("filefrag")
def test_raw_extents_agree_with_filefrag(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    with open(path, "wb") as file:
        file.truncate(16 * MIB)
        for at in (0, 1 * MIB, 5 * MIB, 5 * MIB + 65536, 15 * MIB):
            file.seek(at)
            file.write(b"x" * 65536)
        file.flush()
        os.fsync(file.fileno())
    covered = set()
    for line in run("filefrag", "-b4096", "-v", path).splitlines():
        fields = line.replace(".", " ").replace(":", " ").split()
        if fields and fields[0].isdigit() and "unwritten" not in line:
            covered.update(range(int(fields[1]), int(fields[2]) + 1))
    with opened(path, "raw") as image:
        ours = {
            block
            for extent in image.extents(0, image.size)
            if extent.source is not None
            for block in range(extent.source_offset >> 12, (extent.source_offset + extent.length) >> 12)
        }
    assert ours == covered


@pytest.mark.parametrize("preallocation", ["off", "metadata", "falloc", "full"])
def test_preallocated_image_reads_as_zeros(tmp_path: Path, preallocation: str) -> None:
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"preallocation={preallocation}", path, "1000K")
    with opened(path) as image:
        assert content(image) == bytes(1000 * 1024)


def test_sparse_image_of_two_tebibytes_resolves_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "2T")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 1T 64k", path)
    with opened(path) as image:
        stored = [(e.offset, e.length) for e in image.extents(0, image.size) if e.source]
        assert stored == [(1 << 40, 65536)]
        assert sum(1 for _ in image.extents(0, image.size)) < 10
        assert resolve(image).read((1 << 40) - 1, 3) == b"\0\5\5"


def test_size_that_is_no_multiple_of_a_sector_is_cut_as_qemu_cuts_it(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "100K")
    data = bytearray(path.read_bytes())
    data[24:32] = (102400 + 1000).to_bytes(8, "big")
    path.write_bytes(data)
    with opened(path) as image:
        assert image.size == json.loads(run("qemu-img", "info", "--output=json", path))["virtual-size"]


def test_chain_of_64_files_opens_and_one_of_65_does_not(tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "0.qcow2", "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 3 0 1M", tmp_path / "0.qcow2")
    for number in range(1, 65):
        command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", f"{number - 1}.qcow2", "-F", "qcow2"]
        run(*command, tmp_path / f"{number}.qcow2", "1M")
    with opened(tmp_path / "63.qcow2") as image:
        assert digest(resolve(image)) == digest(resolve(image), 1000)
        assert image.read(MIB - 2, 2) == b"\3\3"
    with pytest.raises(GuestkitError, match="64"), opened(tmp_path / "64.qcow2"):
        pass


def test_holes_of_the_host_file_survive_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "8M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 2M 64k", path)
    with opened(path) as image:
        stored = [(e.offset, e.length) for e in resolve(image).extents(0, image.size) if e.source]
        assert stored == [(2 * MIB, 65536)]
        assert all(isinstance(e.source, FileSource) for e in image.extents(0, image.size) if e.source)
