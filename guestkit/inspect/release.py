"""Which distribution: os-release, lsb-release and the older release files, in libguestfs's order.

Spec: os-release(5). The ids are libguestfs's; one that it does not know stays as os-release spells it. Where
os-release gives no minor version (Debian, CentOS, Rocky) the distribution's own file adds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from guestkit.inspect.look import Look
from guestkit.inspect.system import UNKNOWN

_LINE = 1024  # characters of a line that are looked at
_MOST_LINES = 10_000

# os-release's ID -> libguestfs's name, where they differ
_ID = {
    "alpine": "alpinelinux",
    "arch": "archlinux",
    "archarm": "archlinux",
    "kali": "kalilinux",
    "ol": "oraclelinux",
    "pld": "pldlinux",
    "raspbian": "debian",
    "scientific": "scientificlinux",
    "sled": "sles",
    "sles_sap": "sles",
    "void": "voidlinux",
}
_LSB = {
    "centos": "centos",
    "coreos": "coreos",
    "debian": "debian",
    "linuxmint": "linuxmint",
    "mageia": "mageia",
    "mandrivalinux": "mandriva",
    "ubuntu": "ubuntu",
}
_ROLLING = ("archlinux", "gentoo", "voidlinux")
_MINOR_ELSEWHERE = ("debian", "centos", "rocky")  # os-release names the major version only

_NUMBER = r"(\d{1,9})"
_VERSION = re.compile(rf"{_NUMBER}(?:\.{_NUMBER})?", re.ASCII)
_WITH_MINOR = re.compile(rf"{_NUMBER}\.{_NUMBER}", re.ASCII)
_NEOKYLIN = re.compile(rf"V{_NUMBER}Update{_NUMBER}", re.ASCII)
_UPDATE = re.compile(rf"release {_NUMBER}[^\d].{{0,200}}?Update {_NUMBER}", re.ASCII)
_RELEASE = re.compile(rf"release {_NUMBER}(?:\.{_NUMBER})?", re.ASCII)
_WORD = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)

# what a /etc/redhat-release may say first -> distribution
_RED_HAT = (
    ("Fedora", "fedora"),
    ("Red Hat", "rhel"),
    ("CentOS", "centos"),
    ("Rocky Linux", "rocky"),
    ("AlmaLinux", "almalinux"),
    ("Scientific Linux", "scientificlinux"),
    ("Oracle Linux", "oraclelinux"),
)
_OTHER_FILES = (
    (b"/etc/openmandriva-release", "openmandriva"),
    (b"/etc/oracle-release", "oraclelinux"),
    (b"/etc/centos-release", "centos"),
    (b"/etc/rocky-release", "rocky"),
    (b"/etc/almalinux-release", "almalinux"),
    (b"/etc/altlinux-release", "altlinux"),
    (b"/etc/mageia-release", "mageia"),
    (b"/etc/mandriva-release", "mandriva"),
    (b"/etc/redhat-release", "redhat-based"),
    (b"/etc/system-release", "amzn"),
    (b"/etc/debian_version", "debian"),
    (b"/etc/pardus-release", "pardus"),
    (b"/etc/arch-release", "archlinux"),
    (b"/etc/gentoo-release", "gentoo"),
    (b"/etc/meego-release", "meego"),
    (b"/etc/slackware-version", "slackware"),
    (b"/etc/ttylinux-target", "ttylinux"),
    (b"/etc/SuSE-release", "suse-based"),
    (b"/etc/cirros/version", "cirros"),
    (b"/etc/br-version", "buildroot"),
    (b"/etc/alpine-release", "alpinelinux"),
    (b"/etc/frugalware-release", "frugalware"),
    (b"/etc/pld-release", "pldlinux"),
)


@dataclass(frozen=True)
class Release:
    """What the release files say. `like`: os-release's ID_LIKE, for a distribution that nobody knows."""

    distro: str = UNKNOWN
    product_name: str = UNKNOWN
    version: tuple[int, int] | None = None
    codename: str = ""
    build_id: str = ""
    like: tuple[str, ...] = ()

    @property
    def major(self) -> int:
        return self.version[0] if self.version else 0

    @property
    def minor(self) -> int:
        return self.version[1] if self.version else 0


def find_release(look: Look) -> Release:
    """Read the release files below the root of `look`."""
    found = _os_release(look)
    if found.distro in _MINOR_ELSEWHERE and (found.version is None or found.version[1] == 0):
        return _with_minor(look, found)
    complete = found.distro != UNKNOWN and found.product_name != UNKNOWN
    if complete and (found.version is not None or found.distro in _ROLLING):
        return found
    other = _lsb_release(look)
    if other.distro == UNKNOWN and found.distro == UNKNOWN:
        fallback = _other_files(look)
        if fallback.distro != UNKNOWN:
            other = fallback
    return Release(
        found.distro if found.distro != UNKNOWN else other.distro,
        found.product_name if found.product_name != UNKNOWN else other.product_name,
        found.version or other.version or (_version(found.product_name) if found.distro == UNKNOWN else None),
        found.codename or other.codename,
        found.build_id,
        found.like,
    )


