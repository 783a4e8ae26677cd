"""Methods of forward passes follow second loops in numpy.

They run on the network of tests/support/nets.py or on the small convex problems of the laws.
"""

import numpy as np
import pytest
import torch

from harness.catalog import discover
from harness.errors import UserError
from tests.parity.test_parity import Row
from tests.parity.test_parity_owners import nats, shares
from tests.support import nets
from tests.support.nets import HIDDEN, rate
from tests.workloads.test_theory import Logistic, advance, at_work, flat, task_of


def drawn(seed, shapes):
    """The normal numbers of a seed, for each name."""
    source = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(s, generator=source, dtype=torch.float64).numpy() for n, s in shapes.items()
    }


def one_byte(lr, eps, bits):
    """Slopes of four workers, sent as e^(b/16) with a sign (arXiv 2306.10015)."""
    weights, generator, stream = nets.start(), nets.draws(), shares()
    shapes, rounded = {n: w.shape for n, w in weights.items()}, 0
    for t in range(nets.STEPS):
        seeds, way = torch.randint(2**62, (4,), generator=generator).tolist(), {}
        for seed in seeds:
            z, (x, y) = drawn(seed, shapes), next(stream)
            up, down = (
                nats({n: w + s * eps * z[n] for n, w in weights.items()}, x, y).mean()
                for s in (1, -1)
            )
            slope = (up - down) / (2 * eps)
            if bits == 8:
                sent = np.sign(slope) * np.exp(
                    np.clip(np.rint(16 * np.log(abs(slope))), -127, 127) / 16
                )
                rounded, slope = rounded + (sent != slope), sent
            way = {n: way.get(n, 0.0) + slope * z[n] for n in z}
        step = lr * rate(t, warmup=0.0) / 2
        weights = {n: w - step * way[n] for n, w in weights.items()}
    assert rounded == (4 * nets.STEPS if bits == 8 else 0)
    return weights


def qzo(lr, eps, clip, group):
    """Steps on the scales of four-bit groups, bounded by 0 (arXiv 2505.13430)."""
    weights, generator, codes, clipped = nets.start(), nets.draws(), {}, 0
    trained = {}
    for name in HIDDEN:
        parts = weights[name].reshape(len(weights[name]), -1, group)
        scale = np.abs(parts).max(2, keepdims=True) / 7
        codes[name], trained[name] = np.rint(parts / scale), scale
    trained |= {n: weights[n] for n in nets.HEAD}

    def whole(values):
        made = {n: (codes[n] * values[n]).reshape(weights[n].shape) for n in HIDDEN}
        return weights | made | {n: values[n] for n in nets.HEAD}

    for t, (x, y) in zip(range(nets.STEPS), nets.batches()):
        seed = int(torch.randint(2**62, (), generator=generator))
        z = drawn(seed, {n: v.shape for n, v in trained.items()})
        up, down = (
            nats(whole({n: v + s * eps * z[n] for n, v in trained.items()}), x, y).mean()
            for s in (1, -1)
        )
        slope = (up - down) / (2 * eps)
        clipped += abs(slope) > clip
        step = lr * rate(t, warmup=0.0) * np.clip(slope, -clip, clip)
        trained = {n: v - step * z[n] for n, v in trained.items()}
        trained |= {n: np.maximum(trained[n], 0.0) for n in HIDDEN}
    assert clipped
    assert any((trained[n] == 0).any() for n in HIDDEN)
    return whole(trained)


OWNERS = [
    Row("one_byte", one_byte, {"lr": 0.02, "eps": 1e-3, "bits": 8}, package="", float64=1e-9),
    Row("one_byte", one_byte, {"lr": 0.02, "eps": 1e-3, "bits": 32}, package="", label="exact",
        float64=1e-9),
    Row("qzo", qzo, {"lr": 0.02, "eps": 1e-3, "clip": 1.0, "group": 4}, package="", float64=1e-9),
]  # fmt: skip


@pytest.mark.parametrize("row", OWNERS, ids=str)
def test_owner_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, nets.task(), **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


