"""guestkit-mount: mount disk images on a directory, with the conventions of guestmount and sshfs.

The program forks before it imports anything slow; the child opens the images and serves, and the parent returns when
the mount answers, or with the child's exit status. Options are read with getopt, which costs a tenth of argparse.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guestkit.guest import Guest

USAGE = """\
Usage: guestkit-mount [OPTION]... IMAGE... MOUNTPOINT
       guestkit-mount -a IMAGE [-a IMAGE]... [-i | -m DEVICE[:PLACE[:OPTIONS]]]... MOUNTPOINT

Show what is on a virtual machine's disk images, read-only, without root.

  -a, --add IMAGE        a disk image (several: the disks of one machine)
  -i, --inspector        mount the operating system alone, as its own fstab has it
  -m, --mount DEV[:PLACE[:OPTIONS]]
                         mount this device alone; with PLACE several, each at its place;
                         btrfsvol:DEV/PATH, or the options subvol=PATH, subvolid=N: a subvolume
      --partition NAME   the same as -m NAME
      --format FORMAT    the images' format (raw, qcow2, ...); detected when left out
      --snapshot NAME    show an internal snapshot
      --allow DIRECTORY  images may name backing and data files there too, not only below their own directory
  -o OPTION[,OPTION]...  allow_other, default_permissions, uid=N, gid=N, umask=OCTAL, fsname=NAME, noexec,
                         nonempty, links=raw (link targets as the guest has them),
                         noload, norecovery, nologreplay (do not replay a journal or a log),
                         subvol=PATH, subvolid=N, ro (always so)
  -f, --foreground       do not go into the background
      --pid-file FILE    write the number of the serving process there
  -v, --verbose          say more; with -f also what goes wrong while serving
  -h, --help             this text
  -V, --version          the version

Example:
  mkdir guest && guestkit-mount disk.qcow2 guest && ls guest/os guest/partitions
  guestkit-umount guest
