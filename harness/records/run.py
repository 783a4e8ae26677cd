"""One checked run record with its curve and the description of its submission."""

import ast
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.records.judging import crossing, interpolated_time, rows_of_columns
from harness.system.hashing import canonical

# the largest share of the workload's budget that is part of a point; more is for self-tuning
LARGEST_SHARE = 2


@dataclass(frozen=True)
class RecordedRun:
    """One checked record and its curve of (step, reference seconds, the goal's first metric).

    Attributes:
        about: summary and arXiv id of the submission's docstring.
        where: the file and line, or the run folder, that the record was read from.
        confirmed: a verified record of the same run from another machine has the same result.
        verified: how the record was verified, by the project's list (harness/records/verified.py).
        version: "@STEPS" if the record belongs to another horizon of its workload, else "".
    """

    record: dict
    curve: list
    environment: dict
    about: dict = field(default_factory=dict)
    where: str = ""
    confirmed: bool = False
    version: str = ""
    verified: str = ""

    @property
    def key(self) -> str:
        """The workload's name, scale and variant, as its reference file is called."""
        return key_of(self.record) + self.version

    @property
    def time(self) -> float:
        """Reference seconds to the goal; inf for a miss."""
        return self.record["time"] if self.record["outcome"] == "reached" else math.inf

    @property
    def interpolated(self) -> float:
        """Reference seconds to the goal between two evaluations; inf for a miss.

        A stream is judged at its end, so its time is the clock's there. So is the time of a record
        that has no evaluations.
        """
        columns = self.record.get("evaluations")
        if math.isinf(self.time) or not columns or "before" in columns:
            return self.time
        rows = rows_of_columns(columns, self.record["goal"], streaming=False)
        at = crossing(rows)
        stated = (self.record.get("crossing") or {}).get("step")
        if at is None or stated not in (None, rows[at]["step"]):
            return self.time
        return interpolated_time(rows, self.record["goal"], at)

    @property
    def share(self) -> float:
        """The share of the workload's budget that the trial was given."""
        return (self.record.get("budget") or {}).get("factor") or 1

    @property
    def whole_budget(self) -> float:
        """The workload's budget in reference steps."""
        budget = self.record.get("budget") or {"steps": self.record["horizon"]}
        return budget.get("whole") or budget["steps"] / self.share

    @property
    def point(self) -> str:
        """Hyperparameters and share of the budget as text, equal for runs of the same point."""
        hp = self.record["hp"]
        return canonical(hp if self.share == 1 else {"hp": hp, "budget": self.share})


def key_of(rec: dict) -> str:
    """Return the name of a record's workload: NAME.SCALE or NAME.SCALE.VARIANT.

    Seconds of several processes, or of passes in another precision, are not those of one process:
    their workload is NAME.SCALE@2ranks, NAME.SCALE@bf16.
    """
    name = f"{rec['workload']}.{rec['scale']}" + (f".{rec['variant']}" if rec["variant"] else "")
    ranks = rec.get("processes", 1)
    engine = [f"{ranks}ranks"] * (ranks != 1) + rec.get("options", [])
    return "@".join([name, *engine])


def about(folder: Path, submission: str) -> dict:
    """Return summary and arXiv id from the docstring of the source that a run folder keeps."""
    for path in sorted((folder / "source").rglob(f"{submission}.py")):
        return described(path)
    return {}


def described(path: Path) -> dict:
    """Return the first line and the first arXiv id of a file's docstring."""
    try:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, UnicodeDecodeError, OSError):
        return {}
    paper = re.search(r"arXiv[:\s]*(\d{4}\.\d{4,5})", doc, re.I)
    return {"summary": doc.split("\n")[0].rstrip("."), "arxiv": paper[1] if paper else None}


def tuning_order(run: RecordedRun) -> tuple:
    """Return the sort key of tuning runs: time to goal, best value of the metric, trial, id."""
    direction = next(iter(next(iter(run.record["goal"].values()))))
    value = next(iter((run.record.get("best") or {}).values()), None)
    if value is None or not math.isfinite(value):
        value = math.inf
    elif direction == "at_least":
        value = -value
    trial = run.record["trial"]
    return run.time, value, -1 if trial is None else trial, run.record["run_id"]


def best_tuning(runs: Sequence[RecordedRun]) -> RecordedRun | None:
    """Return the run whose point is best, or None without runs.

    At the workload's own budget that is the first by `tuning_order`; of a point that was raced more
    than once with a seed, the median counts, of two the later in that order. Where its point was
    raced at other shares of the budget too, it is a run of the share that reached the goal
    earliest, between two evaluations, among those that all of their seeds reached: the geometric
    mean of the seeds.
    """
    usual = [run for run in runs if run.share == 1] or list(runs)
    best = min(_medians(usual), key=tuning_order, default=None)
    if best is None:
        return None
    hp = canonical(best.record["hp"])
    shares: dict[float, list[RecordedRun]] = {}
    for run in runs:
        if canonical(run.record["hp"]) == hp:
            shares.setdefault(run.share, []).append(run)
    reached = {s: g for s, g in shares.items() if all(math.isfinite(run.time) for run in g)}
    if reached.keys() <= {1}:
        return best
    earliest = min(
        reached, key=lambda s: (statistics.fmean(math.log(r.interpolated) for r in reached[s]), s)
    )
    return min(reached[earliest], key=lambda run: (run.record["seed"], run.record["run_id"]))


def _medians(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """Return one run of each point and seed, so that a lucky second race chooses no point."""
    groups: dict[tuple[str, int], list[RecordedRun]] = {}
    for run in runs:
        groups.setdefault((run.point, run.record["seed"]), []).append(run)
    return [sorted(group, key=tuning_order)[len(group) // 2] for group in groups.values()]


def varied(runs: Sequence[RecordedRun]) -> list[str]:
    """Return the names of the hyperparameters that differ between these runs, in order."""
    names = sorted({name for run in runs for name in run.record["hp"]})
    points = [run.record["hp"] for run in runs]
    return [
        name
        for name in names
        if len({canonical(point[name]) if name in point else "" for point in points}) > 1
    ]
