"""Functions that would change the guest, or run its programs: they exist, and fail.

Writing fails as on a read-only filesystem; whatever the arguments are, nothing is looked at but their form.
"""

from __future__ import annotations

import errno

from guestkit.guestfs.call import BufferIn, DevOrPath, FileIn, Pathname, StringList, api
from guestkit.guestfs.errors import READ_ONLY, Failure, not_supported
from guestkit.guestfs.handle import Handle

_COMMANDS = "running programs of the guest"


class Writes(Handle):
    @api("internal_write")
    def write(self, path: Pathname, content: BufferIn) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api("internal_write_append")
    def write_append(self, path: Pathname, content: BufferIn) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def mkdir(self, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def mkdir_p(self, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def rm(self, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def rm_f(self, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def rm_rf(self, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def rmdir(self, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def touch(self, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def chmod(self, mode: int, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    @api()
    def chown(self, owner: int, group: int, path: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(path)

    def _two(self, src: str, dest: str) -> Failure:
        self._need_root(src)
        return self._read_only(dest)

    @api()
    def cp(self, src: Pathname, dest: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._two(src, dest)

    @api()
    def cp_a(self, src: Pathname, dest: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._two(src, dest)

    @api()
    def cp_r(self, src: Pathname, dest: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._two(src, dest)

    @api()
    def mv(self, src: Pathname, dest: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._two(src, dest)

    @api()
    def rename(self, oldpath: Pathname, newpath: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._two(oldpath, newpath)

    @api()
    def upload(self, filename: FileIn, remotefilename: DevOrPath) -> None:
        """Raises: GuestfsError (EROFS)."""
        if remotefilename.startswith("/dev/"):
            self._device(remotefilename)
            raise Failure(f"{remotefilename}: {READ_ONLY}", errno.EROFS)
        raise self._read_only(remotefilename)

    @api()
    def tar_in(
        self,
        tarfile: FileIn,
        directory: Pathname,
        compress: str | None = None,
        xattrs: bool | None = None,
        selinux: bool | None = None,
        acls: bool | None = None,
        keepdirlink: bool | None = None,
    ) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(directory)

    tar_in_opts = tar_in

    @api(deprecated="tar_in")
    def tgz_in(self, tarball: FileIn, directory: Pathname) -> None:
        """Raises: GuestfsError (EROFS)."""
        raise self._read_only(directory)

    @api()
    def command(self, arguments: StringList) -> str:
        """Raises: GuestfsError (ENOTSUP): no program of the guest is ever run."""
        raise self._no_command(arguments)

    @api()
    def command_lines(self, arguments: StringList) -> list[str]:
        """Raises: GuestfsError (ENOTSUP): no program of the guest is ever run."""
        raise self._no_command(arguments)

    @api()
    def sh(self, command: str) -> str:
        """Raises: GuestfsError (ENOTSUP): no program of the guest is ever run."""
        self._need_root("/")
        raise not_supported(_COMMANDS)

    @api()
    def sh_lines(self, command: str) -> list[str]:
        """Raises: GuestfsError (ENOTSUP): no program of the guest is ever run."""
        self._need_root("/")
        raise not_supported(_COMMANDS)

    def _no_command(self, arguments: StringList) -> Failure:
        self._need_root("/")
        return not_supported(_COMMANDS) if list(arguments) else Failure("passed an empty list", errno.EINVAL)
