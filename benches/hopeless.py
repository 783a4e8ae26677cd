"""How often the rule for hopeless trials would have ended a trial that reached its goal.

    python benches/hopeless.py results

By workload version: how often the rule would be wrong, and what it would save. Workloads that it
leaves alone, those whose goals have several conditions, are left out.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.records.collect import collect
from harness.records.hopeless import COUNTED, Curve, bound, shares
from harness.records.run import RecordedRun

# share of trials that reach their goal and may be ended
ALLOWED = 0.01
HEADINGS = ("reached", "ended wrongly", "missed", "ended early", "steps saved")


@dataclass(frozen=True)
class Measured:
    """What the rule would have done to recorded trials.

    Attributes:
        reached: trials that reached the goal.
        false: those of them that the rule would have ended before.
        missed: trials that missed the goal.
        ended: those of them that the rule would have ended before.
        saved: share of all trials' steps that the ended ones of `missed` would not have made.
    """

    reached: int
    false: int
    missed: int
    ended: int
    saved: float

    @property
    def rate(self) -> float:
        """Return the share of the trials that reached the goal that would have been ended."""
        return self.false / self.reached if self.reached else 0.0

    @property
    def upper(self) -> float:
        """Return the upper end of the rate's one-sided 95 % interval (Clopper-Pearson)."""
        from scipy.stats import beta

        return (
            float(beta.ppf(0.95, self.false + 1, self.reached - self.false))
            if self.false < self.reached
            else 1.0
        )


def measure(trials: Sequence[tuple[str, bool, Curve]], goal: dict) -> Measured:
    """Apply the rule to finished trials (submission, reached, curve) of one workload version."""
    spent = saved = 0.0
    counts = dict.fromkeys(("reached", "false", "missed", "ended"), 0)
    bounds = {
        name: bound([curve_of_other for owner, _, curve_of_other in trials if owner != name], goal)
        for name in sorted({name_of_other for name_of_other, _, _ in trials})
    }
    for name, reached, curve in trials:
        counts["reached" if reached else "missed"] += 1
        spent += curve[-1][0]
        rule = bounds[name]
        ended = next(
            (curve[i][0] for i in range(1, len(curve)) if rule and rule.reason(curve[: i + 1])),
            None,
        )
        if ended is not None:
            counts["false" if reached else "ended"] += 1
            saved += 0.0 if reached else curve[-1][0] - ended
    return Measured(**counts, saved=saved / spent if spent else 0.0)


def versions(runs: Sequence[RecordedRun]) -> Iterator[tuple[str, list[RecordedRun]]]:
    """Return the counted runs of each workload version whose goal has one condition."""
    groups: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in runs:
        record = run.record
        if record["outcome"] in COUNTED and run.curve and len(record["goal"]) == 1:
            groups.setdefault((run.key, record["workload_hash"]), []).append(run)
    for (key, version), group in sorted(groups.items()):
        yield f"{key} ({version[:8]})", group


def measured(runs: Sequence[RecordedRun]) -> Measured:
    """Apply the rule to the runs of one workload version."""
    trials = [
        (
            run.record["submission"],
            run.record["outcome"] == "reached",
            shares(run.curve, run.record["horizon"]),
        )
        for run in runs
    ]
    return measure(trials, runs[0].record["goal"])


def main(folders: list[str]) -> int:
    """Print the table; return 1 where the rule would be wrong too often."""
    rows = [(name, measured(runs)) for name, runs in versions(collect(folders or ["results"]).runs)]
    print(f"{'workload':36}" + "".join(f" {heading:>13}" for heading in HEADINGS))
    for name, m in rows:
        counts = "".join(f" {count:13}" for count in (m.reached, m.false, m.missed, m.ended))
        print(f"{name:36}{counts} {m.saved:13.0%}")
    totals = [sum(getattr(m, key) for _, m in rows) for key in ("reached", "false")]
    every = Measured(*totals, missed=0, ended=0, saved=0.0)
    print(
        f"false endings: {every.false} of {every.reached} trials that reached their goal: "
        f"{every.rate:.2%} (at most {every.upper:.2%} with 95 % confidence)"
    )
    return 0 if every.rate <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
