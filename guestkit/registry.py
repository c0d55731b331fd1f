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

from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, SourceError, Unsupported, WouldBlock
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

FORMATS: tuple[Format, ...] = (
    # disk images, by qemu-img's names
    Format("qcow2", "image", ((0, b"QFI\xfb\0\0\0\x02"), (0, b"QFI\xfb\0\0\0\x03")), open="guestkit.image.qcow2:open"),
    Format("raw", "image", (), open="guestkit.image.raw:open"),
    # partition tables
    Format(
        "gpt", "table", ((510, b"\x55\xaa"), (512, b"EFI PART"), (4096, b"EFI PART")), open="guestkit.volume.gpt:open"
    ),
    Format("msdos", "table", ((510, b"\x55\xaa"),), open="guestkit.volume.mbr:open"),
    # filesystems
    Format("ext4", "filesystem", _EXT, _EXT_PROBE, _EXT_OPEN),
    Format("ext3", "filesystem", _EXT, _EXT_PROBE, _EXT_OPEN),
    Format("ext2", "filesystem", _EXT, _EXT_PROBE, _EXT_OPEN),
)

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

    `available`: how many bytes are there, where `source` reaches beyond a truncated disk.
    Raises: SourceError (EIO) when the host cannot read it.
    """
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
        if found is not None:
            yield found


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
            if not format.probe or _named(format.probe)(window) is not None:
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
    if _anything_in(table):
        return None
    large: Table | None = _named(format.open)(source, limits, 4096)
    return large if large is not None and not large.problems and _anything_in(large) else None


def _anything_in(table: Table) -> bool:
    return any(not each.problem and not each.role and detect(each.open()).type for each in table.volumes)


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
