"""The ext2/3/4 reader. `open` finds a good superblock, has the journal replayed, and gives the FileSystem.

Spec: Documentation/filesystems/ext4/. Options: "sb" is the place of the superblock copy to use, in units of 1 KiB as
for mount(8); "noload" or "norecovery" leaves the journal alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, SourceError, Unsupported, WouldBlock
from guestkit.fs.base import Problems, State
from guestkit.fs.ext4.filesystem import Ext4
from guestkit.fs.ext4.superblock import OFFSET, SIZE, Superblock, parse_superblock
from guestkit.limits import Budget, Limits
from guestkit.resolve import resolve
from guestkit.source import Source

if TYPE_CHECKING:
    from guestkit.fs.ext4.journal import Recovery
    from guestkit.fs.extents import Run

_MOST_JOURNAL = 10_240_000  # blocks, what mke2fs makes at most
_MOST_RUNS = 1 << 18
_OFF = ("", "0", "no", "false")


def open(sources: Sequence[Source], limits: Limits, options: Mapping[str, str]) -> Ext4:
    """Open the filesystem on `sources[0]`.

    Raises: Corrupt when no copy of the superblock is good; Unsupported for a feature that is not read, with its
    name and bit, and for a journal on another device that has to be replayed; InvalidArgument for a bad option.
    """
    device = resolve(sources[0])
    damage = Problems()
    superblock, offset = _find_superblock(device, options.get("sb"), damage)
    skip = any(options.get(name, "no").lower() not in _OFF[1:] for name in ("noload", "norecovery"))
    state = State()
    taken = (0, 0)
    if superblock.blocks_count * superblock.block_size > device.size:
        damage.add("superblock", f"the filesystem has {superblock.blocks_count} blocks, the device is smaller")
    # a backup does not say whether the journal is in use
    if superblock.needs_recovery or (offset != OFFSET and superblock.has_journal):
        if skip:
            state = State("dirty-not-replayed", "recovery was switched off")
        else:
            device, state, taken = _recover(device, superblock, offset, limits, damage)
            superblock = parse_superblock(device.read(offset, SIZE))
    fs = Ext4(device, superblock, offset // superblock.block_size, state, limits, taken)
    for problem in damage.first():
        fs.damage.add(*problem)
    return fs


def _find_superblock(device: Source, place: str | None, damage: Problems) -> tuple[Superblock, int]:
    """(superblock, byte offset) of the copy at `place`, or of the first good one."""
    if place is not None:
        if not (place.isascii() and place.isdigit()) or len(place) > 16:
            raise InvalidArgument(f"sb={place} is not a block number")
        offset = int(place) * 1024
        return parse_superblock(_read(device, offset)), offset
    try:
        return parse_superblock(_read(device, OFFSET)), OFFSET
    except Corrupt as error:
        for block_size in (4096, 1024, 2048, 8192, 16384, 32768, 65536):
            for group in (1, 3, 5, 7, 9, 25):
                offset = group * block_size * 8 * block_size + (1024 if block_size == 1024 else 0)
                if offset + SIZE > device.size:
                    break
                try:
                    superblock = parse_superblock(_read(device, offset))
                except (Corrupt, Unsupported, SourceError):
                    continue
                if superblock.block_size == block_size and superblock.group_number == group:
                    damage.add("superblock", f"{error}; the copy in group {group} was used")
                    return superblock, offset
        raise


def _read(device: Source, offset: int) -> bytes:
    if offset + SIZE > device.size:
        raise Corrupt("superblock", "device size", found=device.size, expected=f"at least {offset + SIZE}")
    return device.read(offset, SIZE)


def journal_runs(device: Source, superblock: Superblock, offset: int, limits: Limits) -> list[tuple[int, int, int]]:
    """Return (logical, physical, count) of the journal's blocks on `device`, holes left out.

    The copy of its map in the superblock is used when its inode is damaged.
    Raises: Corrupt, SourceError.
    """
    from guestkit.fs.ext4.blockmap import BlockMap
    from guestkit.fs.ext4.content import mapping
    from guestkit.fs.ext4.extents import ExtentTree

    fs = Ext4(device, superblock, offset // superblock.block_size, State(), limits)
    size = superblock.block_size
    try:
        inode = fs.table.read(superblock.journal_inum, special=True)
        map = mapping(fs.blocks, fs.table, inode)
        runs = _bounded(map.runs(0, _length(inode.size, size)))
    except Corrupt:
        saved = superblock.journal_blocks
        if superblock.journal_backup_type not in (0, 1) or not any(saved):
            raise
        length = int.from_bytes(saved[60:64], "little") << 32 | int.from_bytes(saved[64:68], "little")
        count = _length(length, size)
        if saved[:2] == b"\x0a\xf3":
            runs = _bounded(ExtentTree(fs.blocks, saved[:60], superblock.journal_inum, 0).runs(0, count))
        else:
            runs = _bounded(BlockMap(fs.blocks, saved[:60]).runs(0, count))
    return [(logical, physical, count) for logical, physical, count in runs if physical]


def _length(size: int, block_size: int) -> int:
    blocks = -(-size // block_size)
    if blocks > _MOST_JOURNAL:
        raise Corrupt("journal inode", "i_size", found=size, expected=f"at most {_MOST_JOURNAL} blocks")
    return blocks


def _bounded(runs: Iterator[Run]) -> list[Run]:
    budget = Budget(_MOST_RUNS, "journal map")
    kept = []
    for run in runs:
        budget.spend()
        kept.append(run)
    return kept


def _fast_commits(recovery: Recovery, device: Source, offset: int, limits: Limits) -> Recovery:
    from guestkit.fs.ext4.fastcommit import apply

    superblock = parse_superblock(recovery.source.read(offset, SIZE))
    return apply(recovery, device, superblock, offset // superblock.block_size, limits)


def _recover(
    device: Source, superblock: Superblock, offset: int, limits: Limits, damage: Problems
) -> tuple[Source, State, tuple[int, int]]:  # fmt: skip
    """Return the device as it is after recovery, how that went, and what it took: Recovery.taken."""
    if not superblock.has_journal:
        return device, State("dirty-not-replayed", "the journal that it needs is not there"), (0, 0)
    if not superblock.journal_inum:
        if superblock.needs_recovery:
            raise Unsupported("ext journal on another device (external journal) that needs recovery")
        return device, State(), (0, 0)
    from guestkit.fs.ext4.journal import recover

    try:
        runs = journal_runs(device, superblock, offset, limits)
        recovery = recover(device, superblock.block_size, superblock.blocks_count, True, runs)
        if recovery.fast and recovery.complete:
            recovery = _fast_commits(recovery, device, offset, limits)
    except (WouldBlock, Unsupported):
        raise
    except GuestkitError as error:
        error.within("journal")
        damage.add("journal", error)
        return device, State("dirty-not-replayed", str(error)), (0, 0)
    for problem in recovery.problems:
        damage.add("journal", problem)
    return resolve(recovery.source), recovery.state, recovery.taken
