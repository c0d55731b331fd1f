"""The XFS log as a ring of 512-byte blocks, and its records: headers, checksums, cycle words.

Every block of the log begins with the number of the cycle in which it was written; what stood there is kept in the
record's header. Spec: XFS Algorithms & Data Structures, "Journaling Log"; fs/xfs/libxfs/xfs_log_format.h. Which
record is where the log ends is told by log_head.py, what the records hold by log_items.py.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt
from guestkit.layout import Layout
from guestkit.source import Source

MAGIC = 0xFEEDBABE
BLOCK = 512
MOST_RECORD = 256 << 10  # bytes of a record, headers and all
_V1_RECORD = 32 << 10
_COVERED = 32 << 10  # bytes whose cycle words one header block holds
_WORDS = _COVERED // BLOCK
_FEWEST_BLOCKS, _MOST_BLOCKS = 512, (2 << 30) // BLOCK
_LITTLE = 1  # h_fmt

_HEADER = Layout(
    "xlog_rec_header",
    BLOCK,
    ">",
    h_magicno=(0, "I"),
    h_cycle=(4, "I"),
    h_version=(8, "I"),
    h_len=(12, "I"),
    h_lsn=(16, "Q"),
    h_tail_lsn=(24, "Q"),
    h_crc=(32, "4s"),
    h_prev_block=(36, "I"),
    h_num_logops=(40, "I"),
    h_cycle_data=(44, "256s"),
    h_fmt=(300, "I"),
    h_fs_uuid=(304, "16s"),
    h_size=(320, "I"),
)
_CRC = 32
# what of the header is summed: 64-bit hosts count the padding behind h_size, i386 does not
_SUMMED = (328, 324)
_EXT_SUMMED = 260


class Record(NamedTuple):
    """A record's header. `block` counts 512 bytes from the log's begin; `header_blocks` of them are headers."""

    block: int
    header_blocks: int
    length: int  # bytes of operations
    operations: int
    lsn: int
    tail_lsn: int
    crc: int
    uuid: bytes
    format: int
    size: int  # h_size, 32 KiB in logs of version 1

    @property
    def blocks(self) -> int:
        """All that it takes in the log."""
        return self.header_blocks + (self.length + BLOCK - 1) // BLOCK


class BadRecord(Exception):
    """The record that begins at `block` is damaged, or was not written to its end."""

    def __init__(self, block: int, text: str) -> None:
        super().__init__(f"log record at block {block}: {text}")
        self.block = block


class Ring:
    """The blocks of a log that begins at byte `start` of `device`."""

    def __init__(self, device: Source, start: int, blocks: int, version: int, stripe: int, uuid: bytes) -> None:
        """`blocks` of 512 bytes; `version` 1 or 2; `stripe` in bytes; `uuid` of the filesystem.

        Raises: Corrupt for a size that no log has.
        """
        if not _FEWEST_BLOCKS <= blocks <= _MOST_BLOCKS:
            raise Corrupt("log", "length", found=blocks, expected=f"{_FEWEST_BLOCKS} to {_MOST_BLOCKS} blocks")
        self.device = device
        self.start = start
        self.blocks = blocks
        self.version = version
        self.stripe = stripe
        self.uuid = uuid
        self.record_blocks = (MOST_RECORD if version == 2 else _V1_RECORD) // BLOCK

    def read(self, block: int, count: int) -> bytes:
        """`count` blocks from `block` on, going on at the log's begin when they reach its end."""
        block %= self.blocks
        first = min(count, self.blocks - block)
        data = self.device.read(self.start + block * BLOCK, first * BLOCK)
        return data if first == count else data + self.device.read(self.start, (count - first) * BLOCK)

    def words(self, block: int, count: int) -> array[int]:
        """The first 32 bits of each of `count` blocks: a cycle number, or MAGIC where a record begins."""
        return _big_endian(self.read(block, count))[:: BLOCK // 4]

    def cycles(self, block: int, count: int) -> array[int]:
        """The cycle numbers of `count` blocks."""
        words = _big_endian(self.read(block, count))
        cycles = words[:: BLOCK // 4]
        if MAGIC in cycles:
            seconds = words[1 :: BLOCK // 4]
            for index, value in enumerate(cycles):
                if value == MAGIC:
                    cycles[index] = seconds[index]
        return cycles

    def header(self, block: int) -> Record:
        """Raises: BadRecord when no record begins at `block`."""
        return self._parse(block % self.blocks, self.read(block, 1))

    def _parse(self, block: int, data: bytes) -> Record:
        (magic, _, version, length, lsn, tail, crc, _, operations, _, form, uuid, size) = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise BadRecord(block, f"h_magicno is 0x{magic:x}")
        if not version or version & ~3:
            raise BadRecord(block, f"h_version is {version}")
        if self.version == 1:
            size = _V1_RECORD
        headers = 1
        if self.version == 2 and version & 2 and size > _COVERED:
            if size > MOST_RECORD:
                raise BadRecord(block, f"h_size is {size}")
            headers = (size + _COVERED - 1) // _COVERED
        # mkfs writes one record as long as a stripe, and says nothing of that in h_size
        most = max(size, self.stripe) if operations == 1 else size
        if not 0 < length <= min(most, MOST_RECORD):
            raise BadRecord(block, f"h_len is {length} of {size}")
        if headers + length // BLOCK >= self.blocks:
            raise BadRecord(block, f"h_len is {length}, more than the log holds")
        stored = int.from_bytes(crc, "little")
        return Record(block, headers, length, operations, lsn, tail, stored, uuid, form, size)

    def body(self, record: Record) -> bytes:
        """The operations of `record`, verified, with what stood where the cycle words are.

        Raises: BadRecord for a checksum that is wrong; one of zero is none.
        """
        whole = self.read(record.block, record.blocks)
        if self._parse(record.block, whole) != record:
            raise BadRecord(record.block, "it changed while it was read")
        split = record.header_blocks * BLOCK
        data = memoryview(whole)[split:]
        if record.crc and not _verified(record, whole[:split], data[: record.length], self.version):
            raise BadRecord(record.block, "its checksum is wrong")
        words = array("I", whole[split:])
        kept = whole[44:300] + b"".join(
            whole[index * BLOCK + 4 : index * BLOCK + 260] for index in range(1, record.header_blocks)
        )
        count = min((record.length + BLOCK - 1) // BLOCK, record.header_blocks * _WORDS)
        words[: count * BLOCK // 4 : BLOCK // 4] = array("I", kept[: 4 * count])
        return words.tobytes()[: record.length]

    def iter_records(self, tail: int, head: int) -> Iterator[Record]:
        """Yield the records from block `tail` to `head`. Raises: BadRecord."""
        left = (head - tail) % self.blocks
        while left > 0:
            record = self.header(head - left)
            yield record
            left -= record.blocks

    def foreign(self, record: Record) -> str:
        """Why `record` cannot be replayed here, though it is whole; "" when it can."""
        if record.format != _LITTLE:
            return f"the log was written by a computer of another kind (h_fmt {record.format})"
        if record.uuid != self.uuid:
            return "the log is that of another filesystem"
        return ""


def _verified(record: Record, headers: bytes, data: memoryview, version: int) -> bool:
    tail = b""
    if version == 2:
        extended = range(1, (record.length + _COVERED - 1) // _COVERED)  # those in use
        tail = b"".join(headers[index * BLOCK : index * BLOCK + _EXT_SUMMED] for index in extended)
    for summed in _SUMMED:
        seed = crc32c(headers[:_CRC] + bytes(4) + headers[_CRC + 4 : summed] + tail)
        if crc32c(data, seed) ^ 0xFFFFFFFF == record.crc:
            return True
    return False


def _big_endian(data: bytes) -> array[int]:
    words = array("I", data)
    if sys.byteorder == "little":
        words.byteswap()
    return words


OPERATION = struct.Struct(">IIBB2x")  # oh_tid, oh_len, oh_clientid, oh_flags
START, COMMIT, CONTINUE, WAS_CONTINUED, END, UNMOUNT = 1, 2, 4, 8, 16, 32
