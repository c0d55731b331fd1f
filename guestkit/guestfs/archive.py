"""tar_out: a directory of the guest as a tar archive of the host, in GNU's format, or pax where it holds attributes.

Nothing is taken from the host: owners are numbers, but for root. Names, links and devices are the guest's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from guestkit.errors import GuestkitError
from guestkit.fs.base import Stat
from guestkit.guestfs.call import FileOut, Pathname, StringList, api
from guestkit.guestfs.errors import Failure, describe, not_supported
from guestkit.guestfs.handle import Handle
from guestkit.guestfs.search import matches
from guestkit.guestfs.transfer import CHUNK, Sink
from guestkit.source import Source

_COMPRESSIONS = ("compress", "gzip", "bzip2", "xz", "lzop", "lzma", "zstd")


class _Reader:
    """A Source as a file object, for tarfile."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        left = self._source.size - self._at
        take = left if size < 0 else min(size, left)
        data = self._source.read(self._at, take)
        self._at += take
        return data


class Archive(Handle):
    @api()
    def tar_out(
        self,
        directory: str,
        tarfile: FileOut,
        compress: str | None = None,
        numericowner: bool | None = None,
        excludes: StringList | None = None,
        xattrs: bool | None = None,
        selinux: bool | None = None,
        acls: bool | None = None,
    ) -> None:
        """Write a directory as tar to a host file; members are "./" and "./name".

        `compress`: gzip, bzip2, xz, lzma or zstd. `excludes`: shell patterns. Raises: GuestfsError.
        """
        kinds = [(xattrs, b""), (selinux, b"security.selinux"), (acls, b"system.posix_acl_")]
        wanted = [prefix for chosen, prefix in kinds if chosen]
        patterns = [each.encode() for each in excludes or ()]
        self._tar(directory, tarfile, compress, bool(numericowner), patterns, wanted)

    tar_out_opts = tar_out

    @api(deprecated="tar_out")
    def tgz_out(self, directory: Pathname, tarball: FileOut) -> None:
        """As tar_out with compress="gzip"."""
        self._tar(directory, tarball, "gzip", False, [], [])

    @api(deprecated="tar_out")
    def txz_out(self, directory: Pathname, tarball: FileOut) -> None:
        """As tar_out with compress="xz"."""
        self._tar(directory, tarball, "xz", False, [], [])

    def _tar(
        self,
        directory: str,
        target: str,
        compress: str | None,
        numeric: bool,
        excludes: list[bytes],
        wanted: list[bytes],
    ) -> None:
        if compress is not None and compress not in _COMPRESSIONS:
            raise Failure(f"unknown compression type: {compress}", errno.EINVAL)
        try:
            top = self._node(directory)
            if not stat.S_ISDIR(self._table.stat(top).mode):
                raise Failure(f"{directory}: not a directory", errno.ENOTDIR)
        except GuestkitError as error:
            raise Failure(f"{directory}: {describe(error)}", error.errno or errno.EIO) from error
        opened = compressor(compress)
        with Sink(self, target) as sink:
            out = opened(cast(IO[bytes], sink))
            writer = _Writer(self, out, numeric, wanted)
            try:
                for path, node, status in in_order(self, top, excludes):
                    writer.add(path, node, status)
            except GuestkitError as error:
                raise Failure(str(error) + f": {os.strerror(error.errno or errno.EIO)}", error.errno or 0) from error
            writer.close()
            if out is not cast(object, sink):
                out.close()


