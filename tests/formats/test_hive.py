"""Registry hives: keys and values agree with hivex and regipy; damage is an error for one thing alone."""

from __future__ import annotations

import base64
import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hivewriter as w
import pytest
from hivewriter import Node, Writer, reg_sz

from guestkit.errors import Corrupt, GuestkitError, LinkLoop, NotFound, Unsupported
from guestkit.hive import Hive, open_hive
from guestkit.hive.keys import fold, name_hash
from guestkit.limits import Limits
from guestkit.source import BytesSource, Leaf

MANY = [f"key {number}" for number in range(300)]
BIG = bytes(range(256)) * 200


def tree() -> Node:
    """Every kind of list, name and value."""
    values = [
        ("", 1, reg_sz("the default value")),
        ("text", 1, reg_sz("gr\u00fc\u00dfe \U0001f600")),
        ("expanded", 2, reg_sz("%SystemRoot%\\x")),
        ("binary", 3, bytes(range(40))),
        ("tiny", 3, b"abc"),
        ("empty", 3, b""),
        ("number", 4, struct.pack("<I", 0xDEADBEEF)),
        ("reversed", 5, struct.pack(">I", 77)),
        ("several", 7, "one\0two\0three\0\0".encode("utf-16-le")),
        ("long number", 11, struct.pack("<Q", 1 << 40)),
        ("sixteen thousand", 3, BIG[:16344]),
        ("one more", 3, BIG[:16345]),
        ("big", 3, BIG),
        ("caf\u00e9", 1, reg_sz("Latin-1 name")),
        ("\u0416\u20ac", 1, reg_sz("UTF-16 name")),
    ]
    return Node(
        "ROOT",
        subkeys=[
            Node("Values", values, class_name="a class"),
            Node("lh", subkeys=[Node(name) for name in MANY], split=100),
            Node("lf", subkeys=[Node(name) for name in MANY], lists="lf", split=299),
            Node("li", subkeys=[Node(name) for name in MANY], lists="li", split=1),
            Node(
                "\u00c4pfel", subkeys=[Node("\u0416\u0438", wide=True), Node("stra\u00dfe"), Node("Plain", wide=True)]
            ),
            Node(
                "deep", subkeys=[Node("er", subkeys=[Node("and", subkeys=[Node("deeper", [("v", 1, reg_sz("x"))])])])]
            ),
        ],
    )


@pytest.fixture(scope="module")
def data() -> bytes:
    return Writer().build(tree())


def opened(data: bytes, *logs: bytes, mount: str = "") -> Hive:
    return open_hive(BytesSource(data), [BytesSource(log) for log in logs], Limits(), mount)


def content(hive: Hive) -> dict[tuple[str, ...], dict[str, tuple[int, bytes]]]:
    return {path: {value.name: (value.type, value.data) for value in key.values()} for path, key in hive.walk()}


