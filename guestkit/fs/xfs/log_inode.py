"""Inodes of the XFS log: from the logging computer's byte order and its roots of B+trees to what stands on disk.

Spec: XFS Algorithms & Data Structures, "Inode Updates", "On-disk Inode"; fs/xfs/libxfs/xfs_log_format.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from guestkit.checksum import crc32c
from guestkit.fs.xfs.log_format import INODE_FORMAT, INODE_FORMAT_32
from guestkit.fs.xfs.superblock import Superblock

DINODE = b"IN"
_LOGGED = 0x4E49  # the same as a little-endian number is 0x494e
NULL_AGINO = 0xFFFFFFFF
DDATA, DEXT, DBROOT, DEV, ADATA, AEXT, ABROOT, DOWNER, AOWNER = 2, 4, 8, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400
_DFORK, _AFORK = DDATA | DEXT | DBROOT, ADATA | AEXT | ABROOT
_CORE_2, _CORE_3 = 100, 176  # bytes before the data fork
_BIGTIME, _NREXT64 = 8, 16  # di_flags2
_BTREE = 3  # di_format
_MAX_FLUSH = 0xFFFF
_CRC = slice(100, 104)
_LSN = 112

# the same fields in both; the three times, the count of extents and what begins a version 3 inode apart
_HEAD = "HHbBHIIIHH"  # magic to projid_hi, 24 bytes
_MIDDLE = "QQIIHBbIHHI"  # size to gen, from 56 on
_FROM_HEAD, _TO_HEAD = struct.Struct("<" + _HEAD), struct.Struct(">" + _HEAD)
_FROM_MIDDLE, _TO_MIDDLE = struct.Struct("<" + _MIDDLE), struct.Struct(">" + _MIDDLE)
_TIMES = slice(32, 56)
_FROM_V3, _TO_V3 = struct.Struct("<QQQI"), struct.Struct(">QQQI")  # changecount, lsn, flags2, cowextsize


def new_inode(sup: Superblock, ino: int, generation: int) -> bytes:
    """A free inode, as one is made when a cluster is allocated."""
    out = bytearray(sup.inode_size)
    out[:2] = DINODE
    out[4] = 3 if sup.version == 5 else 2
    out[92:100] = struct.pack(">II", generation, NULL_AGINO)
    if sup.version == 5:
        out[152:176] = ino.to_bytes(8, "big") + sup.meta_uuid
        seal_inode(out)
    return bytes(out)


def seal_inode(inode: bytearray | memoryview) -> None:
    """Sum a version 3 inode anew."""
    inode[_CRC] = bytes(4)
    inode[_CRC] = (crc32c(inode) ^ 0xFFFFFFFF).to_bytes(4, "little")


def logged_fault(core: bytes, sup: Superblock) -> str:
    """Why the logged core of an inode cannot be one; "" when it can."""
    size = _CORE_3 if sup.version == 5 else 96
    if not 96 <= len(core) <= size or (sup.version == 5 and len(core) < size):
        return f"its core has {len(core)} bytes"
    if core[:2] != b"NI":
        return "its core has no magic number"
    mode, form = core[2] | core[3] << 8, core[5]
    if mode & 0xF000 == 0x8000 and form not in (2, 3, 5):
        return f"a regular file has a data fork of format {form}"
    if mode & 0xF000 == 0x4000 and form not in (1, 2, 3):
        return f"a directory has a data fork of format {form}"
    blocks = int.from_bytes(core[64:72], "little")
    data, attributes = struct.unpack_from("<IH", core, 76)
    if _flags2(core) & _NREXT64:
        if not sup.nrext64 or core[80] or core[81]:
            return "its counts of extents have a form that the filesystem has not"
        data, attributes = int.from_bytes(core[24:32], "little"), data
    elif core[4] == 3 and any(core[24:32]):
        return "bytes that must be zero are not"
    if data + attributes > blocks:
        return f"it has {data} + {attributes} extents in {blocks} blocks"
    return ""


def _flags2(core: bytes) -> int:
    return int.from_bytes(core[120:128], "little") if core[4] >= 3 and len(core) >= _CORE_3 else 0


def apply_inode(inode: memoryview, regions: Sequence[bytes], lsn: int, sup: Superblock) -> str:
    """Write a logged inode over `inode`, unless that is newer; return what cannot be written, "" for nothing.

    What cannot be written in full leaves a mixture behind.
    """
    first, core = regions[0], regions[1]
    layout = INODE_FORMAT if len(first) == 56 else INODE_FORMAT_32
    _, size, fields, _, _, _, device, *_ = layout.unpack_from(first)
    if bytes(inode[:2]) != DINODE:
        return "the place of a logged inode holds none"
    if inode[4] >= 3:
        found = int.from_bytes(inode[_LSN : _LSN + 8], "big")
        if found not in (0, 0xFFFFFFFFFFFFFFFF) and found > lsn:
            return ""
    if sup.version == 4:
        here, logged = int.from_bytes(inode[30:32], "big"), core[30] | core[31] << 8
        if logged < here and not (here == _MAX_FLUSH and logged < _MAX_FLUSH >> 1):
            return ""
    _write_core(inode, core, lsn)
    start = _CORE_3 if inode[4] >= 3 else _CORE_2
    if fields & DEV:
        inode[start : start + 4] = device.to_bytes(4, "big")
    fork = inode[82] * 8
    if start + fork > len(inode):
        return f"a logged inode has its attributes at {fork}"
    fault = ""
    if size > 2 and fields & _DFORK:
        place = inode[start : start + fork] if fork else inode[start:]
        fault = _write_fork(place, regions[2], bool(fields & DBROOT), sup)
        if fields & DBROOT and inode[5] != _BTREE:
            fault = f"a root in a data fork of format {inode[5]}"
    if size > 2 and fields & _AFORK:
        index = 3 if fields & _DFORK else 2
        if index >= len(regions) or not fork:
            fault = fault or "a logged inode has no place for its attributes"
        else:
            fault = fault or _write_fork(inode[start + fork :], regions[index], bool(fields & ABROOT), sup)
    if inode[4] >= 3:
        seal_inode(inode)
    return fault


def _write_core(inode: memoryview, core: bytes, lsn: int) -> None:
    """Convert what `core` holds; the unlinked list and the checksum are not taken from it."""
    _TO_HEAD.pack_into(inode, 0, *_FROM_HEAD.unpack_from(core, 0))
    _TO_MIDDLE.pack_into(inode, 56, *_FROM_MIDDLE.unpack_from(core, 56))
    flags2 = _flags2(core)
    code = "Q" if flags2 & _BIGTIME else "ii"
    inode[_TIMES] = struct.pack(f">{code * 3}", *struct.unpack(f"<{code * 3}", core[_TIMES]))
    if core[4] == 3:
        inode[24:32] = core[24:32][::-1] if flags2 & _NREXT64 else bytes(8)
        count, _, flags, cow = _FROM_V3.unpack_from(core, 104)
        _TO_V3.pack_into(inode, 104, count, lsn, flags, cow)
        inode[132:144] = bytes(12)
        inode[144:152] = struct.pack(f">{code}", *struct.unpack(f"<{code}", core[144:152]))
        inode[152:160] = core[152:160][::-1]
        inode[160:176] = core[160:176]
    else:
        inode[24:32] = bytes(8)  # di_flushiter begins anew


def _write_fork(place: memoryview, data: bytes, root: bool, sup: Superblock) -> str:
    if root:
        return _write_root(place, data, sup)
    if len(data) > len(place):
        return f"a logged fork has {len(data)} bytes in {len(place)}"
    place[: len(data)] = data
    return ""


def _write_root(place: memoryview, data: bytes, sup: Superblock) -> str:
    """Write the root of an extent B+tree as it stands in inodes: without what blocks begin with."""
    header = 72 if sup.version == 5 else 24
    if len(data) < header:
        return f"a logged root of extents has {len(data)} bytes"
    level, records = struct.unpack_from(">HH", data, 4)
    held, room = (len(data) - header) // 16, (len(place) - 4) // 16
    if not level or records > held or records > room:
        return f"a logged root of extents has {records} records in {min(held, room)}"
    struct.pack_into(">HH", place, 0, level, records)
    keys, pointers = header, header + held * 8
    place[4 : 4 + records * 8] = data[keys : keys + records * 8]
    at = 4 + room * 8
    place[at : at + records * 8] = data[pointers : pointers + records * 8]
    return ""
