"""XFS logs for tests: those of tests/data/xfs-log, and a writer of records that follows the format's specification."""

from __future__ import annotations

import dataclasses
import json
import lzma
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from guestkit.checksum import crc32c
from guestkit.fs.base import Problems, State
from guestkit.fs.xfs.log import recover
from guestkit.fs.xfs.superblock import Superblock, parse_superblock
from guestkit.limits import Limits
from guestkit.source import BytesSource, Source

DATA = Path(__file__).parent.parent / "data" / "xfs-log"
NAMES = sorted(path.name.removesuffix(".json") for path in DATA.glob("*.json"))


@cache
def image(name: str) -> bytes:
    return lzma.decompress((DATA / f"{name}.img.xz").read_bytes())


@cache
def told(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found


def superblock_of(source: Source) -> Superblock:
    return parse_superblock(source.read(0, 32768))


def replay(source: Source, sup: Superblock | None = None) -> tuple[Source, State, Problems]:
    problems = Problems()
    result, state = recover(source, sup or superblock_of(source), Limits(), problems)
    return result, state, problems


# a filesystem of nothing but a log and blocks to be changed

BLOCK = 4096
LOG_AT = 256  # fsblock
LOG_BLOCKS = 128
SIZE = (LOG_AT + LOG_BLOCKS + 16) * BLOCK
UUID = bytes(range(16))
START, COMMIT, CONTINUE, WAS_CONTINUED, END, UNMOUNT = 1, 2, 4, 8, 16, 32


def superblock(version: int = 5, **fields: Any) -> Superblock:
    base = superblock_of(BytesSource(image("create")))
    given: dict[str, Any] = {
        "version": version,
        "has_crc": version == 5,
        "block_size": BLOCK,
        "block_log": 12,
        "log_start": LOG_AT,
        "log_blocks": LOG_BLOCKS,
        "ag_blocks": 1024,
        "ag_block_log": 10,
        "ag_count": 1,
        "data_blocks": 1024,
        "uuid": UUID,
        "meta_uuid": UUID,
        "log_version": 2,
        "log_sunit": 0,
        "log_sector_size": 512,
    }
    return dataclasses.replace(base, **{**given, **fields})


class LogWriter:
    """Writes records of operations, going round; `image()` is the device with the log and `blocks` in it."""

    def __init__(self, *, at: int = 0, cycle: int = 1, size: int = 32768, version: int = 2, crc: bool = True) -> None:
        self.blocks = LOG_BLOCKS * BLOCK // 512
        self.log = bytearray(self.blocks * 512)
        for block in range(self.blocks):
            old = cycle - 1 if block >= at else cycle
            self.log[block * 512 : block * 512 + 4] = old.to_bytes(4, "big")
        self.at, self.cycle, self.size, self.version, self.crc = at, cycle, size, version, crc
        self.tail = cycle << 32 | at
        self.ops = bytearray()
        self.count = 0
        self.records: list[int] = []  # where they begin
        self.device = bytearray(SIZE)
        self.uuid = UUID
        self.format = 1

    def op(self, tid: int, data: bytes = b"", flags: int = 0, client: int = 0x69, length: int | None = None) -> None:
        self.ops += struct.pack(">IIBBH", tid, len(data) if length is None else length, client, flags, 0) + data
        self.count += 1

    def begin(self, tid: int, items: int = 1) -> None:
        self.op(tid, flags=START)
        self.op(tid, struct.pack("<IIiI", 0x5452414E, 40, tid, items))

    def transaction(self, *items: Sequence[bytes], tid: int = 7) -> None:
        self.begin(tid, len(items))
        for regions in items:
            for region in regions:
                self.op(tid, region)
        self.op(tid, flags=COMMIT)

    def record(self, tail: int | None = None, **fields: int) -> int:
        """Write what was gathered; return the record's LSN. `fields`: other values of h_len, h_num_logops, h_size."""
        data = bytearray(self.ops.ljust(-(-max(1, len(self.ops)) // 512) * 512, b"\0"))
        length = fields.get("h_len", len(data))
        headers = -(-self.size // 32768) if self.version == 2 else 1
        lsn = self.cycle << 32 | self.at
        kept = [bytes(data[at : at + 4]) for at in range(0, len(data), 512)]
        out = bytearray(headers * 512)
        count = fields.get("h_num_logops", self.count)
        words = (0xFEEDBABE, self.cycle, self.version, length, lsn, tail or self.tail, 0, 0, count)
        struct.pack_into(">IIIIQQIII", out, 0, *words)
        out[44:300] = b"".join(kept[:64]).ljust(256, b"\0")
        struct.pack_into(">I16sI", out, 300, self.format, self.uuid, fields.get("h_size", self.size))
        for index in range(1, headers):
            part = b"".join(kept[index * 64 : index * 64 + 64]).ljust(256, b"\0")
            struct.pack_into(">I256s", out, index * 512, self.cycle, part)
        whole = out + data
        for at in range(headers * 512, len(whole), 512):
            wrapped = self.at + at // 512 >= self.blocks
            whole[at : at + 4] = (self.cycle + wrapped).to_bytes(4, "big")
        for index in range(1, headers):
            wrapped = self.at + index >= self.blocks
            whole[index * 512 : index * 512 + 4] = (self.cycle + wrapped).to_bytes(4, "big")
        if self.crc:
            extended = b"".join(
                bytes(whole[i * 512 : i * 512 + 260]) for i in range(1, -(-len(data) // 32768) if headers > 1 else 1)
            )
            summed = bytes(whole[:328]) + extended + bytes(whole[headers * 512 :][:length])
            whole[32:36] = (crc32c(summed) ^ 0xFFFFFFFF).to_bytes(4, "little")
        self.records.append(self.at)
        for at in range(0, len(whole), 512):
            place = self.at * 512
            self.log[place : place + 512] = whole[at : at + 512]
            self.at += 1
            if self.at == self.blocks:
                self.at, self.cycle = 0, self.cycle + 1
        self.ops = bytearray()
        self.count = 0
        return lsn

    def unmount(self) -> None:
        self.tail = self.cycle << 32 | self.at
        self.op(9, struct.pack("<HHI", 0x556E, 0, 0), UNMOUNT, 0xAA)
        self.record()

    def bytes(self) -> bytes:
        out = bytearray(self.device)
        out[LOG_AT * BLOCK : LOG_AT * BLOCK + len(self.log)] = self.log
        return bytes(out)

    def source(self) -> Source:
        return BytesSource(self.bytes())


def buffer_item(blkno: int, length: int, chunks: Mapping[int, bytes], flags: int = 0) -> list[bytes]:
    """Regions of a buffer item: `chunks` of 128 bytes by number, neighbours in one region."""
    bits = sum(1 << index for index in chunks)
    words = max(1, -(-bits.bit_length() // 32))
    regions: list[bytes] = []
    last = -2
    for index in sorted(chunks):
        if index == last + 1:
            regions[-1] += chunks[index]
        else:
            regions.append(chunks[index])
        last = index
    head = struct.pack("<HHHHqI", 0x123C, len(regions) + 1, flags, length, blkno, words)
    return [head + bits.to_bytes(words * 4, "little"), *regions]


def cancel_item(blkno: int, length: int) -> list[bytes]:
    return [struct.pack("<HHHHqI", 0x123C, 1, 2, length, blkno, 0)]


def core(mode: int = 0o100644, form: int = 2, **fields: int) -> bytes:
    """A logged inode core of version 3, or of version 2 when so asked."""
    version = fields.get("version", 3)
    out = bytearray(176)
    struct.pack_into("<HHbBHIIIHH", out, 0, 0x494E, mode, version, form, 0, 1000, 2000, 1, 11, 22)
    if version == 3:
        struct.pack_into("<Q", out, 24, fields.get("big_nextents", 0))
    else:
        struct.pack_into("<H", out, 30, fields.get("flushiter", 0))
    struct.pack_into("<iiiiii", out, 32, -5, 6, 7, 8, 9, 10)
    counts = (fields.get("nextents", 0), fields.get("anextents", 0), fields.get("forkoff", 0))
    struct.pack_into("<QQIIHBb", out, 56, fields.get("size", 99), fields.get("nblocks", 8), 3, *counts, 1)
    struct.pack_into("<IHHI", out, 84, 0, 0, 0x40, 77)
    if version != 3:
        return bytes(out[:96])
    struct.pack_into("<QQQI", out, 104, 12, 0xDEAD, fields.get("flags2", 0), 4)
    struct.pack_into("<iiQ", out, 144, 50, 60, fields.get("ino", 64))
    return bytes(out[:160]) + UUID


def inode_item(blkno: int, length: int, boffset: int, body: bytes, *forks: bytes, **fields: int) -> list[bytes]:
    """Regions of an inode item; fields: `what` is logged, `ino`, `rdev`, `short` for the format of 32-bit hosts."""
    what = fields.get("what", 1)
    head = struct.pack("<HHIHH", 0x123B, 2 + len(forks), what, 0, len(forks[0]) if forks else 0)
    if not fields.get("short"):
        head += bytes(4)
    head += struct.pack("<QI12xqii", fields.get("ino", 64), fields.get("rdev", 0), blkno, length, boffset)
    return [head, body, *forks]


def inode_buffer(version: int, count: int, size: int, ino: int = 64, lsn: int = 0) -> bytes:
    """A cluster of inodes as it stands on disk."""
    out = bytearray()
    for number in range(count):
        inode = bytearray(size)
        inode[:6] = struct.pack(">2sHBB", b"IN", 0o100600, version, 2)
        inode[96:100] = b"\xff" * 4
        if version == 3:
            inode[112:120] = lsn.to_bytes(8, "big")
            inode[152:176] = (ino + number).to_bytes(8, "big") + UUID
            inode[100:104] = (crc32c(inode) ^ 0xFFFFFFFF).to_bytes(4, "little")
        out += inode
    return bytes(out)


def directory_block(lsn: int, fill: int, size: int = BLOCK) -> bytes:
    """A block that has an LSN, a UUID and a checksum."""
    out = bytearray(bytes([fill]) * size)
    out[:48] = struct.pack(">4sIQQ16sQ", b"XDD3", 0, 0, lsn, UUID, 64)
    out[4:8] = (crc32c(out) ^ 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(out)
