"""The architecture from ELF headers, either byte order, found through links inside the guest."""

from __future__ import annotations

import pytest
from memoryfs import File, MemoryFS, Symlink

from guestkit.inspect.elf import architecture, parse_machine
from guestkit.inspect.look import Look
from guestkit.namespace import MountTable
from guestkit.source import BytesSource


def elf(machine: int, bits: int, order: str) -> bytes:
    head = b"\x7fELF" + bytes([{32: 1, 64: 2}[bits], {"little": 1, "big": 2}[order], 1]) + bytes(9)
    return head + (2).to_bytes(2, order) + machine.to_bytes(2, order) + bytes(44)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "bits", "order", "name"),
    [
        (62, 64, "little", "x86_64"),
        (3, 32, "little", "i386"),
        (183, 64, "little", "aarch64"),
        (40, 32, "little", "arm"),
        (21, 64, "little", "ppc64le"),
        (21, 64, "big", "ppc64"),
        (20, 32, "big", "ppc"),
        (22, 64, "big", "s390x"),
        (22, 32, "big", "s390"),
        (243, 64, "little", "riscv64"),
        (243, 32, "little", "riscv32"),
        (258, 64, "little", "loongarch64"),
        (8, 32, "big", "mips"),
        (8, 32, "little", "mipsel"),
        (8, 64, "little", "mips64el"),
        (50, 64, "little", "ia64"),
        (43, 64, "big", "sparc64"),
        (0x9026, 64, "little", "alpha"),
        (4711, 64, "little", ""),
    ],
)
def test_machines_by_class_and_byte_order(machine: int, bits: int, order: str, name: str) -> None:
    assert parse_machine(elf(machine, bits, order)) == name


@pytest.mark.parametrize(
    "head", [b"", b"\x7fELF", b"#!/bin/sh\n" * 9, elf(62, 64, "little")[:19], b"\x7fELF\x09\x01" + bytes(30)]
)
def test_what_is_no_elf_file_has_no_machine(head: bytes) -> None:
    assert parse_machine(head) == ""


def found(tree: object) -> str:
    table = MountTable()
    table.mount(MemoryFS(tree))
    return architecture(Look(table))


def test_links_are_followed_inside_the_guest() -> None:
    tree = {"bin": Symlink("usr/bin"), "usr": {"bin": {"sh": Symlink("/usr/bin/dash"), "dash": elf(183, 64, "little")}}}
    assert found(tree) == "aarch64"


def test_a_script_and_a_loop_are_passed_over() -> None:
    tree = {
        "bin": {
            "bash": "#!/bin/sh\n" * 10,
            "ls": Symlink("ls"),
            "echo": File(b"", 0o010644),
            "sh": elf(62, 64, "little"),
        }
    }
    assert found(tree) == "x86_64"


def test_only_the_head_of_a_program_is_read() -> None:
    class Counting(BytesSource):
        asked = 0

        def read(self, offset: int, length: int) -> bytes:
            Counting.asked += length
            return super().read(offset, length)

    assert found({"bin": {"bash": Counting(elf(62, 64, "little") + bytes(1 << 20))}}) == "x86_64"
    assert 0 < Counting.asked <= 4096


def test_no_program_no_architecture() -> None:
    assert found({"etc": {}}) == ""
