"""One checked run record with its curve, and what its submission says of itself."""

import ast
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from harness.records import run_folder

NEEDED = (
    "run_id", "workload", "scale", "variant", "track", "workload_hash", "submission",
    "submission_hash", "hp", "seed", "trial", "study", "horizon", "goal", "outcome", "verified",
    "time",
)  # fmt: skip


@dataclass(frozen=True)
class RecordedRun:
    """One checked record and its curve of (step, reference seconds, the goal's first metric)."""

    record: dict
    curve: list
    environment: dict
    about: dict = field(default_factory=dict)  # summary and arXiv id of the submission's docstring
    where: str = ""
    confirmed: bool = False  # another record of this very run, from another machine, says the same

    @property
    def key(self) -> str:
        """The workload's name, scale and variant, as its reference file is called."""
        return key_of(self.record)

    @property
    def time(self) -> float:
        """Reference seconds to the goal; inf for a miss."""
        return self.record["time"] if self.record["outcome"] == "reached" else math.inf


def key_of(rec: dict) -> str:
    return f"{rec['workload']}.{rec['scale']}" + (f".{rec['variant']}" if rec["variant"] else "")


def check(rec: dict) -> None:
    """ValueError unless the record is one that can count."""
    if not isinstance(rec, dict) or rec.get("schema") != run_folder.SCHEMA:
        schema = rec.get("schema") if isinstance(rec, dict) else None
        raise ValueError(f"schema {schema}; this harness reads schema {run_folder.SCHEMA}")
    missing = [k for k in NEEDED if k not in rec]
    if missing:
        raise ValueError(f"damaged: it lacks {', '.join(missing)}")
    if rec["outcome"] not in run_folder.FINAL:
        raise ValueError(
            f"not a result: {rec['outcome']}" + (f" ({rec['reason']})" if rec.get("reason") else "")
        )
    time = rec["time"]
    if rec["outcome"] == "reached" and not (
        isinstance(time, int | float) and math.isfinite(time) and time > 0
    ):
        raise ValueError(f"damaged: outcome reached with time {time}")


def about(folder: Path, submission: str) -> dict:
    """Summary and arXiv id from the docstring of the source that a run folder keeps."""
    for path in sorted((folder / "source").rglob(f"{submission}.py")):
        return described(path)
    return {}


def described(path: Path) -> dict:
    """First line and first arXiv id of a file's docstring."""
    try:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, UnicodeDecodeError, OSError):
        return {}
    paper = re.search(r"arXiv[:\s]*(\d{4}\.\d{4,5})", doc, re.I)
    return {"summary": doc.split("\n")[0].rstrip("."), "arxiv": paper[1] if paper else None}


def tuning_order(run: RecordedRun) -> tuple:
    """Order of tuning runs: time to goal, then the metric's best value, then the trial's number."""
    direction = next(iter(next(iter(run.record["goal"].values()))))
    value = next(iter((run.record.get("best") or {}).values()), None)
    value = (
        math.inf
        if value is None or not math.isfinite(value)
        else value
        if direction == "at_most"
        else -value
    )
    return run.time, value, run.record["trial"], run.record["run_id"]
