"""mount_os(): an operating system's root with its own fstab's filesystems in place."""

from __future__ import annotations

from collections.abc import Mapping

from guestkit.errors import GuestkitError
from guestkit.guest import Guest
from guestkit.inspect.system import FstabEntry, OperatingSystem
from guestkit.mountable import SELECTING
from guestkit.namespace import MountTable, node_of

_MOST_MOUNTS = 256


def filesystem_options(entry: FstabEntry, options: Mapping[str, str]) -> dict[str, str]:
    """`options` with those of an fstab line that choose what is shown."""
    chosen = dict(options)
    for option in entry.options:
        name, _, value = option.partition("=")
        if name in SELECTING:  # the others are for writers
            chosen[name] = value
    return chosen


def mount_os(
    guest: Guest,
    system: OperatingSystem,
    table: MountTable,
    at: int | None = None,
    path: bytes = b"",
    options: Mapping[str, str] | None = None,
) -> list[str]:
    """Mount the root of `system` at node `at` (None: as the root of all), whose path is `path`, then the rest.

    `options`: mount options for every filesystem. Returns a sentence for each mount point that could not be filled.
    Raises: as Guest.filesystem and MountTable.mount, for the root alone.
    """
    shared = options or {}
    entries = {entry.mountpoint: entry for entry in reversed(system.fstab)}
    top, key = guest.root_of(system.root, shared)  # as inspection saw it, whatever fstab says of "/"
    mount = table.mount(top, at, path, root=key, confine=at is not None, source=system.root)
    if system.drives:
        table.drives[mount.confine] = system.drives
    root = node_of(mount.index, mount.root)
    warnings = _not_found(system)
    mounted = 0
    for point in sorted(system.mountpoints, key=lambda point: (point.count("/"), point)):
        if point == "/":
            continue
        if mounted == _MOST_MOUNTS:
            warnings.append(f"more than {_MOST_MOUNTS} mount points, the rest left out")
            break
        mounted += 1
        device = system.mountpoints[point]
        name = point.encode("utf-8", "surrogateescape")
        try:
            fs, key = guest.root_of(device, filesystem_options(entries[point], shared))
            table.mount(fs, table.resolve(name, start=root), path + name, root=key, source=device)
        except GuestkitError as error:
            warnings.append(f"{device} is not mounted at {point}: {error}")
    return warnings


def _not_found(system: OperatingSystem) -> list[str]:
    missing = [
        entry
        for entry in system.fstab
        if not entry.device and entry.automatic and not entry.is_swap and entry.mountpoint not in ("/", "none")
    ]
    sentences = [f"{entry.mountpoint}: no disk holds {entry.spec}" for entry in missing[:10]]
    if len(missing) > 10:
        sentences.append(f"{len(missing) - 10} more mount points name devices that no disk holds")
    return sentences