@pytest.mark.parametrize(
    "slope, received", [(3.0, 3.0802), (-0.02, -0.0194969), (1e5, 2800.35), (0.0, 0.0)]
)
def test_one_byte_sends_the_published_values(slope, received):
    module = discover.load(discover.find("one_byte"))
    assert module.byte(slope) == pytest.approx(received, rel=1e-5)


def test_zo_frank_wolfe_equals_its_formula():
    """I-RDSA of arXiv 1810.03233 on the l1 ball, the penalty outside of it included."""
    task, other = task_of("constrained"), task_of("constrained")
    sub, problem = at_work(task, "zo_frank_wolfe", scale=20.0), Logistic(task, False)
    w, d, numbers = flat(task.params), np.zeros(12), task._config.model

    def loss(w, i):
        return problem.loss(w, i) + numbers.penalty * max(0.0, np.abs(w).sum() - numbers.radius)

    for t in range(1, 31):
        source = torch.Generator()
        source.set_state(task.rng.get_state())
        i, g = other.next_index().numpy(), np.zeros(12)
        c = 2 * 2 * 20 / (12**1.5 * (t + 8) ** (1 / 3))
        rho = min(1.0, 4 / ((1 + 12 / 4) ** (1 / 3) * (t + 8) ** (2 / 3)))
        for _ in range(4):
            z = torch.randn(12, generator=source, dtype=torch.float64).numpy()
            g += (loss(w + c * z, i) - loss(w, i)) / c * z / 4
        d = (1 - rho) * d + rho * g
        vertex, place = np.zeros(12), np.abs(d).argmax()
        vertex[place] = -numbers.radius * np.sign(d[place])
        w = w + 2 / (t + 8) * (vertex - w)
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), w, rtol=1e-9, atol=1e-11)


def posterior(points, values, at, length):
    """The mean of a Gaussian process with a Matérn-5/2 kernel, at one point."""

    def kernel(a, b):
        r = np.sqrt(5) * np.linalg.norm(a - b) / length
        return (1 + r + r * r / 3) * np.exp(-r)

    gram = np.array([[kernel(a, b) for b in points] for a in points]) + 1e-6 * np.eye(len(points))
    scaled = (values - values.min()) / (values.max() - values.min())
    weights = np.linalg.solve(gram, scaled - scaled.mean())
    return sum(w * kernel(at, p) for w, p in zip(weights, points))


def test_fzoos_equals_its_formula():
    """Adam along central differences of the posterior mean (arXiv 2308.04077, one client)."""
    task, other = task_of("logreg"), task_of("logreg")
    hp = {"lr": 0.05, "radius": 0.5, "length": 2.0, "history": 20}
    sub, problem, w = at_work(task, "fzoos", **hp), Logistic(task, True), flat(task.params)
    points, values, m, v = np.zeros((0, 13)), np.zeros(0), 0.0, 0.0
    for t in range(1, 7):
        source = torch.Generator()
        source.set_state(task.rng.get_state())
        i = other.next_index().numpy()
        z = torch.randn(8, 13, generator=source, dtype=torch.float64).numpy()
        asked = w + 0.5 * z / np.linalg.norm(z, axis=1, keepdims=True)
        points = np.concatenate([points, asked])[-20:]
        values = np.concatenate([values, [problem.loss(p, i) for p in asked]])[-20:]
        g = np.array([
            (posterior(points, values, w + e, 2.0) - posterior(points, values, w - e, 2.0)) / 2e-4
            for e in 1e-4 * np.eye(13)
        ])  # fmt: skip
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = 0.05 * (1 + np.cos(np.pi * (t - 0.5) / 60)) / 2
        w = w - step * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), w, rtol=1e-5, atol=1e-6)


def test_fzoos_refuses_models_in_which_neighbours_say_nothing():
    with pytest.raises(UserError, match=r"dimensions.*workload=blackbox"):
        at_work(task_of("gpt2"), "fzoos")
