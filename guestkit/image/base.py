"""Image: what every disk image format gives: the guest's disk as a Source, and facts about the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guestkit.source import Source


class Snapshot(NamedTuple):
    """An internal snapshot."""

    id: str
    name: str
    size: int  # bytes of the disk as it was
    time_ns: int  # when it was taken


class Image(Source):
    """The guest's disk. An opener is `open(source, files, limits) -> Image`; see registry.Format."""

    format: str = "raw"  # qemu-img's name

    def info(self) -> dict[str, object]:
        """Facts for a person, JSON-ready: cluster size, backing file, flags. Keys are qemu-img's where it has them."""
        return {}

    def snapshots(self) -> Sequence[Snapshot]:
        """The internal snapshots, in the order of the file."""
        return ()

    def snapshot(self, name: str) -> Source:
        """The disk as an internal snapshot holds it, by id or name. Raises: NotFound."""
        from guestkit.errors import NotFound

        raise NotFound(f"no snapshot {name!r}: {self.format} images hold none")

    def problems(self) -> Sequence[str]:
        """What was found odd and read nevertheless (dirty, corrupt bit), a sentence each."""
        return ()
