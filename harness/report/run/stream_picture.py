"""Draw a stream: each task's quality after every step, with the losses after each switch shaded."""

from pathlib import Path

from harness.catalog.goal import primary
from harness.records.stream_history import History, history
from harness.report.palette import GOAL, GOAL_LINE, INK, MUTED, PALE, SERIES
from harness.report.run.frame import frame
from harness.report.run.text import number


def draw(block: dict, rows: list[dict], metrics: dict, path: Path | str, title: str) -> None:
    """Write a PNG of every task's quality against steps.

    Args:
        block: the workload's numbers.
        rows: the rows of the run's log.
        metrics: one convention of `stream_metrics.report`.
        path: the file, replaced as a whole.
        title: for example "stream_split.mini  er, seed 0".
    """
    past, (name, _, target) = history(block, rows), primary(block["goal"])
    with frame(path, title, _sentence(metrics)) as (axes, labels):
        if name == "last_learning":
            by_task(axes, past, labels)
        else:
            curves(axes, past, labels)
            axes.set_xlim(0, block["horizon"])
            axes.set_xlabel("steps")
        axes.axhline(target, **GOAL_LINE, zorder=2)
        labels.append((target, f"target {number(target)}", GOAL))
        axes.set_ylabel(name.replace("_", " "))


def by_task(axes, past: History, labels: list) -> None:
    """Draw how well each task was known at its own end, against its number."""
    over = [i for i, end in enumerate(past.ends) if end <= past.steps[-1]]
    values = [past.sign * past.at(i, past.ends[i]) for i in over]
    axes.plot([i + 1 for i in over], values, color=INK, linewidth=1.8, marker="o", markersize=3)
    axes.set_xlim(0, len(past.ends) + 1)
    axes.set_xlabel("number of the task")
    if values:
        labels.append((values[-1], f"at its end  {number(values[-1])}", INK))


def curves(axes, past: History, labels: list) -> None:
    """Draw every task's quality and their mean; append the names of the lines to `labels`.

    Tasks that come back, or are more than the colours, are pale and without a name.
    """
    many = past.recurring or len(past.groups) > len(SERIES)
    for i, points in enumerate(past.groups):
        steps = [past.steps[n] for n, _ in points]
        values = [past.sign * value for _, value in points]
        if many:
            axes.plot(steps, values, color=PALE, linewidth=0.9, zorder=3)
            continue
        axes.plot(steps, values, color=SERIES[i], linewidth=1.3, zorder=3)
        _gaps(axes, past, i, SERIES[i])
        if values:
            labels.append((values[-1], f"task {i + 1}  {number(values[-1])}", SERIES[i]))
    means = [(past.steps[n], value) for n, value in _means(past)]
    axes.plot(*zip(*means, strict=True), color=INK, linewidth=2.2, zorder=4)
    labels.append((means[-1][1], f"mean  {number(means[-1][1])}", INK))
    for end in () if past.recurring else past.ends[:-1]:
        axes.axvline(end, color=MUTED, linewidth=0.8, alpha=0.6, zorder=1)


def _gaps(axes, past: History, task: int, colour: str) -> None:
    """Shade the loss of a task after each switch: its value before minus its value now."""
    for end, following in zip(past.ends[task:], past.ends[task + 1 :], strict=False):
        points = past.after(task, end, following)
        if not points or past.steps[-1] < end:
            return
        before = past.at(task, end)
        steps = [end, *(n for n, _ in points)]
        lower = [before, *(min(v, before) for _, v in points)]
        level = [past.sign * before] * len(steps)
        axes.fill_between(
            steps, level, [past.sign * v for v in lower], color=colour, alpha=0.10, linewidth=0
        )


def _means(past: History) -> list[tuple[int, float]]:
    """Return (index into steps, mean over the tasks seen by then) for each step."""
    known, means = [dict(points) for points in past.groups], []
    for n, step in enumerate(past.steps):
        count = len(known) if past.recurring else past.tasks_begun(step)
        means.append((n, past.sign * sum(values[n] for values in known[:count]) / count))
    return means


def _sentence(metrics: dict) -> str:
    """Return forgetting, the worst case and the gaps of a stream in one line."""
    shown = (
        ("forgetting", "forgetting"),
        ("worst_case", "worst case"),
        ("gap_depth", "gap depth"),
        ("gap_recovery", "recovery"),
        ("fall_10", "fall within 10 evaluations"),
    )
    parts = []
    for key, words in shown:
        value = metrics[key].get("value")
        if value is not None:
            unit = " steps" if key == "gap_recovery" else ""
            parts.append(f"{words} {number(value)}{unit}")
    return "; ".join(parts)
