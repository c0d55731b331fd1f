"""Mounting the guest's filesystems into the handle's tree."""

from __future__ import annotations

import errno

from guestkit.errors import Busy, Corrupt, InvalidArgument, NeedKey, NotADirectory, NotFound, Unsupported
from guestkit.guestfs.call import DevOrPath, Hashtable, Mountable, Pathname, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle
from guestkit.namespace import Mount, node_of

# options that are about writing, or about what only a kernel does
_IGNORED = frozenset(
    ("ro", "rw", "defaults", "auto", "noauto", "user", "nouser", "users", "exec", "noexec", "suid", "nosuid", "dev")
    + ("nodev", "sync", "async", "atime", "noatime", "relatime", "norelatime", "strictatime", "nodiratime", "lazytime")
    + ("discard", "nodiscard", "errors", "usrquota", "grpquota")
)
# a type that the caller names -> what detection may have said
_ACCEPTED = {
    "ext4": ("ext4", "ext3", "ext2"),
    "ext3": ("ext3", "ext2"),
    "msdos": ("vfat",),
    "ntfs3": ("ntfs",),
    "ntfs-3g": ("ntfs",),
    "fuseblk": ("ntfs", "exfat"),
}


def _options(text: str) -> dict[str, str]:
    """Split "noload, subvol=@"; blanks round the commas do not matter, though mount(8) would refuse them."""
    pairs = (item.strip().partition("=") for item in text.split(",") if item.strip())
    return {name: value for name, _, value in pairs if name not in _IGNORED}


