"""Compare the cost of workloads with that of plain code: derivatives, and matrix measurements.

    python benches/workloads.py [pinn_burgers matrix_sensing ...]

Times are CPU milliseconds on one thread. Blocks of both sides alternate. A ratio is the median over
rounds of the ratio within a round.

    pinn_*          a step (loss and gradient) with the network's own derivatives, against the same
                    step with nested torch.autograd.grad: `plain` has one call for each derivative
                    by each coordinate, which is common; `joint` has one call for both slopes
    matrix_sensing  a step of `gd` as in a race, with batch, counting and update, against a loop of
                    numpy on the same packed design
"""

import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from harness.catalog import discover, space
from harness.catalog.definition import define, load_workload, tree_of
from harness.train.submission import Submission
from harness.train.task import Task
from workloads.models.mlp import MLP

ROUNDS, BLOCK = 15, 0.06  # seconds of CPU time a block


def plain(model, points, axes):
    """Return u [N], slopes [N, 2] and second derivatives [N], each by a call of its own."""
    with torch.enable_grad():
        columns = [points[:, i].detach().requires_grad_() for i in (0, 1)]
        u = model(torch.stack(columns, dim=1))
        slope = [torch.autograd.grad(u.sum(), c, create_graph=True)[0] for c in columns]
        second = [
            torch.autograd.grad(slope[a].sum(), columns[a], create_graph=True)[0] for a in axes
        ]
    return u, torch.stack(slope, dim=1), second


def joint(model, points, axes):
    """Return the same values, with one call for both slopes."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        u = model(points)
        slope = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
        second = [
            torch.autograd.grad(slope[:, a].sum(), points, create_graph=True)[0][:, a] for a in axes
        ]
    return u, slope, second


class Nested(MLP):
    """The workload's network, with its derivatives from one of the functions above."""

    derivatives = staticmethod(plain)

    def slopes(self, points):
        return self.derivatives(self, points, ())[:2]

    def curvatures(self, points, axes):
        return self.derivatives(self, points, axes)


def paired(ours, theirs, rounds=ROUNDS, block=BLOCK) -> tuple[float, float, float]:
    """Return the CPU milliseconds of a call of `ours` and `theirs`, and the ratio theirs / ours."""
    functions = (ours, theirs)
    counts = [max(1, round(block / (1e-9 + _seconds(function, 3)))) for function in functions]
    milliseconds = [[], []]
    for turn in range(rounds):
        order = (0, 1) if turn % 2 else (1, 0)
        for i in order:
            milliseconds[i].append(_seconds(functions[i], counts[i]))
    ratio = statistics.median(b / a for a, b in zip(*milliseconds, strict=True))
    return 1e3 * statistics.median(milliseconds[0]), 1e3 * statistics.median(milliseconds[1]), ratio


def _seconds(function, count: int) -> float:
    """Return the CPU seconds of a call, after one call that is not counted."""
    function()
    start = time.process_time()
    for _ in range(count):
        function()
    return (time.process_time() - start) / count


def opened(name: str):
    """Return a workload's module, config and training data at scale mini, for seed 0."""
    definition = define(name, tree_of(name), "mini", None)
    module, config = load_workload(definition), definition.config
    seed_argument = (
        (0,) if "seed" in discover.functions(discover.find_workload(name))["data"] else ()
    )
    return module, config, module.data(config, "train", *seed_argument)


def derivatives(name: str, nested_by=plain):
    """Return two functions: a training step of a PINN workload with its own derivatives, nested."""
    module, config, data = opened(name)
    torch.manual_seed(0)
    model = module.model(config)
    nested = Nested(**vars(config.model), period=_period(model))
    nested.load_state_dict(model.state_dict())
    nested.derivatives = nested_by
    batch = module.batch(data, torch.arange(config.batch), config)

    def step(net):
        for p in net.parameters():
            p.grad = None
        loss = module.loss(net, batch)
        loss.backward()
        return loss

    torch.testing.assert_close(step(nested), step(model), rtol=1e-4, atol=1e-5)
    return lambda: step(model), lambda: step(nested)


def _period(model: MLP) -> float:
    """Return the period of the network's inputs; 1 if it uses x without waves."""
    return 2 * np.pi / float(model.waves[0]) if len(model.waves) else 1.0


def sensing(name: str = "matrix_sensing"):
    """Return two functions: a step of gradient descent in the harness, and in numpy."""
    module, config, data = opened(name)
    torch.manual_seed(0)
    card = discover.read(discover.find("gd"))
    task = Task(module, config, data, module.model(config), 0, 10**9)
    ours = Submission(card, space.default(card.literals["SPACE"]), task)

    design, y = data["design"].numpy(), data["measurements"].numpy()
    x = task.params[0].detach().numpy().copy()
    lr, n, m = float(ours.hp.lr), len(x), len(y)
    upper = np.triu_indices(n)
    scale = np.where(upper[0] == upper[1], 1.0, 2.0**0.5)

    def bare():
        nonlocal x
        residual = design @ ((x @ x.T)[upper] * scale) - y
        # The upper triangle of the gradient by a symmetric matrix.
        packed = residual @ design * (scale / (2 * m))
        gradient = np.zeros((n, n))
        gradient[upper] = packed
        x = x - lr * ((gradient + gradient.T) @ x)

    def step():
        ours.step()
        task.step += 1

    return step, bare


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    names_of_workloads = sorted(
        p.stem for p in (discover.ROOT / "conf/workload").glob("pinn_*.yaml")
    )
    names_of_workloads.append("matrix_sensing")
    for name in names or names_of_workloads:
        if name not in names_of_workloads:
            sys.exit(
                f"benches/workloads.py: unknown {name!r}; one of {', '.join(names_of_workloads)}"
            )
        pairs = (
            {"numpy": sensing}
            if name == "matrix_sensing"
            else {
                "plain": lambda name=name: derivatives(name, plain),
                "joint": lambda name=name: derivatives(name, joint),
            }
        )
        for title, functions in pairs.items():
            ours, theirs, ratio = paired(*functions())
            print(
                f"{name:16} step {ours:6.2f}  {title} {theirs:6.2f}  ratio {ratio:.2f}", flush=True
            )


if __name__ == "__main__":
    main(sys.argv[1:])
