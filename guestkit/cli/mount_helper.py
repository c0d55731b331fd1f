"""mount.fuse.guestkit: what `mount -t fuse.guestkit IMAGE DIR -o ...` and fstab lines run.

mount(8) calls it as `mount.fuse.guestkit IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns mount(8)'s exit status: 1 for usage, 32 when mounting failed."""
    import getopt

    from guestkit.cli import mount

    try:
        pairs, places = getopt.gnu_getopt(sys.argv[1:] if arguments is None else arguments, "sfnvo:t:N:h", ["help"])
    except getopt.GetoptError as error:
        mount.complain(str(error))
        return 1
    given = []
    for name, value in pairs:
        if name in ("-h", "--help"):
            print("Usage: mount -t fuse.guestkit IMAGE DIR [-o OPTIONS]\nExample (fstab):")
            print("  /images/disk.qcow2  /mnt/guest  fuse.guestkit  ro,noauto,partition=sda1  0 0")
            return 0
        if name == "-f":  # mount --fake
            return 0
        if name == "-o":
            given += ["-o", value]
        elif name == "-v":
            given.append("-v")
    if len(places) != 2:
        mount.complain("an image and a directory are needed")
        return 1
    status = mount.main([*given, "--", *places])
    return {0: 0, 2: 1}.get(status, 32)


if __name__ == "__main__":
    sys.exit(main())
