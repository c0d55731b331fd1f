"""A Linux root: how it is recognised, its host name, package system and osinfo id. The rules are libguestfs's."""

from __future__ import annotations

import stat

from guestkit.inspect.look import Look
from guestkit.inspect.release import Release, parse_assignments
from guestkit.inspect.system import UNKNOWN

_FORMATS = {
    "rpm": "fedora meego redhat-based rhel mageia mandriva suse-based opensuse sles centos scientificlinux "
    "oraclelinux altlinux rocky almalinux amzn openmandriva pldlinux kylin neokylin",
    "deb": "debian ubuntu linuxmint kalilinux",
    "pacman": "archlinux frugalware",
    "ebuild": "gentoo",
    "pisi": "pardus",
    "apk": "alpinelinux",
    "xbps": "voidlinux",
}
_FORMAT_OF = {distro: name for name, distros in _FORMATS.items() for distro in distros.split()}

# ID_LIKE of a distribution that is not in the table -> the one whose package system it shares
_LIKE = {
    "debian": "debian",
    "ubuntu": "ubuntu",
    "fedora": "fedora",
    "rhel": "rhel",
    "centos": "rhel",
    "suse": "suse-based",
    "opensuse": "opensuse",
    "arch": "archlinux",
    "gentoo": "gentoo",
    "alpine": "alpinelinux",
    "mageia": "mageia",
}
_RHEL_LIKE = ("redhat-based", "rhel", "centos", "scientificlinux", "oraclelinux", "rocky", "almalinux")
_MANAGEMENT = {
    "meego": "yum",
    "debian": "apt",
    "ubuntu": "apt",
    "linuxmint": "apt",
    "kalilinux": "apt",
    "altlinux": "apt",
    "archlinux": "pacman",
    "frugalware": "pacman",
    "gentoo": "portage",
    "pardus": "pisi",
    "mageia": "urpmi",
    "mandriva": "urpmi",
    "openmandriva": "dnf",
    "suse-based": "zypper",
    "opensuse": "zypper",
    "sles": "zypper",
    "alpinelinux": "apk",
    "voidlinux": "xbps",
}


def system_type(look: Look) -> str:
    """ "linux" or "hurd" when a root filesystem is mounted, "" for any other."""
    if any(look.is_file(path) for path in (b"/grub/menu.lst", b"/grub/grub.conf", b"/grub2/grub.cfg")):
        return ""  # /boot
    if all(look.is_file(path) for path in (b"/hurd/console", b"/hurd/hello", b"/hurd/null")):
        return "hurd"
    if not look.is_dir(b"/etc"):
        return ""
    # with a separate /usr the link /bin -> usr/bin leads nowhere, which is no reason to doubt
    if not look.is_dir(b"/bin") and (look.link(b"/bin") or b"").strip(b"/") != b"usr/bin":
        return ""
    if look.is_file(b"/etc/fstab") or look.is_file(b"/etc/hosts"):
        return "linux"
    # images of containers and of some clouds have neither
    mode = look.mode(b"/etc/os-release", follow=False)
    return "linux" if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else ""


def hostname(look: Look) -> str:
    """The host name, "" when no file tells it."""
    for path in (b"/etc/HOSTNAME", b"/etc/hostname"):
        for line in look.lines(path):
            line = line.strip()[:255]
            if line and not line.startswith("#"):
                return line
    for path, key in ((b"/etc/sysconfig/network", "HOSTNAME"), (b"/etc/conf.d/hostname", "hostname")):
        value = parse_assignments(look.lines(path)).get(key, "")[:255]
        if value:
            return value
    return ""


def package_format(release: Release) -> str:
    """libguestfs's package format for a distribution; ID_LIKE decides for one that it does not know."""
    return _FORMAT_OF.get(_relative(release, _FORMAT_OF), UNKNOWN)


def package_management(look: Look, release: Release) -> str:
    """libguestfs's package management tool for a distribution and version."""
    distro, major = _relative(release, _FORMAT_OF), release.major
    if distro == "fedora":
        if major >= 22 and look.mode(b"/usr/bin/dnf", follow=False):
            return "dnf"
        return "yum" if major >= 1 else UNKNOWN
    if distro == "amzn":
        return "dnf" if major >= 2022 else "yum"
    if distro in _RHEL_LIKE:
        if major >= 8:
            return "dnf"
        if major >= 5:
            return "yum"
        return "up2date" if major >= 2 else UNKNOWN
    return _MANAGEMENT.get(distro, UNKNOWN)


def _relative(release: Release, known: dict[str, str]) -> str:
    if release.distro in known:
        return release.distro
    return next((_LIKE[name] for name in release.like if name in _LIKE), release.distro)


def osinfo(release: Release) -> str:
    """The libosinfo short id as libguestfs guesses it."""
    distro, major, minor = release.distro, release.major, release.minor
    if distro == "centos" and major in (6, 7):
        return f"centos{major}.{minor if major == 6 else 0}"
    if distro in ("centos", "rocky", "almalinux") and major >= 8:
        return f"{distro}{major}"
    if (distro == "debian" and major >= 4) or (distro in ("fedora", "mageia") and major):
        return f"{distro}{major}"
    if distro == "sles" and major:
        return f"sles{major}sp{minor}" if minor else f"sles{major}"
    if distro == "ubuntu" and major:
        return f"ubuntu{major}.{minor:02}"
    if distro in ("archlinux", "gentoo", "voidlinux"):
        return distro
    if distro == "altlinux" and major >= 8:
        return f"alt{major}.{minor}"
    if distro != UNKNOWN and (major or minor):
        return f"{distro}{major}.{minor}"
    return UNKNOWN
