"""Extended attributes: those that stand in the inode, those in leaves, and values in blocks of their own.

Spec: XFS Algorithms & Data Structures, "Extended Attributes". Names are listed in the order of storage, as the kernel
lists them. POSIX ACLs are kept under names of their own (SGI_ACL_FILE) and listed also in the kernel's form, before
the stored one. Parent pointers and attributes whose writing was not finished are not listed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.extents import Extents
from guestkit.fs.xfs import dabtree
from guestkit.fs.xfs.blocks import DA, REMOTE, Blocks
from guestkit.fs.xfs.content import REMOTE_HEADER
from guestkit.fs.xfs.extents import attr_map
from guestkit.fs.xfs.inode import LOCAL, Inode

MAX_VALUE = 1 << 16  # bytes
IN_LEAF, ROOT, SECURE, PARENT, INCOMPLETE = 0x1, 0x2, 0x4, 0x8, 0x80
_SPACES = {0: b"user.", ROOT: b"trusted.", SECURE: b"security."}
_ACLS = {b"SGI_ACL_FILE": b"system.posix_acl_access", b"SGI_ACL_DEFAULT": b"system.posix_acl_default"}
_MOST_BLOCKS = 1 << 14  # leaves of one inode
_MOST_BYTES = 64 << 20  # in leaves of one inode, parent pointers among them
_MOST = 1 << 17  # attributes of one inode that are shown

_entries = struct.Struct(">IHBx").iter_unpack
_remote = struct.Struct(">IIB").unpack_from
_local = struct.Struct(">HB").unpack_from
_acl_entries = struct.Struct(">IIHxx").iter_unpack
_acl_entry = struct.Struct("<HHI").pack
_ACL_WITH_ID = (0x02, 0x08)  # ACL_USER, ACL_GROUP
_ACL_PLAIN = (0x01, 0x04, 0x10, 0x20)
_MOST_ACL = 65535 // 12


class Attribute(NamedTuple):
    """One attribute as stored. `block`: where in the fork the value stands, 0 when `value` is it."""

    flags: int
    name: bytes  # without the prefix
    value: bytes
    block: int = 0
    size: int = 0

    @property
    def full_name(self) -> bytes:
        """The name as the kernel lists it, b"" where it is not shown."""
        prefix = _SPACES.get(self.flags & (ROOT | SECURE | PARENT))
        if prefix is None or self.flags & INCOMPLETE:
            return b""
        return prefix + self.name

    @property
    def acl_name(self) -> bytes:
        """The name under which the kernel shows an ACL in its own form, b"" for all else."""
        return _ACLS.get(self.name, b"") if self.flags & (ROOT | SECURE | PARENT | INCOMPLETE) == ROOT else b""


def attributes(blocks: Blocks, inode: Inode) -> list[Attribute]:
    """The attributes of an inode that are shown, in the order of storage. Raises: Corrupt (EUCLEAN)."""
    fork = inode.attr_fork
    if not fork:
        return []
    if inode.attr_format == LOCAL:
        return [attribute for attribute in parse_short(fork) if attribute.full_name]
    map = attr_map(blocks, inode)
    if not inode.attr_count:
        return []
    found: list[Attribute] = []
    room = _MOST_BYTES
    for number, buf in _leaves(blocks, map, inode.ino):
        try:
            part = parse_leaf(buf, blocks.crc)
        except Corrupt as error:
            error.within(f"attribute block {number}")
            raise
        found += [attribute for attribute in part if attribute.full_name]
        room -= len(buf)
        if room < 0 or len(found) > _MOST:
            raise Corrupt("attribute leaves", "attributes", found=len(found), expected=f"at most {_MOST}")
    return found


def _leaves(blocks: Blocks, map: Extents, ino: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number in the fork, bytes) of the leaves, left to right. Raises: Corrupt."""
    raw: dict[int, tuple[int, bytes]] = {}  # of the block that was read last

    def read(number: int) -> dabtree.Block:
        for _, block, _ in map.runs(number, number + 1):
            if block:
                buf = blocks.read(block)
                kind, forward = dabtree.kind_of(buf, block, ino, blocks, (dabtree.NODE, dabtree.ATTR_LEAF))
                if kind == dabtree.NODE:
                    return dabtree.parse(buf, block, ino, blocks, (dabtree.NODE,))
                raw.clear()
                raw[number] = forward, buf
                return dabtree.Block(kind, 0, forward, [], [])
        raise Corrupt("attribute block", "number", found=number, expected="no hole")

    number = dabtree.first_leaf(0, read)
    seen = {number}
    while True:
        forward, buf = raw[number]
        yield number, buf
        if not forward:
            return
        if forward in seen or len(seen) > _MOST_BLOCKS:
            raise Corrupt("attribute leaf", "forw", found=forward, expected="a chain that ends")
        number = forward
        seen.add(number)
        if read(number).level:
            raise Corrupt("attribute leaf", "forw", found=number, expected="a leaf")


