"""What the commands share: their names, a parser, and the reading of KEY=VALUE settings."""

import argparse
from collections.abc import Iterable

from harness.errors import UserError, nearest

# each is a module of harness/cli/commands/
COMMANDS = (
    "audit",
    "calibrate",
    "campaign",
    "check",
    "compare",
    "comply",
    "doctor",
    "list",
    "new",
    "refine",
    "report",
    "show",
    "sync",
    "target",
)


def parser(name: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return the parser of `harness NAME`; line breaks in its texts are kept."""
    return argparse.ArgumentParser(
        prog=f"harness {name}",
        description=description,
        epilog=epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def key_values(words: Iterable[str], defaults: dict[str, str], example: str) -> dict[str, str]:
    """Return `defaults` with the values that KEY=VALUE words give.

    Args:
        words: such as workload=gpt2.
        defaults: every key that is allowed, with its default.
        example: a command line that works, for the error.

    Raises:
        UserError: a word has another key, or no value.
    """
    values = dict(defaults)
    for word in words:
        key, _, value = word.partition("=")
        if key not in defaults or not value:
            command = " ".join(example.split()[:2])
            raise UserError(
                f"{word!r} is not a setting of {command}", nearest(key, defaults), example
            )
        values[key] = value
    return values
