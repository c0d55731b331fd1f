"""Extended attributes: in the inode's body, in a block that several inodes may share, and in inodes of their own.

Spec: Documentation/filesystems/ext4/attributes.rst, eainode.rst. Names are listed in the kernel's order: the body's,
then the block's. POSIX ACLs are turned into the form that the kernel hands out. The names that belong to the
filesystem itself (system.data, the encryption context) are not listed.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt
from guestkit.layout import Layout

MAGIC = 0xEA020000
MAX_VALUE = 1 << 16  # bytes; what the kernel's interface can hand out
PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
    8: b"system.richacl",
    10: b"gnu.",
}
_ACLS = (2, 3)
_WHOLE = (2, 3, 8)  # the index is the name
_SYSTEM = 7
_EXT2_ACL = struct.Struct("<HH")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_WITH_ID = (0x02, 0x08)  # ACL_USER, ACL_GROUP
_ACL_PLAIN = (0x01, 0x04, 0x10, 0x20)
_MASK = 0xFFFFFFFF

_HEADER = Layout(
    "ext4_xattr_header", 32, "<", h_magic=(0, "I"), h_refcount=(4, "I"), h_blocks=(8, "I"), h_hash=(12, "I"),
    h_checksum=(16, "I"),
)  # fmt: skip
_ENTRY = Layout(
    "ext4_xattr_entry", 16, "<", e_name_len=(0, "B"), e_name_index=(1, "B"), e_value_offs=(2, "H"),
    e_value_inum=(4, "I"), e_value_size=(8, "I"), e_hash=(12, "I"),
)  # fmt: skip


class Attribute(NamedTuple):
    """One attribute as stored; `inum` names the inode that holds the value, else `value` is it."""

    kind: int  # name index
    name: bytes  # without the prefix
    value: bytes
    inum: int
    size: int
    hash: int

    @property
    def full_name(self) -> bytes:
        """The name as the kernel lists it, b"" where it is not shown."""
        prefix = PREFIXES.get(self.kind)
        if prefix is None or (self.kind == _SYSTEM and self.name == b"data"):
            return b""
        return prefix if self.kind in _WHOLE else prefix + self.name


def parse_entries(area: bytes, start: int, *, external: bool, body: bool) -> list[Attribute]:
    """Parse the entries at `start` of `area`, whose value offsets count from 0 of `area`.

    `external`: values may stand in inodes of their own. `body`: in an inode, where old kernels left e_hash 0.
    Raises: Corrupt (EUCLEAN).
    """
    heads = []
    at, end = start, len(area)
    while True:
        if at + 4 > end:
            raise Corrupt("xattr entries", "end", found=at, expected=f"at most {end - 4}")
        if area[at : at + 4] == b"\0\0\0\0":
            break
        if at + 16 > end:
            raise Corrupt("xattr entry", "length", found=end - at, expected=16)
        head = _ENTRY.unpack_from(area, at)
        name = area[at + 16 : at + 16 + head[0]]
        if len(name) != head[0] or b"\0" in name:
            raise Corrupt("xattr entry", "e_name_len", found=head[0])
        heads.append((head, name))
        at += 16 + (head[0] + 3 & ~3)
    found = []
    for (_, index, offset, inum, size, stored), name in heads:
        value = b""
        if inum:
            if not external:
                raise Corrupt("xattr entry", "e_value_inum", found=inum, expected="0 without the feature ea_inode")
            if size > MAX_VALUE:
                raise Corrupt("xattr entry", "e_value_size", found=size, expected=f"at most {MAX_VALUE}")
        elif size:
            if offset < at + 4 or offset + (size + 3 & ~3) > end:
                raise Corrupt("xattr entry", "e_value_offs", found=offset, expected=f"{at + 4} to {end}")
            value = area[offset : offset + size]
            padded = area[offset : offset + (size + 3 & ~3)]
            if (stored or not body) and stored not in entry_hashes(name, padded):
                raise Corrupt("xattr entry", "e_hash", found=stored, expected=entry_hashes(name, padded)[0])
        found.append(Attribute(index, name, value, inum, size, stored))
    return found


def entry_hashes(name: bytes, value: bytes) -> tuple[int, int]:
    """e_hash for `name` and the padded `value`: with char unsigned, and as kernels with signed char made it."""
    results = []
    for signed in (False, True):
        register = 0
        for byte in name:
            char = byte - 256 if signed and byte > 127 else byte
            register = (register << 5 & _MASK) ^ register >> 27 ^ char & _MASK
        for (word,) in struct.iter_unpack("<I", value):
            register = (register << 16 & _MASK) ^ register >> 16 ^ word
        results.append(register)
        if name.isascii():
            results.append(register)
            break
    return results[0], results[1]


def parse_body(raw: bytes, extra: int, *, external: bool) -> list[Attribute]:
    """The attributes in an inode's record. Raises: Corrupt (EUCLEAN)."""
    start = 128 + extra
    if extra == 0 or start + 4 > len(raw) or int.from_bytes(raw[start : start + 4], "little") != MAGIC:
        return []
    return parse_entries(raw[start + 4 :], 0, external=external, body=True)


