"""harness check: the laws of submissions and of workloads, tried on one file in seconds."""

import ast
import os
from collections.abc import Callable
from pathlib import Path

from harness.catalog import discover, naming, reading
from harness.catalog.card import Card
from harness.catalog.definition import define, scales_of, tree_of
from harness.cli import config
from harness.cli.arguments import parser
from harness.errors import EXIT_FAILED, EXIT_OK
from harness.system.command_line import race

# functions of a file, the ones that a broken law is about first
PLACES = ("update", "step", "optimizer", "adapt", "Algorithm")
# what is printed of a verdict
WORDS = {"kept": "ok", "broken": "FAIL", "not applicable": "-", "skipped": "skip"}


def run(arguments: list[str]) -> int:
    """Try every law on a submission or a workload, a line for each; return 1 if one is broken."""
    reader = parser(
        "check",
        "Try the laws on a file. Of a submission: does it train, repeat, resume, count? Of a "
        "workload: is it deterministic, are its splits disjoint, can its goal be reached?",
    )
    reader.add_argument("name", help="a submission's or a workload's file or name")
    name = reader.parse_args(arguments).name
    if discover.is_workload(name):
        return _check_workload(name)
    plugin = discover.find_any(name)
    config.refuse_name_clash(plugin, discover.submissions())
    # what is not a submission is refused before torch is imported
    return _check_submission(discover.read(plugin))


def _check_submission(card: Card) -> int:
    """Print a line for each law of submissions; return the exit status."""
    _use_one_thread()
    from harness.laws.refusals import refusing

    with refusing(discover.sources(card.plugin)):
        return _try_submission(card)


def _try_submission(card: Card) -> int:
    from harness.laws import laws
    from harness.laws.small_run import SmallRun
    from harness.train.failure import in_one_line

    exempt = laws.skips(card)
    try:
        small = SmallRun(card)
    except Exception as error:
        print(f"FAIL  {'runs':10}{in_one_line(error)}")
        return EXIT_FAILED
    print(f"{card.plugin.name}: form {card.form}, tried on {small.workload.title}")
    if _try(laws.LAWS, small, exempt, card.plugin.path, last="runs"):
        return EXIT_FAILED
    settings = [f"workload={small.workload.name}", *naming.settings(card.plugin)]
    if card.plugin.target and "lr" in card.literals["SPACE"]:
        # A race of a class is refused without one.
        settings.append("submission.lr=1e-3")
    command = race(settings)
    print(f"all well; race it:  {command}")
    return EXIT_OK


def _check_workload(name: str) -> int:
    """Print a line for each law of workloads; return the exit status."""
    plugin, tree = discover.find_workload(name), tree_of(name)
    definition = define(name, tree, scales_of(tree)[0], None)
    _use_one_thread()
    from harness.laws import workload_laws
    from harness.laws.workload_run import WorkloadRun

    workload = WorkloadRun(definition)
    reference = workload.reference.plugin.name
    print(f"{definition.key}: track {definition.track}, trained by {reference}")
    exempt = workload_laws.skips(plugin.path)
    if _try(workload_laws.LAWS, workload, exempt, plugin.path, last="functions"):
        return EXIT_FAILED
    word = plugin.name if plugin.package else naming.typed_path(plugin.path)
    command = race([f"workload={word}", f"submission={reference}"])
    print(f"all well; race on it:  {command}")
    return EXIT_OK


def _use_one_thread() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)


def _try(laws: dict[str, Callable], subject, exempt: dict[str, str], path: Path, last: str) -> int:
    """Print a line for each law; return how many are broken.

    Args:
        exempt: the laws that the file exempts itself from, with the reasons.
        last: nothing is tried after this law if it is broken.
    """
    from harness.laws.verdicts import BROKEN, sentence, try_law

    broken = 0
    for name, law in laws.items():
        verdict = try_law(law, subject, exempt.get(name))
        text = verdict.text
        if verdict.function:
            text = f"{text} ({_place(path, verdict.function)})\n{'':20}law: {sentence(law)}"
        print(f"{WORDS[verdict.outcome]:6}{name:14}{text}", flush=True)
        broken += verdict.outcome == BROKEN
        if broken and name == last:
            break
    if broken:
        print(f"{broken} of {len(laws)} laws broken")
    return broken


def _place(path: Path, function: str) -> str:
    """Return file:line of a function or method of the file, of the class, or of the file."""
    lines = {
        node.name: node.lineno
        for node in ast.walk(reading.tree(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    line = next((lines[name] for name in (function, *PLACES) if name in lines), 1)
    return f"{path}:{line}"
