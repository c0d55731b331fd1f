"""The boot sector of NTFS: where everything begins, and its copy at the volume's end.

Spec: libfsntfs documentation, "Volume header". Sizes of clusters and records are numbers of units, or, as negative
bytes, powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestkit.errors import Corrupt, SourceError, Unsupported
from guestkit.layout import Layout
from guestkit.source import Source

SIZE = 512
_MOST_CLUSTER = 2 << 20
_BOOT = Layout(
    "ntfs_boot_sector",
    84,
    "<",
    oem_id=(3, "8s"),
    bytes_per_sector=(11, "H"),
    sectors_per_cluster=(13, "B"),
    number_of_sectors=(40, "Q"),
    mft_lcn=(48, "Q"),
    mftmirr_lcn=(56, "Q"),
    clusters_per_mft_record=(64, "b"),
    clusters_per_index_record=(68, "b"),
    volume_serial_number=(72, "Q"),
)


@dataclass(frozen=True)
class Boot:
    """What the boot sector says; sizes in bytes, places in clusters."""

    sector_size: int
    cluster_size: int
    record_size: int
    index_size: int
    sectors: int
    clusters: int
    mft: int
    mirror: int
    serial: int

    @property
    def uuid(self) -> str:
        """The serial number as blkid writes it."""
        return f"{self.serial:016X}" if self.serial else ""


def parse_boot(buf: bytes) -> Boot:
    """Decode a boot sector. Raises: Corrupt (EUCLEAN)."""
    found = _BOOT.parse(buf)
    name = "NTFS boot sector"
    if found["oem_id"] != b"NTFS    ":
        raise Corrupt(name, "oem_id", found=found["oem_id"], expected=b"NTFS    ")
    sector = found["bytes_per_sector"]
    if not 256 <= sector <= 4096 or sector & sector - 1:
        raise Corrupt(name, "bytes_per_sector", found=sector, expected="a power of two, 256 to 4096")
    code = found["sectors_per_cluster"]
    # 0x80 is both 128 and -128; all that is above stands for a power of two
    per_cluster = code if code <= 128 else 1 << 256 - code if code >= 240 else 0
    cluster = per_cluster * sector
    if not per_cluster or per_cluster & per_cluster - 1 or cluster > _MOST_CLUSTER:
        raise Corrupt(name, "sectors_per_cluster", found=code)
    record = _record_size(found["clusters_per_mft_record"], cluster)
    if not 512 <= record <= 4096:
        raise Corrupt(name, "clusters_per_mft_record", found=found["clusters_per_mft_record"])
    index = _record_size(found["clusters_per_index_record"], cluster)
    if not 512 <= index <= _MOST_CLUSTER:
        raise Corrupt(name, "clusters_per_index_record", found=found["clusters_per_index_record"])
    sectors = found["number_of_sectors"]
    clusters = sectors // per_cluster
    if not clusters or sectors >> 54:
        raise Corrupt(name, "number_of_sectors", found=sectors)
    for field in ("mft_lcn", "mftmirr_lcn"):
        if not 0 <= found[field] < clusters:
            raise Corrupt(name, field, found=found[field], expected=f"below {clusters}")
    return Boot(
        sector,
        cluster,
        record,
        index,
        sectors,
        clusters,
        found["mft_lcn"],
        found["mftmirr_lcn"],
        found["volume_serial_number"],
    )


def _record_size(code: int, cluster: int) -> int:
    """Size in bytes of `code` clusters or, where negative, a power of two; 0 when neither is allowed."""
    if code > 0:
        return 0 if code & code - 1 else code * cluster
    return 1 << -code if -31 <= code <= -9 else 0


def find_boot(device: Source) -> tuple[Boot, str]:
    """Return the boot sector, and what was wrong with the first where a copy was used ("" when nothing was).

    The copy stands in the last sector of the partition; NT 3.51 and older kept it in the middle.
    Raises: Corrupt when none is good; SourceError.
    """
    try:
        return parse_boot(_read(device, 0)), ""
    except Corrupt as error:
        for sector in (512, 4096, 1024, 2048):
            for place in (device.size // sector * sector - sector, device.size // sector // 2 * sector):
                try:
                    boot = parse_boot(_read(device, place))
                except (Corrupt, Unsupported, SourceError):  # the next copy may serve, else the first error is raised
                    continue
                if boot.sector_size == sector:
                    return boot, f"{error}; the copy at {place} was used"
        raise


def _read(device: Source, offset: int) -> bytes:
    if offset < 0 or offset + SIZE > device.size:
        raise Corrupt("NTFS boot sector", "device size", found=device.size)
    try:
        return device.read(offset, SIZE)
    except SourceError as error:
        error.within("boot sector")
        raise
