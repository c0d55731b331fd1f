"""Life cycle of a handle: launch, shutdown, close, state, events."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from guestkit.guestfs import events
from guestkit.guestfs.call import CLOSED, CONFIG, READY, api
from guestkit.guestfs.errors import ClosedHandle, Failure
from guestkit.guestfs.handle import Handle
from guestkit.namespace import MountTable

# of libguestfs's interface that is implemented; guestkit's own version is guestkit.__version__
API_VERSION = {"major": 1, "minor": 56, "release": 0, "extra": "guestkit"}
_STATES = {CONFIG: 0, READY: 2}


class Lifecycle(Handle):
    @api(state=CONFIG)
    def launch(self) -> None:
        """Open every added disk, so that the calls for devices and files work. Raises: GuestfsError."""
        from guestkit.errors import GuestkitError
        from guestkit.guest import Guest

        guest = Guest()
        try:
            for drive in self._added:
                drive.add_to(guest)
        except GuestkitError as error:
            guest.close()
            raise Failure(str(error), error.errno or 0) from error
        except BaseException:
            guest.close()
            raise
        self._guest = guest
        self._state = READY
        self._event(events.EVENT_LAUNCH_DONE)

    @api(state=None)
    def shutdown(self) -> None:
        """Close the disks; the handle can be asked for its settings still. May be repeated."""
        self._stop()

    def _stop(self) -> None:
        launched = self._state == READY
        guest, self._guest = self._guest, None
        self._table = MountTable()
        self._base = None
        self._tree_changed()
        self._systems = None
        self._state = CONFIG
        if guest is not None:
            guest.close()
        if launched:
            self._event(events.EVENT_SUBPROCESS_QUIT)

    def close(self) -> None:
        """End the handle. Raises: ClosedHandle when it is closed already."""
        with self._lock:
            if self._state == CLOSED:
                raise ClosedHandle("GuestFS: method called on closed handle")
            if self._trace:
                self._event(events.EVENT_TRACE, b"close")
            self._stop()
            self._event(events.EVENT_CLOSE)
            self._state = CLOSED
            self._callbacks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state != CLOSED:
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_state", CLOSED) != CLOSED:
            self.close()

    @property
    def state(self) -> int:
        """The same as get_state()."""
        return _STATES.get(self._state, -1)

    @api(state=None)
    def get_state(self) -> int:
        """A number for the state: 0 before launch, 2 after it."""
        return _STATES[self._state]

    @api(state=None)
    def is_config(self) -> bool:
        """Whether disks can still be added."""
        return self._state == CONFIG

    @api(state=None)
    def is_launching(self) -> bool:
        """Always False: launch() returns when it is done."""
        return False

    @api(state=None)
    def is_ready(self) -> bool:
        """Whether launch() was called."""
        return self._state == READY

    @api(state=None)
    def is_busy(self) -> bool:
        """Always False, as in libguestfs."""
        return False

    @api(state=None, deprecated=True)
    def wait_ready(self) -> None:
        """Do nothing: launch() waits. Raises: GuestfsError before launch()."""
        if self._state != READY:
            raise Failure("qemu has not been launched yet")

    @api(state=None, deprecated="shutdown")
    def kill_subprocess(self) -> None:
        """The same as shutdown()."""
        self._stop()

    @api(state=None)
    def version(self) -> dict[str, Any]:
        """The version of libguestfs's interface: major, minor, release, extra."""
        return dict(API_VERSION)

    @api(state=None, lock=False)
    def user_cancel(self) -> None:
        """Make the transfer that runs now fail; from a callback or another thread."""
        self._cancelled = True

    @api()
    def sync(self) -> None:
        """Do nothing: nothing is ever written."""

    @api()
    def ping_daemon(self) -> None:
        """Do nothing: the handle answers by itself."""

    def set_event_callback(self, cb: events.Callback, event_bitmask: int) -> int:
        """Call `cb(event, handle, text, numbers)` at the events of the mask. Returns a number to delete it by."""
        if self._state == CLOSED:
            raise ClosedHandle("GuestFS: method called on closed handle")
        if not callable(cb):
            raise TypeError("callback is not callable")
        with self._lock:
            number, self._next_callback = self._next_callback, self._next_callback + 1
            self._callbacks[number] = (cb, int(event_bitmask))
            self._watch()
        return number

    def delete_event_callback(self, event_handle: int) -> None:
        """Forget a callback; a number that is none is ignored."""
        if self._state == CLOSED:
            raise ClosedHandle("GuestFS: method called on closed handle")
        with self._lock:
            self._callbacks.pop(event_handle, None)
            self._watch()
