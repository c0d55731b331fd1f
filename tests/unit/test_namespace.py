"""Mounts, nodes and path resolution, over small synthetic filesystems."""

from __future__ import annotations

import errno

import pytest

from guestkit.errors import (
    Busy,
    Corrupt,
    GuestkitError,
    InvalidArgument,
    LinkLoop,
    NameTooLong,
    NotADirectory,
    NotFound,
)
from guestkit.namespace import MAX_LINKS, MountTable, node_of, split_node
from guestkit.synthetic import SyntheticFS


def _filesystem(tree: dict) -> SyntheticFS:
    """A SyntheticFS from {name: dict (directory) | bytes (file) | str (link)}."""
    fs = SyntheticFS()

    def fill(parent: int, names: dict) -> None:
        for name, value in names.items():
            if isinstance(value, dict):
                fill(fs.add_directory(parent, name.encode()), value)
            elif isinstance(value, bytes):
                fs.add_file(parent, name.encode(), lambda value=value: value)
            else:
                fs.add_link(parent, name.encode(), value.encode())

    fill(fs.root, tree)
    return fs


def _text(table: MountTable, path: str, **options: bool) -> bytes:
    source = table.open(table.resolve(path.encode(), **options))
    return source.read(0, source.size)


@pytest.fixture
def table() -> MountTable:
    root = _filesystem(
        {
            "etc": {
                "hostname": b"root",
                "alias": "hostname",
                "up": "../../../../etc/hostname",
                "deep": {"file": b"deep"},
            },
            "abs": "/etc/hostname",
            "dir": "etc/deep",
            "slash": "/",
            "a": "b",
            "b": "a",
            "empty": "",
            "home": {},
            "dangling": "nowhere/at/all",
            "Case": {"Name": b"folded"},
        }
    )
    home = _filesystem({"user": {"note": b"at home", "abs": "/etc/hostname", "parent": "../../etc/hostname"}})
    table = MountTable()
    table.mount(root, source="/dev/sda1")
    table.mount(home, table.resolve(b"/home"), b"/home", source="/dev/sda2")
    return table


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/etc/hostname", b"root"),
        ("etc//./hostname", b"root"),
        ("/etc/alias", b"root"),
        ("/abs", b"root"),
        ("/dir/file", b"deep"),
        ("/dir/../hostname", b"root"),
        ("/../../etc/hostname", b"root"),
        ("/etc/up", b"root"),
        ("/slash/slash/etc/hostname", b"root"),
        ("/home/user/note", b"at home"),
        ("/home/../etc/hostname", b"root"),
        ("/home/user/abs", b"root"),
        ("/home/user/parent", b"root"),
    ],
)
def test_paths_resolve_inside_the_guest(table: MountTable, path: str, content: bytes) -> None:
    assert _text(table, path) == content


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/a", LinkLoop),
        ("/missing", NotFound),
        ("/dangling", NotFound),
        ("/empty", NotFound),
        ("/etc/hostname/", NotADirectory),
        ("/etc/hostname/.", NotADirectory),
        ("/etc/hostname/x", NotADirectory),
        ("/etc/hostname/../hostname", NotADirectory),
        ("/" + "x" * 5000, NameTooLong),
        ("/etc\0", InvalidArgument),
    ],
)
def test_what_does_not_resolve_says_why(table: MountTable, path: str, error: type[GuestkitError]) -> None:
    with pytest.raises(error) as caught:
        table.resolve(path.encode())
    assert caught.value.errno == error.number


def test_a_final_link_is_followed_only_when_asked(table: MountTable) -> None:
    node = table.resolve(b"/abs", follow=False)
    assert table.readlink(node) == b"/etc/hostname"
    with pytest.raises(InvalidArgument):
        table.readlink(table.resolve(b"/abs"))
    assert table.stat(table.resolve(b"/dangling", follow=False)).mode & 0o170000 == 0o120000


def test_forty_links_are_followed_and_no_more() -> None:
    def chain(length: int) -> MountTable:
        links: dict = {f"l{number}": f"l{number + 1}" for number in range(length)}
        table = MountTable()
        table.mount(_filesystem({**links, f"l{length}": b"end"}))
        return table

    assert _text(chain(MAX_LINKS), "/l0") == b"end"
    with pytest.raises(LinkLoop):
        chain(MAX_LINKS + 1).resolve(b"/l0")


def test_one_filesystem_at_two_places_has_different_nodes() -> None:
    fs = _filesystem({"dir": {"file": b"x"}})
    top = _filesystem({"one": {}, "two": {}})
    table = MountTable(first_index=0)
    table.mount(top)
    for place in (b"/one", b"/two"):
        table.mount(fs, table.resolve(place), place, confine=True)
    nodes = {table.resolve(place + b"/dir/file") for place in (b"/one", b"/two")}
    assert len(nodes) == 2
    assert {split_node(node)[1] for node in nodes} == {fs.lookup(fs.lookup(fs.root, b"dir"), b"file")}
    assert table.root == 1


def test_a_mount_covers_its_place_in_listings_and_lookups(table: MountTable) -> None:
    listed = {entry.name: entry.node for entry in table.scan(table.root)}
    with_stat = {entry.name: entry for entry in table.scan_stat(table.root)}
    assert listed[b"home"] == with_stat[b"home"].node == table.lookup(table.root, b"home") == table.resolve(b"/home")
    assert split_node(listed[b"home"])[0] != split_node(table.root)[0]
    assert [entry.name for entry in table.scan(listed[b"home"])] == [b"user"]
    assert table.parent(listed[b"home"]) == table.root


