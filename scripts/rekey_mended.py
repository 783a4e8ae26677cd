"""Keep the records of submissions whose code was mended where those records never went.

    git worktree add ../former COMMIT
    python -m scripts.rekey_mended ../former            # compare each point's beginning
    python -m scripts.rekey_mended ../former --write    # give the records the present source's hash

A submission's hash is of its code, so a mended error voids all its records, also those that the
error did not touch. Here each recorded point of such a submission is raced with one of its seeds,
in both trees, up to its second evaluation after the start. If steps, counts of passes and metrics
are the same in all digits, for every point of the submission, its records get the present hash, and
the run id that follows from it. Otherwise nothing of that submission is changed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from harness.catalog import discover
from harness.catalog.identity import source_hash
from harness.race.configuration import engine_for, engine_named
from harness.system.files import atomic_write
from harness.system.hashing import canonical
from harness.system.paths import ROOT
from scripts.identities import run_id
from scripts.old_identities import Stop
from scripts.rekey import dumped, layout_of, lines_of, text_of

RESULTS = ROOT / "results"
HASHES = """
import json
from harness.catalog import discover
from harness.catalog.identity import source_hash
print(json.dumps({name: source_hash(p) for name, p in discover.submissions().items()}))
"""
BEGINNING = """
import json, os, signal, sys, tempfile
from pathlib import Path
from harness.race import plan
from harness.race.observer import Quiet
from harness.race.recorded import settings_of
from harness.race.referee import race
from harness.records.log import rows

record, evaluations = json.load(sys.stdin), int(sys.argv[1])


class Stopping(Quiet):
    seen = 0

    def row(self, row):
        self.seen += 1
        if self.seen > evaluations:
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text): ...


with tempfile.TemporaryDirectory() as place:
    trial = plan.make(settings_of(record | {"isolation": "inline"}, None, Path(place), "budget"))
    race(trial, Stopping(trial.label))
    (log,) = Path(place).rglob("log.jsonl")
    kept = [{k: row.get(k) for k in ("step", "counts", "metrics")} for row in rows(log)]
    print(json.dumps([row for row in kept if row["metrics"]][: evaluations + 1]))
"""


def called(tree: Path, program: str, *arguments: str, given: str = ""):
    """Return what a program prints as JSON on its last line, run in a tree.

    Raises:
        Stop: it fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tree, input=given, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Stop(f"{tree}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def mended(former: Path) -> dict[str, tuple[str, str]]:
    """Return the former and the present hash of the shipped submissions whose hash has changed."""
    old = called(former, HASHES)
    new = {name: source_hash(plugin) for name, plugin in discover.submissions().items()}
    return {n: (old[n], new[n]) for n in sorted(old) if n in new and old[n] != new[n]}


def proved(name: str, points: list[dict], former: Path, evaluations: int) -> bool:
    """Race the beginning of each point in both trees; say and return whether all are the same."""
    for record in points:
        given, asked = json.dumps(record), str(evaluations)
        before = called(former, BEGINNING, asked, given=given)
        now = called(ROOT, BEGINNING, asked, given=given)
        if before != now or len(now) <= evaluations:
            print(f"{name} {json.dumps(record['hp'])}: another trajectory")
            return False
    return True


def rewritten(rows: list[dict], changes: dict[str, tuple[str, str]], ids: dict, engine) -> str:
    """Return the text of a compact file with the present hashes; adds to `ids` old and new ids."""
    for row in rows:
        old, new = changes.get(row.get("submission", ""), ("", ""))
        if old and row["submission_hash"] == old:
            row["submission_hash"] = new
            ids[row["run_id"]] = row["run_id"] = run_id(row, engine)
    return text_of(rows)


def renamed(value, names: dict[str, str]):
    """Return a JSON value in which texts that are keys of `names` are what they name."""
    if isinstance(value, dict):
        return {key: renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def main(arguments: list[str] | None = None) -> int:
    """Compare, and with --write change the project's results; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("former", type=Path, help="a checkout of the tree before the mend")
    parser.add_argument("--evaluations", type=int, default=2, help="raced of each point")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(arguments)
    try:
        return keep(asked.former, asked.evaluations, asked.write)
    except Stop as error:
        print(f"nothing was changed: {error}", file=sys.stderr)
        return 1


def keep(former: Path, evaluations: int, write: bool) -> int:
    """Compare and change; return 1 where a submission's records are void.

    Raises:
        Stop: a trial cannot be raced, or a line was edited.
    """
    changes, failed = mended(former), 0
    boards = {path: lines_of(path) for path in sorted((RESULTS / "board").glob("*.jsonl"))}
    for name, (old, _) in list(changes.items()):
        mine = [
            (path.name, row)
            for path, rows in boards.items()
            for row in rows
            if row.get("submission") == name and row["submission_hash"] == old
        ]
        points = {(board, canonical(row["hp"]), row["horizon"]): row for board, row in mine}
        if not mine:
            continue
        if proved(name, list(points.values()), former, evaluations):
            print(f"{name}: {len(points)} points begin the same; {len(mine)} records")
        else:
            failed += 1
            del changes[name]
    if not write:
        return bool(failed)
    engine = engine_for(engine_named("cpu"), "mini")
    names: dict[str, str] = {}
    for path, rows in boards.items():
        text = rewritten(rows, changes, names, engine)
        if text != path.read_text():
            atomic_write(path, text)
    names |= dict(changes.values())
    others = [*(RESULTS / "board").glob("*.failed.json"), *(RESULTS / "reference").glob("*.json")]
    for path in (*others, RESULTS / "reproduced.json"):
        text = path.read_text()
        value = json.loads(text)
        if renamed(value, names) != value:
            atomic_write(path, dumped(renamed(value, names), layout_of(text, value)))
    print("results/verified.json: list the new ids with harness verify --own")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
