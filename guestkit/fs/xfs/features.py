"""Feature bits of XFS: their names (as xfs_db's `version` prints them) and which of them are read here.

Spec: XFS Algorithms & Data Structures, "Superblocks"; fs/xfs/libxfs/xfs_format.h for bits that are newer. The
incompatible features of version 5 and all features of version 4 are closed sets; unknown read-only compatible and
compatible ones are listed and read on.
"""

from __future__ import annotations

from guestkit.errors import Unsupported

# sb_versionnum
ATTR, NLINK, QUOTA, ALIGN, DALIGN, SHARED, LOGV2, SECTOR = 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
EXTFLG, DIRV2, BORG, MOREBITS = 0x1000, 0x2000, 0x4000, 0x8000
# sb_features2
LAZYSBCOUNT, ATTR2, PARENT2, PROJID32, CRC2, FTYPE2 = 0x2, 0x8, 0x10, 0x80, 0x100, 0x200
# sb_features_ro_compat
FINOBT, RMAPBT, REFLINK, INOBTCNT = 0x1, 0x2, 0x4, 0x8
# sb_features_incompat
FTYPE, SPINODES, META_UUID, BIGTIME, NEEDSREPAIR, NREXT64 = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
EXCHRANGE, PARENT, METADIR, ZONED, ZONE_GAPS = 0x40, 0x80, 0x100, 0x200, 0x400
# sb_features_log_incompat
LOG_XATTRS = 0x1

VERSION_NAMES = {
    ATTR: "ATTR",
    NLINK: "NLINK",
    QUOTA: "QUOTA",
    ALIGN: "ALIGN",
    DALIGN: "DALIGN",
    SHARED: "SHARED",
    LOGV2: "LOGV2",
    SECTOR: "SECTOR",
    EXTFLG: "EXTFLG",
    DIRV2: "DIRV2",
    BORG: "ASCII_CI",
    MOREBITS: "MOREBITS",
}
FEATURES2_NAMES = {
    LAZYSBCOUNT: "LAZYSBCOUNT",
    ATTR2: "ATTR2",
    PARENT2: "PARENT2",
    PROJID32: "PROJID32BIT",
    CRC2: "CRC",
    FTYPE2: "FTYPE",
}
RO_COMPAT_NAMES = {FINOBT: "FINOBT", RMAPBT: "RMAPBT", REFLINK: "REFLINK", INOBTCNT: "INOBTCNT"}
INCOMPAT_NAMES = {
    FTYPE: "FTYPE",
    SPINODES: "SPARSE_INODES",
    META_UUID: "META_UUID",
    BIGTIME: "BIGTIME",
    NEEDSREPAIR: "NEEDSREPAIR",
    NREXT64: "NREXT64",
    EXCHRANGE: "EXCHANGE",
    PARENT: "PARENT",
    METADIR: "METADIR",
    ZONED: "ZONED",
    ZONE_GAPS: "ZONE_GAPS",
}
# needs_repair is among them so that the opener may be told to read such a filesystem all the same
INCOMPAT_READ = FTYPE | SPINODES | META_UUID | BIGTIME | NEEDSREPAIR | NREXT64 | EXCHRANGE | PARENT | METADIR
FEATURES2_READ = LAZYSBCOUNT | ATTR2 | PROJID32 | FTYPE2
VERSION_READ = 0xFFFF & ~SHARED


def refuse_unknown_v5(incompat: int) -> None:
    """Raises: Unsupported (EOPNOTSUPP) with the name and bit of the first incompatible feature not read here."""
    _refuse(incompat & ~INCOMPAT_READ, INCOMPAT_NAMES, "incompatible feature")


def refuse_unknown_v4(version: int, features2: int) -> None:
    """Raises: Unsupported (EOPNOTSUPP) with the name and bit of the first feature not read here."""
    if not version & DIRV2:
        raise Unsupported("XFS version 1 directories (without DIRV2)", bit=DIRV2)
    _refuse(version & ~VERSION_READ, VERSION_NAMES, "version 4 feature")
    _refuse(features2 & ~FEATURES2_READ, FEATURES2_NAMES, "version 4 features2 bit")


def refuse_unknown_log(log_incompat: int) -> None:
    """Raises: Unsupported (EOPNOTSUPP) with the bit of the first unknown feature of a log that has to be replayed."""
    _refuse(log_incompat & ~LOG_XATTRS, {}, "log feature")


def _refuse(unread: int, names: dict[int, str], what: str) -> None:
    if unread:
        bit = unread & -unread
        raise Unsupported(f"XFS {what} {names.get(bit, f'BIT{bit.bit_length() - 1}')}", bit=bit)


def feature_names(version: int, features2: int, ro_compat: int, incompat: int) -> list[str]:
    """Return the features by name, unknown bits by number; the last two words are those of version 5, else 0."""
    found = []
    for word, names, letter in (
        (version & 0xFFF0, VERSION_NAMES, "V"),
        (features2, FEATURES2_NAMES, "F"),
        (ro_compat, RO_COMPAT_NAMES, "R"),
        (incompat, INCOMPAT_NAMES, "I"),
    ):
        for bit in range(32):
            if word >> bit & 1:
                found.append(names.get(1 << bit, f"FEATURE_{letter}{bit}"))
    return list(dict.fromkeys(found))
