"""api(): the frame round every method of the Guestfs class.

It checks the number and types of arguments before any work (TypeError, as libguestfs's binding), the state of the
handle, takes the handle's lock, tells the events, and turns errors into GuestfsError. A parameter's annotation names
its kind: all of them are plain Python types to a type checker.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from guestkit.guestfs.errors import ClosedHandle, Failure, as_guestfs_error
from guestkit.guestfs.events import EVENT_ENTER, EVENT_TRACE

if TYPE_CHECKING:
    from guestkit.guestfs.handle import Handle

# kinds of parameters; the frame reads their names
Pathname = str  # absolute, in the guest
Device = str  # /dev/sda
Mountable = str  # a device, or btrfsvol:/dev/sda2/name
DevOrPath = str  # a device when it begins with /dev/
FileOut = str  # a file of the host that is written
FileIn = str  # a file of the host that is read
Key = str
StringList = Iterable[str]
BufferIn = bytes | str

# kinds of results
Hashtable = Any  # a dict, or a list of pairs, as the handle was asked to answer

F = TypeVar("F", bound=Callable[..., Any])

CONFIG, LAUNCHING, READY, CLOSED = 0, 1, 2, 9
_LAUNCH_FIRST = "call launch before using this function\n(in guestfish, don't forget to use the 'run' command)"
_CONFIG_ONLY = "this function can only be called in the config state"


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"argument must be str, not {type(value).__name__}")
    if "\0" in value:
        raise ValueError("embedded null character")
    return value


def _number(value: Any) -> int:
    return operator.index(value)


def _buffer(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"a bytes-like object is required, not '{type(value).__name__}'")
    return bytes(value)


def _strings(value: Any) -> list[str]:
    return [_string(each) for each in list(value)]


def _key(value: Any) -> str:
    # bytes are taken as well: callers of other bindings pass them
    return value.decode() if isinstance(value, bytes) else _string(value)


# annotation -> (the type that needs no look, the check)
_KINDS: dict[str, tuple[type | None, Callable[[Any], Any]]] = {
    "int": (int, _number),
    "bool": (bool, lambda value: bool(_number(value))),
    "BufferIn": (bytes, _buffer),
    "StringList": (None, _strings),
    "Key": (None, _key),
}
_STRING = (None, _string)


class _Parameter:
    __slots__ = ("check", "name", "optional", "plain")

    def __init__(self, name: str, annotation: str, default: bool) -> None:
        kind, _, rest = annotation.partition(" | ")
        self.name = name
        self.optional = default or rest == "None"
        self.plain, self.check = _KINDS.get(kind, _STRING)

    def convert(self, value: Any) -> Any:
        if value.__class__ is self.plain or (value is None and self.optional):
            return value
        return self.check(value)


def api(
    func: str = "",
    *,
    state: int | None = READY,
    syscall: str = "",
    deprecated: str | bool = False,
    lock: bool = True,
) -> Callable[[F], F]:
    """Make a method one of the API. `func`: the name in error texts, where it is not the method's own.

    `state`: READY (after launch), CONFIG (before it), None (either). `syscall`: what the text names before the
    reason; "path": the first argument. `deprecated`: the function to use instead. `lock`: one call at a time.
    """

    def frame(function: F) -> F:
        name = function.__name__
        inner = func or name
        code = function.__code__
        names = code.co_varnames[1 : code.co_argcount]
        optional = len(function.__defaults__ or ())
        required = len(names) - optional
        parameters = [
            _Parameter(each, function.__annotations__[each], index >= required) for index, each in enumerate(names)
        ]
        by_name = {parameter.name: parameter for parameter in parameters}
        hashtable = function.__annotations__.get("return") == "Hashtable"
        one_string = len(names) == 1 and required == 1 and parameters[0].check is _string
        advice = ""
        if deprecated:
            advice = (
                f"use GuestFS.{deprecated}() instead of GuestFS.{name}()"
                if isinstance(deprecated, str)
                else (f"GuestFS.{name}() is deprecated")
            )

        def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
            if len(args) > len(names):
                raise TypeError(f"{name}() takes at most {len(names)} arguments ({len(args)} given)")
            for each in kwargs:
                if each not in by_name:
                    raise TypeError(f"{name}() got an unexpected keyword argument '{each}'")
                if each in names[: len(args)]:
                    raise TypeError(f"{name}() got multiple values for argument '{each}'")
            for each in names[len(args) : required]:
                if each not in kwargs:
                    raise TypeError(f"{name}() missing required argument: '{each}'")
            return (
                [parameter.convert(value) for parameter, value in zip(parameters, args, strict=False)],
                {each: by_name[each].convert(value) for each, value in kwargs.items()},
            )

        def run(self: Handle, args: Any, kwargs: dict[str, Any]) -> Any:
            try:
                if state is not None and self._state != state:
                    if state == CONFIG:
                        raise Failure(_CONFIG_ONLY)
                    raise Failure(_LAUNCH_FIRST)
                result = function(self, *args, **kwargs)
            except (OSError, Failure) as error:
                place = syscall
                if syscall.endswith("path"):
                    first = next((each for each in (*args, *kwargs.values()) if isinstance(each, str)), "")
                    place = syscall.removesuffix("path") + first
                raise as_guestfs_error(inner, place, error) from error
            return self._hashtable(result) if hashtable else result

        def told(self: Handle, args: Any, kwargs: dict[str, Any]) -> Any:
            """As run(), with the events round it."""
            self._event(EVENT_ENTER, name.encode())
            if not self._trace:
                return run(self, args, kwargs)
            self._event(EVENT_TRACE, " ".join([name, *_shown(args, kwargs)]).encode("utf-8", "surrogateescape"))
            try:
                result = run(self, args, kwargs)
            except Exception:
                self._event(EVENT_TRACE, f"{name} = -1 (error)".encode())
                raise
            self._event(EVENT_TRACE, f"{name} = {_show(result)}".encode("utf-8", "surrogateescape"))
            return result

        @wraps(function)
        def call(self: Handle, *args: Any, **kwargs: Any) -> Any:
            if one_string and not kwargs and len(args) == 1 and args[0].__class__ is str and "\0" not in args[0]:
                bound: Any = args
            else:
                bound, kwargs = bind(args, kwargs)
            if advice:
                warnings.warn(advice, DeprecationWarning, stacklevel=2)
            if self._state == CLOSED:
                raise ClosedHandle("GuestFS: method called on closed handle")
            if not lock:
                return (told if self._observed else run)(self, bound, kwargs)
            with self._lock:
                return (told if self._observed else run)(self, bound, kwargs)

        return cast(F, call)

    return frame


def _shown(args: Iterable[Any], kwargs: dict[str, Any]) -> list[str]:
    return [_show(each) for each in args] + [f'"{name}:{_show(value)}"' for name, value in kwargs.items()]


def _show(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value + '"'
    if isinstance(value, bytes):
        text = value[:256].decode("latin-1").encode("unicode_escape").decode()
        return f'"{text}"' + ("<truncated>" if len(value) > 256 else "")
    if value is None:
        return "0"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_show(each) for each in value[:16])
        return f"[{shown}{', ...' if len(value) > 16 else ''}]"
    if isinstance(value, dict):
        return "<struct " + ", ".join(f"{name}: {_show(each)}" for name, each in value.items()) + ">"
    return str(value)


def to_stderr(text: str) -> None:
    """Write one line of the library's own messages."""
    sys.stderr.write(f"libguestfs: {text}\n")
