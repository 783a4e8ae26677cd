"""One trial outside Hydra: its settings, and racing it in a process of its own."""

import os
import time
from functools import cache
from multiprocessing import get_context

from harness.catalog.definition import tree_of
from harness.errors import UserError
from harness.race import configuration, plan
from harness.system import processes


def settings(
    name: str, scale: str, submission: str, seed: int, results: str, hp: dict | None = None, **more
) -> dict:
    """Return the configuration of one trial: conf/config.yaml's with these values.

    A campaign tunes by itself, so a trial without `hp` or `trial` races SPACE's defaults.
    """
    return configuration.settings(
        tree_of(name),
        {"name": submission} | (hp or {}),
        scale=scale,
        seed=seed,
        results=results,
        tuned=False,
        **more,
    )


def race(config: dict) -> dict:
    """Race one trial, or read its record; return how it ended, where, and its wall seconds."""
    from harness.race.observer import Quiet
    from harness.race.referee import race

    begun = time.monotonic()
    try:
        trial = plan.make(config)
        number = f" trial {trial.trial}" if trial.trial is not None else ""
        label = f"{trial.label} seed {trial.seed}{number}"
        outcome = race(trial, Quiet(label))
    except UserError as error:
        return failure(config, str(error))
    # a fault of ours: it ends one trial, and says nothing about the method
    except Exception as error:
        return failure(config, f"{type(error).__name__}: {error}", "crashed")
    record = outcome.record
    return {
        "label": label,
        "outcome": outcome.outcome,
        **{key: record.get(key) for key in ("reason", "time", "best")},
        "hp": trial.hp,
        "folder": str(outcome.folder),
        "earlier": bool(record.get("earlier")),
        "wall": time.monotonic() - begun,
    }


def failure(config: dict, reason: str, outcome: str = "failed") -> dict:
    """Return what `race` returns for a trial that left no record."""
    return {
        "label": f"{config['workload']['name']}/{config['submission']['name']}",
        "outcome": outcome,
        "reason": reason,
        "folder": "",
        "earlier": False,
        "wall": None,
    }


def apart(config: dict, racing: set | None = None) -> dict:
    """Run `race` in a process of its own, so that a crash ends one trial and memory is freed."""
    context, racing = _context(), racing if racing is not None else set()
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_apart, args=(config, send, dict(os.environ)))
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


@cache
def _context():
    """Return what starts the processes of trials.

    On Linux they are forked from one that has imported torch: a trial of seconds takes two less.
    It has read no submission and no workload, so a trial reads them as they are when it starts.
    """
    if not processes.LINUX:
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "harness.race.referee", "harness.race.evaluator"])
    return context


def _apart(config: dict, send, environment: dict[str, str]) -> None:
    # The one that forks this process ends with the campaign.
    processes.die_with_parent(os.getppid())
    # It has the environment of the time when it was started.
    os.environ.clear()
    os.environ.update(environment)
    send.send(race(config))
