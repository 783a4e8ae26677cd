"""One trial as it was planned."""

from dataclasses import asdict, dataclass
from pathlib import Path

from harness.catalog import key, streams
from harness.catalog.definition import Definition
from harness.catalog.discover import Card
from harness.catalog.identity import RACE
from harness.clock import prices
from harness.records.judging import Terms

ISOLATION = ("process", "strict", "inline")
UNTIL = ("goal", "budget")


@dataclass(frozen=True)
class Trial:
    """One run of one submission with one hyperparameter point and one seed."""

    definition: Definition
    card: Card
    submission: str  # name or absolute path, as discover.find takes it
    hp: dict
    passes: dict
    horizon: int
    seed: int
    trial: int | None
    study: int
    engine: dict
    isolation: str
    table: prices.Table
    until: str
    source: str  # hash of the submission's code
    run_id: str
    folder: Path
    results: Path
    hopeless: bool = False  # may be ended early
    # of the workload's budget; self-tuning submissions are given 3
    share: float = 1
    point: str = ""  # where the hyperparameters come from, in words
    diagnose: bool = False  # measure the last weights, off the clock

    @property
    def ranks(self) -> int:
        """The number of processes that train."""
        return self.engine.get("processes", 1)

    @property
    def label(self) -> str:
        return f"{self.definition.name}/{self.card.plugin.name}"

    def describe(self) -> dict:
        """Return the trial as plain data, for config.yaml, the log's first row and run.json."""
        return {
            "run_id": self.run_id,
            "workload": self.definition.name,
            "scale": self.definition.scale,
            "variant": self.definition.variant,
            "track": self.definition.track,
            "workload_hash": self.definition.hash,
            "training_hash": self.definition.training_hash,
            "submission": self.card.plugin.name,
            "submission_hash": self.source,
            "hp": self.hp,
            "seed": self.seed,
            "trial": self.trial,
            "study": self.study,
            "horizon": self.horizon,
            "passes": self.passes,
            "goal": self.definition.block["goal"],
            "budget": self._budget(),
            "engine": self.engine,
            "isolation": self.isolation,
            "harness": RACE,
            "config": self.definition.block,
        } | self._particulars()

    def _particulars(self) -> dict:
        """Return what few trials have: a workload's own file, a referee's own key (its hash)."""
        known = {"workload_file": self.definition.place, "key": key.fingerprint()}
        return {name: value for name, value in known.items() if value}

    def _budget(self) -> dict:
        """Return the budget as a record has it: steps, and the share where it is not 1.

        `whole` is the workload's own budget where the share is not a whole number.
        """
        result: dict = {"steps": self.budget}
        if self.share != 1:
            result["factor"] = self.share
        if self.share != int(self.share):
            result["whole"] = self.definition.block["horizon"]
        return result

    @property
    def budget(self) -> int:
        """Reference steps that the trial may spend."""
        return steps_of(self.definition.block["horizon"], self.share)

    @property
    def terms(self) -> Terms:
        """The numbers that the trial is judged by."""
        return Terms(self.definition.block, self.horizon, self.budget, self.until)

    @property
    def slots(self) -> int:
        """How many sets of weights a hand-over holds at most."""
        return streams.slots(self.definition.block, self.grid)

    @property
    def grid(self) -> list[int]:
        """The steps at which the runner stops and is judged."""
        whole = self.definition.block["evaluate"]["points"]
        # As fine a grid at every share; a goal must hold at two evaluations in a row.
        points = max(round(whole * self.share), min(whole, 2))
        steps = evaluation_steps(self.horizon, points)
        return streams.grid(self.definition.block, steps)

    def message(self) -> dict:
        """Return the message that starts the runner; it has no goal, evaluation or price."""
        hidden = ("goal", "evaluate")
        block = {k: v for k, v in self.definition.block.items() if k not in hidden}
        return {
            "definition": asdict(self.definition) | {"block": block},
            "submission": self.submission,
            "hp": self.hp,
            "seed": self.seed,
            "horizon": self.horizon,
            "kinds": sorted(self.passes),
            "slots": self.slots,
            "engine": self.engine,
        }


def steps_of(steps: int, share: float) -> int:
    """Return a share of a number of steps, rounded, at least 1."""
    return max(1, round(steps * share))


def evaluation_steps(horizon: int, points: int) -> list[int]:
    """Return the steps of the evaluations: evenly spaced, the start and the horizon included."""
    return sorted({round(i * horizon / points) for i in range(points + 1)})
