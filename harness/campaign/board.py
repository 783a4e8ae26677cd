"""What a campaign leaves for version control, and what of it a later campaign need not repeat.

results/board/KEY.jsonl has one line a run, results/board/KEY.failed.json why a submission could not
be raced there, results/tuned/KEY.json the best point of each submission. `harness report` and
races read them; a fresh clone has no run folders, so a campaign goes on from the board.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from harness.campaign.pair_results import Job
from harness.campaign.pairs import Pair
from harness.catalog import discover, identity
from harness.catalog.definition import Definition
from harness.records.compact import read_compact, write_compact
from harness.records.rejudge import rejudge
from harness.records.run import RecordedRun
from harness.system.files import atomic_json, locked, read_json
from harness.system.hashing import canonical


class Known:
    """The runs of a results folder's board, by what was raced.

    Called with a pair and a job, it says which run covers it: same workload, submission source,
    point and seed; and, where the job asks for the whole budget, trained to its end.
    """

    def __init__(self, results: Path):
        self.results = results
        self.sources: dict[str, str] = {}
        self.runs: dict[str, dict[tuple, RecordedRun]] = {}

    def __call__(self, pair: Pair, job: Job) -> RecordedRun | None:
        definition = pair.definition
        key = (
            definition.training_hash,
            self._source(pair),
            canonical(pair.point(job)),
            job.seed,
            pair.budget(job),
        )
        run = self._of(definition.key).get(key)
        run = run and rejudge(run, definition)
        fits = run and run.record["workload_hash"] == definition.hash and _enough(run, pair)
        return run if fits else None

    def failed(self, pair: Pair) -> str | None:
        """Why the pair's trials failed, if they did, and neither side has changed since."""
        definition = pair.definition
        known = read_failed(self.results, definition.key).get(pair.submission)
        if known is None or known["training_hash"] != definition.training_hash:
            return None
        return known["reason"] if known["source"] == self._source(pair) else None

    def add(self, run: RecordedRun) -> None:
        self._of(run.key)[_identity(run)] = run

    def _source(self, pair: Pair) -> str:
        if pair.submission not in self.sources:
            self.sources[pair.submission] = identity.source_hash(discover.find(pair.submission))
        # Who mends a submission while its pair fails must not have the mended one given up.
        pair.source = pair.source or self.sources[pair.submission]
        return self.sources[pair.submission]

    def _of(self, key: str) -> dict[tuple, RecordedRun]:
        if key not in self.runs:
            path = self.results / "board" / f"{key}.jsonl"
            runs = read_compact(path, []) if path.exists() else []
            self.runs[key] = {_identity(run): run for run in runs}
        return self.runs[key]


def _identity(run: RecordedRun) -> tuple:
    r = run.record
    return r.get("training_hash"), r["submission_hash"], canonical(r["hp"]), r["seed"], run.share


def _enough(run: RecordedRun, pair: Pair) -> bool:
    """Return True if the run trained for as many steps as the job asks, as confined or more so."""
    r = run.record
    if pair.isolation == "strict" and r.get("isolation") != "strict":
        return False
    if r["outcome"] == "hopeless":
        return pair.hopeless
    return pair.until == "goal" or r["outcome"] != "reached" or r["step"] >= r["horizon"]


def commit(pairs: Iterable[Pair], results: Path) -> list[str]:
    """Write the pairs' runs and tuned points into `results`; says what it did.

    Records of other runs of the same workload version stay, judged by its goal as it is now; those
    of other versions are dropped. Campaigns that share a folder write one after the other.
    """
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.found or pair.failed:
            groups[pair.definition.key].append(pair)
    if not groups:
        return []
    with locked(results, wait=True, elsewhere="--results FOLDER"):
        return [line for mine in groups.values() for line in _commit_workload(mine, results)]


def _commit_workload(pairs: list[Pair], results: Path) -> list[str]:
    """Write the pairs of one workload; say how many runs its board has."""
    definition = pairs[0].definition
    key = definition.key
    _commit_failed(pairs, definition, results)
    fresh = {run.record["run_id"]: run for pair in pairs for run in pair.found.values()}
    if not fresh:
        return []
    path, left_out = results / "board" / f"{key}.jsonl", []
    known = read_compact(path, left_out) if path.exists() else ()
    known = [rejudge(run, definition) for run in known]
    here = [run for run in known if run.record["workload_hash"] == definition.hash]
    every = {run.record["run_id"]: run for run in here} | fresh
    write_compact(path, every.values())
    dropped = len({run.record["run_id"] for run in known} - every.keys()) + len(left_out)
    lost = f", {dropped} of other versions or damaged dropped" if dropped else ""
    tuned = results / "tuned" / f"{key}.json"
    points = read_json(tuned) if tuned.exists() else {}
    points |= {pair.submission: tuned_of(best, pair) for pair in pairs if (best := pair.best())}
    if points:
        tuned.parent.mkdir(parents=True, exist_ok=True)
        atomic_json(tuned, dict(sorted(points.items())))
    return [f"{path}: {len(every)} runs{lost}"]


def read_failed(results: Path, key: str) -> dict:
    """By submission: why its trials on this workload failed, and of which versions."""
    path = results / "board" / f"{key}.failed.json"
    return read_json(path) if path.exists() else {}


def _commit_failed(pairs: list[Pair], definition: Definition, results: Path) -> None:
    before = read_failed(results, definition.key)
    made = {
        name: one
        for name, one in before.items()
        if one["training_hash"] == definition.training_hash
        and not any(pair.submission == name and pair.found for pair in pairs)
    } | {
        pair.submission: {
            "reason": pair.failed.replace(f"{discover.ROOT}/", ""),
            "source": pair.source or identity.source_hash(discover.find(pair.submission)),
            "training_hash": definition.training_hash,
        }
        for pair in pairs
        if pair.failed
    }
    if made != before:
        path = results / "board" / f"{definition.key}.failed.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_json(path, dict(sorted(made.items())))


def tuned_of(best: RecordedRun, pair: Pair) -> dict:
    """Return a tuned point as `results/tuned/` keeps it; `budget` where it is not 1."""
    r = best.record
    return {
        "hp": r["hp"],
        **({} if best.share == 1 else {"budget": best.share}),
        "trial": r["trial"],
        "study": r["study"],
        "trials": pair.ruleset["trials"] * pair.ruleset["studies"],
        "last": next(iter((r.get("best") or {}).values()), None),
        "time": r["time"],
    }
