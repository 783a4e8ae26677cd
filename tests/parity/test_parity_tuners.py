"""A tuner's trials follow a second loop in float64, and its engine is the package that it names."""

import numpy as np
import pytest
import torch

from submissions.tuners.tpe import propose
from tests.parity.test_parity_labels import ADAMW, nats
from tests.support import nets
from tests.support.nets import Adam, gradients, rate

optuna = pytest.importorskip("optuna")
STEPS = 120


def test_tpe_equals_its_second_loop():
    """Ten trials of six steps and a run of sixty, points from a study that is told the losses."""
    spread, hp = 4.0, {**ADAMW, "spread": 4.0}
    seed = int(torch.randint(2**31, (), generator=nets.draws()))
    stream, losses, points = nets.batches(), [], []
    space = {
        name: optuna.distributions.FloatDistribution(hp[name] / spread, hp[name] * spread, log=True)
        for name in ("lr", "wd")
    }

    def run(point, steps):
        weights, optimizer, seen = nets.start(), Adam(beta2=hp["beta2"]), []
        for t in range(steps):
            x, y = next(stream)
            seen.append(nats(weights, x, y).mean())
            optimizer.step(
                weights, gradients(weights, x, y), point["lr"] * rate(t, steps), point["wd"]
            )
        return weights, seen

    for number in range(10):
        sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=4)
        study = optuna.create_study(sampler=sampler)
        for point, loss in zip(points, losses, strict=True):
            study.enqueue_trial(point)
            study.tell(study.ask(space), loss)
        points.append(study.ask(space).params)
        losses.append(run(points[-1], 6)[1][-1])
    best = points[int(np.argmin(losses))]
    second = run(best, STEPS - 60)[0]
    submission = nets.submitted("tpe", nets.task(STEPS), **hp)
    assert nets.difference(nets.run(submission, STEPS), second) <= 1e-9


def test_tpe_proposes_where_trials_were_good():
    """After many trials on a parabola in log lr the proposals gather at its minimum."""
    random = np.random.default_rng(0)
    trials = [
        {"lr": lr, "wd": 0.1, "loss": np.log10(lr / 1e-2) ** 2}
        for lr in 10 ** random.uniform(-4, 0, 40)
    ]
    ranges = {"lr": (1e-4, 1.0), "wd": (0.01, 1.0)}
    proposed = [propose(trials, ranges, seed)["lr"] for seed in range(20)]
    assert np.mean([abs(np.log10(lr / 1e-2)) for lr in proposed]) < 0.5
