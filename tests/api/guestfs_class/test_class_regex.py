"""POSIX regular expressions: the host's grep is the judge, and no line makes a pattern slow."""

from __future__ import annotations

import random
import subprocess
import time

import pytest

from guestkit.guestfs.regex import BadRegex, Regex

LINES = ["", "a", "b", "ab", "aab", "abab", "abcabc", "a b", "a^b", "a$b", "(a)", "a{1,2}", "a+b", "a|b", "*a", "ba ab"]
LINES += ["c", "_a", "b]", "a-b", "{", "aXa", "AB", "7", "a\tb"]


def matching(pattern: str, extended: bool, insensitive: bool) -> list[int] | None:
    try:
        regex = Regex(pattern.encode(), extended=extended, insensitive=insensitive)
        return [number for number, line in enumerate(LINES) if regex.search(line.encode())]
    except BadRegex:
        return None


def said_by_grep(pattern: str, extended: bool, insensitive: bool) -> list[int] | None:
    command = ["grep", "-E" if extended else "-G", "-n", "-e", pattern] + (["-i"] if insensitive else [])
    text = "".join(line + "\n" for line in LINES)
    done = subprocess.run(command, input=text, capture_output=True, text=True, env={"LC_ALL": "C"}, check=False)
    return None if done.returncode == 2 else [int(line.split(":")[0]) - 1 for line in done.stdout.splitlines()]


_TOKENS = [
    "a",
    "b",
    "c",
    "ab",
    "*",
    "(",
    ")",
    r"\(",
    r"\)",
    "{1,2}",
    "{2,}",
    r"\{1,2\}",
    r"\{2\}",
    "|",
    r"\|",
    "+",
    "?",
]
_TOKENS += [
    r"\+",
    r"\?",
    "^",
    "$",
    ".",
    "[ab]",
    "[^a]",
    "[[:alpha:]]",
    "[[:digit:]]",
    "[a-c]",
    "[]a]",
    r"\w",
    r"\W",
    r"\s",
]


@pytest.mark.tool("grep")
def test_random_patterns_agree_with_grep() -> None:
    rng = random.Random(5)
    for _ in range(400):
        pattern = "".join(rng.choice(_TOKENS) for _ in range(rng.randint(1, 5)))
        extended, insensitive = rng.random() < 0.5, rng.random() < 0.2
        expected = said_by_grep(pattern, extended, insensitive)
        assert matching(pattern, extended, insensitive) == expected, (pattern, extended, insensitive)


@pytest.mark.tool("grep")
@pytest.mark.parametrize(
    ("pattern", "extended"),
    [
        (r"\(ab\)\1", False),
        (r"(.)(.)\2\1", True),
        (r"\<a", False),
        (r"a\>", False),
        (r"\bb\b", False),
        (r"a\Bb", False),
        (r"^\(a\|b\)*$", False),
        ("[[:space:]]", True),
        ("[^[:alnum:]]", True),
        (r"[\]", True),
        ("a{0}b", True),
        ("(ab){2}", True),
        ("[[.-.]]", True),
    ],
)
def test_pattern_agrees_with_grep(pattern: str, extended: bool) -> None:
    assert matching(pattern, extended, False) == said_by_grep(pattern, extended, False)


@pytest.mark.parametrize(
    "pattern", ["[a", "(a", r"a\{1", "a{3,1}", "a{99999}", "[[:nope:]]", "a\\", "(" * 200, "((a{100}){100}){100}"]
)
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(BadRegex):
        Regex(pattern.encode(), extended="\\{" not in pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a*)*b", "a*a*a*a*a*b", "(x+x+)+y|a*c"])
def test_time_is_linear_in_the_line(pattern: str) -> None:
    regex = Regex(pattern.encode(), extended=True)
    line = b"a" * 300_000 + b"!"
    begin = time.process_time()
    assert regex.search(line) is False
    assert time.process_time() - begin < 3


def test_back_references_are_bounded() -> None:
    for pattern in (rb"(a+)+\1", rb"((a|aa)+)\1b"):
        with pytest.raises(BadRegex):
            Regex(pattern, extended=True)
    with pytest.raises(BadRegex):
        Regex(rb"(a*)\1b", extended=True).search(b"a" * 10_000)
