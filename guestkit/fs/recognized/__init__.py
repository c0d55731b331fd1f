"""Filesystems that are told by name, label and UUID, and not read."""
