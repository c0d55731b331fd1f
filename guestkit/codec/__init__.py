"""Decompressors: bytes -> bytes, each with a bound on its output."""
