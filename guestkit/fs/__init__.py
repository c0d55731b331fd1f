"""Filesystems: [Source] -> FileSystem."""
