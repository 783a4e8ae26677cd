"""Tuners that rank by trusted examples follow a second loop in float64.

As tests/parity/test_parity_tuners.py. A step's batch is drawn from the examples that are not
trusted; what ranks a run is its loss on trusted examples after the step.
"""

import copy

import numpy as np
import pytest
import torch

from tests.parity.test_parity_labels import ADAMW, TRUSTED, data, nats
from tests.parity.test_parity_tuners import asha_loop, bohb_loop
from tests.support import nets
from tests.support.nets import BATCH, EXAMPLES, Adam, gradients, rate

OTHERS = np.setdiff1d(np.arange(EXAMPLES), TRUSTED)
X, Y = data()
HP = {**ADAMW, "spread": 4.0}


def task(horizon):
    """Return the task of nets with trusted examples."""
    made = nets.task(horizon)
    made._workload.trusted = lambda data, config: torch.from_numpy(TRUSTED)
    return made


def judged(weights, at):
    """Return the loss on the trusted batch whose turn is `at`."""
    now = TRUSTED[np.arange(at * BATCH, (at + 1) * BATCH) % len(TRUSTED)]
    return nats(weights, X[now], Y[now]).mean()


def step(run, lr, generator):
    """Train a run on a batch of examples that are not trusted."""
    now = OTHERS[torch.randint(len(OTHERS), (BATCH,), generator=generator).numpy()]
    run["adam"].step(run["weights"], gradients(run["weights"], X[now], Y[now]), lr, run["wd"])


def fresh(lr, wd):
    return {"lr": lr, "wd": wd, "weights": nets.start(), "adam": Adam(beta2=HP["beta2"])}


def runs_of(hp):
    """Return functions that draw a run and that train one for a step, and the generator."""
    generator = nets.draws()

    def drawn():
        u = (2 * torch.rand(2, generator=generator) - 1).tolist()
        return fresh(*(hp[n] * hp["spread"] ** a for n, a in zip(("lr", "wd"), u))) | {"steps": 0}

    def train(run, most):
        step(run, run["lr"] * rate(run["steps"], most), generator)
        run["steps"] += 1
        return judged(run["weights"], run["steps"] - 1)

    return drawn, train, generator


def hyperband_loop(hp, horizon, runs_of):
    """Brackets of 9, 5 and 3 runs; the best third of a rung goes on."""
    drawn, train, _ = runs_of(hp)

    def rungs(most):
        for s, n in ((2, 9), (1, 5), (0, 3)):
            ends = [0] + [most // 3 ** (s - i) for i in range(s + 1)]
            yield from ((n // 3**i, ends[i], ends[i + 1]) for i in range(s + 1))

    def cost(most):
        return sum(n * (after - before) for n, before, after in rungs(most))

    most = max(r for r in range(horizon) if cost(r) <= horizon)
    best, runs = drawn() | {"loss": np.inf}, []
    for count, before, after in rungs(most):
        runs = sorted(runs, key=lambda run: run["loss"])[:count] if before else [
            drawn() for _ in range(count)
        ]  # fmt: skip
        for run in runs:
            losses = [train(run, most) for _ in range(before, after)]
            run["loss"] = np.mean(losses[-max(1, (after - before) // 4) :])
            if (-after, run["loss"]) <= (-best["steps"], best["loss"]):
                best = copy.deepcopy(run)
    for _ in range(horizon - cost(most)):
        best["steps"] = most - 1
        train(best, most)
    return best["weights"]


LOOPS = {
    "trusted_hyperband": (hyperband_loop, 200),
    "trusted_asha": (asha_loop, 126),
    "trusted_bohb": (bohb_loop, 400),
}


@pytest.mark.parametrize("name", ["trusted_hyperband", "trusted_asha", "trusted_bohb"])
def test_tuner_equals_its_second_loop(name):
    loop, horizon = LOOPS[name]
    second = loop(HP, horizon, runs_of)
    submission = nets.submitted(name, task(horizon), **HP)
    assert nets.difference(nets.run(submission, horizon), second) <= 1e-8


def test_trusted_tpe_equals_its_second_loop():
    """Ten trials of six steps and a run of sixty; optuna is told the losses on trusted examples."""
    optuna = pytest.importorskip("optuna")
    generator, points, losses = nets.draws(), [], []
    seed = int(torch.randint(2**31, (), generator=generator))
    space = {
        n: optuna.distributions.FloatDistribution(HP[n] / 4, HP[n] * 4, log=True)
        for n in ("lr", "wd")
    }

    def trained(point, steps):
        run = fresh(point["lr"], point["wd"])
        for t in range(steps):
            step(run, run["lr"] * rate(t, steps), generator)
        return run["weights"]

    for number in range(10):
        sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=4)
        study = optuna.create_study(sampler=sampler)
        for point, loss in zip(points, losses, strict=True):
            study.enqueue_trial(point)
            study.tell(study.ask(space), loss)
        points.append(study.ask(space).params)
        losses.append(judged(trained(points[-1], 6), 5))
    second = trained(points[int(np.argmin(losses))], 60)
    submission = nets.submitted("trusted_tpe", task(120), **HP)
    assert nets.difference(nets.run(submission, 120), second) <= 1e-9


def test_trusted_pbt_equals_its_second_loop():
    """Twelve turns of ten steps; two trusted batches rank the members."""
    generator, members = nets.draws(), []
    for _ in range(6):
        factors = 4.0 ** (2 * torch.rand(2, generator=generator) - 1)
        members.append(fresh(HP["lr"] * float(factors[0]), HP["wd"] * float(factors[1])))
    for turn in range(12):
        run = members[turn % 6]
        for t in range(10 * turn, 10 * turn + 10):
            step(run, run["lr"] * rate(t, 120), generator)
        run["loss"] = (judged(run["weights"], 0) + judged(run["weights"], 1)) / 2
        ranked = sorted(members[: turn + 1], key=lambda run: run["loss"])
        best = ranked[0]
        if turn % 6 == 5:
            coins = (torch.rand(2, generator=generator) < 0.5).tolist()
            ranked[-1] |= copy.deepcopy({k: best[k] for k in ("weights", "adam", "loss")})
            for name, up in zip(("lr", "wd"), coins):
                ranked[-1][name] = best[name] * (1.2 if up else 0.8)
    submission = nets.submitted("trusted_pbt", task(120), **HP)
    assert nets.difference(nets.run(submission, 120), best["weights"]) <= 1e-9
