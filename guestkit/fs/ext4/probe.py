"""Recognition of ext2, ext3, ext4 and external ext journals by their superblock at byte 1024.

Spec: kernel Documentation/filesystems/ext4/super.rst; which feature makes which type is libblkid's rule.
"""

from __future__ import annotations

from guestkit.checksum import crc32c
from guestkit.layout import Layout
from guestkit.probe import Detected, Window, label_text, uuid_text

_SUPER = Layout(
    "ext4_super_block",
    1024,
    "<",
    s_log_block_size=(24, "I"),
    s_magic=(56, "H"),
    s_minor_rev_level=(62, "H"),
    s_rev_level=(76, "I"),
    s_feature_compat=(92, "I"),
    s_feature_incompat=(96, "I"),
    s_feature_ro_compat=(100, "I"),
    s_uuid=(104, "16s"),
    s_volume_name=(120, "16s"),
    s_flags=(352, "I"),
    s_checksum_type=(373, "B"),
    s_checksum=(1020, "I"),
)

_HAS_JOURNAL = 0x4  # compat
_JOURNAL_DEV = 0x8  # incompat
_METADATA_CSUM = 0x400  # ro_compat
_TEST_FILESYS = 0x4  # flags
_RO_KNOWN = 0x7  # what ext2 and ext3 read: sparse_super, large_file, btree_dir
_EXT2_INCOMPAT = 0x12  # filetype, meta_bg
_EXT3_INCOMPAT = 0x16  # and recover


def probe(window: Window) -> Detected | None:
    """Tell the type by the features; a superblock whose checksum is wrong is not one."""
    raw = window.at(1024, 1024)
    if not raw:
        return None
    (log_size, magic, minor, revision, compat, incompat, ro_compat, uuid, name, flags, kind, checksum) = (
        _SUPER.unpack_from(raw)
    )
    if magic != 0xEF53:
        return None
    if ro_compat & _METADATA_CSUM and (kind > 1 or crc32c(raw[:1020]) != checksum):
        return None
    usage = "filesystem"
    if incompat & _JOURNAL_DEV:
        type, usage = "jbd", "other"
    elif not compat & _HAS_JOURNAL and not incompat & ~_EXT2_INCOMPAT and not ro_compat & ~_RO_KNOWN:
        type = "ext2"
    elif compat & _HAS_JOURNAL and not incompat & ~_EXT3_INCOMPAT and not ro_compat & ~_RO_KNOWN:
        type = "ext3"
    else:
        type = "ext4dev" if flags & _TEST_FILESYS else "ext4"
    return Detected(
        type=type,
        usage=usage,
        label=label_text(name),
        uuid=uuid_text(uuid),
        version=f"{revision}.{minor}",
        block_size=1024 << log_size if log_size < 7 else 0,
    )
