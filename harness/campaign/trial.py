"""One trial outside Hydra: its settings, and racing it in a process of its own."""

import os
import time
from multiprocessing import get_context

import yaml

from harness.catalog.definition import tree_of
from harness.catalog.discover import ROOT
from harness.errors import UserError
from harness.race import plan
from harness.system import processes

SETTINGS = {
    "variant": None,
    "trial": None,
    "study": 0,
    "tuned": False,
    "isolation": "process",
    "until": "goal",
    "hopeless": False,
    "budget": 1,
}


def settings(
    name: str, scale: str, submission: str, seed: int, results: str, hp: dict | None = None, **more
) -> dict:
    """The configuration of one trial, as Hydra would have composed it; `more` as in SETTINGS."""
    engine = "cpu" if scale == "mini" else "gpu"
    composed = {
        "workload": tree_of(name),
        "submission": {"name": submission} | (hp or {}),
        "scale": scale,
        "seed": seed,
        "engine": yaml.safe_load((ROOT / "conf" / "engine" / f"{engine}.yaml").read_text()),
        "results": results,
    }
    assert more.keys() <= SETTINGS.keys()
    return SETTINGS | composed | more


def race(config: dict) -> dict:
    """Race one trial, or find it done: its outcome, folder, best and time, and its wall seconds."""
    from harness.race.observer import Quiet
    from harness.race.referee import race

    os.environ["HARNESS_SWEEP"] = "1"
    begun = time.monotonic()
    try:
        trial = plan.make(config)
        number = f" trial {trial.trial}" if trial.trial is not None else ""
        label = f"{trial.label} seed {trial.seed}{number}"
        outcome = race(trial, {"name": "none"}, Quiet(label))
    except UserError as error:
        return failure(config, str(error))
    except Exception as error:  # a fault of ours: it ends one trial, and says nothing of the method
        return failure(config, f"{type(error).__name__}: {error}", "crashed")
    told = outcome.record
    return {
        "label": label,
        "outcome": outcome.outcome,
        **{key: told.get(key) for key in ("reason", "time", "best")},
        "hp": trial.hp,
        "folder": str(outcome.folder),
        "earlier": bool(told.get("earlier")),
        "wall": time.monotonic() - begun,
    }


def failure(config: dict, reason: str, outcome: str = "failed") -> dict:
    """What `race` says of a trial that left no record."""
    return {
        "label": f"{config['workload']['name']}/{config['submission']['name']}",
        "outcome": outcome,
        "reason": reason,
        "folder": "",
        "earlier": False,
        "wall": None,
    }


def apart(config: dict, racing: set | None = None) -> dict:
    """`race` in a process of its own: what kills that ends one trial; nothing is left in memory."""
    context, racing = get_context("spawn"), racing if racing is not None else set()
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_apart, args=(config, send, os.getpid()))
    child.start()
    racing.add(child)
    send.close()
    try:
        return receive.recv()
    except EOFError:
        child.join()
        return failure(config, f"its process died (exit code {child.exitcode})", "crashed")
    finally:
        child.join()
        racing.discard(child)


def _apart(config: dict, send, parent: int) -> None:
    processes.die_with_parent(parent)
    send.send(race(config))
