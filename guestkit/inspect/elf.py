"""The architecture that a Linux guest was built for, from the ELF header of one of its programs.

Spec: System V ABI, "ELF Header": e_ident (class at 4, data encoding at 5), e_machine at 18. Names are libguestfs's.
"""

from __future__ import annotations

from guestkit.errors import GuestkitError
from guestkit.inspect.look import Look

_PROGRAMS = (
    b"/bin/bash",
    b"/bin/ls",
    b"/bin/echo",
    b"/bin/rm",
    b"/bin/sh",
    b"/bin/true",
    b"/usr/bin/env",
    b"/sbin/init",
    b"/sbin/ldconfig",
)

_32, _64 = 1, 2
_LITTLE, _BIG = 1, 2

# (e_machine, class or 0 for either, encoding or 0): name
_MACHINES = {
    (2, 0, 0): "sparc",
    (3, 0, 0): "i386",
    (4, 0, 0): "m68k",
    (6, 0, 0): "i386",
    (8, 0, _LITTLE): "mipsel",
    (8, 0, _BIG): "mips",
    (8, _64, _LITTLE): "mips64el",
    (8, _64, _BIG): "mips64",
    (15, 0, 0): "parisc",
    (18, 0, 0): "sparc",
    (20, 0, 0): "ppc",
    (21, 0, _BIG): "ppc64",
    (21, 0, _LITTLE): "ppc64le",
    (22, _32, 0): "s390",
    (22, _64, 0): "s390x",
    (40, 0, 0): "arm",
    (42, 0, 0): "sh",
    (43, 0, 0): "sparc64",
    (50, 0, 0): "ia64",
    (62, 0, 0): "x86_64",
    (183, 0, 0): "aarch64",
    (243, _32, 0): "riscv32",
    (243, _64, 0): "riscv64",
    (258, _32, 0): "loongarch32",
    (258, _64, 0): "loongarch64",
    (0x9026, 0, 0): "alpha",
    (0x9041, 0, 0): "m32r",
    (0xA390, _64, 0): "s390x",
}


def parse_machine(head: bytes) -> str:
    """Name the architecture in the first 20 bytes of an ELF file; "" for anything else."""
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[4] not in (_32, _64) or head[5] not in (_LITTLE, _BIG):
        return ""
    machine = int.from_bytes(head[18:20], "little" if head[5] == _LITTLE else "big")
    for key in ((machine, head[4], head[5]), (machine, head[4], 0), (machine, 0, head[5]), (machine, 0, 0)):
        if key in _MACHINES:
            return _MACHINES[key]
    return ""


def architecture(look: Look) -> str:
    """The architecture of the first program that shows one, links followed inside the guest; "" when none does."""
    for path in _PROGRAMS:
        source = look.open(path)
        if source is None or source.size < 20:
            continue
        try:
            name = parse_machine(source.read(0, 20))
        except GuestkitError as error:
            look.warn(f"{path.decode()}: {error}")
            continue
        if name:
            return name
    return ""
