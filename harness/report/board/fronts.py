"""Figures of constraints and streams: Pareto fronts, stability gaps, matrices of tasks."""

import math

from harness.report.board.rows import CONSTRAINED, Board, direction_of
from harness.report.board.style import (
    COLOURS,
    INK,
    MUTED,
    named,
    palette,
    panels,
    plain,
    runs_of,
    shared_legend,
    shown,
)

PANELS = 12  # of streams
STREAM_METRICS = (
    "average",
    "learning",
    "anytime",
    "forgetting",
    "minimum",
    "worst_case",
    "gap_depth",
    "gap_recovery",
)


def pareto(board: Board):
    """The goal's metric against each of its constraints: every run, the front of the unbeaten."""
    import pandas
    import seaborn

    pairs = (
        [(w, name) for w in board.workloads for name in list(w.goal)[1:]]
        if board.track.startswith(CONSTRAINED)
        else []
    )
    rows, data = shown(board), []
    for workload, name in pairs:
        metric = direction_of(workload)[0]
        finals = [
            (run.record.get("final") or {}, plain(row.name))
            for row in rows
            if workload.key in row.choices
            for run in (*runs_of(row, workload.key), *row.choices[workload.key].tuning)
        ]
        points = [
            (f[name], f[metric], who)
            for f, who in finals
            if all(
                isinstance(f.get(k), int | float) and math.isfinite(f[k]) for k in (name, metric)
            )
        ]
        if points:
            data.append((workload, name, points))
    if not data:
        return None
    figure, axes = panels(len(data), 3.2, 2.6, columns=3)
    for axis, (workload, name, points) in zip(axes, data):
        metric, direction, target = direction_of(workload)
        rule, bound = next(iter(workload.goal[name].items()))
        seaborn.scatterplot(
            pandas.DataFrame(points, columns=["x", "y", "submission"]),
            x="x",
            y="y",
            hue="submission",
            palette=palette(rows),
            ax=axis,
            s=22,
            legend=axis is axes[0],
        )
        line = front([(x, y) for x, y, _ in points], rule == "at_most", direction == "at_most")
        axis.plot(
            *zip(*line),
            color=INK,
            linewidth=1,
            drawstyle="steps-post" if rule == "at_most" else "steps-pre",
            zorder=1,
        )
        axis.axvline(bound, color=COLOURS[1], linewidth=1, dashes=(4, 2))
        axis.axhline(target, color=COLOURS[1], linewidth=1, dashes=(4, 2))
        axis.set(
            title=plain(workload.key),
            xlabel=name.replace("_", " "),
            ylabel=metric.replace("_", " "),
        )
    shared_legend(figure, axes[0], named(rows))
    return figure


def front(
    points: list[tuple[float, float]], small_x: bool, small_y: bool
) -> list[tuple[float, float]]:
    """The points that no other beats in both coordinates, by the first."""
    kept, best = [], math.inf
    for x, y in sorted(
        set(points), key=lambda p: (p[0] if small_x else -p[0], p[1] if small_y else -p[1])
    ):
        if (y if small_y else -y) < best:
            kept.append((x, y))
            best = y if small_y else -y
    return sorted(kept)


