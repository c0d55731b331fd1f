"""LUKS."""
