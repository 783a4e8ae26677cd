"""Compact files: one line a run, for version control.

results/board/<workload>.<scale>[.<variant>].jsonl has one line a run: run.json with the steps,
seconds and goal's metrics of its evaluations (harness/records/rejudge.py), its environment
named and written once. Every line carries a digest of its own content, so that an edited or
truncated line shows and files of several people merge line by line.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.catalog.goal import primary
from harness.records.rejudge import curve
from harness.records.run import RecordedRun, check
from harness.system.files import atomic_write
from harness.system.hashing import canonical, digest
from harness.system.machine import steady

DIGITS = 5  # of a number in a figure
POINTS = 120  # of a curve in a figure


def write_compact(path: Path, runs: Iterable[RecordedRun]) -> None:
    """Write a compact file: the environments, then the runs, sorted, each line with its digest."""
    runs = sorted(
        runs,
        key=lambda r: (
            r.record["submission"],
            r.record["study"],
            number(r.record["trial"]),
            r.record["seed"],
            r.record["run_id"],
        ),
    )
    environments = {
        digest(canonical(steady(r.environment)))[:8]: steady(r.environment) for r in runs
    }
    lines = [
        _signed({"id": name, "environment": value}) for name, value in sorted(environments.items())
    ]
    for run in runs:
        name = digest(canonical(steady(run.environment)))[:8]
        lines.append(_signed(run.record | {"environment": name, "about": run.about}))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(f"{line}\n" for line in lines))


def thinned(points: list, most: int = POINTS) -> list:
    """At most about `most` of the points, evenly, the first and the last among them."""
    every = math.ceil(len(points) / most) or 1
    return [p for i, p in enumerate(points) if i % every == 0 or i == len(points) - 1]


def short(value: float | None) -> float | None:
    return value if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _signed(row: dict) -> str:
    return json.dumps(row | {"digest": digest(canonical(row))[:16]}, separators=(",", ":"))


def read_compact(path: Path, left_out: list) -> Iterator[RecordedRun]:
    """The runs of a compact file; what is wrong with a line goes to `left_out`."""
    environments: dict[str, dict] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path.name} line {number}"
        try:
            row = json.loads(line)
            stated = row.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            left_out.append((where, "edited or truncated: it is no record with a digest"))
            continue
        if stated != digest(canonical(row))[:16]:
            left_out.append((where, f"edited: its content does not have the digest {stated}"))
            continue
        if "id" in row and "run_id" not in row:
            environments[row["id"]] = row["environment"]
            continue
        try:
            check(row)
            points = curve(row["evaluations"], primary(row["goal"])[0])
        except ValueError as error:
            left_out.append((where, str(error)))
            continue
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            left_out.append((where, f"damaged: {error!r}"))
            continue
        environment = environments.get(row.pop("environment", ""), {})
        yield RecordedRun(row, points, environment, row.pop("about", {}), where)


def number(trial: int | None) -> int:
    """A trial's place in an order: runs without a trial come first."""
    return -1 if trial is None else trial