def _stream_runs(board: Board) -> list[tuple]:
    """(workload, row, stream of its median run) for the first rows of the board, at most PANELS."""
    found = []
    for workload in board.workloads:
        for row in shown(board):
            runs = [
                run
                for run in sorted(runs_of(row, workload.key), key=lambda run: run.time)
                if run.record.get("stream")
            ]
            if runs:
                found.append((workload, row, runs[len(runs) // 2].record["stream"]))
    each = max(1, PANELS // max(1, len({w.key for w, _, _ in found})))
    return [f for f in found if [g for g in found if g[0] is f[0]].index(f) < each][:PANELS]


def streams(board: Board):
    """Metrics of streams by their definitions, a panel each; accuracies and losses apart."""
    import pandas
    import seaborn

    rows, data = shown(board), []
    for workload in board.workloads:
        quality = direction_of(workload)[0]
        for row in rows:
            for run in runs_of(row, workload.key):
                told = (run.record.get("continual") or {}).get("strict") or {}
                data += [
                    (plain(workload.key), (quality, i), told[m]["value"], plain(row.name))
                    for i, m in enumerate(STREAM_METRICS)
                    if "value" in told.get(m, {})
                ]
    found = sorted({place for _, place, _, _ in data})
    if not found:
        return None
    frame = pandas.DataFrame(data, columns=["workload", "panel", "value", "submission"])
    keys = sorted(set(frame.workload))
    colours = dict(zip(keys, COLOURS * len(keys)))
    figure, axes = panels(len(found), 2.5, 0.7 + 0.3 * len(rows), sharey=True)
    for axis, (quality, i) in zip(axes, found):
        seaborn.pointplot(
            frame.loc[frame.panel == (quality, i)],
            x="value",
            y="submission",
            hue="workload",
            order=[plain(r.name) for r in rows],
            hue_order=keys,
            palette=colours,
            estimator="median",
            errorbar=("pi", 100),
            linestyle="none",
            dodge=0.5 if len(keys) > 1 else False,  # type: ignore
            ax=axis,
            legend=axis is axes[0],
            markersize=3.5,
            err_kws={"linewidth": 1.5},
        )
        axis.set(title=quality, xlabel=STREAM_METRICS[i].replace("_", " "), ylabel="")
    shared_legend(figure, axes[0], keys)
    return figure


def gaps(board: Board):
    """What is known of each task as the stream goes on; a fall after a switch is a gap."""
    import pandas
    import seaborn

    found = _stream_runs(board)
    if not found:
        return None
    figure, axes = panels(len(found), 2.7, 1.9, columns=4)
    for axis, (workload, row, stream) in zip(axes, found):
        data = [
            (step, value, i + 1)
            for i, points in enumerate(stream["groups"])
            for step, value in points
            if value is not None
        ]
        frame = pandas.DataFrame(data, columns=["step", "value", "task"])
        tasks = max(1, len(stream["groups"]))
        whole = frame.task.nunique() == tasks
        seaborn.lineplot(
            frame,
            x="step",
            y="value",
            hue="task",
            palette=seaborn.color_palette("crest", tasks) if whole else "crest",
            ax=axis,
            linewidth=1.2,
            legend=False,
            estimator=None,
        )
        for end in stream["ends"][:-1]:
            axis.axvline(end, color=MUTED, linewidth=0.7, dashes=(2, 2))
        axis.set(
            title=plain(f"{row.name}, {workload.key.split('.')[0]}"),
            xlabel="step",
            ylabel=direction_of(workload)[0].replace("_", " "),
        )
    return figure


def matrices(board: Board):
    """Quality on each task (columns) after training on each (rows)."""
    import numpy
    import seaborn

    found = _stream_runs(board)
    if not found:
        return None
    figure, axes = panels(len(found), 2.7, 2.3, columns=4)
    for axis in axes:
        axis.set_visible(False)  # a heatmap draws all that is there, to see how wide its ticks are
    figure.set_layout_engine("none")
    for axis, (workload, row, stream) in zip(axes, found):
        axis.set_visible(True)
        at = [dict(map(tuple, points)) for points in stream["groups"]]
        values = numpy.array(
            [
                [math.nan if at_i.get(end) is None else at_i[end] for at_i in at]
                for end in stream["ends"]
            ],
            float,
        )
        colours = seaborn.color_palette(
            "crest_r" if direction_of(workload)[1] == "at_most" else "crest", as_cmap=True
        )
        seaborn.heatmap(
            values,
            annot=values.size <= 40,
            fmt=".2g",
            cmap=colours,
            cbar=False,
            linewidths=1,
            linecolor="none",
            ax=axis,
            annot_kws={"fontsize": 7},
        )
        ticks = range(1, len(stream["ends"]) + 1)
        axis.set_yticks([i - 0.5 for i in ticks], ticks)
        axis.set(
            title=plain(f"{row.name}, {workload.key.split('.')[0]}"),
            xlabel="task",
            ylabel="after task",
        )
        axis.set_visible(False)
    for axis in axes:
        axis.set_visible(True)
    figure.set_layout_engine("constrained")
    return figure
