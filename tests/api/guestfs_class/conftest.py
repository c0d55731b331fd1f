"""A launched handle on the fixture: MBR, one bootable ext4 partition from sector 2048."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from guestkit import Guestfs

IMAGE = Path(__file__).parents[2] / "data" / "api" / "linux.qcow2"


@pytest.fixture
def g() -> Iterator[Guestfs]:
    """Launched, nothing mounted."""
    with Guestfs(environment=False) as handle:
        handle.add_drive_opts(str(IMAGE), readonly=True, format="qcow2")
        handle.launch()
        yield handle


@pytest.fixture(scope="session")
def _shared() -> Iterator[Guestfs]:
    with Guestfs(environment=False) as handle:
        handle.add_drive(str(IMAGE))
        handle.launch()
        handle.mount_ro("/dev/sda1", "/")
        yield handle


@pytest.fixture
def m(_shared: Guestfs) -> Guestfs:
    """Mounted at /; for tests that only read."""
    return _shared
