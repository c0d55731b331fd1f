"""Keys and values: what cells hold. Names are text; lookup does not regard case, as Windows has it.

Spec: regf, "Key node", "Index leaf" to "Index root", "Key value", "Big data". Names of 8 bits are Latin-1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from guestkit.errors import Corrupt, GuestkitError, NotFound, Unsupported
from guestkit.hive.cells import NONE, Cells
from guestkit.layout import Layout

REG_NONE, REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD, REG_DWORD_BE, REG_LINK, REG_MULTI_SZ = range(8)
REG_QWORD = 11
EPOCH = 116_444_736_000_000_000  # 1970 in units of 100 ns since 1601
LINK = 0x10
_COMPRESSED, _PREDEFINED = 0x20, 0x40
_LEAST_KEY, _LEAST_VALUE = 76, 20  # bytes of the cells' data
LEAST_CELL = _LEAST_KEY + 4  # bytes that a key takes at least
_USUAL_NAME = 512  # bytes; longer ones cost another read
_MOST_LEAF = 4 + 8 * 0xFFFF  # bytes
_MOST_SUBKEYS = 1 << 19  # of one key
_MOST_VALUES = 1 << 20  # of one key
_MOST_DATA = 64 << 20  # bytes of one value; Windows asks for at most one MiB
_SEGMENT = 16344  # bytes of big data in one cell
_RESIDENT = 0x80000000
_LAYERED = 6  # the minor version from which keys may have layers

_NK = Layout(
    "key_node",
    _LEAST_KEY,
    "<",
    signature=(0, "2s"),
    flags=(2, "H"),
    last_written=(4, "Q"),
    access=(12, "B"),
    layer=(13, "B"),
    parent=(16, "I"),
    subkeys=(20, "I"),
    subkeys_list=(28, "I"),
    values=(36, "I"),
    values_list=(40, "I"),
    class_name=(48, "I"),
    name_length=(72, "H"),
    class_length=(74, "H"),
)
_VK = Layout(
    "key_value",
    _LEAST_VALUE,
    "<",
    signature=(0, "2s"),
    name_length=(2, "H"),
    data_size=(4, "I"),
    data_offset=(8, "I"),
    data_type=(12, "I"),
    flags=(16, "H"),
)


def fold(name: str) -> str:
    """A name for comparison: upper case, one character for one."""
    upper = name.upper()
    if len(upper) == len(name):
        return upper
    return "".join(each.upper() if len(each.upper()) == 1 else each for each in name)


def name_hash(name: str) -> int:
    """The hash of a name in an "lh" list."""
    total = 0
    for unit in struct.iter_unpack("<H", fold(name).encode("utf-16-le", "surrogatepass")):
        total = total * 37 + unit[0] & 0xFFFFFFFF
    return total


def _text(raw: bytes, compressed: bool) -> str:
    return raw.decode("latin-1") if compressed else raw[: len(raw) & ~1].decode("utf-16-le", "surrogatepass")


class Value:
    """One value of a key. `size`: bytes of its data, which is read when it is asked for."""

    __slots__ = ("_cells", "_minor", "_raw", "name", "size", "type")

    def __init__(self, cells: Cells, minor: int, offset: int) -> None:
        """Raises: Corrupt."""
        raw = cells.read(offset, _LEAST_VALUE, _LEAST_VALUE + _USUAL_NAME)
        signature, length, size, _, kind, flags = _VK.unpack_from(raw)
        where = f"value 0x{offset:x}"
        if signature != b"vk":
            raise Corrupt("key value", "signature", found=signature, expected=b"vk", where=where)
        if length > _USUAL_NAME:
            raw = cells.read(offset, _LEAST_VALUE + length, _LEAST_VALUE + length)
        if _LEAST_VALUE + length > len(raw):
            raise Corrupt("key value", "name length", found=length, where=where)
        self._cells = cells
        self._minor = minor
        self._raw = raw[:12]
        self.name = _text(raw[_LEAST_VALUE : _LEAST_VALUE + length], bool(flags & 1))  # "": the default value
        self.type: int = kind
        self.size: int = size & ~_RESIDENT
        if size & _RESIDENT and self.size > 4:
            raise Corrupt("key value", "data size", found=self.size, expected="at most 4 bytes", where=where)
        if not size & _RESIDENT and size > min(cells.end, _MOST_DATA):
            raise Corrupt("key value", "data size", found=size, expected=f"at most {_MOST_DATA}", where=where)

    @property
    def data(self) -> bytes:
        """Raises: Corrupt."""
        size, offset = struct.unpack_from("<II", self._raw, 4)
        if size & _RESIDENT:
            return self._raw[8 : 8 + self.size]
        if not size:
            return b""
        try:
            if size > _SEGMENT and self._minor > 3:
                return self._big(offset)
            return self._cells.read(offset, size, size)
        except Corrupt as error:
            error.within(f"value {self.name!r}")
            raise

    def _big(self, offset: int) -> bytes:
        raw = self._cells.read(offset, 8, 8)
        signature, count, place = struct.unpack_from("<2sHI", raw)
        wanted = -(-self.size // _SEGMENT)
        if signature != b"db" or count != wanted:
            raise Corrupt("big data", "segments", found=(signature, count), expected=(b"db", wanted))
        parts = []
        left = self.size
        for (segment,) in struct.iter_unpack("<I", self._cells.read(place, 4 * count, 4 * count)):
            take = min(left, _SEGMENT)
            parts.append(self._cells.read(segment, take, take))
            left -= take
        return b"".join(parts)

    @property
    def text(self) -> str:
        """A string up to its NUL; lone surrogates are kept. Raises: Corrupt, also for another type."""
        if self.type not in (REG_SZ, REG_EXPAND_SZ, REG_LINK):
            raise Corrupt(f"value {self.name!r}", "type", found=self.type, expected="a string")
        data = self.data
        return data[: len(data) & ~1].decode("utf-16-le", "surrogatepass").partition("\0")[0]

    @property
    def texts(self) -> list[str]:
        """The strings of a REG_MULTI_SZ. Raises: as text."""
        if self.type != REG_MULTI_SZ:
            raise Corrupt(f"value {self.name!r}", "type", found=self.type, expected="several strings")
        data = self.data
        found = data[: len(data) & ~1].decode("utf-16-le", "surrogatepass").split("\0")
        return found[: found.index("")] if "" in found else found

    @property
    def number(self) -> int:
        """Raises: Corrupt, also for a value that is no number."""
        length = {REG_DWORD: 4, REG_DWORD_BE: 4, REG_QWORD: 8}.get(self.type)
        if self.size != length:
            raise Corrupt(f"value {self.name!r}", "type", found=self.type, expected="a number")
        return int.from_bytes(self.data, "big" if self.type == REG_DWORD_BE else "little")


class Key:
    """One key. `written`: nanoseconds since 1970."""

    __slots__ = ("_cells", "_class", "_minor", "_subkeys", "_values", "flags", "name", "offset", "parent", "written")

    def __init__(self, cells: Cells, minor: int, offset: int) -> None:
        """Raises: Corrupt; Unsupported for a key that stands for others in a layer."""
        raw = cells.read(offset, _LEAST_KEY, _LEAST_KEY + _USUAL_NAME)
        signature, flags, written, _, layer, parent, subkeys, subkeys_list, values, values_list, about, length, more = (
            _NK.unpack_from(raw)
        )
        self._cells = cells
        self._minor = minor
        self.offset = offset
        if signature != b"nk":
            raise Corrupt("key node", "signature", found=signature, expected=b"nk", where=self.where)
        if length > _USUAL_NAME:
            raw = cells.read(offset, _LEAST_KEY + length, _LEAST_KEY + length)
        if _LEAST_KEY + length > len(raw) or not length:
            raise Corrupt("key node", "key name length", found=length, where=self.where)
        if minor >= _LAYERED and layer & 3:
            raise Unsupported("a layered registry key", bit=layer & 3, where=self.where)
        self.name = _text(raw[_LEAST_KEY : _LEAST_KEY + length], bool(flags & _COMPRESSED))
        self.flags: int = flags
        self.parent: int = parent  # offset
        self.written: int = (written - EPOCH) * 100
        self._subkeys: tuple[int, int] = subkeys, subkeys_list
        # a predefined handle stands where others count their values
        self._values: tuple[int, int] = (0, NONE) if flags & _PREDEFINED else (values, values_list)
        self._class: tuple[int, int] = about, more

    @property
    def where(self) -> str:
        return f"key 0x{self.offset:x}"

    @property
    def count(self) -> int:
        """The number of subkeys that the key tells."""
        return self._subkeys[0]

    @property
    def class_name(self) -> str:
        """Raises: Corrupt."""
        offset, length = self._class
        if not length or offset == NONE:
            return ""
        return _text(self._cells.read(offset, length, length), False)

    def __repr__(self) -> str:
        return f"<Key {self.name!r}>"

    # subkeys

    def _listed(self) -> Iterator[tuple[int, int | None]]:
        """Yield (offset, hash where there is one) of each subkey. Raises: Corrupt at the end, behind what is good."""
        count, offset = self._subkeys
        if not count:
            return
        left = count
        flaw: Corrupt | None = None
        if count > min(self._cells.end // LEAST_CELL, _MOST_SUBKEYS):
            raise Corrupt("key node", "number of subkeys", found=count, where=self.where)
        top = self._cells.read(offset, 4, _MOST_LEAF)
        leaves = self._leaves(top) if top[:2] == b"ri" else iter((top,))
        while True:
            try:
                leaf = next(leaves, None)
                if leaf is None:
                    break
                for each in self._leaf(leaf):
                    left -= 1
                    if left < 0:
                        raise Corrupt("subkeys list", "elements", found=f"more than {count}", where=self.where)
                    yield each
            except Corrupt as error:
                flaw = flaw or error
                if left < 0:
                    break
        if flaw is None and left:
            flaw = Corrupt("subkeys list", "elements", found=count - left, expected=count, where=self.where)
        if flaw is not None:
            raise flaw

    def _leaves(self, root: bytes) -> Iterator[bytes]:
        """The leaves of an index root. A damaged one is skipped. Raises: Corrupt at the end."""
        (count,) = struct.unpack_from("<H", root, 2)
        if 4 + 4 * count > len(root):
            raise Corrupt("index root", "elements", found=count, where=self.where)
        flaw: Corrupt | None = None
        met: set[int] = set()
        for (offset,) in struct.iter_unpack("<I", root[4 : 4 + 4 * count]):
            try:
                if offset in met:
                    raise Corrupt("index root", "element", found=offset, expected="each leaf once", where=self.where)
                met.add(offset)
                leaf = self._cells.read(offset, 4, _MOST_LEAF)
                if leaf[:2] == b"ri":
                    raise Corrupt("index root", "element", found=b"ri", expected="a leaf", where=self.where)
            except Corrupt as error:
                flaw = flaw or error
                continue
            yield leaf
        if flaw is not None:
            raise flaw

    def _leaf(self, raw: bytes) -> Iterator[tuple[int, int | None]]:
        kind, count = struct.unpack_from("<2sH", raw)
        size = {b"li": 4, b"lf": 8, b"lh": 8}.get(kind)
        if size is None or 4 + size * count > len(raw):
            raise Corrupt("subkeys list", "signature", found=(kind, count), expected="li, lf or lh", where=self.where)
        body = raw[4 : 4 + size * count]
        if kind == b"li":
            for (offset,) in struct.iter_unpack("<I", body):
                yield offset, None
        else:
            for offset, hint in struct.iter_unpack("<II", body):
                yield offset, hint if kind == b"lh" else None

    def subkeys(self) -> Iterator[Key]:
        """Yield the subkeys in their order, which is that of their upper-case names.

        Raises: Corrupt, Unsupported at the end, after all that is good.
        """
        flaw: GuestkitError | None = None
        try:
            for offset, _ in self._listed():
                try:
                    key = Key(self._cells, self._minor, offset)
                except (Corrupt, Unsupported) as error:
                    flaw = flaw or error
                    continue
                yield key
        except Corrupt as error:
            flaw = flaw or error
        if flaw is not None:
            raise flaw

    def subkey(self, name: str) -> Key:
        """Raises: NotFound; Corrupt, Unsupported where damage may hide the name."""
        wanted = fold(name)
        hashed = name_hash(name)
        flaw: GuestkitError | None = None
        others = []
        try:
            for offset, hint in self._listed():
                if hint is not None and hint != hashed:
                    others.append(offset)
                    continue
                try:
                    key = Key(self._cells, self._minor, offset)
                except (Corrupt, Unsupported) as error:
                    flaw = flaw or error
                    continue
                if fold(key.name) == wanted:
                    return key
        except Corrupt as error:
            flaw = flaw or error
        for offset in others:  # hashes are hints: another upper-case table may have made them
            try:
                key = Key(self._cells, self._minor, offset)
            except (Corrupt, Unsupported) as error:
                flaw = flaw or error
                continue
            if fold(key.name) == wanted:
                return key
        raise flaw or NotFound(f"no key {name!r}", where=self.where)

    # values

    def values(self) -> Iterator[Value]:
        """Yield the values in their order. Raises: Corrupt at the end, after all that is good."""
        count, offset = self._values
        if not count:
            return
        if count > min(self._cells.end // 8, _MOST_VALUES):
            raise Corrupt("key node", "number of values", found=count, where=self.where)
        flaw: Corrupt | None = None
        for (place,) in struct.iter_unpack("<I", self._cells.read(offset, 4 * count, 4 * count)):
            try:
                value = Value(self._cells, self._minor, place)
            except Corrupt as error:
                flaw = flaw or error.within(self.where)
                continue
            yield value
        if flaw is not None:
            raise flaw

    def value(self, name: str) -> Value:
        """The value of that name, "" for the default one. Raises: NotFound; Corrupt where damage may hide it."""
        wanted = fold(name)
        for value in self.values():
            if fold(value.name) == wanted:
                return value
        raise NotFound(f"no value {name!r}", where=self.where)