def parse_short(fork: bytes) -> list[Attribute]:
    """Decode the attributes that stand in the inode. Raises: Corrupt (EUCLEAN)."""
    total, count = int.from_bytes(fork[:2], "big"), fork[2] if len(fork) > 2 else 0
    if not 4 <= total <= len(fork):
        raise Corrupt("short attributes", "totsize", found=total, expected=f"4 to {len(fork)}")
    found = []
    at = 4
    for _ in range(count):
        if at + 3 > total:
            raise Corrupt("short attributes", "count", found=count)
        name_length, length, flags = fork[at], fork[at + 1], fork[at + 2]
        value = at + 3 + name_length
        if not name_length or value + length > total:
            raise Corrupt("short attribute", "namelen", found=name_length, expected=f"within {total} bytes")
        found.append(_named(flags, fork[at + 3 : value], fork[value : value + length]))
        at = value + length
    return found


def parse_leaf(buf: bytes, crc: bool) -> list[Attribute]:
    """Decode the attributes of a leaf whose header was checked. Raises: Corrupt (EUCLEAN)."""
    info = DA.owner + 8 if crc else 12
    start = 80 if crc else 32
    count = int.from_bytes(buf[info : info + 2], "big")
    end = len(buf)
    low = start + 8 * count
    if low > end:
        raise Corrupt("attribute leaf", "count", found=count, expected=f"at most {(end - start) // 8}")
    found = []
    last = room = 0
    for hashed, place, flags in _entries(buf[start:low]):
        if hashed < last:
            raise Corrupt("attribute leaf", "hashval", found=hashed, expected=f"at least {last}")
        last = hashed
        least = 4 if flags & IN_LEAF else 12  # bytes of the shortest entry of its kind
        if place < low or place + least > end:
            raise Corrupt("attribute leaf", "nameidx", found=place, expected=f"{low} to {end - least}")
        if flags & IN_LEAF:
            length, name_length = _local(buf, place)
            name = place + 3
            value = name + name_length
            if not name_length or value + length > end:
                raise Corrupt("attribute leaf entry", "namelen", found=name_length)
            found.append(_named(flags, buf[name:value], buf[value : value + length]))
            room += name_length + length
        else:
            block, length, name_length = _remote(buf, place)
            name = place + 9
            if not name_length or name + name_length > end:
                raise Corrupt("attribute leaf entry", "namelen", found=name_length)
            if length > MAX_VALUE:
                raise Corrupt("attribute leaf entry", "valuelen", found=length, expected=f"at most {MAX_VALUE}")
            found.append(_named(flags, buf[name : name + name_length], b"", block, length))
            room += name_length
        if room > end:  # entries that share their bytes
            raise Corrupt("attribute leaf", "usedbytes", found=room, expected=f"at most {end}")
    return found


def _named(flags: int, name: bytes, value: bytes, block: int = 0, size: int = 0) -> Attribute:
    # a parent pointer's name may hold anything that a file name may
    if b"\0" in name and not flags & PARENT:
        raise Corrupt("attribute", "name", found=name, expected="no NUL")
    return Attribute(flags, name, value, block, size)


def value_of(blocks: Blocks, inode: Inode, attribute: Attribute) -> bytes:
    """The value as stored. Raises: Corrupt (EUCLEAN)."""
    if attribute.flags & IN_LEAF or not attribute.block:
        return attribute.value
    size = attribute.size
    room = blocks.block_size - (REMOTE_HEADER.size if blocks.crc else 0)
    count = -(-size // room)
    parts: list[bytes] = []
    got = 0
    for number, block, length in attr_map(blocks, inode).runs(attribute.block, attribute.block + count):
        if not block:
            raise Corrupt("attribute value", "block", found=number, expected="no hole")
        data = blocks.read(block, length)
        if not blocks.crc:
            parts.append(data)
            continue
        for at in range(length):
            buf = data[at * blocks.block_size : (at + 1) * blocks.block_size]
            part = _remote_part(blocks, buf, block + at, inode.ino, got, min(room, size - got))
            got += len(part)
            parts.append(part)
    return b"".join(parts)[:size]


def _remote_part(blocks: Blocks, buf: bytes, block: int, ino: int, offset: int, expected: int) -> bytes:
    magic, at, length = REMOTE_HEADER.unpack_from(buf)
    if magic != b"XARM":
        raise Corrupt("attribute value block", "rm_magic", found=magic, expected=b"XARM")
    blocks.verify(buf, REMOTE, block, ino, "attribute value block")
    if at != offset:
        raise Corrupt("attribute value block", "rm_offset", found=at, expected=offset)
    if length != expected:
        raise Corrupt("attribute value block", "rm_bytes", found=length, expected=expected)
    return buf[56 : 56 + length]


def kernel_acl(value: bytes) -> bytes:
    """A stored ACL in the form that getxattr(2) gives. Raises: Corrupt (EUCLEAN)."""
    count = int.from_bytes(value[:4], "big")
    if len(value) < 4 or count > _MOST_ACL or len(value) != 4 + 12 * count:
        raise Corrupt("POSIX ACL", "acl_cnt", found=count, expected=f"what {len(value)} bytes hold")
    out = [b"\2\0\0\0"]
    for tag, id, perm in _acl_entries(value[4:]):
        if tag in _ACL_WITH_ID:
            out.append(_acl_entry(tag, perm, id))
        elif tag in _ACL_PLAIN:
            out.append(_acl_entry(tag, perm, 0xFFFFFFFF))
        else:
            raise Corrupt("POSIX ACL", "ae_tag", found=tag)
    return b"".join(out)
