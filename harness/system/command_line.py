"""Command lines that are printed to a user. Each can be typed as it is printed."""

import shlex
from collections.abc import Iterable

RACE = ("python", "-m", "harness")
SWEEP = ("-m", "--multirun")


def harness(*words: object) -> str:
    """Return the command line `harness WORD ...`, quoted for a shell."""
    return shlex.join(["harness", *map(str, words)])


def race(arguments: Iterable[str], *, sweep: bool = False, **changes: object) -> str:
    """Return the command line of a race with changed settings, quoted for a shell.

    Args:
        arguments: the settings of the present race as they were typed.
        sweep: print -m, since a setting has several values. Without it an -m is left out.
        changes: by key, the new value, or None to leave the key out. A dot in a key is written
            as two underscores: submission__lr.
    """
    new = {key.replace("__", "."): value for key, value in changes.items()}
    words = []
    for word in arguments:
        key = word.lstrip("+~").partition("=")[0]
        if word in SWEEP:
            continue
        if key in new:
            if (value := new.pop(key)) is not None:
                words.append(f"{key}={value}")
        else:
            words.append(word)
    words += [f"{key}={value}" for key, value in new.items() if value is not None]
    return shlex.join([*RACE, *["-m"] * sweep, *words])
