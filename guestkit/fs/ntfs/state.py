"""State: whether Windows closed the volume. $LogFile is never replayed, so what is not clean is said.

Spec: libfsntfs documentation, "The volume information attribute"; linux-ntfs documentation, "$LogFile". As ntfs-3g
has it, a log is clean when its newest restart area says so or names no client, and hiberfil.sys tells of hibernation
and of Fast Startup by its first bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from guestkit.errors import Corrupt, GuestkitError, NotFound
from guestkit.fs.base import State
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.directory import ROOT, Directories
from guestkit.fs.ntfs.inode import Inodes
from guestkit.fs.ntfs.names import to_utf8
from guestkit.fs.ntfs.volume import Volume

LOGFILE, VOLUME = 2, 3
_DIRTY = 0x1
_FLAGS = (
    (0x0001, "dirty"),
    (0x0002, "resize-log-file"),
    (0x0004, "upgrade-on-mount"),
    (0x0008, "mounted-on-nt4"),
    (0x0010, "delete-usn-underway"),
    (0x0020, "repair-object-id"),
    (0x4000, "chkdsk-underway"),
    (0x8000, "modified-by-chkdsk"),
)
_CLEAN = 0x0002
_NO_CLIENT = 0xFFFF
_HIBERNATED = (b"hibr", b"HIBR", b"RSTR", b"rstr")
_page = struct.Struct("<4sHHQIIH").unpack_from  # magic, usa_ofs, usa_count, chkdsk_lsn, page sizes, restart area
_area = struct.Struct("<QHHHH").unpack_from  # current_lsn, clients, free list, in-use list, flags


@dataclass(frozen=True)
class VolumeInformation:
    """What $Volume says."""

    label: str
    major: int
    minor: int
    flags: int

    @property
    def flag_names(self) -> list[str]:
        return [name for bit, name in _FLAGS if self.flags & bit]


def read_volume(inodes: Inodes) -> VolumeInformation:
    """Read $Volume. Raises: Corrupt, NotFound."""
    inode = inodes.read(VOLUME)
    value = inode.value(r.VOLUME_INFORMATION, 4096)
    if value is None or len(value) < 12:
        raise Corrupt("$Volume", "$VOLUME_INFORMATION", expected="12 bytes")
    name = inode.value(r.VOLUME_NAME, 4096) or b""
    label = to_utf8(name[: len(name) & ~1]).split(b"\0", 1)[0].decode("utf-8", "surrogatepass")
    return VolumeInformation(label, value[8], value[9], int.from_bytes(value[10:12], "little"))


def read_state(volume: Volume, inodes: Inodes, directories: Directories, flags: int) -> State:
    """Say whether the volume was closed; `flags`: those of $Volume. Damage met on the way counts as not closed."""
    reasons = []
    for what in ("$LogFile", "hiberfil.sys"):
        try:
            reason = _log_reason(inodes) if what == "$LogFile" else _hibernation(inodes, directories)
        except GuestkitError as error:
            volume.damage.add(what, error)
            reason = f"{what} cannot be read"
        if reason:
            reasons.append(reason)
    if flags & _DIRTY:
        reasons.insert(0, "the volume is marked dirty")
    return State("dirty-not-replayed", "; ".join(reasons)) if reasons else State()


def _hibernation(inodes: Inodes, directories: Directories) -> str:
    try:
        found = directories.cased(ROOT, b"hiberfil.sys")
        if found is None:
            return ""
        source = inodes.read(found[1] & r.REFERENCE).open(r.DATA)
    except NotFound:
        return ""
    if source is None or source.size < 4096:
        return ""
    return "Windows is hibernated, or was shut down by Fast Startup" if source.read(0, 4) in _HIBERNATED else ""


def _log_reason(inodes: Inodes) -> str:
    """Why the log is not clean; "" when it is, or was emptied."""
    source = inodes.read(LOGFILE).open(r.DATA)
    if source is None or source.size < 8192:
        return "$LogFile is missing"
    best: tuple[int, bool] | None = None
    first = source.read(0, 4096)
    places = [0]
    if first[:4] == b"RSTR":
        size = int.from_bytes(first[16:20], "little")
        if 512 <= size <= 1 << 16 and not size & size - 1:
            places.append(size)
    else:
        places += [4096, 512, 1024, 2048, 8192, 16384, 32768, 65536]
    for place in places:
        if place + 4096 > source.size:
            continue
        found = _restart(source.read(place, 4096))
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    if best is None:
        if first == b"\xff" * len(first):
            return ""
        return "$LogFile has no good restart page"
    return "" if best[1] else "$LogFile holds changes that were not written (it is not replayed)"


def _restart(page: bytes) -> tuple[int, bool] | None:
    """(log sequence number, clean) of a restart page; None where none stands. Only its first part is needed."""
    magic, usa_at, usa_count, _, size, _, at = _page(page)
    if magic not in (b"RSTR", b"CHKD"):
        return None
    head = min(size, len(page))
    if head < 512 or usa_at + 2 * usa_count > head or usa_count < 2 or at + 48 > 510:
        return None
    if page[510:512] != page[usa_at : usa_at + 2]:
        return None
    number, _, _, in_use, flags = _area(page, at)
    return number, bool(flags & _CLEAN) or in_use == _NO_CLIENT
