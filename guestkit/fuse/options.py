"""MountOptions: what a user may ask of a mount, and libfuse's spelling of it."""

from __future__ import annotations

from typing import NamedTuple


class MountOptions(NamedTuple):
    """`umask` replaces every permission bit, as libfuse has it; `raw_links` shows targets as the guest has them."""

    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    allow_other: bool = False
    default_permissions: bool = False
    raw_links: bool = False
    nonempty: bool = False
    noexec: bool = False
    fsname: str = "guestkit"

    def for_libfuse(self) -> set[str]:
        """The options that libfuse knows."""
        name = self.fsname.encode("ascii", "backslashreplace").decode() or "guestkit"
        for special in ("\\", ","):
            name = name.replace(special, "\\" + special)
        given = {"ro", "nosuid", "nodev", "subtype=guestkit", f"fsname={name}"}
        if self.allow_other:
            given.add("allow_other")
        if self.noexec:
            given.add("noexec")
        if self.default_permissions:
            given.add("default_permissions")
        return given
