"""Every method follows a second implementation of its rule, step by step.

Two tables, two laws. PEERS are trusted packages ("parity"); FORMULAS are float64 loops written from
the paper's rule, for methods no installable package has right ("formula"). Gradients depend on the
parameters, so an error at one step shows in the next.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from harness.catalog import discover, space
from harness.train.task import Task

SHAPES = [(6, 4), (4, 6), (5,), (3,)]
STEPS = 30
LOOSE = 1e-6  # float32 against float32: rounding of 30 steps
TIGHT = 1e-11  # float64 against float64: a misplaced eps shows


@dataclass
class Row:
    """Our submission with `hp`, and the second implementation with the same numbers."""

    submission: str
    second: Callable
    hp: dict = field(default_factory=dict)
    package: str = "torch"
    float32: float = LOOSE
    float64: float = TIGHT
    shapes: list = field(default_factory=lambda: SHAPES)
    label: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.submission, self.package, self.label)))


def gradient(p, seed, step, i):
    """Noise and a pull to zero: 0.3·p is what makes errors visible later on. Any float array."""
    noise = np.random.default_rng((seed, step, i)).standard_normal(tuple(p.shape))
    return (torch.from_numpy(noise).to(p.dtype) if isinstance(p, torch.Tensor) else noise) + 0.3 * p


def start(dtype, shapes):
    return [
        torch.from_numpy(np.random.default_rng((7, i)).standard_normal(s)).to(dtype)
        for i, s in enumerate(shapes)
    ]


def hyperparameters(name, changes):
    """The submission's defaults with `changes`, its schedule off."""
    known = space.default(discover.read(discover.find(name)).literals["SPACE"])
    assert set(changes) <= set(known), f"{name} has no {set(changes) - set(known)}"
    return SimpleNamespace(**known | {"warmup": 0.0} | changes)


def ours(row, dtype):
    """Parameters after STEPS steps of the submission."""
    module = discover.load(discover.find(row.submission))
    hp = hyperparameters(row.submission, row.hp)
    params = start(dtype, row.shapes)
    state = module.init(params, hp)
    for step in range(STEPS):
        grads = [gradient(p, 0, step, i) for i, p in enumerate(params)]
        kept = [g.clone() for g in grads]
        module.update(params, grads, state, hp, 0.0)
        assert all(torch.equal(a, b) for a, b in zip(grads, kept)), "update changed its gradients"
    return params


def theirs(row, dtype):
    """Parameters after STEPS steps of the peer; some peers overwrite p.grad, so it is a copy."""
    params = [torch.nn.Parameter(p) for p in start(dtype, row.shapes)]
    peer = row.second(params)
    for step in range(STEPS):
        for i, p in enumerate(params):
            p.grad = gradient(p.detach(), 0, step, i).clone()
        peer.step()
    return [p.detach() for p in params]


def error(a, b):
    """Largest difference relative to the largest parameter."""
    largest = max(float(y.abs().max()) for y in b)
    return max(float((x.double() - y.double()).abs().max()) for x, y in zip(a, b)) / largest


def package(name, path, **kwargs):
    """A peer's constructor; the package is imported when it is called."""

    def construct(params):
        *inner, attribute = path.split(".")
        module = importlib.import_module(".".join([name.replace("-", "_"), *inner]))
        return getattr(module, attribute)(params, **kwargs)

    return construct


def trainable(name, path, **kwargs):
    """As `package`, for peers that must be put in training mode."""

    def construct(params):
        peer = package(name, path, **kwargs)(params)
        peer.train()
        return peer

    return construct


SGD = {"lr": 0.1, "momentum": 0.9, "wd": 0.01}
ADAM = {"lr": 0.01, "wd": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
LION = {"lr": 0.01, "wd": 0.1, "beta1": 0.9, "beta2": 0.99}
SGDS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
PRODIGY = {"wd": 0.1, "beta2": 0.99, "d0": 1e-3, "d_coef": 1.0}
PRODIGIES = {"betas": (0.9, 0.99), "weight_decay": 0.1, "d0": 1e-3}
ADAMS = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}

