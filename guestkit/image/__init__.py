"""Disk image formats: Source -> Source."""
