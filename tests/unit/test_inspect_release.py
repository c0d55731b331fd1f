"""Which distribution a guest is: os-release and the older release files of every kind, and hostile ones."""

from __future__ import annotations

import time
from typing import Any

import pytest
from memoryfs import File, MemoryFS, Symlink

from guestkit.inspect import linux
from guestkit.inspect.look import Look
from guestkit.inspect.release import find_release, parse_assignments
from guestkit.namespace import MountTable
from guestkit.source import ZeroSource


def look_at(tree: Any) -> Look:
    table = MountTable()
    table.mount(MemoryFS(tree))
    return Look(table)


def os_release(**values: str) -> str:
    return "".join(f'{key}="{value}"\n' for key, value in values.items())


CASES = [
    # name, files of /etc, (distro, product, major, minor), package format, tool, osinfo
    (
        "debian 12",
        {
            "os-release": os_release(PRETTY_NAME="Debian GNU/Linux 12 (bookworm)", ID="debian", VERSION_ID="12"),
            "debian_version": "12.5\n",
        },
        ("debian", "Debian GNU/Linux 12 (bookworm)", 12, 5),
        ("deb", "apt", "debian12"),
    ),
    ("debian 5", {"debian_version": "5.0.1\n"}, ("debian", "5.0.1", 5, 0), ("deb", "apt", "debian5")),
    (
        "debian testing has no number",
        {
            "os-release": os_release(PRETTY_NAME="Debian GNU/Linux trixie/sid", ID="debian"),
            "debian_version": "trixie/sid\n",
        },
        ("debian", "Debian GNU/Linux trixie/sid", 0, 0),
        ("deb", "apt", "unknown"),
    ),
    (
        "raspbian is debian to libguestfs",
        {"os-release": os_release(PRETTY_NAME="Raspbian 11", ID="raspbian", VERSION_ID="11", ID_LIKE="debian")},
        ("debian", "Raspbian 11", 11, 0),
        ("deb", "apt", "debian11"),
    ),
    (
        "ubuntu",
        {"os-release": os_release(PRETTY_NAME="Ubuntu 22.04.4 LTS", ID="ubuntu", VERSION_ID="22.04")},
        ("ubuntu", "Ubuntu 22.04.4 LTS", 22, 4),
        ("deb", "apt", "ubuntu22.04"),
    ),
    (
        "old ubuntu",
        {
            "lsb-release": 'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=10.04\nDISTRIB_DESCRIPTION="Ubuntu 10.04.1 LTS"\n',
            "debian_version": "squeeze/sid\n",
        },
        ("ubuntu", "Ubuntu 10.04.1 LTS", 10, 4),
        ("deb", "apt", "ubuntu10.04"),
    ),
    (
        "linux mint by lsb-release",
        {"lsb-release": 'DISTRIB_ID=LinuxMint\nDISTRIB_RELEASE=10\nDISTRIB_DESCRIPTION="Linux Mint 10 Julia"\n'},
        ("linuxmint", "Linux Mint 10 Julia", 10, 0),
        ("deb", "apt", "linuxmint10.0"),
    ),
    (
        "fedora",
        {"os-release": os_release(PRETTY_NAME="Fedora Linux 40 (Cloud Edition)", ID="fedora", VERSION_ID="40")},
        ("fedora", "Fedora Linux 40 (Cloud Edition)", 40, 0),
        ("rpm", "yum", "fedora40"),  # no /usr/bin/dnf in this tree
    ),
    (
        "old fedora",
        {"redhat-release": "Fedora release 14 (Laughlin)\n"},
        ("fedora", "Fedora release 14 (Laughlin)", 14, 0),
        ("rpm", "yum", "fedora14"),
    ),
    (
        "rhel 9",
        {"os-release": os_release(PRETTY_NAME="Red Hat Enterprise Linux 9.3 (Plow)", ID="rhel", VERSION_ID="9.3")},
        ("rhel", "Red Hat Enterprise Linux 9.3 (Plow)", 9, 3),
        ("rpm", "dnf", "rhel9.3"),
    ),
    (
        "rhel 4 counts updates",
        {"redhat-release": "Red Hat Enterprise Linux AS release 4 (Nahant Update 8)\n"},
        ("rhel", "Red Hat Enterprise Linux AS release 4 (Nahant Update 8)", 4, 8),
        ("rpm", "up2date", "rhel4.8"),
    ),
    (
        "centos 7",
        {
            "os-release": os_release(PRETTY_NAME="CentOS Linux 7 (Core)", ID="centos", VERSION_ID="7"),
            "centos-release": "CentOS Linux release 7.9.2009 (Core)\n",
        },
        ("centos", "CentOS Linux release 7.9.2009 (Core)", 7, 9),
        ("rpm", "yum", "centos7.0"),
    ),
    (
        "centos 6",
        {"redhat-release": "CentOS release 6.10 (Final)\n"},
        ("centos", "CentOS release 6.10 (Final)", 6, 10),
        ("rpm", "yum", "centos6.10"),
    ),
    (
        "centos stream has no minor version",
        {
            "os-release": os_release(PRETTY_NAME="CentOS Stream 9", ID="centos", VERSION_ID="9"),
            "redhat-release": "CentOS Stream release 9\n",
        },
        ("centos", "CentOS Stream release 9", 9, 0),
        ("rpm", "dnf", "centos9"),
    ),
    (
        "rocky",
        {
            "os-release": os_release(PRETTY_NAME="Rocky Linux 9 (Blue Onyx)", ID="rocky", VERSION_ID="9"),
            "rocky-release": "Rocky Linux release 9.3 (Blue Onyx)\n",
        },
        ("rocky", "Rocky Linux release 9.3 (Blue Onyx)", 9, 3),
        ("rpm", "dnf", "rocky9"),
    ),
    (
        "almalinux",
        {"os-release": os_release(PRETTY_NAME="AlmaLinux 9.3 (Shamrock)", ID="almalinux", VERSION_ID="9.3")},
        ("almalinux", "AlmaLinux 9.3 (Shamrock)", 9, 3),
        ("rpm", "dnf", "almalinux9"),
    ),
    (
        "oracle",
        {"os-release": os_release(PRETTY_NAME="Oracle Linux Server 8.9", ID="ol", VERSION_ID="8.9")},
        ("oraclelinux", "Oracle Linux Server 8.9", 8, 9),
        ("rpm", "dnf", "oraclelinux8.9"),
    ),
    (
        "old oracle",
        {
            "oracle-release": "Oracle Linux Server release 6.5\n",
            "redhat-release": "Red Hat Enterprise Linux Server release 6.5 (Santiago)\n",
        },
        ("oraclelinux", "Oracle Linux Server release 6.5", 6, 5),
        ("rpm", "yum", "oraclelinux6.5"),
    ),
    (
        "scientific",
        {"redhat-release": "Scientific Linux release 6.4 (Carbon)\n"},
        ("scientificlinux", "Scientific Linux release 6.4 (Carbon)", 6, 4),
        ("rpm", "yum", "scientificlinux6.4"),
    ),
    (
        "something like red hat",
        {"redhat-release": "Acme Server 3.2\n"},
        ("redhat-based", "Acme Server 3.2", 3, 2),
        ("rpm", "up2date", "redhat-based3.2"),
    ),
    (
        "amazon 2",
        {"os-release": os_release(PRETTY_NAME="Amazon Linux 2", ID="amzn", VERSION_ID="2", ID_LIKE="centos fedora")},
        ("amzn", "Amazon Linux 2", 2, 0),
        ("rpm", "yum", "amzn2.0"),
    ),
    (
        "sles 15",
        {"os-release": os_release(PRETTY_NAME="SUSE Linux Enterprise Server 15 SP5", ID="sles", VERSION_ID="15.5")},
        ("sles", "SUSE Linux Enterprise Server 15 SP5", 15, 5),
        ("rpm", "zypper", "sles15sp5"),
    ),
    (
        "sles 11",
        {"SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 3\n"},
        ("sles", "SUSE Linux Enterprise Server 11 (x86_64)", 11, 3),
        ("rpm", "zypper", "sles11sp3"),
    ),
    (
        "opensuse leap",
        {"os-release": os_release(PRETTY_NAME="openSUSE Leap 15.5", ID="opensuse-leap", VERSION_ID="15.5")},
        ("opensuse", "openSUSE Leap 15.5", 15, 5),
        ("rpm", "zypper", "opensuse15.5"),
    ),
    (
        "old opensuse",
        {"SuSE-release": "openSUSE 11.4 (x86_64)\nVERSION = 11.4\nCODENAME = Celadon\n"},
        ("opensuse", "openSUSE 11.4 (x86_64)", 11, 4),
        ("rpm", "zypper", "opensuse11.4"),
    ),
    (
        "something like suse",
        {"SuSE-release": "Acme Desktop\n"},
        ("suse-based", "Acme Desktop", 0, 0),
        ("rpm", "zypper", "unknown"),
    ),
    (
        "arch",
        {"os-release": os_release(PRETTY_NAME="Arch Linux", ID="arch", BUILD_ID="rolling")},
        ("archlinux", "Arch Linux", 0, 0),
        ("pacman", "pacman", "archlinux"),
    ),
    ("old arch", {"arch-release": ""}, ("archlinux", "unknown", 0, 0), ("pacman", "pacman", "archlinux")),
    (
        "alpine",
        {
            "os-release": os_release(PRETTY_NAME="Alpine Linux v3.19", ID="alpine", VERSION_ID="3.19.1"),
            "alpine-release": "3.19.1\n",
        },
        ("alpinelinux", "Alpine Linux v3.19", 3, 19),
        ("apk", "apk", "alpinelinux3.19"),
    ),
    (
        "gentoo",
        {"os-release": os_release(PRETTY_NAME="Gentoo Linux", ID="gentoo")},
        ("gentoo", "Gentoo Linux", 0, 0),
        ("ebuild", "portage", "gentoo"),
    ),
    (
        "old gentoo",
        {"gentoo-release": "Gentoo Base System release 2.2\n"},
        ("gentoo", "Gentoo Base System release 2.2", 2, 2),
        ("ebuild", "portage", "gentoo"),
    ),
    (
        "mageia",
        {"os-release": os_release(PRETTY_NAME="Mageia 9", ID="mageia", VERSION_ID="9")},
        ("mageia", "Mageia 9", 9, 0),
        ("rpm", "urpmi", "mageia9"),
    ),
    (
        "void",
        {"os-release": os_release(PRETTY_NAME="Void", ID="void")},
        ("voidlinux", "Void", 0, 0),
        ("xbps", "xbps", "voidlinux"),
    ),
    (
        "kali",
        {"os-release": os_release(PRETTY_NAME="Kali GNU/Linux Rolling", ID="kali", VERSION_ID="2024.1")},
        ("kalilinux", "Kali GNU/Linux Rolling", 2024, 1),
        ("deb", "apt", "kalilinux2024.1"),
    ),
    (
        "slackware",
        {"slackware-version": "Slackware 14.2\n"},
        ("slackware", "Slackware 14.2", 14, 2),
        ("unknown", "unknown", "slackware14.2"),
    ),
    (
        "altlinux",
        {"os-release": os_release(PRETTY_NAME="ALT Server 10.1", ID="altlinux", VERSION_ID="10.1")},
        ("altlinux", "ALT Server 10.1", 10, 1),
        ("rpm", "apt", "alt10.1"),
    ),
    (
        "neokylin counts updates",
        {"os-release": os_release(PRETTY_NAME="NeoKylin", ID="neokylin", VERSION_ID="V7Update6")},
        ("neokylin", "NeoKylin", 7, 6),
        ("rpm", "unknown", "neokylin7.6"),
    ),
    (
        "openmandriva links redhat-release",
        {
            "openmandriva-release": "OpenMandriva Lx release 4.3.0 (Dragonfly) Rock\n",
            "redhat-release": Symlink("openmandriva-release"),
        },
        ("openmandriva", "OpenMandriva Lx release 4.3.0 (Dragonfly) Rock", 4, 3),
        ("rpm", "dnf", "openmandriva4.3"),
    ),
    (
        "buildroot",
        {"br-version": "2023.02\n"},
        ("buildroot", "2023.02", 2023, 2),
        ("unknown", "unknown", "buildroot2023.2"),
    ),
    (
        "an unknown relative of debian",
        {"os-release": os_release(PRETTY_NAME="Acme OS 3.1", ID="acme", VERSION_ID="3.1", ID_LIKE="ubuntu debian")},
        ("acme", "Acme OS 3.1", 3, 1),
        ("deb", "apt", "acme3.1"),
    ),
    ("nothing", {}, ("unknown", "unknown", 0, 0), ("unknown", "unknown", "unknown")),
]


