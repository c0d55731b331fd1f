"""Extended attributes."""

from __future__ import annotations

from typing import Any

from guestkit.guestfs.call import Pathname, StringList, api
from guestkit.guestfs.handle import Handle


class Xattrs(Handle):
    @api(syscall="getxattr")
    def getxattr(self, path: Pathname, name: str) -> bytes:
        """One attribute's value, links followed. Raises: GuestfsError (ENODATA)."""
        return self._table.xattr(self._node(path), name.encode())

    @api(syscall="lgetxattr")
    def lgetxattr(self, path: Pathname, name: str) -> bytes:
        """One attribute's value, a final link not followed. Raises: GuestfsError (ENODATA)."""
        return self._table.xattr(self._node(path, follow=False), name.encode())

    @api(syscall="path")
    def getxattrs(self, path: Pathname) -> list[dict[str, Any]]:
        """All attributes (attrname, attrval), links followed. Raises: GuestfsError."""
        return self._attributes(self._node(path))

    @api(syscall="path")
    def lgetxattrs(self, path: Pathname) -> list[dict[str, Any]]:
        """All attributes (attrname, attrval), a final link not followed. Raises: GuestfsError."""
        return self._attributes(self._node(path, follow=False))

    @api("internal_lxattrlist", syscall="path")
    def lxattrlist(self, path: Pathname, names: StringList) -> list[dict[str, Any]]:
        """The attributes of names in a directory, in one list.

        Each name gives an entry with an empty attrname whose attrval is the count as text with a NUL, empty where
        the name cannot be asked; its attributes follow. Raises: GuestfsError.
        """
        directory = self._node(path)
        found: list[dict[str, Any]] = []
        for name in self._names(list(names)):
            try:
                attributes = self._attributes(self._child(directory, name))
            except OSError as error:  # libguestfs marks whatever cannot be asked
                self._say(f"lxattrlist: {path}: {name!r}: {error}")
                found.append({"attrname": "", "attrval": b""})
                continue
            found.append({"attrname": "", "attrval": b"%d\0" % len(attributes)})
            found.extend(attributes)
        return found

    def _attributes(self, node: int) -> list[dict[str, Any]]:
        table = self._table
        return [{"attrname": name.decode(), "attrval": table.xattr(node, name)} for name in table.xattr_names(node)]
