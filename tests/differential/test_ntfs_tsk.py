"""NTFS images as The Sleuth Kit reads them: every name with its record, named streams, and files' bytes."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest
from kept import Kept

from guestkit.errors import Unsupported
from guestkit.fs.ntfs import Ntfs
from guestkit.fs.ntfs import open as open_ntfs
from guestkit.limits import Limits
from guestkit.source import BytesSource

KEPT = Kept("ntfs")
# what it does not read: damaged boot sectors and tables, large clusters, CompactOS
NOT_READ = {"ntfs-backup-boot", "ntfs-cluster-256k", "ntfs-mirror", "ntfs-wof"}
NOT_LISTED = b"sparse-larger-than-volume"
_SYSTEM = 24  # records below it are the volume's own
_MOST_FILES = 60  # of an image whose bytes are compared
# "r/r 101-128-2:\tname"; "* " stands before the record of a deleted one
_LINE = re.compile(rb"./. (\* )?(\d+)-(\d+)-(\d+)(?:\(realloc\))?:\t(.*)", re.DOTALL)

pytestmark = pytest.mark.tool("fls", "icat")


def output(*command: str | Path) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def sleuthed(image: Path) -> dict[bytes, tuple[int, bytes]]:
    """By path, or path:stream: the record, and what icat takes."""
    found = {}
    for line in output("fls", "-r", "-p", "-f", "ntfs", image).split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None or match[1]:
            continue
        _, record, attribute, number, path = match.groups()
        if path.startswith((b"$Extend", b"$OrphanFiles")) or int(record) < _SYSTEM:
            continue
        if not path.split(b":")[0].endswith(b"/.") and path != b".":
            found[path] = int(record), b"-".join((record, attribute, number))
    return found


def shown(name: bytes) -> bytes:
    """As fls prints it: control characters replaced."""
    return re.sub(rb"[\x00-\x1f\x7f]", b"^", name)


@pytest.mark.parametrize("name", [name for name in KEPT.having("tree") if name not in NOT_READ])
def test_names_streams_and_bytes(name: str, tmp_path: Path) -> None:
    image = KEPT.image(name, tmp_path)
    fs: Ntfs = open_ntfs([BytesSource(image.read_bytes())], Limits(decode_threads=0), {})
    theirs = sleuthed(image)
    ours: dict[bytes, tuple[int, bytes]] = {}
    for path, ino, status in fs.walk():
        assert status is not None
        if path == NOT_LISTED:
            continue
        ours[shown(path)] = ino, b""
        for stream, _ in fs.streams(ino):
            ours[shown(path + b":" + stream)] = ino, stream
    assert {path: ino for path, (ino, _) in ours.items()} == {path: ino for path, (ino, _) in theirs.items()}
    files = [each for each in sorted(ours.items()) if each[1][1] or stat.S_ISREG(fs.stat(each[1][0]).mode)]
    for path, (ino, stream) in files[:_MOST_FILES]:
        try:
            file = fs.open(ino, stream)
        except Unsupported:  # reparse points, whose data is none of the file's
            continue
        assert file.read(0, file.size) == output("icat", "-f", "ntfs", image, theirs[path][1].decode()), path
