"""FAT and exFAT."""
