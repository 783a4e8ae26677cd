"""Read the evaluations of a stream, by task, from its log, for stream_metrics.py."""

from dataclasses import dataclass

from harness.catalog.goal import primary
from harness.catalog.streams import starts
from harness.records import run_folder


@dataclass(frozen=True)
class History:
    """The evaluations of a stream.

    Attributes:
        steps: the steps of the evaluations, from 0.
        groups: for each group its (index into steps, goodness) pairs; goodness is the quality, or
            minus the loss.
        ends: the last step of each task.
        sign: 1 if more quality is better, -1 for a loss.
        recurring: True if tasks return, so that no task ever ends.
    """

    steps: list[int]
    groups: list[list[tuple[int, float]]]
    ends: list[int]
    sign: float
    recurring: bool

    @property
    def whole(self) -> bool:
        """Return True if the stream was run to its end."""
        return bool(self.steps) and self.steps[-1] >= self.ends[-1]

    def at(self, group: int, step: int) -> float:
        """Return the goodness of a group at a step.

        Raises:
            KeyError: the group was not evaluated at that step.
        """
        for n, value in reversed(self.groups[group]):
            if self.steps[n] == step:
                return value
        raise KeyError(f"group {group} was not evaluated at step {step}")

    def after(self, group: int, first: int, last: int) -> list[tuple[int, float]]:
        """Return (step, goodness) of a group's evaluations with first < step <= last."""
        points = ((self.steps[n], v) for n, v in self.groups[group])
        return [(n, v) for n, v in points if first < n <= last]

    def tasks_begun(self, step: int) -> int:
        """Return the number of tasks that training has begun after `step` steps."""
        return 1 + sum(end < step for end in self.ends[:-1])


def history(block: dict, rows: list[dict]) -> History:
    """Return the evaluations in the rows of a log: `tasks` and `trace` of the rows that count."""
    tasks_by_step: dict[int, list[list]] = {}
    for row in run_folder.valid_rows(rows):
        tasks_by_step.update(row.get("trace", ()))
        if "tasks" in row:
            tasks_by_step[row["step"]] = row["tasks"]
    steps, sign = sorted(tasks_by_step), -1.0 if primary(block["goal"])[1] == "at_most" else 1.0
    groups: list[list[tuple[int, float]]] = [
        [] for _ in max(tasks_by_step.values(), key=len, default=[])
    ]
    for n, step in enumerate(steps):
        for points, (total, count) in zip(groups, tasks_by_step[step]):
            points.append((n, sign * total / count))
    ends = [*starts(block), block["horizon"]][1:]
    return History(steps, groups, ends, sign, block["stream"]["recurring"])
