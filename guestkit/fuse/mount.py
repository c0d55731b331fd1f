"""serve(): a Namespace at a host directory until it is unmounted. The only place that imports pyfuse3 and trio.

pyfuse3 has one session a process. serve() runs in the caller's thread; stop() ends it from any other. Signal
handlers are installed only for the command line.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from guestkit.errors import Busy, GuestkitError, SourceError, Unsupported
from guestkit.fuse.options import MountOptions
from guestkit.fuse.place import prepare
from guestkit.namespace import Namespace
from guestkit.source import patience

_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Session:
    """The one session of this process, from the moment serve() starts."""

    def __init__(self) -> None:
        self.stopped = False
        self.token: Any = None
        self.end: Callable[[], None] | None = None

    def stop(self) -> None:
        """May be called from any thread and from a signal handler."""
        self.stopped = True
        if self.token is not None:
            try:
                self.token.run_sync_soon(self._end, idempotent=True)
            except RuntimeError:  # trio has ended already
                pass

    def _end(self) -> None:
        if self.end is not None:
            self.end()


_current: _Session | None = None
_lock = threading.Lock()


def serve(
    namespace: Namespace,
    mountpoint: str,
    options: MountOptions | None = None,
    ready: Callable[[], None] | None = None,
    *,
    command_line: bool = False,
    plain_loop: bool = False,
) -> None:
    """Show `namespace` at the directory `mountpoint`, until it is unmounted or stop() is called.

    `ready` is called once, when the mount answers. `command_line`: SIGTERM, SIGINT and SIGHUP end it, and what
    libfuse prints on stderr goes into the error instead. `plain_loop`: pyfuse3's own session loop asks and answers.
    Raises: Busy while another mount of this process is served; Unsupported without pyfuse3; GuestkitError when
    mounting fails.
    """
    global _current
    session = _Session()
    with _lock:
        if _current is not None:
            raise Busy("this process serves a mount already; pyfuse3 can do one at a time")
        _current = session
    before: dict[int, Any] = {}
    try:
        if command_line:
            for number in _SIGNALS:
                before[number] = signal.signal(number, lambda *_: session.stop())
        _serve(session, namespace, mountpoint, options or MountOptions(), ready, command_line, plain_loop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        with _lock:
            _current = None


def stop() -> bool:
    """End the mount that this process serves; False when there is none. Returns at once."""
    session = _current
    if session is None:
        return False
    session.stop()
    return True


def _serve(
    session: _Session,
    namespace: Namespace,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None] | None,
    command_line: bool,
    plain_loop: bool,
) -> None:
    try:
        import pyfuse3
        import trio
    except ImportError as error:
        raise Unsupported(
            f"mounting without {error.name or 'pyfuse3'} (pip install 'guestkit[mount]'; "
            "needs the development files of fuse3, pkg-config and a C compiler)"
        ) from None
    from guestkit.fuse.device import descriptor, opened
    from guestkit.fuse.direct import Direct
    from guestkit.fuse.plain import Operations

    prepare(mountpoint, nonempty=options.nonempty)
    place = os.path.realpath(mountpoint)
    if hasattr(namespace, "prefix"):
        namespace.prefix = b"" if place == "/" else os.fsencode(place)
    before = opened()
    plain = Operations(namespace, options)
    _start(pyfuse3, plain, place, options, command_line)
    fd = -1 if plain_loop else descriptor(before)
    direct = None if fd < 0 else Direct(fd, namespace, options)
    requests = (direct or plain).requests

    def answers() -> None:
        if ready is not None:
            ready()
        if command_line:  # another program's process is not ours to fork
            requests.start_lister()

    patient, patience.may_block = patience.may_block, False
    try:
        if not session.stopped:
            trio.run(_main, session, direct, answers)
    finally:
        patience.may_block = patient
        requests.close()
        pyfuse3.close(unmount=True)


async def _main(session: _Session, direct: Any, ready: Callable[[], None]) -> None:
    """Serve by `direct`, or by pyfuse3's own session loop when that is None."""
    import pyfuse3
    import trio

    with trio.CancelScope() as scope:

        def end() -> None:
            if direct is None:
                pyfuse3.terminate()
            scope.cancel()

        session.end = end
        session.token = trio.lowlevel.current_trio_token()
        if session.stopped:
            return
        if direct is not None:
            await direct.run(ready)
            return
        ready()
        await pyfuse3.main()


def _start(pyfuse3: Any, operations: Any, place: str, options: MountOptions, command_line: bool) -> None:
    """Mount. Raises: GuestkitError with what libfuse had to say."""
    said = ""
    keep = os.dup(2) if command_line else -1
    scratch = os.memfd_create("stderr") if command_line else -1
    try:
        if command_line:
            os.dup2(scratch, 2)
        pyfuse3.init(operations, place, options.for_libfuse())
    except RuntimeError as error:
        if command_line:
            os.lseek(scratch, 0, os.SEEK_SET)
            said = os.read(scratch, 4096).decode("utf-8", "replace").strip().partition("\n")[0]
        raise _failure(said or str(error), place) from None
    finally:
        if command_line:
            os.dup2(keep, 2)
            os.close(keep)
            os.close(scratch)


def _failure(said: str, place: str) -> GuestkitError:
    if not os.path.exists("/dev/fuse"):
        return Unsupported("mounting without /dev/fuse (modprobe fuse; in a container: --device /dev/fuse)")
    if os.geteuid() and not _on_path("fusermount3"):
        return Unsupported("mounting without fusermount3 (install the fuse3 package)")
    return SourceError(f"cannot mount: {said}", where=place)


def _on_path(program: str) -> bool:
    return any(os.access(os.path.join(directory, program), os.X_OK) for directory in os.get_exec_path())
