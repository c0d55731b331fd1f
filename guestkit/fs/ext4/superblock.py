"""The ext2/3/4 superblock: bytes to one frozen value, with every size and count checked before anyone uses it.

Spec: Documentation/filesystems/ext4/super.rst. Plain struct instead of construct: the fields are fixed, and this
is on the path of every start. Left out: snapshot and error-history fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, Unsupported
from guestkit.fs.ext4 import features as f
from guestkit.layout import Layout

OFFSET = 1024  # bytes, of the primary superblock
SIZE = 1024
MAGIC = 0xEF53

_LAYOUT = Layout(
    "ext4_super_block",
    SIZE,
    "<",
    s_inodes_count=(0x0, "I"),
    s_blocks_count_lo=(0x4, "I"),
    s_r_blocks_count_lo=(0x8, "I"),
    s_free_blocks_count_lo=(0xC, "I"),
    s_free_inodes_count=(0x10, "I"),
    s_first_data_block=(0x14, "I"),
    s_log_block_size=(0x18, "I"),
    s_log_cluster_size=(0x1C, "I"),
    s_blocks_per_group=(0x20, "I"),
    s_clusters_per_group=(0x24, "I"),
    s_inodes_per_group=(0x28, "I"),
    s_mtime=(0x2C, "I"),
    s_wtime=(0x30, "I"),
    s_mnt_count=(0x34, "H"),
    s_magic=(0x38, "H"),
    s_state=(0x3A, "H"),
    s_creator_os=(0x48, "I"),
    s_rev_level=(0x4C, "I"),
    s_first_ino=(0x54, "I"),
    s_inode_size=(0x58, "H"),
    s_block_group_nr=(0x5A, "H"),
    s_feature_compat=(0x5C, "I"),
    s_feature_incompat=(0x60, "I"),
    s_feature_ro_compat=(0x64, "I"),
    s_uuid=(0x68, "16s"),
    s_volume_name=(0x78, "16s"),
    s_last_mounted=(0x88, "64s"),
    s_reserved_gdt_blocks=(0xCE, "H"),
    s_journal_uuid=(0xD0, "16s"),
    s_journal_inum=(0xE0, "I"),
    s_journal_dev=(0xE4, "I"),
    s_last_orphan=(0xE8, "I"),
    s_hash_seed=(0xEC, "16s"),
    s_def_hash_version=(0xFC, "B"),
    s_jnl_backup_type=(0xFD, "B"),
    s_desc_size=(0xFE, "H"),
    s_default_mount_opts=(0x100, "I"),
    s_first_meta_bg=(0x104, "I"),
    s_mkfs_time=(0x108, "I"),
    s_jnl_blocks=(0x10C, "68s"),
    s_blocks_count_hi=(0x150, "I"),
    s_r_blocks_count_hi=(0x154, "I"),
    s_free_blocks_count_hi=(0x158, "I"),
    s_flags=(0x160, "I"),
    s_mmp_block=(0x168, "Q"),
    s_log_groups_per_flex=(0x174, "B"),
    s_checksum_type=(0x175, "B"),
    s_overhead_clusters=(0x248, "I"),
    s_backup_bgs=(0x24C, "8s"),
    s_checksum_seed=(0x270, "I"),
    s_encoding=(0x27C, "H"),
    s_encoding_flags=(0x27E, "H"),
    s_orphan_file_inum=(0x280, "I"),
    s_checksum=(0x3FC, "I"),
)


@dataclass(frozen=True)
class Superblock:
    """What the readers need; sizes in bytes, counts as named, "block" a filesystem block."""

    inodes_count: int
    blocks_count: int
    reserved_blocks: int
    free_blocks: int
    free_inodes: int
    first_data_block: int
    block_size: int
    cluster_size: int
    blocks_per_group: int
    clusters_per_group: int
    inodes_per_group: int
    group_count: int
    mount_time: int  # seconds
    write_time: int
    mkfs_time: int
    mount_count: int
    state: int
    creator_os: int
    revision: int
    first_ino: int
    inode_size: int
    group_number: int  # of the copy that was read
    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    label: bytes
    last_mounted: bytes
    reserved_gdt_blocks: int
    journal_uuid: bytes
    journal_inum: int
    journal_dev: int
    last_orphan: int
    orphan_file_inum: int
    hash_seed: tuple[int, int, int, int]
    hash_version: int  # default, as stored
    hash_unsigned: bool
    journal_backup_type: int
    journal_blocks: bytes  # copy of the journal inode's i_block (60 bytes), then size_high and size_lo
    desc_size: int
    default_mount_options: int
    first_meta_bg: int
    flags: int
    mmp_block: int
    groups_per_flex: int
    overhead_clusters: int
    backup_groups: tuple[int, int]
    encoding: int
    encoding_flags: int
    checksum_seed: int  # of metadata checksums
    raw: bytes

    @property
    def metadata_csum(self) -> bool:
        return bool(self.ro_compat & f.METADATA_CSUM)

    @property
    def needs_recovery(self) -> bool:
        return bool(self.incompat & f.RECOVER)

    @property
    def has_journal(self) -> bool:
        return bool(self.compat & f.HAS_JOURNAL)

    @property
    def cluster_ratio(self) -> int:
        return self.cluster_size // self.block_size

    @property
    def kind(self) -> str:
        """ext2, ext3 or ext4 as blkid decides."""
        if self.ro_compat & ~0x7 == 0:
            if not self.has_journal and self.incompat & ~(f.FILETYPE | f.META_BG) == 0:
                return "ext2"
            if self.has_journal and self.incompat & ~(f.FILETYPE | f.META_BG | f.RECOVER) == 0:
                return "ext3"
        return "ext4"

    def has_super(self, group: int) -> bool:
        """Whether `group` holds a copy of the superblock and descriptors."""
        if group == 0:
            return True
        if self.compat & f.SPARSE_SUPER2:
            return group in self.backup_groups
        if group == 1 or not self.ro_compat & f.SPARSE_SUPER:
            return True
        if not group & 1:
            return False
        return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    power = base
    while power < number:
        power *= base
    return power == number


def parse_superblock(buf: bytes) -> Superblock:
    """Parse and check the 1024 bytes of a superblock.

    Raises: Corrupt (EUCLEAN) for bytes that no superblock can hold, a wrong checksum among them; Unsupported
    for an external journal and for an incompatible feature that is not read.
    """
    v = _LAYOUT.parse(buf)
    where = "superblock"
    if v["s_magic"] != MAGIC:
        raise Corrupt(where, "s_magic", found=v["s_magic"], expected=MAGIC)
    dynamic = v["s_rev_level"] > 0
    compat, incompat, ro_compat = (
        (v["s_feature_compat"], v["s_feature_incompat"], v["s_feature_ro_compat"]) if dynamic else (0, 0, 0)
    )
    if ro_compat & f.METADATA_CSUM:
        if v["s_checksum_type"] != 1:
            raise Corrupt(where, "s_checksum_type", found=v["s_checksum_type"], expected=1)
        found = crc32c(buf[:0x3FC])
        if found != v["s_checksum"]:
            raise Corrupt(where, "s_checksum", found=v["s_checksum"], expected=found)
    if incompat & f.JOURNAL_DEV:
        raise Unsupported("ext external journal (journal_dev) as a filesystem", bit=f.JOURNAL_DEV)
    f.refuse_unknown(incompat)

    if v["s_log_block_size"] > 6:
        raise Corrupt(where, "s_log_block_size", found=v["s_log_block_size"], expected="0 to 6")
    block_size = 1024 << v["s_log_block_size"]
    cluster_size = block_size
    if ro_compat & f.BIGALLOC:
        if not v["s_log_block_size"] <= v["s_log_cluster_size"] <= 20:
            raise Corrupt(where, "s_log_cluster_size", found=v["s_log_cluster_size"])
        cluster_size = 1024 << v["s_log_cluster_size"]
    ratio = cluster_size // block_size
    inode_size, first_ino = (v["s_inode_size"], v["s_first_ino"]) if dynamic else (128, 11)
    if inode_size < 128 or inode_size & (inode_size - 1) or inode_size > block_size:
        raise Corrupt(where, "s_inode_size", found=inode_size)
    if first_ino < 11:
        raise Corrupt(where, "s_first_ino", found=first_ino)
    wide = bool(incompat & f.BIT64)
    desc_size = v["s_desc_size"] if wide else 32
    if wide and (not 64 <= desc_size <= 1024 or desc_size & (desc_size - 1)):
        raise Corrupt(where, "s_desc_size", found=desc_size)
    per_group, inodes_per_group = v["s_blocks_per_group"], v["s_inodes_per_group"]
    clusters = v["s_clusters_per_group"] if ro_compat & f.BIGALLOC else per_group
    if not 0 < per_group <= block_size * 8 * ratio or per_group % 8:
        raise Corrupt(where, "s_blocks_per_group", found=per_group)
    if not 0 < clusters <= block_size * 8 or clusters * ratio != per_group:
        raise Corrupt(where, "s_clusters_per_group", found=clusters)
    if not block_size // inode_size <= inodes_per_group <= block_size * 8:
        raise Corrupt(where, "s_inodes_per_group", found=inodes_per_group)
    blocks = v["s_blocks_count_lo"] | (v["s_blocks_count_hi"] << 32 if wide else 0)
    first_data = v["s_first_data_block"]
    if first_data >= blocks or (first_data == 0 and block_size == 1024 and ratio == 1) or first_data > 1:
        raise Corrupt(where, "s_first_data_block", found=first_data)
    groups = (blocks - first_data + per_group - 1) // per_group
    if groups * inodes_per_group != v["s_inodes_count"]:
        raise Corrupt(where, "s_inodes_count", found=v["s_inodes_count"], expected=groups * inodes_per_group)
    if v["s_inodes_count"] < first_ino:
        raise Corrupt(where, "s_inodes_count", found=v["s_inodes_count"])
    tables = (groups * desc_size + block_size - 1) // block_size
    if incompat & f.META_BG and v["s_first_meta_bg"] > tables:
        raise Corrupt(where, "s_first_meta_bg", found=v["s_first_meta_bg"])
    if v["s_log_groups_per_flex"] > 31:
        raise Corrupt(where, "s_log_groups_per_flex", found=v["s_log_groups_per_flex"])

    seed = v["s_checksum_seed"] if incompat & f.CSUM_SEED else crc32c(v["s_uuid"])
    words = memoryview(v["s_hash_seed"])
    hash_seed = tuple(int.from_bytes(words[at : at + 4], "little") for at in (0, 4, 8, 12))
    backups = v["s_backup_bgs"]
    high = (v["s_r_blocks_count_hi"] << 32, v["s_free_blocks_count_hi"] << 32) if wide else (0, 0)
    return Superblock(
        inodes_count=v["s_inodes_count"],
        blocks_count=blocks,
        reserved_blocks=v["s_r_blocks_count_lo"] | high[0],
        free_blocks=v["s_free_blocks_count_lo"] | high[1],
        free_inodes=v["s_free_inodes_count"],
        first_data_block=first_data,
        block_size=block_size,
        cluster_size=cluster_size,
        blocks_per_group=per_group,
        clusters_per_group=clusters,
        inodes_per_group=inodes_per_group,
        group_count=groups,
        mount_time=v["s_mtime"] | buf[0x275] << 32,
        write_time=v["s_wtime"] | buf[0x274] << 32,
        mkfs_time=v["s_mkfs_time"] | buf[0x276] << 32,
        mount_count=v["s_mnt_count"],
        state=v["s_state"],
        creator_os=v["s_creator_os"],
        revision=v["s_rev_level"],
        first_ino=first_ino,
        inode_size=inode_size,
        group_number=v["s_block_group_nr"],
        compat=compat,
        incompat=incompat,
        ro_compat=ro_compat,
        uuid=v["s_uuid"],
        label=v["s_volume_name"].split(b"\0", 1)[0],
        last_mounted=v["s_last_mounted"].split(b"\0", 1)[0],
        reserved_gdt_blocks=v["s_reserved_gdt_blocks"],
        journal_uuid=v["s_journal_uuid"],
        journal_inum=v["s_journal_inum"],
        journal_dev=v["s_journal_dev"],
        last_orphan=v["s_last_orphan"],
        orphan_file_inum=v["s_orphan_file_inum"],
        hash_seed=hash_seed,  # type: ignore[arg-type]  # four words, as the comprehension above makes them
        hash_version=v["s_def_hash_version"],
        hash_unsigned=bool(v["s_flags"] & 2),
        journal_backup_type=v["s_jnl_backup_type"],
        journal_blocks=v["s_jnl_blocks"],
        desc_size=desc_size,
        default_mount_options=v["s_default_mount_opts"],
        first_meta_bg=v["s_first_meta_bg"],
        flags=v["s_flags"],
        mmp_block=v["s_mmp_block"],
        groups_per_flex=1 << v["s_log_groups_per_flex"],
        overhead_clusters=v["s_overhead_clusters"],
        backup_groups=(int.from_bytes(backups[:4], "little"), int.from_bytes(backups[4:], "little")),
        encoding=v["s_encoding"],
        encoding_flags=v["s_encoding_flags"],
        checksum_seed=seed,
        raw=bytes(buf[:SIZE]),
    )
