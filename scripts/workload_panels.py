"""Panels of workloads' pictures: dictionaries, operators, obstacles, states, and streams' data.

A panel shows data that a trial gets. What the goal judges is drawn in the goal's colour.
"""

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.catalog.definition import load_workload
from harness.catalog.goal import primary
from harness.report.palette import GOAL, GOAL_LINE, GRID, INK, MUTED, PALE, RUN, SERIES
from harness.report.run.frame import bare, name_lines

SHOWN = 12  # images of a task
ROWS = 5  # tasks that are drawn of a stream that has more


# Workloads that are no stream


def dictionary(axes, data, definition) -> None:
    """Draw the atoms, some signals, and the same signals as sums of atoms."""
    truth = data["truth"][0]
    training = load_workload(definition).data(definition.config, "train", 0)
    signals = training["signals"][: len(truth)]
    parts = (truth, "atoms, a column each"), (signals, "signals, a row each")
    for place, (values, title) in zip(
        axes, (*parts, (signals @ truth, "their atoms")), strict=True
    ):
        bound = float(values.abs().quantile(0.99))
        place.imshow(
            values.numpy(), cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest"
        )
        place.set(title=title, xticks=[], yticks=[])
        for side in place.spines.values():
            side.set_color(GRID)


def operator(axes, data, definition) -> None:
    """Draw two trajectories, the smoothest and a steep one; the goal judges the last state."""
    states = data["states"].numpy()
    steep = np.abs(np.diff(states[:, -1], axis=1)).max(axis=1)
    x = (np.arange(states.shape[2]) + 0.5) / states.shape[2]
    for place, chosen in zip(axes, (steep.argmin(), steep.argmax()), strict=True):
        bare(place)
        for number, u in enumerate(states[chosen, :-1]):
            place.plot(x, u, color=PALE if number else RUN, linewidth=1.6 if not number else 0.9)
        place.plot(x, states[chosen, -1], color=GOAL, linewidth=1.6)
        place.set(xlabel="x", ylim=(-1.1, 1.1))
    axes[0].set(ylabel="u", title="held-out trajectory")
    axes[1].set(title="another")
    u = states[steep.argmax()]
    labels = [(u[0, -1], "t = 0", RUN), (u[5, -1], "between", MUTED)]
    name_lines(axes[1], [*labels, (u[-1, -1], "t = 1, judged", GOAL)], size=8, line=0.075)


def obstacle(axes, data, definition) -> None:
    """Draw the string over the obstacle, and its height over it with the goal's bound."""
    x, u, bump = (data[name].flatten().numpy() for name in ("points", "values", "bump"))
    for place in axes:
        bare(place)
        place.set_xlabel("x")
    axes[0].fill_between(x, bump, bump.min(), color=GRID, linewidth=0)
    axes[0].plot(x, u, color=RUN, linewidth=1.8)
    axes[0].set(ylim=(0, 1.15 * bump.max()), title="the string and the obstacle, seed 0")
    allowed = definition.block["goal"]["violation"]["at_most"]
    axes[1].plot(x, u - bump, color=RUN, linewidth=1.8)
    axes[1].axhline(-allowed, **GOAL_LINE)
    near = np.flatnonzero(u - bump < 0.02)
    axes[1].set(xlim=(x[near[0]], x[near[-1]]), ylim=(-2 * allowed, 0.02))
    axes[1].set_title("height over the obstacle")
    axes[1].xaxis.set_major_locator(MaxNLocator(4))
    labels = [(0.018, "u − ψ", RUN), (-allowed, f"goal: ≥ −{allowed:g}", GOAL)]
    name_lines(axes[1], labels, size=8, line=0.075)


def tracking(axes, data, definition) -> None:
    """Draw tokens over the sums that they lead to, and the sums over the whole length."""
    classes, end = definition.block["model"]["classes"], definition.block["data"]["length"]
    tokens = data["tokens"].long()
    sums = tokens.cumsum(dim=1) % classes
    count = 5
    axes[0].set(xlim=(-5, end), ylim=(3 * count - 1, -1))
    axes[0].set_axis_off()
    axes[0].set_title(f"first {end} tokens, and their sum modulo {classes}")
    for row in range(count):
        for line, values, colour, name in (
            (0, tokens, MUTED, "token"),
            (1, sums, INK, "sum"),
        ):
            height = 3 * row + line
            axes[0].text(-5, height, name, va="center", fontsize=7, color=colour)
            for place, value in enumerate(values[row, :end].tolist()):
                axes[0].text(
                    place + 0.5, height, str(value), ha="center", va="center", fontsize=7,
                    family="DejaVu Sans Mono", color=colour,
                )  # fmt: skip
    shades = ListedColormap(["#ffffff", RUN, *SERIES[1:]][:classes])
    whole = sums[:40].numpy()
    axes[1].imshow(whole, cmap=shades, aspect="auto", interpolation="nearest")
    axes[1].axvline(end - 0.5, color=GOAL, linewidth=2)
    axes[1].set(xlabel="position", yticks=[], xticks=[0, end, whole.shape[1] - 1])
    axes[1].set_xticklabels([1, end, whole.shape[1]])
    axes[1].set_title(f"sums of 40 sequences; judged after {end}", color=GOAL)
    axes[1].tick_params(length=0)


