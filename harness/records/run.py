"""One checked run record with its curve and the description of its submission."""

import ast
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.records import run_folder
from harness.records.judging import crossing, interpolated_time, rows_of_columns
from harness.system.hashing import canonical

NAME = re.compile(r"\w[\w.:+-]{0,199}")  # of a submission, a workload, a metric: no path, no markup
OUTPUT_COLUMNS = ("step", "seconds", "low", "high")  # of a record's table of evaluations


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
    """Return the name of a record's workload: NAME.SCALE or NAME.SCALE.VARIANT."""
    return f"{rec['workload']}.{rec['scale']}" + (f".{rec['variant']}" if rec["variant"] else "")


def _is_name(value) -> bool:
    return isinstance(value, str) and bool(NAME.fullmatch(value))


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value) -> bool:
    """Return True for a number that a float can hold; nan and inf are numbers here."""
    return isinstance(value, float) or _is_whole(value)


def _is_finite(value) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_positive(value) -> bool:
    return _is_finite(value) and value > 0


def _is_goal(value) -> bool:
    """Return True for {metric: {"at_most" | "at_least": bound}, ...} with at least one metric."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            _is_name(metric)
            and isinstance(rule, dict)
            and len(rule) == 1
            and next(iter(rule)) in ("at_most", "at_least")
            and _is_finite(next(iter(rule.values())))
            for metric, rule in value.items()
        )
    )


def _is_values(value) -> bool:
    """Return True for {name: number or None}."""
    return isinstance(value, dict) and all(v is None or _is_number(v) for v in value.values())


def _is_columns(value) -> bool:
    """Return True for a table of evaluations: columns of one length, of numbers or None."""
    if not isinstance(value, dict) or not isinstance(value.get("metrics"), dict):
        return False
    every = [value.get(name) for name in OUTPUT_COLUMNS] + list(value["metrics"].values())
    columns = [column for column in every if isinstance(column, list)]
    if len(columns) < len(every):
        return False
    same = len({len(column) for column in columns}) == 1
    numbers = all(v is None or _is_number(v) for column in columns for v in column)
    timed = all(_is_finite(v) for name in ("step", "seconds") for v in value[name])
    return same and numbers and timed and _is_values(value.get("before", {}))


def _is_stream(value) -> bool:
    """Return True for the ends of a stream's tasks and each task's list of [step, value]."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("ends"), list)
        and all(_is_whole(end) for end in value["ends"])
        and isinstance(value.get("groups"), list)
        and all(
            isinstance(group, list)
            and all(
                isinstance(point, list)
                and len(point) == 2
                and _is_whole(point[0])
                and (point[1] is None or _is_number(point[1]))
                for point in group
            )
            for group in value["groups"]
        )
    )


def _is_continual(value) -> bool:
    """Return True for the metrics of a stream: {convention: {metric: {"value": number}}}."""
    if not isinstance(value, dict):
        return False
    return all(
        isinstance(entry, dict) and ("value" not in entry or _is_number(entry["value"]))
        for convention in value.values()
        if isinstance(convention, dict)
        for entry in convention.values()
    )


def _has(**fields: Callable[[object], bool]) -> Callable[[object], bool]:
    """Return a check that a value is a dict with these fields."""
    return lambda value: (
        isinstance(value, dict) and all(check(value.get(k)) for k, check in fields.items())
    )


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


NEEDED: dict[str, Callable[[object], bool]] = {
    "run_id": _is_name, "workload": _is_name, "scale": _is_name, "variant": _or_none(_is_name),
    "track": _is_name, "workload_hash": _is_text, "submission": _is_name,
    "submission_hash": _is_text, "hp": lambda value: isinstance(value, dict),
    "seed": _is_whole, "trial": _or_none(_is_whole), "study": _is_whole,
    "horizon": _is_positive, "goal": _is_goal, "outcome": _is_text,
    "verified": lambda value: isinstance(value, bool), "time": _or_none(_is_number),
}  # fmt: skip
OPTIONAL: dict[str, Callable[[object], bool]] = {
    "training_hash": _is_text, "reason": _is_text, "best": _is_values, "final": _is_values,
    "step": _is_whole, "samples": _is_number, "state_bytes": _is_number, "flops": _is_number,
    "cpu_seconds": _is_number, "provisional": lambda value: isinstance(value, bool),
    "prices": _is_text, "end": _has(total=_is_number), "counts": _is_values,
    "budget": _has(
        steps=_is_positive, factor=_or_none(_is_positive), whole=_or_none(_is_positive)
    ),
    "crossing": _has(step=_is_positive, total=_is_finite, after=_is_finite),
    "evaluations": _is_columns, "stream": _is_stream, "continual": _is_continual,
    "about": _has(
        summary=_or_none(_is_text),
        arxiv=_or_none(lambda v: _is_text(v) and bool(re.fullmatch(r"\d{4}\.\d{4,5}", v))),  # type: ignore
    ),
    "engine": lambda value: isinstance(value, dict),
}  # fmt: skip


def check(rec: object) -> None:
    """Raise ValueError, with the reason, unless the record is one that can count."""
    if not isinstance(rec, dict) or rec.get("schema") != run_folder.SCHEMA:
        schema = rec.get("schema") if isinstance(rec, dict) else None
        raise ValueError(f"schema {schema}; this harness reads schema {run_folder.SCHEMA}")
    missing = [name for name in NEEDED if name not in rec]
    if missing:
        raise ValueError(f"damaged: it lacks {', '.join(missing)}")
    wrong = [name for name, valid in NEEDED.items() if not valid(rec[name])]
    given = {name: rec[name] for name in OPTIONAL if rec.get(name) is not None}
    wrong += [name for name, value in given.items() if not OPTIONAL[name](value)]
    if wrong:
        raise ValueError(f"damaged: not a valid {', '.join(wrong)}")
    if rec["outcome"] not in run_folder.FINAL:
        why = f" ({rec['reason']})" if rec.get("reason") else ""
        raise ValueError(f"not a result: {rec['outcome']}{why}")
    if rec["outcome"] == "reached" and not _is_positive(rec["time"]):
        raise ValueError(f"damaged: outcome reached with time {rec['time']}")


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

    At the workload's own budget that is the first by `tuning_order`. Where its point was raced at
    other shares of the budget too, it is the one of these that reached the goal earliest, between
    two evaluations.
    """
    usual = [run for run in runs if run.share == 1] or list(runs)
    best = min(usual, key=tuning_order, default=None)
    if best is None:
        return None
    hp = canonical(best.record["hp"])
    reached = [run for run in runs if canonical(run.record["hp"]) == hp and math.isfinite(run.time)]
    if all(run.share == 1 for run in reached):
        return best
    return min(reached, key=lambda run: (run.interpolated, run.share, run.record["run_id"]))


def varied(runs: Sequence[RecordedRun]) -> list[str]:
    """Return the names of the hyperparameters that differ between these runs, in order."""
    names = sorted({name for run in runs for name in run.record["hp"]})
    points = [run.record["hp"] for run in runs]
    return [
        name
        for name in names
        if len({canonical(point[name]) if name in point else "" for point in points}) > 1
    ]