class Mounting(Handle):
    @api()
    def mount(self, mountable: Mountable, mountpoint: str) -> None:
        """Show a filesystem at a path of the tree; it stays read-only all the same.

        Raises: GuestfsError when the device or the path is not there, or no filesystem can be read on it.
        """
        self._mount("", "", mountable, mountpoint)

    @api()
    def mount_ro(self, mountable: Mountable, mountpoint: str) -> None:
        """Show a filesystem at a path of the tree. Raises: as mount."""
        self._mount("ro", "", mountable, mountpoint)

    @api()
    def mount_options(self, options: str, mountable: Mountable, mountpoint: str) -> None:
        """As mount, with options such as "noload" or "subvol=@". Raises: as mount."""
        self._mount(options, "", mountable, mountpoint)

    @api()
    def mount_vfs(self, options: str, vfstype: str, mountable: Mountable, mountpoint: str) -> None:
        """As mount_options, for a filesystem of the given type only. Raises: as mount."""
        self._mount(options, vfstype, mountable, mountpoint)

    def _mount(self, options: str, kind: str, mountable: str, mountpoint: str) -> None:
        device, volume = self._mountable(mountable)
        if not mountpoint.startswith("/"):
            raise Failure("path must start with a / character", errno.EINVAL, stub=True)
        table = self._table
        at: int | None = None
        path = b""
        bare = self._base is not None and len(table.mounts) == 1
        if mountpoint.strip("/"):
            try:
                if not table.mounts:
                    raise NotFound
                path = self._real(mountpoint.encode()).rstrip(b"/")
                at = table.resolve(path + b"/") if path else None
            except (NotFound, NotADirectory):
                raise Failure(f"mount: {mountpoint}: mount point is not a directory", errno.ENOTDIR) from None
        if any(mount.path == path for mount in self._shown()):
            raise _refused(f"{device.name} already mounted on /sysroot{path.decode()}", errno.EBUSY)
        wanted = _options(options)
        try:
            found = self._opened().detect(device).type
            if found and kind not in ("", "auto", found) and found not in _ACCEPTED.get(kind, ()):
                raise InvalidArgument(f"holds {found}, not {kind}")
            # where nothing is told (a damaged superblock), the caller's word counts
            name = device.name if volume is None else mountable
            fs, root = self._opened().root_of(name, wanted, None if found or kind == "auto" else kind)
        except (InvalidArgument, NotFound, Unsupported, Corrupt, NeedKey) as error:
            raise _refused(
                f"wrong fs type, bad option, bad superblock on {device.name}, missing codepage or helper program, "
                f"or other error ({error})",
                error.errno or errno.EINVAL,
            ) from error
        try:
            if bare and at is None:
                table.umount(next(iter(table.mounts)))
                self._base = None
            mount = table.mount(fs, at, path, root=root, source=device.name)
            self._know_drives(mount)
            self._tree_changed()
        except Busy:
            raise _refused(f"{device.name} already mounted on /sysroot{mountpoint}", errno.EBUSY) from None
        except NotADirectory:
            raise Failure(f"mount: {mountpoint}: mount point is not a directory", errno.ENOTDIR) from None
        if fs.state.kind == "dirty-not-replayed":
            self._say(f"mount: {device.name}: {fs.state}")
        for problem in fs.problems()[1]:
            self._say(f"mount: {device.name}: {problem.where}: {problem.message}")

    def _know_drives(self, mount: Mount) -> None:
        """Let links of Windows lead to the drives that inspection found: the root's own, else the first system's."""
        windows = [system for system in self._systems or () if system.drives]
        for system in windows:
            if system.root == mount.source or mount.confine not in self._table.drives:
                self._table.drives[mount.confine] = system.drives

    def _shown(self) -> list[Mount]:
        """What the caller mounted, in order."""
        return [mount for mount in self._table.mounts.values() if mount.fs is not self._base]

    @api()
    def umount(self, pathordevice: DevOrPath, force: bool | None = None, lazyunmount: bool | None = None) -> None:
        """Take a filesystem out of the tree, by its mount point or device.

        Raises: GuestfsError when it is not mounted, or another one is mounted below it.
        """
        device = ""
        path = b""
        if pathordevice.startswith("/dev/"):
            device = self._device(pathordevice).name
        else:
            path = b"/" + self._need_root(pathordevice).strip(b"/")
        for mount in reversed(self._shown()):
            if mount.source == device if device else (mount.path or b"/") == path:
                break
        else:
            raise Failure(f"umount: {pathordevice}: not mounted", errno.EINVAL)
        try:
            self._table.umount(mount.index)
            self._tree_changed()
        except Busy:
            raise Failure(f"umount: {pathordevice}: target is busy.", errno.EBUSY) from None

    umount_opts = umount

    @api()
    def umount_all(self) -> None:
        """Take everything out of the tree, the innermost first."""
        self._unmount_all()

    def _unmount_all(self) -> None:
        for mount in sorted(self._shown(), reverse=True, key=lambda mount: mount.index):
            self._table.umount(mount.index)
        self._tree_changed()

    @api()
    def mounts(self) -> list[str]:
        """The devices that are mounted, in the order of mounting."""
        return [mount.source for mount in self._shown()]

    @api()
    def mountpoints(self) -> Hashtable:
        """The mounted devices, each with its path."""
        return [(mount.source, (mount.path or b"/").decode()) for mount in self._shown()]

    @api(syscall="path")
    def mkmountpoint(self, exemptpath: str) -> None:
        """Make a directory to mount at, before a root filesystem is mounted.

        Raises: GuestfsError when it exists, or the filesystem on / would have to be written to.
        """
        from guestkit.synthetic import SyntheticFS

        path = self._exempt(exemptpath)
        table = self._table
        if not table.mounts:
            self._base = SyntheticFS()
            table.mount(self._base)
        parent, _, name = path.rpartition(b"/")
        try:
            table.resolve(path)
        except NotFound:
            pass
        else:
            raise Failure(f"{exemptpath}: File exists", errno.EEXIST)
        above = table.resolve(parent or b"/")
        mount = table.mount_of(above)
        if self._base is None or mount.fs is not self._base:
            raise self._read_only(exemptpath)
        self._tree_changed()
        self._base.add_directory(above ^ node_of(mount.index, 0), name)

    @api(syscall="path")
    def rmmountpoint(self, exemptpath: str) -> None:
        """Remove a directory made by mkmountpoint. Raises: GuestfsError when it is not there or in use."""
        path = self._exempt(exemptpath)
        table = self._table
        if not table.mounts:
            raise Failure(f"{exemptpath}: No such file or directory", errno.ENOENT)
        node = table.resolve(path, follow=False)
        parent, _, name = path.rpartition(b"/")
        above = table.resolve(parent or b"/")
        mount = table.mount_of(above)
        if table.mount_of(node) is not mount:
            raise Busy
        if self._base is None or mount.fs is not self._base:
            raise self._read_only(exemptpath)
        self._tree_changed()
        self._base.remove(above ^ node_of(mount.index, 0), name)
        if len(table.mounts) == 1 and not list(table.scan(table.root)):
            table.umount(mount.index)
            self._base = None

    def _exempt(self, path: str) -> bytes:
        if not path.startswith("/"):
            raise Failure("path must start with a / character", errno.EINVAL, stub=True)
        name = b"/" + path.encode().strip(b"/")
        if name == b"/":
            raise Failure(f"{path}: File exists", errno.EEXIST)
        return name

    @api()
    def remount(self, mountpoint: Pathname, rw: bool | None = None) -> None:
        """Do nothing for read-only. Raises: GuestfsError for `rw`, or when nothing is mounted there."""
        path = b"/" + self._need_root(mountpoint).strip(b"/")
        if all((mount.path or b"/") != path for mount in self._shown()):
            raise Failure(f"mount: {mountpoint}: mount point not mounted or bad option.", errno.EINVAL)
        if rw:
            raise self._read_only(mountpoint)


def _refused(reason: str, number: int) -> Failure:
    return Failure(f"mount exited with status 32: mount: /sysroot: {reason}.", number)
