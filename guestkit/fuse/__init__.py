"""FUSE: any Namespace as a mount. Importing this package imports neither pyfuse3 nor trio; serve() does."""

from __future__ import annotations

from guestkit.fuse.mount import serve, stop
from guestkit.fuse.options import MountOptions

__all__ = ["MountOptions", "serve", "stop"]
