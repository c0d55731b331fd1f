"""dpkg's database."""

from __future__ import annotations

import time
from typing import Any

import pytest
from memoryfs import File, MemoryFS

from guestkit.errors import Corrupt
from guestkit.inspect.look import Look
from guestkit.inspect.packages.dpkg import parse_status, read_dpkg, split_version
from guestkit.inspect.system import Application
from guestkit.namespace import MountTable
from guestkit.source import ZeroSource

RECORD = """\
Package: bash
Essential: yes
Status: install ok installed
Priority: required
Section: shells
Installed-Size: 7164
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Multi-Arch: foreign
Source: bash-src (5.2.15-2)
Version: 1:5.2.15-2+b2
Conffiles:
 /etc/bash.bashrc 89269e1298235f1b12b4c16e4065ad0d
Description: GNU Bourne Again SHell
 Bash is an sh-compatible command language interpreter.
 .
 Second paragraph.
Homepage: http://tiswww.case.edu/php/chet/bash/bashtop.html
"""


def look_at(dpkg: Any) -> Look:
    table = MountTable()
    table.mount(MemoryFS({"var": {"lib": {"dpkg": dpkg}}}))
    return Look(table)


def test_every_field_of_a_record() -> None:
    (bash,) = read_dpkg(look_at({"status": RECORD}))
    assert bash.application2() == {
        "app2_name": "bash",
        "app2_display_name": "",
        "app2_epoch": 1,
        "app2_version": "5.2.15",
        "app2_release": "2+b2",
        "app2_arch": "amd64",
        "app2_install_path": "",
        "app2_trans_path": "",
        "app2_publisher": "Matthias Klose <doko@debian.org>",
        "app2_url": "http://tiswww.case.edu/php/chet/bash/bashtop.html",
        "app2_source_package": "bash-src",
        "app2_summary": "GNU Bourne Again SHell",
        "app2_description": "Bash is an sh-compatible command language interpreter.\n\nSecond paragraph.",
        "app2_class": "shells",
        "app2_spare2": "",
        "app2_spare3": "",
        "app2_spare4": "",
    }


@pytest.mark.parametrize(
    ("status", "installed"),
    [
        ("install ok installed", True),
        ("hold ok installed", True),
        ("deinstall ok config-files", False),
        ("purge ok not-installed", False),
        ("install ok half-installed", False),
        ("install ok unpacked", False),
        ("garbage", False),
    ],
)
def test_only_installed_packages_are_listed(status: str, installed: bool) -> None:
    record = f"Package: x\nStatus: {status}\nVersion: 1\n"
    assert bool(list(parse_status(record.split("\n")))) is installed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1.2-3", (0, "1.2", "3")),
        ("2:1.2-3-4", (2, "1.2-3", "4")),
        ("1.2", (0, "1.2", "")),
        ("0:7", (0, "7", "")),
        ("x:1", (0, "x:1", "")),
        ("9999999999:1", (0, "9999999999:1", "")),
        ("1:2:3-4", (1, "2:3", "4")),
    ],
)
def test_versions_are_split_as_deb_version_says(text: str, parts: tuple[int, str, str]) -> None:
    assert split_version(text) == parts


def test_distroless_records_state_no_status() -> None:
    names = {
        "base": "Package: base-files\nVersion: 12.4\n",
        "base.md5sums": "Package: no\nVersion: 1\n",
        "tz": "Package: tzdata\nVersion: 2024a-0\n",
    }
    assert [found.name for found in read_dpkg(look_at({"status.d": names}))] == ["base-files", "tzdata"]


def test_records_are_found_across_read_boundaries_and_without_final_newline() -> None:
    many = "\n".join(
        f"Package: p{number}\nStatus: install ok installed\nVersion: {number}\nX: {'y' * 700}\n"
        for number in range(5000)
    )
    found = read_dpkg(look_at({"status": many.rstrip("\n")}))
    assert [package.name for package in found] == [f"p{number}" for number in range(5000)]


@pytest.mark.parametrize(
    "status",
    [
        {},
        b"",
        b"\0" * 100_000,
        b"\xff" * 100_000,
        b"Package: x" * 500_000,
        b" continued\n" * 100_000,
        b"Package: x\nDescription: y\n" + b" z\n" * 500_000,
        b"Package: a\nVersion: -\nStatus: install ok installed\n" * 10,
        File(b"", 0o010644),
    ],
    ids=["directory", "empty", "zeros", "bytes", "one line", "continuations", "description", "odd version", "fifo"],
)
def test_hostile_databases_give_a_list_quickly(status: Any) -> None:
    start = time.process_time()
    found = read_dpkg(look_at({"status": status}))
    assert all(isinstance(package, Application) for package in found)
    assert sum(len(package.description) for package in found) < 1 << 20
    assert time.process_time() - start < 3


def test_database_above_the_cap_is_refused_by_name() -> None:
    look = look_at({"status": File(ZeroSource((64 << 20) + 1))})
    assert read_dpkg(look) == []
    assert any("larger" in warning for warning in look.warnings)


def test_damaged_database_is_a_warning() -> None:
    look = look_at({"status": File(b"x", error=Corrupt("inode", "i_mode"))})
    assert read_dpkg(look) == []
    assert look.warnings
