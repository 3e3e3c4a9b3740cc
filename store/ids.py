"""Identifiers: a prefix that says what it is, and 24 random characters nobody can guess."""

import secrets
import string

_BASE62 = string.digits + string.ascii_letters


def new_id(prefix: str) -> str:
    """Return ``prefix`` followed by 24 random base62 characters (142 bits)."""
    return prefix + "".join(secrets.choice(_BASE62) for _ in range(24))
