"""Names that stand for encrypted ones while the key is not there, as Linux 5.9 and later show them.

Specification: Documentation/filesystems/fscrypt.rst, "Encryption of filenames" and "Access semantics: without the
key". A name is the base64url text, without padding, of: the two words of the directory hash (little-endian), up
to 149 bytes of the encrypted name, and, when that is longer, the SHA-256 of the rest. Left out: decryption.
"""

from __future__ import annotations

import struct
from binascii import Error as Base64Error
from typing import NamedTuple

from guestkit.errors import Corrupt, NotFound

_PREFIX = 149  # bytes of an encrypted name that are shown
_SHORTEST = 16  # bytes of an encrypted name: one cipher block
_LONGEST = 8 + _PREFIX + 32
_HASH = struct.Struct("<II")


class NoKeyName(NamedTuple):
    """What a shown name says of the encrypted one."""

    major: int  # directory hash; 0 where the lister did not know it
    minor: int
    prefix: bytes
    digest: bytes  # SHA-256 of what follows the prefix; b"" when nothing does

    def matches(self, stored: bytes) -> bool:
        """Whether `stored`, the name in a directory entry, is the one that is meant."""
        if not self.digest:
            return stored == self.prefix
        from hashlib import sha256

        return (
            len(stored) > _PREFIX
            and stored[:_PREFIX] == self.prefix
            and sha256(stored[_PREFIX:]).digest() == self.digest
        )


def encode(stored: bytes, major: int, minor: int) -> bytes:
    """Return the name that is shown for the encrypted name `stored`, whose directory hash is (major, minor).

    Raises: Corrupt for a name that is too short to have been encrypted.
    """
    from base64 import urlsafe_b64encode

    if len(stored) < _SHORTEST:
        raise Corrupt("encrypted name", "length", found=len(stored), expected=f"at least {_SHORTEST}")
    plain = _HASH.pack(major, minor) + stored[:_PREFIX]
    if len(stored) > _PREFIX:
        from hashlib import sha256

        plain += sha256(stored[_PREFIX:]).digest()
    return urlsafe_b64encode(plain).rstrip(b"=")


def decode(shown: bytes) -> NoKeyName:
    """Take a shown name apart. Raises: NotFound (ENOENT) for what `encode` never gives."""
    from base64 import urlsafe_b64decode, urlsafe_b64encode

    try:
        plain = urlsafe_b64decode(shown + b"=" * (-len(shown) % 4))
    except (Base64Error, ValueError):
        plain = b""
    if urlsafe_b64encode(plain).rstrip(b"=") != shown or len(plain) < 9:
        raise NotFound("is not the name of an encrypted file without its key")
    if len(plain) > 8 + _PREFIX and len(plain) != _LONGEST:
        raise NotFound("is not the name of an encrypted file without its key")
    major, minor = _HASH.unpack_from(plain)
    return NoKeyName(major, minor, plain[8 : 8 + _PREFIX], plain[8 + _PREFIX :])
