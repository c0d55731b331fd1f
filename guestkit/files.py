"""Files: the doors through which an image that names other files reaches them, and the policy at each.

HostFiles opens regular files below the directory of the image that the user named, or below a directory that
the user allowed; GuestFiles opens files of the guest in which an image lies, and never one of the host.
Names are qemu's: a path relative to the directory of the file that names it, `file:` before a path, or `json:`
with the file driver. What names a protocol is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from guestkit.errors import AccessRefused, Corrupt, GuestkitError, InvalidArgument, LinkLoop, NotFound, Unsupported
from guestkit.source import Files, FileSource, NoFiles, Source, host_error

MAX_CHAIN = 64  # image files, the first included
MAX_NAME = 4096  # bytes
_MAX_LINKS = 40

OpenImage = Callable[[Source, Files, "str | None"], Source]

# what a json: name may say besides driver and filename: how to read, never what
_HARMLESS = frozenset(
    ("aio", "auto-read-only", "cache.direct", "cache.no-flush", "detect-zeroes", "discard", "locking", "node-name")
    + ("read-only",)
)


class HostFiles:
    """Opens host files for the image in `directory`; see the module for the policy."""

    def __init__(
        self,
        directory: str,
        allowed: Sequence[str],
        open_image: OpenImage,
        on_open: Callable[[FileSource], None],
        depth: int = 0,
        *,
        seen: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        """`directory` holds the naming image; files below it, and below those in `allowed`, may be opened.

        `open_image(source, files, format)` makes an image of an opened file; None: guess its format.
        `on_open` receives each opened file, to close it. `depth` counts the files from the first to the naming
        one, and `seen` is their identities.
        """
        self.directory = os.path.realpath(directory)
        self.roots = tuple(dict.fromkeys((self.directory, *(os.path.realpath(path) for path in allowed))))
        self._open_image = open_image
        self._on_open = on_open
        self._depth = depth
        self._seen = seen

    def open(self, name: str, format: str | None = None) -> Source:
        """Open the image `name` as `format`; None: guessed, and it may then name no further file.

        Raises: NotFound, AccessRefused (the policy), Unsupported (a URL, a long chain), Corrupt, SourceError.
        """
        path, format = plain_name(name, format)
        if self._depth + 2 > MAX_CHAIN:
            raise Unsupported(f"a chain of more than {MAX_CHAIN} image files")
        place, parent = self._locate(path)
        leaf, identity = self._open_file(place)
        self._on_open(leaf)
        if format == "raw":
            return leaf
        if identity in self._seen:
            raise Corrupt("chain of image files", "a file is its own ancestor", where=name)
        files: Files
        if format is None:
            files = NoFiles()
        else:
            seen = self._seen | {identity}
            files = HostFiles(parent, self.roots, self._open_image, self._on_open, self._depth + 1, seen=seen)
        try:
            return self._open_image(leaf, files, format)
        except GuestkitError as error:
            leaf.close()
            error.within(name)
            raise

    def _locate(self, path: str) -> tuple[str, str]:
        """Follow `path` to a place below one of the roots; (place, directory of the name), without links in either.

        Nothing outside is looked at, not even to see whether it is there: a look can mount a network filesystem.
        """
        current = "/" if path.startswith("/") else self.directory
        pending = path.split("/")[::-1]
        if not pending[0] or pending[0] in (".", ".."):
            raise AccessRefused("the name of a directory", where=path)
        named = ""  # the directory of the name, found when its last component is reached
        links = 0
        while pending:
            part = pending.pop()
            if not pending and not named:
                named = current
            if part in ("", "."):
                continue
            if part == "..":
                current = os.path.dirname(current)
                continue
            step = f"{current.rstrip('/')}/{part}"
            if any(_is_below(root, step) for root in self.roots):  # on the way to a root: known to hold no link
                current = step
                continue
            if not any(_is_below(step, root) for root in self.roots):
                raise AccessRefused("outside the directory of the image and of those that were allowed", where=path)
            try:
                target = os.readlink(step) if stat.S_ISLNK(os.lstat(step).st_mode) else None
            except OSError as error:
                raise host_error(error, step) from None
            if target is None:
                current = step
                continue
            links += 1
            if links > _MAX_LINKS:
                raise LinkLoop(where=path)
            if target.startswith("/"):
                current = "/"
            pending.extend(target.split("/")[::-1])
        if any(_is_below(root, current) for root in self.roots):
            raise AccessRefused("a directory", where=path)
        return current, named

    def _open_file(self, place: str) -> tuple[FileSource, tuple[int, int]]:
        """Open the regular file at `place`, which holds no link, and make sure that no link was put there since."""
        root = max((root for root in self.roots if _is_below(place, root)), key=len)
        parts = place[len(root.rstrip("/")) + 1 :].split("/")
        fd = -1
        directory = -1
        try:
            directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in parts[:-1]:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(part, flags, dir_fd=directory)
                os.close(directory)
                directory = below
            # looked at before it is opened: to open a device or a FIFO can do things
            before = os.stat(parts[-1], dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):
                raise AccessRefused("not a regular file", where=place)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            fd = os.open(parts[-1], flags, dir_fd=directory)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise AccessRefused("not a regular file", where=place)
            leaf = FileSource(fd, place)
            fd = -1
            return leaf, (status.st_dev, status.st_ino)
        except GuestkitError:
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise AccessRefused("changed while it was opened", where=place) from None
            raise host_error(error, place) from None
        finally:
            for each in (fd, directory):
                if each >= 0:
                    os.close(each)


class _HasMode(Protocol):
    @property
    def mode(self) -> int: ...


class GuestNames(Protocol):
    """What GuestFiles needs of a Namespace."""

    def resolve(self, path: bytes, *, start: int | None = None) -> int: ...
    def stat(self, node: int) -> _HasMode: ...
    def open(self, node: int) -> Source: ...


class GuestFiles:
    """Opens files of a guest for an image that lies in it; the host is out of reach."""

    def __init__(
        self,
        namespace: GuestNames,
        directory: int,
        open_image: OpenImage,
        depth: int = 0,
        *,
        seen: frozenset[int] = frozenset(),
    ) -> None:
        """`directory`: the node that holds the naming image. `open_image`, `depth`, `seen`: as in HostFiles."""
        self._namespace = namespace
        self._directory = directory
        self._open_image = open_image
        self._depth = depth
        self._seen = seen

    def open(self, name: str, format: str | None = None) -> Source:
        """As HostFiles.open, but every regular file of the guest may be opened."""
        path, format = plain_name(name, format)
        if self._depth + 2 > MAX_CHAIN:
            raise Unsupported(f"a chain of more than {MAX_CHAIN} image files")
        namespace = self._namespace
        head, _, last = os.fsencode(path).rpartition(b"/")
        if path.startswith("/"):
            head = head or b"/"
        directory = namespace.resolve(head, start=self._directory) if head else self._directory
        node = namespace.resolve(last, start=directory)
        if not stat.S_ISREG(namespace.stat(node).mode):
            raise AccessRefused("not a regular file", where=name)
        source = namespace.open(node)
        if format == "raw":
            return source
        if node in self._seen:
            raise Corrupt("chain of image files", "a file is its own ancestor", where=name)
        files: Files = NoFiles()
        if format is not None:
            seen = self._seen | {node}
            files = GuestFiles(namespace, directory, self._open_image, self._depth + 1, seen=seen)
        try:
            return self._open_image(source, files, format)
        except GuestkitError as error:
            error.within(name)
            raise


def plain_name(name: str, format: str | None) -> tuple[str, str | None]:
    """The path that an image's name for a file means, and the format: the one that is stated, else what json: says.

    Raises: Unsupported for a protocol other than file; InvalidArgument for what can be no path.
    """
    if len(name) > MAX_NAME:
        raise InvalidArgument(f"a file name of {len(name)} characters")
    if name.startswith("json:"):
        options = _json_options(name[5:])
        driver = options.pop("driver", None)
        file_driver = options.pop("file.driver", "file")
        keys = ("file.filename", "filename") if driver == "file" else ("file.filename",)
        names = [options.pop(key) for key in keys if key in options]
        unknown = [key for key in options if key.removeprefix("file.") not in _HARMLESS]
        if unknown:
            raise Unsupported(f"json: with {unknown[0]!r}")
        if file_driver != "file":
            raise Unsupported(f"json: with the driver {file_driver!r}")
        if len(names) != 1 or not isinstance(names[0], str) or not isinstance(driver, str | None):
            raise Unsupported("json: without a driver and one file name")
        if driver == "file":
            driver = "raw"
        name, format = names[0], format or driver
    elif name.startswith("file:"):
        name = name[5:]
    elif ":" in name.partition("/")[0]:
        raise Unsupported(f"a file named by the protocol {name.partition(':')[0]!r}")
    if not name:
        raise NotFound("an empty file name")
    if "\0" in name:
        raise InvalidArgument("a file name with a NUL")
    try:
        os.fsencode(name)
    except UnicodeError:
        raise InvalidArgument("a file name that is no text") from None
    return name, format or None


def _json_options(text: str) -> dict[str, Any]:
    """The options of a json: name, nested ones as "file.filename". Raises: Unsupported."""
    import json

    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        raise Unsupported("a json: name that is no JSON") from None
    flat: dict[str, Any] = {}
    pending: list[tuple[str, object]] = [("", options)]
    while pending:
        prefix, value = pending.pop()
        if isinstance(value, dict):
            pending.extend((f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items())
        elif not prefix or prefix in flat:
            raise Unsupported("a json: name that is no set of options")
        else:
            flat[prefix] = value
    return flat


def _is_below(path: str, root: str) -> bool:
    """Whether absolute `path` is `root` or below it; neither holds links or dots."""
    return path == root or path.startswith(root if root == "/" else root + "/")
