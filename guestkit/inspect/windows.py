"""A Windows root: how it is recognised, and what its registry tells. The rules are libguestfs's.

Names are found without regard to case, as Windows finds them. Hives are read as their logs leave them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from guestkit.errors import GuestkitError, NotFound
from guestkit.guest import Guest
from guestkit.hive import Hive, Key, open_hive
from guestkit.hive.keys import REG_BINARY
from guestkit.inspect.look import Look
from guestkit.inspect.system import UNKNOWN
from guestkit.limits import Limits
from guestkit.namespace import fold_name
from guestkit.volume.base import Table, Volume

_ROOTS = (b"/windows", b"/winnt", b"/win32", b"/win", b"/reactos")
_BOOT_INI = re.compile(rb"(?:multi|scsi)\(\d+\)disk\(\d+\)rdisk\(\d+\)partition\(\d+\)([^=]+)=", re.ASCII)
_LOGS = (b".LOG1", b".LOG2", b".LOG")
_MOST_TEXT = 1024  # characters of a name for people
_MOST_DEVICES = 10_000  # values of MountedDevices that are looked at
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)
_LETTER = re.compile(r"\\DosDevices\\([A-Za-z]):", re.ASCII | re.IGNORECASE)
_VOLUME = re.compile(r"\\\?\?\\(Volume\{[0-9A-Fa-f-]{36}\})", re.ASCII)

# Machine of a PE header -> libguestfs's name
_MACHINES = {0x014C: "i386", 0x8664: "x86_64", 0x0200: "ia64", 0x01C0: "arm", 0x01C4: "arm", 0xAA64: "aarch64"}

# (major, minor): (osinfo of a server, of a client)
_OSINFO = {
    (6, 0): ("win2k8", "winvista"),
    (6, 1): ("win2k8r2", "win7"),
    (6, 2): ("win2k12", "win8"),
    (6, 3): ("win2k12r2", "win8.1"),
}
_WINDOWS_11 = 22000  # its first build


@dataclass
class WindowsFacts:
    """What is told of one system, under OperatingSystem's names."""

    systemroot: str
    arch: str = UNKNOWN
    product_name: str = UNKNOWN
    product_variant: str = UNKNOWN
    major: int = 0
    minor: int = 0
    build_id: str = ""
    hostname: str = UNKNOWN
    software_hive: str = ""
    system_hive: str = ""
    current_control_set: str = ""
    drive_mappings: dict[str, str] = field(default_factory=dict)
    drives: dict[bytes, str] = field(default_factory=dict)

    @property
    def osinfo(self) -> str:
        """The libosinfo short id as libguestfs guesses it."""
        version = (self.major, self.minor)
        server = self.product_variant.startswith("Server")
        if version in _OSINFO:
            return _OSINFO[version][0 if server else 1]
        if version == (5, 1):
            return "winxp"
        if version == (5, 2):
            if "XP" in self.product_name:
                return "winxp"
            return "win2k3r2" if "R2" in self.product_name else "win2k3"
        if version == (10, 0):
            if server:
                known = (("2025", "win2k25"), ("2022", "win2k22"), ("2019", "win2k19"))
                return next((name for year, name in known if year in self.product_name), "win2k16")
            build = int(self.build_id) if self.build_id.isascii() and self.build_id.isdigit() else 0
            return "win11" if build >= _WINDOWS_11 else "win10"
        return UNKNOWN


def cased(look: Look, path: bytes) -> bytes:
    """An absolute path as its names are spelled, found without regard to case; b"" when it is not there."""
    found = b""
    for part in path.strip(b"/").split(b"/"):
        if look.mode(found + b"/" + part):
            found += b"/" + part
            continue
        directory = look.node(found or b"/")
        wanted = fold_name(part)
        if directory is None:
            return b""
        try:
            name = next((each.name for each in look.namespace.scan(directory) if fold_name(each.name) == wanted), None)
        except GuestkitError as error:
            look.warn(f"{found.decode('utf-8', 'replace') or '/'}: {error}")
            return b""
        if name is None:
            return b""
        found += b"/" + name
    return found


def systemroot(look: Look) -> bytes:
    """The directory of Windows on a filesystem, such as "/Windows"; b"" when it holds none."""
    for path in _ROOTS:
        found = cased(look, path)
        if found and _is_systemroot(look, found):
            return found
    boot = cased(look, b"/boot.ini")
    if boot:  # the partition that a line names is not looked at: mostly it is this one
        for line in (look.read(boot) or b"").splitlines():
            match = _BOOT_INI.match(line.strip())
            found = cased(look, match[1].replace(b"\\", b"/")) if match else b""
            if found and _is_systemroot(look, found):
                return found
    return b""


def _is_systemroot(look: Look, path: bytes) -> bool:
    config = cased(look, path + b"/system32/config")
    shell = cased(look, path + b"/system32/cmd.exe")
    return bool(config) and look.is_dir(config) and bool(shell) and look.is_file(shell)


def describe(guest: Guest, look: Look, root: str, directory: bytes) -> WindowsFacts:
    """What the system on the filesystem `root`, in `directory`, is."""
    facts = WindowsFacts(directory.decode("utf-8", "surrogateescape"))
    facts.arch = _architecture(look, cased(look, directory + b"/system32/cmd.exe")) or UNKNOWN
    software, facts.software_hive = _hive(look, directory + b"/system32/config/software", guest.limits)
    system, facts.system_hive = _hive(look, directory + b"/system32/config/system", guest.limits)
    letter = "C"
    if software is not None:
        letter = _software(look, software, facts)
    if system is not None:
        _system(look, system, facts, guest)
    own = f"{letter.lower()}:".encode()
    facts.drives.setdefault(own, root)
    return facts


