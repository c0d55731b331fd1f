"""Events: what a handle tells its callbacks, with libguestfs's numbers."""

from __future__ import annotations

from collections.abc import Callable

EVENT_CLOSE = 0x1
EVENT_SUBPROCESS_QUIT = 0x2
EVENT_LAUNCH_DONE = 0x4
EVENT_PROGRESS = 0x8
EVENT_APPLIANCE = 0x10
EVENT_LIBRARY = 0x20
EVENT_TRACE = 0x40
EVENT_ENTER = 0x80
EVENT_LIBVIRT_AUTH = 0x100
EVENT_WARNING = 0x200
EVENT_ALL = 0x3FF

_NAMES = (
    (EVENT_APPLIANCE, "appliance"),
    (EVENT_CLOSE, "close"),
    (EVENT_ENTER, "enter"),
    (EVENT_LAUNCH_DONE, "launch_done"),
    (EVENT_LIBRARY, "library"),
    (EVENT_LIBVIRT_AUTH, "libvirt_auth"),
    (EVENT_PROGRESS, "progress"),
    (EVENT_SUBPROCESS_QUIT, "subprocess_quit"),
    (EVENT_TRACE, "trace"),
    (EVENT_WARNING, "warning"),
)

# (event, event handle, text, numbers)
Callback = Callable[[int, int, bytes, list[int]], object]


def event_to_string(events: int) -> str:
    """Name the events of a bit mask, comma-separated; "" for none. Raises: RuntimeError for an unknown bit."""
    if events & ~EVENT_ALL:
        raise RuntimeError("event_to_string: unknown event: Invalid argument")
    return ",".join(name for bit, name in _NAMES if events & bit)
