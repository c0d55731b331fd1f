"""Commands that tell about the images and the system: df, info, inspect."""

from __future__ import annotations

from argparse import Namespace as Arguments
from typing import Any

from guestkit.cli.output import Output, complain, human_size
from guestkit.cli.view import View
from guestkit.inspect import report


def df(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit df"""
    found = _filesystems(view)
    if arguments.json:
        output.json({"filesystems": found})
        return 0
    rows = [["Filesystem", "Type", "Size", "Used", "Free", "Use%", "Label"]]
    for facts in found:
        if facts["reason"]:
            continue
        total, used, free = facts["capacity"], facts["used"], facts["free"]
        share = f"{-(-100 * used // (used + free))}%" if used + free > 0 else "-"
        sizes = [human_size(total), human_size(used), human_size(free)]
        rows.append([facts["device"], facts["type"], *sizes, share, facts["label"]])
    output.table(rows, right=(2, 3, 4, 5))
    for facts in found:
        if facts["reason"] and facts["usage"] == "filesystem" and facts["members"][:1] in ([], [facts["device"]]):
            complain(f"{arguments.image}: {facts['device']}: {facts['reason']}")
    return 0


def _filesystems(view: View) -> list[dict[str, Any]]:
    document: Any = report.filesystems_document(view.guest, view.options)
    found: list[dict[str, Any]] = document["filesystems"]
    return found


def info(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit info"""
    disks: Any = report.disks_document(view.guest)
    found = _filesystems(view)
    if arguments.json:
        output.json({**disks, "filesystems": found})
        return 0
    by_device = {facts["device"]: facts for facts in found}
    for number, disk in enumerate(disks["disks"]):
        if number:
            output.line()
        output.line(f"{disk['device']}: {disk['image']}, {disk['format']}, {human_size(disk['size'])}")
        for key, value in disk["info"].items():
            if value not in (None, "", [], {}):
                output.line(f"  {str(key).replace('_', ' ')}: {_shown(value)}")
        for snapshot in disk["snapshots"]:
            output.line(
                f"  snapshot {snapshot['id']}: {snapshot['name']}, {human_size(snapshot['size'])}, {snapshot['time']}"
            )
        table = disk["table"]
        if table is None:
            _bare(by_device.get(disk["device"]), output)
        else:
            output.line(f"  partition table: {table['scheme']} {table['uuid']}".rstrip())
            _partitions(disk["partitions"], by_device, output)
        for problem in disk["problems"]:
            output.line(f"  problem: {problem}")
    for facts in found:
        if facts["state"].startswith("dirty"):
            output.line(f"{facts['device']}: {facts['state']}")
        for problem in facts["problems"]["first"]:
            output.line(f"{facts['device']}: problem: {problem['where']}: {problem['message']}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _bare(facts: dict[str, Any] | None, output: Output) -> None:
    if facts is None:
        return
    label = f" label {facts['label']}" if facts["label"] else ""
    uuid = f" uuid {facts['uuid']}" if facts["uuid"] else ""
    reason = f" ({facts['reason']})" if facts["reason"] else ""
    output.line(f"  no partition table; {facts['type']}{label}{uuid}{reason}")


def _partitions(partitions: list[dict[str, Any]], by_device: dict[str, Any], output: Output) -> None:
    rows = [["  Device", "Start", "Size", "Type", "Filesystem", "Label", "UUID", ""]]
    for part in partitions:
        facts = by_device.get(part["device"], {})
        kind = facts.get("type", part["role"] or "-")
        remark = part["problem"] or (facts.get("reason", "") if facts.get("usage") == "filesystem" else "")
        if part["bootable"]:
            remark = "bootable" + (f", {remark}" if remark else "")
        rows.append(
            [
                "  " + part["device"],
                human_size(part["start"]),
                human_size(part["size"]),
                part["type"] or part["type_id"],
                kind,
                facts.get("label", "") or part["label"],
                facts.get("uuid", ""),
                remark,
            ]
        )
    output.table(rows, right=(1, 2))


def inspect(view: View, arguments: Arguments, output: Output) -> int:
    """guestkit inspect"""
    from guestkit.inspect import inspect_guest

    systems = inspect_guest(view.guest, view.options)
    document: Any = report.os_document(view.guest, systems)
    if arguments.apps:
        for facts, system in zip(document["systems"], systems, strict=True):
            facts["applications"] = _applications(view, system, facts)
    if arguments.json:
        output.json(document)
    else:
        for number, facts in enumerate(document["systems"]):
            if number:
                output.line()
            _system(facts, output)
    if not systems:
        complain(f"{arguments.image}: no operating system was found (`guestkit info` tells what is there)")
        return 1
    return 0


def _applications(view: View, system: Any, facts: dict[str, Any]) -> list[dict[str, Any]]:
    from guestkit.inspect import list_applications, mount_os
    from guestkit.namespace import MountTable

    table = view.tables[f"os at {system.root}"] = MountTable()
    mount_os(view.guest, system, table, options=view.options)
    return [report.application_facts(found) for found in list_applications(table, system, warnings=facts["warnings"])]


_SHOWN = (
    ("System", "product_name"),
    ("Type", "type"),
    ("Distribution", "distro"),
    ("Codename", "codename"),
    ("Host name", "hostname"),
    ("Architecture", "arch"),
    ("Package format", "package_format"),
    ("Package tool", "package_management"),
    ("osinfo id", "osinfo"),
    ("Root", "root"),
)


def _system(facts: dict[str, Any], output: Output) -> None:
    for label, key in _SHOWN:
        if facts[key] not in ("", "unknown") or key == "root":
            output.line(f"{label + ':':<16}{facts[key]}")
    if facts["major_version"] or facts["minor_version"]:
        output.line(f"{'Version:':<16}{facts['major_version']}.{facts['minor_version']}")
    for point, device in facts["mountpoints"].items():
        output.line(f"{'Mounted:':<16}{device} at {point}")
    for letter, device in facts["drive_mappings"].items():
        output.line(f"{'Drive:':<16}{device} is {letter}:")
    for entry in facts["fstab"]:
        if not entry["device"]:
            output.line(f"{'Not found:':<16}{entry['spec']} for {entry['mountpoint']}")
    for warning in facts["warnings"]:
        output.line(f"{'Warning:':<16}{warning}")
    if "applications" in facts:
        output.line(f"{'Packages:':<16}{len(facts['applications'])}")
        rows = []
        for package in facts["applications"]:
            version = package["version"] + (f"-{package['release']}" if package["release"] else "")
            version = f"{package['epoch']}:{version}" if package["epoch"] else version
            rows.append(["  " + package["name"], version, package["arch"], package["summary"][:60]])
        output.table(rows)
