"""What detection is made of: the Window that a probe looks at and the Detected that it answers."""

from __future__ import annotations

from dataclasses import dataclass

from guestkit.errors import GuestkitError, SourceError, WouldBlock
from guestkit.source import Source

HEAD = 0x12000  # 72 KiB: reaches Btrfs's superblock at 64 KiB and every magic but those at the end
TAIL = 0x40000  # 256 KiB: MD 0.90 and 1.0, backup GPT, DDF, VHD footers


@dataclass(frozen=True)
class Detected:
    """What detection says of a source. Names are blkid's; all "" when nothing was recognised."""

    type: str = ""  # blkid's TYPE
    usage: str = ""  # "filesystem", "raid", "crypto", "other"
    label: str = ""
    uuid: str = ""
    version: str = ""
    block_size: int = 0  # bytes, 0 when the format has none
    set_uuid: str = ""  # of the group (volume group, array, multi-device filesystem) that it is a member of
    member: str = ""  # its own identity in that group
    member_id: int = 0  # its number in that group, where members have one
    members: int = 0  # how many members that group has, where each of them tells
    seed: bool = False  # whether a group of the same type may stand on this one, which then is only read


class Window:
    """The head and tail of a source, each read once when first asked for; what lies outside reads as b""."""

    def __init__(self, source: Source, available: int | None = None) -> None:
        """`available`: how many bytes of `source` are there, where it reaches beyond a truncated disk."""
        self.source = source
        self.size = source.size
        self.sector_size = source.sector_size
        self.available = source.size if available is None else max(0, min(available, source.size))
        self._head: bytes | None = None
        self._tail: bytes | None = None

    def at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset` (negative: from the end), or b"" when they are not all there.

        Raises: SourceError (EIO) when the host cannot read them.
        """
        if offset < 0:
            offset += self.size
        if offset < 0 or length <= 0 or offset + length > self.available:
            return b""
        if offset + length <= HEAD:
            if self._head is None:
                self._head = self._read(0, min(HEAD, self.available))
            return self._head[offset : offset + length]
        tail = max(0, self.size - TAIL)
        if offset >= tail and self.available == self.size:
            if self._tail is None:
                self._tail = self._read(tail, self.size - tail)
            return self._tail[offset - tail : offset - tail + length]
        return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return self.source.read(offset, length)
        except (SourceError, WouldBlock):
            raise
        except GuestkitError:  # the image's own tables are damaged here: nothing can be recognised
            return bytes(length)


def uuid_text(raw: bytes) -> str:
    """16 bytes in their order as 8-4-4-4-12 lower-case hex digits; "" when all are zero, as blkid has it."""
    if not any(raw):
        return ""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def guid_text(raw: bytes) -> str:
    """16 bytes of a Microsoft or EFI GUID, whose first three fields are little-endian, in lower case."""
    return uuid_text(raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:])


def label_text(raw: bytes, encoding: str = "utf-8") -> str:
    """A label up to its first NUL, without trailing white space; bytes that are no UTF-8 become surrogates.

    `encoding`: "utf-8", or "utf-16-le" or "utf-16-be" where lone surrogates are kept.
    """
    if encoding == "utf-8":
        return raw.partition(b"\0")[0].rstrip(b" \t\n\v\f\r").decode("utf-8", "surrogateescape")
    text = raw[: len(raw) & ~1].decode(encoding, "surrogatepass")
    return text.partition("\0")[0].rstrip(" \t\n\v\f\r")
