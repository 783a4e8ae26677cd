"""Figures with a panel for each workload: times, the metric at a fixed budget, learning curves."""

import math
from collections.abc import Callable

from harness.report.board.curves import spans_decades
from harness.report.board.rows import Board, direction_of, metric_at
from harness.report.board.style import (
    COLOURS,
    MUTED,
    dots,
    named,
    palette,
    panels,
    plain,
    runs_of,
    shared_legend,
    shown,
)


def _dots(board: Board, value: Callable, guide: Callable, label: str, misses: bool):
    """A panel a workload: submissions down, the median over runs a dot, their range a line."""
    import pandas

    rows = shown(board)
    workloads = [
        w
        for w in board.workloads
        if any(value(w, run) is not None for row in rows for run in runs_of(row, w.key))
    ]
    if not workloads:
        return None
    figure, axes = panels(len(workloads), 2.5, 0.7 + 0.21 * len(rows), sharey=True)
    order = [plain(row.name) for row in rows]
    for axis, workload in zip(axes, workloads):
        data = [
            (plain(row.name), value(workload, run))
            for row in rows
            for run in runs_of(row, workload.key)
        ]
        frame = pandas.DataFrame(
            [d for d in data if d[1] is not None], columns=["submission", "value"]
        )
        missed = frame[frame.value.map(math.isinf)] if misses else frame[:0]
        met = frame.loc[~frame.submission.isin(missed.submission)]
        if len(met):
            dots(axis, met, order)
        else:
            axis.set_ylim(len(order) - 0.5, -0.5)
        if len(missed):
            tail = (
                frame[frame.submission.isin(missed.submission)]
                .groupby("submission")
                .value.agg(lambda v: f"{int(sum(map(math.isfinite, v)))}/{len(v)}")
            )
            for name, text in tail.items():
                axis.text(
                    0.98,
                    order.index(name),
                    f"{text} reached",
                    transform=axis.get_yaxis_transform(),
                    ha="right",
                    va="center",
                    fontsize=7,
                    color=MUTED,
                )
        at = guide(workload)
        if at is not None:
            axis.axvline(at, color=COLOURS[1], linewidth=1.1, dashes=(4, 2))
        axis.set(
            title=plain(workload.key),
            xlabel=label if misses else f"{direction_of(workload)[0]}",
            ylabel="",
        )
        axis.set_yticks(range(len(order)), order)
    return figure


def times(board: Board):
    """Time to the goal."""
    return _dots(board, lambda w, run: run.time, lambda w: w.time, "reference seconds", True)


def at_reference(board: Board):
    """The metric when the reference reaches the goal."""

    def value(workload, run):
        return (
            metric_at(run, workload.time)
            if workload.time
            else (run.record.get("final") or {}).get(direction_of(workload)[0])
        )

    return _dots(board, value, lambda w: direction_of(w)[2], "", False)


def curves(board: Board):
    """Learning curves."""
    import pandas
    import seaborn

    rows = shown(board)
    if not any(run.curve for row in rows for run in row.runs):
        return None
    figure, axes = panels(len(board.workloads), 2.7, 2.1)
    colours = palette(rows)
    for axis, workload in zip(axes, board.workloads):
        data = []
        for row in rows:
            runs = sorted(runs_of(row, workload.key), key=lambda run: run.time)
            for step, seconds, value in runs[len(runs) // 2].curve if runs else []:
                if value is not None and math.isfinite(value) and step:
                    data.append((seconds, value, plain(row.name)))
        metric, direction, target = direction_of(workload)
        frame = pandas.DataFrame(data, columns=["seconds", "value", "submission"])
        if len(frame):
            seaborn.lineplot(
                frame,
                x="seconds",
                y="value",
                hue="submission",
                palette=colours,
                ax=axis,
                linewidth=1.3,
                legend=axis is axes[0],
                estimator=None,
            )
            if spans_decades(list(frame.value), target):
                axis.set_yscale("log")
            else:
                axis.set_ylim(*_range(frame, target, direction))
        axis.axhline(target, color=COLOURS[1], linewidth=1.1, dashes=(4, 2))
        axis.set(
            title=plain(workload.key), xlabel="reference seconds", ylabel=metric.replace("_", " ")
        )
    shared_legend(figure, axes[0], named(rows))
    return figure


def _range(frame, target: float, direction: str) -> tuple[float, float]:
    """Ends of a panel's metric: its first values and the worst curves may leave the picture."""
    later = frame.value[frame.seconds >= 0.12 * frame.seconds.max()]
    margin = 0.08 * ((max(later.max(), target) - min(later.min(), target)) or 1)
    top = (
        min(later.max(), target + 4 * abs(later.quantile(0.5) - target) + margin)
        if direction == "at_most"
        else later.max()
    )
    return min(later.min(), target) - margin, max(top, target) + margin
