"""Write docs/workloads.md and a page for each family of workloads, from YAML and results.

    python scripts/workload_pages.py           # the text and the pictures
    python scripts/workload_pages.py --text    # the text alone

Run it again when a number, a target or a reference has changed. The test
tests/workloads/test_workload_pages.py fails when the text is out of date. The pictures are drawn by
scripts/workload_pictures.py.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from harness.catalog import discover
from harness.catalog.definition import Definition, define, load_workload, tree_of
from harness.errors import UserError
from harness.records.references import reference
from harness.report.run.text import number
from harness.system.files import atomic_write, read_json
from scripts import raced_tables

PAGES = discover.ROOT / "docs" / "workloads"
INDEX = discover.ROOT / "docs" / "workloads.md"

# First word of a workload's name -> the family's title, and the question that it asks.
FAMILIES = {
    "gpt2": ("Language-model pretraining", "How fast does a language model learn from scratch?"),
    "vit": ("Vision transformer", "How fast does an image model learn to generalise?"),
    "ft": (
        "Fine-tuning",
        "How fast does a trained model learn another task, and with how few parameters?",
    ),
    "compress": (
        "Compression",
        "How fast does a trained model recover with zeros, or few bits, in its matrices?",
    ),
    "matrix": (
        "Matrix sensing",
        "Which methods work despite bad conditioning, extra columns, outliers, missing entries?",
    ),
    "pinn": (
        "Physics-informed networks",
        "Which methods, and which points, solve an equation and do not only lower its loss?",
    ),
    "stream": (
        "Continual streams",
        "What does a model still know after its examples came task by task?",
    ),
    "operator": (
        "Operator learning",
        "Which training makes a network of an equation's solutions last over many steps?",
    ),
    "state": (
        "State tracking",
        "Which training lets a recurrent network go on beyond the lengths it has seen?",
    ),
    "theory": (
        "Problems of theory",
        "Which methods keep the promises of their theorems, and by how much do they win?",
    ),
    "labels": (
        "Data and labels",
        "Who learns from wrong, partial, few or uneven labels, and from inputs under attack?",
    ),
    "shared": (
        "Federated and private training",
        "Who learns when an exchange between clients, or the privacy of an example, has a price?",
    ),
}
# Workloads of the family of theory, whose names have no first word in common.
THEORY = ("logreg", "constrained", "game", "blackbox", "two_layer_relu")
LABELS = ("clean", "partial", "robust", "certified", "active", "mixture")
SHARED = ("fed", "private")
# Corpora, image sources and published models: a description and the licence of each.
SOURCES = {
    "sotu": ("State of the Union addresses", "public domain"),
    "wiki": ("Wikipedia leads", "CC BY-SA 4.0"),
    "sympy": ("SymPy's source", "BSD-3"),
    "mnist": ("MNIST digits", "none stated"),
    "garments": ("Fashion-MNIST garments, shipped", "MIT"),
    "fashion": ("Fashion-MNIST garments", "MIT"),
    "cifar10": ("CIFAR-10", "your copy"),
    "folder": ("images in your folder", "your copy"),
    "minilm": ("all-MiniLM-L6-v2", "Apache-2.0"),
    "smollm2": ("SmolLM2-135M-Instruct", "Apache-2.0"),
}
SYMBOLS = {"at_most": "≤", "at_least": "≥"}
COMMAND = "python scripts/workload_pages.py"


def names() -> list[str]:
    """Return every workload, in the order of families."""
    known = sorted(p.stem for p in (discover.ROOT / "conf/workload").glob("*.yaml"))
    unknown = {family_of(name) for name in known} - FAMILIES.keys()
    if unknown:
        raise UserError(
            f"no family begins with {', '.join(sorted(unknown))}",
            ", ".join(FAMILIES),
            "add it to FAMILIES in scripts/workload_pages.py",
        )
    return [name for family in FAMILIES for name in known if family_of(name) == family]


def family_of(name: str) -> str:
    families = {"theory": THEORY, "labels": LABELS, "shared": SHARED}
    own = [family for family, members in families.items() if name in members]
    return own[0] if own else name.partition("_")[0]


def scales_of(tree: dict) -> list[str]:
    return [key for key, value in tree.items() if isinstance(value, dict)]


def data_of(name: str, block: dict) -> tuple[str, str]:
    """Return the data of a scale and its licence, in words."""
    module, data = discover.load(discover.find_workload(name)), block["data"]
    keys = list(data.get("corpora") or getattr(module, "CORPORA", []))
    keys += ["wiki"] if "language" in data else []
    keys += [data["source"]] if "source" in data else []
    keys += ["mnist"] if "features" in data else []
    if not keys and "corpora" in data:
        return "token shards in your folder", "your copy"
    if not keys:
        own = "seed" in discover.functions(discover.find_workload(name))["data"]
        return "drawn from " + ("the trial's seed" if own else "a fixed seed"), "none needed"
    known = [SOURCES[key] for key in keys]
    words = ", ".join(words for words, _ in known)
    if "language" in data:
        words += f" ({data['language']})"
    licence = ", ".join(dict.fromkeys(licence for _, licence in known))
    before = getattr(module, "ORIGIN", None)
    if "pretrain" in block:
        given = block["pretrain"]["data"]
        before = (given.get("corpora") or [given.get("source")])[0]
    if before and SOURCES[before] not in known:
        first, own = SOURCES[before]
        return f"{words}, after {first}", f"{licence} ({own})"
    return words, licence


def parameters(definition: Definition) -> int:
    """Return the number of the model's parameters; nothing is allocated."""
    with torch.device("meta"):
        model = load_workload(definition).model(definition.config)
    return sum(p.numel() for p in model.parameters())