"""

_IGNORED = {
    "ro",
    "nosuid",
    "nodev",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nofail",
    "_netdev",
    "exec",
}
_IGNORED |= {"noatime", "relatime", "nodiratime", "async", "intr", "big_writes", "kernel_cache", "auto_unmount"}


class UsageError(Exception):
    """The command line is not as it should be: exit status 2."""


class Command:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.mountpoint = ""
        self.points: list[tuple[str, str, str]] = []
        self.inspector = False
        self.format: str | None = None
        self.snapshot: str | None = None
        self.allowed: list[str] = []
        self.foreground = False
        self.pid_file: str | None = None
        self.verbose = False
        self.plain_loop = False
        self.filesystem_options: dict[str, str] = {}
        self.mount_options: dict[str, object] = {}


def parse(arguments: list[str]) -> Command:
    """Read the command line. Raises: UsageError."""
    import getopt

    command = Command()
    names = [
        "add=",
        "allow=",
        "inspector",
        "mount=",
        "partition=",
        "format=",
        "snapshot=",
        "foreground",
        "pid-file=",
        "verbose",
    ]
    try:
        pairs, rest = getopt.gnu_getopt(arguments, "a:im:o:fvhVr", [*names, "help", "version", "ro", "plain-loop"])
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from None
    for name, value in pairs:
        if name in ("-a", "--add"):
            command.images.append(value)
        elif name in ("-m", "--mount", "--partition"):
            prefix = "btrfsvol:" if value.startswith("btrfsvol:") else ""
            device, _, place = value.removeprefix(prefix).partition(":")
            place, _, options = place.partition(":")
            command.points.append((prefix + device, place or "/", options))
        elif name in ("-i", "--inspector"):
            command.inspector = True
        elif name == "--format":
            command.format = value
        elif name == "--snapshot":
            command.snapshot = value
        elif name == "--allow":
            command.allowed.append(value)
        elif name in ("-f", "--foreground"):
            command.foreground = True
        elif name == "--pid-file":
            command.pid_file = value
        elif name in ("-v", "--verbose"):
            command.verbose = True
        elif name == "--plain-loop":
            command.plain_loop = True
        elif name == "-o":
            for option in value.split(","):
                _mount_option(command, option.strip())
        elif name in ("-h", "--help"):
            print(USAGE, end="")
            raise SystemExit(0)
        elif name in ("-V", "--version"):
            from guestkit import __version__

            print(f"guestkit-mount {__version__}")
            raise SystemExit(0)
    if not rest:
        raise UsageError("no mount point given")
    *images, command.mountpoint = rest
    command.images += images
    if not command.images:
        raise UsageError("no image given: guestkit-mount IMAGE MOUNTPOINT")
    if command.inspector and command.points:
        raise UsageError("-i and -m exclude each other")
    return command


def _mount_option(command: Command, option: str) -> None:
    name, equals, value = option.partition("=")
    options = command.mount_options
    if not name or name in _IGNORED or name.startswith(("x-", "comment")):
        return
    if name in ("uid", "gid", "umask"):
        try:
            options[name] = int(value, 8 if name == "umask" else 10)
        except ValueError:
            raise UsageError(f"-o {option}: not a number") from None
        if not 0 <= int(str(options[name])) < 1 << 32:
            raise UsageError(f"-o {option}: out of range")
    elif name in ("allow_other", "default_permissions", "nonempty", "noexec") and not equals:
        options[name] = True
    elif name == "fsname" and value:
        options[name] = value
    elif name == "links" and value in ("raw", "inside"):
        options["raw_links"] = value == "raw"
    elif name == "format" and value:
        command.format = value
    elif name == "snapshot" and value:
        command.snapshot = value
    elif name == "partition" and value:
        command.points.append((value, "/", ""))
    elif name == "inspector" and not equals:
        command.inspector = True
    elif name in ("noload", "norecovery", "nologreplay") and not equals:
        command.filesystem_options[name] = ""
    elif name in ("subvol", "subvolid") and value:
        command.filesystem_options[name] = value
    elif name in ("rw", "suid", "dev"):
        raise UsageError(f"-o {option}: a mount of guestkit is always ro,nosuid,nodev")
    else:
        raise UsageError(f"-o {option}: unknown option (guestkit-mount --help)")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        complain(str(error))
        return 2
    if command.foreground:
        return _child(command, -1)
    sys.stdout.flush()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        status = 1
        try:
            status = _child(command, send)
        finally:
            sys.stderr.flush()
            os._exit(status)  # the parent's exit handlers are not the child's
    os.close(send)
    try:
        while True:
            if os.read(receive, 1):
                return 0
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                complain(f"ended by signal {-code}")
            return code if code > 0 else 1
    except KeyboardInterrupt:
        return 1


def _child(command: Command, send: int) -> int:
    from guestkit.errors import GuestkitError

    try:
        _serve(command, send)
    except GuestkitError as error:
        if error.where and error.where[0] in command.images:
            from guestkit.cli.hints import describe

            complain(describe(error, error.where[0]))
        else:
            complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        if command.verbose:
            raise
        complain(f"{type(error).__name__}: {error} (a defect of guestkit; -v shows where)")
        return 1
    return 0


def _serve(command: Command, send: int) -> None:
    from guestkit.fuse.mount import serve
    from guestkit.fuse.options import MountOptions
    from guestkit.fuse.place import prepare
    from guestkit.guest import Guest
    from guestkit.namespace import Namespace

    mountpoint = os.path.abspath(command.mountpoint)
    prepare(command.mountpoint, nonempty=bool(command.mount_options.get("nonempty")))
    pid_file = os.path.abspath(command.pid_file) if command.pid_file else None
    fsname = command.mount_options.setdefault("fsname", os.path.abspath(command.images[0]))
    assert isinstance(fsname, str)
    with Guest(allowed=command.allowed) as guest:
        for image in command.images:
            guest.add(image, format=command.format, snapshot=command.snapshot)
        namespace: Namespace
        warnings: list[str] = []
        if command.inspector:
            from guestkit.tree import mount_system

            namespace, warnings = mount_system(guest, command.filesystem_options)
        elif command.points:
            from guestkit.tree import mount_points

            namespace = mount_points(guest, command.points, command.filesystem_options)
        else:
            from guestkit.tree import Tree

            tree = Tree(guest, command.filesystem_options)
            namespace, warnings = tree, tree.warnings
            if command.format is None and not warnings and len(tree.mounts) == 1:
                _refuse_unknown(guest)
        for warning in [*warnings, *namespace.unclean()]:
            complain(f"warning: {warning}")

        def ready() -> None:
            if pid_file is not None:
                try:
                    with open(pid_file, "w") as file:
                        file.write(f"{os.getpid()}\n")
                except OSError as error:
                    from guestkit.errors import SourceError

                    raise SourceError(error.strerror or str(error), where=pid_file) from None
            if send >= 0:
                _detach(send)

        if command.verbose:
            import logging

            logging.basicConfig(level=logging.INFO, format="guestkit-mount: %(message)s")
            logging.getLogger("guestkit").setLevel(logging.DEBUG)
        _collect_less()
        try:
            options = MountOptions(**command.mount_options)  # type: ignore[arg-type]  # _mount_option made them
            serve(namespace, mountpoint, options, ready, command_line=True, plain_loop=command.plain_loop)
        finally:
            if pid_file is not None:
                try:
                    os.unlink(pid_file)
                except OSError:  # somebody took it away, or it was never written
                    pass
        # a read in flight in a worker thread must not hold up the exit; what it read from goes with the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _collect_less() -> None:
    """Have the cycle collector look less often: listings are a flood of tuples, and nothing here lives in cycles."""
    import gc

    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _refuse_unknown(guest: Guest) -> None:
    """Raises: InvalidArgument when nothing on the disks is known: they are then hardly disk images."""
    if not any(disk.partitions or guest.detect(disk).type for disk in guest.disks):
        from guestkit.errors import InvalidArgument

        raise InvalidArgument(
            "neither a partition table nor a filesystem: not a disk image (--format raw shows its bytes all the same)",
            where=guest.disks[0].path,
        )


def _detach(send: int) -> None:
    """Leave the terminal, and tell the parent that the mount answers."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    os.write(send, b"\0")
    os.close(send)


def complain(message: str) -> None:
    """Print one line on stderr, control characters escaped."""
    line = " ".join(message.splitlines())
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    try:
        print(f"{os.path.basename(sys.argv[0]) or 'guestkit-mount'}: {shown}", file=sys.stderr)
    except UnicodeEncodeError:
        print(f"guestkit-mount: {ascii(shown)[1:-1]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
