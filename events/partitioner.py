"""Which partition a key belongs to: murmur2, bit for bit as Java's client (`Utils.murmur2`, `BuiltInPartitioner`).

Pinned here for every transport: a key that moves to another partition loses its order.
"""

from __future__ import annotations

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_32 = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Hash bytes to an unsigned 32-bit number."""
    length = len(data)
    whole = length & ~3
    h = _SEED ^ length
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = (k * _M) & _32
        h = (h * _M ^ (k ^ (k >> 24)) * _M) & _32
    rest = data[whole:]
    if rest:
        h = ((h ^ int.from_bytes(rest, "little")) * _M) & _32
    h = ((h ^ (h >> 13)) * _M) & _32
    return h ^ (h >> 15)


@lru_cache(maxsize=65_536)
def partition_for(key: bytes, partitions: int) -> int:
    """Give the partition of a key among `partitions`; cached, as events of one key come together."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
