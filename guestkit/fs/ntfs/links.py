"""Links: the target of a symbolic link, junction or mount point, in the case that the volume has.

Windows finds names in any case; where a link leads into its own volume, its target is written as the names are
stored, as ntfs-3g does, so that it can be followed. What is not found is left as it stands.
"""

from __future__ import annotations

from guestkit.errors import Corrupt, NotADirectory, NotFound, Unsupported
from guestkit.fs.base import Link
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs import reparse
from guestkit.fs.ntfs.directory import ROOT, Directories
from guestkit.fs.ntfs.index import FILE_NAME_KEY
from guestkit.fs.ntfs.inode import Inode, Inodes
from guestkit.fs.ntfs.names import to_utf8
from guestkit.fs.ntfs.volume import Volume

INTERIX_LINK, INTERIX_CHR, INTERIX_BLK = b"IntxLNK\1", b"IntxCHR\0", b"IntxBLK\0"
MOST_INTERIX = 8 + 2 * 4096
_MOST_PARTS = 256  # components whose case is looked up


def interix_target(data: bytes | bytearray) -> bytes:
    """The target that Interix keeps in a link's data."""
    return to_utf8(data[8 : len(data) & ~1]).split(b"\0", 1)[0]


class Links:
    """Reads the links of one volume."""

    def __init__(self, volume: Volume, inodes: Inodes, directories: Directories) -> None:
        self._volume = volume
        self._inodes = inodes
        self._directories = directories

    def read(self, inode: Inode, point: reparse.Reparse | None) -> Link:
        """The target of a link; `point` is None for Interix's, which are in the file's data. Raises: Corrupt."""
        key = (self._volume.token, "l", inode.number)
        known: Link | None = self._volume.cache.get(key)
        if known is None:
            try:
                known = self._interix(inode) if point is None else self._reparsed(inode, point)
            except Corrupt as error:
                error.within(inode.where)
                raise
            self._volume.cache.put(key, known, 300 + len(known.target))
        return known

    def _interix(self, inode: Inode) -> Link:
        return Link("posix", interix_target(inode.value(r.DATA, MOST_INTERIX) or b""))

    def _reparsed(self, inode: Inode, point: reparse.Reparse) -> Link:
        kind, path = reparse.parse_target(point)
        if kind == "posix":
            return Link("posix", path)
        if kind == "relative":
            return Link("ntfs-relative", self._cased(self._parent(inode), path)[0])
        if kind == "rooted":
            return Link("ntfs-rooted", b"/" + self._cased(ROOT, path.lstrip(b"/"))[0])
        head, _, rest = path.partition(b"/")
        name = "ntfs-elsewhere"
        if head[1:] == b":":
            head = head.upper()
            rest, found = self._cased(ROOT, rest)
            if found:
                name = "ntfs-junction" if point.tag == reparse.MOUNT_POINT else "ntfs-symlink"
        return Link(name, head + b"/" + rest)

    @staticmethod
    def _parent(inode: Inode) -> int:
        for piece in inode.heads(r.FILE_NAME):
            if piece.value is not None and len(piece.value) >= FILE_NAME_KEY:
                return int.from_bytes(piece.value[:8], "little") & r.REFERENCE
        raise Corrupt("link", "$FILE_NAME", expected="one")

    def _cased(self, directory: int, path: bytes) -> tuple[bytes, bool]:
        """`path` from `directory` with its names as they are stored, as far as they are there, and whether all are.

        What stands behind another link is not looked for.
        """
        parts = path.split(b"/")
        whole = len(parts) <= _MOST_PARTS
        for at, part in enumerate(parts[:_MOST_PARTS]):
            if part in (b"", b"."):
                continue
            try:
                if part == b"..":
                    directory = self._directories.parent(directory)
                    continue
                if at and self._inodes.read(directory).head(r.REPARSE_POINT) is not None:
                    break
                found = self._directories.cased(directory, part)
            except (Corrupt, NotADirectory, NotFound, Unsupported):
                found = None
            if found is None:
                whole = False
                break
            parts[at], reference = found
            directory = reference & r.REFERENCE
        return b"/".join(parts), whole
