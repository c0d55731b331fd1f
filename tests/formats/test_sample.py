"""The bundled sample guest reads as the kernel reads it; the rest of the tests may rely on what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import manifest

from guestkit.guest import open_guest

TOLD = json.loads((Path(__file__).parent.parent / "data" / "sample.json").read_text())
ROOT_UUID = "6f0a7c52-3d1b-4e58-9b1e-2c9d5a7e4f10"


def test_sample_is_small(sample_image: Path) -> None:
    assert sample_image.stat().st_size < 2 << 20


def test_disk_is_gpt_with_an_esp_and_an_ext4_root(sample_image: Path) -> None:
    with open_guest(sample_image) as guest:
        disk = guest.disks[0]
        assert disk.size == 96 << 20
        assert disk.table is not None
        assert disk.table.scheme == "gpt"
        assert [(part.name, part.size) for part in disk.partitions] == [
            ("/dev/sda1", 34 << 20),
            ("/dev/sda2", 60 << 20),
        ]
        assert guest.filesystems() == [("/dev/sda1", "vfat"), ("/dev/sda2", "ext4")]
        esp, root = (guest.detect(part) for part in disk.partitions)
        assert (esp.label, esp.uuid) == ("EFI", "5EED-C0DE")
        assert (root.label, root.uuid) == ("debian-root", ROOT_UUID)


def test_root_is_what_the_kernel_reads(sample_image: Path) -> None:
    with open_guest(sample_image) as guest:
        fs = guest.filesystem("/dev/sda2")
        tree = manifest.from_filesystem(fs)
        assert list(manifest.differences(manifest.unpack(TOLD["tree"]), tree)) == []
        assert list(manifest.figure_differences(TOLD["statvfs"], manifest.api_statvfs(fs))) == []
        assert list(manifest.index_differences(fs, tree)) == []
        assert list(manifest.content_differences(fs, tree)) == []
        assert fs.state.kind == "clean"
        assert fs.problems()[0] == 0