def counted(count: int) -> str:
    """Return a count in words: 2,401 · 0.27 M · 124 M."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e6:.2f} M" if count < 10e6 else f"{count / 1e6:.0f} M"


def goal_in_words(goal: dict) -> str:
    """Return a goal in words: loss ≤ 3.91, sparsity ≥ 0.8."""
    parts = [
        f"{metric.replace('_', ' ')} {SYMBOLS[direction]} {_bound(metric, bound)}"
        for metric, condition in goal.items()
        for direction, bound in condition.items()
    ]
    return ", ".join(parts)


def _bound(metric: str, value: float) -> str:
    return f"{value / 1e6:g} MB" if raced_tables.is_memory(metric) else _plain(value)


def _plain(value) -> str:
    """Return a number or a word as YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, int | float) else str(value)


def reference_in_words(definition: Definition) -> str:
    """Return the reference in words: nadamw, 45.8 s; or that there is none yet."""
    frozen = reference(definition)
    if frozen is None:
        return "none yet"
    if frozen.get("time") is None:
        return f"{frozen['submission']}, misses"
    return f"{frozen['submission']}, {number(frozen['time'])} s"


def evidence_of(definition: Definition) -> str:
    """Return two cells on what the goal rests on; — where it was not measured.

    How many of the reference's fresh seeds reached it within the whole budget; the signal.
    """
    path = definition.frozen / f"{definition.key}.target.json"
    evidence = read_json(path) if path.exists() else {}
    if evidence.get("goal") != definition.block["goal"]:
        evidence = {}
    runs = evidence.get("seeds", [])
    reached = sum(run["reached_at"] is not None for run in runs)
    value = evidence.get("signal")
    cells = f"{reached} of {len(runs)}" if runs else "—", "—" if value is None else f"{value:.1f}"
    return " | ".join(cells)


