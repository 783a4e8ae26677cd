"""How often the rule for hopeless trials would have ended a trial that reached its goal."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.records.hopeless import Curve, bound


@dataclass(frozen=True)
class Measured:
    """What the rule would have done to recorded trials.

    false: trials that reached the goal and would have been ended before; reached: all that reached.
    saved: share of all trials' steps that the rightly ended ones would not have spent.
    """

    reached: int
    false: int
    missed: int
    ended: int
    saved: float

    @property
    def rate(self) -> float:
        return self.false / self.reached if self.reached else 0.0

    @property
    def upper(self) -> float:
        """Upper end of the rate's one-sided 95 % interval (Clopper-Pearson)."""
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
        name: bound([c for other, _, c in trials if other != name], goal)
        for name in sorted({n for n, _, _ in trials})
    }
    for name, reached, curve in trials:
        counts["reached" if reached else "missed"] += 1
        spent += curve[-1][0]
        rule = bounds[name]
        ended = next(
            (curve[i][0] for i in range(1, len(curve)) if rule and rule.told(curve[: i + 1])), None
        )
        if ended is not None:
            counts["false" if reached else "ended"] += 1
            saved += 0.0 if reached else curve[-1][0] - ended
    return Measured(**counts, saved=saved / spent if spent else 0.0)
