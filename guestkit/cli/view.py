"""From the command line's arguments to a tree of files: which images, which filesystem, which path."""

from __future__ import annotations

import re
from argparse import Namespace as Arguments
from typing import TYPE_CHECKING

from guestkit.cli.output import complain
from guestkit.errors import InvalidArgument, NotFound
from guestkit.guest import Guest
from guestkit.namespace import MountTable

if TYPE_CHECKING:
    from guestkit.inspect import OperatingSystem

# "sda1:/etc/passwd" and "/dev/vg/root:/etc"
_PLACED = re.compile(r"((?:/dev/)?(?:sd|hd|vd|xvd)[a-z]{1,3}[0-9]*|/dev/[^:]+|btrfsvol:/dev/[^:]+):(/.*)?", re.DOTALL)


def open_guest(arguments: Arguments) -> Guest:
    """Open the images that the arguments name. Raises: as Guest.add; InvalidArgument for an empty image."""
    guest = Guest(allowed=arguments.allow)
    try:
        for number, image in enumerate([arguments.image, *arguments.add]):
            snapshot = arguments.snapshot if number == 0 else None
            disk = guest.add(image, format=arguments.format, snapshot=snapshot)
            if disk.size == 0:
                raise InvalidArgument("is empty, not a disk image", where=image)
    except BaseException:
        guest.close()
        raise
    return guest


class View:
    """The files that a command works on: chosen filesystems, the operating system, or the tree of all."""

    def __init__(self, guest: Guest, arguments: Arguments) -> None:
        self.guest = guest
        self.options: dict[str, str] = {}
        if arguments.options:
            from guestkit.tree import parse_options

            self.options = parse_options(arguments.options)
        self.tables: dict[str, MountTable] = {}
        self.system: OperatingSystem | None = None
        self._arguments = arguments
        self._image: str = arguments.image
        self._missing: list[str] = []

    def find(self, path: str, *, follow: bool = True) -> tuple[MountTable, int, bytes]:
        """Resolve a path argument: (tree, node, path in the tree). Raises: NotFound and its kin."""
        match = _PLACED.fullmatch(path)
        if match:
            table, inner = self.table(match[1]), match[2] or "/"
        else:
            table, inner = self.table(""), path
        name = inner.encode("utf-8", "surrogateescape")
        if not name.startswith(b"/"):
            name = b"/" + name
        try:
            return table, table.resolve(name, follow=follow), name
        except NotFound:
            self.warn()
            raise

    def table(self, device: str) -> MountTable:
        """The tree of one device, or, for "", the one that the arguments choose."""
        table = self.tables.get(device)
        if table is None:
            table = self.tables[device] = self._one(device) if device else self._chosen()
        return table

    def _one(self, device: str) -> MountTable:
        table = MountTable()
        fs, root = self.guest.root_of(device, self.options)
        table.mount(fs, root=root, source=device)
        return table

    def _chosen(self) -> MountTable:
        arguments = self._arguments
        if arguments.partition:
            return self._one(arguments.partition)
        if arguments.mount:
            from guestkit.tree import mount_points

            return mount_points(self.guest, [_mount_argument(text) for text in arguments.mount], self.options)
        from guestkit.inspect import inspect_guest, mount_os

        systems = inspect_guest(self.guest, self.options)
        if not systems:
            return self._everything()
        self.system = systems[0]
        if len(systems) > 1:
            roots = ", ".join(system.root.removeprefix("/dev/") for system in systems)
            complain(f"{self._image}: {len(systems)} systems ({roots}); this is the first, choose another with -p")
        table = MountTable()
        self._missing = mount_os(self.guest, self.system, table, options=self.options)
        if getattr(arguments, "recursive", False) or arguments.command in ("find", "tree"):
            self.warn()
        return table

    def warn(self) -> None:
        """Tell, once, which of the system's mount points are not filled: where a path may miss for it."""
        for warning in self._missing:
            complain(f"{self._image}: warning: {warning}")
        self._missing = []

    def _everything(self) -> MountTable:
        from guestkit.tree import Tree

        tree = Tree(self.guest, self.options)
        if len(tree.mounts) == 1:  # nothing but the made-up top
            raise InvalidArgument(nothing_to_show(self.guest, tree.warnings), where=self._image)
        for warning in tree.warnings:
            complain(f"{self._image}: warning: {warning}")
        return tree

    def problems(self) -> list[str]:
        """What was found damaged in the images and in the filesystems looked at, a line each."""
        found = []
        for disk in self.guest.disks:
            image = disk.image.problems() if disk.image is not None else ()
            found += [f"{disk.short}: {text}" for text in (*image, *(disk.table.problems if disk.table else ()))]
        for table in self.tables.values():
            found += [f"{problem.where}: {problem.message}" for problem in table.problems()]
            found += table.unclean()
        return list(dict.fromkeys(found))


def nothing_to_show(guest: Guest, reasons: list[str]) -> str:
    """Why a guest has no filesystem to look into. `reasons`: those of the filesystems that were recognised."""
    if reasons:
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        return f"holds no filesystem that can be shown: {'; '.join(reasons[:3])}{more}"
    if any(disk.partitions for disk in guest.disks) or any(kind != "unknown" for _, kind in guest.filesystems()):
        return "holds no filesystem that can be shown; `guestkit info` tells what is there"
    return "no partition table and no filesystem that guestkit knows: is it a disk image? (--format names the format)"


def _mount_argument(text: str) -> tuple[str, str, str]:
    """Split DEVICE[:MOUNTPOINT[:OPTIONS]]."""
    if text.startswith("btrfsvol:"):
        device, _, rest = text.removeprefix("btrfsvol:").partition(":")
        device = "btrfsvol:" + device
    else:
        device, _, rest = text.partition(":")
    point, _, options = rest.partition(":")
    return device, point or "/", options
