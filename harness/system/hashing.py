"""Canonical JSON text and its hash: equal values have equal hashes."""

import hashlib
import json


def canonical(value) -> str:
    """One JSON text per value, so that equal definitions have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
