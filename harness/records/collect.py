"""Read run records from run folders and compact files, and give a reason for each one left out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.catalog.goal import primary
from harness.errors import UserError
from harness.records import stream_metrics
from harness.records.compact import order, read_compact, require_compact, short, thinned
from harness.records.log import rows as read_rows
from harness.records.log import verify
from harness.records.plausibility import confirms
from harness.records.rejudge import by_present_rules, curve, table
from harness.records.rules import RecordView
from harness.records.rules.verdict import judge
from harness.records.run import RecordedRun, about
from harness.records.schema import DAMAGED, check, check_environment
from harness.records.verified import verified_by
from harness.system.files import BadFile, read_json
from harness.system.hashing import canonical

# not needed once a record is checked
DROPPED = ("config", "chain", "environment", "wall", "engine")
FAILED = ".failed.json"


@dataclass(frozen=True)
class Unfit:
    """A submission that fails on a workload whenever it is raced there."""

    key: str
    submission: str
    source: str
    training_hash: str
    reason: str = ""


@dataclass
class Collection:
    """What was read. Every record is in one of three lists, so their lengths add up to `read`.

    Attributes:
        runs: the records that count.
        left_out: (place, reason) of each record that does not count.
        copies: (place, place of the record that is used) of each second record of the same run.
        unfit: the pairs that cannot be raced; these are not records.
        folders: places of the runs that were read from run folders, not from compact files.
    """

    runs: list[RecordedRun]
    left_out: list[tuple[str, str]]
    copies: list[tuple[str, str]] = field(default_factory=list)
    unfit: list[Unfit] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    @property
    def read(self) -> int:
        """The number of records read."""
        return len(self.runs) + len(self.left_out) + len(self.copies)

    def leave_out(self, dropped: Sequence[tuple[RecordedRun, str]]) -> None:
        """Move runs from those that count to those left out, each with its reason."""
        ids = {run.record["run_id"] for run, _ in dropped}
        self.runs = [run for run in self.runs if run.record["run_id"] not in ids]
        self.left_out += [(run.where, reason) for run, reason in dropped]


def collect(paths: Sequence[Path | str], workload: str = "") -> Collection:
    """Read all records under results folders, run folders or compact files, in order.

    Args:
        workload: a name or key; of compact files the lines of other workloads are skipped unread.

    Raises:
        UserError: a path does not exist.
    """
    runs: dict[str, RecordedRun] = {}
    result = Collection([], [])
    named = workload.split(".")[0]
    for path in dict.fromkeys(map(Path, paths)):  # a path that is given twice is read once
        if not path.exists():
            raise UserError(
                f"there is no {path}",
                "a results folder, a run folder or a .jsonl file",
            )
        require_compact(path)
        result.unfit += [pair for pair in _unfit(path, result.left_out) if pair not in result.unfit]
        for run in _read(path, result, named):
            _add(run, runs, result)
    result.runs = sorted(runs.values(), key=lambda run: (run.key, *order(run)))
    result.left_out.sort()
    return result


def _add(run: RecordedRun, runs: dict[str, RecordedRun], result: Collection) -> None:
    """Add a run as its workload judges it now, or name why it is not used."""
    try:
        # The list has the digest of the record as it was read.
        run = by_present_rules(replace(run, verified=verified_by(run.record)))
    except DAMAGED as error:
        result.left_out.append((run.where, f"damaged: {error!r}"))
        return
    name = run.record["run_id"]
    known = runs.setdefault(name, run)
    if known is run:
        return
    if run.verified and not known.verified:
        # Whoever comes first must not take the place of a record that was raced again.
        known, run = run, known
        runs[name] = known
    if confirms(known.record, known.environment, run.record, run.environment):
        # A second record may be made up like the first.
        confirmed = bool(known.verified or run.verified)
        runs[name] = replace(known, confirmed=known.confirmed or confirmed)
        result.copies.append((run.where, known.where))
    elif _agree(known, run):
        result.copies.append((run.where, known.where))
    else:
        reason = f"has another result than {known.where} of the same run, which is used"
        result.left_out.append((run.where, reason))


def _agree(first: RecordedRun, second: RecordedRun) -> bool:
    """Return True if two records of a run agree, up to the digits that a compact file keeps."""
    same = first.time == second.time or math.isclose(first.time, second.time, rel_tol=1e-6)
    return same and first.record["outcome"] == second.record["outcome"]


def _read(path: Path, result: Collection, named: str) -> Iterator[RecordedRun]:
    """Yield the records of a file or a folder; name the others in `result.left_out`."""
    if path.is_file():
        yield from _lines(path, result, named)
        return
    inner = path / "runs" if (path / "runs").is_dir() else path
    for folder in sorted(log.parent for log in inner.rglob("log.jsonl")):
        where = folder.relative_to(path).as_posix() if folder != path else folder.name
        if not (folder / "run.json").exists():
            result.left_out.append((where, "unfinished: there is no run.json"))
            continue
        try:
            run = read_folder(folder, where)
            reason = broken_rule(read_json(folder / "run.json"), folder, run.environment)
        except (*DAMAGED, BadFile, OSError) as error:
            plain = isinstance(error, ValueError | BadFile | OSError)
            result.left_out.append((where, str(error) if plain else f"damaged: {error!r}"))
        else:
            if reason:
                result.left_out.append((where, reason))
                continue
            result.folders.add(run.where)
            yield run
    for file in sorted((path / "board").glob("*.jsonl")):
        yield from _lines(file, result, named)


def _lines(file: Path, result: Collection, named: str) -> Iterator[RecordedRun]:
    """Yield the records of a compact file that keep every rule; name the others."""
    for run in read_compact(file, result.left_out, named):
        if reason := broken_rule(run.record, None, run.environment):
            result.left_out.append((run.where, reason))
        else:
            yield run


def broken_rule(record: dict, folder: Path | None, environment: dict) -> str | None:
    """Return the first rule of `harness comply` that a record breaks, or None.

    Args:
        folder: the run's folder, or None for a line of a compact file as `read_compact` read it.
    """
    verdict = judge("", RecordView(record, folder, environment, checked=folder is None))
    if not verdict.fails:
        return None
    rule, text = verdict.fails[0]
    return f"breaks a rule: {rule} ({text})"


def _unfit(path: Path, left_out: list) -> Iterator[Unfit]:
    """Yield the pairs that a campaign gave up, of a results folder or beside a compact file."""
    files = sorted((path / "board").glob(f"*{FAILED}"))
    if path.is_file():
        files = [file for file in [path.with_name(path.stem + FAILED)] if file.exists()]
    for file in files:
        key = file.name.removesuffix(FAILED)
        try:
            pairs = [
                Unfit(key, name, *(str(pair[k]) for k in ("source", "training_hash", "reason")))
                for name, pair in read_json(file).items()
            ]
        except (*DAMAGED, BadFile) as error:
            left_out.append((file.name, f"damaged: {error}"))
        else:
            yield from pairs


def read_folder(folder: Path, where: str = "") -> RecordedRun:
    """Return the record in a run folder, checked against its log.

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
    check(rec)
    points = curve(rec["evaluations"], primary(rec["goal"])[0])
    kept = {k: v for k, v in rec.items() if k not in DROPPED}
    described = about(folder, rec["submission"])
    environment = check_environment(rec.get("environment") or {})
    return RecordedRun(kept, points, environment, described, where or folder.name)


def _stream(block: dict, rows: list[dict]) -> dict:
    """Return what a stream's figures need: ends of tasks, and each task's quality over steps."""
    history = stream_metrics.history(block, rows)
    ends = set(history.ends)
    groups = []
    for points in history.groups:
        values = [[history.steps[n], short(history.sign * value)] for n, value in points]
        kept = {point[0] for point in thinned(values)} | ends
        groups.append([point for point in values if point[0] in kept])
    return {"ends": history.ends, "groups": groups}
