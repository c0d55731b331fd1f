"""POSIX basic and extended regular expressions over bytes, with the GNU extensions that grep has.

A pattern is compiled to a nondeterministic automaton that is made deterministic as lines are read, so that a line
costs time in its length alone, whatever the pattern and the line: the line is the guest's. Only patterns with
back-references, which no such automaton can do, go to Python's engine, without nested repetition and for lines of
bounded length. Specification: POSIX.1-2017 base definitions chapter 9; GNU grep's manual, section 3. Bytes are
characters, as in the C locale. Left out: collating elements of several characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from guestkit.guestfs.search import bracket

_MOST_NODES = 20_000
_MOST_STATES = 2_000
_MOST_DEPTH = 100
_DUP_MAX = 32_767
_MOST_REFERENCED_LINE = 4096  # bytes of a line that a pattern with back-references is tried on
_END = 256

_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SPACE = frozenset(b" \t\n\v\f\r")
_ALL = frozenset(range(256))


class BadRegex(ValueError):
    """The pattern is not a regular expression; the text is grep's."""


# a node of the syntax tree: ("set", bytes) ("cat", [..]) ("alt", [..]) ("rep", node, low, high) ("at", kind)
# ("group", number, node) ("ref", number)
_Tree = tuple[Any, ...]


class _Parser:
    def __init__(self, pattern: bytes, extended: bool, insensitive: bool) -> None:
        self.pattern = pattern
        self.extended = extended
        self.insensitive = insensitive
        self.at = 0
        self.groups = 0
        self.closed: set[int] = set()
        self.referenced = False

    def token(self) -> tuple[str, int]:
        """The next token: an operator as text, or ("", byte) for a character; ("end", 0) behind the last."""
        pattern, at = self.pattern, self.at
        if at >= len(pattern):
            return "end", 0
        byte = pattern[at]
        char = chr(byte)
        if char == "\\":
            if at + 1 >= len(pattern):
                raise BadRegex("Trailing backslash")
            self.at = at + 2
            after = chr(pattern[at + 1])
            if after in "(){}|+?":
                return ("", ord(after)) if self.extended else (after, 0)
            if after in "123456789" or after in "<>bBwWsS`'":
                return "\\" + after, 0
            return "", pattern[at + 1]
        self.at = at + 1
        if char in "*[.^$" or (self.extended and char in "(){}|+?"):
            return char, 0
        return "", byte

    def peek(self) -> tuple[str, int]:
        at = self.at
        found = self.token()
        self.at = at
        return found

    def parse(self) -> _Tree:
        tree = self.alternatives(0)
        if self.peek()[0] != "end":
            raise BadRegex("Unmatched ) or \\)")
        return tree

    def alternatives(self, depth: int) -> _Tree:
        if depth > _MOST_DEPTH:
            raise BadRegex("Regular expression too big")
        branches = [self.branch(depth)]
        while self.peek()[0] == "|":
            self.token()
            branches.append(self.branch(depth))
        return branches[0] if len(branches) == 1 else ("alt", branches)

    def branch(self, depth: int) -> _Tree:
        items: list[_Tree] = []
        start = True  # where * and, in a basic expression, ^ have other meanings
        while True:
            kind, byte = self.peek()
            if kind in ("end", "|") or (kind == ")" and (depth or not self.extended)):
                return ("cat", items)
            self.token()
            if kind in ("*", "+", "?", "{"):
                if start or not items:
                    # nothing to repeat: extended expressions take it for nothing, basic ones for a character
                    if not self.extended or (kind == "{" and self.bounds(kind)[0] == -1):
                        items.append(self.members(frozenset((ord(kind),))))
                        start = False
                    continue
                low, high = self.bounds(kind)
                if low == -1:  # a { that opens no interval
                    items.append(self.members(frozenset(b"{")))
                else:
                    items[-1] = ("rep", items[-1], low, high)
                continue
            items.append(self.item(kind, byte, start, depth))
            start = not self.extended and items[-1][0] == "at"

    def bounds(self, kind: str) -> tuple[int, int]:
        """(least, most or -1) of a repetition."""
        if kind != "{":
            return {"*": (0, -1), "+": (1, -1), "?": (0, 1)}[kind]
        match = re.compile(rb"(\d*)(,?)(\d*)" + (rb"\}" if self.extended else rb"\\\}")).match(self.pattern, self.at)
        if not match or not (match[1] or match[2]):
            if self.extended:
                return -1, -1
            raise BadRegex("Unmatched \\{" if b"\\}" not in self.pattern[self.at :] else "Invalid content of \\{\\}")
        self.at = match.end()
        low = int(match[1][:6] or b"0")
        high = low if not match[2] else (int(match[3][:6]) if match[3] else -1)
        if low > _DUP_MAX or high > _DUP_MAX:
            raise BadRegex("Regular expression too big")
        if 0 <= high < low:
            raise BadRegex("Invalid content of \\{\\}")
        return low, high

    def members(self, wanted: frozenset[int]) -> _Tree:
        """A set of bytes, with both cases of each letter where case does not matter."""
        if self.insensitive:
            wanted = frozenset(other for byte in wanted for other in _cases(byte))
        return ("set", wanted)

    def item(self, kind: str, byte: int, start: bool, depth: int) -> _Tree:
        if kind == "":
            return self.members(frozenset((byte,)))
        if kind == ".":
            return ("set", _ALL)
        if kind == "[":
            found = bracket(self.pattern, self.at - 1, b"^", escapes=False)
            if found is None:
                raise BadRegex("Unmatched [, [^, [:, [., or [=")
            negated = self.pattern[self.at : self.at + 1] == b"^"
            members, self.at = found
            if negated:
                return ("set", _ALL - self.members(_ALL - members)[1])
            return self.members(members)
        if kind == "(":
            self.groups += 1
            number = self.groups
            inside = self.alternatives(depth + 1)
            if self.token()[0] != ")":
                raise BadRegex("Unmatched ( or \\(")
            self.closed.add(number)
            return ("group", number, inside)
        if kind == "^":
            return ("at", "^") if self.extended or start else ("set", frozenset(b"^"))
        if kind == "$":
            after = self.peek()[0]
            anchor = self.extended or after in ("end", ")", "|")
            return ("at", "$") if anchor else ("set", frozenset(b"$"))
        if kind in (")", "}"):
            return ("set", frozenset((ord(kind),)))
        if kind in ("\\w", "\\W"):
            return ("set", _WORD if kind == "\\w" else _ALL - _WORD)
        if kind in ("\\s", "\\S"):
            return ("set", _SPACE if kind == "\\s" else _ALL - _SPACE)
        if kind[1] in "123456789":
            number = int(kind[1])
            if number not in self.closed:
                raise BadRegex("Invalid back reference")
            self.referenced = True
            return ("ref", number)
        return ("at", {"\\`": "^", "\\'": "$"}.get(kind, kind[1]))