PEERS = [
    Row("sgd", package("torch", "optim.SGD", **SGDS, nesterov=True),
        {**SGD, "nesterov": True}, label="nesterov"),
    Row("sgd", package("torch", "optim.SGD", **SGDS, foreach=False),
        {**SGD, "nesterov": False}, label="heavy-ball"),
    Row("adamw", package("torch", "optim.AdamW", **ADAMS, foreach=False), ADAM),
    Row("lion", package("lion-pytorch", "Lion", **ADAMS), LION, package="lion-pytorch"),
    Row("lion", package("pytorch_optimizer", "Lion", **ADAMS), LION, package="pytorch_optimizer"),
    Row("cautious_lion", package("pytorch_optimizer", "Lion", **ADAMS, cautious=True),
        {**LION, "scale": "paper"}, package="pytorch_optimizer"),
    Row("cautious_lion", package("lion-pytorch", "cautious_lion.Lion", **ADAMS),
        {**LION, "scale": "mean"}, package="lion-pytorch"),
    Row("schedule_free_adamw",
        trainable("schedulefree", "AdamWScheduleFree", **ADAMS, warmup_steps=0, foreach=False),
        ADAM, package="schedulefree"),
    Row("rmsprop", package("torch", "optim.RMSprop", lr=0.01, alpha=0.9, eps=1e-8, momentum=0.9),
        {"lr": 0.01, "beta2": 0.9, "momentum": 0.9, "wd": 0.0}, label="momentum"),
    Row("rmsprop", package("torch", "optim.RMSprop", lr=0.01, alpha=0.99, eps=1e-8),
        {"lr": 0.01, "beta2": 0.99, "momentum": 0.0, "wd": 0.0}),
    Row("adagrad", package("torch", "optim.Adagrad", lr=0.1), {"lr": 0.1, "wd": 0.0}),
    Row("adam", package("torch", "optim.Adam", **ADAMS, foreach=False), ADAM),
    Row("amsgrad", package("torch", "optim.AdamW", **ADAMS, foreach=False, amsgrad=True),
        {**ADAM, "bias_correction": True}),
    Row("adafactor", package("torch", "optim.Adafactor", lr=0.1, weight_decay=0.1, foreach=False),
        {"lr": 0.1, "wd": 0.1}),
    Row("diffgrad", package("pytorch_optimizer", "DiffGrad", **ADAMS), ADAM,
        package="pytorch_optimizer"),
    Row("signsgd", package("pytorch_optimizer", "SignSGD", lr=0.01, momentum=0.9, weight_decay=0.1),
        {"lr": 0.01, "momentum": 0.9, "wd": 0.1}, package="pytorch_optimizer"),
    Row("sgd_sai", package("sgd_sai", "SGD_sai", lr=0.01, momentum=0.9, weight_decay=0.1),
        {"lr": 0.01, "momentum": 0.9, "wd": 0.1}, package="sgd_sai"),
    # d hangs on p₀ − p, of which float32 keeps four digits at first.
    Row("prodigy", package("prodigyopt", "Prodigy", **PRODIGIES, use_bias_correction=True),
        {**PRODIGY, "bias_correction": True}, package="prodigyopt", label="bias-correction",
        float32=5e-5),
    Row("prodigy", package("prodigyopt", "Prodigy", **PRODIGIES),
        {**PRODIGY, "bias_correction": False}, package="prodigyopt", float32=5e-5),
    Row("dog", package("dog", "DoG", reps_rel=1e-2), {"reps": 1e-2}, package="dog-optimizer"),
    Row("linear_decay", package("torch", "optim.AdamW", **ADAMS, foreach=False), ADAM),
    Row("finetune", package("torch", "optim.SGD", lr=0.1, momentum=0.9, foreach=False),
        {"lr": 0.1, "momentum": 0.9, "adaptive": False}),
    Row("finetune", package("torch", "optim.Adam", lr=0.01, betas=(0.9, 0.999), foreach=False),
        {"lr": 0.01, "momentum": 0.9, "adaptive": True}, label="adaptive"),
    # what LAWA trains; what it evaluates is the law below
    Row("lawa", package("torch", "optim.AdamW", **ADAMS, foreach=False), ADAM),
    # torch's Newton-Schulz runs in bfloat16, which bounds what can be seen: see the formula below.
    Row("muon", package("torch", "optim.Muon", lr=0.02, weight_decay=0.1, momentum=0.95),
        {"lr": 0.02, "wd": 0.1, "momentum": 0.95}, float32=3e-3, float64=3e-3, shapes=SHAPES[:2]),
]  # fmt: skip


