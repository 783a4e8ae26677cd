"""Short trials, in this process or as a user starts them.

`trial` races the workload small_net.py beside this file: a step takes a millisecond. The words of
`SHORT` race gpt2; they change only numbers that the prepared data does not depend on.
"""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from harness.catalog.definition import tree_of
from harness.cli import main
from harness.race import configuration, plan, referee
from harness.race.observer import Observer
from harness.records import run_folder
from harness.records.log import rows

ROOT = Path(__file__).resolve().parents[2]
OWN = Path(__file__).parents[1] / "submissions"
SMALL_NET = Path(__file__).with_name("small_net.py")
HORIZON, POINTS = 12, 4  # those of small_net.yaml
SMALL = ["tracker=none", f"workload={SMALL_NET}"]
SHORT = [
    "tracker=none",
    f"workload.mini.horizon={HORIZON}",
    "workload.mini.batch=2",
    f"workload.mini.evaluate.points={POINTS}",
]


class Watcher(Observer):
    """An observer that keeps the notes and calls `at` with every step that is reported."""

    def __init__(self, at=lambda step: None):
        self.notes, self.tick = [], at

    def note(self, text):
        self.notes.append(text)


def planned(workload, submission, results, *, numbers=None, hp=None, **changes):
    """Return a planned trial at scale mini, with the settings of conf/config.yaml.

    Args:
        submission: a name, the path of a file, or a stem of tests/submissions.
        numbers: numbers of the workload to change.
        hp: hyperparameters; SPACE has the others.
        changes: settings of conf/config.yaml.
    """
    own = submission if isinstance(submission, Path) else OWN / f"{submission}.py"
    path = str(own) if own.exists() else None
    tree = tree_of(workload)
    tree["mini"] |= numbers or {}
    chosen = {"name": own.stem, "path": path} | (hp or {})
    settings = {"tuned": False, "results": str(results)} | changes
    return plan.make(configuration.settings(tree, chosen, **settings))


def trial(submission, results, *, isolation="inline", seed=0, numbers=None, **hp):
    """Return a planned trial of small_net; `submission` as in `planned`."""
    return planned(
        str(SMALL_NET), submission, results, numbers=numbers, hp=hp, isolation=isolation, seed=seed
    )


def race(planned, watcher=None):
    return referee.race(planned, watcher or Watcher())


def log_of(folder):
    return rows(Path(folder) / "log.jsonl")


def curve(folder):
    """Return the parts of a run's evaluations that do not depend on a clock."""
    names = ("step", "samples", "counts", "metrics", "train_loss", "weights", "goal")
    return [{key: row[key] for key in names} for row in run_folder.evaluations(log_of(folder))]


def command(*arguments):
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def environment(**changes):
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""} | changes


def harness(*arguments, cwd=None, **changes):
    """Run a command line to its end, as a user does."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment(**changes)
    )


def typed(*arguments):
    """Run a command line in this process: exit status, stdout, stderr."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main.main([str(a) for a in arguments])
            except SystemExit as error:  # argparse, on a command's own options
                code = error.code
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def at_work_in(folder):
    """Return the pids of processes that run inside `folder`: a runner and its children."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = os.readlink(process / "cwd")
        except OSError:
            continue
        if Path(where).is_relative_to(Path(folder).resolve()):
            pids.append(int(process.name))
    return pids