class Regex:
    """A compiled pattern. `search(line)`: whether it matches anywhere in a line without its end."""

    def __init__(self, pattern: bytes, *, extended: bool = False, insensitive: bool = False) -> None:
        """Raises: BadRegex."""
        parser = _Parser(pattern, extended, insensitive)
        self._tree = parser.parse()
        self._python: re.Pattern[bytes] | None = None
        # the automaton: sets[n] is what node n takes, or None; after[n] where it leads; tests[n] an assertion
        self._sets: list[frozenset[int] | None] = []
        self._after: list[list[int]] = []
        self._tests: list[str] = []
        if parser.referenced:
            self._python = re.compile(_python(self._tree, False), re.DOTALL | (re.IGNORECASE if insensitive else 0))
            return
        self._accept = self._node()
        self._start = self._build(self._tree, self._accept)
        self._states: dict[tuple[frozenset[int], int], list[Any]] = {}
        self._first = self._state(frozenset((self._start,)), 0)

    # building, from the end backwards

    def _node(self, members: frozenset[int] | None = None, after: tuple[int, ...] = (), test: str = "") -> int:
        if len(self._sets) >= _MOST_NODES:
            raise BadRegex("Regular expression too big")
        self._sets.append(members)
        self._after.append(list(after))
        self._tests.append(test)
        return len(self._sets) - 1

    def _build(self, tree: _Tree, after: int) -> int:
        kind = tree[0]
        if kind == "set":
            return self._node(tree[1], (after,))
        if kind == "cat":
            for each in reversed(tree[1]):
                after = self._build(each, after)
            return after
        if kind == "alt":
            return self._node(None, tuple(self._build(each, after) for each in tree[1]))
        if kind == "group":
            return self._build(tree[2], after)
        if kind == "at":
            return self._node(None, (after,), tree[1])
        _, inside, low, high = tree
        if high == -1:
            loop = self._node()
            self._after[loop] = [self._build(inside, loop), after]
            after = loop
        else:
            end = after
            for _ in range(high - low):
                after = self._node(None, (self._build(inside, after), end))
        for _ in range(low):
            after = self._build(inside, after)
        return after

    # running

    def _state(self, nodes: frozenset[int], before: int) -> list[Any]:
        """The table of a state: `nodes` to go on from; `before`: 0 at the start, 1 behind a word's byte, 2 another."""
        state = self._states.get((nodes, before))
        if state is None:
            if len(self._states) >= _MOST_STATES:
                self._states.clear()
            state = [None] * (_END + 1)
            state.append((nodes, before))
            self._states[(nodes, before)] = state
        return state

    def _step(self, state: list[Any], byte: int) -> Any:
        """Where `byte` (or _END) leads: a state, True for a match, False for none."""
        nodes: frozenset[int]
        before: int
        nodes, before = state[_END + 1]  # the last slot holds what the state is
        word = byte != _END and byte in _WORD
        reached: set[int] = set()
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node in reached or (self._tests[node] and not _holds(self._tests[node], before, word, byte == _END)):
                continue
            reached.add(node)
            if self._sets[node] is None:
                pending.extend(self._after[node])
        result: Any
        if self._accept in reached:
            result = True
        elif byte == _END:
            result = False
        else:
            moved = {self._start}
            for node in reached:
                members = self._sets[node]
                if members is not None and byte in members:
                    moved.update(self._after[node])
            result = self._state(frozenset(moved), 1 if word else 2)
        state[byte] = result
        return result

    def search(self, line: bytes) -> bool:
        """Raises: BadRegex for a line that is too long for a pattern with back-references."""
        if self._python is not None:
            if len(line) > _MOST_REFERENCED_LINE:
                raise BadRegex(f"back-references are not tried on lines above {_MOST_REFERENCED_LINE} bytes")
            return self._python.search(line) is not None
        state: Any = self._first
        step = self._step
        for byte in line:
            after = state[byte]
            if after is None:
                after = step(state, byte)
            if after is True:
                return True
            state = after
        after = state[_END]
        return bool(step(state, _END) if after is None else after)


