"""What a leaderboard is made of: workloads, rows of submissions, boards."""

import math
from dataclasses import dataclass, field

from harness.catalog.goal import primary
from harness.records.run import RecordedRun
from harness.report.board import score
from harness.report.board.cells import Choice
from harness.report.board.stats import Cell

# of tracks in which each variant is another constraint: a race apart
CONSTRAINED = ("finetune", "compress")


@dataclass
class Workload:
    """One workload version of a board; `core` ones alone count, where a board has any.

    Attributes:
        measured: the reference's time by its records, interpolated; None if they are not known.
    """

    key: str
    hash: str
    reference: dict | None
    goal: dict
    core: bool = False
    measured: float | None = None

    @property
    def time(self) -> float | None:
        """The reference's time: by its records, else as it was frozen."""
        return self.measured or (self.reference["time"] if self.reference else None)


@dataclass(frozen=True)
class Robust:
    """How a submission does on the variants of workloads that count, at the points it was given.

    Attributes:
        met: variants whose goal its median seed reached, of those that were raced.
        slower: geometric mean over these of its time over that on the base; None without one.
    """

    met: int
    raced: int
    slower: float | None

    def __str__(self) -> str:
        """Return "5/6, 1.10×", or "0/6"."""
        return f"{self.met}/{self.raced}" + (f", {self.slower:.2f}×" if self.slower else "")


def robust(choices: dict[str, Choice], bases: set[str]) -> Robust | None:
    """Return how a row does on variants (BASE.VARIANT) of `bases`; None if none was raced."""
    met, raced, logs = 0, 0, []
    for key, choice in choices.items():
        base = key.rpartition(".")[0]
        if base not in bases or "@" in key:
            continue
        raced, met = raced + 1, met + choice.cell.met
        if choice.cell.met and base in choices and choices[base].cell.met:
            logs.append(math.log(choice.cell.time / choices[base].cell.time))
    slower = math.exp(sum(logs) / len(logs)) if logs else None
    return Robust(met, raced, slower) if raced else None


@dataclass
class Row:
    """One submission on one board.

    Columns about a row as a whole are computed from `counted`: its cells on the workloads that make
    the headline or, if it has none of these, all its cells.
    """

    name: str
    source: str
    summary: str
    arxiv: str | None
    family: str
    badge: str | None
    choices: dict[str, Choice]
    counted: dict[str, Choice] = field(default_factory=dict)
    headline: score.Headline | None = None
    algoperf: float | None = None
    rank: tuple[int, int] | None = None
    robust: Robust | None = None
    marks: list[str] = field(default_factory=list)

    @property
    def cells(self) -> dict[str, Cell]:
        return {key: choice.cell for key, choice in self.choices.items()}

    @property
    def runs(self) -> list[RecordedRun]:
        return [run for choice in self.choices.values() for run in choice.runs]

    @property
    def counting(self) -> list[RecordedRun]:
        """The runs that `counted` rests on."""
        return [run for choice in self.counted.values() for run in choice.runs]

    @property
    def n(self) -> int:
        """The smallest number of seeds (or studies) that a workload rests on."""
        return min(choice.cell.n for choice in self.counted.values())

    @property
    def reached(self) -> int:
        return sum(choice.cell.met for choice in self.counted.values())

    @property
    def trials(self) -> int:
        """Tuning trials per workload, at most."""
        return max(len(choice.tuning) for choice in self.counted.values())

    @property
    def memory(self) -> int | None:
        """Bytes of optimizer state, at most over its runs."""
        return max(
            (run.record["state_bytes"] for run in self.counting if run.record.get("state_bytes")),
            default=None,
        )

    @property
    def steps(self) -> float | None:
        """Geometric mean over workloads of the median steps to the goal, by the budget."""
        shares = []
        for choice in self.counted.values():
            taken = sorted(
                run.record["crossing"]["step"] / run.whole_budget
                for run in choice.runs
                if run.record.get("crossing") and math.isfinite(run.time)
            )
            if taken and len(taken) * 2 > len(choice.runs):
                shares.append(math.log(taken[len(taken) // 2]))
        return math.exp(sum(shares) / len(shares)) if shares else None

    def rank_text(self) -> str:
        """ "3" where the intervals support it, "3–5" for a tie, "–" without a rank."""
        if self.rank is None:
            return "–"
        best, worst = self.rank
        return str(best) if best == worst else f"{best}–{worst}"


@dataclass
class Board:
    """A track at a scale; of fine-tuning and compression, one constraint of it.

    Attributes:
        track: as pages and files call it: `train`, `finetune-trainable_10`, ...
        constraint: the variant that all its workloads are of, or "".
        own: ids of the runs that were read from run folders, not from compact files.
    """

    track: str
    scale: str
    constraint: str
    workloads: list[Workload]
    rows: list[Row]
    compared: dict[tuple[str, str], score.Comparison]
    own: frozenset[str] = frozenset()

    @property
    def mains(self) -> list[Workload]:
        """The workloads that are not a variant or another horizon of one here."""
        whole = [w for w in self.workloads if "@" not in w.key]
        return [w for w in whole if self.constraint or w.key.count(".") == 1]

    @property
    def bases(self) -> list[Workload]:
        """The workloads that make the headline: the core of the mains, or else all of them."""
        return [w for w in self.mains if w.core] or self.mains

    @property
    def without_reference(self) -> list[Workload]:
        """The workloads that have no frozen reference; other horizons never have one."""
        return [w for w in self.workloads if not w.time and "@" not in w.key]

    @property
    def references(self) -> dict[str, float]:
        """Reference times of the workloads that make the headline."""
        return {w.key: w.time for w in self.bases if w.time}


def metric_at(run: RecordedRun, seconds: float) -> float | None:
    """Return the last finite value of the goal's metric at or before `seconds`."""
    values = [
        value
        for _, at, value in run.curve
        if at <= seconds and value is not None and math.isfinite(value)
    ]
    return values[-1] if values else None


def direction_of(workload: Workload) -> tuple[str, str, float]:
    return primary(workload.goal)
