"""Settings of a handle. Most of them configure libguestfs's virtual machine: kept and given back, no more."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from guestkit.guestfs.call import CONFIG, StringList, api
from guestkit.guestfs.errors import Failure
from guestkit.guestfs.handle import Handle

_TRUE = ("1", "true", "t", "yes", "y", "on")
_FALSE = ("0", "false", "f", "no", "n", "off")


def _boolean(name: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise Failure(f"{name}={text}: non-recognised boolean value")


class Settings(Handle):
    def _environment(self, variables: Mapping[str, str]) -> None:
        """Take LIBGUESTFS_* as libguestfs's constructor does."""
        for name in ("LIBGUESTFS_DEBUG", "LIBGUESTFS_TRACE"):
            text = variables.get(name)
            if text:
                if name.endswith("TRACE"):
                    self._trace = _boolean(name, text)
                else:
                    self._verbose = _boolean(name, text)
        for name, setting in (
            ("TMPDIR", "tmpdir"),
            ("LIBGUESTFS_TMPDIR", "tmpdir"),
            ("LIBGUESTFS_CACHEDIR", "cachedir"),
            ("LIBGUESTFS_BACKEND", "backend"),
            ("LIBGUESTFS_PATH", "path"),
        ):
            if variables.get(name):
                self._settings[setting] = variables[name]
        if variables.get("LIBGUESTFS_BACKEND_SETTINGS"):
            self._settings["backend_settings"] = variables["LIBGUESTFS_BACKEND_SETTINGS"].split(":")
        text = variables.get("LIBGUESTFS_MEMSIZE", "")
        if text:
            if not text.isascii() or not text.isdigit():
                raise Failure(f"non-numeric value for LIBGUESTFS_MEMSIZE: {text}")
            self._settings["memsize"] = int(text)
        self._watch()

    @api(state=None)
    def parse_environment(self) -> None:
        """Take settings from the environment's LIBGUESTFS_* variables. Raises: GuestfsError for a bad value."""
        self._environment(os.environ)

    @api(state=None)
    def parse_environment_list(self, environment: StringList) -> None:
        """Take settings from strings NAME=value. Raises: GuestfsError for a bad value."""
        self._environment(dict(each.partition("=")[::2] for each in environment))

    @api(state=None)
    def set_verbose(self, verbose: bool) -> None:
        """Say on stderr what is done."""
        self._verbose = bool(verbose)

    @api(state=None)
    def get_verbose(self) -> bool:
        """Whether messages are on."""
        return self._verbose

    @api(state=None)
    def set_trace(self, trace: bool) -> None:
        """Say on stderr, or to the callback of EVENT_TRACE, which calls are made."""
        self._trace = bool(trace)
        self._watch()

    @api(state=None)
    def get_trace(self) -> bool:
        """Whether calls are traced."""
        return self._trace

    @api(state=None)
    def set_autosync(self, autosync: bool) -> None:
        """Keep the setting; nothing is written, so there is nothing to sync."""
        self._settings["autosync"] = bool(autosync)

    @api(state=None)
    def get_autosync(self) -> bool:
        """The setting, True unless changed."""
        return bool(self._settings.get("autosync", True))

    @api(state=None)
    def set_program(self, program: str) -> None:
        """Keep the name of the program that uses the handle."""
        self._settings["program"] = program

    @api(state=None)
    def get_program(self) -> str:
        """The name of the program."""
        return str(self._settings.get("program", os.path.basename(sys.argv[0] if sys.argv else "")))

    @api(state=None)
    def set_identifier(self, identifier: str) -> None:
        """Keep a name for the handle, for messages."""
        self._settings["identifier"] = identifier

    @api(state=None)
    def get_identifier(self) -> str:
        """The name given to the handle, "" when none was."""
        return str(self._settings.get("identifier", ""))

    @api(state=CONFIG)
    def set_backend(self, backend: str) -> None:
        """Keep the setting; there is one back end."""
        self._settings["backend"] = backend

    @api(state=None)
    def get_backend(self) -> str:
        """The back end that was set, "direct" when none was."""
        return str(self._settings.get("backend", "direct"))

    @api(state=None)
    def get_backend_settings(self) -> list[str]:
        """The settings for the back end."""
        return list(self._settings.get("backend_settings", []))

    @api(state=CONFIG)
    def set_backend_settings(self, settings: StringList) -> None:
        """Keep the settings for the back end."""
        self._settings["backend_settings"] = list(settings)

    @api(state=None)
    def set_tmpdir(self, tmpdir: str | None) -> None:
        """Keep the setting; None: the default. No temporary files are made."""
        self._settings["tmpdir"] = tmpdir

    @api(state=None)
    def get_tmpdir(self) -> str:
        """The directory for temporary files."""
        return str(self._settings.get("tmpdir") or "/tmp")

    @api(state=None)
    def set_cachedir(self, cachedir: str | None) -> None:
        """Keep the setting; None: the default."""
        self._settings["cachedir"] = cachedir

    @api(state=None)
    def get_cachedir(self) -> str:
        """The directory for cached files."""
        return str(self._settings.get("cachedir") or "/var/tmp")

    @api(state=CONFIG)
    def set_memsize(self, memsize: int) -> None:
        """Keep the setting; there is no virtual machine to give it to."""
        self._settings["memsize"] = memsize

    @api(state=None)
    def get_memsize(self) -> int:
        """The setting, in MiB."""
        return int(self._settings.get("memsize", 1280))

    @api(state=CONFIG)
    def set_smp(self, smp: int) -> None:
        """Keep the setting."""
        if smp < 1:
            raise Failure("invalid smp parameter")
        self._settings["smp"] = smp

    @api(state=None)
    def get_smp(self) -> int:
        """The setting."""
        return int(self._settings.get("smp", 1))

    @api(state=CONFIG)
    def set_network(self, network: bool) -> None:
        """Keep the setting; guestkit uses no network."""
        self._settings["network"] = bool(network)

    @api(state=None)
    def get_network(self) -> bool:
        """The setting."""
        return bool(self._settings.get("network", False))

    @api(state=CONFIG)
    def set_recovery_proc(self, recoveryproc: bool) -> None:
        """Keep the setting; no other process is started."""
        self._settings["recovery_proc"] = bool(recoveryproc)

    @api(state=None)
    def get_recovery_proc(self) -> bool:
        """The setting."""
        return bool(self._settings.get("recovery_proc", True))

    @api(state=CONFIG)
    def set_pgroup(self, pgroup: bool) -> None:
        """Keep the setting."""
        self._settings["pgroup"] = bool(pgroup)

    @api(state=None)
    def get_pgroup(self) -> bool:
        """The setting."""
        return bool(self._settings.get("pgroup", False))
