"""Look: small, capped looks at a guest's files. Whatever is not there, or not what it should be, reads as None."""

from __future__ import annotations

import stat

from guestkit.errors import GuestkitError, LinkLoop, NotADirectory, NotFound
from guestkit.namespace import Namespace
from guestkit.source import Source

SMALL = 2 << 20  # bytes of a configuration file that are read; a larger one is refused
_SENTENCES = 20  # warnings kept


class Look:
    """Reads configuration below the root of `namespace`; `warnings` tells what was there and could not be read."""

    def __init__(self, namespace: Namespace, root: int | None = None) -> None:
        self.namespace = namespace
        self.root = root
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        if sentence not in self.warnings and len(self.warnings) < _SENTENCES:
            self.warnings.append(sentence)

    def node(self, path: bytes, *, follow: bool = True) -> int | None:
        """The node at an absolute path, or None."""
        try:
            return self.namespace.resolve(path, start=self.root, follow=follow)
        except (NotFound, NotADirectory, LinkLoop):
            return None
        except GuestkitError as error:
            self.warn(str(error))
            return None

    def mode(self, path: bytes, *, follow: bool = True) -> int:
        """st_mode at `path`, 0 when it is not there."""
        node = self.node(path, follow=follow)
        if node is None:
            return 0
        try:
            return self.namespace.stat(node).mode
        except GuestkitError as error:
            self.warn(f"{_text(path)}: {error}")
            return 0

    def is_file(self, path: bytes) -> bool:
        return stat.S_ISREG(self.mode(path))

    def is_dir(self, path: bytes) -> bool:
        return stat.S_ISDIR(self.mode(path))

    def link(self, path: bytes) -> bytes | None:
        """The target of a symbolic link, or None."""
        node = self.node(path, follow=False)
        if node is None:
            return None
        try:
            return self.namespace.readlink(node) if stat.S_ISLNK(self.namespace.stat(node).mode) else None
        except GuestkitError as error:
            self.warn(f"{_text(path)}: {error}")
            return None

    def open(self, path: bytes) -> Source | None:
        """The bytes of a regular file, or None."""
        node = self.node(path)
        if node is None:
            return None
        try:
            if stat.S_ISREG(self.namespace.stat(node).mode):
                return self.namespace.open(node)
        except GuestkitError as error:
            self.warn(f"{_text(path)}: {error}")
        return None

    def read(self, path: bytes, limit: int = SMALL) -> bytes | None:
        """A regular file's content; None when there is none or it is larger than `limit`."""
        source = self.open(path)
        if source is None:
            return None
        if source.size > limit:
            self.warn(f"{_text(path)}: larger than {limit >> 10} KiB, not read")
            return None
        try:
            return source.read(0, source.size)
        except GuestkitError as error:
            self.warn(f"{_text(path)}: {error}")
            return None

    def lines(self, path: bytes) -> list[str]:
        """The lines of a small text file, without their ends; what is not UTF-8 is replaced."""
        data = self.read(path)
        return [] if data is None else [line.rstrip("\r") for line in data.decode("utf-8", "replace").split("\n")]

    def names(self, directory: bytes, most: int) -> list[bytes]:
        """At most `most` names in a directory, sorted; [] when there is none."""
        node = self.node(directory)
        found: list[bytes] = []
        if node is None:
            return found
        try:
            for entry in self.namespace.scan(node):
                found.append(entry.name)
                if len(found) == most:
                    self.warn(f"{_text(directory)}: more than {most} names, the rest not read")
                    break
        except NotADirectory:
            return []
        except GuestkitError as error:
            self.warn(f"{_text(directory)}: {error}")
        return sorted(found)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")
