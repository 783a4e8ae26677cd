"""The evaluations of a stream, by task, as its log has them: input of stream_metrics.py."""

from dataclasses import dataclass

from harness.catalog.goal import primary
from harness.catalog.streams import starts
from harness.records import run_folder


@dataclass(frozen=True)
class History:
    """A stream's evaluations.

    Attributes:
        steps: of the evaluations, from 0.
        groups: for each group its (index into steps, goodness) pairs; goodness is quality, or minus
            the loss.
        ends: the last step of each task.
        sign: 1 where more quality is better, -1 for a loss.
        recurring: tasks come back, so that no group is ever over.
    """

    steps: list[int]
    groups: list[list[tuple[int, float]]]
    ends: list[int]
    sign: float
    recurring: bool

    @property
    def whole(self) -> bool:
        return bool(self.steps) and self.steps[-1] >= self.ends[-1]

    def at(self, group: int, step: int) -> float:
        """Goodness of a group at a step; KeyError where it was not looked at."""
        return next(v for n, v in reversed(self.groups[group]) if self.steps[n] == step)

    def after(self, group: int, first: int, last: int) -> list[tuple[int, float]]:
        """(step, goodness) of a group with first < step <= last."""
        points = ((self.steps[n], v) for n, v in self.groups[group])
        return [(n, v) for n, v in points if first < n <= last]

    def seen(self, step: int) -> int:
        """Number of tasks that training has touched after `step` steps."""
        return sum(end - self.ends[0] < step for end in self.ends) or 1


def history(block: dict, rows: list[dict]) -> History:
    """The evaluations in the rows of a log (`tasks` and `trace` of the rows that count)."""
    found: dict[int, list[list]] = {}
    for row in run_folder.valid_rows(rows):
        found.update(row.get("trace", ()))
        if "tasks" in row:
            found[row["step"]] = row["tasks"]
    steps, sign = sorted(found), -1.0 if primary(block["goal"])[1] == "at_most" else 1.0
    groups: list[list[tuple[int, float]]] = [[] for _ in max(found.values(), key=len, default=[])]
    for n, step in enumerate(steps):
        for points, (total, count) in zip(groups, found[step]):
            points.append((n, sign * total / count))
    first = [*starts(block), block["horizon"]][1:]
    return History(steps, groups, first, sign, block["stream"]["recurring"])