def memory(axes, data, definition) -> None:
    """Draw an input and what it must become, and the memory that does it."""
    x, y = (data[name][0].numpy() for name in ("inputs", "targets"))
    rho = load_workload(definition).memory(definition.config).numpy()
    for place in axes:
        bare(place)
    axes[0].plot(x, color=PALE, linewidth=1.2)
    axes[0].plot(y, color=GOAL, linewidth=1.8)
    axes[0].set(xlabel="step of time", title="a sequence, and what it must become")
    name_lines(axes[0], [(x[-1], "x", MUTED), (y[-1], "y, judged", GOAL)], size=8, line=0.075)
    axes[1].plot(rho, color=RUN, linewidth=1.8)
    axes[1].set(xlabel="steps ago", title="weight of the past", yscale="log")


# Streams without a recorded reference


def stream(definition, subplots) -> Figure:
    """Return the figure of a stream's data: its tasks, and what the goal reads."""
    data = load_workload(definition).data(
        definition.config, "train", *((0,) if "fields" in definition.block["model"] else ())
    )
    widths = [2.9, 3.6, 2.6] if "fields" in data else [6.4, 2.6]
    figure, axes = subplots(
        1, len(widths), figsize=(sum(widths) + 0.9 * len(widths), 3.6),
        width_ratios=widths, layout="constrained",
    )  # fmt: skip
    (_clicks if "fields" in data else _images)(axes[:-1], data, definition)
    _read(axes[-1], definition)
    return figure


def _images(axes, data, definition) -> None:
    """Draw a row of images for each task, or for some tasks, with the labels that they have."""
    tasks = definition.block["stream"]["tasks"]
    drawn = sorted({*range(ROWS - 2), tasks - 2, tasks - 1}) if tasks > ROWS else [*range(tasks)]
    steps = definition.block["stream"].get("lengths")
    steps = steps or [definition.block["horizon"] // tasks] * tasks
    place = axes[0]
    place.set(xlim=(-3.3, SHOWN), ylim=(len(drawn), 0), aspect="equal")
    place.set_axis_off()
    for row, task in enumerate(drawn):
        members = (data["group"] == task).nonzero()[:, 0]
        count = min(SHOWN, len(members))
        chosen = members[torch.arange(count) * len(members) // count]
        words = f"task {task + 1}\n{steps[task]} steps"
        place.text(-3.3, row + 0.5, words, va="center", fontsize=8, color=INK)
        for column, index in enumerate(chosen.tolist()):
            pixels = data["images"][index].view(28, 28).numpy()
            box = (column + 0.3, column + 0.96, row + 0.83, row + 0.17)
            place.imshow(pixels, cmap="gray_r", extent=box, interpolation="nearest")
            place.text(
                column + 0.16, row + 0.5, str(int(data["labels"][index])),
                ha="center", va="center", fontsize=8, color=RUN,
            )  # fmt: skip
    place.set(xlim=(-3.3, SHOWN), ylim=(len(drawn), 0))
    place.set_title("training images, each behind its label")


def _clicks(axes, data, definition) -> None:
    """Draw how alike the slices are, and the share of clicks of three categories over them."""
    tasks = definition.block["stream"]["tasks"]
    fields = data["fields"].shape[1]
    categories = definition.block["model"]["categories"]
    place = data["fields"].long() + categories * torch.arange(fields)
    cell = (data["group"][:, None] * fields * categories + place).flatten()
    size = tasks * fields * categories
    seen = torch.bincount(cell, minlength=size).clamp(min=1)
    clicked = torch.bincount(cell, data["clicks"].repeat_interleave(fields), minlength=size)
    share = (clicked / seen).view(tasks, fields * categories).numpy()
    alike = np.corrcoef(share)
    np.fill_diagonal(alike, np.nan)
    low, high = np.nanpercentile(alike, [1, 99])
    bounds = (0.5, tasks + 0.5, tasks + 0.5, 0.5)
    axes[0].imshow(alike, cmap="Blues", vmin=low, vmax=high, extent=bounds)
    axes[0].set(title="how alike two slices are", xlabel="slice", ylabel="slice")
    axes[0].tick_params(length=0)
    bare(axes[1])
    smooth = np.stack([share[max(0, i - 2) : i + 3].mean(axis=0) for i in range(tasks)])
    moved = np.argsort(-np.ptp(smooth, axis=0))
    labels = []
    for category, colour in zip(moved[:3], SERIES, strict=False):
        axes[1].plot(range(1, tasks + 1), smooth[:, category], color=colour, linewidth=1.6)
        name = f"field {category // categories + 1}, {category % categories + 1}"
        labels.append((smooth[-1, category], name, colour))
    axes[1].set(title="share of clicks of three categories", xlabel="slice", ylim=(0, None))
    name_lines(axes[1], labels, size=8, line=0.075)


def _read(axes, definition) -> None:
    """Mark which groups the goal judges, and after which task."""
    metric, _, target = primary(definition.block["goal"])
    tasks = definition.block["stream"]["tasks"]
    after, of = np.indices((tasks, tasks))
    where = {
        "last_learning": (after == of) & (of >= tasks - tasks // 4),
        "prequential": (after == of - 1) & (of >= tasks // 2),
    }.get(metric, after == tasks - 1)
    learnt = np.where(of <= after, 1.0, 0.0)
    shades = ListedColormap(["#ffffff", GRID, GOAL])
    shown = np.where(where, 2, learnt)
    bounds = (0.5, tasks + 0.5, tasks + 0.5, 0.5)
    axes.imshow(shown, cmap=shades, vmin=0, vmax=2, extent=bounds, interpolation="nearest")
    axes.set_title(f"judged: {metric.replace('_', ' ')}, {target:g}", color=GOAL)
    axes.set(xlabel="of task", ylabel="after task")
    if tasks <= 10:
        axes.set(xticks=range(1, tasks + 1), yticks=range(1, tasks + 1))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_color(GRID)
