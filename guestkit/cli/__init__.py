"""The command line: guestkit, guestkit-mount, guestkit-umount. One file a group of commands."""
