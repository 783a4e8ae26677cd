"""The list of verified records, results/verified.json, which `harness verify` writes.

A record that is made up with care passes every rule of `harness comply`: only racing it again shows
whether it is true. So a report ranks a record only if this list has it. An entry names the run, the
digest of its record, and how it was verified:

    {"run_id": ID, "digest": SHA-256, "how": "run again", "result": "the same bits",
     "by": WHO, "date": DAY, "harness": HASH, "machine": ID}

`how` is "own" for records that the maintainers raced themselves, and "run again" for others.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from harness.errors import UserError
from harness.records.plausibility import AGREES
from harness.records.run import RecordedRun
from harness.system.files import BadFile, atomic_write, locked, read_json
from harness.system.hashing import canonical, digest
from harness.system.paths import ROOT

LIST = ROOT / "results" / "verified.json"
OWN, AGAIN = "own", "run again"
HOW = (OWN, AGAIN)
FIELDS = ("run_id", "digest", "how", "result", "by", "date", "harness", "machine")


def digest_of(record: dict) -> str:
    """Return the digest of a record as it was read: the same for a folder and its compact line."""
    return digest(canonical(record))


def entry_of(record: dict, how: str, result: str, by: str, **fields: str) -> dict:
    """Return the entry of a record in the list.

    Args:
        fields: `date`, `harness` and `machine`.
    """
    entry = {"run_id": record["run_id"], "digest": digest_of(record), "how": how}
    return entry | {"result": result, "by": by} | fields


def verified_by(record: dict) -> str:
    """Return how a record was verified, one of HOW, or "" if the project's list does not have it.

    Only a record of isolation=strict can be verified by running it again.
    """
    how = _known(LIST, _changed(LIST)).get((record["run_id"], digest_of(record)), "")
    return "" if how == AGAIN and record.get("isolation") != "strict" else how


def read_list(path: Path) -> list[dict]:
    """Return the entries of a list; none if there is no file.

    Raises:
        UserError: the file is not a list of verified records.
    """
    try:
        entries = read_json(path)
    except FileNotFoundError:
        return []
    except BadFile as error:
        raise _damaged(path, error.why) from None
    if not isinstance(entries, list):
        raise _damaged(path, "it is not a list")
    for number, entry in enumerate(entries, 1):
        texts = isinstance(entry, dict) and all(isinstance(entry.get(f), str) for f in FIELDS)
        if (
            not texts
            or entry["how"] not in HOW
            or not re.fullmatch("[0-9a-f]{64}", entry["digest"])
        ):
            raise _damaged(path, f"entry {number} is not valid")
    return entries


def add(path: Path, entries: Iterable[dict]) -> None:
    """Add entries to a list, one a line; an entry takes the place of an earlier one of its run.

    Processes that share a list write one after the other.
    """
    with locked(path.parent, wait=True, elsewhere="--list FILE"):
        every = {entry["run_id"]: entry for entry in (*read_list(path), *entries)}
        lines = [json.dumps(every[name], ensure_ascii=True) for name in sorted(every)]
        atomic_write(path, "[\n" + ",\n".join(lines) + "\n]\n")


def compare(
    run: RecordedRun, again: RecordedRun, others: Sequence[RecordedRun]
) -> tuple[bool, str]:
    """Return whether a second race confirms a record, and what was seen.

    The second race confirms it if every evaluation is the same, or else if outcome and last metric
    lie where the other seeds' do. Its reference seconds must agree within AGREES.

    Args:
        again: the second race's record.
        others: recorded runs of the same point with other seeds.
    """
    agree, metrics = _metrics(run, again, others)
    if not agree or run.record["outcome"] != "reached":
        return agree, metrics
    first, second = run.record["time"], again.record["time"]
    ratio = second / first
    within = 1 / AGREES <= ratio <= AGREES
    seconds = f"{first:.4g} s recorded, {second:.4g} s now"
    return within, f"{metrics}, {seconds}" + ("" if within else f": not within {AGREES - 1:.0%}")


def _metrics(
    run: RecordedRun, again: RecordedRun, others: Sequence[RecordedRun]
) -> tuple[bool, str]:
    """Return whether the evaluations of two races agree, and what was seen."""
    old, new = run.record.get("evaluations") or {}, again.record.get("evaluations") or {}
    if not old.get("step") or not new.get("step"):
        return False, "there are no evaluations to compare"
    hopeless = run.record["outcome"] == "hopeless"
    if not hopeless and run.record["outcome"] != again.record["outcome"]:
        return False, f"{run.record['outcome']} recorded, {again.record['outcome']} now"
    # The curves of earlier trials, or a clock, ended one of the races and not the other.
    early = hopeless or _ended_by_seconds(run) or _ended_by_seconds(again)
    count = min(len(old["step"]), len(new["step"])) if early else len(old["step"])
    if early:
        old, new = _cut(old, count), _cut(new, count)
    if old["step"] == new["step"] and canonical(old["metrics"]) == canonical(new["metrics"]):
        weights = run.record.get("weights"), again.record.get("weights")
        if None in weights or early or weights[0] == weights[1]:
            same = "the same weights" if None not in weights else "the same metrics"
            return True, f"{same} at {count} evaluations"
        return False, "the metrics are the same and the last weights are not"
    return _within_seeds(run, again, others)


def _ended_by_seconds(run: RecordedRun) -> bool:
    """Return True if a trial missed its goal and was ended before its last step."""
    return run.record["outcome"] == "out_of_budget" and run.record["step"] < run.record["horizon"]


def _cut(columns: dict, count: int) -> dict:
    """Return the steps and metrics of the first evaluations."""
    metrics = {name: values[:count] for name, values in columns["metrics"].items()}
    return {"step": columns["step"][:count], "metrics": metrics}


def _elsewhere(run: RecordedRun, again: RecordedRun) -> str:
    """Return that the record is of another kind of processor, whose last bits differ, if it is."""
    there, here = (each.environment.get("cpu") for each in (run, again))
    return f" (raced on {there}, now on {here})" if there and here and there != here else ""


def _within_seeds(
    run: RecordedRun, again: RecordedRun, others: Sequence[RecordedRun]
) -> tuple[bool, str]:
    """Return whether a second race's last metric lies within the interval of the seeds."""
    name = next(iter(run.record["goal"]))
    values = [each.curve[-1][2] for each in (run, *others) if each.curve]
    values = [value for value in values if value is not None]
    mine = again.curve[-1][2]
    if mine is None or run.curve[-1][2] is None:
        return False, f"{name} has no last value"
    text = f"{name} {run.curve[-1][2]:.9g} recorded, {mine:.9g} now{_elsewhere(run, again)}"
    if len(values) < 3:
        return False, f"{text}; with {len(values)} seeds there is no interval"
    from scipy.stats import t

    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    half = float(t.ppf(0.975, len(values) - 1)) * spread * (1 + 1 / len(values)) ** 0.5
    within = abs(mine - mean) <= half
    place = "within" if within else "outside"
    interval = f"{mean - half:.6g} to {mean + half:.6g}"
    return within, f"{text}: {place} the interval of {len(values)} seeds, {interval}"


def _changed(path: Path) -> int:
    """Return when a file was changed, for the cache; 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


@cache
def _known(path: Path, changed: int) -> dict[tuple[str, str], str]:
    """Return how each (run, digest) of a list was verified."""
    return {(entry["run_id"], entry["digest"]): entry["how"] for entry in read_list(path)}


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} is not a list of verified records: {why}",
        f"entries with {', '.join(FIELDS)}",
        "restore it from version control",
    )