def test_walk_crosses_mounts_and_equals_the_recursive_scan(table: MountTable) -> None:
    def recurse(node: int, prefix: bytes) -> set[bytes]:
        found = set()
        for entry in table.scan(node):
            found.add(prefix + entry.name)
            if entry.type == 4:
                found |= recurse(entry.node, prefix + entry.name + b"/")
        return found

    walked = [path for path, _, _ in table.walk(table.root)]
    assert len(walked) == len(set(walked))
    assert set(walked) == recurse(table.root, b"")
    assert b"home/user/note" in walked


def test_scan_goes_on_behind_a_cookie(table: MountTable) -> None:
    entries = list(table.scan(table.root))
    for index, entry in enumerate(entries):
        assert list(table.scan(table.root, entry.cookie)) == entries[index + 1 :]


def test_mounting_twice_or_on_a_file_is_refused(table: MountTable) -> None:
    other = _filesystem({})
    with pytest.raises(Busy):
        table.mount(other)
    with pytest.raises(NotADirectory):
        table.mount(other, table.resolve(b"/etc/hostname"), b"/etc/hostname")
    index = split_node(table.resolve(b"/home"))[0]
    with pytest.raises(Busy):
        table.umount(split_node(table.root)[0])
    table.umount(index)
    assert list(table.scan(table.resolve(b"/home"))) == []
    with pytest.raises(NotFound):
        table.stat(node_of(index, 1))


def test_folding_prefers_the_exact_name(table: MountTable) -> None:
    assert _text(table, "/case/NAME", fold=True) == b"folded"
    assert table.resolve(b"/Case", fold=True) == table.resolve(b"/Case")
    with pytest.raises(NotFound):
        table.resolve(b"/case")


def test_links_are_rewritten_so_that_the_host_stays_inside() -> None:
    fs = _filesystem(
        {
            "etc": {"here": "hostname", "up": "../etc/hostname", "out": "../../../../etc/passwd", "via": "top/../../x"},
            "x": {},
        }
    )
    fs.add_link(fs.lookup(fs.root, b"etc"), b"top", b"/")
    top = _filesystem({"partitions": {"sda1": {}}})
    table = MountTable(first_index=0)
    table.mount(top)
    table.mount(fs, table.resolve(b"/partitions/sda1"), b"/partitions/sda1", confine=True)
    table.prefix = b"/mnt/g"
    etc = table.resolve(b"/partitions/sda1/etc")

    def shown(name: bytes) -> bytes:
        return table.confined(etc, table.readlink(table.lookup(etc, name)))

    assert shown(b"here") == b"hostname"
    assert shown(b"up") == b"../etc/hostname"
    assert shown(b"top") == b"/mnt/g/partitions/sda1/"
    assert shown(b"out") == b"/mnt/g/partitions/sda1/etc/passwd"
    assert shown(b"via").startswith(b"/mnt/g/partitions/sda1/")
    assert b".." not in shown(b"via")


@pytest.mark.parametrize("key", [1, 2**52 - 1, 2**52, 2**63, 2**64 - 1])
def test_nodes_hold_every_inode_key(key: int) -> None:
    assert split_node(node_of(7, key)) == (7, key)
    assert (node_of(7, key) < 2**64) == (key < 2**52)


def test_a_late_file_is_made_by_looking_and_never_by_listing() -> None:
    made = []
    fs = SyntheticFS()
    fs.add_file(fs.root, b"late.json", lambda: made.append(1) or b"{}")
    assert [(entry.name, status) for entry, status in fs.scan_stat(fs.root)] == [(b"late.json", None)]
    assert not made
    assert fs.stat(fs.lookup(fs.root, b"late.json")).size == 2
    assert made == [1]
    assert next(fs.scan_stat(fs.root))[1].size == 2
    assert made == [1]


def test_the_prefix_of_places_rises_with_the_error(table: MountTable) -> None:
    with pytest.raises(NotFound) as caught:
        table.resolve(b"/etc/nothing")
    assert str(caught.value) == "/etc/nothing: No such file or directory"
    assert caught.value.errno == errno.ENOENT
    assert isinstance(caught.value, FileNotFoundError)


def test_a_second_mount_on_the_same_place_is_refused(table: MountTable) -> None:
    with pytest.raises(Busy):
        table.mount(_filesystem({}), table.resolve(b"/home"), b"/home")


def test_walk_tells_every_time_what_it_could_not_list(table: MountTable, monkeypatch: pytest.MonkeyPatch) -> None:
    home = table.mount_of(table.resolve(b"/home")).fs
    user = home.lookup(home.root, b"user")
    real = home.scan_stat

    def scan_stat(directory: int, cookie: int = 0) -> object:
        yield from real(directory, cookie)
        if directory == user:
            raise Corrupt("block 3: bad checksum")

    monkeypatch.setattr(home, "scan_stat", scan_stat)
    for _ in range(2):
        failed: list[tuple[bytes, GuestkitError]] = []
        walked = [path for path, _, _ in table.walk(table.root, lambda *told, failed=failed: failed.append(told))]
        assert b"home/user/note" in walked
        assert [(path, str(error)) for path, error in failed] == [(b"home/user", "block 3: bad checksum")]
    assert home.problems()[0] == 1
