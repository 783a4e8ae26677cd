"""Draw the picture of each workload's page: its data at the first scale, and its reference's curve.

Images, text, matrices and solutions are those that a trial gets. A stream's picture is drawn from
the board's record of its reference submission, or shows its data where it has no reference. Some
panels are in scripts/workload_panels.py. Colours are reduced to a palette, in which those of
the goal and of the curves are kept, so that a picture is small.
"""

from io import BytesIO

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from PIL import Image

from harness.catalog import discover
from harness.catalog.definition import define, load_workload, tree_of
from harness.catalog.goal import primary
from harness.errors import UserError
from harness.records.collect import collect
from harness.records.references import reference
from harness.report.palette import (
    GOAL,
    GOAL_LINE,
    GRID,
    INK,
    MUTED,
    PALE,
    REFERENCE,
    RUN,
    SERIES,
    spans_decades,
)
from harness.report.run.frame import STYLE, bare, name_lines
from harness.report.run.picture import curve
from harness.report.run.text import number
from harness.system.files import atomic_write
from scripts import workload_panels as panels

PAGES = discover.ROOT / "docs" / "workloads"
DOTS_PER_INCH, PALETTE = 200, 64
KEPT = (GOAL, REFERENCE, INK, MUTED, GRID, PALE, *SERIES, "#ffffff")  # colours that stay exact
TINTS = ("#dbeafe", "#fde68a", "#d1fae5", "#fbcfe8")  # of tokens, in turn


def draw(name: str) -> str:
    """Write docs/workloads/NAME.png; return one line that says how large it is."""
    tree = tree_of(name)
    first = next(key for key, value in tree.items() if isinstance(value, dict))
    definition = define(name, tree, first, None)
    pyplot.rcdefaults()
    pyplot.rcParams.update(STYLE | {"font.size": 9, "axes.titlesize": 9.5})
    if "stream" not in definition.block:
        figure = _sample(definition)
    elif reference(definition):
        figure = _stream(definition)
    else:
        figure = panels.stream(definition, pyplot.subplots)
    path = PAGES / f"{name}.png"
    atomic_write(path, _small(figure))
    pyplot.close(figure)
    return f"{name}: {path.stat().st_size / 1000:.0f} kB"