class _Writer:
    def __init__(self, handle: Handle, out: IO[bytes], numeric: bool, wanted: list[bytes]) -> None:
        import tarfile

        self._info = tarfile.TarInfo
        self._link_type = tarfile.LNKTYPE
        self._types = {
            stat.S_IFDIR: tarfile.DIRTYPE,
            stat.S_IFREG: tarfile.REGTYPE,
            stat.S_IFLNK: tarfile.SYMTYPE,
            stat.S_IFCHR: tarfile.CHRTYPE,
            stat.S_IFBLK: tarfile.BLKTYPE,
            stat.S_IFIFO: tarfile.FIFOTYPE,
        }
        self._table = handle._table
        self._handle = handle
        self._numeric = numeric
        self._wanted = wanted
        self._links: dict[int, str] = {}
        self._tar = tarfile.open(  # noqa: SIM115  # lives as long as the writer; close() ends it
            fileobj=out,
            mode="w|",
            format=tarfile.PAX_FORMAT if wanted else tarfile.GNU_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
            bufsize=CHUNK,
        )

    def add(self, path: bytes, node: int, status: Stat) -> None:
        kind = stat.S_IFMT(status.mode)
        name = os.fsdecode(b"./" + path)
        if kind not in self._types:
            self._handle._say(f"tar_out: {name}: socket ignored")
            return
        info = self._info(name)
        info.type = self._types[kind]
        info.mode = stat.S_IMODE(status.mode)
        info.uid, info.gid = status.uid, status.gid
        info.mtime = status.mtime_ns // 1_000_000_000
        if not self._numeric:
            info.uname = "" if status.uid else "root"
            info.gname = "" if status.gid else "root"
        if kind == stat.S_IFLNK:
            info.linkname = os.fsdecode(self._table.readlink(node))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            info.devmajor, info.devminor = os.major(status.rdev), os.minor(status.rdev)
        if self._wanted:
            info.pax_headers = self._attributes(node)
        body = None
        if kind == stat.S_IFREG:
            first = self._links.get(node)
            if first is not None:
                info.type, info.linkname = self._link_type, first
            else:
                if status.nlink > 1:
                    self._links[node] = name
                source = self._table.open(node)
                info.size = source.size
                body = cast(IO[bytes], _Reader(source))
        self._tar.addfile(info, body)

    def _attributes(self, node: int) -> dict[str, str]:
        found = {}
        for name in self._table.xattr_names(node):
            if any(name.startswith(prefix) for prefix in self._wanted):
                found["SCHILY.xattr." + os.fsdecode(name)] = os.fsdecode(self._table.xattr(node, name))
        return found

    def close(self) -> None:
        self._tar.close()


def in_order(handle: Handle, top: int, excludes: list[bytes]) -> Iterator[tuple[bytes, int, Stat]]:
    """Every name below `top` and itself as b"", a directory before what is in it, sorted; excluded ones left out.

    Raises: what a damaged object raises: an archive is whole or fails.
    """
    table = handle._table
    pending: list[tuple[bytes, int, tuple[int, ...]]] = [(b"", top, ())]
    while pending:
        path, node, above = pending.pop()
        status = table.stat(node)
        yield path, node, status
        if not stat.S_ISDIR(status.mode):
            continue
        if node in above:
            raise Failure(f"{os.fsdecode(path)}: directory is its own ancestor", errno.ELOOP)
        above = (*above, node)
        for entry in sorted(table.scan(node), reverse=True):
            below = path + b"/" + entry.name if path else entry.name
            if not excluded(b"./" + below, excludes):
                pending.append((below, entry.node, above))


def excluded(path: bytes, patterns: list[bytes]) -> bool:
    """Whether GNU tar's --exclude leaves a member out: a pattern may match any trailing part; * matches a slash."""
    return any(
        matches(pattern, path[start:])
        for pattern in patterns
        for start in range(len(path))
        if start == 0 or path[start - 1 : start] == b"/"
    )


def compressor(kind: str | None) -> Callable[[IO[bytes]], IO[bytes]]:
    """A function that puts a compressing file object before another one. Raises: Failure for what cannot be done."""
    if kind is None:
        return lambda out: out
    if kind == "gzip":
        import gzip

        return lambda out: cast(IO[bytes], gzip.GzipFile("", "wb", 6, out, mtime=0))
    if kind == "bzip2":
        import bz2

        return lambda out: cast(IO[bytes], bz2.BZ2File(out, "wb"))
    if kind in ("xz", "lzma"):
        import lzma

        format = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
        return lambda out: cast(IO[bytes], lzma.LZMAFile(out, "wb", format=format))
    if kind == "zstd":
        from importlib import import_module

        try:
            zstd: Any = import_module("compression.zstd")
        except ImportError:
            zstd = import_module("backports.zstd")
        return lambda out: cast(IO[bytes], zstd.ZstdFile(out, "wb"))
    raise not_supported(f"the compression type '{kind}'")
