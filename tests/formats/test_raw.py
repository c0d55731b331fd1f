"""Raw images."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagefiles import content, opened

from guestkit.errors import SourceError
from guestkit.image import raw
from guestkit.limits import Limits
from guestkit.source import BytesSource, FileSource, NoFiles


def test_raw_image_is_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 64
    (tmp_path / "a").write_bytes(data)
    with opened(tmp_path / "a", "raw") as image:
        assert image.size == len(data)
        assert content(image, 1000) == data
        assert image.info() == {"format": "raw", "virtual-size": len(data)}
        extent = next(image.extents(100, 200))
        assert isinstance(extent.source, FileSource)
        assert extent[:2] == (100, 200) and extent.source_offset == 100


def test_last_sector_is_filled_with_zeros() -> None:
    image = raw.open(BytesSource(b"x" * 1000), NoFiles(), Limits())
    assert image.size == 1024
    assert image.read(990, 34) == b"x" * 10 + bytes(24)
    assert image.read(1010, 14) == bytes(14)
    with pytest.raises(SourceError):
        image.read(1020, 5)


def test_holes_stay_holes(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 65536)
    with opened(tmp_path / "a", "raw") as image:
        stored = [(e.offset, e.length) for e in image.extents(0, image.size) if e.source]
        assert stored == [(4 << 20, 65536)]
