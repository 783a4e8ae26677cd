"""Frozen reference runs, by workload."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from harness.catalog.definition import Definition
from harness.catalog.discover import ROOT
from harness.errors import UserError
from harness.records.compact import read_compact
from harness.records.rejudge import by_present_rules
from harness.records.run import RecordedRun
from harness.system.files import BadFile, read_json


def reference(definition: Definition) -> dict | None:
    """Return the frozen reference run of this very workload version (time, curve), or None."""
    path = definition.frozen / f"{definition.key}.json"
    try:
        frozen = read_json(path)
    except FileNotFoundError:
        return None
    return frozen if frozen["workload_hash"] == definition.hash else None


def references(paths: Sequence[Path | str] = ()) -> dict[str, dict]:
    """Return the frozen references by workload key: the project's and those of results folders.

    Each has the path of the compact file that its records are in, `board`.
    """
    found = {}
    for folder in (ROOT / "results", *map(Path, paths)):
        for path in sorted((folder / "reference").glob("*.json")):
            if path.name.endswith(".target.json"):
                continue
            try:
                frozen = read_json(path)
            except BadFile as error:
                raise UserError(
                    f"frozen reference {error}", do="restore it from version control"
                ) from None
            if isinstance(frozen, dict) and frozen.get("time") and "workload_hash" in frozen:
                key = frozen.get("workload", path.stem)
                found[key] = frozen | {"board": folder / "board" / f"{key}.jsonl"}
    return found


def reference_time(frozen: dict) -> float | None:
    """Return a reference's time by its records: the geometric mean over its seeds, interpolated.

    Seeds that missed do not count: a target is one that the reference reaches. Return None if the
    records are not all there.

    Args:
        frozen: a reference as `references` returns it.
    """
    path = frozen.get("board")
    if path is None or not frozen.get("seeds") or not path.exists():
        return None
    runs = {
        run.record["seed"]: run
        for run in _evidence(path, path.stat().st_mtime_ns, frozen["submission"])
        if run.record["seed"] in frozen["seeds"]
        and run.record["hp"] == frozen["hp"]
        and run.share == frozen.get("budget", 1)
        and run.record["workload_hash"] == frozen["workload_hash"]
        and run.record["submission_hash"] == frozen["submission_hash"]
    }
    if runs.keys() != set(frozen["seeds"]):
        return None
    reached = [run.interpolated for run in runs.values() if math.isfinite(run.interpolated)]
    return math.exp(sum(map(math.log, reached)) / len(reached)) if reached else None


@cache
def _evidence(path: Path, _: int, submission: str) -> tuple[RecordedRun, ...]:
    """Return a submission's runs without a trial number of a compact file, by present rules.

    Args:
        _: when the file was last changed: a changed file is read again.
    """
    runs = (
        run for run in read_compact(path, [], submission) if run.record["submission"] == submission
    )
    return tuple(by_present_rules(run) for run in runs if run.record["trial"] is None)
