"""Train a physics-informed network by one method, and print the relative error over seeds.

    python benches/pinn_accuracy.py pinn_poisson64 ssbroyden --steps 1500
    python benches/pinn_accuracy.py pinn_burgers64 levenberg_marquardt --steps 300 hold=10

The accuracy that a method reaches is no race: there is no goal, no price and no referee. The task
is a trial's, with `steps` as its horizon. Hyperparameters are the defaults of SPACE, or as given.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from harness.catalog import discover, space
from harness.catalog.definition import define, load_workload, tree_of
from harness.train.submission import Submission
from harness.train.task import Task


def trained(definition, name: str, changes: dict, steps: int, seed: int, every: int) -> float:
    """Return the relative error after the steps; print it on the way."""
    module, config = load_workload(definition), definition.config
    torch.manual_seed(seed)
    data, val = (module.data(config, split, seed) for split in ("train", "val"))
    task = Task(module, config, data, module.model(config), seed, steps)
    card = discover.read(discover.find(name))
    known = card.literals["SPACE"]
    for key, value in changes.items():
        space.check(known, key, value, name)
    submission, error = Submission(card, space.default(known) | changes, task), float("nan")
    for step in range(1, steps + 1):
        loss = submission.step()
        task.step += 1
        if step % every == 0 or step == steps:
            with torch.no_grad(), submission.evaluated():
                sums = {k: float(v) for k, v in module.metric(task.model, val).items()}
            error = module.score(sums)["relative_error"]
            print(
                f"seed {seed} step {step}: loss {float(loss):.2e}, relative error {error:.2e}, "
                f"{time.process_time():.0f} CPU seconds",
                flush=True,
            )
    return error


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload")
    parser.add_argument("submission")
    parser.add_argument("changes", nargs="*", help="hyperparameters: name=value")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", default=None)
    asked = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)
    definition = define(asked.workload, tree_of(asked.workload), "mini", asked.variant)
    pairs = dict(change.split("=", 1) for change in asked.changes)
    changes = {k: float(v) if "." in v or "e" in v else int(v) for k, v in pairs.items()}
    every = max(1, asked.steps // 4)
    errors = [
        trained(definition, asked.submission, changes, asked.steps, seed, every)
        for seed in range(asked.seeds)
    ]
    shown = ", ".join(f"{error:.1e}" for error in errors)
    print(f"{definition.key} {asked.submission}, {asked.steps} steps: {shown}")


if __name__ == "__main__":
    main(sys.argv[1:])
