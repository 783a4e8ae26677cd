"""The public Python API (docs/api.md), which the commands are written on top of."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import config
from harness.cli.observers import LiveLine, Mirror, Picture
from harness.race import plan, referee
from harness.race.observer import Observer, Several
from harness.race.trial import Trial
from harness.records.references import reference
from harness.report.run.text import verdict_lines
from harness.system.paths import ROOT

# the project's own records
BOARD = ROOT / "results"

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Result:
    """How a race ended.

    Attributes:
        outcome: reached, out_of_budget, diverged, failed, ...
        time: reference seconds to the goal, or None.
        best: the best value of the goal's first metric, by the metric's name.
        hp: the hyperparameters that were raced.
        folder: where the record is.
        record: the whole record, as in the folder's run.json.
    """

    outcome: str
    time: float | None
    best: dict
    hp: dict
    folder: Path
    record: dict = field(repr=False)
    reference: dict | None = field(repr=False, default=None)

    def __str__(self) -> str:
        shown = self.record | {"folder": str(self.folder)}
        return "\n".join(verdict_lines(shown, self.reference, colour=False))


def race(
    workload: str,
    submission: str,
    *,
    hp: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Race one trial, or read its record if it was raced before.

    Args:
        workload: a workload's name.
        submission: a submission's name, the path of a file, or the dotted path of a class.
        hp: hyperparameters that take the place of the point's.
        overrides: further settings as the command line takes them: workload.mini.horizon=100.
        quiet: print nothing.
        settings: any setting of conf/config.yaml: seed=1, trial=0, tuned=False, results="here".

    Raises:
        UserError: a name or value is wrong; the text says what is allowed.
    """
    words = [f"workload={workload}", f"submission={submission}"]
    words += [f"submission.{key}={_typed(value)}" for key, value in (hp or {}).items()]
    words += [f"{key}={_typed(value)}" for key, value in settings.items()]
    values = config.compose([*words, *overrides])
    trial = plan.make(values)
    display = Observer() if quiet else LiveLine(trial)
    return run(trial, values["tracker"], display)


def run(trial: Trial, tracker: dict, display: Observer) -> Result:
    """Race a planned trial under a display, with its picture and its tracker."""
    observers = Several([display, Picture(display.note), Mirror(tracker, display.note)])
    try:
        outcome = referee.race(trial, observers)
    finally:
        observers.close()
    record = outcome.record
    return Result(
        outcome.outcome,
        record.get("time"),
        record.get("best") or {},
        trial.hp,
        outcome.folder,
        record,
        reference(trial.definition),
    )


def _typed(value: Any) -> str:
    """Return a value as Hydra reads it on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_typed, value))}]"
    text = str(value)
    return text if text.replace("_", "").isalnum() else "'" + text.replace("'", "\\'") + "'"


def results(*folders: str | Path) -> "DataFrame":
    """Return the runs of results folders (`results`), one row each, hyperparameters as hp.KEY.

    Args:
        folders: results folders, run folders or compact .jsonl files.
    """
    import json

    import pandas as pd

    from harness.records.tables import run_table

    columns, rows = run_table(_collected(folders))
    frame = pd.DataFrame(rows, columns=columns)
    points = pd.json_normalize([json.loads(text) for text in frame.pop("hp")], max_level=0)
    return pd.concat([frame, points.add_prefix("hp.")], axis=1)


def curves(*folders: str | Path) -> "DataFrame":
    """Return every evaluation of the runs of results folders (`results`), one row each."""
    import pandas as pd

    from harness.records.tables import curve_table

    columns, rows = curve_table(_collected(folders))
    return pd.DataFrame(rows, columns=columns)


def _collected(folders: Sequence[str | Path]) -> list:
    """Return the records of folders that count."""
    from harness.records.collect import collect

    return collect([str(folder) for folder in folders] or ["results"]).runs


def compare(
    first: str,
    second: str,
    *,
    workload: str = "",
    scale: str = "mini",
    results: str | Path = "results",
) -> str:
    """Return a comparison of two submissions by their records, in words.

    Args:
        first, second: names of submissions.
        workload: one workload; all that both were raced on without it.
        scale: the workloads' scale.
        results: a results folder.
    """
    from harness.report.board.compare import versus

    return versus(first, second, workload, scale, str(results))
