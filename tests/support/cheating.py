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
# Files, or ways of them, that are tried on another workload or with other numbers.
IMPATIENT = ("matrix_sensing", {"deadlines": {"step": 2}})
STREAM = ("stream_split", {"batch": 10, "evaluate": {"every": 0, "points": 5, "batch": 100}})
GPT2 = {
    "horizon": 8, "batch": 2, "evaluate": {"points": 4, "batch": 16},
    "goal": {"loss": {"at_most": 99.0}, "sparsity": {"at_least": 0.45}},
}  # fmt: skip
PLACES = {
    "pruning": ("gpt2", GPT2),
    "predicting targets": ("gpt2", GPT2),
    "predicting clients": ("fed", {"horizon": 100, "evaluate": {"points": 5, "batch": 500}}),
    "silent": IMPATIENT,
    "garbling half": IMPATIENT,
    "buying again": (
        "active", {"evaluate": {"points": 5, "batch": 500}, "deadlines": {"step": 2}},
    ),
    "predicting deaf": (STREAM[0], STREAM[1] | {"deadlines": {"step": 2}}),
    "predicting": STREAM,
    "arriving": STREAM,
    "solving": ("pinn_poisson", {"evaluate": {"points": 5, "batch": 2500}}),
    "hiding": (
        "ft_gpt2", {"horizon": 6, "batch": 2, "evaluate": {"points": 3, "batch": 16}},
    ),
}  # fmt: skip
PLACES |= {
    "unspending": ("private", {"horizon": 90, "evaluate": {"points": 5, "batch": 500}}),
    "whispering": ("fed", {"horizon": 100, "evaluate": {"points": 5, "batch": 500}}),
    "buying": ("active", {"evaluate": {"points": 5, "batch": 500}}),
    "masking": ("robust", {"evaluate": {"points": 5, "batch": 500}}),
    "unmasking": ("clean", {"evaluate": {"points": 5, "batch": 500}}),
}
SENSING = ("matrix_sensing", {})


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


def table() -> list[Exploit]:
    """Return the rows of docs/rules.md that name a test."""
    rows = re.findall(
        r"^\| (.+) \| (\w+) (\w+) \| (.+) \| (.+) \|$", RULES.read_text(), re.MULTILINE
    )
    return [Exploit(*row) for row in rows]


def place(file: str, way: str) -> tuple[str, dict]:
    """Return the workload that an exploit is tried on, and the numbers that it changes."""
    return PLACES.get(f"{file} {way}") or PLACES.get(file) or SENSING


def planned(file: str, way: str, level: str, results: Path, seed=0, **hp):
    """Return a short trial of a file in tests/cheats."""
    name, more = place(file, way)
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

    @property
    def seconds(self) -> float:
        """Return the CPU seconds outside the passes and in set-up, before they are priced.

        Pricing them compares short passes with a reference step, which is noisy on a busy machine.
        """
        log = run_folder.evaluations(rows(self.outcome.folder / "log.jsonl"))
        return log[-1]["setup_seconds"] + sum(row["outside"] for row in log)

    def beyond(self, plain: "Seen") -> float:
        """Return the CPU seconds that this trial is charged beyond those of an honest one."""
        return max(self.reference - plain.reference, self.seconds - plain.seconds)


def run(trial) -> Seen:
    """Run a trial to its outcome."""
    outcome = referee.race(trial, Watcher())
    return Seen(outcome, (outcome.folder / "runner.log").read_text())


def forget(path: Path) -> None:
    """Remove files that a cheat has left outside its folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
