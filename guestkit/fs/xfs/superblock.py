"""The XFS superblock: bytes to one frozen value, with every size and count checked before anyone uses it.

Spec: XFS Algorithms & Data Structures, "Superblocks"; fs/xfs/libxfs/xfs_format.h for fields that are newer. Plain
struct instead of construct: the fields are fixed, and this is on the path of every start.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, Unsupported
from guestkit.fs.xfs import features as f
from guestkit.layout import Layout

MAGIC = b"XFSB"
MAX_SECTOR = 32768
SECTOR_AT = slice(102, 104)  # where the size of the sector that holds the superblock stands
_MIN_AG_BLOCKS = 64
_MAX_LOG_SUNIT = 256 << 10

_LAYOUT = Layout(
    "xfs_dsb",
    304,
    ">",
    sb_magicnum=(0, "4s"),
    sb_blocksize=(4, "I"),
    sb_dblocks=(8, "Q"),
    sb_rblocks=(16, "Q"),
    sb_rextents=(24, "Q"),
    sb_uuid=(32, "16s"),
    sb_logstart=(48, "Q"),
    sb_rootino=(56, "Q"),
    sb_rbmino=(64, "Q"),
    sb_rsumino=(72, "Q"),
    sb_rextsize=(80, "I"),
    sb_agblocks=(84, "I"),
    sb_agcount=(88, "I"),
    sb_rbmblocks=(92, "I"),
    sb_logblocks=(96, "I"),
    sb_versionnum=(100, "H"),
    sb_sectsize=(102, "H"),
    sb_inodesize=(104, "H"),
    sb_inopblock=(106, "H"),
    sb_fname=(108, "12s"),
    sb_blocklog=(120, "B"),
    sb_sectlog=(121, "B"),
    sb_inodelog=(122, "B"),
    sb_inopblog=(123, "B"),
    sb_agblklog=(124, "B"),
    sb_rextslog=(125, "B"),
    sb_inprogress=(126, "B"),
    sb_imax_pct=(127, "B"),
    sb_icount=(128, "Q"),
    sb_ifree=(136, "Q"),
    sb_fdblocks=(144, "Q"),
    sb_frextents=(152, "Q"),
    sb_uquotino=(160, "Q"),
    sb_gquotino=(168, "Q"),
    sb_qflags=(176, "H"),
    sb_flags=(178, "B"),
    sb_shared_vn=(179, "B"),
    sb_inoalignmt=(180, "I"),
    sb_unit=(184, "I"),
    sb_width=(188, "I"),
    sb_dirblklog=(192, "B"),
    sb_logsectlog=(193, "B"),
    sb_logsectsize=(194, "H"),
    sb_logsunit=(196, "I"),
    sb_features2=(200, "I"),
    sb_bad_features2=(204, "I"),
    sb_features_compat=(208, "I"),
    sb_features_ro_compat=(212, "I"),
    sb_features_incompat=(216, "I"),
    sb_features_log_incompat=(220, "I"),
    sb_crc=(224, "4s"),
    sb_spino_align=(228, "I"),
    sb_pquotino=(232, "Q"),
    sb_lsn=(240, "Q"),
    sb_meta_uuid=(248, "16s"),
    sb_metadirino=(264, "Q"),
    sb_rgcount=(272, "I"),
    sb_rgextents=(276, "I"),
)
_CRC = 224  # bytes, where the checksum stands


@dataclass(frozen=True)
class Superblock:
    """What the readers need; sizes in bytes, counts as named, "block" a filesystem block, "log" a binary logarithm.

    A fsblock is ag << ag_block_log | block in the group; an inode number is that, then the inode in its block.
    """

    version: int  # 4 or 5
    block_size: int
    block_log: int
    sector_size: int
    inode_size: int
    inode_log: int
    inodes_per_block: int
    inodes_per_block_log: int
    ag_blocks: int
    ag_block_log: int
    ag_count: int
    data_blocks: int
    dir_block_size: int
    dir_block_blocks: int
    root_ino: int
    log_start: int  # fsblock; 0: the log is on another device
    log_blocks: int
    log_version: int
    log_sector_size: int
    log_sunit: int  # bytes, the stripe unit of the log; 0 or 1 when there is none
    rt_blocks: int  # of the realtime device
    inode_count: int  # these three are current only when the filesystem was unmounted cleanly
    free_inodes: int
    free_blocks: int
    max_inode_percent: int
    uuid: bytes
    meta_uuid: bytes  # what blocks of metadata carry
    label: bytes
    version_bits: int
    features2: int
    ro_compat: int
    incompat: int
    log_incompat: int
    lsn: int
    has_crc: bool
    has_ftype: bool
    lazy_count: bool  # the counters above are kept in the allocation groups alone while mounted
    ascii_ci: bool
    bigtime: bool
    nrext64: bool
    sparse_inodes: bool
    parent: bool
    metadir: bool
    needs_repair: bool

    @property
    def realtime(self) -> bool:
        return self.rt_blocks > 0

    @property
    def external_log(self) -> bool:
        return self.log_start == 0

    @property
    def ag_inode_log(self) -> int:
        """Bits of an inode number below its allocation group."""
        return self.ag_block_log + self.inodes_per_block_log

    def split(self, fsblock: int) -> tuple[int, int]:
        """(allocation group, block in it)"""
        return fsblock >> self.ag_block_log, fsblock & ((1 << self.ag_block_log) - 1)

    def fsblock_offset(self, fsblock: int) -> int:
        """Byte offset of `fsblock` on the data device; what is outside the filesystem is not noticed."""
        log = self.ag_block_log
        return ((fsblock >> log) * self.ag_blocks + (fsblock & ((1 << log) - 1))) << self.block_log

    def has_fsblock(self, fsblock: int) -> bool:
        """Whether `fsblock` lies inside its allocation group and the filesystem."""
        group, block = self.split(fsblock)
        return block < self.ag_blocks and group * self.ag_blocks + block < self.data_blocks

    def inode_place(self, ino: int) -> tuple[int, int, int]:
        """(allocation group, block in it, byte offset in that block)"""
        fsblock = ino >> self.inodes_per_block_log
        within = ino & (self.inodes_per_block - 1)
        return fsblock >> self.ag_block_log, fsblock & ((1 << self.ag_block_log) - 1), within << self.inode_log

    def inode_offset(self, ino: int) -> int:
        """Byte offset of an inode on the data device; what is outside the filesystem is not noticed."""
        within = ino & (self.inodes_per_block - 1)
        return self.fsblock_offset(ino >> self.inodes_per_block_log) + (within << self.inode_log)

    def ag_length(self, group: int) -> int:
        """Blocks of an allocation group; the last may be shorter."""
        return min(self.ag_blocks, self.data_blocks - group * self.ag_blocks)


def parse_superblock(buf: bytes, *, copy: bool = False) -> Superblock:
    """Parse and check a superblock; `buf` holds at least the sector in which it stands.

    `copy`: that of a later allocation group, which may not know the root; it is 0 then.
    Raises: Corrupt (EUCLEAN) for bytes that no superblock can hold, a wrong checksum among them; Unsupported for
    versions before 4 and for a feature that is not read.
    """
    v = _LAYOUT.parse(buf)
    where = "superblock"
    if v["sb_magicnum"] != MAGIC:
        raise Corrupt(where, "sb_magicnum", found=v["sb_magicnum"], expected=MAGIC)
    sector, sector_log = v["sb_sectsize"], v["sb_sectlog"]
    if not 9 <= sector_log <= 15 or sector != 1 << sector_log:
        raise Corrupt(where, "sb_sectsize", found=sector, expected="a power of two from 512 to 32768, as sb_sectlog")
    if len(buf) < sector:
        raise Corrupt(where, "length", found=len(buf), expected=sector)
    bits = v["sb_versionnum"]
    version = bits & 0xF
    features2 = v["sb_features2"] | v["sb_bad_features2"] if bits & f.MOREBITS or version == 5 else 0
    ro_compat = incompat = log_incompat = 0
    if version == 5:
        found = crc32c(buf[:_CRC] + bytes(4) + buf[_CRC + 4 : sector]) ^ 0xFFFFFFFF
        stored = int.from_bytes(v["sb_crc"], "little")
        if stored != found:
            raise Corrupt(where, "sb_crc", found=stored, expected=found)
        ro_compat, incompat = v["sb_features_ro_compat"], v["sb_features_incompat"]
        log_incompat = v["sb_features_log_incompat"]
        f.refuse_unknown_v5(incompat)
    elif version == 4:
        f.refuse_unknown_v4(bits, features2)
    elif 1 <= version <= 3:
        raise Unsupported(f"XFS version {version}")
    else:
        raise Corrupt(where, "sb_versionnum", found=bits, expected="version 4 or 5")
    if v["sb_inprogress"] and not copy:  # mkfs leaves it set in the copies
        raise Corrupt(where, "sb_inprogress", found=v["sb_inprogress"], expected="0: mkfs or a copy was not finished")
    _check_geometry(v)
    root = v["sb_rootino"]
    if not _inside(v, root):
        if not copy:
            raise Corrupt(where, "sb_rootino", found=root, expected="an inode inside the filesystem")
        root = 0
    has = _flags(version, bits, features2, ro_compat, incompat)
    block_size = v["sb_blocksize"]
    meta = version == 5 and bool(incompat & f.META_UUID)
    sectors = bool(bits & f.SECTOR)
    return Superblock(
        version=version,
        block_size=block_size,
        block_log=v["sb_blocklog"],
        sector_size=sector,
        inode_size=v["sb_inodesize"],
        inode_log=v["sb_inodelog"],
        inodes_per_block=v["sb_inopblock"],
        inodes_per_block_log=v["sb_inopblog"],
        ag_blocks=v["sb_agblocks"],
        ag_block_log=v["sb_agblklog"],
        ag_count=v["sb_agcount"],
        data_blocks=v["sb_dblocks"],
        dir_block_size=block_size << v["sb_dirblklog"],
        dir_block_blocks=1 << v["sb_dirblklog"],
        root_ino=root,
        log_start=v["sb_logstart"],
        log_blocks=v["sb_logblocks"],
        log_version=2 if version == 5 or bits & f.LOGV2 else 1,
        log_sector_size=v["sb_logsectsize"] if sectors else 512,
        log_sunit=v["sb_logsunit"],
        rt_blocks=v["sb_rblocks"],
        inode_count=v["sb_icount"],
        free_inodes=v["sb_ifree"],
        free_blocks=v["sb_fdblocks"],
        max_inode_percent=v["sb_imax_pct"],
        uuid=v["sb_uuid"],
        meta_uuid=v["sb_meta_uuid"] if meta else v["sb_uuid"],
        label=v["sb_fname"].split(b"\0", 1)[0],
        version_bits=bits,
        features2=features2,
        ro_compat=ro_compat,
        incompat=incompat,
        log_incompat=log_incompat,
        lsn=v["sb_lsn"] if version == 5 else 0,
        **has,
    )


def _flags(version: int, bits: int, features2: int, ro_compat: int, incompat: int) -> dict[str, bool]:
    """The features as the kernel takes them; `ro_compat` and `incompat` are 0 in version 4."""
    five = version == 5
    return {
        "has_crc": five,
        "has_ftype": bool(incompat & f.FTYPE) if five else bool(features2 & f.FTYPE2),
        "lazy_count": five or bool(features2 & f.LAZYSBCOUNT),
        "ascii_ci": bool(bits & f.BORG),
        "bigtime": bool(incompat & f.BIGTIME),
        "nrext64": bool(incompat & f.NREXT64),
        "sparse_inodes": bool(incompat & f.SPINODES),
        "parent": bool(incompat & f.PARENT),
        "metadir": bool(incompat & f.METADIR),
        "needs_repair": bool(incompat & f.NEEDSREPAIR),
    }


def _check_geometry(v: dict[str, int]) -> None:
    """Check every size and count. Raises: Corrupt (EUCLEAN)."""

    def need(good: bool, field: str, expected: str) -> None:
        if not good:
            raise Corrupt("superblock", field, found=v[field], expected=expected)

    block, block_log = v["sb_blocksize"], v["sb_blocklog"]
    need(9 <= block_log <= 16 and block == 1 << block_log, "sb_blocksize", "a power of two from 512 to 65536")
    need(v["sb_sectsize"] <= block, "sb_sectsize", f"at most the block size, {block}")
    inode, inode_log = v["sb_inodesize"], v["sb_inodelog"]
    need(8 <= inode_log <= 11 and inode == 1 << inode_log, "sb_inodesize", "a power of two from 256 to 2048")
    need(inode <= block, "sb_inodesize", f"at most the block size, {block}")
    need(v["sb_versionnum"] & 0xF == 4 or inode >= 512, "sb_inodesize", "at least 512 with checksums")
    need(v["sb_inopblog"] == block_log - inode_log, "sb_inopblog", str(block_log - inode_log))
    need(v["sb_inopblock"] == 1 << v["sb_inopblog"], "sb_inopblock", str(1 << v["sb_inopblog"]))
    need(v["sb_dirblklog"] + block_log <= 16, "sb_dirblklog", f"at most {16 - block_log}")
    need(v["sb_imax_pct"] <= 100, "sb_imax_pct", "at most 100")
    need(v["sb_shared_vn"] == 0, "sb_shared_vn", "0")
    blocks, groups, size = v["sb_dblocks"], v["sb_agcount"], v["sb_agblocks"]
    need(groups > 0, "sb_agcount", "above 0")
    need(size >= _MIN_AG_BLOCKS, "sb_agblocks", f"at least {_MIN_AG_BLOCKS}")
    need(v["sb_agblklog"] == (size - 1).bit_length(), "sb_agblklog", str((size - 1).bit_length()))
    least, most = (groups - 1) * size + _MIN_AG_BLOCKS, groups * size
    need(least <= blocks <= most, "sb_dblocks", f"{least} to {most}")
    need(v["sb_logsunit"] <= _MAX_LOG_SUNIT, "sb_logsunit", f"at most {_MAX_LOG_SUNIT}")
    if v["sb_versionnum"] & f.SECTOR:
        log = v["sb_logsectlog"]
        need(9 <= log <= 15 and v["sb_logsectsize"] == 1 << log, "sb_logsectsize", "a power of two from 512 to 32768")
    if v["sb_logstart"]:
        group, at = v["sb_logstart"] >> v["sb_agblklog"], v["sb_logstart"] & ((1 << v["sb_agblklog"]) - 1)
        inside = group < groups and at < size and at + v["sb_logblocks"] <= size
        need(inside, "sb_logstart", "a log inside one allocation group")
        need(group * size + at + v["sb_logblocks"] <= blocks, "sb_logblocks", "a log inside the filesystem")
    if v["sb_rblocks"] or v["sb_rextents"]:
        extent = v["sb_rextsize"]
        need(extent > 0, "sb_rextsize", "above 0")
        need(v["sb_rextents"] == v["sb_rblocks"] // max(extent, 1), "sb_rextents", "sb_rblocks / sb_rextsize")


def _inside(v: dict[str, int], ino: int) -> bool:
    """Whether the block of an inode lies inside the filesystem."""
    block = ino >> v["sb_inopblog"]
    group, at = block >> v["sb_agblklog"], block & ((1 << v["sb_agblklog"]) - 1)
    return at < v["sb_agblocks"] and 0 < group * v["sb_agblocks"] + at < v["sb_dblocks"]
