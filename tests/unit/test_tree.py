"""The tree that a mount shows, over the sample guest and small synthetic ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from memoryfs import MemoryFS, MemoryGuest, Part, Symlink

from guestkit.errors import GuestkitError, NotFound, WouldBlock
from guestkit.guest import open_guest
from guestkit.source import patience
from guestkit.tree import Tree, mount_points, mount_system, parse_options

ROOT = {"etc": {"os-release": b"ID=debian\n", "hostname": b"box\n", "fstab": b"", "hosts": b""}, "bin": {}, "usr": {}}


def _names(tree: Tree, path: bytes) -> list[bytes]:
    return [entry.name for entry in tree.scan(tree.resolve(path))]


def _read(tree: Tree, path: bytes) -> bytes:
    source = tree.open(tree.resolve(path))
    return source.read(0, source.size)


def test_the_sample_guest_has_every_room(sample_image: Path) -> None:
    with open_guest(sample_image) as guest:
        tree = Tree(guest)
        assert _names(tree, b"/") == [b"partitions", b"by-label", b"by-uuid", b"os", b"inspect", b"disks"]
        assert _names(tree, b"/disks") == [b"sda", b"sda1", b"sda2"]
        assert b"sda2" in _names(tree, b"/partitions")
        assert _read(tree, b"/os/etc/hostname") == _read(tree, b"/partitions/sda2/etc/hostname") == b"sample\n"
        assert _read(tree, b"/by-label/debian-root/etc/hostname") == b"sample\n"
        assert tree.resolve(b"/os/etc") != tree.resolve(b"/partitions/sda2/etc")
        assert tree.stat(tree.resolve(b"/disks/sda")).size == guest.disks[0].size
        assert tree.open(tree.resolve(b"/disks/sda2")).read(1080, 2) == b"\x53\xef"


def test_documents_are_json_and_sized_before_they_are_read(sample_image: Path) -> None:
    with open_guest(sample_image) as guest:
        tree = Tree(guest)
        for name in (b"os.json", b"disks.json", b"filesystems.json"):
            path = b"/inspect/" + name
            size = tree.stat(tree.resolve(path)).size
            text = _read(tree, path)
            assert len(text) == size > 2
            json.loads(text)


def test_listing_the_documents_makes_none(sample_image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tree, "_os_json", lambda self: pytest.fail("made by a listing"))
    with open_guest(sample_image) as guest:
        tree = Tree(guest)
        assert len(list(tree.scan_stat(tree.resolve(b"/inspect")))) == 3


def test_absolute_links_stay_in_their_filesystem_and_in_their_system() -> None:
    links = {**ROOT, "link": Symlink("/etc/hostname"), "climb": Symlink("../../../etc/hostname")}
    guest = MemoryGuest([Part(MemoryFS(links))])
    tree = Tree(guest)
    device = guest.filesystems()[0][0].removeprefix("/dev/").encode()
    for path in (b"/os/link", b"/os/climb", b"/partitions/" + device + b"/link"):
        assert _read(tree, path) == b"box\n"


def test_labels_that_are_no_names_become_some() -> None:
    parts = [Part(MemoryFS({"x": b""}), label=label) for label in ("a/b", "..", "two words", "a/b")]
    guest = MemoryGuest(parts)
    tree = Tree(guest)
    assert _names(tree, b"/by-label") == [b"a\\x2fb", b"\\x2e\\x2e", b"two\\x20words"]
    assert tree.resolve(b"/by-label/a\\x2fb/x") == tree.resolve(b"/partitions/sda1/x")


def test_points_are_mounted_root_first_whatever_their_order() -> None:
    guest = MemoryGuest([Part(MemoryFS({"home": {}, "r": b""})), Part(MemoryFS({"h": b""}))])
    first, second = (name for name, _ in guest.filesystems())
    table = mount_points(guest, [(second, "/home", ""), (first, "/", "ro")], {})
    assert table.resolve(b"/home/h") != table.resolve(b"/r")
    with pytest.raises(NotFound):
        mount_points(guest, [(first, "/", ""), (second, "/nowhere", "")], {})


def test_a_guest_without_a_system_has_none_to_mount() -> None:
    guest = MemoryGuest([Part(MemoryFS({"data": b""}))])
    with pytest.raises(NotFound, match="no operating system"):
        mount_system(guest, {})
    assert b"os" not in _names(Tree(guest), b"/")


def test_options_are_split_and_trimmed() -> None:
    assert parse_options("ro, subvol=@home,,noload") == {"ro": "", "subvol": "@home", "noload": ""}


def test_a_thread_that_may_not_wait_is_never_told_of_damage(
    sample_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have to be waited for goes through every layer as it is, and nothing made of it is kept."""
    with open_guest(sample_image) as guest:
        tree = Tree(guest)
        fs = guest.filesystem("/dev/sda2")
        real = fs.statvfs

        def statvfs() -> object:
            if not patience.may_block:
                raise WouldBlock
            return real()

        monkeypatch.setattr(fs, "statvfs", statvfs)
        patience.may_block = False
        try:
            with pytest.raises(WouldBlock):
                tree.stat(tree.lookup(tree.resolve(b"/inspect"), b"filesystems.json"))
        finally:
            patience.may_block = True
        (root,) = (
            each
            for each in json.loads(_read(tree, b"/inspect/filesystems.json"))["filesystems"]
            if each["type"] == "ext4"
        )
        assert "reason" not in root or not root["reason"]
        assert not guest.problems()
    assert not issubclass(WouldBlock, GuestkitError)
