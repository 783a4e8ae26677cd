"""Draw the picture of each workload's page: its data at the first scale, and its reference's curve.

Images, text, matrices and solutions are those that a trial gets. A stream's picture needs a run:
`--race FOLDER` of scripts/workload_pages.py races replay (`er`) there, or takes the run that is
there already, as every race does. Colours are reduced to a palette, so that a picture is small.
"""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from harness.catalog import discover
from harness.catalog.definition import define, load_workload, tree_of
from harness.catalog.goal import primary
from harness.errors import UserError
from harness.records.log import rows
from harness.records.references import reference
from harness.records.stream_history import history
from harness.report.palette import GOAL as TARGET
from harness.report.palette import GRID, INK, MUTED, REFERENCE
from harness.report.run.frame import STYLE
from harness.report.run.picture import curve
from harness.system.files import atomic_write, read_json

PAGES = discover.ROOT / "docs" / "workloads"
DOTS_PER_INCH, PALETTE = 100, 96
TASKS = ("#2563eb", "#db2777", "#059669", "#7c3aed", "#ea580c")
TINTS = ("#dbeafe", "#fde68a", "#d1fae5", "#fbcfe8")  # of tokens, in turn
STREAM = "er"  # the submission that streams are drawn with


def draw(name: str, races: str | None) -> str:
    """Write docs/workloads/NAME.png; one line that says what was done."""
    tree = tree_of(name)
    first = next(key for key, value in tree.items() if isinstance(value, dict))
    definition = define(name, tree, first, None)
    pyplot.rcdefaults()
    pyplot.rcParams.update(STYLE | {"font.size": 9, "axes.titlesize": 9.5})
    if "stream" in definition.block:
        if races is None:
            return f"{name}: left as it is; --race FOLDER races and draws it"
        figure = _stream(definition, races)
    else:
        figure = _sample(definition)
    path = PAGES / f"{name}.png"
    atomic_write(path, _small(figure))
    pyplot.close(figure)
    return f"{name}: {path.stat().st_size / 1000:.0f} kB"


