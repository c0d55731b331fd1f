"""Running programs of the host from tests."""

from __future__ import annotations

import os
import subprocess


def run(*command: str | os.PathLike[str], **options: object) -> str:
    """Run a program and return what it printed; its failure is the test's, with its messages."""
    done = subprocess.run([os.fspath(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout)
