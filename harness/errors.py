"""Errors that tell a user what was wrong, what is allowed and what to type."""

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_DISQUALIFIED, EXIT_INTERRUPTED = 0, 1, 2, 3, 75


class UserError(Exception):
    """Something the user typed or wrote is wrong: printed without a traceback, exit status 2.

    Args:
        what: what was wrong, with the value and its place.
        allowed: what is allowed, the nearest name first.
        do: what to type.
    """

    def __init__(self, what: str, allowed: str = "", do: str = ""):
        super().__init__(what)
        self.what, self.allowed, self.do = what, allowed, do

    def __str__(self) -> str:
        return "; ".join(part for part in (self.what, self.allowed, self.do) if part)

    def __reduce__(self):
        return type(self), (self.what, self.allowed, self.do)


class NoScale(UserError):
    """A workload does not exist at the scale asked for: a sweep over workloads leaves it out."""


def nearest(name: str, options: Iterable[str], limit: int = 8) -> str:
    """Say what `name` was probably meant to be, or else list some of what exists."""
    options = sorted({str(option) for option in options})
    close = get_close_matches(str(name), options, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(options[:limit]) + (", ..." if len(options) > limit else "")
    return f"known: {shown}" if options else "none exist"
