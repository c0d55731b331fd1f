"""Disks with a Windows system on NTFS and a second volume: what drive letters and links between drives need.

The hives are tests/hivewriter.py's; SYSTEM is dirty, and only its log knows the second drive. No Windows is in them.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hivewriter as w
from hivewriter import Node, Writer, reg_sz

from recipes.host import run
from recipes.ntfs import mount_point, ntfs_mount, symlink

MIB = 1 << 20
DISK_ID = 0x1A2B3C4D
GUIDS = ("8c1e7f60-0001-4d6a-9a11-6b1f5a0c0001", "8c1e7f60-0002-4d6a-9a11-6b1f5a0c0002")
VOLUME = "Volume{01234567-89ab-cdef-0123-456789abcdef}"
STARTS = (1 * MIB, 5 * MIB)
SIZE = 4 * MIB


@dataclass(frozen=True)
class Recipe:
    name: str
    scheme: str  # "dos" or "gpt"


def program(machine: int = 0x8664) -> bytes:
    """As much of a program as tells its machine."""
    return b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + struct.pack("<4sH", b"PE\0\0", machine) + bytes(200)


def device(scheme: str, number: int) -> bytes:
    """The value of MountedDevices for a partition."""
    if scheme == "gpt":
        return b"DMIO:ID:" + uuid.UUID(GUIDS[number]).bytes_le
    return struct.pack("<IQ", DISK_ID, STARTS[number])


def system_hive(scheme: str, second: bool) -> bytes:
    """SYSTEM; `second`: with the letter of the second drive."""
    devices = [("\\DosDevices\\C:", 3, device(scheme, 0)), ("\\DosDevices\\A:", 3, "\\??\\FDC#".encode("utf-16-le"))]
    devices += [("#{not a drive}", 3, device(scheme, 1)), ("\\DosDevices\\Z:", 3, bytes(12))]
    if second:
        devices += [("\\DosDevices\\D:", 3, device(scheme, 1)), (f"\\??\\{VOLUME}", 3, device(scheme, 1))]
    parameters = Node("Parameters", [("Hostname", 1, reg_sz("WINBOX"))])
    services = Node("Services", subkeys=[Node("Tcpip", subkeys=[parameters])])
    return Writer().build(
        Node(
            "ROOT",
            subkeys=[
                Node("Select", [("Current", 4, struct.pack("<I", 1))]),
                Node("ControlSet001", subkeys=[services]),
                Node("MountedDevices", devices),
            ],
        )
    )


def software_hive() -> bytes:
    values = [
        ("ProductName", 1, reg_sz("Windows Server 2022 Standard")),
        ("InstallationType", 1, reg_sz("Server")),
        ("CurrentVersion", 1, reg_sz("6.3")),
        ("CurrentMajorVersionNumber", 4, struct.pack("<I", 10)),
        ("CurrentMinorVersionNumber", 4, struct.pack("<I", 0)),
        ("CurrentBuildNumber", 1, reg_sz("20348")),
        ("SystemRoot", 1, reg_sz("C:\\Windows")),
    ]
    windows_nt = Node("Windows NT", subkeys=[Node("CurrentVersion", values)])
    return Writer().build(Node("ROOT", subkeys=[Node("Microsoft", subkeys=[windows_nt])]), name="SOFTWARE")


def _reparse(path: Path, value: bytes, directory: bool) -> None:
    if directory:
        path.mkdir()
    else:
        path.touch()
    os.setxattr(path, "system.ntfs_reparse_data", value)


def system(top: Path, scheme: str) -> None:
    """Drive C."""
    config = top / "Windows" / "System32" / "config"
    config.mkdir(parents=True)
    (config.parent / "cmd.exe").write_bytes(program())
    old, new = system_hive(scheme, False), system_hive(scheme, True)
    pages = w.dirty_pages(old.ljust(len(new), b"\0"), new)
    (config / "SYSTEM").write_bytes(w.sequences(old, 8, 7))
    (config / "SYSTEM.LOG1").write_bytes(w.new_log(old, 8, [w.log_entry(new, pages, 8)]))
    (config / "SYSTEM.LOG2").write_bytes(b"")
    (config / "SOFTWARE").write_bytes(software_hive())
    (top / "Users" / "Public").mkdir(parents=True)
    (top / "Users" / "Public" / "Own.txt").write_bytes(b"on C")
    _reparse(top / "Documents and Settings", mount_point("\\??\\C:\\Users"), True)
    _reparse(top / "data", mount_point("\\??\\D:\\STORE"), True)  # where it is spelled Store
    _reparse(top / "twice", mount_point("\\??\\D:\\Users"), True)  # which C has as well
    _reparse(top / "whole", mount_point(f"\\??\\{VOLUME}\\"), True)
    _reparse(top / "file-link", symlink("\\??\\D:\\store\\file.TXT", False), False)
    _reparse(top / "round", mount_point("\\??\\D:\\back\\round"), True)
    _reparse(top / "unknown", mount_point("\\??\\E:\\x"), True)
    _reparse(top / "missing", mount_point("\\??\\D:\\No Such"), True)


def second(top: Path) -> None:
    """Drive D."""
    (top / "Store").mkdir()
    (top / "Store" / "File.txt").write_bytes(b"on D")
    _reparse(top / "back", mount_point("\\??\\C:\\"), True)
    _reparse(top / "Store" / "public", symlink("\\??\\C:\\users\\PUBLIC", False), True)


def make(recipe: Recipe, image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(10 * MIB)
    script = [f"label: {recipe.scheme}"]
    script.append(f"label-id: {DISK_ID:#x}" if recipe.scheme == "dos" else f"label-id: {GUIDS[0][:-1]}0")
    for start, guid in zip(STARTS, GUIDS, strict=True):
        kind = "7" if recipe.scheme == "dos" else "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
        more = "" if recipe.scheme == "dos" else f", uuid={guid}"
        script.append(f"start={start // 512}, size={SIZE // 512}, type={kind}{more}")
    run("sfdisk", "-q", image, input="\n".join(script))
    for number, start in enumerate(STARTS):
        part = image.with_suffix(f".{number}")
        with part.open("wb") as file:
            file.truncate(SIZE)
        run("mkntfs", "-F", "-Q", "-q", "-L", "CD"[number], part)
        with ntfs_mount(part, "rw") as top:
            if number:
                second(top)
            else:
                system(top, recipe.scheme)
        with image.open("r+b") as file:
            file.seek(start)
            file.write(part.read_bytes())


def describe(recipe: Recipe, image: Path) -> dict[str, Any]:
    return {"name": recipe.name, "scheme": recipe.scheme}


def recipes() -> list[Recipe]:
    return [Recipe("windows-mbr", "dos"), Recipe("windows-gpt", "gpt")]
