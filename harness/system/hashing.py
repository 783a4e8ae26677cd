"""Canonical JSON text and its hash: equal values have equal hashes."""

import hashlib
import json


def canonical(value) -> str:
    """Return the value as JSON text. Equal values give equal text, so equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: str) -> str:
    """Return the SHA-256 of the parts, in hexadecimal."""
    # The zero byte between parts keeps ("ab", "c") different from ("a", "bc").
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