def _cases(byte: int) -> tuple[int, ...]:
    char = bytes((byte,))
    return (char.lower()[0], char.upper()[0])


def _holds(test: str, before: int, word: bool, end: bool) -> bool:
    """Whether an assertion holds between what came `before` and what comes next."""
    if test == "^":
        return before == 0
    if test == "$":
        return end
    behind = before == 1
    if test == "<":
        return word and not behind
    if test == ">":
        return behind and not word
    return (word != behind) == (test == "b")


_PYTHON_TESTS: dict[str, bytes] = {
    "^": rb"\A",
    "$": rb"\Z",
    "<": rb"\b(?=\w)",
    ">": rb"\b(?<=\w)",
    "b": rb"\b",
    "B": rb"\B",
}


def _python(tree: _Tree, repeated: bool) -> bytes:
    """A pattern with back-references for Python's engine; nested repetition is refused, as it may not end."""
    kind = tree[0]
    inside: Callable[[_Tree], bytes] = lambda each: _python(each, repeated)  # noqa: E731  # two lines below use it
    if kind == "set":
        return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(tree[1])) + b"]" if tree[1] else rb"(?!)"
    if kind == "cat":
        return b"".join(inside(each) for each in tree[1])
    if kind == "alt":
        if repeated:
            raise BadRegex("alternatives inside a repetition cannot be combined with back-references")
        return b"(?:" + b"|".join(inside(each) for each in tree[1]) + b")"
    if kind == "group":
        return b"(" + inside(tree[2]) + b")"
    if kind == "ref":
        return b"(?:\\%d)" % tree[1]
    if kind == "at":
        return _PYTHON_TESTS[tree[1]]
    _, node, low, high = tree
    if repeated:
        raise BadRegex("nested repetition cannot be combined with back-references")
    return b"(?:" + _python(node, True) + b"){%d,%s}" % (low, b"" if high == -1 else b"%d" % high)
