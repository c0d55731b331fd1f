"""The rows of the decompressors: how fast each makes the same chunks of system libraries and of text.

`run` packs the corpus and measures the subjects, each in a process of its own (this file, as a program): ours with
nothing else installed, ours with libfwnt's bindings, and dissect.util's decoders in Python. Its native module has
none of these codecs. wimlib packs XPRESS and LZX, ntfs-3g's mount LZNT1.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
TOP = HERE.parent.parent.parent
LIBRARIES = 2 << 20  # bytes of each half of the corpus
WOF = {"XPRESS4K": (1, 4096, 0), "XPRESS8K": (1, 8192, 2), "XPRESS16K": (1, 16384, 3), "LZX": (2, 32768, 1)}


def corpus(tree: Path) -> tuple[str, dict[str, bytes]]:
    """(what it is, its halves): equal parts of the largest shared libraries, and of the package lists and documents."""
    libraries = sorted((tree / "usr/lib/x86_64-linux-gnu").glob("*.so.*"), key=lambda path: -path.stat().st_size)
    taken = [path for path in libraries if not path.is_symlink()][:16]
    code = b"".join(path.read_bytes()[: LIBRARIES // len(taken)] for path in taken)
    text = b"".join(
        path.read_bytes()[: LIBRARIES // 4]
        for path in (tree / "var/lib/dpkg/status", tree / "usr/share/perl/5.36.0/perl5db.pl", tree / "etc/services")
    )
    for path in sorted((tree / "usr/share/perl/5.36.0").rglob("*.p[lm]")):
        text += path.read_bytes()
        if len(text) >= LIBRARIES:
            break
    names = ", ".join(path.name for path in taken)
    return (
        f"{len(code) >> 10} KiB of Debian's libraries ({names}) and {len(text[:LIBRARIES]) >> 10} KiB of text "
        "(dpkg's status, perl's modules)"
    ), {"libraries": code, "text": text[:LIBRARIES]}


def pack(halves: dict[str, bytes]) -> dict[str, dict[str, list[tuple[bytes, bytes]]]]:
    """codec -> half -> (packed, plain) of each chunk that became smaller."""
    loader = importlib.machinery.SourceFileLoader("fixtures", str(TOP / "scripts" / "make-codec-fixtures"))
    spec = importlib.util.spec_from_loader("fixtures", loader)
    assert spec
    makers = importlib.util.module_from_spec(spec)
    loader.exec_module(makers)
    packed: dict[str, dict[str, list[tuple[bytes, bytes]]]] = {}
    wimlib = makers.Wimlib()
    for codec, (algorithm, size, _) in WOF.items():
        for half, data in halves.items():
            chunks = packed.setdefault(codec, {}).setdefault(half, [])
            for at in range(0, len(data), size):
                plain = data[at : at + size]
                try:
                    chunks.append((wimlib.pack(algorithm, plain, size, 50), plain))
                except AssertionError:  # it is stored as it is
                    continue
    made = makers.compressed_units(list(halves.values()))
    for (half, data), units in zip(halves.items(), made, strict=True):
        step = makers.UNIT
        packed.setdefault("LZNT1", {})[half] = [
            (blob, data[number * step : (number + 1) * step]) for number, blob in enumerate(units) if blob
        ]
    return packed


# ---------------------------------------------------------------- the decoders


def _guestkit(codec: str) -> Callable[[bytes, int], bytes]:
    sys.path.insert(0, str(TOP))
    if codec == "LZNT1":
        from guestkit.codec.lznt1 import decompress as lznt1

        return lznt1
    if codec == "LZX":
        from guestkit.codec.lzx import decompress as lzx

        return lzx
    from guestkit.codec.xpress import decompress as xpress

    return xpress


def _dissect(codec: str) -> Callable[[bytes, int], bytes]:
    from dissect.util.compression import lznt1, lzxpress_huffman

    if codec == "LZNT1":
        return lambda data, size: lznt1.decompress(data)[:size]
    return lambda data, size: lzxpress_huffman.decompress(data)[:size]


def main() -> None:
    """codecs_rows.py SUBJECT CODEC FILE: prints seconds, CPU seconds, bytes made, and how many chunks were not.

    Verifies what was made; only another's decoder may fail.
    """
    subject, codec, file = sys.argv[1:]
    chunks: list[tuple[bytes, bytes]] = pickle.loads(Path(file).read_bytes())  # of our own making
    expand = (_dissect if subject == "dissect" else _guestkit)(codec)
    expand(chunks[0][0], len(chunks[0][1]))  # tables are made once a process
    seconds = cpu = 0.0
    amount = failed = 0
    for packed, plain in chunks:
        start, used = time.perf_counter(), time.process_time()
        try:
            made = expand(packed, len(plain))
        except Exception:
            if subject != "dissect":
                raise
            made = b""
        elapsed = time.perf_counter() - start
        if made == plain:
            seconds += elapsed
            cpu += time.process_time() - used
            amount += len(plain)
        elif subject == "dissect":
            failed += 1
        else:
            raise SystemExit(f"{subject}: {codec} made other bytes")
    print(seconds, cpu, amount, failed)


# ---------------------------------------------------------------- the rows


def run(tree: Path, rounds: int, python: Path, dissect: Path | None) -> None:
    from report import Sample, ratio, show

    what, halves = corpus(tree)
    try:
        packed = pack(halves)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"\nthe decompressors are left out: {error}")
        return
    print(f"\ndecompressors, {rounds} rounds: {what}")
    ours: dict[tuple[str, str], list[Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        for codec, by_half in packed.items():
            for half, chunks in by_half.items():
                file = Path(place) / f"{codec}-{half}"
                file.write_bytes(pickle.dumps(chunks))
                samples: dict[str, list[Sample]] = {}
                lost: dict[str, int] = {}
                for _ in range(rounds):
                    for name, program in _subjects(codec, python, dissect).items():
                        done = subprocess.run(
                            [str(program), str(HERE), name, codec, str(file)],
                            capture_output=True,
                            text=True,
                            check=True,
                            env={**os.environ, "PYTHONPATH": ""},
                        )
                        seconds, cpu, amount, failed = map(float, done.stdout.split())
                        samples.setdefault(name, []).append(Sample(seconds, amount, cpu))
                        lost[name] = int(failed)
                show(f"{codec}, {half}", samples, "MB/s", 1e6)
                ours[codec, half] = samples["guestkit"]
                for name, count in lost.items():
                    if count:
                        print(f"  {name} made {count} of {len(chunks)} chunks wrong: they are not counted for it")
    for half in halves:
        print(f"\nLZX / XPRESS16K, {half} = {ratio(ours['LZX', half], ours['XPRESS16K', half]):.2f}")
    _second_read(packed, rounds)


def _subjects(codec: str, python: Path, dissect: Path | None) -> dict[str, Path]:
    """The first is ours alone; `dissect`: the environment in which dissect.util and perhaps libfwnt are installed."""
    found = {"guestkit": python}
    if dissect is not None and codec != "LZX":
        found["dissect"] = dissect
        has = subprocess.run([str(dissect), "-c", "import pyfwnt"], check=False, capture_output=True)
        if not has.returncode:
            found["guestkit+pyfwnt"] = dissect
    return found


def _second_read(packed: dict[str, dict[str, list[tuple[bytes, bytes]]]], rounds: int) -> None:
    """A file of such chunks read twice: the second time they come from the cache."""
    sys.path.insert(0, str(TOP))
    import struct

    from guestkit.fs.ntfs.wof import wof_source
    from guestkit.limits import Limits
    from guestkit.source import BytesSource

    print("\na system file read twice")
    for codec, (_, size, algorithm) in WOF.items():
        chunks = [chunk for half in packed[codec].values() for chunk in half if len(chunk[1]) == size]
        ends, at = [], 0
        for blob, _ in chunks:
            at += len(blob)
            ends.append(at)
        body = struct.pack(f"<{len(ends) - 1}I", *ends[:-1]) + b"".join(blob for blob, _ in chunks)
        whole = b"".join(plain for _, plain in chunks)
        head = struct.pack("<IIII", 1, 2, 1, algorithm)
        limits = Limits(decode_threads=0)
        source = wof_source(head, BytesSource(body), len(whole), limits, "bench")
        rates = []
        for _ in range(2):
            start = time.process_time()
            made = b"".join(source.read(at, min(1 << 17, len(whole) - at)) for at in range(0, len(whole), 1 << 17))
            rates.append(len(whole) / (time.process_time() - start) / 1e6)
            if hashlib.sha256(made).digest() != hashlib.sha256(whole).digest():
                raise RuntimeError(f"{codec} made other bytes")
        print(f"  {codec:16} first {rates[0]:8,.1f} MB/s, second {rates[1]:8,.0f} ({rates[1] / rates[0]:,.0f} times)")


if __name__ == "__main__":
    main()
