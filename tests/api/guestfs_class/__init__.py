"""The libguestfs-compatible class. A package, so that its conftest is its own."""
