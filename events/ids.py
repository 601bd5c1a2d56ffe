"""Identifiers: new ones (UUIDv7, RFC 9562 §5.7) and derived ones (equal inputs give equal ids)."""

from __future__ import annotations

import os
import time
from hashlib import blake2b
from uuid import UUID

_VARIANT = 0x8000 << 48
_VERSION_MASK = ~(0xF000 << 64)
_VARIANT_MASK = ~(0xC000 << 48)


def uuid7(milliseconds: int, randomness: bytes) -> str:
    """Make a UUIDv7 from a time and ten random bytes.

    Args:
        milliseconds: since the Unix epoch, 48 bits are kept.
        randomness: ten bytes.
    """
    value = ((milliseconds & 0xFFFF_FFFF_FFFF) << 80) | int.from_bytes(randomness, "big")
    value = (value & _VERSION_MASK) | (0x7000 << 64)
    return str(UUID(int=(value & _VARIANT_MASK) | _VARIANT))


def new_id() -> str:
    """Make a fresh, time-ordered id."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def derived_id(*parts: str | bytes) -> str:
    """Derive a stable id (UUIDv8, RFC 9562 §5.8) from its parts: the same parts give the same id everywhere.

    Each part is length-prefixed, so `("ab", "c")` and `("a", "bc")` differ.
    """
    digest = blake2b(digest_size=16, person=b"choreo-id/v1")
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    hex_ = digest.hexdigest()
    # Spliced as text: UUID() would cost three times the hash.
    return f"{hex_[:8]}-{hex_[8:12]}-8{hex_[13:16]}-{'89ab'[int(hex_[16], 16) & 3]}{hex_[17:20]}-{hex_[20:]}"