def _architecture(look: Look, path: bytes) -> str:
    """From the PE header of a program; "" when it has none."""
    source = look.open(path)
    try:
        if source is None or source.size < 64 or source.read(0, 2) != b"MZ":
            return ""
        at = int.from_bytes(source.read(60, 4), "little")
        head = source.read(at, 6) if at + 6 <= source.size else b""
    except GuestkitError as error:
        look.warn(f"{path.decode('utf-8', 'replace')}: {error}")
        return ""
    return _MACHINES.get(int.from_bytes(head[4:6], "little"), "") if head[:4] == b"PE\0\0" else ""


def _hive(look: Look, path: bytes, limits: Limits) -> tuple[Hive | None, str]:
    """(a hive, its path as it is spelled)."""
    found = cased(look, path)
    source = look.open(found) if found else None
    if source is None:
        return None, ""
    shown = found.decode("utf-8", "surrogateescape")
    logs = []
    for ending in _LOGS:
        log = cased(look, found + ending)
        opened = look.open(log) if log else None
        if opened is not None and opened.size:
            logs.append(opened)
    try:
        hive = open_hive(source, logs, limits)
    except GuestkitError as error:
        look.warn(f"{shown}: {error}")
        return None, shown
    if hive.state == "dirty-not-replayed":
        look.warn(f"{shown}: {hive.reason}")
    return hive, shown


class _Values:
    """The values of one key; what is missing or damaged reads as nothing, and damage is told."""

    def __init__(self, look: Look, hive: Hive, path: str) -> None:
        self._look = look
        self._path = path
        self._key: Key | None = None
        try:
            self._key = hive.key(path)
        except NotFound:
            pass
        except GuestkitError as error:
            look.warn(f"registry: {path}: {error}")

    def text(self, name: str) -> str:
        try:
            return "" if self._key is None else self._key.value(name).text[:_MOST_TEXT]
        except NotFound:
            return ""
        except GuestkitError as error:
            self._look.warn(f"registry: {self._path}: {error}")
            return ""

    def number(self, name: str) -> int | None:
        try:
            return None if self._key is None else self._key.value(name).number
        except NotFound:
            return None
        except GuestkitError as error:
            self._look.warn(f"registry: {self._path}: {error}")
            return None

    def binaries(self) -> dict[str, bytes]:
        """The short binary values by name."""
        found: dict[str, bytes] = {}
        try:
            for value in self._key.values() if self._key is not None else ():
                if value.type == REG_BINARY and value.size <= 64 and len(found) < _MOST_DEVICES:
                    found[value.name] = value.data
        except GuestkitError as error:
            self._look.warn(f"registry: {self._path}: {error}")
        return found


def _software(look: Look, hive: Hive, facts: WindowsFacts) -> str:
    """Read what the hive SOFTWARE tells, and return the letter of the drive that Windows calls its own."""
    values = _Values(look, hive, r"Microsoft\Windows NT\CurrentVersion")
    facts.product_name = values.text("ProductName") or UNKNOWN
    facts.product_variant = values.text("InstallationType") or UNKNOWN
    facts.build_id = values.text("CurrentBuildNumber") or values.text("CurrentBuild")
    major, minor = values.number("CurrentMajorVersionNumber"), values.number("CurrentMinorVersionNumber")
    match = _VERSION.match(values.text("CurrentVersion"))
    if major is not None and minor is not None:
        facts.major, facts.minor = major, minor
    elif match:
        facts.major, facts.minor = int(match[1]), int(match[2])
    place = values.text("SystemRoot")
    return place[0] if place[1:2] == ":" and place[0].isascii() and place[0].isalpha() else "C"


def _system(look: Look, hive: Hive, facts: WindowsFacts, guest: Guest) -> None:
    """Read what the hive SYSTEM tells."""
    for name, data in _Values(look, hive, "MountedDevices").binaries().items():
        letter, volume = _LETTER.fullmatch(name), _VOLUME.fullmatch(name)
        device = device_of(guest, data) if letter or volume else None
        if device is None:
            continue
        if letter:
            facts.drive_mappings[letter[1]] = device
            facts.drives[f"{letter[1].lower()}:".encode()] = device
        elif volume:
            facts.drives[volume[1].lower().encode()] = device
    current = _Values(look, hive, "Select").number("Current")
    if current is None:
        return
    facts.current_control_set = f"ControlSet{current:03}"
    values = _Values(look, hive, rf"{facts.current_control_set}\Services\Tcpip\Parameters")
    facts.hostname = values.text("Hostname")[:255] or UNKNOWN


def device_of(guest: Guest, data: bytes) -> str | None:
    """The partition that a value of MountedDevices means: an MBR disk's id and a byte, or a GPT partition's GUID."""
    if len(data) >= 24 and data[:8] == b"DMIO:ID:":
        first, second, third = (int.from_bytes(data[at:end], "little") for at, end in ((8, 12), (12, 14), (14, 16)))
        guid = f"{first:08x}-{second:04x}-{third:04x}-{data[16:18].hex()}-{data[18:24].hex()}"
        return _find(guest, "gpt", lambda _, volume: volume.uuid.lower() == guid)
    if len(data) == 12:
        disk_id = f"{int.from_bytes(data[:4], 'little'):08x}"
        start = int.from_bytes(data[4:], "little")
        return _find(guest, "msdos", lambda table, volume: table.uuid.lower() == disk_id and volume.start == start)
    return None


def _find(guest: Guest, scheme: str, matches: Callable[[Table, Volume], bool]) -> str | None:
    for disk in guest.disks:
        table = disk.table
        if table is None or table.scheme != scheme:
            continue
        for device in disk.partitions:
            if device.volume is not None and matches(table, device.volume):
                return device.name
    return None
