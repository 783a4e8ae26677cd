"""harness check: the laws of submissions (harness/laws/laws.py), tried on one file in seconds."""

import ast
import inspect
import os
from collections.abc import Callable

from harness.catalog import discover, naming, reading
from harness.catalog.card import Card
from harness.catalog.definition import track_of, tree_of
from harness.cli import config
from harness.cli.arguments import parser
from harness.errors import EXIT_FAILED, EXIT_OK
from harness.race import configuration
from harness.system.command_line import race
from harness.train.failure import in_one_line

# functions of a file, the ones that a broken law is about first
PLACES = ("update", "step", "optimizer", "adapt", "Algorithm")


def run(arguments: list[str]) -> int:
    """Try every law on a submission and print a line for each; return 1 if one is broken."""
    reader = parser(
        "check", "Try the laws of submissions on a file: does it train, repeat, resume, count?"
    )
    reader.add_argument("name", help="a submission's file or name")
    asked = reader.parse_args(arguments)
    plugin = discover.find(asked.name)
    config.refuse_name_clash(plugin, discover.submissions())
    # what is not a submission is refused before torch is imported
    card = discover.read(plugin)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from harness.laws import laws
    from harness.laws.small_run import SmallRun

    torch.set_num_threads(1)
    exempt = laws.skips(card)
    try:
        subject = SmallRun(card)
    except Exception as error:
        print(f"FAIL  {'runs':10}{in_one_line(error)}")
        return EXIT_FAILED
    print(f"{card.plugin.name}: form {card.form}, tried on {subject.workload.title}")
    broken = 0
    for name, law in laws.LAWS.items():
        word, text = _verdict(law, subject, exempt.get(name))
        broken += word == "FAIL"
        print(f"{word:6}{name:10}{text}", flush=True)
        if name == "runs" and word == "FAIL":
            return EXIT_FAILED
    if broken:
        print(f"{broken} of {len(laws.LAWS)} laws broken")
        return EXIT_FAILED
    command = race([f"workload={_workload(card)}", *naming.settings(plugin)])
    print(f"all well; race it:  {command}")
    return EXIT_OK


def _workload(card: Card) -> str:
    """Return the name of a workload that the submission can race on."""
    tracks = discover.tracks(card)
    default = configuration.default_choices()["workload"]
    for name in (default, *discover.workloads()):
        tree = tree_of(name)
        if "mini" in tree and track_of(tree, "mini", None) in tracks:
            return name
    return default


def _verdict(law: Callable, subject, reason: str | None) -> tuple[str, str]:
    """Return a word (ok, FAIL, skip or -) and what was seen."""
    from harness.laws.verdicts import NotApplicable, Violation

    if reason:
        return "skip", reason
    try:
        return "ok", law(subject)
    except NotApplicable as error:
        return "-", str(error)
    except Violation as error:
        text = f"{error} ({_place(subject.card, error.function)})"
        return "FAIL", f"{text}\n{'':16}law: {_title(law)}"
    except Exception as error:
        return "FAIL", in_one_line(error)


def _place(card: Card, function: str) -> str:
    """Return file:line of a function or method of the file, of the class, or of the file."""
    lines = {
        node.name: node.lineno
        for node in ast.walk(reading.tree(card.plugin.path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    line = next((lines[name] for name in (function, *PLACES) if name in lines), 1)
    return f"{card.plugin.path}:{line}"


def _title(law: Callable) -> str:
    """Return a law in one sentence."""
    return (inspect.getdoc(law) or "").split("\n")[0]
