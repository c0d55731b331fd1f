"""ext4 directory hashes, casefolding and no-key names, against e2fsprogs and the kernel's rules."""

from __future__ import annotations

import random
import re
import subprocess
import unicodedata
import uuid
from pathlib import Path

import pytest

from guestkit.errors import Corrupt, InvalidArgument, NeedKey, NotFound
from guestkit.fs.ext4 import casefold, nokey
from guestkit.fs.ext4 import hash as names

SEED = (0x11111111, 0x33332222, 0x55554444, 0x55555555)


def words(text: str) -> tuple[int, int, int, int]:
    raw = uuid.UUID(text).bytes
    return tuple(int.from_bytes(raw[at : at + 4], "little") for at in range(0, 16, 4))  # type: ignore[return-value]


def test_known_values() -> None:
    assert names.dirhash(b"abc", names.LEGACY, (0, 0, 0, 0)) == (0x75AFD992, 0)
    assert names.dirhash(b"abc", names.TEA, (0, 0, 0, 0)) == (0xB1435EC4, 0x3F7EAA0E)


@pytest.mark.tool("debugfs")
@pytest.mark.parametrize("version,name", [(0, "legacy"), (1, "half_md4"), (2, "tea")])
def test_signed_hashes_equal_those_of_debugfs(version: int, name: str, tmp_path: Path) -> None:
    rng = random.Random(version)
    script, expected = [], []
    for length in [*range(1, 70), 127, 128, 250]:
        text = "".join(rng.choice("abcXYZ019._\u00e9\u4e2d\U0001f600") for _ in range(length)).encode()[:length]
        text = text.decode(errors="ignore") or "a"
        seed = str(uuid.UUID(int=rng.getrandbits(128)))
        script.append(f"dx_hash -h {name} -s {seed} {text}")
        expected.append(names.dirhash(text.encode(), version, words(seed)))
    (tmp_path / "commands").write_text("\n".join(script) + "\n")
    output = subprocess.run(
        ["debugfs", "-f", str(tmp_path / "commands")], capture_output=True, text=True, check=True
    ).stdout
    found = [(int(a, 16), int(b, 16)) for a, b in re.findall(r" is (0x\w+) \(minor (0x\w+)\)", output)]
    assert found == expected


@pytest.mark.parametrize("version", [0, 1, 2])
def test_signed_and_unsigned_agree_on_ascii_only(version: int) -> None:
    for name in (b"a", b"hello", b"x" * 31, b"x" * 32, b"y" * 255):
        assert names.dirhash(name, version, SEED) == names.dirhash(name, version + 3, SEED)
    assert names.dirhash("\u00e9t\u00e9".encode(), version, SEED) != names.dirhash(
        "\u00e9t\u00e9".encode(), version + 3, SEED
    )


def test_major_hash_is_even_and_never_the_end_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(names.dirhash(b"%d" % n, 1, SEED)[0] & 1 == 0 for n in range(200))
    monkeypatch.setattr(names, "_tea", lambda *_: (0xFFFFFFFF, 7))
    assert names.dirhash(b"x", names.TEA, SEED) == (0xFFFFFFFC, 7)


def test_siphash_needs_a_key_and_unknown_versions_are_refused() -> None:
    with pytest.raises(NeedKey):
        names.dirhash(b"x", names.SIPHASH, SEED)
    with pytest.raises(Corrupt):
        names.dirhash(b"x", 7, SEED)
    with pytest.raises(Corrupt):
        names.effective_version(3, False)
    assert [names.effective_version(v, True) for v in (0, 1, 2, 6)] == [3, 4, 5, 6]


def leaves(image: Path, directory: str) -> list[tuple[int, int, bytes]]:
    """(first hash of the leaf, first hash of the next, name) of each entry, as debugfs shows the blocks."""
    index = subprocess.run(["debugfs", "-R", f"htree_dump {directory}", image], capture_output=True, check=True).stdout
    entries = []
    latest = above = 0
    for line in index.splitlines():
        if line.startswith(b"Number of entries (count)"):
            above = latest  # the first entry of a node says nothing: its hash is the one of the entry above the node
        elif entry := re.match(rb"Entry #(\d+): Hash 0x(\w+).*?, block (\d+)", line):
            latest = int(entry[2], 16) or (above if entry[1] == b"0" else 0)
            entries.append((int(entry[3]), latest))
    bounds = sorted(set(entries), key=lambda item: item[1])
    starts = dict(bounds)
    values = sorted({value for _, value in bounds})
    following = dict(zip(values, [*values[1:], 1 << 32], strict=True))
    found = []
    current = 0
    for line in index.splitlines():
        if header := re.match(rb"Reading directory block (\d+)", line):
            current = int(header[1])
        for name in re.findall(rb"0x\w+-\w+ \(\d+\) (\S+)", line):
            if current in starts:
                found.append((starts[current] & ~1, following[starts[current]] & ~1, name))
    return found


