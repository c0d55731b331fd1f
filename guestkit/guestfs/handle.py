"""Handle: what every category of the Guestfs class stands on: state, the mounted tree, nodes by path, events."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

from guestkit.errors import NotFound
from guestkit.fs.base import Stat
from guestkit.guestfs import events
from guestkit.guestfs.call import CLOSED, CONFIG, to_stderr
from guestkit.guestfs.errors import READ_ONLY, Failure
from guestkit.namespace import MAX_NAME, MountTable
from guestkit.source import Source

if TYPE_CHECKING:
    from guestkit.guest import Device, Disk, Guest
    from guestkit.inspect import OperatingSystem
    from guestkit.synthetic import SyntheticFS

_MOST_IN_MEMORY = 1 << 31  # bytes of one result, as libguestfs has it


class Handle:
    """State and helpers without names of the API. `_state` is CONFIG, READY or CLOSED."""

    _dictionaries = False

    def __init__(self) -> None:
        self._lock = RLock()
        self._state = CONFIG
        self._guest: Guest | None = None
        self._table = MountTable()
        self._base: SyntheticFS | None = None  # gives mkmountpoint's directories while nothing is mounted on /
        self._systems: list[OperatingSystem] | None = None
        self._settings: dict[str, Any] = {}
        self._callbacks: dict[int, tuple[events.Callback, int]] = {}
        self._next_callback = 0
        self._trace = False
        self._verbose = False
        self._observed = False  # whether calls must be told to anybody
        self._cancelled = False

    # results

    def _hashtable(self, pairs: Any) -> Any:
        if isinstance(pairs, dict):
            pairs = list(pairs.items())
        return dict(pairs) if self._dictionaries else pairs

    # devices

    def _opened(self) -> Guest:
        assert self._guest is not None
        return self._guest

    def _device(self, name: str) -> Device:
        """Find a device that a parameter names."""
        if not name.startswith("/dev/"):
            raise Failure(f"{name}: expecting a device name", errno.EINVAL, stub=True)
        try:
            return self._opened().device(name)
        except NotFound:
            raise Failure(f"{name}: No such file or directory", errno.ENOENT, stub=True) from None

    def _disk(self, name: str) -> Disk:
        """Find a whole disk."""
        device = self._device(name)
        for disk in self._opened().disks:
            if disk is device:
                return disk
        raise Failure(f"{name}: not a whole disk", errno.EINVAL)

    def _source(self, device: Device) -> Source:
        return device.open(self._opened()._keys)

    def _mountable(self, name: str) -> tuple[Device, str | None]:
        """(device, subvolume or None) of a mountable."""
        rest = name.removeprefix("btrfsvol:")
        if rest == name:
            if not name.startswith("/dev/"):
                raise Failure(f"{name}: No such file or directory", errno.ENOENT, stub=True)
            return self._device(name), None
        if not rest.startswith("/dev/"):
            raise Failure(f"{name}: expecting a btrfs volume", errno.EINVAL, stub=True)
        prefix = rest
        while prefix.count("/") > 2:
            prefix = prefix.rpartition("/")[0]
            try:
                return self._opened().device(prefix), rest[len(prefix) + 1 :]
            except NotFound:
                continue
        raise Failure(f"{name}: expecting a btrfs volume", errno.EINVAL, stub=True)

    # paths

    def _need_root(self, path: str) -> bytes:
        if not path.startswith("/"):
            raise Failure("path must start with a / character", errno.EINVAL, stub=True)
        if not self._table.mounts or (self._base is not None and len(self._table.mounts) == 1):
            raise Failure("you must call 'mount' first to mount the root filesystem", errno.EINVAL, stub=True)
        return path.encode()

    def _node(self, path: str, *, follow: bool = True) -> int:
        return self._table.resolve(self._need_root(path), follow=follow)

    def _stat(self, path: str, *, follow: bool = True) -> Stat:
        table = self._table
        return table.stat(table.resolve(self._need_root(path), follow=follow))

    def _open(self, path: str) -> Source:
        table = self._table
        return table.open(table.resolve(self._need_root(path)))

    def _read(self, path: str) -> bytes:
        """A whole file."""
        table = self._table
        source = table.open(table.resolve(self._need_root(path)))
        size = source.size
        if size > _MOST_IN_MEMORY:
            raise Failure(f"{path}: file is too large to be returned; use download", errno.EFBIG)
        return source.read(0, size)

    def _dev_or_path(self, name: str) -> Source:
        """The bytes of a device, or of a file of the guest."""
        return self._source(self._device(name)) if name.startswith("/dev/") else self._open(name)

    def _names(self, names: Sequence[str]) -> list[bytes]:
        """Check the names of a filename list."""
        for name in names:
            if "/" in name:
                raise Failure(f"'{name}' is not a file name", errno.EINVAL, stub=True)
        return [name.encode() for name in names]

    def _child(self, directory: int, name: bytes) -> int:
        """The node of a name that a caller gave, which may be anything without a slash."""
        if name == b".":
            return directory
        if name == b"..":
            return self._table.parent(directory)
        if not name or len(name) > 4 * MAX_NAME:
            raise NotFound
        return self._table.lookup(directory, name)

    def _read_only(self, path: str = "") -> Failure:
        """The failure of every function that would change the guest."""
        if path:
            self._need_root(path)
        return Failure(f"{path}: {READ_ONLY}" if path else READ_ONLY, errno.EROFS)

    # events

    def _event(self, event: int, text: bytes = b"", numbers: Sequence[int] = ()) -> None:
        """Call who asked for `event`; without anybody, trace and library messages go to stderr as asked for."""
        heard = False
        for number, (callback, mask) in list(self._callbacks.items()):
            if mask & event:
                heard = True
                try:
                    callback(event, number, text, list(numbers))
                except Exception:  # libguestfs prints it and goes on: a callback cannot fail the call
                    traceback.print_exc()
        if heard:
            return
        if event == events.EVENT_TRACE:
            to_stderr("trace: " + text.decode("utf-8", "replace"))
        elif (event == events.EVENT_LIBRARY and self._verbose) or event == events.EVENT_WARNING:
            to_stderr(text.decode("utf-8", "replace").rstrip("\n"))

    def _say(self, text: str) -> None:
        """Tell a message of the library, when anybody listens."""
        if self._verbose or self._callbacks:
            self._event(events.EVENT_LIBRARY, text.encode("utf-8", "surrogateescape"))

    def _watch(self) -> None:
        """Note whether calls must be told to anybody; otherwise the frame skips it."""
        calls = events.EVENT_ENTER | events.EVENT_TRACE
        self._observed = self._trace or any(mask & calls for _, mask in self._callbacks.values())

    def _closed(self) -> bool:
        return self._state == CLOSED
