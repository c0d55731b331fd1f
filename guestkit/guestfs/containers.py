"""LVM and encrypted containers: what detection alone can tell; the rest is not supported yet and says so."""

from __future__ import annotations

import errno
from typing import Any

from guestkit.errors import GuestkitError
from guestkit.guestfs.call import Device, Key, StringList, api
from guestkit.guestfs.errors import Failure, missing_feature
from guestkit.guestfs.handle import Handle


class Containers(Handle):
    def _of_type(self, wanted: str) -> list[str]:
        guest = self._opened()
        found = []
        for device in guest.devices():
            try:
                if guest.detect(device).type == wanted:
                    found.append(device.name)
            except GuestkitError as error:  # what cannot be read is not known to be one
                self._say(f"{device.name}: {error}")
        return sorted(found)

    def _without_groups(self) -> None:
        """Raises: Failure unless there is no LVM at all, when every list is empty and nothing is to be activated."""
        if self._of_type("LVM2_member"):
            raise missing_feature("lvm2")

    @api()
    def pvs(self) -> list[str]:
        """The devices that are LVM physical volumes, sorted. Raises: GuestfsError."""
        return self._of_type("LVM2_member")

    @api()
    def vgs(self) -> list[str]:
        """The LVM groups. Raises: GuestfsError (ENOTSUP) when there is LVM."""
        self._without_groups()
        return []

    @api()
    def lvs(self) -> list[str]:
        """The LVM volumes. Raises: GuestfsError (ENOTSUP) when there is LVM."""
        self._without_groups()
        return []

    @api()
    def pvs_full(self) -> list[dict[str, Any]]:
        """The LVM physical volumes. Raises: GuestfsError (ENOTSUP) when there is LVM."""
        self._without_groups()
        return []

    @api()
    def vgs_full(self) -> list[dict[str, Any]]:
        """The LVM groups. Raises: GuestfsError (ENOTSUP) when there is LVM."""
        self._without_groups()
        return []

    @api()
    def lvs_full(self) -> list[dict[str, Any]]:
        """The LVM volumes. Raises: GuestfsError (ENOTSUP) when there is LVM."""
        self._without_groups()
        return []

    @api()
    def lvm_scan(self, activate: bool) -> None:
        """Look for LVM. Raises: GuestfsError (ENOTSUP) when there is some."""
        self._without_groups()

    @api(deprecated="lvm_scan")
    def vgscan(self) -> None:
        """Look for LVM. Raises: GuestfsError (ENOTSUP) when there is some."""
        self._without_groups()

    @api()
    def vg_activate(self, activate: bool, volgroups: StringList) -> None:
        """Raises: GuestfsError: there is no such group, or LVM is not supported."""
        self._without_groups()
        for name in volgroups:
            raise Failure(f'Volume group "{name}" not found', errno.ENOENT)

    @api()
    def vg_activate_all(self, activate: bool) -> None:
        """Activate all groups. Raises: GuestfsError (ENOTSUP) when there is LVM."""
        self._without_groups()

    vgchange_activate_all = vg_activate_all

    @api()
    def luks_uuid(self, device: Device) -> str:
        """The UUID of a LUKS header. Raises: GuestfsError when there is none."""
        detected = self._opened().detect(self._device(device))
        if detected.type != "crypto_LUKS":
            raise Failure(f"Device {device} is not a valid LUKS device.", errno.EINVAL)
        return detected.uuid

    @api(deprecated="cryptsetup_open")
    def luks_open(self, device: Device, key: Key, mapname: str) -> None:
        """Raises: GuestfsError (ENOTSUP): guestkit does not unlock containers yet."""
        self._device(device)
        raise missing_feature("luks")

    @api(deprecated="cryptsetup_open")
    def luks_open_ro(self, device: Device, key: Key, mapname: str) -> None:
        """Raises: GuestfsError (ENOTSUP): guestkit does not unlock containers yet."""
        self._device(device)
        raise missing_feature("luks")

    @api(deprecated="cryptsetup_close")
    def luks_close(self, device: Device) -> None:
        """Raises: GuestfsError (ENOTSUP): guestkit does not unlock containers yet."""
        self._device(device)
        raise missing_feature("luks")

    @api()
    def cryptsetup_open(
        self,
        device: Device,
        key: Key,
        mapname: Key,
        readonly: bool | None = None,
        crypttype: str | None = None,
        cipher: str | None = None,
    ) -> None:
        """Raises: GuestfsError (ENOTSUP): guestkit does not unlock containers yet."""
        self._device(device)
        raise missing_feature("luks")

    @api()
    def cryptsetup_close(self, device: Device) -> None:
        """Raises: GuestfsError (ENOTSUP): guestkit does not unlock containers yet."""
        self._device(device)
        raise missing_feature("luks")
