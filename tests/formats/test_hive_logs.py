"""Transaction logs of hives, both formats: replayed in memory, verified, and never applied where they do not belong."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import hivewriter as w
import pytest
from hivewriter import Node, Writer, reg_sz

from guestkit.errors import Corrupt, GuestkitError
from guestkit.hive import Hive, open_hive
from guestkit.hive.marvin import marvin32
from guestkit.limits import Limits
from guestkit.source import BytesSource

# .NET's published values for its seed 0x004FB61A001BDBCC
VECTORS = {
    "": 0x30ED35C100CD3C7D,
    "AF": 0x48E73FC77D75DDC1,
    "E70F": 0xB5F6E1FC485DBFF8,
    "37F495": 0xF0B07C789B8CF7E8,
    "8642DC59": 0x7008F2E87E9CF556,
    "153FB79826": 0xE6C08C6DA2AFA997,
    "0932E6246C47": 0x6F04BF1A5EA24060,
    "AB427EA8D10FC7": 0xE11847E4F0678C41,
}


def state(text: str, more: int = 0) -> bytes:
    """A hive whose value says `text`, with `more` further keys."""
    values = [("state", 1, reg_sz(text.ljust(8)))]
    filler = [Node(f"filler {number}", [("data", 3, bytes([number]) * 3000)]) for number in range(10)]
    return Writer().build(Node("ROOT", values, [*filler, *(Node(f"new {number}") for number in range(more))]))


OLD, MIDDLE, NEW = state("old"), state("middle"), state("new")
GROWN = state("grown", 200)
DIRTY = w.sequences(OLD, 11, 10)


def opened(data: bytes, *logs: bytes) -> Hive:
    return open_hive(BytesSource(data), [BytesSource(log) for log in logs], Limits())


def shown(hive: Hive) -> str:
    list(hive.walk())
    return hive.root.value("state").text.rstrip()


def entry(new: bytes, old: bytes, sequence: int) -> bytes:
    return w.log_entry(new, w.dirty_pages(old, new), sequence)


@pytest.mark.parametrize(("data", "value"), VECTORS.items())
def test_marvin32(data: str, value: int) -> None:
    assert marvin32(bytes.fromhex(data), (0x001BDBCC, 0x004FB61A)) == value


def test_a_clean_hive_ignores_its_logs() -> None:
    log = w.new_log(OLD, 7, [entry(NEW, OLD, 7)])
    hive = opened(OLD, log)
    assert (hive.state, shown(hive)) == ("clean", "old")


def test_a_dirty_hive_without_logs_says_so() -> None:
    hive = opened(DIRTY)
    assert (hive.state, shown(hive)) == ("dirty-not-replayed", "old")
    assert "no log" in hive.reason
    hive = opened(DIRTY, b"", bytes(4096), b"regf" + bytes(2000))
    assert (hive.state, shown(hive)) == ("dirty-not-replayed", "old")


def test_entries_are_applied_in_order() -> None:
    log = w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11), entry(NEW, MIDDLE, 12)])
    hive = opened(DIRTY, log)
    assert (hive.state, shown(hive)) == ("replayed", "new")
    assert "sectors from the logs" in hive.reason


@pytest.mark.parametrize("swapped", [False, True])
def test_entries_are_split_between_two_logs(swapped: bool) -> None:
    logs = [w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11)]), w.new_log(OLD, 12, [entry(NEW, MIDDLE, 12)])]
    assert shown(opened(DIRTY, *(logs[::-1] if swapped else logs))) == "new"


def test_a_gap_ends_the_replay() -> None:
    first = w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11), entry(NEW, MIDDLE, 13)])
    assert shown(opened(DIRTY, first)) == "middle"
    second = w.new_log(OLD, 13, [entry(NEW, MIDDLE, 13)])
    assert shown(opened(DIRTY, w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11)]), second)) == "middle"


def test_a_log_of_the_past_is_passed_over() -> None:
    past = w.new_log(OLD, 5, [entry(MIDDLE, OLD, 5), entry(MIDDLE, OLD, 6)])
    hive = opened(DIRTY, past)
    assert (hive.state, shown(hive)) == ("dirty-not-replayed", "old")
    assert shown(opened(DIRTY, past, w.new_log(OLD, 11, [entry(NEW, OLD, 11)]))) == "new"


def test_remnants_behind_the_last_entry_are_not_applied() -> None:
    log = w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11), entry(NEW, MIDDLE, 4)])
    assert shown(opened(DIRTY, log)) == "middle"


@pytest.mark.parametrize("at", [0, 4, 12, 16, 20, 24, 32, 40, 44, 60, 5000])
def test_a_damaged_entry_ends_the_replay(at: int) -> None:
    """Signature, size, sequence, bins size, count, both hashes, references and pages."""
    second = bytearray(entry(NEW, MIDDLE, 12))
    if at >= len(second):
        at = len(second) - 1
    second[at] ^= 0x40
    log = w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11), bytes(second)])
    assert shown(opened(DIRTY, log)) == "middle"
    assert shown(opened(DIRTY, log[: 512 + len(entry(MIDDLE, OLD, 11)) + 600])) == "middle"


def test_pages_outside_the_bins_end_the_replay() -> None:
    page = len(OLD) - w.PAGE
    beyond = w.log_entry(OLD + bytes(w.PAGE), [page], 11)
    hive = opened(DIRTY, w.new_log(OLD, 11, [beyond]))
    assert (hive.state, shown(hive)) == ("dirty-not-replayed", "old")


def test_a_hive_grows_by_its_log() -> None:
    assert len(GROWN) > len(OLD)
    hive = opened(DIRTY, w.new_log(OLD, 11, [entry(GROWN, OLD.ljust(len(GROWN), b"\0"), 11)]))
    assert shown(hive) == "grown"
    assert len(list(hive.root.subkeys())) == 210


def test_a_hive_shrinks_by_its_log() -> None:
    pages = w.dirty_pages(GROWN, OLD)
    hive = opened(w.sequences(GROWN, 11, 10), w.new_log(GROWN, 11, [w.log_entry(OLD, pages, 11)]))
    assert shown(hive) == "old"
    assert hive.base.bins == len(OLD) - w.PAGE


def test_a_damaged_base_block_is_recovered_from_the_latest_log() -> None:
    broken = bytes(512) + OLD[512:]
    early = w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11)])
    late = w.new_log(OLD, 12, [entry(NEW, OLD, 12)])
    hive = opened(broken, early, late)
    assert (hive.state, shown(hive)) == ("replayed", "new")
    assert "base block" in hive.reason
    with pytest.raises(Corrupt):
        opened(broken)
    with pytest.raises(Corrupt):
        opened(broken, bytes(4096))


# the old format


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("kind", [1, 2])
def test_a_log_of_the_old_format_is_applied(sector: int, kind: int) -> None:
    log = w.old_log(OLD, NEW, sector)
    log = w.seal(log[:28] + struct.pack("<I", kind) + log[32:])
    hive = opened(DIRTY, log)
    assert (hive.state, shown(hive)) == ("replayed", "new")


def test_a_hive_grows_by_an_old_log() -> None:
    hive = opened(DIRTY, w.old_log(OLD.ljust(len(GROWN), b"\0"), GROWN))
    assert shown(hive) == "grown"


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (4, struct.pack("<I", 21)),  # the log was not finished
        (12, struct.pack("<Q", w.SEED_TIME + 1)),  # it is another time's
        (512, b"DIRX"),
        (20, struct.pack("<I", 9)),
    ],
)
def test_an_old_log_that_does_not_belong_is_passed_over(at: int, new: bytes) -> None:
    log = bytearray(w.old_log(OLD, NEW))
    log[at : at + len(new)] = new
    hive = opened(DIRTY, w.seal(bytes(log)))
    assert (hive.state, shown(hive)) == ("dirty-not-replayed", "old")
    assert shown(opened(DIRTY, w.seal(bytes(log)), w.old_log(OLD, MIDDLE))) == "middle"


def test_an_old_log_cut_short_is_passed_over() -> None:
    assert opened(DIRTY, w.old_log(OLD, NEW)[:-512]).state == "dirty-not-replayed"


def test_an_old_log_with_a_bin_of_another_place_is_passed_over() -> None:
    log = bytearray(w.old_log(OLD.ljust(len(GROWN), b"\0"), GROWN))
    at = log.rindex(b"hbin")
    struct.pack_into("<I", log, at + 4, 0)
    assert opened(DIRTY, bytes(log)).state == "dirty-not-replayed"


def test_the_first_bin_tells_the_time_where_the_base_block_is_damaged() -> None:
    broken = bytes(512) + OLD[512:]
    hive = opened(broken, w.old_log(OLD, NEW))
    assert (hive.state, shown(hive)) == ("replayed", "new")
    changed = bytearray(broken)
    changed[w.PAGE + 20] ^= 1
    with pytest.raises(Corrupt):
        opened(bytes(changed), w.old_log(OLD, NEW))


# another reader


def as_file(path: Path, name: str, data: bytes) -> str:
    (path / name).write_bytes(data)
    return str(path / name)


@pytest.mark.module("regipy")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files open
@pytest.mark.parametrize("kind", ["new", "old"])
def test_regipy_recovers_the_same(tmp_path: Path, kind: str) -> None:
    """It begins at the hive's secondary number, so the log does as well."""
    from regipy.recovery import apply_transaction_logs
    from regipy.registry import RegistryHive

    dirty = w.sequences(OLD, 12, 11)
    if kind == "new":
        log = w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11), entry(NEW, MIDDLE, 12)])
    else:
        log = w.old_log(OLD, NEW)
    hive, logged = as_file(tmp_path, "SYSTEM", dirty), as_file(tmp_path, "SYSTEM.LOG1", log)
    restored, count = apply_transaction_logs(hive, logged, restored_hive_path=str(tmp_path / "restored"))
    assert count
    assert RegistryHive(restored).root.get_value("state").rstrip() == "new"
    assert shown(opened(dirty, log)) == "new"
    theirs = io.BytesIO(Path(restored).read_bytes()).getvalue()[w.PAGE :]
    ours = opened(dirty, log)._cells._source
    assert ours.read(w.PAGE, ours.size - w.PAGE) == theirs


@pytest.mark.parametrize("seed", range(200))
def test_mutants_of_logs_give_a_state_or_one_error(seed: int) -> None:
    """What is verified by hashes is never half applied: the hive shows one of its true states."""
    choose = random.Random(seed)
    log = bytearray(w.new_log(OLD, 11, [entry(MIDDLE, OLD, 11), entry(NEW, MIDDLE, 12)]))
    for _ in range(choose.randint(1, 4)):
        log[choose.randrange(512 if choose.random() < 0.9 else 0, len(log))] ^= 1 << choose.randrange(8)
    try:
        assert shown(opened(DIRTY, bytes(log))) in ("old", "middle", "new")
    except GuestkitError as error:
        raise AssertionError("a damaged log must not break its hive") from error
