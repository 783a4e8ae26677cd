"""Trials of a few milliseconds: matrix sensing at size 8, in this process or in one of its own."""

from pathlib import Path

from harness.race import referee
from tests.support.racing import Watcher, planned

STEPS, POINTS = 12, 4
NUMBERS = {
    "data": {"size": 8, "rank": 2, "kappa": 2.0, "measurements": 64, "noise": 0.0},
    "model": {"rank": 3, "init_scale": 0.1},
    "batch": 64,
    "horizon": STEPS,
    "evaluate": {"points": POINTS, "batch": 1},
    "goal": {"relative_error": {"at_most": 1e-6}},
}
# The same numbers on a command line.
WORDS = ["workload=matrix_sensing", "tracker=none"] + [
    f"workload.mini.{key}.{inner}={number}" if inner else f"workload.mini.{key}={number}"
    for key, value in NUMBERS.items()
    if key != "goal"
    for inner, number in (value if isinstance(value, dict) else {"": value}).items()
]


def trial(submission, results, *, isolation="inline", seed=0, number=None, numbers=None, **hp):
    """Return a planned trial; `submission` is a name, or a stem of tests/submissions."""
    numbers = NUMBERS | (numbers or {})
    return planned(
        "matrix_sensing", submission, results, numbers=numbers, hp=hp, isolation=isolation,
        seed=seed, trial=number,
    )  # fmt: skip


def race(planned, watcher=None):
    return referee.race(planned, watcher or Watcher())


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder, to show that none has changed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