@pytest.mark.parametrize("row", PEERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_submission_equals_its_peer(row, dtype):
    try:
        version(row.package)
    except PackageNotFoundError:
        pytest.skip(f"the peer {row.package} is not installed")
    limit = row.float32 if dtype == torch.float32 else row.float64
    assert error(ours(row, dtype), theirs(row, dtype)) <= limit


# Formulas change the list `params` of float64 arrays in place; grads(step, params) is t from 0.


def adamw(params, grads, lr, wd, beta1, beta2, eps):
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            u = (m[i] / (1 - beta1**t)) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            params[i] = (1 - lr * wd) * params[i] - lr * u


def nadamw(params, grads, lr, wd, beta1, beta2, eps):
    """AlgoPerf's NAdamW (arXiv 2306.07179)."""
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            ahead = (beta1 * m[i] + (1 - beta1) * g) / (1 - beta1**t)
            scale = np.sqrt(v[i] / (1 - beta2**t)) + eps
            params[i] = (1 - lr * wd) * params[i] - lr * ahead / scale


def cautious_adamw(params, grads, lr, wd, beta1, beta2, eps, scale):
    """Algorithm 1 of arXiv 2411.16085 ("paper"); the authors' later scaling ("mean")."""
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            u = (m[i] / (1 - beta1**t)) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            keep = (u * g > 0).astype(float)
            gain = u.size / (keep.sum() + 1) if scale == "paper" else 1 / max(keep.mean(), 1e-3)
            params[i] = params[i] - lr * wd * params[i] - lr * gain * keep * u


def muon(params, grads, lr, wd, momentum):
    """Muon with Nesterov momentum; the quintic is applied to the singular values themselves."""
    m = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            m[i] = momentum * m[i] + (1 - momentum) * g
            u = momentum * m[i] + (1 - momentum) * g
            left, s, right = np.linalg.svd(u, full_matrices=False)
            s = s / (math.sqrt((s**2).sum()) + 1e-7)
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            stretch = math.sqrt(max(1, u.shape[0] / u.shape[1]))
            params[i] = (1 - lr * wd) * params[i] - lr * stretch * (left * s) @ right


def amsgrad(params, grads, lr, wd, beta1, beta2, eps, bias_correction):
    """Algorithm 2 of arXiv 1904.09237, which has no bias correction."""
    assert not bias_correction
    m, v, w = ([0.0 * p for p in params] for _ in range(3))
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            w[i] = np.maximum(w[i], v[i])
            params[i] = (1 - lr * wd) * params[i] - lr * m[i] / (np.sqrt(w[i]) + eps)


def lamb(params, grads, lr, wd, beta1, beta2, eps):
    """Algorithm 2 of arXiv 1904.00962 with φ the identity."""
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            r = (m[i] / (1 - beta1**t)) / (np.sqrt(v[i] / (1 - beta2**t)) + eps) + wd * params[i]
            ratio = math.sqrt((params[i] ** 2).sum()) / math.sqrt((r**2).sum())
            params[i] = params[i] - lr * ratio * r


def norm(arrays):
    return math.sqrt(sum((a**2).sum() for a in arrays))


def adagrad_norm(params, grads, lr, wd, b0):
    """Algorithm 1 of arXiv 1806.01811."""
    square = b0**2
    for t in range(STEPS):
        g = grads(t, params)
        square += norm(g) ** 2
        for i in range(len(params)):
            params[i] = params[i] - lr * wd * params[i] - lr / math.sqrt(square) * g[i]


def clip_adagrad(params, grads, lr, wd, b0, clip, eta):
    """Clipping, delay and reweighting of arXiv 2406.04443."""
    b = b0
    for t in range(STEPS):
        g = grads(t, params)
        g = [x * min(1, clip / norm(g)) for x in g]
        for i in range(len(params)):
            params[i] = params[i] - lr * wd * params[i] - lr / b * g[i]
        b = math.sqrt(b**2 + eta * norm(g) ** 2)


def clip_sgd(params, grads, lr, wd, momentum, clip):
    """Global norm clipping, then torch's heavy ball."""
    b = [0.0 * p for p in params]
    for t in range(STEPS):
        g = grads(t, params)
        factor = min(1, clip / norm(g))
        for i in range(len(params)):
            b[i] = momentum * b[i] + factor * g[i] + wd * params[i]
            params[i] = params[i] - lr * b[i]


def component_clip(params, grads, clip, **hp):
    """arXiv 2210.10325 with one component per tensor."""
    adamw(params, lambda t, ps: [g * min(1, clip / norm([g])) for g in grads(t, ps)], **hp)


def median_sgd(params, grads, lr, wd, tau):
    """arXiv 2402.12828: m moves to g, by at most tau."""
    m = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            far = np.abs(g - m[i]) > tau
            m[i] = np.where(far, m[i] + tau * np.sign(g - m[i]), g)
            params[i] = params[i] - lr * wd * params[i] - lr * m[i]


FORMULAS = [
    Row("amsgrad", amsgrad, {**ADAM, "bias_correction": False}, package=""),
    Row("lamb", lamb, {**ADAM, "eps": 1e-6}, package=""),
    Row("adagrad_norm", adagrad_norm, {"lr": 0.5, "wd": 0.01, "b0": 0.01}, package=""),
    Row("clip_adagrad", clip_adagrad, {"lr": 0.5, "wd": 0.01, "b0": 1.0, "clip": 5.0, "eta": 0.3},
        package=""),
    Row("clip_sgd", clip_sgd, {"lr": 0.1, "wd": 0.01, "momentum": 0.9, "clip": 6.0}, package=""),
    Row("component_clip", component_clip, {**ADAM, "clip": 2.0}, package=""),
    Row("median_sgd", median_sgd, {"lr": 0.1, "wd": 0.01, "tau": 0.3}, package=""),
    Row("nadamw", nadamw, ADAM, package=""),
    Row("cautious_adamw", cautious_adamw, {**ADAM, "scale": "paper"}, package="", label="paper"),
    Row("cautious_adamw", cautious_adamw, {**ADAM, "scale": "mean"}, package="", label="mean"),
    Row("muon", muon, {"lr": 0.02, "wd": 0.1, "momentum": 0.95}, package="", shapes=SHAPES[:2],
        float32=2e-6),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_submission_equals_its_formula(row, dtype):
    params = [p.double().numpy() for p in start(dtype, row.shapes)]
    row.second(params, lambda t, ps: [gradient(p, 0, t, i) for i, p in enumerate(ps)], **row.hp)
    second = [torch.from_numpy(p) for p in params]
    limit = row.float32 if dtype == torch.float32 else row.float64
    assert error(ours(row, dtype), second) <= limit


def test_schedule_free_evaluates_the_average():
    """What is evaluated is x, as in the peer's evaluation mode."""
    schedulefree = pytest.importorskip("schedulefree", reason="the peer is not installed")
    row = Row("schedule_free_adamw", schedulefree.AdamWScheduleFree, ADAM)
    module, hp = discover.load(discover.find(row.submission)), hyperparameters(row.submission, ADAM)
    params = start(torch.float64, SHAPES)
    peers = [torch.nn.Parameter(p.clone()) for p in params]
    state = module.init(params, hp)
    peer = schedulefree.AdamWScheduleFree(peers, **ADAMS, warmup_steps=0)
    peer.train()
    for step in range(STEPS):
        for i, p in enumerate(peers):
            p.grad = gradient(p.detach(), 0, step, i)
        peer.step()
        grads = [gradient(p, 0, step, i) for i, p in enumerate(params)]
        module.update(params, grads, state, hp, 0.0)
    peer.eval()
    assert error(module.evaluate_view(params, state), [p.detach() for p in peers]) <= TIGHT


# Methods that own their step: softmax regression, whose gradients are written out here by hand.


class Regression:
    """A workload: 5 inputs, 3 classes, linear, 8 examples a step."""

    __name__ = "regression"

    @staticmethod
    def size(data, config):
        return len(data["x"])

    @staticmethod
    def batch(data, index, config):
        return {"x": data["x"][index], "y": data["y"][index]}

    @staticmethod
    def losses(model, batch):
        return torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    @classmethod
    def loss(cls, model, batch):
        return cls.losses(model, batch).mean()

    drawn: ClassVar[list] = []  # labels that sample drew, for the second implementation

    @classmethod
    def sample(cls, model, batch, generator):
        q = model(batch["x"]).detach().double().softmax(-1)
        cls.drawn.append(torch.multinomial(q, 1, generator=generator).squeeze(-1))
        return cls.loss(model, batch | {"y": cls.drawn[-1]})


def regression(dtype):
    """A task, and a second stream of the same batches as arrays."""

    def task():
        random = np.random.default_rng(3)
        data = {
            "x": torch.from_numpy(random.standard_normal((64, 5))).to(dtype),
            "y": torch.from_numpy(random.integers(0, 3, 64)),
        }
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3).to(dtype)
        return Task(
            Regression, SimpleNamespace(batch=8), data, model, seed=0, horizon=10**12
        )  # progress 0: no schedule

    second = task()
    params = [p.detach().double().numpy().copy() for p in second.params]
    return (
        task(),
        params,
        lambda size=None: [
            v.double().numpy() if v.is_floating_point() else v.numpy()
            for v in second.next_batch(size).values()
        ],
    )


def examples_gradients(params, batch):
    """Gradients of each example's loss: [B, 3, 5] and [B, 3]."""
    (w, b), (x, y) = params, batch
    z = x @ w.T + b
    q = np.exp(z - z.max(1, keepdims=True))
    q = q / q.sum(1, keepdims=True) - np.eye(3)[y]
    return [q[:, :, None] * x[:, None, :], q]


def mean_gradients(params, batch):
    return [g.mean(0) for g in examples_gradients(params, batch)]


def sam(params, batches, lr, wd, beta1, beta2, eps, rho):
    """Algorithm 1 of arXiv 2010.01412 with AdamW as the base."""

    def grads(t, params):
        batch = batches()
        first = mean_gradients(params, batch)
        norm = math.sqrt(sum((g**2).sum() for g in first))
        return mean_gradients([p + rho * g / norm for p, g in zip(params, first)], batch)

    adamw(params, grads, lr, wd, beta1, beta2, eps)


def sophia(params, batches, estimate, lr, wd, beta1, beta2, gamma, every, eps):
    """Algorithm 3 of arXiv 2305.14342."""
    m, h = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(STEPS):
        batch = batches()
        g = mean_gradients(params, batch)
        new = estimate(params, batch) if t % every == 0 else None
        for i in range(len(params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g[i]
            h[i] = beta2 * h[i] + (1 - beta2) * new[i] if new else h[i]
            params[i] = params[i] - lr * wd * params[i]
            params[i] = params[i] - lr * np.clip(m[i] / np.maximum(gamma * h[i], eps), -1, 1)


def sophia_g(params, batches, **hp):
    """With the Gauss-Newton-Bartlett estimator, Algorithm 2."""
    drawn = iter(Regression.drawn[-math.ceil(STEPS / hp["every"]) :])

    def estimate(params, batch):
        return [8 * g**2 for g in mean_gradients(params, (batch[0], next(drawn).numpy()))]

    sophia(params, batches, estimate, **hp)


def sophia_h(params, batches, **hp):
    """With Hutchinson's estimator, Algorithm 1; the Hessian by differences of exact gradients."""
    generator = regression(torch.float32)[0].rng

    def estimate(params, batch):
        z = [torch.randn(p.shape, generator=generator).double().numpy() for p in params]
        up = mean_gradients([p + 1e-4 * x for p, x in zip(params, z)], batch)
        down = mean_gradients([p - 1e-4 * x for p, x in zip(params, z)], batch)
        return [x * (a - b) / 2e-4 for x, a, b in zip(z, up, down)]

    sophia(params, batches, estimate, **hp)


def adadagrad(params, batches, lr, wd, eps, eta, most):
    """The norm test of arXiv 2402.11215 in units of 8 examples, every tenth batch."""
    s, count, waiting = [0.0 * p for p in params], 1, []
    for t in range(STEPS):
        waiting.append(batches())
        if t % 10 == 9:
            examples = examples_gradients(params, waiting[-1])
            variance = sum(x.var(0, ddof=1).sum() for x in examples)
            asked = variance / (eta**2 * norm([x.mean(0) for x in examples]) ** 2)
            count = max(count, math.ceil(min(asked / 8, most)))
        if len(waiting) < count:
            continue
        g = mean_gradients(params, [np.concatenate(x) for x in zip(*waiting)])
        waiting = []
        for i in range(len(params)):
            s[i] = s[i] + g[i] ** 2
            params[i] = (1 - lr * wd) * params[i] - lr * g[i] / (np.sqrt(s[i]) + eps)
    assert count > 1, "the batch never grew"


SOPHIA = {"lr": 0.05, "wd": 0.1, "beta1": 0.9, "beta2": 0.9, "gamma": 1.0, "every": 5, "eps": 1e-12}
OWNERS = [
    Row("sam", sam, {**ADAM, "rho": 0.5}, package=""),
    Row("sophia_g", sophia_g, SOPHIA, package=""),
    Row("sophia_h", sophia_h, SOPHIA, package="", float64=1e-6),  # differences, not derivatives
    Row("adadagrad", adadagrad,
        {"lr": 0.1, "wd": 0.1, "eps": 1e-10, "eta": 1.0, "most": 4},
        package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", OWNERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_owner_of_its_step_equals_its_formula(row, dtype, monkeypatch):
    task, params, batches = regression(dtype)
    module = discover.load(discover.find(row.submission))
    if hasattr(module, "EVERY"):
        monkeypatch.setattr(module, "EVERY", 10)
    algorithm = module.Algorithm(task, hyperparameters(row.submission, row.hp))
    for task.step in range(STEPS):
        algorithm.step()
    row.second(params, batches, **row.hp)
    second = [torch.from_numpy(p) for p in params]
    limit = row.float32 if dtype == torch.float32 else row.float64
    assert error([p.detach() for p in task.params], second) <= limit


def test_median_sgd_without_limit_is_sgd():
    hp = {"lr": 0.1, "wd": 0.0, "tau": 1e9}
    peer = Row("sgd", package("torch", "optim.SGD", lr=0.1))
    mine = ours(Row("median_sgd", None, hp), torch.float64)
    assert error(mine, theirs(peer, torch.float64)) <= TIGHT


def test_dog_averages_with_polynomial_decay():
    """The average is a weighted mean of all points, whose weights sum to 1."""
    module, hp = discover.load(discover.find("dog")), hyperparameters("dog", {"reps": 1e-2})
    params = start(torch.float64, SHAPES)
    state, seen = module.init(params, hp), []
    for step in range(STEPS):
        module.update(
            params, [gradient(p, 0, step, i) for i, p in enumerate(params)], state, hp, 0.0
        )
        seen.append([p.clone() for p in params])
    shares = [9 / (8 + t) for t in range(1, STEPS + 1)]
    weights = [a * math.prod(1 - b for b in shares[t + 1 :]) for t, a in enumerate(shares)]
    assert sum(weights) == pytest.approx(1.0)
    mean = [sum(w * p[i] for w, p in zip(weights, seen)) for i in range(len(params))]
    assert error(module.evaluate_view(params, state), mean) <= TIGHT


def test_lawa_evaluates_the_mean_of_its_latest_copies():
    module = discover.load(discover.find("lawa"))
    hp = hyperparameters("lawa", {"copies": 3, "every": 0.1})
    params = start(torch.float64, SHAPES)
    state, seen = module.init(params, hp), []
    assert module.evaluate_view(params, state)[0] is params[0]
    for step in range(40):
        grads = [gradient(p, 0, step, i) for i, p in enumerate(params)]
        module.update(params, grads, state, hp, (step + 0.5) / 40)
        if step in (4, 8, 12, 16, 20, 24, 28, 32, 36):
            seen.append([p.clone() for p in params])
    mean = [sum(p) / 3 for p in zip(*seen[-3:])]
    assert error(module.evaluate_view(params, state), mean) <= TIGHT


def test_sophia_g_follows_the_authors_class():
    """The authors' class has γ·B as rho·bs; its Hessian is updated before the step here."""
    peers = pytest.importorskip("sophia_opt", reason="the peer sophia-opt is not installed")
    hp = {"lr": 0.01, "wd": 0.1, "beta1": 0.9, "beta2": 0.9, "gamma": 0.3, "every": 10}
    params = [torch.nn.Parameter(p) for p in start(torch.float64, SHAPES)]
    second = [torch.nn.Parameter(p) for p in start(torch.float64, SHAPES)]

    def give(params, seed, step):
        for i, p in enumerate(params):
            p.grad = gradient(p.detach(), seed, step, i)

    task = SimpleNamespace(
        params=params, step=0, progress=0.0, batch_size=2, next_batch=lambda: None
    )
    task.forward_backward = lambda batch: give(params, 0, task.step)
    task.sampled_backward = lambda batch: give(params, 1, task.step)
    algorithm = discover.load(discover.find("sophia_g")).Algorithm(
        task, hyperparameters("sophia_g", hp)
    )
    peer = peers.SophiaG(second, lr=0.01, betas=(0.9, 0.9), rho=0.3, weight_decay=0.1)
    for task.step in range(STEPS):
        algorithm.step()
        if task.step % 10 == 0:
            give(second, 1, task.step)
            peer.update_hessian()
        give(second, 0, task.step)
        peer.step(bs=2)
    assert error([p.detach() for p in params], [p.detach() for p in second]) <= TIGHT


def test_refined_schedule_has_the_closed_form():
    """η ∝ w·Σ later w with w = 1/G² (arXiv 2310.07831, Theorem 1), worked out by hand."""
    module = discover.load(discover.find("refined_schedule"))
    norms = torch.tensor([4.0, 2.0, 1.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    by_hand = torch.tensor([41 / 336, 37 / 84, 1.0, 5 / 21, 1 / 84, 0.0], dtype=torch.float64)
    torch.testing.assert_close(module.refine(norms**2, 0.0), by_hand)
    flat = module.refine(torch.ones(100, dtype=torch.float64), 0.1)
    torch.testing.assert_close(flat, torch.arange(99, -1, -1, dtype=torch.float64) / 99)


def test_refined_schedule_starts_again_at_half_the_horizon():
    task, _, _ = regression(torch.float64)
    task.horizon = 20
    first = [p.detach().clone() for p in task.params]
    hp = hyperparameters("refined_schedule", {"lr": 0.05})
    algorithm = discover.load(discover.find("refined_schedule")).Algorithm(task, hp)
    for task.step in range(20):
        if task.step == 10:
            probed = [p.detach().clone() for p in task.params]
            assert (algorithm.state["norms"] > 0).all()
        algorithm.step()
        if task.step == 10:
            near = max(float((p.detach() - q).abs().max()) for p, q in zip(task.params, first))
            assert near <= 0.05 * 1.1, "not back at the start"
    assert error(probed, first) > 0.1
