"""dpkg's database: /var/lib/dpkg/status, and the /var/lib/dpkg/status.d of distroless images.

Spec: deb-control(5), dpkg(1) "Package states", deb-version(7). Read in pieces, line by line; what is kept of a
package is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guestkit.errors import GuestkitError
from guestkit.inspect.look import Look
from guestkit.inspect.system import Application
from guestkit.source import Source

_MOST_BYTES = 64 << 20
_MOST_PACKAGES = 100_000
_MOST_TEXT = 32 << 20  # characters kept in all
_PIECE = 1 << 20
_LINE = 64 << 10  # a longer line is cut
_DESCRIPTION = 16 << 10  # characters

_FIELDS = frozenset(
    (
        "package",
        "status",
        "version",
        "architecture",
        "maintainer",
        "homepage",
        "source",
        "description",
        "section",
    )
)


def read_dpkg(look: Look) -> list[Application]:
    """The packages that are installed, in the database's order."""
    found: list[Application] = []
    text = 0
    for source in _databases(look):
        for application in parse_status(_lines(source, look)):
            text += sum(len(value) for value in application if isinstance(value, str))
            if text > _MOST_TEXT or len(found) == _MOST_PACKAGES:
                look.warn(f"dpkg's database: only the first {len(found)} packages are read")
                return found
            found.append(application)
    return found


def _databases(look: Look) -> Iterator[Source]:
    total = 0
    paths = [b"/var/lib/dpkg/status"]
    for name in look.names(b"/var/lib/dpkg/status.d", 10_000):
        if not name.endswith(b".md5sums"):
            paths.append(b"/var/lib/dpkg/status.d/" + name)
    for path in paths:
        source = look.open(path)
        if source is None:
            continue
        total += source.size
        if total > _MOST_BYTES:
            look.warn(f"{path.decode('utf-8', 'replace')}: larger than {_MOST_BYTES >> 20} MiB, not read")
            return
        yield source


def _lines(source: Source, look: Look) -> Iterator[str]:
    rest = b""
    offset = 0
    while offset < source.size:
        try:
            piece = source.read(offset, min(_PIECE, source.size - offset))
        except GuestkitError as error:
            look.warn(f"dpkg's database: {error}")
            return
        offset += len(piece)
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()[:_LINE]
        for line in lines:
            yield line[:_LINE].decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def parse_status(lines: Iterable[str]) -> Iterator[Application]:
    """Yield the installed packages of a status file; one that states no status is installed."""
    record: dict[str, str] = {}
    more: list[str] = []
    kept = 0
    key = ""
    for line in lines:
        if line.startswith((" ", "\t")):
            if key == "description" and kept < _DESCRIPTION:
                text = line[1:].rstrip()
                more.append("" if text == "." else text)
                kept += len(text) + 1
            continue
        if not line.strip():
            if (application := _application(record, more)) is not None:
                yield application
            record, more, kept, key = {}, [], 0, ""
            continue
        name, colon, value = line.partition(":")
        key = name.lower() if colon else ""
        if key in _FIELDS:
            record[key] = value.strip()
    if (application := _application(record, more)) is not None:
        yield application


def _application(record: dict[str, str], more: list[str]) -> Application | None:
    name, version = record.get("package", ""), record.get("version", "")
    status = record.get("status", "install ok installed").split()
    if not name or not version or len(status) != 3 or status[2] != "installed":
        return None
    epoch, version, release = split_version(version)
    return Application(
        name=name,
        version=version,
        release=release,
        epoch=epoch,
        arch=record.get("architecture", ""),
        publisher=record.get("maintainer", ""),
        url=record.get("homepage", ""),
        source_package=record.get("source", "").partition(" ")[0],
        summary=record.get("description", ""),
        description="\n".join(more),
        section=record.get("section", ""),
    )


def split_version(text: str) -> tuple[int, str, str]:
    """Split "1:2.3-4" into (1, "2.3", "4"); a native version has no release."""
    epoch = 0
    head, colon, tail = text.partition(":")
    if colon and head.isascii() and head.isdigit() and len(head) <= 9:
        epoch, text = int(head), tail
    version, hyphen, release = text.rpartition("-")
    return (epoch, version, release) if hyphen else (epoch, text, "")
