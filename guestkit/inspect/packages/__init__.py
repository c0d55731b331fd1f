"""Installed packages. dpkg is read; the other formats are named by inspection and give an empty list."""

from __future__ import annotations

from guestkit.inspect.look import Look
from guestkit.inspect.packages.dpkg import read_dpkg
from guestkit.inspect.system import Application, OperatingSystem
from guestkit.namespace import Namespace


def list_applications(
    namespace: Namespace,
    system: OperatingSystem,
    root: int | None = None,
    warnings: list[str] | None = None,
) -> list[Application]:
    """The installed packages of `system`, whose root is mounted at node `root` (None: the namespace's root).

    Sentences about what could not be read are added to `warnings`.
    """
    if system.package_format != "deb":
        return []
    look = Look(namespace, root)
    found = read_dpkg(look)
    if warnings is not None:
        warnings.extend(look.warnings)
    return found