def parse_assignments(lines: list[str]) -> dict[str, str]:
    """Parse KEY=value lines as a shell would assign plain words; the last of a key wins."""
    values: dict[str, str] = {}
    for line in lines[:_MOST_LINES]:
        line = line.strip()[:_LINE]
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values[key.strip()] = _unquote(value.strip())
    return values


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
        return re.sub(r"\\([\\\"$`])", r"\1", value)
    return value


def _version(text: str) -> tuple[int, int] | None:
    """The first N.M in `text`, else the first N."""
    match = _WITH_MINOR.search(text) or _VERSION.search(text)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _os_release(look: Look) -> Release:
    lines = look.lines(b"/etc/os-release") or look.lines(b"/usr/lib/os-release")
    values = parse_assignments(lines)
    name = values.get("ID", "").lower()
    if not _WORD.fullmatch(name):
        distro = UNKNOWN
    elif name.startswith("opensuse"):
        distro = "opensuse"
    else:
        distro = _ID.get(name, name)
    text = values.get("VERSION_ID", "")
    neokylin = _NEOKYLIN.fullmatch(text)
    version = (int(neokylin[1]), int(neokylin[2])) if neokylin else _version(text)
    return Release(
        distro,
        values.get("PRETTY_NAME") or values.get("NAME") or UNKNOWN,
        version,
        values.get("VERSION_CODENAME", ""),
        values.get("BUILD_ID", ""),
        tuple(values.get("ID_LIKE", "").lower().split()[:8]),
    )


def _with_minor(look: Look, found: Release) -> Release:
    """Debian, CentOS, Rocky: the full version stands in the distribution's own file."""
    if found.distro == "debian":
        version = _version(_first_line(look, b"/etc/debian_version"))
        if version and (found.version is None or version[0] == found.version[0]):
            return replace(found, version=version)
        return found
    for path in (b"/etc/%s-release" % found.distro.encode(), b"/etc/redhat-release"):
        line = _first_line(look, path)
        version = _red_hat_version(line)
        if version and (found.version is None or version[0] == found.version[0]):
            return replace(found, version=version, product_name=line)
    return found


def _lsb_release(look: Look) -> Release:
    values = parse_assignments(look.lines(b"/etc/lsb-release"))
    distro = _LSB.get(values.get("DISTRIB_ID", "").lower(), UNKNOWN)
    product = values.get("DISTRIB_DESCRIPTION") or UNKNOWN
    if distro == UNKNOWN and product == UNKNOWN:
        return Release()
    version = _version(values.get("DISTRIB_RELEASE", ""))
    return Release(distro, product, version, values.get("DISTRIB_CODENAME", ""))


def _first_line(look: Look, path: bytes) -> str:
    lines = look.lines(path)
    return lines[0].strip()[:_LINE] if lines else ""


def _red_hat_version(line: str) -> tuple[int, int] | None:
    match = _UPDATE.search(line) or _RELEASE.search(line)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _other_files(look: Look) -> Release:
    for path, distro in _OTHER_FILES:
        if not look.is_file(path):
            continue
        line = _first_line(look, path)
        product = line or UNKNOWN
        if distro == "redhat-based":
            name = next((name for start, name in _RED_HAT if start in line), distro)
            return Release(name, product, _red_hat_version(line) or _version(line))
        if distro == "suse-based":
            return _suse_release(look, path, line)
        if distro == "amzn" and "Amazon" not in line:
            continue
        if distro == "buildroot" and look.is_file(b"/usr/share/cirros/logo"):
            distro = "cirros"
        if distro in ("oraclelinux", "centos", "rocky", "almalinux", "openmandriva"):
            version = _red_hat_version(line)
            if version is None:
                continue
            return Release(distro, product, version)
        return Release(distro, product, _version(line))
    return Release()


def _suse_release(look: Look, path: bytes, line: str) -> Release:
    lines = look.lines(path)[:10]
    values = {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in lines)}
    version = _version(values.get("VERSION", "")[:_LINE])
    product = line or UNKNOWN
    if re.match("SUSE L(inux|INUX) Enterprise |Novell Linux Desktop ", line):
        level = _VERSION.match(values.get("PATCHLEVEL", "")[:_LINE])
        if version:
            version = (version[0], int(level[1]) if level else 0)
        return Release("sles", product, version)
    if line.startswith(("openSUSE ", "SuSE Linux ", "SUSE LINUX ")):
        return Release("opensuse", product, version)
    return Release("suse-based", product, version)
