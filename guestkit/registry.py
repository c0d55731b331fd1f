"""FORMATS: every format that guestkit knows, readable or not: a table, data only.

Adding a format is one module and one line here (and its row in the README). Modules are named by string and
imported when first needed. Detection reads the head and the tail of a source once and never fails on content,
only on an I/O error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from guestkit.errors import GuestkitError, InvalidArgument, SourceError, Unsupported, WouldBlock
from guestkit.fs.base import FileSystem
from guestkit.image.base import Image
from guestkit.limits import Limits
from guestkit.probe import Detected, Window
from guestkit.source import Files, Source
from guestkit.volume.base import Table


@dataclass(frozen=True)
class Format:
    """One line of the table.

    name    blkid's and libguestfs's type name, qemu-img's for images
    kind    "image", "table", "volume" (a member of a volume manager or a container), "filesystem" or "other"
    magics  (offset, bytes) pairs of which one must stand in the source; a negative offset counts from the end;
            empty: the probe decides
    probe   "module:function", (Window) -> Detected | None: confirms and reads label and UUID
    open    "module:function" of the opener, "" where the format is only recognised
    """

    name: str
    kind: str
    magics: tuple[tuple[int, bytes], ...]
    probe: str = ""
    open: str = ""


_EXT = ((1080, b"\x53\xef"),)
_EXT_PROBE = "guestkit.fs.ext4.probe:probe"
_EXT_OPEN = "guestkit.fs.ext4:open"
_FAT = (
    *((0x52, text) for text in (b"MSWIN", b"FAT32   ")),
    *((0x36, text) for text in (b"MSDOS", b"FAT16   ", b"FAT12   ", b"FAT     ")),
    *((0, text) for text in (b"\xeb", b"\xe9")),
    (510, b"\x55\xaa"),
)
_PAGES = (4096, 8192, 16384, 32768, 65536)
_SUSPEND = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c", b"LINHIB0001")
_LUKS2_AT = (0, *(0x4000 << shift for shift in range(9)))
_STRATIS = b"!Stra0tis\x86\xff\x02^\x41rh"
_REISER = ((0x2034, b"ReIsErFs"), (0x10034, b"ReIsErFs"), (0x10034, b"ReIsEr2Fs"), (0x10034, b"ReIsEr3Fs"))
_MINIX = (b"\x7f\x13", b"\x8f\x13", b"\x13\x7f", b"\x13\x8f", b"\x68\x24", b"\x78\x24", b"\x24\x68", b"\x24\x78")
_UDF = tuple((0x8001, name) for name in (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"NSR02", b"NSR03", b"TEA01"))
_LINUX = "guestkit.fs.recognized.linux:"
_UNIX = "guestkit.fs.recognized.unix:"
_OPTICAL = "guestkit.fs.recognized.optical:"
_TOLD = "guestkit.volume.recognized:"

# Detection asks in this order and takes the first: what is made of several devices, and what is encrypted, before
# what may seem to stand on it; then filesystems, those with the surest marks first.
FORMATS: tuple[Format, ...] = (
    # disk images, by qemu-img's names
    Format("qcow2", "image", ((0, b"QFI\xfb\0\0\0\x02"), (0, b"QFI\xfb\0\0\0\x03")), open="guestkit.image.qcow2:open"),
    Format("raw", "image", (), open="guestkit.image.raw:open"),
    Format("qcow", "image", ((0, b"QFI\xfb\0\0\0\x01"),)),
    Format(
        "vmdk", "image", ((0, b"KDMV"), (0, b"COWD"), (0, b"\xbe\xba\xfe\xca\0\0\0\0"), (0, b"# Disk DescriptorFile"))
    ),
    Format("vhdx", "image", ((0, b"vhdxfile"),)),
    Format("vpc", "image", ((0, b"conectix"), (-512, b"conectix"), (-511, b"conectix"))),
    Format("vdi", "image", ((64, b"\x7f\x10\xda\xbe"),)),
    Format("qed", "image", ((0, b"QED\0"),)),
    Format("parallels", "image", ((0, b"WithoutFreeSpace"), (0, b"WithouFreSpacExt"))),
    Format("dmg", "image", ((-512, b"koly"),)),
    Format("bochs", "image", ((0, b"Bochs Virtual HD Image"),)),
    Format("cloop", "image", ((0, b"#!/bin/sh\n#V2.0 Format\n"),)),
    Format("ewf", "image", ((0, b"EVF\x09\x0d\x0a\xff\0"), (0, b"EVF2\x0d\x0a\x81\0"))),
    Format("wim", "image", ((0, b"MSWIM\0\0\0"),)),
    Format("gzip", "image", ((0, b"\x1f\x8b\x08"),)),
    Format("xz", "image", ((0, b"\xfd7zXZ\0"),)),
    Format("zstd", "image", ((0, b"\x28\xb5\x2f\xfd"),)),
    Format("bzip2", "image", ((4, b"1AY&SY"),)),
    Format("ova", "image", ((257, b"ustar"),)),
    # partition tables
    Format(
        "gpt", "table", ((510, b"\x55\xaa"), (512, b"EFI PART"), (4096, b"EFI PART")), open="guestkit.volume.gpt:open"
    ),
    Format("msdos", "table", ((510, b"\x55\xaa"),), open="guestkit.volume.mbr:open"),
    Format("mac", "table", ((512, b"PM\0\0"), (2048, b"PM\0\0"))),
    Format("sun", "table", ((508, b"\xda\xbe"),)),
    Format("dvh", "table", ((0, b"\x0b\xe5\xa9\x41"),)),
    Format("bsd", "table", ((512, b"\x57\x45\x56\x82"), (64, b"\x57\x45\x56\x82"))),
    Format("amiga", "table", ((0, b"RDSK"),)),
    # members of arrays, and containers
    Format("linux_raid_member", "volume", (), "guestkit.volume.md.probe:probe"),
    Format("ddf_raid_member", "volume", (), _TOLD + "probe_ddf"),
    Format("isw_raid_member", "volume", ((-1024, b"Intel Raid ISM Cfg Sig. "),), _TOLD + "probe_isw"),
    Format("nvidia_raid_member", "volume", ((-1024, b"NVIDIA  "),), _TOLD + "probe_nvidia"),
    Format("lsi_mega_raid_member", "volume", ((-512, b"$XIDE$"),), _TOLD + "probe_lsi"),
    Format("promise_fasttrack_raid_member", "volume", (), _TOLD + "probe_promise"),
    Format(
        "bcache",
        "volume",
        ((4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),),
        _TOLD + "probe_bcache",
    ),
    Format(
        "LVM2_member",
        "volume",
        tuple((at * 512 + 24, b"LVM2 001") for at in range(4)),
        "guestkit.volume.lvm.probe:probe",
    ),
    Format("LVM1_member", "volume", ((0, b"HM"),), _TOLD + "probe_lvm1"),
    Format("DM_snapshot_cow", "volume", ((0, b"SnAp"),), _TOLD + "probe_snapshot"),
    Format("DM_verity_hash", "volume", ((0, b"verity\0\0"),), _TOLD + "probe_verity"),
    Format("DM_integrity", "volume", ((0, b"integrt\0"),), _TOLD + "probe_integrity"),
    Format(
        "crypto_LUKS",
        "volume",
        ((0, b"LUKS\xba\xbe"), *((at, b"SKUL\xba\xbe") for at in _LUKS2_AT)),
        "guestkit.volume.luks.probe:probe",
    ),
    Format("VMFS_volume_member", "volume", ((0x100000, b"\x0d\xd0\x01\xc0"),), _TOLD + "probe_vmfs_volume"),
    Format("vdo", "volume", ((0, b"dmvdo001"),), _TOLD + "probe_vdo"),
    Format("stratis", "volume", ((516, _STRATIS), (4612, _STRATIS)), _TOLD + "probe_stratis"),
    Format(
        "BitLocker",
        "volume",
        ((0, b"\xeb\x52\x90-FVE-FS-"), (0, b"\xeb\x58\x90-FVE-FS-"), (0, b"\xeb\x58\x90MSWIN4.1")),
        "guestkit.volume.bitlocker.probe:probe",
    ),
    # filesystems
    Format("xfs", "filesystem", ((0, b"XFSB"),), "guestkit.fs.xfs.probe:probe", "guestkit.fs.xfs:open"),
    Format(
        "btrfs",
        "filesystem",
        ((0x10040, b"_BHRfS_M"), (0x4000040, b"_BHRfS_M")),
        "guestkit.fs.btrfs.probe:probe",
        "guestkit.fs.btrfs:open",
    ),
    Format("ext4", "filesystem", _EXT, _EXT_PROBE, _EXT_OPEN),
    Format("ext3", "filesystem", _EXT, _EXT_PROBE, _EXT_OPEN),
    Format("ext2", "filesystem", _EXT, _EXT_PROBE, _EXT_OPEN),
    Format("ext4dev", "filesystem", _EXT, _EXT_PROBE, _EXT_OPEN),
    Format("jbd", "other", _EXT, _EXT_PROBE),
    Format("ntfs", "filesystem", ((3, b"NTFS    "),), "guestkit.fs.ntfs.probe:probe", "guestkit.fs.ntfs:open"),
    Format("exfat", "filesystem", ((3, b"EXFAT   "),), "guestkit.fs.exfat.probe:probe", "guestkit.fs.exfat:open"),
    Format("vfat", "filesystem", _FAT, "guestkit.fs.fat.probe:probe", "guestkit.fs.fat:open"),
    Format(
        "swsuspend",
        "other",
        tuple((page - 10, magic) for page in _PAGES for magic in _SUSPEND),
        "guestkit.fs.recognized.swap:probe",
    ),
    Format(
        "swap",
        "other",
        tuple((page - 10, magic) for page in _PAGES for magic in (b"SWAPSPACE2", b"SWAP-SPACE")),
        "guestkit.fs.recognized.swap:probe",
    ),
    Format("xfs_external_log", "other", (), "guestkit.fs.xfs.probe:probe_log"),
    Format("ReFS", "filesystem", ((3, b"ReFS\0\0\0\0"),), _UNIX + "probe_refs"),
    Format("apfs", "filesystem", ((32, b"NXSB"),), _UNIX + "probe_apfs"),
    Format("f2fs", "filesystem", ((1024, b"\x10\x20\xf5\xf2"),), _LINUX + "probe_f2fs"),
    Format("erofs", "filesystem", ((1024, b"\xe2\xe1\xf5\xe0"),), _LINUX + "probe_erofs"),
    Format(
        "squashfs",
        "filesystem",
        ((0, b"hsqs"), (0, b"sqsh"), (0, b"qshs"), (0, b"shsq")),
        _LINUX + "probe_squashfs",
    ),
    Format("squashfs3", "filesystem", ((0, b"hsqs"), (0, b"sqsh")), _LINUX + "probe_squashfs"),
    Format("udf", "filesystem", _UDF, _OPTICAL + "probe_udf"),
    Format("iso9660", "filesystem", ((0x8001, b"CD001"), (0x8009, b"CDROM")), _OPTICAL + "probe_iso9660"),
    Format("hfsplus", "filesystem", ((1024, b"BD"), (1024, b"H+"), (1024, b"HX")), _UNIX + "probe_hfsplus"),
    Format("hfs", "filesystem", ((1024, b"BD"),), _UNIX + "probe_hfs"),
    Format("jfs", "filesystem", ((0x8000, b"JFS1"),), _LINUX + "probe_jfs"),
    Format("reiserfs", "filesystem", _REISER, _LINUX + "probe_reiserfs"),
    Format("reiser4", "filesystem", ((0x10000, b"ReIsEr4"),), _LINUX + "probe_reiser4"),
    Format("nilfs2", "filesystem", ((1030, b"\x34\x34"), (-3578, b"\x34\x34")), _LINUX + "probe_nilfs2"),
    Format(
        "bcachefs",
        "filesystem",
        (
            (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
            (4120, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
        ),
        _LINUX + "probe_bcachefs",
    ),
    Format("VMFS", "filesystem", ((0x200000, b"\x5e\xf1\xab\x2f"),), _UNIX + "probe_vmfs"),
    Format("ufs", "filesystem", (), _UNIX + "probe_ufs"),
    Format("hpfs", "filesystem", ((0x2000, b"\x49\xe8\x95\xf9"),), _UNIX + "probe_hpfs"),
    Format("cramfs", "filesystem", ((0, b"\x45\x3d\xcd\x28"), (0, b"\x28\xcd\x3d\x45")), _LINUX + "probe_cramfs"),
    Format("romfs", "filesystem", ((0, b"-rom1fs-"),), _LINUX + "probe_romfs"),
    Format(
        "minix",
        "filesystem",
        (*((1040, magic) for magic in _MINIX), (1048, b"\x5a\x4d"), (1048, b"\x4d\x5a")),
        _LINUX + "probe_minix",
    ),
    Format("gfs2", "filesystem", ((0x10000, b"\x01\x16\x19\x70\0\0\0\x01"),), _LINUX + "probe_gfs2"),
    Format("ocfs2", "filesystem", tuple((1024 << shift, b"OCFSV2") for shift in range(4)), _LINUX + "probe_ocfs2"),
    Format("bfs", "filesystem", ((0, b"\xce\xfa\xad\x1b"),)),
    Format("befs", "filesystem", ((544, b"1SFB"), (544, b"BFS1"), (32, b"1SFB"), (32, b"BFS1"))),
    Format("vxfs", "filesystem", ((1024, b"\xf5\xfc\x01\xa5"), (8192, b"\xa5\x01\xfc\xf5"))),
    Format("ubifs", "filesystem", ((0, b"\x31\x18\x10\x06"),)),
    Format("zonefs", "filesystem", ((0, b"SFOZ"),)),
    Format("oracleasm", "other", ((32, b"ORCLDISK"),)),
    # last: its labels outlive what is made over them
    Format("zfs_member", "volume", (), _TOLD + "probe_zfs"),
)

# libblkid's bounds, in bytes: what is no larger holds nothing, and no member of an array
_NOTHING = 1024
_FLOPPY = 1440 * 1024
# whose superblock does not stand where a partition table does: both may be meant
_BESIDE_A_TABLE = ("iso9660", "udf")
# whose boot sector ends as an MBR does
_BOOT_SECTORS = ("vfat", "ntfs", "exfat", "ReFS", "BitLocker", "hpfs")


@cache
def _named(name: str) -> Callable[..., Any]:
    """Import what a line of the table names."""
    from importlib import import_module

    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def readers(kind: str) -> tuple[Format, ...]:
    """The formats of `kind` that guestkit reads."""
    return tuple(each for each in FORMATS if each.kind == kind and each.open)


def recognized(kind: str) -> tuple[Format, ...]:
    """The formats of `kind` that guestkit tells by name and does not read."""
    return tuple(each for each in FORMATS if each.kind == kind and not each.open)


def find_format(kind: str, name: str) -> Format | None:
    """The line for `name`, or None."""
    return next((each for each in FORMATS if each.kind == kind and each.name == name), None)


def _matches(format: Format, window: Window) -> bool:
    return not format.magics or any(window.at(offset, len(magic)) == magic for offset, magic in format.magics)


def candidates(source: Source, available: int | None = None) -> Iterator[Detected]:
    """Yield all that `source` could be taken for, the most credible first: libblkid calls several ambivalent.

    A member of an array or an encrypted container is the last: what is behind it is not its own.
    `available`: how many bytes are there, where `source` reaches beyond a truncated disk.
    Raises: SourceError (EIO) when the host cannot read it.
    """
    if source.size <= _NOTHING:
        return
    window = Window(source, available)
    asked = set()
    for format in FORMATS:
        if format.kind in ("image", "table") or format.probe in asked or not _matches(format, window):
            continue
        if format.probe:
            asked.add(format.probe)
            try:
                found: Detected | None = _named(format.probe)(window)
            except (SourceError, WouldBlock):
                raise
            except GuestkitError:  # damage further in: not this format
                continue
        else:
            found = Detected(type=format.name, usage="filesystem" if format.kind == "filesystem" else "other")
        if found is not None and not (found.usage == "raid" and source.size <= _FLOPPY):
            yield found
            if found.usage in ("raid", "crypto"):
                return


def detect(source: Source, available: int | None = None) -> Detected:
    """Say what stands on `source`; never fails on content. `available` as in candidates().

    Raises: SourceError (EIO) when the host cannot read it.
    """
    return next(candidates(source, available), Detected())


def detect_image(source: Source) -> Format | None:
    """The image format whose magic stands in `source`; None where the bytes are a disk as they are."""
    window = Window(source)
    for format in FORMATS:
        if format.kind == "image" and format.magics and _matches(format, window):
            return format
    return None


_IMAGE_ALIASES = {"vhd": "vpc", "qcow2v3": "qcow2"}


def open_image(source: Source, files: Files, limits: Limits, format: str | None = None) -> Image:
    """Open a disk image. `format`: qemu-img's name; None: by its magic, raw where there is none.

    Raises: InvalidArgument (not of that format, or no such format), Unsupported, Corrupt, NeedKey, SourceError.
    """
    if format is None:
        row = detect_image(source) or find_format("image", "raw")
        assert row is not None
    else:
        name = _IMAGE_ALIASES.get(format, format)
        row = find_format("image", name)
        if row is None:
            known = ", ".join(sorted(each.name for each in FORMATS if each.kind == "image"))
            raise InvalidArgument(f"no image format {format!r}; known are {known}")
        if row.magics and not _matches(row, Window(source)):
            other = detect_image(source)
            hint = f"it begins as a {other.name} image does" if other else "the magic number is not there"
            raise InvalidArgument(f"not a {name} image: {hint}")
    if not row.open:
        raise Unsupported(f"the image format {row.name}")
    image: Image = _named(row.open)(source, files, limits)
    return image


def image_opener(limits: Limits) -> Callable[[Source, Files, str | None], Source]:
    """The function by which files.HostFiles and GuestFiles open the images that an image names."""

    def open(source: Source, files: Files, format: str | None) -> Source:
        return open_image(source, files, limits, format)

    return open


def partition_table(source: Source, limits: Limits, detected: Detected | None = None) -> Table | None:
    """The partition table on `source`, or None. `detected`: what detect() said of it, where it is known.

    A boot sector is no MBR, and where a superblock stands on the whole disk, an MBR counts only if all that it
    says is plausible. The table inside a member of an array belongs to the array.
    Raises: SourceError (EIO) when the host cannot read the disk.
    """
    if detected is None:
        detected = detect(source)
    type = detected.type
    if type in _BOOT_SECTORS or type.endswith("_raid_member") or detected.usage == "crypto":
        return None
    window = Window(source)
    for format in readers("table"):
        if not _matches(format, window):
            continue
        table: Table | None = _named(format.open)(source, limits)
        if table is None or (type and type not in _BESIDE_A_TABLE and (table.problems or not table.volumes)):
            continue
        if format.name == "msdos" and source.sector_size == 512:
            table = _in_large_sectors(source, limits, format, table) or table
        return table
    for format in recognized("table"):
        if not type and _matches(format, window):
            return Table(format.name, "", source.sector_size, (), (f"{format.name} partition tables are not read",))
    return None


def _in_large_sectors(source: Source, limits: Limits, format: Format, table: Table) -> Table | None:
    """The same MBR counted in 4096-byte sectors, if only so anything is found where its partitions are."""
    large: Table | None = _named(format.open)(source, limits, 4096)
    if large is None or large.problems or _anything_in(source, table):
        return None
    return large if _anything_in(source, large) else None


def _anything_in(source: Source, table: Table) -> bool:
    return any(not each.role and detect(each.open(), source.size - each.start).type for each in table.volumes)


def open_filesystem(
    type: str, sources: Sequence[Source], limits: Limits, options: Mapping[str, str] | None = None
) -> FileSystem:
    """Open the filesystem of blkid's `type` on `sources`.

    Raises: Unsupported (no reader for the type, or a feature), Corrupt, NeedKey, SourceError.
    """
    row = find_format("filesystem", type)
    if row is None or not row.open:
        raise Unsupported(f"{type}" if row is None else f"the filesystem type {type}")
    filesystem: FileSystem = _named(row.open)(sources, limits, options or {})
    return filesystem
