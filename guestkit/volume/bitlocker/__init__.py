"""BitLocker."""
