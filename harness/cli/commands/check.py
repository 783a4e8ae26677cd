"""harness check: the laws of submissions (harness/laws/laws.py), tried on one file in seconds."""

import argparse
import ast
import inspect
import os
from collections.abc import Callable
from pathlib import Path

from harness.catalog import discover, reading
from harness.catalog.discover import Card
from harness.errors import EXIT_FAILED, EXIT_OK

NEXT = "race it:  python -m harness workload=gpt2 submission="


def check(arguments: list[str]) -> int:
    """harness check FILE: try the laws of submissions on one; exit status 1 if one is broken."""
    parser = argparse.ArgumentParser(
        prog="harness check",
        description="Try the laws of submissions on a file: does it train, repeat, resume, count?",
    )
    parser.add_argument("name", help="a submission's file or name")
    asked = parser.parse_args(arguments)
    card = discover.read(discover.find(asked.name))  # what is no submission costs no import
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from harness.laws import laws
    from harness.laws.small_run import Subject

    torch.set_num_threads(1)
    exempt = laws.skips(card)
    try:
        subject = Subject(card)
    except Exception as error:
        print(f"FAIL  {'runs':10}{_said(error, card)}")
        return EXIT_FAILED
    print(f"{card.plugin.name}: form {card.form}, tried on {subject.problem.title}")
    broken = 0
    for name, law in laws.LAWS.items():
        word, text = _verdict(law, subject, exempt.get(name))
        broken += word == "FAIL"
        print(f"{word:6}{name:10}{text}", flush=True)
        if name == "runs" and word == "FAIL":
            return EXIT_FAILED
    told = card.plugin.name if asked.name in discover.submissions() else _path(asked.name)
    print(f"{broken} of {len(laws.LAWS)} laws broken" if broken else f"all well; {NEXT}{told}")
    return EXIT_FAILED if broken else EXIT_OK


def _path(name: str) -> str:
    """A file's path as `submission=` takes it: a relative one begins with ./ or ../."""
    return name if Path(name).is_absolute() or name.startswith(".") else f"./{name}"


def _verdict(law, subject, reason: str | None) -> tuple[str, str]:
    """A word (ok, FAIL, skip or -) and what was seen."""
    from harness.laws.laws import Broken, Idle

    if reason:
        return "skip", reason
    try:
        return "ok", law(subject)
    except Idle as error:
        return "-", str(error)
    except Broken as error:
        told = f"{error} ({_place(subject.card, error.function)})"
        return "FAIL", f"{told}\n{'':16}law: {_title(law)}"
    except Exception as error:
        return "FAIL", _said(error, subject.card)


def _place(card: Card, function: str) -> str:
    """file:line of a function or method of the file, of the class, or of the file."""
    found = {
        node.name: node.lineno
        for node in ast.walk(reading.tree(card.plugin.path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    names = (function, "update", "step", "optimizer", "adapt", "Algorithm")
    line = next((found[name] for name in names if name in found), 1)
    return f"{card.plugin.path}:{line}"


def _title(law: Callable) -> str:
    """A law in one sentence."""
    return (inspect.getdoc(law) or "").split("\n")[0]


def _said(error: Exception, card: Card) -> str:
    """The error in one line, with the last line of the submission's own that led to it."""
    import traceback

    from harness.errors import UserError

    text = str(error) or type(error).__name__
    said = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename) == card.plugin.path:
            return f"{said} ({frame.filename}:{frame.lineno}, in {frame.name})"
    return said