@pytest.mark.tool("debugfs")
@pytest.mark.tool("mke2fs")
@pytest.mark.root
@pytest.mark.parametrize("version,name", [(0, "legacy"), (1, "half_md4"), (2, "tea")])
@pytest.mark.parametrize("unsigned", [False, True])
def test_every_name_of_a_kernel_made_directory_lies_in_its_leaf(
    version: int, name: str, unsigned: bool, tmp_path: Path
) -> None:
    image, root = tmp_path / "image", tmp_path / "mnt"
    root.mkdir()
    subprocess.run(["truncate", "-s", "16M", image], check=True)
    seed = "01234567-89ab-cdef-0123-456789abcdef"
    options = ["-E", f"hash_seed={seed}", "-b", "1024", "-N", "4000"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *options, image], check=True)
    subprocess.run(["tune2fs", "-E", f"hash_alg={name}", image], check=True, stdout=subprocess.DEVNULL)
    commands = f"set_super_value flags {2 if unsigned else 1}\n"
    subprocess.run(
        ["debugfs", "-w", "-f", "/dev/stdin", image], input=commands, text=True, check=True, capture_output=True
    )
    subprocess.run(["mount", "-o", "loop", image, root], check=True)
    try:
        (root / "d").mkdir()
        for number in range(2500):
            (root / "d" / f"n\u00e9\u4e2d-{number}-{'z' * (number % 40)}").touch()
    finally:
        subprocess.run(["umount", root], check=True)
    found = leaves(image, "/d")
    assert len(found) > 2400
    effective = names.effective_version(version, unsigned)
    wrong = [n for low, high, n in found if not low <= names.dirhash(n, effective, words(seed))[0] <= high]
    assert not wrong


def test_folding_ignores_case_composition_and_ignorables() -> None:
    assert casefold.fold(b"ReadMe.TXT") == b"readme.txt"
    for one, other in [
        ("\u00c9t\u00c9", "e\u0301te\u0301"),
        ("stra\u00dfe", "STRASSE"),
        ("\u0130", "i\u0307"),
        ("\u03a3\u03c2", "\u03c3\u03c3"),
        ("so\u00adft", "SOFT"),
        ("\ud55c", unicodedata.normalize("NFD", "\ud55c")),
        ("a\u0301\u0323", "A\u0323\u0301"),
        ("\u1f80", "\u1f00\u03b9"),
        ("\u212b", "\u00e5"),
    ]:
        assert casefold.fold(one.encode()) == casefold.fold(other.encode()), (one, other)
    assert casefold.fold("\u00e9".encode()) != casefold.fold(b"e")


def test_folding_leaves_characters_after_unicode_12_1_alone() -> None:
    for text in ("\ua7c7", "\u2c2f", "\U00010570", "\U00010d50", "\U000105c9"):
        assert casefold.fold(text.encode()) == text.encode()


def test_folding_is_idempotent_over_all_of_the_basic_plane() -> None:
    for code in range(0x80, 0x10000):
        if not 0xD800 <= code < 0xE000:
            once = casefold.fold(chr(code).encode())
            assert casefold.fold(once) == once, hex(code)


def test_invalid_utf8_matches_exactly_unless_strict() -> None:
    assert casefold.fold(b"\xffABC") == b"\xffABC"
    with pytest.raises(InvalidArgument):
        casefold.fold(b"\xffABC", strict=True)


@pytest.mark.parametrize("length", [16, 32, 48, 149, 150, 240, 255])
def test_no_key_names_lead_back_to_the_entry(length: int) -> None:
    stored = random.Random(length).randbytes(length)
    shown = nokey.encode(stored, 0x12345678, 0x9ABCDEF0)
    assert len(shown) <= 252 and b"/" not in shown and b"=" not in shown
    known = nokey.decode(shown)
    assert (known.major, known.minor) == (0x12345678, 0x9ABCDEF0)
    assert known.matches(stored)
    assert not known.matches(stored[:-1] + bytes([stored[-1] ^ 1]))


def test_no_key_name_is_base64url_of_hash_and_ciphertext() -> None:
    assert nokey.encode(b"\xff" * 16, 0, 0) == b"AAAAAAAAAAD_____________________"


@pytest.mark.parametrize(
    "shown", [b"", b"plain name", b"AAAA", b"A" * 233, b"!" * 20, b"AAAAAAAAAAD_____________________="]
)
def test_what_is_no_no_key_name_is_not_found(shown: bytes) -> None:
    with pytest.raises(NotFound):
        nokey.decode(shown)


def test_an_encrypted_name_shorter_than_a_cipher_block_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        nokey.encode(b"short", 1, 2)
