"""guestkit: look into disk images from the command line, without a mount."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from guestkit import __version__
from guestkit.cli.output import Output, complain, escape
from guestkit.errors import GuestkitError

if TYPE_CHECKING:
    from guestkit.cli.view import View

Command = Callable[["View", argparse.Namespace, Output], int]

# name: (module:function, one line, example)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "ls": ("entries:ls", "list a directory", "guestkit ls -l disk.qcow2 /etc"),
    "cat": ("content:cat", "print files", "guestkit cat disk.qcow2 /etc/os-release"),
    "cp": ("content:cp", "copy files out to the host", "guestkit cp -r disk.qcow2 /var/log /etc/fstab ./evidence/"),
    "find": ("entries:find", "find files by name and type", "guestkit find disk.qcow2 /etc -name '*.conf' -type f"),
    "tree": ("entries:tree", "show a directory and what is below", "guestkit tree -L 2 disk.qcow2 /etc"),
    "stat": ("entries:stat_command", "show everything about a file", "guestkit stat disk.qcow2 sda1:/EFI"),
    "df": ("facts:df", "show how full the filesystems are", "guestkit df disk.qcow2"),
    "info": ("facts:info", "show images, partitions and filesystems", "guestkit info --json disk.qcow2"),
    "inspect": ("facts:inspect", "show which operating system it is", "guestkit inspect --apps disk.qcow2"),
}
DELEGATED = {"mount": "guestkit.cli.mount", "umount": "guestkit.cli.umount"}

_EPILOG = """\
A path may name its filesystem: sda1:/boot/grub. Without that, paths are those of the guest's operating
system with its own mounts in place; where there is none, /partitions/sda1/... shows every filesystem.

examples:
  guestkit ls disk.qcow2 /etc
  guestkit cat disk.qcow2 /etc/os-release
  guestkit cp -r disk.qcow2 /var/log ./logs
  guestkit inspect disk.qcow2
  guestkit mount disk.qcow2 /mnt/guest
