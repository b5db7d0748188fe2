"""The checksum of a stored row: over everything that a reader relies on, so that no flipped byte goes unseen.

XXH3 with 64 bits (the xxhash package): against accidents, not against deceit.
"""

from __future__ import annotations

import xxhash


def checksum(data: bytes | memoryview, *about: object) -> bytes:
    """8 bytes that depend on the data and on everything that is said about it (by its ``repr``)."""
    digest = xxhash.xxh3_64(data)
    digest.update(repr(about).encode("utf-8", "backslashreplace"))
    return digest.digest()