def parse_block(buf: bytes, block: int, seed: int | None, *, external: bool) -> list[Attribute]:
    """The attributes in block number `block`. `seed`: of the filesystem's checksums, None where it has none.

    Raises: Corrupt (EUCLEAN).
    """
    magic, _, count, _, checksum = _HEADER.unpack_from(buf)
    if magic != MAGIC:
        raise Corrupt("xattr block", "h_magic", found=magic, expected=MAGIC)
    if count != 1:
        raise Corrupt("xattr block", "h_blocks", found=count, expected=1)
    if seed is not None:
        found = crc32c(block.to_bytes(8, "little") + buf[:16] + b"\0\0\0\0" + buf[20:], seed)
        if found != checksum:
            raise Corrupt("xattr block", "h_checksum", found=checksum, expected=found)
    return parse_entries(buf, 32, external=external, body=False)


def kernel_value(attribute: Attribute, value: bytes) -> bytes:
    """`value` in the form that getxattr(2) gives. Raises: Corrupt (EUCLEAN) for a damaged ACL."""
    if attribute.kind not in _ACLS:
        return value
    if len(value) < 4 or value[:4] != b"\1\0\0\0":
        raise Corrupt("POSIX ACL", "a_version", found=int.from_bytes(value[:4], "little"), expected=1)
    out = [b"\2\0\0\0"]
    at = 4
    while at < len(value):
        if at + 4 > len(value):
            raise Corrupt("POSIX ACL", "length", found=len(value))
        tag, perm = _EXT2_ACL.unpack_from(value, at)
        at += 4
        if tag in _ACL_WITH_ID:
            if at + 4 > len(value):
                raise Corrupt("POSIX ACL", "length", found=len(value))
            out.append(_ACL_ENTRY.pack(tag, perm, int.from_bytes(value[at : at + 4], "little")))
            at += 4
        elif tag in _ACL_PLAIN:
            out.append(_ACL_ENTRY.pack(tag, perm, _MASK))
        else:
            raise Corrupt("POSIX ACL", "e_tag", found=tag)
    return b"".join(out)


def verify_external(attribute: Attribute, value: bytes, stored: int, seed: int) -> None:
    """Check the value of an attribute's own inode, whose hash field is `stored`. Raises: Corrupt (EUCLEAN)."""
    found = crc32c(value, seed)
    if found != stored:
        raise Corrupt("xattr inode", "value hash", found=stored, expected=found)

    expected = entry_hashes(attribute.name, found.to_bytes(4, "little"))
    if attribute.hash not in expected:
        raise Corrupt("xattr entry", "e_hash", found=attribute.hash, expected=expected[0])
