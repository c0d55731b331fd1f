"""The superblock: one at 64 KiB of every device, copies at 64 MiB and 256 GiB.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "Superblock".
"""

from __future__ import annotations

from dataclasses import dataclass

from guestkit.errors import Corrupt, GuestkitError, SourceError
from guestkit.fs.btrfs.checksums import checksum
from guestkit.fs.btrfs.features import METADATA_UUID
from guestkit.layout import Layout
from guestkit.source import Source

SIZE = 4096
PLACES = (0x10000, 0x4000000, 0x4000000000)
MAGIC = b"_BHRfS_M"
MAX_LEVEL = 8
_SEEDING = 1 << 32
LARGEST_BLOCK = 65536

_SUPER = Layout(
    "btrfs_super_block",
    SIZE,
    "<",
    csum=(0, "32s"),
    fsid=(32, "16s"),
    bytenr=(48, "Q"),
    flags=(56, "Q"),
    magic=(64, "8s"),
    generation=(72, "Q"),
    root=(80, "Q"),
    chunk_root=(88, "Q"),
    log_root=(96, "Q"),
    total_bytes=(112, "Q"),
    bytes_used=(120, "Q"),
    root_dir_objectid=(128, "Q"),
    num_devices=(136, "Q"),
    sectorsize=(144, "I"),
    nodesize=(148, "I"),
    sys_chunk_array_size=(160, "I"),
    chunk_root_generation=(164, "Q"),
    compat_flags=(172, "Q"),
    compat_ro_flags=(180, "Q"),
    incompat_flags=(188, "Q"),
    csum_type=(196, "H"),
    root_level=(198, "B"),
    chunk_root_level=(199, "B"),
    log_root_level=(200, "B"),
    dev_id=(201, "Q"),
    dev_total_bytes=(209, "Q"),
    dev_uuid=(267, "16s"),
    dev_fsid=(283, "16s"),
    label=(299, "256s"),
    metadata_uuid=(571, "16s"),
    sys_chunk_array=(811, "2048s"),
)


@dataclass(frozen=True)
class Superblock:
    """What a superblock says of the filesystem and, in the fields dev_*, of the device on which it stands.

    `node_fsid` is what every node has to carry. Sizes in bytes; places are logical addresses.
    """

    fsid: bytes
    node_fsid: bytes
    place: int
    generation: int
    root: int
    root_level: int
    chunk_root: int
    chunk_root_level: int
    chunk_root_generation: int
    log_root: int
    log_root_level: int
    total_bytes: int
    bytes_used: int
    device_count: int
    sector_size: int
    node_size: int
    compat: int
    compat_ro: int
    incompat: int
    csum_type: int
    flags: int
    dev_id: int
    dev_bytes: int
    dev_uuid: bytes
    label: bytes
    system_chunks: bytes

    @property
    def seeding(self) -> bool:
        """Whether the filesystem is only read, and others may stand on it."""
        return bool(self.flags & _SEEDING)


def parse_superblock(buf: bytes, place: int) -> Superblock:
    """Parse the 4096 bytes that stand at byte `place` of a device.

    Raises: Corrupt (EUCLEAN); Unsupported for a checksum type that is not known.
    """
    raw = _SUPER.parse(buf)
    if raw["magic"] != MAGIC:
        raise Corrupt("superblock", "magic", found=raw["magic"], expected=MAGIC)
    csum = checksum(raw["csum_type"])
    if csum.digest(buf[32:SIZE]) != raw["csum"][: csum.size]:
        raise Corrupt("superblock: bad checksum")
    if raw["bytenr"] != place:
        raise Corrupt("superblock", "bytenr", found=raw["bytenr"], expected=place)
    for name in ("sectorsize", "nodesize"):
        size = raw[name]
        if size & size - 1 or not 4096 <= size <= LARGEST_BLOCK:
            raise Corrupt("superblock", name, found=size, expected="a power of two from 4096 to 65536")
    sector = raw["sectorsize"]
    if raw["nodesize"] < sector:
        raise Corrupt("superblock", "nodesize", found=raw["nodesize"], expected=f"at least {sector}")
    for name in ("root_level", "chunk_root_level", "log_root_level"):
        if raw[name] >= MAX_LEVEL:
            raise Corrupt("superblock", name, found=raw[name], expected=f"below {MAX_LEVEL}")
    for name in ("root", "chunk_root", "log_root"):
        if raw[name] % sector:
            raise Corrupt("superblock", name, found=raw[name], expected=f"a multiple of {sector}")
    if raw["sys_chunk_array_size"] > len(raw["sys_chunk_array"]):
        raise Corrupt("superblock", "sys_chunk_array_size", found=raw["sys_chunk_array_size"], expected="at most 2048")
    if not raw["num_devices"]:
        raise Corrupt("superblock", "num_devices", found=0)
    separate = raw["incompat_flags"] & METADATA_UUID
    return Superblock(
        fsid=raw["fsid"],
        node_fsid=raw["metadata_uuid"] if separate else raw["fsid"],
        place=place,
        generation=raw["generation"],
        root=raw["root"],
        root_level=raw["root_level"],
        chunk_root=raw["chunk_root"],
        chunk_root_level=raw["chunk_root_level"],
        chunk_root_generation=raw["chunk_root_generation"],
        log_root=raw["log_root"],
        log_root_level=raw["log_root_level"],
        total_bytes=raw["total_bytes"],
        bytes_used=raw["bytes_used"],
        device_count=raw["num_devices"],
        sector_size=sector,
        node_size=raw["nodesize"],
        compat=raw["compat_flags"],
        compat_ro=raw["compat_ro_flags"],
        incompat=raw["incompat_flags"],
        csum_type=raw["csum_type"],
        flags=raw["flags"],
        dev_id=raw["dev_id"],
        dev_bytes=raw["dev_total_bytes"],
        dev_uuid=raw["dev_uuid"],
        label=raw["label"].split(b"\0", 1)[0],
        system_chunks=raw["sys_chunk_array"][: raw["sys_chunk_array_size"]],
    )


def read_superblock(device: Source) -> tuple[Superblock, list[str]]:
    """Return the first valid copy on `device`, and what is wrong with the others.

    The kernel mounts by the first copy alone: one behind it may be newer in an image that was copied while in use.
    Raises: what the first copy raises when none is good.
    """
    best: Superblock | None = None
    first: GuestkitError | None = None
    flaws: list[str] = []
    for place in PLACES:
        if place + SIZE > device.size:
            break
        try:
            found = parse_superblock(device.read(place, SIZE), place)
        except GuestkitError as error:
            first = first or error
            flaws.append(f"copy at {place}: {error}")
            continue
        best = best or found
    if best is None:
        raise first or SourceError(f"a device of {device.size} bytes holds no Btrfs superblock")
    return best, flaws
