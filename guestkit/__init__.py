"""guestkit: look inside a virtual machine's disk images as an ordinary user, in pure Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guestkit.errors import (
    AccessRefused,
    BadKey,
    Busy,
    Corrupt,
    GuestkitError,
    InvalidArgument,
    IsADirectory,
    LinkLoop,
    NameTooLong,
    NeedKey,
    NoAttribute,
    NotADirectory,
    NotFound,
    ReadOnly,
    SourceError,
    Unsupported,
)

if TYPE_CHECKING:
    from guestkit.guest import Guest, open_guest
    from guestkit.guestfs import ClosedHandle, GuestFS, Guestfs, GuestfsError

__version__ = "0.1.0"

_LAZY = {
    "Guest": "guestkit.guest",
    "open_guest": "guestkit.guest",
    "Guestfs": "guestkit.guestfs",
    "GuestFS": "guestkit.guestfs",
    "GuestfsError": "guestkit.guestfs",
    "ClosedHandle": "guestkit.guestfs",
}

__all__ = [
    "AccessRefused",
    "BadKey",
    "Busy",
    "ClosedHandle",
    "Corrupt",
    "Guest",
    "GuestFS",
    "Guestfs",
    "GuestfsError",
    "GuestkitError",
    "InvalidArgument",
    "IsADirectory",
    "LinkLoop",
    "NameTooLong",
    "NeedKey",
    "NoAttribute",
    "NotADirectory",
    "NotFound",
    "ReadOnly",
    "SourceError",
    "Unsupported",
    "__version__",
    "open_guest",
]


def __getattr__(name: str) -> Any:
    """Import the readers when one is first asked for: `import guestkit` itself stays cheap."""
    from importlib import import_module

    module = _LAZY.get(name)
    if (module is None and name.startswith("EVENT_")) or name == "event_to_string":
        module = "guestkit.guestfs"
    if module is None:
        raise AttributeError(f"module 'guestkit' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
