"""The table of formats: every line can be followed, and what it says can be relied upon."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec

import pytest

from guestkit import registry
from guestkit.errors import Unsupported
from guestkit.limits import Limits
from guestkit.probe import HEAD, TAIL, Window, guid_text, label_text, uuid_text
from guestkit.registry import FORMATS
from guestkit.source import ZeroSource


def test_names_are_unique_within_a_kind() -> None:
    names = [(each.kind, each.name) for each in FORMATS]
    assert len(names) == len(set(names))
    assert {each.kind for each in FORMATS} == {"image", "table", "volume", "filesystem", "other"}


@pytest.mark.parametrize("name", sorted({each.probe for each in FORMATS if each.probe}))
def test_probe_exists_and_says_nothing_of_zeros(name: str) -> None:
    module, _, function = name.partition(":")
    probe = getattr(import_module(module), function)
    assert len(inspect.signature(probe).parameters) == 1
    for size in (0, 512, 70000, 1 << 30):
        assert probe(Window(ZeroSource(size))) is None


@pytest.mark.parametrize("name", sorted({each.open for each in FORMATS if each.open}))
def test_opener_exists(name: str) -> None:
    module, _, function = name.partition(":")
    assert find_spec(module) is not None
    assert callable(getattr(import_module(module), function))


def test_what_has_no_reader_and_no_table_has_a_probe_or_a_magic() -> None:
    for each in FORMATS:
        assert each.magics or each.probe or each.name == "raw", each.name
        for offset, magic in each.magics:
            assert magic
            assert offset >= 0 or -offset <= TAIL


def test_readers_and_recognized_share_out_the_table() -> None:
    kinds = {each.kind for each in FORMATS}
    shared = [each for kind in kinds for each in (*registry.readers(kind), *registry.recognized(kind))]
    assert sorted(each.name for each in shared) == sorted(each.name for each in FORMATS)
    assert {"raw", "qcow2"} <= {each.name for each in registry.readers("image")}
    assert {"gpt", "msdos"} <= {each.name for each in registry.readers("table")}
    assert {"ext2", "ext3", "ext4"} <= {each.name for each in registry.readers("filesystem")}


def test_type_without_reader_is_refused_by_name() -> None:
    told = [each.name for each in registry.recognized("filesystem")]
    assert told
    for name in (*told, "swap", "LVM2_member", "nothing"):
        with pytest.raises(Unsupported, match=name):
            registry.open_filesystem(name, [ZeroSource(4096)], Limits(), {})


def test_guids_and_uuids_are_written_as_their_makers_do() -> None:
    raw = bytes(range(16))
    assert uuid_text(raw) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert guid_text(raw) == "03020100-0504-0706-0809-0a0b0c0d0e0f"
    assert uuid_text(bytes(16)) == guid_text(bytes(16)) == ""


def test_labels_end_at_nul_and_lose_no_byte() -> None:
    assert label_text(b"a b \t\0junk") == "a b"
    assert label_text(b"\xff\xc3\xa9").encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"
    assert label_text(b"a\0\0\xdc", "utf-16-le") == "a\udc00"
    assert label_text(b"\0a\0b\0", "utf-16-be") == "ab"
    assert label_text(b"", "utf-16-le") == ""


def test_window_answers_nothing_for_what_is_not_all_there() -> None:
    window = Window(ZeroSource(1000))
    assert window.at(0, 1000) == bytes(1000)
    assert window.at(0, 1001) == window.at(-1001, 1) == window.at(999, 2) == window.at(5, 0) == b""
    assert Window(ZeroSource(1 << 20), 600).at(599, 2) == b""
    assert Window(ZeroSource(1 << 20), 600).at(598, 2) == bytes(2)
    assert Window(ZeroSource(1 << 20), -5).at(0, 1) == b""
    assert Window(ZeroSource(HEAD + TAIL + 5)).at(HEAD - 1, 2) == bytes(2)
