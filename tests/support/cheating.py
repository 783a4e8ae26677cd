"""Helpers of the tests of cheats: the table of docs/rules.md, and one short trial for each row."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.catalog import kinds
from harness.race import referee
from harness.records import run_folder
from harness.records.log import rows
from tests.support import racing
from tests.support.racing import ROOT, Watcher

RULES = ROOT / "docs" / "rules.md"
CHEATS = Path(__file__).parents[1] / "cheats"
HORIZON, POINTS = 30, 5
# Share of hidden work that must show: the reference step is timed on a machine in use.
SHARE = 0.67
GPT2 = {
    "horizon": 8, "batch": 2, "evaluate": {"points": 4, "batch": 16},
    "goal": {"loss": {"at_most": 99.0}, "sparsity": {"at_least": 0.45}},
}  # fmt: skip


@dataclass(frozen=True)
class Exploit:
    """One row of the table in docs/rules.md.

    Attributes:
        what: the exploit in words.
        file, way: the submission in tests/cheats, and its setting.
        process, strict: the verdict at this level, and what enforces it: "verdict: by what".
    """

    what: str
    file: str
    way: str
    process: str
    strict: str

    @property
    def more(self) -> dict:
        """Return the settings of the workload that the exploit is tried on."""
        return {"pruning": GPT2, "silent": {"deadlines": {"step": 2}}}.get(self.file, {})


def table() -> list[Exploit]:
    """Return the rows of docs/rules.md that name a test."""
    rows = re.findall(
        r"^\| (.+) \| (\w+) (\w+) \| (.+) \| (.+) \|$", RULES.read_text(), re.MULTILINE
    )
    return [Exploit(*row) for row in rows]


def planned(file: str, way: str, level: str, results: Path, more=(), seed=0, **hp):
    """Return a short trial of a file in tests/cheats.

    The workload is gpt2 if `more` names its goal, else matrix sensing.
    """
    more = dict(more)
    name = "gpt2" if "batch" in more else "matrix_sensing"
    numbers = {"horizon": HORIZON, "evaluate": {"points": POINTS, "batch": 1}} | more
    return racing.planned(
        name, CHEATS / f"{file}.py", results, numbers=numbers, hp={"way": way} | hp,
        isolation=level, seed=seed,
    )  # fmt: skip


@dataclass
class Seen:
    """What a test can see of a trial afterwards."""

    outcome: referee.Outcome
    said: str  # what the submission wrote

    @property
    def reference(self) -> float:
        """Return the trial's reference seconds, in CPU seconds of this machine."""
        log = run_folder.evaluations(rows(self.outcome.folder / "log.jsonl"))
        end = self.outcome.record["end"]
        price = self.outcome.record["priced"][kinds.REFERENCE_STEP]["seconds"]
        return end["total"] * log[0]["anchor_seconds"] / price


def run(trial) -> Seen:
    """Run a trial to its outcome."""
    outcome = referee.race(trial, Watcher())
    return Seen(outcome, (outcome.folder / "runner.log").read_text())


def forget(path: Path) -> None:
    """Remove files that a cheat has left outside its folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
