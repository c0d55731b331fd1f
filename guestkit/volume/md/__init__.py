"""Linux software RAID (MD)."""
