"""The XFS reader. `open` finds a good superblock, has the log replayed, and gives the FileSystem.

Spec: XFS Algorithms & Data Structures. Options: "norecovery" leaves the log alone; "needsrepair" reads a filesystem
that its last repair left unfinished. An external log is the second source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from guestkit.errors import Corrupt, SourceError, Unsupported
from guestkit.fs.base import Problems, State
from guestkit.fs.xfs import features as f
from guestkit.fs.xfs.filesystem import Xfs
from guestkit.fs.xfs.superblock import MAX_SECTOR, Superblock, parse_superblock
from guestkit.limits import Limits
from guestkit.resolve import resolve
from guestkit.source import Source

_OFF = ("", "0", "no", "false")
_TIB = 1 << 40


def open(sources: Sequence[Source], limits: Limits, options: Mapping[str, str]) -> Xfs:
    """Open the filesystem on `sources[0]`.

    Raises: Corrupt when no copy of the superblock is good; Unsupported for a feature that is not read, with its name
    and bit, for a filesystem that needs to be repaired, and for a log on another device that is not given.
    """
    device = resolve(sources[0])
    damage = Problems()
    superblock, primary = _find_superblock(device, damage)
    if superblock.needs_repair and not _given(options, "needsrepair"):
        raise Unsupported("XFS filesystem that needs xfs_repair (option needsrepair reads it)", bit=f.NEEDSREPAIR)
    if superblock.metadir and superblock.rt_blocks:
        raise Unsupported("XFS realtime groups", bit=f.METADIR)
    if superblock.data_blocks << superblock.block_log > device.size:
        damage.add("superblock", f"the filesystem has {superblock.data_blocks} blocks, the device is smaller")
    log = resolve(sources[1]) if len(sources) > 1 else None
    skip = _given(options, "norecovery", "nologrecovery")
    recovered, state = _recover(device, log, superblock, limits, damage, skip)
    if state.kind == "replayed":
        recovered = resolve(recovered)
        if primary:
            superblock = read_superblock(recovered)
    fs = Xfs(recovered, superblock, state, limits, counted=primary and state.kind != "dirty-not-replayed")
    for problem in damage.first():
        fs.damage.add(*problem)
    return fs


def read_superblock(device: Source, offset: int = 0, *, copy: bool = False) -> Superblock:
    """Read and check the superblock at byte `offset`; `copy`: that of a later allocation group.

    Raises: as parse_superblock; SourceError.
    """
    return parse_superblock(device.read(offset, max(0, min(MAX_SECTOR, device.size - offset))), copy=copy)


def _given(options: Mapping[str, str], *names: str) -> bool:
    return any(options.get(name, "no").lower() not in _OFF[1:] for name in names)


def _find_superblock(device: Source, damage: Problems) -> tuple[Superblock, bool]:
    """(superblock, whether it is the first) of the first one, or of a copy that is good."""
    try:
        return read_superblock(device), True
    except Corrupt as error:
        for offset in _likely(device):
            try:
                copy = read_superblock(device, offset, copy=True)
                if offset % (copy.ag_blocks << copy.block_log):
                    continue
                # mkfs tells only the copies in the middle and at the end where the root is
                for group in (copy.ag_count - 1, copy.ag_count // 2):
                    at = group * copy.ag_blocks << copy.block_log
                    found = read_superblock(device, at, copy=True)
                    if found.root_ino and found.ag_blocks == copy.ag_blocks and found.meta_uuid == copy.meta_uuid:
                        damage.add("superblock", f"{error}; the copy in allocation group {group} was used")
                        return found, False
            except (Corrupt, Unsupported, SourceError):
                continue
        raise


def _likely(device: Source) -> Iterator[int]:
    """Where a second allocation group may begin: as the damaged superblock says, then as mkfs lays them out."""
    head = device.read(0, min(512, device.size)).ljust(512, b"\0")
    told = int.from_bytes(head[4:8], "big") * int.from_bytes(head[84:88], "big")
    if 0 < told < device.size:
        yield told
    yield _TIB
    for parts in (4, 2, 3, 8, 16, 32):
        for block in (4096, 1024, 2048, 512, 8192, 16384, 32768, 65536):
            blocks = device.size // block
            for each in {-(-blocks // parts), blocks // parts}:
                yield each * block


def _recover(
    device: Source, log: Source | None, superblock: Superblock, limits: Limits, damage: Problems, skip: bool
) -> tuple[Source, State]:
    """(the device as its log makes it, the state). Raises: Unsupported for a log that is not there."""
    from guestkit.fs.xfs.log import recover

    if superblock.external_log and log is None:
        if not skip:  # only the log itself tells whether there is something to replay
            raise Unsupported("XFS log on another device, external log (option norecovery reads without it)")
        return device, State("dirty-not-replayed", "the log is on another device and was not looked at")
    recovered, state = recover(device, superblock, limits, Problems() if skip else damage, log)
    if state.kind == "clean":
        return device, state
    if skip:
        return device, State("dirty-not-replayed", "recovery was switched off")
    f.refuse_unknown_log(superblock.log_incompat)
    return recovered, state
