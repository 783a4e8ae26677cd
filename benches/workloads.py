"""What workloads cost beside the plain code that they could be: derivatives, and measurements.

    python benches/workloads.py [pinn_burgers matrix_sensing ...]

CPU milliseconds on one thread; blocks of both sides alternate, and a ratio is the median over
rounds of the ratio within a round.

    pinn_*          a step (loss and gradient) with the network's own derivatives, beside the same
                    step with nested torch.autograd.grad: `plain` has one call for each derivative
                    by each coordinate, as everybody writes it, `joint` one for both slopes
    matrix_sensing  a step of `gd` as a race makes it, batch, counting and update included, beside
                    a loop of numpy on the same packed design
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
    """u [N], slopes [N, 2] and second derivatives [N], each by a call of its own."""
    with torch.enable_grad():
        columns = [points[:, i].detach().requires_grad_() for i in (0, 1)]
        u = model(torch.stack(columns, dim=1))
        slope = [torch.autograd.grad(u.sum(), c, create_graph=True)[0] for c in columns]
        second = [
            torch.autograd.grad(slope[a].sum(), columns[a], create_graph=True)[0] for a in axes
        ]
    return u, torch.stack(slope, dim=1), second


def joint(model, points, axes):
    """The same, both slopes by one call."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        u = model(points)
        slope = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
        second = [
            torch.autograd.grad(slope[:, a].sum(), points, create_graph=True)[0][:, a] for a in axes
        ]
    return u, slope, second


class Nested(MLP):
    """The workload's network, with its derivatives by one of these."""

    derivatives = staticmethod(plain)

    def slopes(self, points):
        return self.derivatives(self, points, ())[:2]

    def curvatures(self, points, axes):
        return self.derivatives(self, points, axes)


def paired(ours, theirs, rounds=ROUNDS, block=BLOCK) -> tuple[float, float, float]:
    """CPU milliseconds a call of `ours` and of `theirs`, and the ratio theirs / ours."""
    sides = (ours, theirs)
    counts = [max(1, round(block / (1e-9 + _seconds(side, 3)))) for side in sides]
    taken = [[], []]
    for turn in range(rounds):
        order = (0, 1) if turn % 2 else (1, 0)
        for i in order:
            taken[i].append(_seconds(sides[i], counts[i]))
    ratio = statistics.median(b / a for a, b in zip(*taken, strict=True))
    return 1e3 * statistics.median(taken[0]), 1e3 * statistics.median(taken[1]), ratio


def _seconds(function, count: int) -> float:
    """CPU seconds a call, after one that is not counted."""
    function()
    start = time.process_time()
    for _ in range(count):
        function()
    return (time.process_time() - start) / count


def opened(name: str):
    """The workload's module, config and training data at scale mini, seed 0, made in memory."""
    definition = define(name, tree_of(name), "mini", None)
    module, config = load_workload(definition), definition.config
    drawn = (0,) if "seed" in discover.functions(discover.find_workload(name))["data"] else ()
    return module, config, module.data(config, "train", *drawn)


def derivatives(name: str, nested_by=plain):
    """Two functions, a training step of a physics-informed workload: its own, and nested."""
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
    """Of the network's inputs; 1 where x is taken as it is."""
    return 2 * np.pi / float(model.waves[0]) if len(model.waves) else 1.0


def sensing(name: str = "matrix_sensing"):
    """Two functions, a step of gradient descent: through the harness, and in bare numpy."""
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
        packed = residual @ design * (scale / (2 * m))  # of the gradient by a symmetric matrix
        gradient = np.zeros((n, n))
        gradient[upper] = packed
        x = x - lr * ((gradient + gradient.T) @ x)

    def step():
        ours.step()
        task.step += 1

    return step, bare


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    known = sorted(p.stem for p in (discover.ROOT / "conf/workload").glob("pinn_*.yaml"))
    known.append("matrix_sensing")
    for name in names or known:
        if name not in known:
            sys.exit(f"bench_workloads: nothing is known of {name!r}; {', '.join(known)}")
        pairs = (
            {"numpy": sensing}
            if name == "matrix_sensing"
            else {
                "plain": lambda name=name: derivatives(name, plain),
                "joint": lambda name=name: derivatives(name, joint),
            }
        )
        for words, made in pairs.items():
            ours, theirs, ratio = paired(*made())
            print(
                f"{name:16} step {ours:6.2f}  {words} {theirs:6.2f}  ratio {ratio:.2f}", flush=True
            )


if __name__ == "__main__":
    main(sys.argv[1:])