"""


def parser(only: str = "") -> argparse.ArgumentParser:
    """The whole grammar, or that of the command `only`: making all of it takes longer than many a command."""
    top = argparse.ArgumentParser(
        prog="guestkit",
        description="Look inside virtual machine disk images, as an ordinary user, without a mount.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"guestkit {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, summary, example) in COMMANDS.items():
        if only in COMMANDS and name != only:
            continue
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _OWN[name](command)
        _common(command, add=("--add",) if name in ("ls", "tree") else ("-a", "--add"))
    if only in COMMANDS:
        return top
    for name, summary in (("mount", "mount an image (guestkit-mount)"), ("umount", "unmount (guestkit-umount)")):
        commands.add_parser(name, help=summary, add_help=False)
    completion = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        epilog="example:\n  source <(guestkit completion bash)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return top


def _common(command: argparse.ArgumentParser, add: tuple[str, ...]) -> None:
    """What every command takes; in ls and tree -a has its customary meaning."""
    group = command.add_argument_group("images")
    group.add_argument(*add, metavar="IMAGE", action="append", default=[], help="a further disk of the guest")
    group.add_argument("--format", metavar="FORMAT", help="the image's format (raw, qcow2, ...), not guessed")
    group.add_argument("--snapshot", metavar="NAME", help="an internal snapshot of the first image, by name or id")
    group.add_argument(
        "--allow",
        metavar="DIRECTORY",
        action="append",
        default=[],
        help="let images name backing files in this directory",
    )
    group.add_argument(
        "-m",
        "--mount",
        metavar="DEVICE[:PATH[:OPTIONS]]",
        action="append",
        default=[],
        help="mount this device there instead of what the guest would",
    )
    group.add_argument("-p", "--partition", metavar="DEVICE", help="look at this filesystem alone, such as sda1")
    group.add_argument("-o", "--options", metavar="OPTIONS", default="", help="mount options, such as noload")
    group = command.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print JSON")
    group.add_argument("--strict", action="store_true", help="fail when anything in the image is found damaged")


def _ls(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("paths", metavar="PATH", nargs="*", help="directories or files; default /")
    command.add_argument("-l", dest="long", action="store_true", help="with type, permissions, owner, size and time")
    command.add_argument("-a", "-A", "--all", action="store_true", help="also names that begin with a dot")
    command.add_argument("-R", "--recursive", action="store_true", help="also what is below")
    command.add_argument("-d", "--directory", action="store_true", help="the directory itself, not what is in it")
    command.add_argument("--streams", action="store_true", help="also named streams (NTFS), as NAME:STREAM")
    command.add_argument("-1", dest="one", action="store_true", help="one name a line")
    command.add_argument("-0", "--print0", action="store_true", help="end each name with NUL, as it is")


def _cat(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("paths", metavar="PATH", nargs="+")


def _cp(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("paths", metavar="PATH", nargs="+", help="one or more in the guest, then the host's TARGET")
    command.add_argument("-r", "-R", "--recursive", action="store_true", help="copy directories")
    command.add_argument("--preserve", action="store_true", help="keep permissions (not set-id bits) and times")
    command.add_argument("-f", "--force", action="store_true", help="replace files that exist")


def _find(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("path", metavar="PATH", nargs="?", default="/")
    command.add_argument("-name", "--name", metavar="PATTERN", help="the last part matches this shell pattern")
    command.add_argument("-type", "--type", metavar="TYPES", type=_types, help="f, d, l, c, b, p, s, or several: f,l")
    command.add_argument("-print0", "-0", "--print0", action="store_true", help="end each name with NUL, as it is")


def _types(text: str) -> str:
    if not text or any(letter not in ("f", "d", "l", "c", "b", "p", "s") for letter in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not of f, d, l, c, b, p, s")
    return text


def _tree(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("path", metavar="PATH", nargs="?", default="/")
    command.add_argument("-L", "--level", metavar="N", type=_positive, help="at most N levels deep")
    command.add_argument("-a", "-A", "--all", action="store_true", help="also names that begin with a dot")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 7 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of levels")
    return int(text)


def _stat(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("paths", metavar="PATH", nargs="+")
    command.add_argument("-L", "--dereference", action="store_true", help="follow a link")


def _image_only(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")


def _inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("--apps", action="store_true", help="also the installed packages")


_OWN: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "ls": _ls,
    "cat": _cat,
    "cp": _cp,
    "find": _find,
    "tree": _tree,
    "stat": _stat,
    "df": _image_only,
    "info": _image_only,
    "inspect": _inspect,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in DELEGATED:
            from importlib import import_module

            module: Any = import_module(DELEGATED[words[0]])
            return int(module.main(words[1:]) or 0)
        arguments = parser(words[0] if words else "").parse_args(words)
        if arguments.command == "completion":
            from guestkit.cli.completion import script

            sys.stdout.write(script(arguments.shell))
            sys.stdout.flush()
            return 0
        if arguments.command == "cp" and len(arguments.paths) < 2:
            return _usage("cp needs what to copy and a TARGET (see guestkit cp --help)")
        return _run(arguments)
    except BrokenPipeError:
        # what reads our output has seen enough; Python would complain once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def _usage(text: str) -> int:
    complain(text)
    return 2


def _run(arguments: argparse.Namespace) -> int:
    from importlib import import_module

    from guestkit.cli.hints import describe
    from guestkit.cli.view import View, open_guest

    module, _, function = COMMANDS[arguments.command][0].partition(":")
    command: Command = getattr(import_module(f"guestkit.cli.{module}"), function)
    output = Output()
    try:
        with open_guest(arguments) as guest:
            view = View(guest, arguments)
            status = command(view, arguments, output)
            output.flush()
            return _conclude(view, arguments, status)
    except GuestkitError as error:
        output.flush()
        complain(describe(error, arguments.image))
    except BrokenPipeError:
        raise
    except OSError as error:  # standard output on a full disk, an unreadable target
        name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        complain(f"{name}{error.strerror or error}")
    except Exception as error:
        if os.environ.get("GUESTKIT_DEBUG"):
            raise
        complain(
            f"{arguments.image}: internal error, please report it: {type(error).__name__}: {error} "
            "(GUESTKIT_DEBUG=1 shows where)"
        )
    return 1


def _conclude(view: View, arguments: argparse.Namespace, status: int) -> int:
    problems = view.problems()
    if not problems:
        return status
    if arguments.strict:
        for problem in problems[:20]:
            complain(f"{arguments.image}: damaged: {problem}")
        return status or 1
    count = "one problem was" if len(problems) == 1 else f"{len(problems)} problems were"
    complain(f"{arguments.image}: warning: {count} met: {problems[0]} (--strict makes that an error)")
    return status


def console() -> NoReturn:
    """python -m guestkit.cli.main"""
    sys.exit(main())


__all__ = ["COMMANDS", "escape", "main", "parser"]

if __name__ == "__main__":
    console()