def index() -> str:
    """Return the text of docs/workloads.md."""
    core = [f"`{name}`" for name in names() if tree_of(name).get("core")]
    lines = [
        "# Workloads",
        "",
        "A workload is a model, its data, a goal and a budget. `mini` runs on one CPU core. Some",
        "workloads have a scale `base`, sized for one GPU, or `full`, the published setting. A",
        "sweep skips workloads that do not have its scale, and names them. Goals without a",
        "reference are provisional. The reference is a tuned algorithm, with its time in",
        "reference seconds. The seeds are how many of its fresh seeds reach the goal within the",
        "budget. The signal is what the last fifth of the budget is worth, over the scatter of",
        "five seeds (`harness target`): below 2, seeds differ as much as methods do.",
        "",
        "The pages have tables of what was raced: submissions with three tuning trials or more,",
        "at their best point. The seeds are the fresh ones that reach the goal. A time is the",
        "geometric mean of theirs. A miss, and any longer time, counts as four times the",
        "reference's. The share is that of the budget. The goal's first metric is shown at its",
        "best in a run, of the evaluations that meet most of the goal's other conditions; the",
        "others are shown at its end, over the seeds. A run ends at the goal, or with the budget",
        "if a plan says so.",
        "",
        f"The headline score is over the core: {', '.join(core)}; see [score.md](score.md).",
        "",
        "| family | workload | data | licence | parameters | goal | horizon | reference | seeds "
        "| signal |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names():
        tree = tree_of(name)
        family = family_of(name)
        for scale in scales_of(tree):
            definition = define(name, tree, scale, None)
            data, licence = data_of(name, definition.block)
            lines.append(
                f"| [{FAMILIES[family][0]}](workloads/{family}.md) | `{name}` {scale} | {data} "
                f"| {licence} | {counted(parameters(definition))} "
                f"| {goal_in_words(definition.block['goal'])} "
                f"| {definition.block['horizon']:,} steps | {reference_in_words(definition)} "
                f"| {evidence_of(definition)} |"
            )
    lines += [
        "",
        "Data is downloaded when it is first needed, checked by its pinned hash, and kept in",
        "`$HARNESS_CACHE` (`~/.cache/harness`). Drawn data needs no network. `harness show NAME`",
        f"prints a workload, and `conf/workload/` has all numbers. `{COMMAND}` writes these pages.",
        "",
    ]
    return "\n".join(lines)


def page(family: str) -> str:
    """Return the text of docs/workloads/FAMILY.md."""
    title, question = FAMILIES[family]
    lines = [f"# {title}", "", f"{question} ([all workloads](../workloads.md))", ""]
    for name in (n for n in names() if family_of(n) == family):
        tree = tree_of(name)
        lines += [f"## {name}", "", *described(name), ""]
        if (PAGES / f"{name}.png").exists():
            lines += [f"![{caption(name)}]({name}.png)", ""]
        lines += [
            "| scale | parameters | examples a step | horizon | evaluations | goal | reference "
            "| seeds | signal |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        paragraphs, variants, results = [], [], []
        for scale in scales_of(tree):
            definition = define(name, tree, scale, None)
            block = definition.block
            every = block["evaluate"].get("every", 0)
            grid = "after every step" if every == 1 else f"{block['evaluate']['points']:,}"
            lines.append(
                f"| {scale} | {counted(parameters(definition))} | {block['batch']:,} "
                f"| {block['horizon']:,} | {grid} | {goal_in_words(block['goal'])} "
                f"| {reference_in_words(definition)} | {evidence_of(definition)} |"
            )
            paragraphs += measured(definition)
            results += raced(definition)
            for variant, changes in (tree[scale].get("variants") or {}).items():
                varied = define(name, tree, scale, variant)
                variants.append(
                    f"| `{variant}` | {scale} | {changed(changes)} "
                    f"| {goal_in_words(varied.block['goal'])} | {reference_in_words(varied)} "
                    f"| {evidence_of(varied)} |"
                )
                results += raced(varied)
        lines += ["", *paragraphs]
        if variants:
            lines += ["| variant | scale | changes | goal | reference | seeds | signal |"]
            lines += ["| --- | --- | --- | --- | --- | --- | --- |", *variants, ""]
        lines += results
    while lines[-1] == "":
        lines.pop()
    return "\n".join([*lines, ""])


def raced(definition: Definition) -> list[str]:
    """Return the table of what was raced on a workload, with its heading, if anything was."""
    table = raced_tables.raced(raced_tables.by_workload().get(definition.key, {}))
    return [
        f"Raced on `{definition.key}` ([how to read it](../workloads.md)):",
        "",
        *table,
        "",
    ] * bool(table)


def described(name: str) -> list[str]:
    """Return the docstring of the workload's file, with its indented lines as code."""
    source = discover.find_workload(name).path.read_text()
    text = (ast.get_docstring(ast.parse(source)) or "").strip().splitlines()
    lines: list[str] = []
    for line in text:
        indented, inside = line.startswith("    "), lines.count("```") % 2 == 1
        if indented and not inside:
            lines.append("```")
        if not indented and inside and line.strip():
            while lines[-1] == "":
                lines.pop()
            lines += ["```", ""]
        lines.append(line[4:] if indented else _escaped(line))
    if lines.count("```") % 2:
        lines.append("```")
    return [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]


def _escaped(line: str) -> str:
    """Escape Markdown's own characters in prose: <A, S> would be read as a tag.

    Within backquotes a backslash would be shown.
    """
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(p if p.startswith("`") else re.sub(r"([<*_])", r"\\\1", p) for p in parts)


def changed(changes: dict, where: str = "") -> str:
    """Return changes in words: model.norm: post, …; the goal has a column of its own."""
    parts = []
    for key, value in changes.items():
        if not where and key == "goal":
            continue
        nested = isinstance(value, dict)
        own = f"`{where}{key}: {_plain(value)}`"
        parts.append(changed(value, f"{where}{key}.") if nested else own)
    return ", ".join(parts) or "the goal"


def measured(definition: Definition) -> list[str]:
    """Return a paragraph on the reference of a scale, if it has one."""
    frozen = reference(definition)
    if frozen is None:
        return []
    point = ", ".join(f"{key} {value:g}" for key, value in frozen["hp"].items() if _number(value))
    point += f", {frozen['budget']:g} of the budget" if "budget" in frozen else ""
    times = [number(t) if t is not None else "missed" for t in frozen["times"]]
    return [
        f"Reference at {definition.scale}: `{frozen['submission']}` ({point}), "
        f"{', '.join(times)} reference seconds by seed. How the goal was set: "
        f"`results/reference/{definition.key}.target.json`.",
        "",
    ]


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def caption(name: str) -> str:
    """Return a description of a workload's picture, for readers who cannot see it."""
    shown = {
        "gpt2": "Windows of the validation text, cut into tokens",
        "vit": "Held-out images, one row a class",
        "matrix": "The matrix and its singular values",
        "pinn": "The reference solution of seed 0, and cuts through it",
        "stream": "Quality of each task over the reference's steps, and the matrix of accuracies",
        "operator": "Solutions of the equation over time",
        "state": "Tokens, and the sums that they lead to",
        "labels": "Held-out images, one row a class",
        "shared": "Held-out images, one row a class",
    }
    if name == "matrix_dictionary":
        return "The atoms, some signals, and the atoms that they are sums of"
    if name == "state_memory":
        return "A sequence, what it must become, and the weight of the past"
    if name == "pinn_obstacle":
        return "The string over the obstacle, and its height over it"
    if name == "game":
        return "The mean matrix of the game and its singular values"
    if name in ("blackbox", "two_layer_relu"):
        return "Digits in the plane of the first two components"
    if family_of(name) == "theory":
        return "Digits of the two groups, centred, three rows each"
    if name == "ft_minilm":
        return "Held-out articles, cut into tokens, each with its topic"
    tree = tree_of(name)
    if family_of(name) == "stream" and not reference(define(name, tree, scales_of(tree)[0], None)):
        shown["stream"] = "Data of the tasks, and what the goal judges after which task"
    text = "gpt2" in name or name in ("ft_smollm2", "ft_greedy", "compress_parts")
    images = "vit" in name and family_of(name) != "stream"
    what = shown["gpt2" if text else "vit" if images else family_of(name)]
    return what.replace("accuracies", "losses") if name == "stream_text" else what


def pages() -> dict[Path, str]:
    """Return the text of every page by its path."""
    written = {INDEX: index()}
    return written | {PAGES / f"{family}.md": page(family) for family in FAMILIES}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="workloads to draw (default: all)")
    parser.add_argument("--text", action="store_true", help="draw nothing")
    asked = parser.parse_args(arguments)
    for path, text in pages().items():
        atomic_write(path, text.encode())
    if not asked.text:
        from scripts import workload_pictures

        for name in asked.names or names():
            print(workload_pictures.draw(name), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"workload_pages: {error}", file=sys.stderr)
        sys.exit(2)
