"""Identifiers: new ones (UUIDv7, RFC 9562 §5.7) and derived ones (equal inputs give equal ids)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
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
    digest = _DIGEST.copy()
    for part in parts:
        digest.update(_prefixed(part))
    return _spelled(digest.hexdigest())


class Derived:
    """Ids that `derived_id` would give, of which one part changes: the others are hashed, or at least spelled, once.

    Args:
        before, after: the parts around it.
    """

    __slots__ = ("_after", "_before")

    def __init__(self, before: Iterable[str], after: Iterable[str]) -> None:
        self._before = _DIGEST.copy()
        for part in before:
            self._before.update(_prefixed(part))
        self._after = b"".join(map(_prefixed, after))

    def __call__(self, part: str) -> str:
        """Give the id for one part."""
        digest = self._before.copy()
        digest.update(_prefixed(part) + self._after)
        return _spelled(digest.hexdigest())


_DIGEST = blake2b(digest_size=16, person=b"choreo-id/v1")
_LENGTHS = [length.to_bytes(4, "big") for length in range(256)]
_VARIANTS = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}


def _prefixed(part: str | bytes) -> bytes:
    data = part if isinstance(part, bytes) else part.encode()
    length = len(data)
    return (_LENGTHS[length] if length < 256 else length.to_bytes(4, "big")) + data


def _spelled(hex_: str) -> str:
    # Spliced as text: UUID() would cost three times the hash.
    return f"{hex_[:8]}-{hex_[8:12]}-8{hex_[13:16]}-{_VARIANTS[hex_[16]]}{hex_[17:20]}-{hex_[20:]}"
