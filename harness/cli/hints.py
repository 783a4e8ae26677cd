"""What to type next after a race: the present command line with changes, which runs as it is."""

from collections.abc import Sequence
from pathlib import Path

from harness.catalog import naming
from harness.race.trial import Trial
from harness.system.command_line import harness, race

# points of SPACE that are proposed after a miss
POINTS = 5
# outcomes whose trial goes on when the same command is typed again
CONTINUE = {
    "interrupted": "continues it",
    "killed": "continues it",
    "disk_full": "continues it, once there is room on the disk",
    "oom": "continues it, once there is memory",
}


def next_lines(arguments: Sequence[str], trial: Trial, outcome: str, folder: Path) -> list[str]:
    """Return what to type after a trial, each line a command with perhaps a comment.

    Args:
        arguments: the settings as they were typed.
        trial: what was raced.
        outcome: how it ended.
        folder: where its record is.
    """
    again = race(arguments, dry=None)
    if outcome in CONTINUE:
        return [f"{again}  # {CONTINUE[outcome]}"]
    if outcome == "invalid":
        return [harness("comply", folder, "--why")]
    if outcome == "reached":
        return [race(arguments, dry=None, seed=trial.seed + 1)]
    if outcome in ("out_of_budget", "hopeless", "diverged"):
        ranges = _ranges(trial)
        if not ranges:
            return [race(arguments, dry=None, seed=trial.seed + 1)]
        first = 0 if trial.trial is None else trial.trial + 1
        points = f"range({first},{first + POINTS})"
        typed = {word.lstrip("+").partition("=")[0] for word in arguments}
        # Where every range was given a value, all trials would be the same one.
        free = dict.fromkeys(ranges) if typed >= ranges else {}
        return [race(arguments, sweep=True, dry=None, tuned=None, **free, trial=points)]
    if outcome == "refused":
        return [f"{harness('show', naming.word(trial.card.plugin))}  # says what it is for"]
    place, plugin = trial.definition.place, trial.card.plugin
    # the user's own files may be at fault, a shipped one hardly
    files = [naming.typed_path(Path(place))] if place else []
    files += [naming.word(plugin)] if plugin.package is None or not place else []
    return [
        *(f"{harness('check', file)}  # tries it in seconds" for file in files),
        f"{again}  # runs this trial again, once the cause is mended",
    ]


def _ranges(trial: Trial) -> set[str]:
    """Return the settings that give a value to a range of SPACE which trials tune."""
    space = trial.card.literals["SPACE"].items()
    return {f"submission.{k}" for k, v in space if isinstance(v, dict) and "goal" not in v}
