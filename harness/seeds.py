"""One integer seeds everything: named streams by hashing, never one generator in call order."""

import hashlib


def derive(seed: int, *names) -> int:
    """Return a 63-bit seed for the stream called `names` of trial seed `seed`."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
