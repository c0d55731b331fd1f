"""XFS links and attributes that lie: each is an error of its own."""

from __future__ import annotations

import pytest
from xfs_images import Image, u16, u32, u64

from guestkit.errors import Corrupt
from guestkit.fs.xfs.blocks import DA, REMOTE

# links


@pytest.mark.parametrize(("offset", "value"), [(56, u64(1025)), (56, u64(0)), (76, u32(0)), (64, u64(0))])
def test_link_whose_size_or_map_lies(offset: int, value: bytes) -> None:
    image = Image()
    image.inode("link-x1000", (offset, value))
    with pytest.raises(Corrupt):
        image.open().readlink(image.ino("link-x1000"))


@pytest.mark.parametrize(
    "edit", [(4, u32(7)), (8, u32(0xFFFFFFFF)), (0, b"XXXX"), (32, u64(3)), (40, u64(3)), (60, b"\0")]
)
def test_block_of_a_link_that_lies(edit: tuple[int, bytes]) -> None:
    image = Image()
    (block,) = image.blocks("link-x1000")
    image.block(block, REMOTE, edit)
    with pytest.raises(Corrupt, match="symlink"):
        image.open().readlink(image.ino("link-x1000"))


# attributes


def test_unfinished_attributes_and_parent_pointers_are_not_shown() -> None:
    image = Image()
    path = "xattr-few"
    names = image.fs.xattr_names(image.ino(path))
    assert names[0] == b"user.small"
    for flags in (0x80, 0x08):
        image.inode(path, (image.attr_fork(path) + 6, bytes([flags])))
        fs = image.open()
        assert fs.xattr_names(image.ino(path)) == names[1:]
        with pytest.raises(OSError, match="No data"):
            fs.xattr(image.ino(path), b"user.small")


@pytest.mark.parametrize("edit", [(0, u16(3)), (0, u16(60_000)), (2, b"\xff"), (4, b"\0"), (5, b"\xff"), (7, b"\0")])
def test_short_attributes_that_lie(edit: tuple[int, bytes]) -> None:
    image = Image()
    path = "xattr-few"
    image.inode(path, (image.attr_fork(path) + edit[0], edit[1]))
    with pytest.raises(Corrupt, match="attribute"):
        image.open().xattr_names(image.ino(path))


@pytest.mark.parametrize(
    "edit",
    [(8, b"\0\0"), (56, u16(0xFFFF)), (80, b"\xff" * 4), (84, u16(0)), (84, u16(4095)), (48, u64(1)), (16, u64(1))],
    ids=["magic", "count", "hash", "low", "high", "owner", "place"],
)
def test_leaf_of_attributes_that_lies(edit: tuple[int, bytes]) -> None:
    image = Image()
    block = image.blocks("xattr-remote", 0, 1, attr=True)[0]
    image.block(block, DA, edit)
    with pytest.raises(Corrupt):
        image.open().xattr_names(image.ino("xattr-remote"))


def test_leaves_of_attributes_in_a_circle_end() -> None:
    image = Image()
    root = image.blocks("xattr-many", 0, 1, attr=True)[0]
    assert image.bytes(root)[8:10] == b"\x3e\xbe"
    first = int.from_bytes(image.bytes(root)[68:72], "big")
    (leaf,) = image.blocks("xattr-many", first, first + 1, attr=True)
    image.block(leaf, DA, (0, u32(first)))
    with pytest.raises(Corrupt, match="a chain that ends"):
        image.open().xattr_names(image.ino("xattr-many"))


@pytest.mark.parametrize("edit", [(0, b"XXXX"), (4, u32(1)), (8, u32(9)), (32, u64(1)), (40, u64(1))])
def test_block_of_a_value_that_lies(edit: tuple[int, bytes]) -> None:
    image = Image()
    path = "xattr-remote-dir"
    block = next(
        block for block in image.blocks(path, 0, 64, attr=True) if image.bytes(block)[:8] == b"XARM" + bytes(4)
    )
    image.block(block, REMOTE, edit)
    fs = image.open()
    assert fs.xattr_names(image.ino(path)) == image.fs.xattr_names(image.ino(path))
    with pytest.raises(Corrupt, match="attribute value block"):
        fs.xattr(image.ino(path), b"user.remote")


@pytest.mark.parametrize("edit", [(0, u32(99)), (0, u32(1 << 31)), (4, u32(3))])
def test_acl_that_lies_is_an_error_in_the_kernels_form_alone(edit: tuple[int, bytes]) -> None:
    image = Image()
    path = "acl-access"
    ino = image.ino(path)
    raw = image.fs.xattr(ino, b"trusted.SGI_ACL_FILE")
    at = image.inode(path)
    place = bytes(image.data[at : at + image.sup.inode_size]).find(raw)
    assert place > 0
    image.inode(path, (place + edit[0], edit[1]))
    fs = image.open()
    assert fs.xattr_names(ino) == [b"system.posix_acl_access", b"trusted.SGI_ACL_FILE"]
    assert len(fs.xattr(ino, b"trusted.SGI_ACL_FILE")) == len(raw)
    with pytest.raises(Corrupt, match="POSIX ACL"):
        fs.xattr(ino, b"system.posix_acl_access")