def _small(figure: Figure) -> bytes:
    """Return the figure as a PNG of few colours, the goal's and the curves' among them."""
    paper, small = BytesIO(), BytesIO()
    figure.savefig(paper, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    picture = Image.open(paper).convert("RGB")
    found = picture.quantize(PALETTE, dither=Image.Dither.NONE).getpalette() or []
    exact = [int(colour[i : i + 2], 16) for colour in KEPT for i in (1, 3, 5)]
    colours = exact + found[: 3 * PALETTE]
    shades = Image.new("P", (1, 1))
    shades.putpalette(colours + colours[:3] * (256 - len(colours) // 3))
    reduced = picture.quantize(palette=shades, dither=Image.Dither.NONE)
    # Pillow's nearest colour is approximate: what is exact stays exact.
    pixels, places = np.asarray(picture), np.array(reduced)
    for i in range(len(KEPT)):
        places[(pixels == exact[3 * i : 3 * i + 3]).all(axis=-1)] = i
    picture = Image.frombytes("P", reduced.size, places.tobytes())
    picture.putpalette(shades.getpalette() or [])
    picture.save(small, "png", optimize=True)
    return small.getvalue()


# Data, and the reference's curve beside it


def _sample(definition) -> Figure:
    module, block = load_workload(definition), definition.block
    drawn = (0,) if _drawn(definition) else ()
    data = module.data(definition.config, "val", *drawn)
    frozen = reference(definition)
    kinds = {"images": _images, "windows": _text, "length": panels.tracking, "tokens": _topics}
    kinds |= {"truth": _matrix, "bump": panels.obstacle, "values": _solution, "solution": _game}
    kinds |= {"inputs": _points, "states": panels.operator}
    kind = next(kind for key, kind in kinds.items() if key in data)
    kind = panels.dictionary if "atoms" in block["data"] else kind
    kind = panels.memory if definition.name == "state_memory" else kind
    own = {
        _images: (4.0,),
        _matrix: (2.7, 2.7),
        _game: (2.7, 2.7),
        _solution: (3.4, 2.8),
        _points: (4.0,),
        panels.dictionary: (2.7, 2.7, 2.7),
        panels.operator: (3.0, 3.0),
        panels.obstacle: (3.2, 3.2),
        panels.tracking: (5.2, 3.6),
        panels.memory: (4.2, 2.8),
    }.get(kind, (5.2,))
    widths = [*own, 3.2] if frozen else [*own]
    figure, axes = pyplot.subplots(
        1,
        len(widths),
        figsize=(sum(widths) + 0.9 * (len(widths) - 1), 3.1),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    kind(axes[0, : len(own)], data, definition)
    if frozen:
        _curve(axes[0, -1], frozen, block["goal"])
    return figure


def _drawn(definition) -> bool:
    """Return True if each trial's seed draws a problem of its own."""
    return "seed" in discover.functions(discover.find_workload(definition.name))["data"]


def _curve(axes, frozen: dict, goal: dict) -> None:
    """Draw the reference's first metric against reference seconds, and the target."""
    metric, direction, target = primary(goal)
    points, crossing = curve(frozen["curve"], goal)
    x, y = zip(*points, strict=True)
    bare(axes)
    axes.plot(x, y, color=REFERENCE, linewidth=2)
    axes.axhline(target, **GOAL_LINE)
    if spans_decades([*y, target], direction):
        _powers(axes)
    if crossing:
        axes.plot(*crossing, "o", color=GOAL, ms=6, clip_on=False)
    axes.set_title(f"reference: {frozen['submission']}; target {target:g}", color=INK)
    axes.set_xlabel("reference seconds")
    axes.set_ylabel(metric.replace("_", " "))


def _powers(axes) -> None:
    """Make the vertical axis logarithmic, with ticks at powers of ten alone."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())


def _images(axes, data, definition) -> None:
    """Draw ten classes, a row each."""
    pixels, labels = data["images"], data["labels"]
    sheet = np.concatenate(
        [
            np.concatenate(list(pixels[labels == c][:12].reshape(-1, 28, 28).numpy()), axis=1)
            for c in range(10)
        ]
    )
    low, high = np.percentile(sheet, [0, 99.5])
    axes[0].imshow(sheet, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
    axes[0].set_axis_off()


def _text(axes, data, definition) -> None:
    """Draw the first validation windows, each from a new line, each token on a tint of its own.

    Letters of several tokens are drawn as one.
    """
    encoder, wide, high = _encoder(definition), 62, 12
    axes[0].set(xlim=(0, wide), ylim=(high, -0.2))
    axes[0].set_axis_off()
    row = -1
    for window in data["windows"][:6].tolist():
        column, row, held = 0, row + 1, []
        for n, token in enumerate(window[:-1]):
            held.append(token)
            piece = "¶" if token == encoder.separator else encoder.tokenizer.decode(held)
            if piece.endswith("\ufffd"):
                continue
            shown, held = piece.replace("\n", "↵"), []
            if column + len(shown) > wide:
                column, row = 0, row + 1
            if row >= high:
                return
            _token(axes[0], column, row, shown, TINTS[n % len(TINTS)])
            column += len(shown)


def _topics(axes, data, definition) -> None:
    """Draw the first article of every topic: the topic, and its first pieces of words."""
    from workloads.ft_minilm import TOPICS
    from workloads.pretrain import minilm

    pieces, wide, margin = minilm.tokenizer(), 62, 20
    axes[0].set(xlim=(0, wide), ylim=(len(TOPICS), -0.2))
    axes[0].set_axis_off()
    for row, topic in enumerate(TOPICS):
        axes[0].text(0, row + 0.46, topic, va="center", fontsize=8, color=INK)
        example, column = data["tokens"][data["labels"] == row][0], margin
        for n, token in enumerate(example.tolist()[1:]):
            shown = pieces.id_to_token(token).removeprefix("##")
            if column + len(shown) > wide:
                break
            _token(axes[0], column, row, shown, TINTS[n % len(TINTS)])
            column += len(shown)


def _token(axes, column: int, row: int, letters: str, tint: str) -> None:
    place = (column, row)
    axes.add_patch(pyplot.Rectangle(place, len(letters), 0.86, color=tint, linewidth=0))
    for i, letter in enumerate(letters):
        axes.text(
            column + i + 0.5, row + 0.46, letter, ha="center", va="center",
            family="DejaVu Sans Mono", fontsize=8,
        )  # fmt: skip


def _encoder(definition):
    from workloads.data import text

    if getattr(load_workload(definition), "ORIGIN", None) == "smollm2":
        from workloads.pretrain import smollm2

        return smollm2.encoder()
    pretrain = definition.block.get("pretrain", definition.block)["data"]
    return text.trained(pretrain["corpora"], definition.block["model"]["vocabulary"])


def _matrix(axes, data, definition) -> None:
    """Draw the matrix, its seen entries, and its singular values."""
    truth = data["truth"].reshape(-1, data["truth"].shape[-1])
    values = torch.linalg.svdvals(truth)
    rank, columns = definition.config.data.rank, definition.config.model.rank
    shown = truth.numpy()[:100, :100]
    title = f"{truth.shape[0]} x {truth.shape[1]}"
    if "share" in definition.block["data"]:
        seen = load_workload(definition).data(definition.config, "train")["seen"][:100, :100]
        shown = np.where(seen.numpy() > 0, shown, np.nan)
        title += f", a corner: {definition.block['data']['share']:.0%} seen"
    bound = np.nanpercentile(np.abs(shown), 99)
    axes[0].imshow(shown, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    axes[0].set_title(title)
    axes[0].set_xticks([])
    axes[0].set_yticks([])
    bare(axes[1])
    singular = values[:rank].numpy()
    axes[1].plot(range(1, rank + 1), singular, "o", color=RUN)
    if singular.max() > 20 * singular.min():
        _powers(axes[1])
        axes[1].set_ylim(singular.min() / 2, singular.max() * 2)
    else:
        axes[1].set_ylim(0, 1.1 * singular.max())
    widest = max(rank, columns)
    axes[1].set_xlim(0.5, widest + 0.5)
    axes[1].set_xticks(range(1, widest + 1, 1 if widest <= 10 else 2))
    axes[1].axvspan(rank + 0.5, widest + 0.5, color=GRID)
    axes[1].set_title("singular values" + ("; spare columns grey" if columns > rank else ""))
    axes[1].set_xlabel("number")


def _game(axes, data, definition) -> None:
    """Draw the mean of the players' matrices, and its singular values."""
    terms = load_workload(definition).data(definition.config, "train")
    matrix = terms["matrices"].mean(0)
    bound = float(matrix.abs().quantile(0.99))
    axes[0].imshow(matrix.numpy(), cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    axes[0].set_title("mean matrix")
    axes[0].set_xticks([])
    axes[0].set_yticks([])
    bare(axes[1])
    values = torch.linalg.svdvals(matrix).numpy()
    axes[1].plot(range(1, len(values) + 1), values, ".", color=RUN)
    _powers(axes[1])
    axes[1].set(title="singular values", xlabel="number")


def _points(axes, data, definition) -> None:
    """Draw inputs as pictures, three rows for each group, or classes in a plane."""
    inputs, targets = data["inputs"], data["targets"]
    side = round(inputs.shape[1] ** 0.5)
    if side * side == inputs.shape[1]:
        groups = [inputs[targets == sign] for sign in (1, -1)]
        chosen = [group[torch.arange(27) * len(group) // 27] for group in groups]
        rows = [row for group in chosen for row in group.chunk(3)]
        sheet = np.concatenate(
            [np.concatenate(list(row.view(-1, side, side).numpy()), axis=1) for row in rows]
        )
        bound = np.percentile(np.abs(sheet), 99)
        axes[0].imshow(sheet, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
        axes[0].set_axis_off()
        return
    bare(axes[0])
    classes = sorted({*targets.int().tolist()}, reverse=True)
    drawn = [inputs[targets == c][:40, :2] for c in classes]
    for i, (c, points) in enumerate(zip(classes, drawn)):
        for x, y in points.tolist():
            name = {1: "+", -1: "−"}[c] if len(classes) == 2 else str(c)
            axes[0].text(x, y, name, color=f"C{i}", fontsize=6, ha="center", va="center")
    # the axes do not look at texts
    low, high = torch.cat(drawn).amin(dim=0), torch.cat(drawn).amax(dim=0)
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    axes[0].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes[0].set(xlabel="first component", ylabel="second component")


def _solution(axes, data, definition) -> None:
    """Draw u over the plane, and three cuts through it."""
    wide, high = definition.block["data"]["grid"]
    low, top = load_workload(definition).box(definition.config).tolist()
    u = data["values"].reshape(high, wide).numpy()
    second = "y" if definition.name.startswith("pinn_poisson") else "t"
    map_of = axes[0].imshow(
        u, origin="lower", aspect="auto", extent=(low[0], top[0], low[1], top[1]), cmap="viridis"
    )
    axes[0].figure.colorbar(map_of, ax=axes[0], label="u")
    axes[0].set(xlabel="x", ylabel=second, title="reference solution, seed 0")
    axes[0].xaxis.set_major_locator(MaxNLocator(4))
    x = np.linspace(low[0], top[0], 2 * wide + 1)[1::2]
    bare(axes[1])
    labels = []
    for share, colour in zip((0.0, 0.5, 1.0), SERIES, strict=False):
        row = min(high - 1, int(share * high))
        value = low[1] + (row + 0.5) / high * (top[1] - low[1])
        axes[1].plot(x, u[row], color=colour, linewidth=1.6)
        labels.append((float(u[row][-1]), f"{second} = {value:.2f}", colour))
    axes[1].set(xlabel="x", title=f"u at three {second}")
    name_lines(axes[1], labels, size=8, line=0.075)


# Streams


def _recorded(definition) -> tuple[str, dict]:
    """Return the reference's submission and the stream of its median run on the board."""
    frozen = reference(definition)
    if frozen is None:
        raise UserError(f"{definition.key} has no frozen reference to draw")
    name, board = frozen["submission"], discover.ROOT / "results" / "board"
    runs = [
        run
        for run in collect([board / f"{definition.key}.jsonl"]).runs
        if run.record["submission"] == name
        and run.record["hp"] == frozen["hp"]
        and run.record.get("stream")
    ]
    if not runs:
        raise UserError(f"the board has no run of {name} on {definition.key} at its tuned point")
    runs.sort(key=lambda run: run.time)
    return name, runs[len(runs) // 2].record


def _stream(definition) -> Figure:
    """Draw every task's quality over the steps, and each task's quality at the end of each."""
    name, record = _recorded(definition)
    groups, ends = record["stream"]["groups"], record["stream"]["ends"]
    goal, direction, target = primary(definition.block["goal"])
    # Lines are of each task; a goal may be about another figure of them.
    metric = "accuracy" if direction == "at_least" else "loss"
    recurring = len(ends) > len(SERIES)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10.4, 3.6), width_ratios=(6.4, 2.6), layout="constrained"
    )
    bare(left)
    of = "" if goal == metric else f", {goal.replace('_', ' ')}"
    labels = [(target, f"target {number(target)}{of}", GOAL)]
    for i, points in enumerate(groups):
        line = [(step, value) for step, value in points if value is not None]
        colour = PALE if recurring else SERIES[i]
        left.plot(*zip(*line, strict=True), color=colour, linewidth=0.8 if recurring else 1.3)
        if not recurring:
            labels.append((line[-1][1], f"task {i + 1}", colour))
    if recurring:
        steps = sorted(set.intersection(*({step for step, _ in points} for points in groups)))
        known = [dict(map(tuple, points)) for points in groups]
        mean = [sum(k[step] for k in known) / len(known) for step in steps]
        left.plot(steps, mean, color=INK, linewidth=1.8)
        what = "tasks" if len(groups) == len(ends) else "classes"
        labels.append((mean[-1], f"mean of {what}", INK))
    else:
        for end in ends[:-1]:
            left.axvline(end, color=MUTED, linewidth=0.8, alpha=0.6)
    left.axhline(target, **GOAL_LINE)
    left.set(xlabel="steps", ylabel=metric.replace("_", " "), xlim=(0, ends[-1]))
    left.set_title(f"reference: {name}, seed {record['seed']}", color=INK)
    name_lines(left, labels, size=8.5, line=0.075)
    _table(right, groups, ends, 1 if direction == "at_least" else -1, metric)
    return figure


def _table(axes, groups: list, ends: list[int], sign: int, metric: str) -> None:
    """Draw the quality of task i at the end of task j; of classes that come back at ten points."""
    recurring, of_tasks = len(ends) > len(SERIES), len(groups) == len(ends)
    crowded = len(groups) > 2 * len(SERIES)
    if recurring:
        ends = [ends[round(n)] for n in np.linspace(len(ends) / 10, len(ends) - 1, 10)]
    table = np.full((len(ends), len(groups)), np.nan)
    for j, end in enumerate(ends):
        for i, points in enumerate(groups):
            value = dict(map(tuple, points)).get(end)
            if value is not None and (recurring or i <= j):
                table[j, i] = value
    axes.imshow(table, cmap="GnBu" if sign > 0 else "GnBu_r", aspect="auto")
    middle = np.nanmean([np.nanmin(table), np.nanmax(table)])
    for (j, i), value in np.ndenumerate(table):
        if np.isfinite(value) and not crowded:
            dark = (value > middle) == (sign > 0)
            axes.text(
                i, j, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=7,
                color="white" if dark else INK,
            )  # fmt: skip
    what, when = ("class", "step") if recurring else ("of task", "after task")
    first = 0 if recurring and not of_tasks else 1
    places = range(0, table.shape[1], 10 if crowded else 1)
    axes.set_xticks(places, [place + first for place in places])
    axes.set_yticks(range(len(ends)), ends if recurring else range(1, len(ends) + 1))
    axes.set(xlabel="of task" if of_tasks else what, ylabel=when, title=metric.replace("_", " "))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
