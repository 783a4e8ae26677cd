"""Read run records from run folders and compact files; say of every record left out why."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.catalog.goal import primary
from harness.errors import UserError
from harness.records.compact import number, read_compact, short, thinned
from harness.records.log import rows as read_rows
from harness.records.log import verify
from harness.records.plausibility import confirms
from harness.records.rejudge import by_present_rules, curve, table
from harness.records.run import RecordedRun, about, check
from harness.system.files import BadFile, read_json
from harness.system.hashing import canonical

# not needed once a record is checked
DROPPED = ("config", "chain", "environment", "weights", "wall", "engine")


@dataclass
class Collection:
    """Records that count, (place, reason) of those that do not, and pairs that cannot be raced."""

    runs: list[RecordedRun]
    left_out: list[tuple[str, str]]
    unfit: list["Unfit"] = field(default_factory=list)


@dataclass(frozen=True)
class Unfit:
    """A submission that fails on a workload whenever it is raced there."""

    key: str
    submission: str
    source: str
    training_hash: str


def collect(paths: Sequence[Path | str]) -> Collection:
    """Every record under results folders, run folders or compact files: each run once, in order.

    Raises:
        UserError: a path does not exist.
    """
    runs: dict[str, RecordedRun] = {}
    found = Collection([], [])
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(
                f"there is no {path}",
                "a results folder, a run folder or a .jsonl file",
                "harness report results",
            )
        found.unfit += _unfit(path, found.left_out)
        for run in map(by_present_rules, _read(path, found.left_out)):
            known = runs.setdefault(run.record["run_id"], run)
            if known is run:
                continue
            if confirms(known.record, known.environment, run.record, run.environment):
                runs[run.record["run_id"]] = replace(known, confirmed=True)
            elif not _agree(known, run):
                found.left_out.append(
                    (
                        run.where,
                        f"says another result than {known.where} of the same run, which is used",
                    )
                )
    found.runs = sorted(
        runs.values(),
        key=lambda r: (
            r.key,
            r.record["submission"],
            r.record["study"],
            number(r.record["trial"]),
            r.record["seed"],
            r.record["run_id"],
        ),
    )
    found.left_out = sorted(set(found.left_out))
    return found


def _agree(one: RecordedRun, other: RecordedRun) -> bool:
    """Whether two records of a run say the same, up to the digits that a compact file keeps."""
    same = one.time == other.time or math.isclose(one.time, other.time, rel_tol=1e-6)
    return same and one.record["outcome"] == other.record["outcome"]


def _read(path: Path, left_out: list) -> Iterator[RecordedRun]:
    if path.is_file():
        yield from read_compact(path, left_out)
        return
    inner = path / "runs" if (path / "runs").is_dir() else path
    folders = (
        [path]
        if (path / "log.jsonl").exists()
        else sorted(p.parent for p in inner.glob("*/*/*/log.jsonl"))
    )
    for folder in folders:
        where = folder.relative_to(path).as_posix() if folder != path else folder.name
        if not (folder / "run.json").exists():
            left_out.append((where, "unfinished: there is no run.json"))
            continue
        try:
            yield read_folder(folder, where)
        except (ValueError, BadFile, OSError) as error:
            left_out.append((where, str(error)))
    for file in sorted((path / "board").glob("*.jsonl")):
        yield from read_compact(file, left_out)


def _unfit(path: Path, left_out: list) -> Iterator[Unfit]:
    """What a campaign gave up, of a results folder or beside a compact file."""
    end = ".failed.json"
    files = sorted((path / "board").glob(f"*{end}"))
    if path.is_file():
        files = [file for file in [path.with_name(path.stem + end)] if file.exists()]
    for file in files:
        key = file.name.removesuffix(end)
        for name, one in read_json(file).items():
            left_out.append((f"{name} on {key}", f"could not be raced: {one['reason']}"))
            yield Unfit(key, name, one["source"], one["training_hash"])


def read_folder(folder: Path, where: str = "") -> RecordedRun:
    """The record in a run folder, checked against its log.

    Raises:
        ValueError, BadFile: what is wrong with it.
    """
    rec = read_json(folder / "run.json")
    check(rec)
    log = folder / "log.jsonl"
    problems = verify(log, rec.get("chain", ""))
    if problems:
        raise ValueError(f"edited: log.jsonl {problems[0]}")
    rows = read_rows(log)
    stated = next((row["result"] for row in reversed(rows) if row["event"] == "ended"), None)
    changed = sorted(k for k, v in (stated or {}).items() if canonical(rec.get(k)) != canonical(v))
    if stated is None or changed:
        raise ValueError(
            f"edited: run.json and log.jsonl differ in {', '.join(changed) or 'everything'}"
        )
    rec["evaluations"] = table(rec, rows)
    if "stream" in (rec.get("config") or {}):
        rec["stream"] = _stream(rec["config"], rows)
    return _run(
        rec,
        curve(rec["evaluations"], primary(rec["goal"])[0]),
        rec.get("environment") or {},
        about(folder, rec["submission"]),
        where or folder.name,
    )


def _stream(block: dict, rows: list[dict]) -> dict:
    """What a stream's figures need: the ends of its tasks, and each task's quality over steps."""
    from harness.records import stream_metrics

    seen = stream_metrics.history(block, rows)
    ends = set(seen.ends)
    groups = []
    for points in seen.groups:
        found = [[seen.steps[n], short(seen.sign * value)] for n, value in points]
        kept = {point[0] for point in thinned(found)} | ends
        groups.append([point for point in found if point[0] in kept])
    return {"ends": seen.ends, "groups": groups}


def _run(rec: dict, curve: list, environment: dict, about: dict, where: str) -> RecordedRun:
    kept = {k: v for k, v in rec.items() if k not in DROPPED}
    return RecordedRun(kept, curve, environment, about, where)
