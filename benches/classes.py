"""Try every optimizer class of installed packages in a short run, and write docs/optimizers.md.

    python benches/classes.py [--package NAME ...] [--jobs 2] [--write]

Each class trains a small network for 12 steps in a process of its own, within 60 seconds and 2 GB,
with the words that it asks for (`handles=`, `inner=`, ...). It races if the weights stay finite
and move, and if a run that is stopped at step 6 and goes on from a checkpoint ends with the same
bits. Without --write the table is printed.
"""

import argparse
import importlib
import inspect
import json
import os
import resource
import select
import signal
import sys
import tempfile
import warnings
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from harness.catalog import class_needs, discover, optimizer_classes, space
from harness.errors import UserError
from harness.train import checkpoint
from harness.train.submission import Submission
from harness.train.task import Task

PACKAGES = (
    "torch.optim", "pytorch_optimizer", "schedulefree", "heavyball", "torch_optimizer", "optimi",
    "timm.optim", "adabelief_pytorch", "came_pytorch", "kron_torch", "muon", "adam_mini", "grams",
    "lion_pytorch", "dog", "prodigyopt", "sgd_sai",
)  # fmt: skip
STEPS, SECONDS, BYTES = 12, 60, 2 << 30
PAGE = Path(__file__).parents[1] / "docs" / "optimizers.md"
BEGIN, END = "<!-- classes: begin -->", "<!-- classes: end -->"
REQUIRED = {"num_iterations": STEPS, "num_data": 64, "total_steps": STEPS, "max_iters": STEPS}
GALORE = "rank:4+update_proj_gap:5+scale:0.25+projection_type:std"
KEYS = {
    "GaLore": GALORE,
    "Fira": GALORE,
    "APOLLO": "rank:4+update_proj_gap:5+scale:1.0+projection_type:std+scale_type:tensor",
    "AdamWSN": "sn:true",
    "AdamC": "normalized:true",
}


class Model(nn.Module):
    """Parameters of every role that a language model has."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(16, 12), nn.LayerNorm(12)
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 12)
        self.readout = nn.Linear(12, 16)
        self.readout.role = "readout"

    def forward(self, x):
        x = self.norm(self.embedding(x))
        return self.readout(x + self.second(torch.tanh(self.first(x))))


WORKLOAD = SimpleNamespace(
    __name__="small",
    size=lambda data, config: len(data["x"]),
    batch=lambda data, index, config: {k: v[index] for k, v in data.items()},
    loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
)


def task() -> Task:
    """Return the same small task each time."""
    torch.manual_seed(0)
    x = torch.arange(64) % 16
    data = {"x": x, "y": (5 * x + 3) % 16}
    return Task(WORKLOAD, SimpleNamespace(batch=16), data, Model(), 0, STEPS)  # type: ignore[arg-type]


def classes(package: str) -> dict[str, type]:
    """Return the optimizer classes that a package offers, by dotted path."""
    module = importlib.import_module(package)
    return {
        f"{package}.{name}": value
        for name, value in sorted(vars(module).items())
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and not inspect.isabstract(value)
    }


def tries(target: str, cls: type) -> list[dict]:
    """Return the settings to try one after the other: what the class asks for, then matrices."""
    needs, name = class_needs.needs_of(cls), target.rpartition(".")[2]
    known = inspect.signature(cls).parameters
    settings: dict = {"lr": 1e-3} if needs.takes_lr or needs.wrapped or needs.flag else {}
    default = known["lr"].default if needs.takes_lr else None
    if isinstance(default, float) and 1e-6 <= default <= 1:
        settings["lr"] = default
    settings |= {key: REQUIRED[key] for key in needs.required if key in REQUIRED}
    if needs.wrapped:
        settings["inner"] = "torch.optim.SGD"
    if name in KEYS and needs.keys:
        settings["keys"] = KEYS[name]
    return [settings, settings | {"fallback": "adamw"}]


def train(target: str, settings: dict) -> None:
    """Race a class in little; raises what stands in the way."""
    settings = dict(settings)
    fallback = settings.pop("fallback", "")
    card = discover.read(discover.find(target + f"+{fallback}" * bool(fallback)))
    declared = card.literals["SPACE"]
    hp = space.default(declared) | {
        key: space.check(declared, key, value, target) for key, value in settings.items()
    }
    whole, first = task(), task()
    start = [p.detach().clone() for p in whole.params]
    advance(Submission(card, hp, whole), whole, STEPS)
    if not all(torch.isfinite(p).all() for p in whole.params):
        raise UserError("the weights are not finite after 12 steps")
    still = [n for (n, p), s in zip(whole.model.named_parameters(), start) if torch.equal(p, s)]
    if still:
        raise UserError(f"it does not move {', '.join(still)}")
    submission = Submission(card, hp, first)
    advance(submission, first, STEPS // 2)
    with tempfile.TemporaryDirectory() as folder:
        state = {"task": first.state_dict(), "submission": submission.state_dict()}
        checkpoint.save(folder, first.step, dict(first.model.state_dict()), state)
        saved = checkpoint.load(folder)
    assert saved
    _, tensors, state = saved
    again = task()
    submission = Submission(card, hp, again)
    for key, own in again.model.state_dict().items():
        own.copy_(tensors[key])
    again.load_state_dict(state["task"])
    submission.load_state_dict(state["submission"])
    advance(submission, again, STEPS - STEPS // 2)
    if not all(torch.equal(p, q) for p, q in zip(whole.params, again.params)):
        raise UserError("resumed from a checkpoint, it does not go on with the same bits")


def advance(submission: Submission, on: Task, steps: int) -> None:
    """Make steps as a runner does, with an evaluation view after every third."""
    for _ in range(steps):
        torch.manual_seed(on.step)
        submission.step()
        on.step += 1
        if on.step % 3 == 0:
            with submission.evaluated():
                pass


def outcome(target: str, cls: type) -> dict:
    """Return whether a class races, with which settings, and if not, why."""
    reason = ""
    for settings in tries(target, cls):
        try:
            train(target, settings)
            return {"races": True, "settings": settings}
        except UserError as error:
            found = str(error)
        except MemoryError:
            found = "it takes more than 2 GB"
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        reason = reason or found.splitlines()[0]
    return {"races": False, "reason": reason}


def in_child(target: str, cls: type) -> tuple[int, int]:
    """Start a process that tries one class; returns its id and the end of a pipe to read."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    signal.alarm(SECONDS)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.write(write, json.dumps(outcome(target, cls)).encode()[:60_000])
    os._exit(0)


