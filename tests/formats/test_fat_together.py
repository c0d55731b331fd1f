"""FAT: entries that are found and decoded many at a time, and directories that are read together."""

from __future__ import annotations

import random

import fatwriter
import pytest
from fatwriter import Volume, long, short

from guestkit.errors import Corrupt
from guestkit.fs.base import may_be_shown, whole
from guestkit.fs.fat import open as open_fat
from guestkit.fs.fat.filesystem import Fat
from guestkit.fs.fat.names import ShortNames, long_text, to_bytes
from guestkit.fs.fat.sets import FILES, Decoder, Found
from guestkit.limits import Limits
from guestkit.source import BytesSource

NAMES = ShortNames("437")


def opened(volume: Volume) -> Fat:
    return open_fat([BytesSource(volume.bytes())], Limits(), {})


def _listed_slowly(data: bytes) -> list[tuple[bytes, int, bytes]]:
    """(name, number of the entry behind it, short entry) of what is shown: entry by entry, as fatgen103 goes."""
    found = []
    pieces: list[bytes] = []
    expected = sum_of = 0
    for at in range(0, len(data), 32):
        raw = data[at : at + 32]
        if raw[0] == 0:
            break
        if raw[0] == 0xE5:
            pieces = []
        elif raw[11] & 0x3F == 0x0F:
            if raw[0] & 0x40 and 0 < raw[0] & 0x3F <= 20:
                expected, sum_of, pieces = raw[0] & 0x3F, raw[13], []
            elif not pieces or raw[0] != expected or raw[13] != sum_of:
                pieces = []
                continue
            pieces.insert(0, raw[1:11] + raw[14:26] + raw[28:32])
            expected -= 1
        else:
            slots, pieces = pieces, []
            if raw[11] & 0x08 or raw[:11] in (b".".ljust(11), b"..".ljust(11)):
                continue
            name = b""
            if slots and not expected and fatwriter.checksum(raw[:11]) == sum_of:
                name = to_bytes(long_text(b"".join(slots)))
            if not may_be_shown(name):
                name = to_bytes(NAMES.text(raw[:11], raw[12]))
            if may_be_shown(name):
                found.append((name, at // 32 + 1, raw))
    return found


def _directory(chooser: random.Random) -> bytes:
    entries = bytearray()
    number = 0
    while len(entries) < 32 * 150:
        number += 1
        alias = b"N%07dTXT" % number
        way = chooser.randrange(20)
        length = chooser.choice((1, 12, 13, 14, 26, 30, 255, chooser.randrange(1, 256)))
        text = [chooser.choice((0x41, 0x7A, 0xE9, 0x4E2D, 0xD83D, 0xDE00, 0x2E)) for _ in range(length)]
        if way == 0:
            text[chooser.randrange(length)] = chooser.choice((0, 0x2F))
        slots = bytearray(long(tuple(text), alias, sum_of=chooser.randrange(256) if way == 1 else None))
        if way == 2:
            del slots[: 32 * chooser.randrange(len(slots) // 32 + 1)]
        elif way == 3:
            slots[chooser.randrange(len(slots))] ^= 1 << chooser.randrange(8)
        elif way == 4:
            slots = slots[32:] + slots[:32]
        elif way == 5:
            slots += slots[-32:]
        elif way in (6, 7, 8):
            slots = bytearray()
        attributes = chooser.choice((0x20, 0x20, 0x21, 0x10, 0x08, 0x18, 0x28, 0x00))
        name = chooser.choice((alias,) * 30 + (b".", b"..", b".X", b"\xe5LETED", b"\x05LPHA", b"A/B", b"   "))
        entries += slots + short(name, chooser.choice((0, 2, 5)), number, attributes, case=chooser.choice((0, 8, 16)))
    if chooser.randrange(3) == 0:
        entries[chooser.randrange(150) * 32] = 0
    return bytes(entries)


@pytest.mark.parametrize("seed", range(200))
def test_entries_are_found_as_when_looked_at_one_by_one(seed: int) -> None:
    chooser = random.Random(seed)
    data = _directory(chooser)
    gap = chooser.randrange(1, 150)
    sets = Found(data, [(0, 1000), (gap, 5000)]).sets()
    decoded = whole(Decoder(NAMES, False, lambda cluster: cluster == 5).decode(sets))
    shorts = [raw[-32:] for _, _, raw in sets]
    found = []
    for at, (name, key, kind, behind) in enumerate(decoded.entries):
        if at in decoded.hidden:
            assert not name
            continue
        number = behind - 1
        leads = shorts[at][11] & 0x10 and shorts[at][26] == 5
        assert key == (5 if leads else FILES + number + (5000 - gap if number >= gap else 1000))
        assert (kind == 4) == bool(shorts[at][11] & 0x10) == (at in decoded.late)
        found.append((name, behind, shorts[at]))
    assert found == _listed_slowly(data)


def test_names_of_every_length_are_listed_in_their_order() -> None:
    volume = Volume(32, clusters=3000)
    wanted = [f"{number:03}".ljust(13 * slots - number % 12, "y") for slots in range(1, 20) for number in range(20)]
    random.Random(1).shuffle(wanted)
    data = b""
    for number, name in enumerate(wanted):
        alias = b"N%07dTXT" % number
        data += long(name, alias) + short(alias, 0, number)
    volume.root = short(b"DIR", 10, 0, 0x10)
    volume.folder(10, data, more=list(range(11, 11 + len(data) // volume.size)))
    fs = opened(volume)
    directory = fs.lookup(fs.root, b"dir")
    found = list(fs.scan_stat(directory))
    assert [entry.name.decode() for entry, _ in found] == wanted
    assert [status.size for _, status in found if status is not None] == list(range(len(wanted)))
    assert all(status == fs.stat(entry.ino) for entry, status in found)


def _forest(count: int = 40) -> Volume:
    volume = Volume(32, clusters=5000)
    for number in range(count):
        volume.root += short(b"D%d" % number, 100 + number, 0, 0x10)
        alias = b"LONG%d" % number
        entries = short(b"ONE", 0, 1) + long(f"a name of some length {number}", alias) + short(alias, 0, 2)
        volume.folder(100 + number, entries)
    volume.image[volume.place(2) : volume.place(2) + len(volume.root)] = volume.root
    size = -(-len(volume.root) // volume.size)
    volume.chain(volume.root, [2, *range(3, 2 + size)])
    volume.root = b""
    return volume


def test_directories_that_are_read_together_list_as_each_by_itself() -> None:
    volume = _forest()
    fs = opened(volume)
    keys = [entry.ino for entry in fs.scan(fs.root)]
    assert len(keys) == 40
    listed, stats = whole(opened(volume).scan_small([*keys, 1, 2, 1 << 33, 4999]))
    assert set(keys) <= set(listed) <= {*keys, 1}
    for key in keys:
        assert [(entry, stats[entry[1]]) for entry in listed[key]] == [
            (tuple(entry), status) for entry, status in fs.scan_stat(key)
        ]


def test_a_damaged_directory_is_left_out_of_those_that_are_read_together() -> None:
    volume = _forest()
    volume.put(105, 0)  # a chain that ends in a free cluster
    volume.image[volume.place(107) : volume.place(107) + 64] = bytes(64)  # no "." and ".."
    volume.put(109, 109)
    fs = opened(volume)
    keys = [entry.ino for entry in fs.scan(fs.root)]
    assert set(keys) - set(whole(fs.scan_small(keys))[0]) == {105, 107, 109}
    failed: list[bytes] = []
    walked = list(fs.walk(failed=lambda path, error: failed.append(path)))
    assert sorted(failed) == [b"D5", b"D9"]  # of "D7" nothing can be told: it has no Stat
    assert len(walked) == 40 + 2 * 37 + 2 * 2
    for key in (105, 107, 109):
        with pytest.raises(Corrupt):
            list(fs.scan(key))


def test_a_large_directory_is_described_without_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(32, clusters=3000)
    entries = b"".join(short(b"F%07d" % number, 0, 1) for number in range(2000))
    clusters = list(range(10, 12 + len(entries) // volume.size))
    volume.root = short(b"LARGE", clusters[0], 0, 0x10)
    volume.folder(clusters[0], entries, more=clusters[1:])
    fs = opened(volume)
    list(fs.scan(fs.root))
    monkeypatch.setattr(Found, "sets", None)
    status = fs.stat(10)
    assert (status.nlink, status.size) == (2, len(clusters) * volume.size)
