"""Feature bits of ext2, ext3 and ext4: their names (as dumpe2fs prints them) and which of them are read here.

Spec: Documentation/filesystems/ext4/super.rst, feature tables. Incompatible features are a closed set: an unknown
one is refused by name. Unknown compatible and read-only compatible ones are listed and read on.
"""

from __future__ import annotations

from guestkit.errors import Unsupported

HAS_JOURNAL, EXT_ATTR, RESIZE_INODE, DIR_INDEX = 0x4, 0x8, 0x10, 0x20
SPARSE_SUPER2, FAST_COMMIT, ORPHAN_FILE = 0x200, 0x400, 0x1000

SPARSE_SUPER, LARGE_FILE, BTREE_DIR, HUGE_FILE, GDT_CSUM = 0x1, 0x2, 0x4, 0x8, 0x10
DIR_NLINK, EXTRA_ISIZE, BIGALLOC, METADATA_CSUM, ORPHAN_PRESENT = 0x20, 0x40, 0x200, 0x400, 0x10000

COMPRESSION, FILETYPE, RECOVER, JOURNAL_DEV, META_BG = 0x1, 0x2, 0x4, 0x8, 0x10
EXTENTS, BIT64, MMP, FLEX_BG, EA_INODE, DIRDATA = 0x40, 0x80, 0x100, 0x200, 0x400, 0x1000
CSUM_SEED, LARGEDIR, INLINE_DATA, ENCRYPT, CASEFOLD = 0x2000, 0x4000, 0x8000, 0x10000, 0x20000

COMPAT_NAMES = {
    0x1: "dir_prealloc",
    0x2: "imagic_inodes",
    0x4: "has_journal",
    0x8: "ext_attr",
    0x10: "resize_inode",
    0x20: "dir_index",
    0x40: "lazy_bg",
    0x80: "exclude_inode",
    0x100: "snapshot_bitmap",
    0x200: "sparse_super2",
    0x400: "fast_commit",
    0x800: "stable_inodes",
    0x1000: "orphan_file",
}
RO_COMPAT_NAMES = {
    0x1: "sparse_super",
    0x2: "large_file",
    0x4: "btree_dir",
    0x8: "huge_file",
    0x10: "uninit_bg",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x80: "snapshot",
    0x100: "quota",
    0x200: "bigalloc",
    0x400: "metadata_csum",
    0x800: "replica",
    0x1000: "read-only",
    0x2000: "project",
    0x4000: "shared_blocks",
    0x8000: "verity",
    0x10000: "orphan_present",
}
INCOMPAT_NAMES = {
    0x1: "compression",
    0x2: "filetype",
    0x4: "needs_recovery",
    0x8: "journal_dev",
    0x10: "meta_bg",
    0x40: "extent",
    0x80: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    0x400: "ea_inode",
    0x1000: "dirdata",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
INCOMPAT_READ = (
    FILETYPE | RECOVER | META_BG | EXTENTS | BIT64 | MMP | FLEX_BG | EA_INODE
    | CSUM_SEED | LARGEDIR | INLINE_DATA | ENCRYPT | CASEFOLD
)  # fmt: skip


def refuse_unknown(incompat: int) -> None:
    """Raises: Unsupported (EOPNOTSUPP) with the name and bit of the first incompatible feature not read here."""
    unread = incompat & ~INCOMPAT_READ
    if unread:
        bit = unread & -unread
        name = INCOMPAT_NAMES.get(bit, f"FEATURE_I{bit.bit_length() - 1}")
        raise Unsupported(f"ext incompatible feature {name}", bit=bit)


def feature_names(compat: int, incompat: int, ro_compat: int) -> list[str]:
    """Return the features by name in dumpe2fs's order; unknown bits by number."""
    found = []
    for word, names, letter in (
        (compat, COMPAT_NAMES, "C"),
        (incompat, INCOMPAT_NAMES, "I"),
        (ro_compat, RO_COMPAT_NAMES, "R"),
    ):
        for bit in range(32):
            if word >> bit & 1:
                found.append(names.get(1 << bit, f"FEATURE_{letter}{bit}"))
    return found
