"""Which tree of a filesystem a mount shows: subvolumes by path or number, as mount(8) and libguestfs name them.

Spec: btrfs(5), "subvol" and "subvolid"; guestfs(3), "btrfsvol:DEVICE/PATH".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guestkit.errors import InvalidArgument, NotFound
from guestkit.fs.base import FileSystem, Subvolume

PREFIX = "btrfsvol:"
SELECTING = ("subvol", "subvolid")  # mount options that decide which tree is shown


def subvolume_name(device: str, path: bytes) -> str:
    """The mountable of the subvolume at `path` of a device's filesystem; bytes that are no UTF-8 are surrogates."""
    return f"{PREFIX}{device}/{path.decode('utf-8', 'surrogateescape')}"


def has_subvolumes(fs: FileSystem) -> bool:
    """Whether the filesystem's kind has subvolumes; it then has one at least, its top level."""
    return any(volume.id for volume in fs.roots())


def choose_root(fs: FileSystem, path: str | None, options: Mapping[str, str]) -> int:
    """The inode key of the root that a mount shows.

    `path`: the subvolume that a mountable names, from the top level, "" for that itself; it goes before the option
    "subvol". Without any of them the default subvolume is shown. A filesystem without subvolumes has one root.
    Raises: NotFound when there is no such subvolume; InvalidArgument when "subvolid" is no number or names another.
    """
    if path is None:
        path = options.get("subvol")
    number = options.get("subvolid")
    if (path is None and number is None) or not has_subvolumes(fs):
        return fs.root
    volumes = fs.roots()
    if path is None:
        assert number is not None
        return _numbered(volumes, number).root
    wanted = b"/".join(name for name in path.encode("utf-8", "surrogateescape").split(b"/") if name)
    found = next((volume for volume in volumes if volume.path == wanted), None)
    if found is None:
        raise NotFound(f"no subvolume {path}")
    if number is not None and _numbered(volumes, number) != found:
        raise InvalidArgument(f"subvolume {path} has the number {found.id}, not {number}")
    return found.root


def _numbered(volumes: Sequence[Subvolume], number: str) -> Subvolume:
    try:
        wanted = int(number, 0)
    except ValueError:
        raise InvalidArgument(f"subvolid={number} is not a number") from None
    for volume in volumes:
        if volume.id == wanted or (not wanted and not volume.path):  # 0 is the top level
            return volume
    raise NotFound(f"no subvolume with the number {number}")
