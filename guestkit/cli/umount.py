"""guestkit-umount: unmount what guestkit-mount mounted; `fusermount3 -u` does the same."""

from __future__ import annotations

import sys

USAGE = """\
Usage: guestkit-umount [-l] MOUNTPOINT...

Unmount what guestkit-mount mounted.

  -l, -z, --lazy   even while it is in use: it goes when nobody uses it any more
  -h, --help       this text
  -V, --version    the version

Example:
  guestkit-umount guest
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    import getopt

    from guestkit.cli.mount import complain

    lazy = False
    try:
        pairs, places = getopt.gnu_getopt(
            sys.argv[1:] if arguments is None else arguments, "lzuhV", ["lazy", "help", "version"]
        )
    except getopt.GetoptError as error:
        complain(str(error))
        return 2
    for name, _ in pairs:
        if name in ("-h", "--help"):
            print(USAGE, end="")
            return 0
        if name in ("-V", "--version"):
            from guestkit import __version__

            print(f"guestkit-umount {__version__}")
            return 0
        lazy = lazy or name in ("-l", "-z", "--lazy")
    if not places:
        complain("no mount point given")
        return 2

    from guestkit.errors import GuestkitError
    from guestkit.fuse.place import mount_type, unmount

    status = 0
    for place in places:
        try:
            kind = mount_type(place)
            if kind != "fuse.guestkit":
                complain(f"{place}: {f'is a mount of type {kind}, not of guestkit' if kind else 'is not mounted'}")
                status = 1
                continue
            unmount(place, lazy=lazy)
        except GuestkitError as error:
            complain(str(error))
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
