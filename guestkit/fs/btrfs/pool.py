"""Pool: the devices of one filesystem as one space of logical addresses, each byte in one or several copies.

Chunks are looked up in the chunk tree as they are needed. What is read through `read` is not verified: whoever knows
the checksum tries copy after copy. With parity, copies behind the first are made from the rest of their row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from guestkit.errors import Corrupt, GuestkitError, SourceError
from guestkit.fs.base import Problems
from guestkit.fs.btrfs import chunks as c
from guestkit.fs.btrfs.checksums import checksum
from guestkit.fs.btrfs.chunks import (
    CHUNK_ITEM,
    FIRST_CHUNK_TREE,
    Chunk,
    ChunkMap,
    Piece,
    Stripe,
    parse_chunk,
    parse_system_chunks,
)
from guestkit.fs.btrfs.parity import recover
from guestkit.fs.btrfs.superblock import Superblock
from guestkit.limits import Limits
from guestkit.source import Source

if TYPE_CHECKING:
    from guestkit.fs.btrfs.tree import Items


_MOST_GUESSES = 32  # data stripes of a row that are taken for bad in turn, beside the one that is read
_WHOLE_COPIES = (0, c.DUP, c.RAID1, c.RAID1C3, c.RAID1C4)


class Member(NamedTuple):
    """A device of the filesystem. `seed`: it belongs to one on which this one stands; its nodes carry `node_fsid`."""

    uuid: bytes
    source: Source
    node_fsid: bytes
    seed: bool = False


class Pool:
    """Reads logical addresses. `members`: the devices that are there, by device id."""

    def __init__(self, superblock: Superblock, members: Mapping[int, Member], limits: Limits, damage: Problems) -> None:
        """Raises: Corrupt, Unsupported for the system chunks in the superblock."""
        self.damage = damage
        self.superblock = superblock
        self.members = dict(members)
        self.node_fsids = {superblock.node_fsid, *(member.node_fsid for member in members.values())}
        self.seeds: dict[tuple[int, bytes], Member] = {}  # by device id and uuid, while it is not known which are ours
        self.limits = limits
        self.csum = checksum(superblock.csum_type)
        self.chunks = ChunkMap()
        for chunk in parse_system_chunks(superblock.system_chunks, superblock.sector_size):
            self.chunks.add(chunk)
        self.chunk_tree: Items | None = None  # set once it can be read; before, only system chunks are known

    def system_chunk(self, logical: int) -> Chunk:
        """The chunk that holds a node of the chunk tree itself. Raises: Corrupt."""
        chunk = self.chunks.find(logical)
        if chunk is None:
            raise Corrupt(f"no system chunk holds logical address {logical}")
        return chunk

    def chunk(self, logical: int) -> Chunk:
        """The chunk that holds `logical`. Raises: Corrupt when there is none; as the chunk tree's nodes."""
        chunk = self.chunks.find(logical)
        if chunk is None and self.chunk_tree is not None:
            found = self.chunk_tree.before((FIRST_CHUNK_TREE, CHUNK_ITEM, logical + 1))
            if found is not None and found[:2] == (FIRST_CHUNK_TREE, CHUNK_ITEM):
                chunk = parse_chunk(found[2], found[3], self.superblock.sector_size)
                if logical < chunk.end:
                    self.chunks.add(chunk)
                else:
                    chunk = None
        if chunk is None:
            raise Corrupt(f"no chunk holds logical address {logical}")
        return chunk

    def device(self, stripe: Stripe) -> Source:
        """Raises: SourceError when the device is not there."""
        member = self.members.get(stripe.devid)
        if member is None or member.uuid != stripe.uuid:
            member = self.seeds.get((stripe.devid, stripe.uuid))
        if member is None:
            raise SourceError(f"device {stripe.devid} of the Btrfs filesystem is missing")
        return member.source

    # reading

    def read(self, chunk: Chunk, logical: int, length: int, way: int = 0) -> bytes:
        """Return the range, which must lie inside `chunk`, by the `way`-th way there is (see `ways`).

        Raises: SourceError where a device is missing or too short, and nothing can stand for it.
        """
        if chunk.profile in _WHOLE_COPIES:
            stripe = chunk.stripes[way]
            return self.device(stripe).read(stripe.offset + logical - chunk.start, length)
        buf = bytearray(length)
        self.read_into(chunk, logical, memoryview(buf), way)
        return bytes(buf)

    def read_into(self, chunk: Chunk, logical: int, buf: memoryview, way: int = 0) -> None:
        """As read(), into `buf`."""
        if chunk.profile in _WHOLE_COPIES:
            stripe = chunk.stripes[way]
            self.device(stripe).read_into(stripe.offset + logical - chunk.start, buf)
            return
        for piece in chunk.pieces(logical, len(buf), 0 if chunk.parities else way):
            part = buf[piece.logical - logical :][: piece.length]
            if way and chunk.parities:
                part[:] = self._recovered(chunk, piece, way)
            else:
                self.device(piece.stripe).read_into(piece.offset, part)

    def ways(self, chunk: Chunk) -> int:
        """How many ways there are to read a byte: its copies; or as it stands and then from the rest of its row.

        With two parities the second way uses P, the third Q, the further ones both, as if another data stripe
        of the row were bad too.
        """
        if not chunk.parities:
            return chunk.copies
        return 2 if chunk.parities == 1 else 2 + min(chunk.width, _MOST_GUESSES)

    def good(
        self, chunk: Chunk, logical: int, length: int, check: Callable[[bytes], GuestkitError | None], first: int = 0
    ) -> bytes:
        """Return the first of the ways to read the range, inside the chunk, of which `check` finds nothing to say.

        `first`: the number of the way to begin with. That a copy was bad is put into the problems.
        Raises: what `check` said of the first, or SourceError where nothing could be read.
        """
        if logical + length > chunk.end:
            raise Corrupt(f"{length} bytes at logical address {logical} reach beyond their chunk")
        flaw: GuestkitError | None = None
        for way in range(first, self.ways(chunk)):
            try:
                data = self.read(chunk, logical, length, way)
            except GuestkitError as error:
                flaw = flaw or error
                continue
            found = check(data)
            if found is None:
                if flaw is not None and not isinstance(flaw, SourceError):
                    self.replaced(logical, flaw)
                return data
            if flaw is None or isinstance(flaw, SourceError):
                flaw = found
        raise flaw or SourceError(f"no copy of logical address {logical} is left")

    def replaced(self, logical: int, flaw: GuestkitError) -> None:
        """Tell that a copy of what stands at a logical address is bad, and another was used."""
        self.damage.add(f"logical address {logical}", f"{flaw.message}; another copy was used")

    def _recovered(self, chunk: Chunk, piece: Piece, way: int) -> bytes:
        """Raises: SourceError when too few of the row are there."""
        row, place, inside = chunk.row(piece.logical)
        width = chunk.width
        bad = {place}
        if way == 2:
            bad.add(width)
        elif way > 2:
            other = way - 3
            bad.add(other + (other >= place))
        known: dict[int, bytes] = {}
        failure: SourceError | None = None
        for each in range(width + chunk.parities):
            if each in bad:
                continue
            stripe = chunk.stripe(row, each)
            try:
                at = stripe.offset + row * chunk.stripe_len + inside
                known[each] = self.device(stripe).read(at, piece.length)
            except SourceError as error:
                failure = failure or error
        made = recover(known, place, width)
        if made is None:
            raise failure or SourceError(f"row {row} of chunk {chunk.start} cannot be made again")
        return made

    def pieces(self, logical: int, length: int, copy: int = 0) -> Iterator[tuple[Chunk, Piece]]:
        """Yield where the range stands, over as many chunks as it takes. Raises: Corrupt."""
        while length:
            chunk = self.chunk(logical)
            take = min(length, chunk.end - logical)
            for piece in chunk.pieces(logical, take, copy):
                yield chunk, piece
            logical += take
            length -= take
