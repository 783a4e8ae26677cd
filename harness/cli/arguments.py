"""What the commands share: their names, a parser, and the reading of KEY=VALUE settings."""

import argparse
import math
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.errors import UserError, nearest
from harness.system.paths import ROOT

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
    "suggest",
    "sync",
    "target",
    "verify",
)


def parser(name: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return the parser of `harness NAME`; line breaks in its texts are kept."""
    return argparse.ArgumentParser(
        prog=f"harness {name}",
        description=description,
        epilog=epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def whole(least: int = 1) -> Callable[[str], int]:
    """Return a function that reads a whole number of an option, for argparse."""
    return lambda text: int(_number(text, f"a whole number from {least} up", least=least, kind=int))


def positive(text: str) -> float:
    """Read a number above 0 of an option, for argparse."""
    return _number(text, "a number above 0", above=0)


def share(text: str) -> float:
    """Read a number above 0 and below 1 of an option, for argparse."""
    return _number(text, "a number above 0 and below 1", above=0, below=1)


def part(text: str) -> float:
    """Read a number from 0 up and below 1 of an option, for argparse."""
    return _number(text, "a number from 0 up and below 1", least=0, below=1)


def _number(
    text: str,
    allowed: str,
    *,
    kind: type = float,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return the number in a text.

    Raises:
        argparse.ArgumentTypeError: it is not a number, or out of bounds.
    """
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    # not a number fails every comparison
    if least <= value and above < value < below:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")


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
            if "=" not in word and "workload" in defaults:
                start = example.rpartition(" workload=")[0]
                example = f"{start} workload={shlex.quote(word)}"
            raise UserError(
                f"{word!r} is not a setting of {command}", nearest(key, defaults), example
            )
        values[key] = value
    return values


def results_folders() -> list[str]:
    """Return the folders whose records are read if none is named: results here, and the project's.

    They are the same in a checkout. An installed harness has its records beside its packages.
    """
    here, own = Path("results"), ROOT / "results"
    has_records = any((here / name).is_dir() for name in ("runs", "board"))
    if here.resolve() == own.resolve():
        return ["results"]
    return [*(["results"] if has_records else []), str(own)]
