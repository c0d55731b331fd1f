"""Changed: a tree with changes over it, which stay in memory. What a replayed log leaves is read through it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from guestkit.errors import GuestkitError, Unsupported
from guestkit.fs.btrfs.tree import Entry, Found, Items, Key
from guestkit.limits import Budget

MOST_CHANGES = 150_000  # items, some 60 MiB; a log that changes more is not replayed


class Changed(Items):
    """The items of `base` as changed by put() and delete(), until freeze(); then only reads happen."""

    def __init__(self, base: Items, budget: Budget | None = None) -> None:
        """`budget`: is spent on the deleted items that are passed over, until freeze()."""
        self.base = base
        self._budget = budget
        self._changes: dict[Key, bytes | None] = {}  # None: deleted
        self._keys: list[Key] = []
        self._live: list[Key] = []  # once frozen: those that are not deleted
        self._below: dict[Key, Found | None] | None = None  # once frozen: what comes before a deleted item of `base`

    def put(self, key: Key, item: bytes) -> None:
        """Raises: Unsupported when there are too many changes."""
        self._change(key, item)

    def delete(self, key: Key) -> None:
        """Remove an item, if it is there. Raises: Unsupported when there are too many changes."""
        self._change(key, None)

    def _change(self, key: Key, item: bytes | None) -> None:
        if key not in self._changes:
            if len(self._keys) >= MOST_CHANGES:
                raise Unsupported(f"a log tree with more than {MOST_CHANGES} changes")
            if self._keys and key < self._keys[-1]:
                insort(self._keys, key)
            else:
                self._keys.append(key)
        self._changes[key] = item

    def freeze(self) -> None:
        """End the time of changes."""
        self._budget = None
        self._below = {}
        self._live = [key for key in self._keys if self._changes[key] is not None]

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: Key) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return self.base.get(key)

    def before(self, key: Key) -> Found | None:
        keys = self._live if self._below is not None else self._keys
        at = bisect_left(keys, key) - 1
        while at >= 0 and self._changes[keys[at]] is None:
            self._spend(1)
            at -= 1
        below = self._kept_before(key)
        if at < 0:
            return below
        mine = keys[at]
        if below is not None and below[:3] > mine:
            return below
        item = self._changes[mine]
        assert item is not None
        return (*mine, item)

    def _kept_before(self, key: Key) -> Found | None:
        """The last item of `base` below `key` that is not deleted, as `base` has it."""
        passed: list[Key] = []
        below = self.base.before(key)
        while below is not None and self._changes.get(below[:3], b"") is None:
            self._spend(1)
            here = below[:3]
            if self._below is not None and here in self._below:
                below = self._below[here]
                break
            passed.append(here)
            below = self.base.before(here)
        if self._below is not None:
            self._below.update(dict.fromkeys(passed, below))
        return below

    def _spend(self, steps: int) -> None:
        if self._budget is not None:
            self._budget.spend(steps)

    def runs(
        self, start: Key, end: Key, flaws: list[GuestkitError] | None = None
    ) -> Iterator[tuple[bytes, list[Entry]]]:
        keys, changes = self._keys, self._changes
        at, behind = bisect_left(keys, start), bisect_left(keys, end)
        self._spend(behind - at)
        for buffer, entries in self.base.runs(start, end, flaws):
            if at == behind or keys[at] > entries[-1][:3]:
                yield buffer, entries
                continue
            done = 0
            made: list[Key] = []
            while at < behind and keys[at] <= entries[-1][:3]:
                key = keys[at]
                upto = bisect_left(entries, key, done)
                if upto > done:
                    yield from self._joined(made)
                    made = []
                    yield buffer, entries[done:upto]
                done = upto + 1 if upto < len(entries) and entries[upto][:3] == key else upto
                if changes[key] is not None:
                    made.append(key)
                at += 1
            yield from self._joined(made)
            if done < len(entries):
                yield buffer, entries[done:]
        yield from self._joined([key for key in keys[at:behind] if changes[key] is not None])

    def _joined(self, keys: list[Key]) -> Iterator[tuple[bytes, list[Entry]]]:
        """The changed items of `keys` as one run."""
        if not keys:
            return
        parts: list[bytes] = []
        entries: list[Entry] = []
        size = 0
        for key in keys:
            item = self._changes[key]
            assert item is not None
            entries.append((*key, size, len(item)))
            parts.append(item)
            size += len(item)
        yield b"".join(parts), entries
