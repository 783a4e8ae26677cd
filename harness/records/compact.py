"""Compact files: one line a run, for version control.

results/board/<workload>.<scale>[.<variant>].jsonl has one line for each run: run.json with the
steps, seconds and goal's metrics of its evaluations (harness/records/rejudge.py). An environment
is written once, on a line of its own, and runs name it. Every line carries a digest of its own
content, so an edited or truncated line is detected, and files of several people merge line by line.
"""

import json
import math
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.catalog.goal import primary
from harness.errors import UserError
from harness.records import run_folder
from harness.records.rejudge import curve
from harness.records.run import RecordedRun
from harness.records.schema import DAMAGED, check_bounds, check_environment, check_fields
from harness.system.files import atomic_write
from harness.system.hashing import canonical, digest
from harness.system.machine import steady

DIGITS = 5  # of a number in a figure
POINTS = 120  # of a curve in a figure
LONGEST = 4_000_000  # bytes of a line


def write_compact(path: Path, runs: Iterable[RecordedRun]) -> None:
    """Write a compact file: the environments, then the runs, sorted, each line with its digest."""
    runs = sorted(runs, key=order)
    environments = {
        digest(canonical(steady(r.environment)))[:8]: steady(r.environment) for r in runs
    }
    lines = [
        signed({"id": name, "environment": value}) for name, value in sorted(environments.items())
    ]
    for run in runs:
        name = digest(canonical(steady(run.environment)))[:8]
        lines.append(signed(run.record | {"environment": name, "about": run.about}))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(f"{line}\n" for line in lines))


def thinned(points: list, most: int = POINTS) -> list:
    """Return about `most` of the points, evenly spaced, with the first and the last."""
    every = math.ceil(len(points) / most) or 1
    return [p for i, p in enumerate(points) if i % every == 0 or i == len(points) - 1]


def short(value: float | None) -> float | None:
    """Return the value with as many digits as a figure needs."""
    return value if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def signed(row: dict) -> str:
    """Return a row as a line of JSON with the digest of its content."""
    return json.dumps(row | {"digest": digest(canonical(row))[:16]}, separators=(",", ":"))


def require_compact(path: Path) -> None:
    """Raise UserError if a path is a file, and its name is not that of a compact file."""
    if path.is_file() and (path.suffix != ".jsonl" or path.name in run_folder.MARKERS):
        raise UserError(
            f"{path} is not a file of records",
            "a results folder, a run's folder, or a compact file KEY.jsonl",
            f"its folder: {shlex.quote(str(path.parent))}" * (path.name in run_folder.MARKERS),
        )


def read_compact(path: Path, left_out: list, named: str = "") -> Iterator[RecordedRun]:
    """Yield the runs of a compact file; add (place, reason) to `left_out` for each other line.

    Args:
        named: a submission or a workload; lines of runs that lack this name are skipped unread.
    """
    environments: dict[str, dict] = {}
    name = json.dumps(named).encode()
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if named and b'"run_id"' in line and name not in line:
            continue
        where = f"{path.name} line {number}"
        try:
            row = _content(line)
            if "id" in row and "run_id" not in row:
                environments[row["id"]] = check_environment(row["environment"])
                continue
            check_fields(row)  # `_content` checked the bounds
            points = curve(row["evaluations"], primary(row["goal"])[0])
            environment = environments.get(row.pop("environment", ""), {})
        except ValueError as error:
            left_out.append((where, str(error)))
        except DAMAGED as error:
            left_out.append((where, f"damaged: {error!r}"))
        else:
            yield RecordedRun(row, points, environment, row.pop("about", None) or {}, where)


def _content(line: bytes) -> dict:
    """Return a line's content without its digest.

    Raises:
        ValueError: the line was edited or truncated.
    """
    if len(line) > LONGEST:
        raise ValueError(f"damaged: the line has {len(line):,} bytes, more than {LONGEST:,}")
    try:
        row = json.loads(line)
        check_bounds(row)
        stated = row.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("edited or truncated: it is not a record with a digest") from None
    if stated != digest(canonical(row))[:16]:
        raise ValueError("edited: its content does not have the digest that it states")
    return row


def number(trial: int | None) -> int:
    """Return a trial's place in an order: runs without a trial come first."""
    return -1 if trial is None else trial


def order(run: RecordedRun) -> tuple:
    """Return the sort key of runs in files and tables."""
    rec = run.record
    return rec["submission"], rec["study"], number(rec["trial"]), rec["seed"], rec["run_id"]