def wanted(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
    yield path, node
    for each in node.subkeys:
        yield from wanted(each, (*path, each.name))


def test_every_key_and_value_is_read(data: bytes) -> None:
    assert content(opened(data)) == {
        path: {name: (kind, raw) for name, kind, raw in node.values} for path, node in wanted(tree())
    }


@pytest.mark.parametrize("minor", [2, 3, 4, 5, 6])
def test_every_version_is_read(minor: int) -> None:
    """In 1.3 and older a large value stands in one cell."""
    hive = opened(Writer(minor).build(tree()))
    assert hive.key("Values").value("big").data == BIG
    assert len(list(hive.walk())) == len(list(wanted(tree())))


def test_values_by_type(data: bytes) -> None:
    key = opened(data).key("VALUES")
    assert key.class_name == "a class"
    assert key.value("").text == "the default value"
    assert key.value("TEXT").text == "gr\u00fc\u00dfe \U0001f600"
    assert key.value("several").texts == ["one", "two", "three"]
    assert key.value("number").number == 0xDEADBEEF
    assert key.value("reversed").number == 77
    assert key.value("long number").number == 1 << 40
    assert key.value("CAF\u00c9").text == "Latin-1 name"
    assert key.value("\u0436\u20ac").text == "UTF-16 name"
    assert key.value("empty").data == b""
    for name, kind in (("binary", "number"), ("binary", "text"), ("text", "number"), ("text", "texts")):
        with pytest.raises(Corrupt, match="type"):
            getattr(key.value(name), kind)
    with pytest.raises(NotFound):
        key.value("none")


@pytest.mark.parametrize("kind", ["lh", "lf", "li"])
def test_lookup_in_every_kind_of_list_does_not_regard_case(data: bytes, kind: str) -> None:
    key = opened(data).key(kind)
    assert [each.name for each in key.subkeys()] == sorted(MANY, key=str.upper)
    for name in MANY[::37]:
        assert key.subkey(name.upper()).name == name
    with pytest.raises(NotFound):
        key.subkey("key 300")


def test_names_beyond_ascii_are_found_in_any_case(data: bytes) -> None:
    hive = opened(data)
    assert hive.key("\u00e4PFEL\\\u0436\u0418").name == "\u0416\u0438"
    assert hive.key("\u00e4pfel\\STRA\u00dfE").name == "stra\u00dfe"
    assert hive.key("\\\u00c4PFEL\\\\plain\\").name == "Plain"
    assert fold("stra\u00dfe") == "STRA\u00dfE"


def test_a_wrong_hash_hides_no_key(data: bytes) -> None:
    writer = Writer()
    writer.build(tree())
    listed = bytearray(data)
    at = w.PAGE + writer.places["list \\lh 0"] + 8
    struct.pack_into("<I", listed, at + 4, 1)
    name = next(iter(opened(bytes(listed)).key("lh").subkeys())).name
    assert opened(bytes(listed)).key("lh").subkey(name.upper()).name == name


def test_hash_of_names() -> None:
    assert name_hash("a") == 0x41
    assert name_hash("Ab") == 0x41 * 37 + 0x42


def test_times_are_nanoseconds(data: bytes) -> None:
    hive = opened(data)
    assert hive.root.written == (w.SEED_TIME + hive.root.offset - 116_444_736_000_000_000) * 100
    assert hive.base.written == w.SEED_TIME
    assert hive.base.name == "SYSTEM"


# other readers


@pytest.fixture(scope="module")
def path(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hive") / "SYSTEM"
    path.write_bytes(data)
    return path


@pytest.mark.tool("hivexml")
def test_hivex_reads_the_same(data: bytes, path: Path) -> None:
    told = subprocess.run(["hivexml", path], check=True, capture_output=True).stdout
    found: dict[tuple[str, ...], dict[str, bytes]] = {}

    def enter(element: ET.Element, names: tuple[str, ...]) -> None:
        values = found[names] = {}
        for value in element.findall("value"):
            if value.get("encoding") == "base64":
                values[value.get("key", "")] = base64.b64decode(value.get("value", ""))
            elif value.get("type") in ("string", "expand"):
                values[value.get("key", "")] = reg_sz(value.get("value", ""))
        for node in element.findall("node"):
            enter(node, (*names, node.get("name", "")))

    top = ET.fromstring(told).find("node")
    assert top is not None
    enter(top, ())
    ours = content(opened(data))
    assert set(found) == set(ours)
    assert sum(map(len, found.values())) >= 8
    for names, values in found.items():
        for name, raw in values.items():
            assert ours[names][name][1] == raw, (names, name)


@pytest.mark.tool("hivexsh")
def test_a_hive_that_hivex_wrote_is_read(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "edited"
    commands = [f"load {path}", "cd \\deep\\er", "add Added", "cd Added", "setval 2", "one", "string:written by hivex"]
    commands += ["two", "dword:0x12345678", "cd \\lh", *(f"add new{number}" for number in range(40)), f"commit {copy}"]
    subprocess.run(["hivexsh", "-w"], input="\n".join([*commands, "quit", ""]), text=True, check=True)
    hive = opened(copy.read_bytes())
    key = hive.key("deep\\er\\added")
    assert {value.name: value.type for value in key.values()} == {"one": 1, "two": 4}
    assert key.value("one").text == "written by hivex"
    assert key.value("two").number == 0x12345678
    names = [each.name for each in hive.key("lh").subkeys()]
    assert sorted(names) == sorted([*MANY, *(f"new{number}" for number in range(40))])
    assert hive.key("lh").subkey("NEW39").name == "new39"


def regipy_tree(path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    from regipy.registry import RegistryHive

    hive = RegistryHive(str(path))
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    pending = [((), hive.root)]
    while pending:
        names, key = pending.pop()
        found[names] = {value.name: value.value for value in key.iter_values()}
        pending += [((*names, each.name), each) for each in key.iter_subkeys()] if key.subkey_count else []
    return found


@pytest.mark.module("regipy")
def test_regipy_reads_the_same(data: bytes, path: Path) -> None:
    theirs = {names: found for names, found in regipy_tree(path).items() if "\ufffd" not in "".join(names)}
    hive = opened(data)
    # it takes Latin-1 names for UTF-8; those are hivex's to confirm
    assert set(theirs) == {names for names, _ in hive.walk() if "\u00c4pfel" not in names}
    assert len(theirs) > 900
    values = theirs[("Values",)]
    key = hive.key("Values")
    assert values["number"] == key.value("number").number
    assert values["text"] == key.value("text").text
    assert values["expanded"] == key.value("expanded").text
    assert len(values) == len(list(key.values()))


# links


def linked(target: str, **more: Any) -> bytes:
    link = Node("link", [("SymbolicLinkValue", 6, target.encode("utf-16-le"))], flags=0x10)
    target_of = Node("ControlSet002", subkeys=[Node("Services", [("here", 4, bytes(4))])])
    select = Node("Select", [("Current", 4, struct.pack("<I", 2))])
    return Writer().build(Node("ROOT", subkeys=[link, target_of, select], **more))


def test_links_into_the_hive_are_followed() -> None:
    mount = "\\Registry\\Machine\\System"
    hive = opened(linked("\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet002"), mount=mount)
    assert hive.key("LINK\\services").value("here").number == 0
    with pytest.raises(LinkLoop):
        opened(linked(mount + "\\link"), mount=mount).key("link")
    for other in ("\\Registry\\Machine\\Systematic\\x", "\\Registry\\Machine\\Software"):
        with pytest.raises(Unsupported, match="another hive"):
            opened(linked(other), mount=mount).key("link")


def test_current_control_set_is_the_one_that_select_names() -> None:
    hive = opened(linked("x"))
    assert hive.current_control_set == "ControlSet002"
    assert hive.key("currentCONTROLset\\Services").value("here").number == 0
    assert opened(Writer().build(Node("ROOT", subkeys=[Node("CurrentControlSet")]))).key("CurrentControlSet").name
    with pytest.raises(NotFound):
        opened(Writer().build(Node("ROOT"))).key("CurrentControlSet")


def test_layered_keys_are_refused_by_name_where_they_exist() -> None:
    layered = Node("ROOT", subkeys=[Node("plain"), Node("hidden", layer=1)])
    hive = opened(Writer(6).build(layered))
    assert hive.key("plain").name == "plain"
    with pytest.raises(Unsupported, match="layered"):
        hive.key("hidden")
    assert opened(Writer(5).build(layered)).key("hidden").name == "hidden"


def test_a_predefined_handle_has_no_values() -> None:
    hive = opened(Writer().build(Node("ROOT", subkeys=[Node("handle", flags=0x40, values_count=0x80000002)])))
    assert list(hive.key("handle").values()) == []


# damage


def test_what_is_no_hive_is_refused(data: bytes) -> None:
    for bad in (b"", data[:4095], bytes(8192), b"fger" + data[4:]):
        with pytest.raises(Corrupt):
            opened(bad)
    with pytest.raises(Corrupt, match="checksum"):
        opened(data[:30] + b"\1" + data[31:])
    for at, value, kind in ((20, 2, Unsupported), (24, 7, Unsupported), (32, 2, Unsupported), (28, 1, Corrupt)):
        with pytest.raises(kind):
            opened(w.seal(data[:at] + struct.pack("<I", value) + data[at + 4 :]))
    for size in (0, 4095, 0xFFFFF000):
        with pytest.raises(Corrupt, match="size"):
            opened(w.seal(data[:40] + struct.pack("<I", size) + data[44:]))


def test_a_hive_cut_short_still_gives_what_is_there(data: bytes) -> None:
    hive = opened(data[: len(data) - 8192])
    assert hive.root.name == "ROOT"
    with pytest.raises(Corrupt):
        list(hive.walk())
    assert opened(data + bytes(100_000)).key("deep\\er\\and\\deeper").value("v").text == "x"


def edited(name: str, at: int, new: bytes) -> Hive:
    writer = Writer()
    data = bytearray(writer.build(tree()))
    place = w.PAGE + writer.places[name] + 4 + at
    data[place : place + len(new)] = new
    return opened(bytes(data))


@pytest.mark.parametrize(
    ("name", "at", "new"),
    [
        ("key \\Values", 0, b"xx"),  # signature
        ("key \\Values", 72, b"\xff\xff"),  # name length
        ("key \\Values", 72, b"\0\0"),
        ("key \\Values", -4, struct.pack("<i", 88)),  # a free cell
        ("key \\Values", -4, struct.pack("<i", -0x7FFFFFF8)),  # beyond its bin
        ("key \\Values", -4, struct.pack("<i", -12)),
    ],
)
def test_a_damaged_key_hides_only_itself(name: str, at: int, new: bytes) -> None:
    hive = edited(name, at, new)
    names = []
    with pytest.raises(Corrupt):
        for each in hive.root.subkeys():
            names.append(each.name)
    assert sorted(names) == sorted(["lh", "lf", "li", "\u00c4pfel", "deep"])
    assert hive.key("deep").name == "deep"
    with pytest.raises(Corrupt):  # not "not found": damage may hide it
        hive.key("Values")


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (20, struct.pack("<I", 0xFFFFFFFF)),  # number of subkeys
        (20, struct.pack("<I", 299)),
        (20, struct.pack("<I", 301)),
        (28, struct.pack("<I", 0xFFFFFFF0)),  # list
        (28, struct.pack("<I", 3)),
    ],
)
def test_a_wrong_list_is_an_error(at: int, new: bytes) -> None:
    hive = edited("key \\lh", at, new)
    with pytest.raises(Corrupt):
        list(hive.key("lh").subkeys())
    assert len(list(hive.key("lf").subkeys())) == 300


def test_a_damaged_leaf_hides_only_its_own(data: bytes) -> None:
    hive = edited("list \\lh 100", 0, b"zz")
    found = []
    with pytest.raises(Corrupt):
        for each in hive.key("lh").subkeys():
            found.append(each.name)
    assert len(found) == 200
    assert hive.key("lh").subkey(found[150]).name == found[150]


def test_an_index_root_may_not_lead_to_itself() -> None:
    writer = Writer()
    data = bytearray(writer.build(tree()))
    place = writer.places["index \\lh"]
    struct.pack_into("<I", data, w.PAGE + place + 4 + 4, place)
    with pytest.raises(Corrupt, match="a leaf"):
        list(opened(bytes(data)).key("lh").subkeys())


@pytest.mark.parametrize(
    ("name", "at", "new"),
    [
        ("value \\Values binary", 0, b"xx"),
        ("value \\Values binary", 2, b"\xff\xff"),
        ("value \\Values binary", 4, struct.pack("<I", 0x80000005)),
        ("value \\Values binary", 4, struct.pack("<I", 0x7FFFFFFF)),
    ],
)
def test_a_damaged_value_hides_only_itself(name: str, at: int, new: bytes) -> None:
    key = edited(name, at, new).key("Values")
    found = []
    with pytest.raises(Corrupt):
        for value in key.values():
            found.append(value.name)
    assert len(found) == 14
    assert key.value("text").text.startswith("gr")


def test_data_that_does_not_fit_its_cell_is_an_error() -> None:
    key = edited("value \\Values binary", 4, struct.pack("<I", 400)).key("Values")
    with pytest.raises(Corrupt, match="size"):
        _ = key.value("binary").data
    for at, new in ((0, b"xx"), (2, b"\x05\0"), (4, struct.pack("<I", 8))):
        key = edited("data \\Values big", at, new).key("Values")
        with pytest.raises(Corrupt):
            _ = key.value("big").data


def test_cells_stay_in_their_bins(data: bytes) -> None:
    broken = bytearray(data)
    broken[w.PAGE : w.PAGE + 4] = b"nibh"
    with pytest.raises(Corrupt, match="bin"):
        opened(bytes(broken))
    broken = bytearray(data)
    struct.pack_into("<I", broken, w.PAGE + 4, 4096)
    with pytest.raises(Corrupt, match="bin"):
        opened(bytes(broken))


def test_a_key_inside_itself_ends() -> None:
    writer = Writer()
    data = bytearray(writer.build(tree()))
    struct.pack_into("<I", data, w.PAGE + writer.places["list \\deep\\er 0"] + 8, writer.places["key \\deep"])
    hive = opened(bytes(data))
    with pytest.raises(Corrupt, match="one key above"):
        list(hive.walk())


def test_shared_lists_do_not_multiply() -> None:
    """Each of many keys has all of them below: the walk ends after as many as there can be."""
    writer = Writer()
    data = bytearray(writer.build(Node("ROOT", subkeys=[Node(f"{n:04}") for n in range(2000)])))
    shared = bytes(data[w.PAGE + writer.places["key "] + 4 + 20 :][:12])
    for name, place in writer.places.items():
        if name.startswith("key \\"):
            at = w.PAGE + place + 4
            data[at + 20 : at + 24], data[at + 28 : at + 32] = shared[:4], shared[8:12]
    count = 0
    with pytest.raises(Corrupt):
        for _ in opened(bytes(data)).walk():
            count += 1
    assert count <= 2001


class Sparse(Leaf):
    """A hive of two gibibytes in one bin, zeros but for `parts`; counts the bytes that are read."""

    def __init__(self, parts: dict[int, bytes]) -> None:
        self.parts = parts
        self.size = w.PAGE + SPARSE
        self.most = 0

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.most = max(self.most, len(buf))
        buf[:] = bytes(len(buf))
        for at, data in self.parts.items():
            low, high = max(offset, at), min(offset + len(buf), at + len(data))
            if low < high:
                buf[low - offset : high - offset] = data[low - at : high - at]


SPARSE = 0x7FFF0000


def sparse(subkeys: tuple[int, int], values: tuple[int, int], **cells: bytes) -> Sparse:
    """Its root has these (count, offset); `cells`: c4096=bytes, each as large as all that is behind it."""
    root = struct.pack("<2sHQBBHI", b"nk", 0x2C, 0, 0, 0, 0, w.NONE)
    root += struct.pack("<IIIIIIII", subkeys[0], 0, subkeys[1], w.NONE, *values, w.NONE, w.NONE)
    root += bytes(20) + struct.pack("<HH", 1, 0) + b"R"
    parts = {0: w.base_block(32, SPARSE, 1, 1), w.PAGE: struct.pack("<4sII", b"hbin", 0, SPARSE)}
    for at, data in (("c32", root), *cells.items()):
        offset = int(at[1:])
        parts[w.PAGE + offset] = struct.pack("<i", -(SPARSE - offset)) + data
    return Sparse(parts)


@pytest.mark.parametrize("kind", ["subkeys", "one leaf many times", "values", "data"])
def test_huge_counts_of_a_sparse_hive_cost_little(kind: str) -> None:
    import time

    leaf = struct.pack("<2sH", b"li", 0xFFFF) + struct.pack("<I", 32) * 0xFFFF
    root = struct.pack("<2sH", b"ri", 400) + struct.pack("<I", 1 << 20) * 400
    value = struct.pack("<2sHIIIHH", b"vk", 0, 0x7F000000, 4096, 3, 1, 0)
    source = {
        "subkeys": sparse((SPARSE // 80, 4096), (0, w.NONE)),
        "one leaf many times": sparse((400_000, 4096), (0, w.NONE), c4096=root, c1048576=leaf),
        "values": sparse((0, w.NONE), (SPARSE // 8, 4096)),
        "data": sparse((0, w.NONE), (1, 4096), c4096=struct.pack("<I", 8192), c8192=value),
    }[kind]
    began = time.process_time()
    hive = open_hive(source, (), Limits())
    with pytest.raises(Corrupt):
        if hive.root.count:
            hive.root.subkey("none")
        list(hive.root.values())
    assert time.process_time() - began < 10
    assert source.most <= 8 << 20


@pytest.mark.parametrize("seed", range(300))
def test_mutants_give_results_or_one_error(data: bytes, seed: int) -> None:
    import random

    choose = random.Random(seed)
    broken = bytearray(data)
    for _ in range(choose.randint(1, 12)):
        at = choose.randrange(0, len(broken))
        broken[at] = choose.choice((0, 0xFF, 0x80, broken[at] ^ 1 << choose.randrange(8)))
    try:
        hive = opened(w.seal(bytes(broken)))
        for _, key in hive.walk():
            for value in key.values():
                _ = value.data
            _ = key.class_name
    except GuestkitError as error:
        assert error.errno
