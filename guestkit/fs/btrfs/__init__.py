"""Btrfs."""