def run_all(targets: dict[str, type], jobs: int) -> dict[str, dict]:
    """Try all classes, `jobs` at a time; returns outcomes by dotted path."""
    waiting, running, results = list(targets.items()), {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            target, cls = waiting.pop(0)
            pid, read = in_child(target, cls)
            running[read] = (target, pid, b"")
        for read in select.select(list(running), [], [])[0]:
            target, pid, content = running.pop(read)
            if part := os.read(read, 65536):
                running[read] = (target, pid, content + part)
                continue
            os.close(read)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            ended = "it takes more than 60 seconds" if status == -signal.SIGALRM else ""
            lost = {"races": False, "reason": ended or f"its process ended with status {status}"}
            results[target] = json.loads(content) if content else lost
            print(f"{len(results)} of {len(targets)} {target}: {results[target]}", file=sys.stderr)
    return results


def table(results: dict[str, dict], missing: list[str]) -> str:
    """Return the section of the page, in Markdown."""
    racing = sum(result["races"] for result in results.values())
    lines = [f"{racing} of {len(results)} classes race.", ""]
    lines += ["| package | classes | race |", "| --- | ---: | ---: |"]
    packages: dict[str, list[str]] = {}
    for target in results:
        packages.setdefault(target.rpartition(".")[0], []).append(target)
    for package, members in packages.items():
        top = package.partition(".")[0]
        release = f"{package} {version(packages_distributions()[top][0])}"
        count = sum(results[target]["races"] for target in members)
        lines.append(f"| {release} | {len(members)} | {count} |")
    lines += [f"\nNot installed when this was written: {', '.join(missing)}."] if missing else []
    worded = {t: words(r) for t, r in results.items() if r["races"] and words(r)}
    lines += ["", "These race with words of their own beside `submission.lr=`:", ""]
    lines += ["| words | classes |", "| --- | --- |"]
    for setting in sorted(set(worded.values())):
        names = ", ".join(target for target, own in worded.items() if own == setting)
        lines.append(f"| `{setting}` | {names} |")
    lines += ["", "These do not race:", "", "| class | why |", "| --- | --- |"]
    for target, result in results.items():
        if not result["races"]:
            why = result["reason"].replace(f"class={target}: ", "", 1)
            why = (
                why.replace(f"class={target}", "it", 1).replace(": ;", ";").replace("|", "/")[:220]
            )
            lines.append(f"| {target} | {why} |")
    lines += ["", "All others race as they are:", ""]
    for package, members in packages.items():
        plain = [t for t in members if results[t]["races"] and t not in worded]
        if plain:
            names = ", ".join(t.rpartition(".")[2] for t in plain)
            lines.append(f"- {package}: {names}")
    return "\n".join(lines)


def words(result: dict) -> str:
    """Return the words of a command line that settings stand for, lr left out."""
    own = {*optimizer_classes.OFFERED, optimizer_classes.FALLBACK}
    pairs = {k: v for k, v in result["settings"].items() if k != "lr"}
    if "fallback" in pairs:
        pairs = {"handles": "hidden"} | pairs
    return " ".join(f"{'' if k in own else 'submission.'}{k}={v}" for k, v in pairs.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", nargs="+", default=PACKAGES)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="into docs/optimizers.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    targets, missing = {}, []
    for package in options.package:
        try:
            targets |= classes(package)
        except Exception as error:
            missing.append(f"{package} ({type(error).__name__})")
    text = table(run_all(targets, options.jobs), missing)
    if not options.write:
        print(text)
        return
    page = PAGE.read_text()
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
