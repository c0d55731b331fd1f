"""What every test shares: requirements as markers, and no silent skip in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from nosync import forget_sync

from guestkit.source import patience

forget_sync()

IN_CI = os.environ.get("CI") == "true"
DATA = Path(__file__).parent / "data"


def _missing(item: pytest.Item) -> str:
    """What `item` needs and this machine has not, or ""."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        return "needs root"
    if item.get_closest_marker("fuse"):
        if not os.path.exists("/dev/fuse"):
            return "needs /dev/fuse"
        if not shutil.which("fusermount3"):
            return "needs fusermount3"
        try:
            import pyfuse3  # noqa: F401  # asked for, not used
        except ImportError:
            return "needs pyfuse3"
    for marker in item.iter_markers("tool"):
        for name in marker.args:
            if not shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
                return f"needs {name}"
    for marker in item.iter_markers("module"):
        for name in marker.args:
            if importlib.util.find_spec(name) is None:
                return f"needs the Python package with {name}"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = _missing(item)
    if reason:
        if IN_CI:
            pytest.fail(f"{reason}, and CI must have it", pytrace=False)
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An unexpected warning in the log fails the test; one that expects some calls caplog.clear()."""
    yield
    loud = [record.getMessage() for record in caplog.get_records("call") if record.levelname in ("WARNING", "ERROR")]
    assert not loud, f"unexpected log output: {loud}"
    assert patience.may_block, "a test left its thread unable to wait"


@pytest.fixture(scope="session")
def sample_image() -> Path:
    """The bundled sample guest."""
    import guestkit

    return Path(guestkit.__file__).parent / "samples" / "debian.qcow2"


@pytest.fixture
def tools_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """mkfs and its kin are in sbin, which an ordinary user's PATH may lack."""
    monkeypatch.setenv("PATH", os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
