"""What the kernel may ask, answered from a Namespace; how it asks is the business of direct.py and plain.py.

A request that would have to wait raises WouldBlock in a thread that may not wait, and is then done again in a worker
thread, so that a slow read delays nobody else.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat as _stat
from collections.abc import Sequence
from typing import Any

from guestkit.errors import GuestkitError, InvalidArgument, NameTooLong, ReadOnly
from guestkit.fs.base import Stat, StatVfs
from guestkit.fuse import protocol
from guestkit.fuse.ahead import Ahead
from guestkit.fuse.device import opened
from guestkit.fuse.directory import Directory, EntryForm
from guestkit.fuse.lister import Lister
from guestkit.fuse.lister_process import start
from guestkit.fuse.nodes import TABLE, Nodes, met_in
from guestkit.fuse.options import MountOptions
from guestkit.namespace import KEY_BITS, Namespace
from guestkit.source import Source, patience

MOST_READ = 1 << 20  # bytes; what a client asks for at once
_LONGEST_TARGET = 4095  # bytes
_MOST_KEPT = 32  # files that need not be opened ...
_MOST_HELD = 32 << 20  # ... and bytes of what they know of themselves, about, unless one alone knows more
_ACCESS_MODES = os.O_WRONLY | os.O_RDWR


class Requests:
    """A Namespace behind the kernel's requests. Every method raises GuestkitError, WouldBlock, or a defect's error."""

    def __init__(
        self,
        namespace: Namespace,
        options: MountOptions,
        form: EntryForm,
        mount_point_timeout: float | None = None,
    ) -> None:
        """`form` encodes entries; `mount_point_timeout`: seconds for names of mount points, where they are special."""
        self.namespace = namespace
        self.nodes = Nodes(namespace.root)
        self.form = form
        self.has_xattrs = namespace.has_xattrs()
        self.lister = Lister(self.listing, namespace.scan_small)
        self.ahead = Ahead(self.lister, self.listing)
        self._options = options
        self.files: dict[int, Source] = {}
        self._kept: dict[int, Source] = {}  # by number, what was read last at the end
        self._raw_links = options.raw_links
        self._mount_point = {} if mount_point_timeout is None else {"timeout": mount_point_timeout}
        self._above: dict[int, int] = {}
        self._handles = itertools.count(1)
        self._logged: set[str] = set()

    def refusal(self, error: Exception, request: str) -> int:
        """The errno for `error`. What is no GuestkitError is a defect of guestkit's, and told once for each kind."""
        if isinstance(error, GuestkitError):
            return error.errno or errno.EIO
        kind = f"{request}: {type(error).__name__}"
        if kind not in self._logged and len(self._logged) <= 100:
            self._logged.add(kind)
            import logging

            log = logging.getLogger("guestkit.fuse")
            log.error("%s: %s (a defect of guestkit; the request got EIO)", kind, error)
            log.debug("where it happened", exc_info=error)
        return errno.EIO

    # names and attributes

    def entry(
        self, directory: int, node: int, status: Stat | None, kind: int, name: bytes = b"", cookie: int = 0
    ) -> tuple[int, Any]:
        """(number, encoded entry) of `node` as met in `directory`, under `name` where it is listed."""
        elsewhere = self._mount_point if node >> KEY_BITS != directory >> KEY_BITS else {}
        if status is None:
            number = self.nodes.number(node)
            return number, self.form.unknown(number, kind, name, cookie)
        if status.mode & 0o170000 != _stat.S_IFLNK or self._raw_links:
            number = self.nodes.number(node)
            return number, self.form.of(number, status, name, cookie, **elsewhere)
        changed = None
        try:
            target = self.namespace.readlink(node)
            changed = met_in(self.namespace, directory, target)
            shown = target if changed is None else changed
            if shown.startswith(b"/") and changed is None:
                shown = self.namespace.confined(node, target)
            status = status._replace(size=len(shown))
        except GuestkitError:  # readlink says so
            changed = None
        number = self.nodes.number(node, changed)
        return number, self.form.of(number, status, name, cookie)

    def lookup(self, number: int, name: bytes) -> tuple[int, int, Any]:
        """(node, number, encoded entry). Raises: NotFound."""
        directory = self.nodes.node(number)
        node = self.namespace.lookup(directory, name)
        found, entry = self.entry(directory, node, self.namespace.stat(node), 0)
        self.nodes.counted(found)
        return node, found, entry

    def getattr(self, number: int) -> Any:
        """The encoded entry of an inode that the kernel knows."""
        status = self.namespace.stat(self.nodes.node(number))
        if status.mode & 0o170000 == _stat.S_IFLNK and not self._raw_links:
            try:
                status = status._replace(size=len(self.readlink(number)))
            except GuestkitError:  # readlink says so
                pass
        return self.form.of(number, status)

    def readlink(self, number: int) -> bytes:
        """Raises: NameTooLong for what the mount's own path has made longer than the kernel takes."""
        target = self.nodes.target(number)
        if target is None:
            node = self.nodes.node(number)
            target = self.namespace.readlink(node)
            if target.startswith(b"/") and not self._raw_links:
                # the directory does not matter to an absolute target, only the mount, which the link's own node tells
                target = self.namespace.confined(node, target)
        if len(target) > _LONGEST_TARGET:
            raise NameTooLong
        return bytes(target)

    # files

    def open(self, number: int, flags: int) -> int:
        """A handle for files[], until release()."""
        if flags & _ACCESS_MODES:
            raise ReadOnly
        source = self.namespace.open(self.nodes.node(number))
        handle = next(self._handles)
        self.files[handle] = source
        self.ahead.opened(handle, source)
        return handle

    def file(self, number: int) -> Source:
        """The bytes of a file that need not be opened, kept until others are read; rested() follows."""
        source = self._kept.get(number)
        if source is None:
            source = self._kept[number] = self.namespace.open(self.nodes.node(number))
        return source

    def rested(self, number: int) -> None:
        """A file that need not be opened was read, and may know more of itself than before: others make room."""
        kept = self._kept
        source = kept.pop(number, None)
        if source is None:
            return
        kept[number] = source
        others = list(kept)[:-1] if len(kept) > _MOST_KEPT or source.held > _MOST_HELD // _MOST_KEPT else ()
        for other in others:  # what was not read for longest first
            if len(kept) <= _MOST_KEPT and sum([each.held for each in list(kept.values())]) <= _MOST_HELD:
                break
            kept.pop(other, None)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """At most `length` bytes; fewer only at the end of the file."""
        ahead = self.started(handle, offset, length)
        if ahead is not None:
            return ahead
        source = self.files[handle]
        length = min(length, source.size - offset)
        return source.read(offset, length) if length > 0 else b""

    def started(self, handle: int, offset: int, length: int) -> bytes | None:
        """What was read ahead of this read, if it is all that the read wants."""
        if offset:
            return None
        ahead = self.ahead.content(handle)
        if ahead is not None and (len(ahead) >= length or len(ahead) == self.files[handle].size):
            return ahead if len(ahead) <= length else ahead[:length]
        return None

    def release(self, handle: int) -> None:
        self.files.pop(handle, None)
        self.ahead.closed(handle)

    # directories

    def listing(self, node: int, cookie: int) -> Directory:
        """A Directory that goes on behind `cookie`."""
        return Directory(self.namespace, node, cookie, self.entry, self.form, self._above)

    def start_lister(self) -> None:
        """Have another process list ahead, where that can be. The namespace's mounts must stay as they are."""

        def lister() -> Lister:
            patience.may_block = True
            return Requests(self.namespace, self._options, protocol.Entries(self._options)).lister

        self.ahead.share(start(lister, self.namespace.damaged, opened))

    def close(self) -> None:
        """End what was started."""
        self.ahead.close()

    # the filesystem

    def statfs(self, node: int) -> StatVfs:
        return self.namespace.statvfs(node)

    def getxattr(self, number: int, name: bytes) -> bytes:
        if not self.has_xattrs:
            raise GuestkitError("nothing here has extended attributes", number=errno.ENOSYS)  # the kernel asks no more
        return bytes(self.namespace.xattr(self.nodes.node(number), name))

    def listxattr(self, number: int) -> Sequence[bytes]:
        if not self.has_xattrs:
            raise GuestkitError("nothing here has extended attributes", number=errno.ENOSYS)
        return [name for name in self.namespace.xattr_names(self.nodes.node(number)) if name and b"\0" not in name]

    def forget(self, number: int, count: int) -> None:
        if number >= TABLE:
            self.nodes.forget(number, count)


def sought(source: Source, offset: int, whence: int) -> int:
    """Where the next data (SEEK_DATA) or hole (SEEK_HOLE) begins. Raises: ENXIO beyond the end, EINVAL."""
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise InvalidArgument("whence")
    if offset >= source.size:
        raise GuestkitError("beyond the end", number=errno.ENXIO)
    for extent in source.extents(offset, source.size - offset):
        if (extent.source is None) == (whence == os.SEEK_HOLE):
            return extent.offset
    if whence == os.SEEK_HOLE:  # there is one behind every file
        return source.size
    raise GuestkitError("no data behind", number=errno.ENXIO)
