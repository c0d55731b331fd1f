"""sync(2) does nothing in the tests and in what they run.

sfdisk, sgdisk and others call it after they have written an image file. It waits for every filesystem of the host,
busy or hung ones too, and no image needs it. Spec: Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_NUMBERS = {"x86_64": 162, "aarch64": 81}  # of sync(2)
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ANSWER_ZERO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forget_sync() -> bool:
    """Let sync(2) return at once in this process and its children; False where that cannot be had (not root)."""
    number = _NUMBERS.get(platform.machine())
    if number is None or os.geteuid():
        return False
    steps = ((_LOAD, 0, 0, 0), (_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ANSWER_ZERO), (_RETURN, 0, 0, _ALLOW))
    program = _Program(len(steps), b"".join(struct.pack("=HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)