@pytest.mark.parametrize(("etc", "release", "packages"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_release_files_name_the_distribution(
    etc: dict[str, Any], release: tuple[str, str, int, int], packages: tuple[str, str, str]
) -> None:
    look = look_at({"etc": etc, "bin": {}})
    found = find_release(look)
    assert (found.distro, found.product_name, found.major, found.minor) == release
    assert (
        linux.package_format(found),
        linux.package_management(look, found),
        linux.osinfo(found),
    ) == packages


def test_fedora_with_dnf_says_so() -> None:
    look = look_at(
        {"etc": {"redhat-release": "Fedora release 30 (Thirty)\n"}, "usr": {"bin": {"dnf": Symlink("dnf-3")}}}
    )
    assert linux.package_management(look, find_release(look)) == "dnf"


def test_os_release_link_is_followed_inside_the_guest_only() -> None:
    tree = {"etc": {"os-release": Symlink("../../../usr/lib/os-release")}, "usr": {"lib": {"os-release": "ID=void\n"}}}
    assert find_release(look_at(tree)).distro == "voidlinux"


def test_usr_lib_os_release_serves_when_etc_has_none() -> None:
    assert find_release(look_at({"etc": {}, "usr": {"lib": {"os-release": "ID=void\n"}}})).distro == "voidlinux"


@pytest.mark.parametrize(
    "hostile",
    [
        {},
        Symlink("os-release"),
        Symlink("/etc/os-release/../os-release"),
        File(b"", 0o010644),
        File(b"", 0o020644),
        File(ZeroSource(1 << 50)),
        b"\0" * 4096,
        b"\xff\xfe" * 1000,
        b"=" * 100_000,
        b"ID=../../etc\n",
        b"ID='\n",
        b"VERSION_ID=" + b"9" * 100_000 + b"\n",
        b"A=1\n" * 400_000,
        b"PRETTY_NAME=" + b"x" * 1_000_000,
    ],
    ids=[
        "directory",
        "loop",
        "long loop",
        "fifo",
        "device",
        "huge",
        "zeros",
        "not utf-8",
        "equals",
        "path",
        "quote",
        "digits",
        "lines",
        "long",
    ],
)
def test_hostile_os_release_falls_back_and_is_quick(hostile: Any) -> None:
    start = time.process_time()
    found = find_release(look_at({"etc": {"os-release": hostile, "slackware-version": "Slackware 14.2\n"}}))
    assert found.distro in ("slackware", "unknown")
    assert len(found.product_name) <= 1024
    assert time.process_time() - start < 2


def test_file_above_the_cap_is_named_in_the_warnings() -> None:
    look = look_at({"etc": {"os-release": File(ZeroSource((2 << 20) + 1))}})
    assert find_release(look).distro == "unknown"
    assert any("os-release" in warning and "larger" in warning for warning in look.warnings)


@pytest.mark.parametrize(
    "line", ["Red Hat" + " release 1" * 100_000, "Red Hat release " + "9" * 1_000_000, "Red Hat.release " * 60_000]
)
def test_hostile_release_line_takes_linear_time(line: str) -> None:
    start = time.process_time()
    find_release(look_at({"etc": {"redhat-release": line}}))
    assert time.process_time() - start < 1


def test_shell_quotes_are_undone() -> None:
    values = parse_assignments(["A=1", "B='x y'", 'C="a \\"b\\" \\$c"', "# D=1", "E", "A=2", "F=\"'q'\""])
    assert values == {"A": "2", "B": "x y", "C": 'a "b" $c', "F": "'q'"}
