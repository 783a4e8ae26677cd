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
        if not _has_ranges(trial):
            return [race(arguments, dry=None, seed=trial.seed + 1)]
        first = 0 if trial.trial is None else trial.trial + 1
        points = f"range({first},{first + POINTS})"
        return [race(arguments, sweep=True, dry=None, tuned=None, trial=points)]
    return [
        f"{harness('check', naming.word(trial.card.plugin))}  # tries it in seconds",
        f"{again}  # runs this trial again, once the cause is mended",
    ]


def _has_ranges(trial: Trial) -> bool:
    """Return True if SPACE has a range that trials tune."""
    space = trial.card.literals["SPACE"].values()
    return any(isinstance(value, dict) and "goal" not in value for value in space)
