"""Feature bits of Btrfs: what they are called, which are read and which are refused by name.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst and Feature-by-version.rst.
"""

from __future__ import annotations

from guestkit.errors import Unsupported

NO_HOLES = 1 << 9
METADATA_UUID = 1 << 10

# of compat_ro
FREE_SPACE_TREE = 1 << 0
BLOCK_GROUP_TREE = 1 << 3

_INCOMPAT = {
    0: "mixed-backref",
    1: "default-subvol",
    2: "mixed-groups",
    3: "compress-lzo",
    4: "compress-zstd",
    5: "big-metadata",
    6: "extended-iref",
    7: "raid56",
    8: "skinny-metadata",
    9: "no-holes",
    10: "metadata-uuid",
    11: "raid1c34",
    12: "zoned",
    13: "extent-tree-v2",
    14: "raid-stripe-tree",
    15: "encryption",
    16: "simple-quota",
    17: "remap-tree",
}
_COMPAT_RO = {
    0: "free-space-tree",
    1: "free-space-tree-valid",
    2: "verity",
    3: "block-group-tree",
}
# what the reader can do without, or knows; the rest is refused
_READ = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16))


def check_incompat(bits: int) -> None:
    """Raises: Unsupported, with the name and the bit, for the lowest feature that is not read."""
    unknown = bits & ~_READ
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        raise Unsupported(_INCOMPAT.get(bit, "unknown incompatible Btrfs feature"), bit=1 << bit)


def feature_names(incompat: int, compat_ro: int) -> list[str]:
    """The names of all bits that are set; "incompat-0x..." where one is not known."""
    found = []
    for names, bits, kind in ((_INCOMPAT, incompat, "incompat"), (_COMPAT_RO, compat_ro, "compat-ro")):
        for bit in range(64):
            if bits >> bit & 1:
                found.append(names.get(bit, f"{kind}-0x{1 << bit:x}"))
    return found


def unknown_compat_ro(bits: int) -> int:
    """The bits of compat_ro that nobody here knows: with one of them the kernel replays no log."""
    return bits & ~sum(1 << bit for bit in _COMPAT_RO)
