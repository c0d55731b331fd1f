"""Windows registry hives, read-only: a Source -> keys and values, with what its transaction logs still hold.

    hive = open_hive(source, [log1, log2])
    hive.key("Select").value("Current").number

Spec: msuhanov/regf, "Windows registry file format specification"; keys of layers from the public symbols of
_CM_KEY_NODE. Left out: writing, transactions of CLFS, deleted keys, security descriptors.
"""

from __future__ import annotations

from guestkit.hive.hive import Hive, open_hive
from guestkit.hive.keys import Key, Value

__all__ = ["Hive", "Key", "Value", "open_hive"]
