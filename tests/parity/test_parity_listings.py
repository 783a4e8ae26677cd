"""Optimizers that papers propose follow a second implementation of their rule.

The gradients and the softmax regression are those of test_parity. FORMULAS and OWNERS are float64
loops written from the papers or their authors' code. SUMMARIES are such loops for methods whose
papers were not at hand: they prove that a file does what its docstring says, and no more.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from harness.catalog import discover
from harness.train.task import Task
from tests.parity import test_parity as parity
from tests.parity.test_parity import (
    ADAM,
    SHAPES,
    STEPS,
    TIGHT,
    Row,
    error,
    examples_gradients,
    gradient,
    hyperparameters,
    mean_gradients,
    norm,
    regression,
    start,
)

MATRICES = SHAPES[:2]


# Formulas change the list `params` of float64 arrays in place; grads(step, params) is t from 0.


def clip_adam(params, grads, lr, wd, beta1, beta2, clip, by, delay, scalar, v0):
    """The authors' class for arXiv 2406.04443: Clip-Adam and Clip-AdamD, and their norm forms."""
    m, last = [0.0 * p for p in params], [0.0 * p for p in params]
    v = [v0 + 0.0 * p if delay else 0.0 * p for p in params]
    square = v0 if delay else 0.0
    for t in range(STEPS):
        g = grads(t, params)
        if by == "tensor":
            g = [x * min(1, clip / (norm([x]) + 1e-6)) for x in g]
        elif by == "global":
            g = [x * min(1, clip / (norm(g) + 1e-6)) for x in g]
        else:
            g = [np.clip(x, -clip, clip) for x in g]
        used = last if delay else g
        square = beta2 * square + (1 - beta2) * norm(used) ** 2
        for i in range(len(params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g[i]
            v[i] = beta2 * v[i] + (1 - beta2) * used[i] ** 2
            scale = math.sqrt(square) if scalar else np.sqrt(v[i])
            params[i] = params[i] - lr * m[i] / (scale + 1e-6)
            params[i] = params[i] - lr * wd * params[i]
        last = g


def normalised_sgd(params, grads, lr, wd, momentum, power, transport):
    """Algorithms 1 and 2 of arXiv 2002.03305; β-GD of arXiv 2303.02854."""
    m, before = None, [p.copy() for p in params]
    for t in range(STEPS):
        ahead = momentum / (1 - momentum) if transport else 0.0
        g = grads(t, [p + ahead * (p - q) for p, q in zip(params, before)])
        m = g if m is None else [momentum * a + (1 - momentum) * b for a, b in zip(m, g)]
        before = [p.copy() for p in params]
        length = norm(m) ** power
        for i in range(len(params)):
            params[i] = (1 - lr * wd) * params[i] - lr * m[i] / length


def o2nc(params, grads, lr, beta, mu, scaling):
    """Algorithm 2 of arXiv 2405.09742 with online gradient descent."""
    torch.manual_seed(0)
    way = [0.0 * p for p in params]
    for t in range(STEPS):
        s = 1.0
        if scaling == "exponential":
            s = float(torch.empty((), dtype=torch.float64).exponential_())
        for i, g in enumerate(grads(t, params)):
            way[i] = beta * (way[i] - lr * g) / (1 + lr * mu)
            params[i] = params[i] + s * way[i]


def o2nc_adamw(params, grads, lr, wd, beta1, beta2, eps, scaling):
    """AdamW with a random factor of mean 1 on each step."""
    torch.manual_seed(0)
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        s = float(torch.empty((), dtype=torch.float64).exponential_())
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            u = (m[i] / (1 - beta1**t)) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            params[i] = params[i] - s * lr * (u + wd * params[i])


def swan(params, grads, lr, wd, beta, steps):
    """The standardised gradient with its singular values after the iteration (arXiv 2412.13148).

    Every matrix of the iteration has the gradient's singular vectors, so that it acts on numbers.
    """
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            g = (g - g.mean(1, keepdims=True)) / g.std(1, keepdims=True)
            left, s, right = np.linalg.svd(g, full_matrices=False)
            # Centred rows leave at least one singular value at zero where rows are many.
            s = np.where(s > 1e-9 * s.max(), s, 0.0) / norm([s])
            y, z = s * s, np.ones_like(s)
            for _ in range(steps):
                y, z = beta * y * (3 - z * y), beta * z * (3 - z * y)
            if beta == 0.5 and steps > 20:
                np.testing.assert_allclose((z * s)[s > 0], 1.0, rtol=1e-9)
            white = (left * (z * s)) @ right
            step = math.sqrt(g.size) * white / norm([white])
            params[i] = (1 - lr * wd) * params[i] - lr * step


def optimistic_sgd(params, grads, lr, wd, rate):
    """Equation 5 of arXiv 1711.00141."""
    last = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            u = g + wd * params[i]
            params[i] = params[i] - 2 * lr * u + lr * last[i]
            last[i] = u


def optimistic_adam(params, grads, lr, wd, beta1, beta2, eps):
    """Algorithm 1 of arXiv 1711.00141."""
    m, v, last = ([0.0 * p for p in params] for _ in range(3))
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            u = (m[i] / (1 - beta1**t)) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            params[i] = (1 - lr * wd) * params[i] - 2 * lr * u + lr * last[i]
            last[i] = u


def adam_norm(params, grads, lr, wd, beta1, beta2, eps):
    """Adam with one second moment, of the norm."""
    m, square = [0.0 * p for p in params], 0.0
    for t in range(1, STEPS + 1):
        g = grads(t - 1, params)
        square = beta2 * square + (1 - beta2) * norm(g) ** 2
        for i in range(len(params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g[i]
            u = m[i] / (1 - beta1**t) / (math.sqrt(square / (1 - beta2**t)) + eps)
            params[i] = (1 - lr * wd) * params[i] - lr * u


def accelerated_dog(params, grads, lr, reps, eps):
    """The authors' one-gradient class for arXiv 2404.00666; returns the average too."""
    first, w, mean = ([p.copy() for p in params] for _ in range(3))
    reach = reps * (1 + norm(params))
    reaches, square, weights = [reach], eps, reach
    a = 1.0
    for t in range(STEPS):
        g = grads(t, params)
        square += a**2 * norm(g) ** 2
        step = lr * reach / math.sqrt(square)
        y = [x - step * s for x, s in zip(params, g)]
        w = [x - step * a * s for x, s in zip(w, g)]
        mean = [q + a * reach / weights * (z - q) for q, z in zip(mean, y)]
        reach = max(reach, norm([x - x0 for x, x0 in zip(w, first)]))
        reaches.append(reach)
        a = max(1.0, 0.5 * sum(reaches) / reach)
        weights += a * reach
        for i in range(len(params)):
            params[i] = (1 - 1 / a) * y[i] + w[i] / a
    assert a > 1.0
    return mean


CLIPPED = {"lr": 0.01, "wd": 0.1, "beta1": 0.9, "beta2": 0.999, "clip": 1.0, "v0": 1e-5}
NORMALISED = {"lr": 0.3, "wd": 0.01, "momentum": 0.9, "power": 1.0, "transport": False}
FORMULAS = [
    Row("clip_adam", clip_adam, {**CLIPPED, "by": "tensor", "delay": True, "scalar": False},
        package="", label="delay"),
    Row("clip_adam", clip_adam, {**CLIPPED, "by": "element", "delay": False, "scalar": False},
        package="", label="element"),
    Row("clip_adam", clip_adam, {**CLIPPED, "by": "global", "delay": True, "scalar": True},
        package="", label="norm"),
    Row("clip_adam", clip_adam, {**CLIPPED, "by": "tensor", "delay": False, "scalar": True},
        package="", label="norm-present"),
    Row("normalised_sgd", normalised_sgd, NORMALISED, package=""),
    Row("normalised_sgd", normalised_sgd, {**NORMALISED, "momentum": 0.0, "power": 2 / 3},
        package="", label="beta"),
    Row("o2nc", o2nc, {"lr": 0.05, "beta": 0.9, "mu": 0.5, "scaling": "exponential"}, package=""),
    Row("o2nc", o2nc, {"lr": 0.05, "beta": 0.9, "mu": 0.0, "scaling": "none"}, package="",
        label="plain"),
    Row("o2nc_adamw", o2nc_adamw, {**ADAM, "scaling": "exponential"}, package=""),
    # Many iterations here, so that the iteration has converged; rounding grows with them.
    Row("swan", swan, {"lr": 0.01, "wd": 0.1, "beta": 0.5, "steps": 24}, package="",
        shapes=MATRICES, float32=2e-2, float64=1e-9),
    Row("swan", swan, {"lr": 0.01, "wd": 0.1, "beta": 0.8, "steps": 10}, package="",
        shapes=MATRICES, float32=2e-2, float64=1e-9, label="ten"),
    Row("optimistic_sgd", optimistic_sgd, {"lr": 0.1, "wd": 0.01, "rate": "plain"}, package=""),
    Row("optimistic_adam", optimistic_adam, ADAM, package=""),
    Row("adam_norm", adam_norm, ADAM, package=""),
    Row("accelerated_dog", accelerated_dog, {"lr": 1.0, "reps": 1e-2, "eps": 1e-8}, package="",
        float32=5e-6),
]  # fmt: skip


def followed(row, dtype):
    """Return the error of a submission against the second implementation of its row."""
    torch.manual_seed(0)
    mine = parity.ours(row, dtype)
    params = [p.double().numpy() for p in start(dtype, row.shapes)]
    row.second(params, lambda t, ps: [gradient(p, 0, t, i) for i, p in enumerate(ps)], **row.hp)
    return error(mine, [torch.from_numpy(p) for p in params])


@pytest.mark.parametrize("row", FORMULAS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_submission_equals_its_formula(row, dtype):
    assert followed(row, dtype) <= (row.float32 if dtype == torch.float32 else row.float64)


def evaluated(name, changes, shapes=SHAPES):
    """Return what a submission evaluates after STEPS steps, and what it trains."""
    module, hp = discover.load(discover.find(name)), hyperparameters(name, changes)
    params = start(torch.float64, shapes)
    state = module.init(params, hp)
    for step in range(STEPS):
        grads = [gradient(p, 0, step, i) for i, p in enumerate(params)]
        module.update(params, grads, state, hp, 0.0)
    return module.evaluate_view(params, state), params


def second(function, changes):
    """Return the arrays that a formula ends with, and what it returns."""
    params = [p.numpy() for p in start(torch.float64, SHAPES)]
    grads = lambda t, ps: [gradient(p, 0, t, i) for i, p in enumerate(ps)]  # noqa: E731
    returned = function(params, grads, **changes)
    return [torch.from_numpy(p) for p in params], returned


def test_normalised_sgd_with_transport_equals_its_formula():
    """Training uses the point ahead; evaluation uses p itself."""
    changes = {**NORMALISED, "transport": True}
    seen, trained = evaluated("normalised_sgd", changes)
    p, _ = second(normalised_sgd, changes)
    assert error(seen, p) <= TIGHT
    assert error(trained, p) > 1e-2


def test_accelerated_dog_evaluates_its_average():
    changes = {"lr": 1.0, "reps": 1e-2, "eps": 1e-8}
    seen, _ = evaluated("accelerated_dog", changes)
    _, mean = second(accelerated_dog, changes)
    assert error(seen, [torch.from_numpy(x) for x in mean]) <= TIGHT


# Methods that own their step, on the softmax regression of test_parity.


def mean_loss(params, batch):
    (w, b), (x, y) = params, batch
    z = x @ w.T + b
    top = z.max(1)
    return float((np.log(np.exp(z - top[:, None]).sum(1)) + top - z[np.arange(len(y)), y]).mean())


def inner(a, b):
    return sum((x * y).sum() for x, y in zip(a, b))


def momo(params, batches, lr, wd, beta, lower):
    """Algorithm 1 of arXiv 2305.07583, averages begun at their first values."""
    for t in range(STEPS):
        batch = batches()
        g, f = mean_gradients(params, batch), mean_loss(params, batch)
        if t == 0:
            m, mean, gamma = g, f, inner(g, params)
        else:
            m = [beta * a + (1 - beta) * b for a, b in zip(m, g)]
            mean = beta * mean + (1 - beta) * f
            gamma = beta * gamma + (1 - beta) * inner(g, params)
        gap = (1 + lr * wd) * (mean - lower - gamma) + inner(m, params)
        tau = min(lr, max(gap, 0) / norm(m) ** 2)
        for i in range(len(params)):
            params[i] = (params[i] - tau * m[i]) / (1 + lr * wd)


def momo_adam(params, batches, lr, wd, beta1, beta2, lower, eps):
    """Algorithm 3 of arXiv 2305.07583."""
    m, v, mean, gamma, caps = [0.0 * p for p in params], [0.0 * p for p in params], 0.0, 0.0, 0
    for t in range(1, STEPS + 1):
        batch = batches()
        g, f = mean_gradients(params, batch), mean_loss(params, batch)
        m = [beta1 * a + (1 - beta1) * b for a, b in zip(m, g)]
        v = [beta2 * a + (1 - beta2) * b * b for a, b in zip(v, g)]
        mean = beta1 * mean + (1 - beta1) * f
        gamma = beta1 * gamma + (1 - beta1) * inner(g, params)
        u = [a / (np.sqrt(b / (1 - beta2**t)) + eps) for a, b in zip(m, v)]
        rho = 1 - beta1**t
        gap = (1 + lr * wd) * (mean - rho * lower - gamma) + inner(m, params)
        tau = min(lr / rho, max(gap, 0) / inner(m, u))
        caps += tau < lr / rho
        for i in range(len(params)):
            params[i] = (params[i] - tau * u[i]) / (1 + lr * wd)
    assert 0 < caps < STEPS, "the cap never mattered, or always"


def truncated(params, batches, lr, wd, lower):
    """The truncated model of arXiv 1810.05633, equation 9."""
    for _ in range(STEPS):
        batch = batches()
        g = mean_gradients(params, batch)
        length = min(lr, max(mean_loss(params, batch) - lower, 0) / norm(g) ** 2)
        for i in range(len(params)):
            params[i] = (params[i] - length * g[i]) / (1 + lr * wd)


def spider(params, batches, lr, wd):
    """Algorithm 1 of arXiv 1807.01695 with normalised steps; four batches every tenth step."""
    last = [p.copy() for p in params]
    for t in range(STEPS):
        if t % 10 == 0:
            parts = [mean_gradients(params, batches()) for _ in range(4)]
            v = [sum(each) / 4 for each in zip(*parts)]
        else:
            batch = batches()
            new, old = mean_gradients(params, batch), mean_gradients(last, batch)
            v = [a - b + c for a, b, c in zip(new, old, v)]
        last = [p.copy() for p in params]
        size = norm(v)
        for i in range(len(params)):
            params[i] = (1 - lr * wd) * params[i] - lr * v[i] / size


def unixgrad(params, batches, radius):
    """Algorithm 1 of arXiv 1910.13857 with weights t, in a ball of diameter D around the start."""
    first, diameter = [p.copy() for p in params], 2 * radius
    y, xs, square = [p.copy() for p in params], [], 0.0

    def average(point, t):
        points = [*xs, point]
        total = sum(range(1, t + 1))
        return [sum((k + 1) * p[i] for k, p in enumerate(points)) / total for i in range(2)]

    def project(point):
        way = [a - b for a, b in zip(point, first)]
        factor = min(1, radius / norm(way))
        return [b + factor * w for b, w in zip(first, way)]

    touched = False
    for t in range(1, STEPS + 1):
        eta = 2 * diameter / math.sqrt(1 + square)
        hint = mean_gradients(average(y, t), batches())
        x = project([a - t * eta * h for a, h in zip(y, hint)])
        mean = average(x, t)
        g = mean_gradients(mean, batches())
        y = project([a - t * eta * h for a, h in zip(y, g)])
        touched = touched or norm([a - b for a, b in zip(y, first)]) > 0.999 * radius
        xs.append(x)
        square += t**2 * norm([a - b for a, b in zip(g, hint)]) ** 2
        params[:] = mean
    assert touched, "the ball never mattered"


def median_batch(params, batches, lr, wd, kind, rounds):
    """The median over the batch (arXiv 2402.12828): of elements, or Weiszfeld's."""
    for _ in range(STEPS):
        each = examples_gradients(params, batches())
        count = len(each[0])
        if kind == "element":
            u = [np.sort(g, axis=0)[(count - 1) // 2] for g in each]
        else:
            u = [g.mean(0) for g in each]
            for _ in range(rounds):
                far = [norm([g[k] - c for g, c in zip(each, u)]) for k in range(count)]
                weights = [1 / d / sum(1 / e for e in far) for d in far]
                u = [sum(w * g[k] for k, w in enumerate(weights)) for g in each]
        for i in range(len(params)):
            params[i] = (1 - lr * wd) * params[i] - lr * u[i]


def mars_exact(params, batches, lr, wd, beta1, beta2, gamma):
    """Algorithm 2 of arXiv 2411.10438: both gradients on one batch; AdamW for the vector."""
    m, v, last = [0.0 * p for p in params], [0.0 * p for p in params], [p.copy() for p in params]
    for t in range(1, STEPS + 1):
        batch = batches()
        g, old = mean_gradients(params, batch), mean_gradients(last, batch)
        last = [p.copy() for p in params]
        for i in range(len(params)):
            c, b1, b2 = g[i], 0.9, 0.95
            if c.ndim == 2:
                b1, b2 = beta1, beta2
                c = c + gamma * beta1 / (1 - beta1) * (c - old[i])
                c = c / max(1.0, norm([c]))
            m[i] = b1 * m[i] + (1 - b1) * c
            v[i] = b2 * v[i] + (1 - b2) * c * c
            u = (m[i] / (1 - b1**t)) / (np.sqrt(v[i] / (1 - b2**t)) + 1e-8)
            params[i] = params[i] - lr * (u + wd * params[i])


OWNERS = [
    Row("mars_exact", mars_exact,
        {"lr": 0.05, "wd": 0.1, "beta1": 0.95, "beta2": 0.99, "gamma": 0.1}, package="",
        float32=2e-5),
    Row("momo", momo, {"lr": 2.0, "wd": 0.01, "beta": 0.9, "lower": 0.0}, package=""),
    Row("momo_adam", momo_adam,
        {"lr": 0.3, "wd": 0.01, "beta1": 0.9, "beta2": 0.99, "lower": 0.9, "eps": 1e-8},
        package="", float32=2e-5),
    Row("truncated", truncated, {"lr": 2.0, "wd": 0.01, "lower": 0.5}, package=""),
    Row("spider", spider, {"lr": 0.1, "wd": 0.01}, package="", float32=5e-6),
    Row("unixgrad", unixgrad, {"radius": 1.0}, package="", float32=5e-5),
    Row("median_batch", median_batch, {"lr": 0.3, "wd": 0.01, "kind": "element", "rounds": 1},
        package="", label="element"),
    Row("median_batch", median_batch, {"lr": 0.3, "wd": 0.01, "kind": "geometric", "rounds": 8},
        package="", label="geometric", float32=1e-5),
]  # fmt: skip


@pytest.mark.parametrize("row", OWNERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_owner_of_its_step_equals_its_formula(row, dtype, monkeypatch):
    parity.test_owner_of_its_step_equals_its_formula(row, dtype, monkeypatch)


def test_unixgrad_evaluates_its_average():
    task, _, _ = regression(torch.float64)
    algorithm = discover.load(discover.find("unixgrad")).Algorithm(
        task, hyperparameters("unixgrad", {"radius": 1.0})
    )
    for _ in range(3):
        algorithm.step()
    assert error([p.detach() for p in task.params], algorithm.evaluate_view()) == 0.0


def test_median_batch_finds_the_geometric_median():
    module = discover.load(discover.find("median_batch"))
    points = torch.from_numpy(np.random.default_rng(1).standard_normal((9, 3)))
    points[0] += 50
    found = module.geometric([points[:, :2], points[:, 2:]], 2000)
    distance = lambda x: np.linalg.norm(points.numpy() - x, axis=1).sum()  # noqa: E731
    known = minimize(distance, points.numpy().mean(0), options={"gtol": 1e-10})
    assert np.allclose(torch.cat(found).numpy(), known.x, atol=1e-5)
    assert float(torch.cat(found).norm()) < 2, "an outlier moved the median"


class Fit:
    """A workload with residuals tanh(w·x + b) − y; 8 examples a step."""

    __name__ = "fit"
    size = staticmethod(lambda data, config: len(data["x"]))
    batch = staticmethod(lambda data, index, config: {k: v[index] for k, v in data.items()})
    terms = staticmethod(lambda model, b: {"fit": model(b["x"])[:, 0].tanh() - b["y"]})
    loss = staticmethod(lambda model, b: Fit.terms(model, b)["fit"].square().mean())


def fit():
    """Return a task of Fit in float64."""
    random = np.random.default_rng(4)
    data = {k: torch.from_numpy(random.standard_normal(n)) for k, n in (("x", (64, 5)), ("y", 64))}
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 1).double()
    return Task(Fit, SimpleNamespace(batch=8), data, model, seed=0, horizon=10**12)


def test_prox_linear_equals_its_formula():
    """Dense solves with the Jacobian written by hand; six unknowns need at most six rounds."""
    task, stream, lr = fit(), fit(), 3.0
    module = discover.load(discover.find("prox_linear"))
    algorithm = module.Algorithm(task, hyperparameters("prox_linear", {"lr": lr}))
    p = np.concatenate([q.detach().numpy().flatten() for q in stream.params])
    for task.step in range(STEPS):
        algorithm.step()
        batch = {k: v.numpy() for k, v in stream.next_batch().items()}
        x = np.hstack([batch["x"], np.ones((8, 1))]) / math.sqrt(8)
        z = np.tanh(math.sqrt(8) * x @ p)
        r, jacobian = (z - batch["y"]) / math.sqrt(8), (1 - z**2)[:, None] * x
        p = p - np.linalg.solve(jacobian.T @ jacobian + np.eye(6) / (2 * lr), jacobian.T @ r)
    mine = torch.cat([q.detach().flatten() for q in task.params])
    assert error([mine], [torch.from_numpy(p)]) <= 1e-9


# Methods whose papers were not at hand.


def opt_amsgrad(params, grads, lr, wd, beta1, beta2, guess, lam, r, eps):
    """The rule of the docstring of opt_amsgrad; the guess from all gradients so far."""
    theta, v, peak = [0.0 * p for p in params], [eps + 0.0 * p for p in params], None
    base, seen, m = [p.copy() for p in params], [], [0.0 * p for p in params]
    for t in range(STEPS):
        g = grads(t, params)
        seen.append(np.concatenate([x.flatten() for x in g]))
        v = [beta2 * a + (1 - beta2) * (x - y) ** 2 for a, x, y in zip(v, g, m)]
        peak = [np.maximum(a, b) for a, b in zip(peak or [eps] * len(v), v)]
        new = seen[-1]
        if guess == "extrapolate" and len(seen) > r:
            part = np.stack(seen[-r - 1 :])
            u = np.diff(part, axis=0)
            ridge = lam * np.trace(u @ u.T) / r * np.eye(r)
            c = np.linalg.solve(u @ u.T + ridge, np.ones(r))
            new = (c / c.sum()) @ part[:-1]
        cuts = np.cumsum([p.size for p in params])[:-1]
        m = [x.reshape(p.shape) for x, p in zip(np.split(new, cuts), params)]
        for i in range(len(params)):
            h = beta1 * theta[i] + (1 - beta1) * m[i]
            theta[i] = beta1 * theta[i] + (1 - beta1) * g[i]
            base[i] = (1 - lr * wd) * base[i] - lr * theta[i] / np.sqrt(peak[i])
            params[i] = base[i] - lr * h / np.sqrt(peak[i])


def lanton(params, grads, lr, wd, beta1, beta2, alpha):
    """The rule of the docstring of lanton, Newton-Schulz on singular values."""
    m, last, noise = [0.0 * p for p in params], None, [0.0] * len(params)
    for t in range(STEPS):
        g = grads(t, params)
        for i, x in enumerate(g):
            m[i] = beta1 * m[i] + (1 - beta1) * x
            if last:
                d = x - last[i]
                noise[i] = beta2 * noise[i] + (1 - beta2) * (d * quintic(d)).sum() ** 2
        last = g
        size = max(sum(noise) / len(noise), 1e-30)
        a = [alpha / math.sqrt(alpha**2 + h / size) for h in noise]
        for i in range(len(params)):
            rate = lr * math.sqrt(a[i] / max(a))
            stretch = math.sqrt(max(1, params[i].shape[0] / params[i].shape[1]))
            params[i] = params[i] - rate * (stretch * quintic(m[i]) + wd * params[i])


def quintic(u):
    left, s, right = np.linalg.svd(u, full_matrices=False)
    s = s / (math.sqrt((s**2).sum()) + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (left * s) @ right


def wngrad(params, grads, lr, wd, b0):
    b = b0
    for t in range(STEPS):
        g = grads(t, params)
        b = b + norm(g) ** 2 / b
        for i in range(len(params)):
            params[i] = (1 - lr * wd) * params[i] - lr / b * g[i]


def adagrad_norm_delayed(params, grads, lr, wd, b0, eps):
    past = []
    for t in range(STEPS):
        g = grads(t, params)
        rate = lr / (b0**2 + sum(past)) ** (0.5 + eps)
        past.append(norm(g) ** 2)
        for i in range(len(params)):
            params[i] = (1 - lr * wd) * params[i] - rate * g[i]


def sea(params, grads, lr, wd, rate):
    last, total = [0.0 * p for p in params], 0.0
    for t in range(STEPS):
        u = [g + wd * p for g, p in zip(grads(t, params), params)]
        total += norm([a - b for a, b in zip(u, last)]) ** 2
        for i in range(len(params)):
            params[i] = params[i] - lr / math.sqrt(1 + total) * (2 * u[i] - last[i])
        last = u


def kt_betting(params, grads, lr, eps, coordinates):
    """Bets c̄·W with c̄ the mean of t − 1 outcomes and a zero; one bettor, or one per element."""
    first = [p.copy() for p in params]
    if coordinates:
        wealth, largest = [eps + 0.0 * p for p in params], [0.0 * p for p in params]
    else:
        wealth, largest = [eps] * len(params), 0.0
    outcomes = []
    for t in range(STEPS):
        g = grads(t, params)
        way = [p - q for p, q in zip(params, first)]
        if coordinates:
            largest = [np.maximum(a, np.abs(x)) for a, x in zip(largest, g)]
            c = [-x / a for x, a in zip(g, largest)]
            wealth = [np.maximum(w + x * y, eps / 10) for w, x, y in zip(wealth, c, way)]
        else:
            largest = max(largest, norm(g))
            c = [-x / largest for x in g]
            wealth = [max(wealth[0] + inner(c, way), eps / 10)] * len(params)
        outcomes.append(c)
        for i in range(len(params)):
            mean = sum(c[i] for c in outcomes) / (len(outcomes) + 1)
            params[i] = first[i] + mean * wealth[i]


GUESS = {**ADAM, "r": 3, "lam": 0.1, "eps": 1e-8}
SUMMARIES = [
    Row("opt_amsgrad", opt_amsgrad, {**GUESS, "guess": "last"}, package="", float32=1e-5),
    Row("opt_amsgrad", opt_amsgrad, {**GUESS, "guess": "extrapolate"}, package="",
        label="extrapolate", float32=1e-5),
    Row("lanton", lanton, {"lr": 0.02, "wd": 0.1, "beta1": 0.95, "beta2": 0.9, "alpha": 1.0},
        package="", shapes=MATRICES, float32=5e-6),
    Row("wngrad", wngrad, {"lr": 1.0, "wd": 0.01, "b0": 2.0}, package=""),
    Row("adagrad_norm_delayed", adagrad_norm_delayed,
        {"lr": 1.0, "wd": 0.01, "b0": 5.0, "eps": 0.1}, package=""),
    Row("optimistic_sgd", sea, {"lr": 0.5, "wd": 0.01, "rate": "sea"}, package="", label="sea"),
    Row("kt_betting", kt_betting, {"lr": 1.0, "eps": 0.5, "coordinates": False}, package="",
        float32=1e-5),
    Row("kt_betting", kt_betting, {"lr": 1.0, "eps": 0.05, "coordinates": True}, package="",
        float32=1e-5, label="coordinates"),
]  # fmt: skip


@pytest.mark.parametrize("row", SUMMARIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_submission_does_what_its_docstring_says(row, dtype):
    assert followed(row, dtype) <= (row.float32 if dtype == torch.float32 else row.float64)


@pytest.mark.parametrize(
    "outcome, wealth", [(lambda t: 1.0, 131_461.0), (lambda t: (-1.0) ** t, 0.1762)]
)
def test_kt_betting_wins_what_the_krichevsky_trofimov_bettor_wins(outcome, wealth):
    """Twenty coins: all heads give about 2^20/√(20π), heads and tails in turn √(2/(20π))."""
    module, hp = discover.load(discover.find("kt_betting")), hyperparameters("kt_betting", {})
    hp.eps = 1.0
    p, state = [torch.zeros(1, dtype=torch.float64)], None
    state = module.init(p, hp)
    for t in range(20):
        module.update(p, [torch.tensor([-outcome(t)], dtype=torch.float64)], state, hp, 0.0)
    assert state["wealth"] == pytest.approx(wealth, rel=1e-3)


def test_lanton_with_equal_noise_has_equal_rates():
    module = discover.load(discover.find("lanton"))
    assert module.rates([torch.tensor(2.0)] * 3, 1.0).tolist() == [1.0] * 3
    quiet, loud = module.rates([torch.tensor(0.0), torch.tensor(2.0)], 1.0).tolist()
    # The mean noise is 1, so the loud matrix has a = 1/√(1 + 2).
    assert (quiet, loud) == (1.0, pytest.approx(3**-0.25))


def test_opt_amsgrad_on_a_constant_gradient_never_shrinks_its_step():
    """After the first step the guess is right: the second moment stays where it is."""
    module, hp = discover.load(discover.find("opt_amsgrad")), hyperparameters("opt_amsgrad", {})
    p = start(torch.float64, [(3,)])
    g, state = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), module.init(p, hp)
    module.update(p, [g], state, hp, 0.0)
    first = state["peak"][0].clone()
    for _ in range(5):
        module.update(p, [g], state, hp, 0.0)
    assert torch.equal(state["peak"][0], first)
