"""The commands beside racing: list, new, sync, doctor; the others have modules of their own."""

import argparse
import fnmatch
from pathlib import Path

from harness.catalog import discover, state_size
from harness.catalog.discover import ROOT
from harness.errors import UserError, nearest

LIST = """List submissions and workloads, one line each; nothing is imported. Of a submission:
family, name, tracks, badge (what a test proves of it), words of state for each parameter (~: of a
512 x 512 matrix at the defaults; + ex.: and training examples), summary."""
TRACK = 18  # width of the column of tracks
TEMPLATE = '''"""{title}: one sentence that `harness list` shows.

Paper: authors, title, arXiv id.

    m = beta * m + (1 - beta) * g
    p = p - lr * (m + wd * p)

State: m, one word per parameter.
Departures from the paper: none.
"""

import torch

from harness.schedules import warmup_cosine

ELEMENTWISE = True  # the rule treats every element alike, so the harness may pass one flat tensor
SPACE = {{
    "lr": {{"log": [1e-2, 10.0]}},
    "wd": 0.001,
    "beta": {{"choice": [0.9, 0.95]}},
    "warmup": 0.05,
}}
STATE = 1  # words it keeps for each parameter


def init(params, hp):
    return {{"m": [torch.zeros_like(p) for p in params]}}


def update(params, grads, state, hp, progress):
    """In place, without autograd; progress runs from 0 to 1 over the budget."""
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    for p, g, m in zip(params, grads, state["m"], strict=True):
        m.lerp_(g, 1 - hp.beta)
        p.mul_(1 - lr * hp.wd).add_(m, alpha=-lr)
'''


def run(arguments: list[str]) -> int:
    """Run a command; returns the exit status."""
    return COMMANDS[arguments[0]](arguments[1:])


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"harness {name}", description=text)


def list_(arguments: list[str]) -> int:
    """harness list: submissions and workloads, one line each."""
    parser = _parser("list", LIST)
    parser.add_argument(
        "what", nargs="?", default="all", choices=["all", "submissions", "workloads"]
    )
    parser.add_argument(
        "--like", default="*", metavar="PATTERN", help="names that match, e.g. 'ada*'"
    )
    parser.add_argument(
        "--track", help="submissions for one track: train, finetune, compress, continual"
    )
    asked = parser.parse_args(arguments)
    lines = []
    if asked.what != "submissions":
        lines += [
            ("workload", name, _workload_line(name))
            for name in discover.workloads()
            if fnmatch.fnmatch(name, asked.like)
        ]
    if asked.what != "workloads":
        lines += [
            row
            for plugin in discover.submissions().values()
            if (row := _submission_line(plugin, asked))
        ]
    if not lines:
        raise UserError(
            f"nothing matches --like {asked.like!r}",
            nearest(asked.like, [*discover.submissions(), *discover.workloads()]),
        )
    width = max(len(name) for _, name, _ in lines)
    for kind, name, text in lines:
        print(f"{kind:14}{name:{width}}  {text}")
    return 0


def _submission_line(plugin: discover.Plugin, asked) -> tuple[str, str, str] | None:
    if not fnmatch.fnmatch(plugin.name, asked.like):
        return None
    try:
        card = discover.read(plugin)
    except UserError as error:
        return ("broken", plugin.name, str(error))
    if asked.track and asked.track not in discover.tracks(card):
        return None
    told = discover.tracks(card)
    track = "all" if len(told) == len(discover.TRACKS) else ",".join(told)
    badge = card.literals.get("BADGE", "-")
    text = f"{track:{TRACK}}  {badge:15}  {state_size.text(card):>6}  {card.summary}"
    return (plugin.family or "submission", plugin.name, text)


def _workload_line(name: str) -> str:
    import ast

    doc = ast.get_docstring(ast.parse(discover.workloads()[name].path.read_text())) or ""
    return doc.split("\n")[0].rstrip(".")


def new(arguments: list[str]) -> int:
    """harness new submission NAME: write a file to start from."""
    parser = _parser("new", "Write a file to start from.")
    parser.add_argument("what", choices=["submission"])
    parser.add_argument("name", help="its name: a Python identifier")
    asked = parser.parse_args(arguments)
    name = asked.name.removesuffix(".py")
    if not name.isidentifier():
        raise UserError(
            f"{name!r} is no name for a submission",
            "letters, digits and _",
            "harness new submission my_idea",
        )
    if name in discover.submissions():
        raise UserError(
            f"a submission {name} is shipped already: {discover.submissions()[name].path}",
            do="choose another name",
        )
    path = Path(f"{name}.py")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(title=name))
    except FileExistsError:
        raise UserError(
            f"{path} exists already; it was left as it is", do="choose another name"
        ) from None
    print(
        f"wrote {path}; try it in seconds, then race it:\n\n  harness check {path}\n"
        f"  python -m harness workload=gpt2 submission=./{path}"
    )
    return 0


def sync(arguments: list[str]) -> int:
    """harness sync: replay logs into a tracker, each run once."""
    parser = _parser(
        "sync",
        "Bring a tracker up to date with the logs of runs; what it has already is not sent again.",
    )
    parser.add_argument(
        "paths", nargs="*", default=["results"], help="run folders, or folders of runs (results)"
    )
    parser.add_argument("--tracker", default="wandb", choices=["wandb", "tensorboard"])
    asked = parser.parse_args(arguments)
    for path in asked.paths:
        if not Path(path).exists():
            raise UserError(f"there is no folder {path}", do="harness sync results")
    from types import SimpleNamespace

    import yaml

    from harness.report.run import mirror

    config = SimpleNamespace(
        **yaml.safe_load((ROOT / "conf" / "tracker" / f"{asked.tracker}.yaml").read_text())
    )
    count = mirror.sync(asked.paths, config)
    print(f"{count} runs brought up to date with {asked.tracker}")
    return 0


def doctor(arguments: list[str]) -> int:
    """harness doctor: what works on this machine."""
    _parser("doctor", "Say what works on this machine.").parse_args(arguments)
    from harness.cli.commands.doctor import examine

    return examine()


def _later(module: str):
    """A command that lives in a module of its own, imported when it is asked for."""
    import importlib

    return lambda arguments: getattr(
        importlib.import_module(f"harness.cli.commands.{module}"), module
    )(arguments)


COMMANDS = {
    "check": _later("check"),
    "calibrate": _later("calibrate"),
    "audit": _later("audit"),
    "refine": _later("refine"),
    "list": list_,
    "show": _later("show"),
    "new": new,
    "sync": sync,
    "doctor": doctor,
    "report": _later("report"),
    "compare": _later("compare"),
    "comply": _later("comply"),
}