def _small(figure: Figure) -> bytes:
    """The figure as a PNG of few colours."""
    paper, small = BytesIO(), BytesIO()
    figure.savefig(paper, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    picture = Image.open(paper).convert("RGB")
    picture.quantize(PALETTE, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


# Data, and the reference's curve beside it


def _sample(definition) -> Figure:
    module, block = load_workload(definition), definition.block
    drawn = (0,) if _drawn(definition) else ()
    data = module.data(definition.config, "val", *drawn)
    frozen = reference(definition)
    kinds = {"images": _images, "windows": _text, "tokens": _topics}
    kinds |= {"truth": _matrix, "values": _solution}
    kind = next(kind for key, kind in kinds.items() if key in data)
    panels = {_images: (4.0,), _matrix: (2.7, 2.7), _solution: (3.4, 2.8)}.get(kind, (5.2,))
    widths = [*panels, 3.2] if frozen else [*panels]
    figure, axes = pyplot.subplots(
        1,
        len(widths),
        figsize=(sum(widths) + 0.9 * (len(widths) - 1), 3.1),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    kind(axes[0, : len(panels)], data, definition)
    if frozen:
        _curve(axes[0, -1], frozen, block["goal"])
    return figure


def _drawn(definition) -> bool:
    """Whether each trial's seed draws a problem of its own."""
    return "seed" in discover.functions(discover.find_workload(definition.name))["data"]


def _curve(axes, frozen: dict, goal: dict) -> None:
    """The reference's first metric against reference seconds, and the target."""
    metric, _, target = primary(goal)
    points, crossing = curve(frozen["curve"], goal)
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=REFERENCE, linewidth=2)
    axes.axhline(target, color=TARGET, linewidth=1.2, dashes=(5, 3))
    if min(y) > 0 and max(y) > 50 * min(y):
        axes.set_yscale("log")
    if crossing:
        axes.plot(*crossing, "o", color=TARGET, ms=6)
    axes.set_title(f"reference: {frozen['submission']}; target {target:g}", color=INK)
    axes.set_xlabel("reference seconds")
    axes.set_ylabel(metric.replace("_", " "))
    _plain(axes)


def _plain(axes) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _images(axes, data, definition) -> None:
    """Ten classes, a row each."""
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
    """The first validation windows, each from a new line, each token on a tint of its own.

    Letters of several tokens are drawn as one.
    """
    encoder, wide, high = _encoder(definition), 62, 12
    axes[0].set(xlim=(0, wide), ylim=(high, -0.2))
    axes[0].set_axis_off()
    row = -1
    for window in data["windows"][:6].tolist():
        column, row, held = 0, row + 1, []
        for n, number in enumerate(window[:-1]):
            held.append(number)
            piece = "¶" if number == encoder.separator else encoder.tokenizer.decode(held)
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
    """The first article of every topic: the topic, and the pieces of words that it begins with."""
    from workloads.ft_minilm import TOPICS
    from workloads.pretrain import minilm

    pieces, wide, margin = minilm.tokenizer(), 62, 20
    axes[0].set(xlim=(0, wide), ylim=(len(TOPICS), -0.2))
    axes[0].set_axis_off()
    for row, topic in enumerate(TOPICS):
        axes[0].text(0, row + 0.46, topic, va="center", fontsize=8, color=INK)
        example, column = data["tokens"][data["labels"] == row][0], margin
        for n, number in enumerate(example.tolist()[1:]):
            shown = pieces.id_to_token(number).removeprefix("##")
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
    """The matrix, what is seen of it, and its singular values."""
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
    axes[1].semilogy(range(1, rank + 1), values[:rank].numpy(), "o", color=TASKS[0])
    axes[1].set_xlim(0.5, max(rank, columns) + 0.5)
    axes[1].axvspan(rank + 0.5, max(rank, columns) + 0.5, color=GRID)
    axes[1].set_title("singular values" + ("; spare columns shaded" if columns > rank else ""))
    axes[1].set_xlabel("number")
    _plain(axes[1])


def _solution(axes, data, definition) -> None:
    """u over the plane, and three cuts through it."""
    wide, high = definition.block["data"]["grid"]
    low, top = load_workload(definition).box(definition.config).tolist()
    u = data["values"].reshape(high, wide).numpy()
    second = "y" if definition.name == "pinn_poisson" else "t"
    map_of = axes[0].imshow(
        u, origin="lower", aspect="auto", extent=(low[0], top[0], low[1], top[1]), cmap="viridis"
    )
    axes[0].figure.colorbar(map_of, ax=axes[0], label="u")
    axes[0].set(xlabel="x", ylabel=second, title="reference solution, seed 0")
    x = np.linspace(low[0], top[0], 2 * wide + 1)[1::2]
    for share, colour in zip((0.0, 0.5, 1.0), TASKS, strict=False):
        row = min(high - 1, int(share * high))
        value = low[1] + (row + 0.5) / high * (top[1] - low[1])
        axes[1].plot(x, u[row], color=colour, linewidth=1.6, label=f"{second} = {value:.2f}")
    axes[1].set(xlabel="x", title=f"u at three {second}")
    axes[1].legend(frameon=False, fontsize=8)
    _plain(axes[1])


# Streams


def _raced(definition, folder: str) -> tuple[list[dict], dict]:
    """The log and the result of the stream's run by STREAM, raced where it is not there."""
    command = [sys.executable, "-m", "harness", f"workload={definition.name}"]
    command += [f"submission={STREAM}", "until=budget", "tracker=none", f"results={folder}"]
    done = subprocess.run(command, cwd=discover.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the race of {definition.name} failed: {done.stderr.strip()[-300:]}")
    finished = Path(folder, "runs", definition.name, STREAM).glob("*/run.json")
    for path in sorted(finished, key=lambda p: p.stat().st_mtime, reverse=True):
        if (result := read_json(path))["workload_hash"] == definition.hash:
            return rows(path.with_name("log.jsonl")), result
    raise UserError(f"{folder} has no finished run of {definition.name} by {STREAM}")


def _stream(definition, folder: str) -> Figure:
    """Every task's quality after every step, and the quality of each task at each task's end."""
    log, _ = _raced(definition, folder)
    block, seen = definition.block, history(definition.block, log)
    tasks = len(seen.groups)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9.6, 3.4), width_ratios=(6.4, 2.6), layout="constrained"
    )
    metric, _, target = primary(block["goal"])
    for i, points in enumerate(seen.groups):
        steps = [seen.steps[n] for n, _ in points]
        values = [seen.sign * value for _, value in points]
        if seen.recurring:
            left.plot(steps, values, color="#c3cad6", linewidth=0.8)
            continue
        left.plot(steps, values, color=TASKS[i], linewidth=1.2, label=f"task {i + 1}")
        for end, following in zip(seen.ends[i:], seen.ends[i + 1 :], strict=False):
            _gap(left, seen, i, end, following)
    if seen.recurring:
        known = [dict(points) for points in seen.groups]
        mean = [sum(k[n] for k in known) / tasks for n in range(len(seen.steps))]
        left.plot(seen.steps, mean, color=INK, linewidth=1.8, label="mean of ten classes")
    else:
        for end in seen.ends[:-1]:
            left.axvline(end, color=MUTED, linewidth=0.8, alpha=0.6)
    left.axhline(target, color=TARGET, linewidth=1.2, dashes=(5, 3))
    shaded = "" if seen.recurring else "; what a switch takes away is shaded"
    left.set(xlabel="steps", ylabel=metric, title=f"{STREAM}, seed 0{shaded}")
    left.legend(frameon=False, fontsize=8, ncols=3, loc="lower center")
    _plain(left)
    _table(right, seen)
    return figure


def _gap(axes, seen, task: int, end: int, following: int) -> None:
    """Shade what a task lacks, during the task after `end`, of its value then."""
    before, points = seen.at(task, end), seen.after(task, end, following)
    steps, lower = [n for n, _ in points], [min(v, before) for _, v in points]
    axes.fill_between(
        steps,
        [seen.sign * before] * len(steps),
        [seen.sign * v for v in lower],
        color=TASKS[task],
        alpha=0.18,
        linewidth=0,
    )


def _table(axes, seen) -> None:
    """R[j, i]: the quality of task i at the end of task j; of ten classes at ten points."""
    ends = seen.ends
    if seen.recurring:
        ends = [
            seen.steps[int(n)] for n in np.linspace(len(seen.steps) / 10, len(seen.steps) - 1, 10)
        ]
    table = np.full((len(ends), len(seen.groups)), np.nan)
    for j, end in enumerate(ends):
        for i, points in enumerate(seen.groups):
            found = [v for n, v in points if seen.steps[n] == end]
            if found and (seen.recurring or i <= j):
                table[j, i] = seen.sign * found[0]
    axes.imshow(table, cmap="Blues" if seen.sign > 0 else "Blues_r", aspect="auto")
    middle = np.nanmean([np.nanmin(table), np.nanmax(table)])
    for (j, i), value in np.ndenumerate(table):
        if np.isfinite(value):
            dark = (value > middle) == (seen.sign > 0)
            axes.text(
                i, j, f"{value:.2f}".lstrip("0") or "0", ha="center", va="center", fontsize=7,
                color="white" if dark else INK,
            )  # fmt: skip
    what, when = ("class", "step") if seen.recurring else ("of task", "after task")
    first = 0 if seen.recurring else 1
    axes.set_xticks(range(table.shape[1]), range(first, table.shape[1] + first))
    axes.set_yticks(range(len(ends)), ends if seen.recurring else range(1, len(ends) + 1))
    axes.set(xlabel=what, ylabel=when, title="accuracy" if seen.sign > 0 else "loss")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
