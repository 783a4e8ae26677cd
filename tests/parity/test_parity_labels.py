"""Methods for wrong, partial and trusted labels follow a second loop in float64.

On the network of tests/support/nets.py: numpy loops written from the papers. What is drawn at
random is drawn again from an equal generator. Every fourth example is trusted.
"""

import numpy as np
import pytest
import torch

from tests.parity.test_parity import Row
from tests.support import nets
from tests.support.nets import (
    BATCH,
    CLASSES,
    EXAMPLES,
    STEPS,
    Adam,
    backward,
    forward,
    gradients,
    rate,
    softmax,
)

ADAMW = {"lr": 0.02, "wd": 0.1, "beta2": 0.95}
SGD = {"lr": 0.1, "wd": 0.01, "momentum": 0.9, "nesterov": True}
TRUSTED = np.arange(0, EXAMPLES, 4)


def labelled_task():
    """Return the task of nets with trusted examples."""
    task = nets.task()
    task._workload.trusted = lambda data, config: torch.from_numpy(TRUSTED)
    return task


def data():
    """Return all training examples: x [N, inputs], y [N]."""
    whole = nets.task().gather(torch.arange(EXAMPLES))
    return whole["inputs"].numpy(), whole["targets"].numpy()


def order():
    """Yield the example numbers of each step."""
    stream = nets.task()
    while True:
        yield stream.next_index().numpy()


def drawn(generator, count=BATCH):
    return TRUSTED[torch.randint(len(TRUSTED), (count,), generator=generator).numpy()]


def nats(weights, x, y):
    return -np.log(softmax(forward(weights, x)[0])[np.arange(len(y)), y])


def weighted(weights, x, y, shares):
    """Return the gradient of Σ shares·nats."""
    scores, kept = forward(weights, x)
    return backward(weights, kept, (softmax(scores) - np.eye(CLASSES)[y]) * shares[:, None])


def agreement(weights, x, y, direction):
    """Return <∇ℓ_i, direction> of every example, from one backward pass each."""
    each = [gradients(weights, x[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    return np.array([sum((g[n] * direction[n]).sum() for n in direction) for g in each])


def robust(kind, strength):
    """AdamW with ∂loss/∂p by the chain rule through the softmax's Jacobian."""

    def slope(p, y):
        """Return ∂loss/∂p of one example, [C]."""
        hot = np.eye(CLASSES)[y]
        if kind == "gce":
            return -hot * p[y] ** (strength - 1)
        if kind == "sce":
            return -strength * hot / p[y] + 4 * (1 - hot)
        if kind == "label_smoothing":
            return -((1 - strength) * hot + strength / CLASSES) / p
        log, rest = np.log(p[y]), 1 - p[y]
        return hot * (strength * rest ** (strength - 1) * log - rest**strength / p[y])

    def loop(**hp):
        weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
        for t, (x, y) in zip(range(STEPS), nets.batches()):
            scores, kept = forward(weights, x)
            p = softmax(scores)
            d = [(np.diag(a) - np.outer(a, a)) @ slope(a, b) for a, b in zip(p, y)]
            grads = backward(weights, kept, np.array(d) / len(y))
            optimizer.step(weights, grads, hp["lr"] * rate(t), hp["wd"])
        return weights

    return loop


def trusted_mix(share, **hp):
    (x, y), generator, stream = data(), nets.draws(), nets.task()
    weights, optimizer, count = nets.start(), Adam(beta2=hp["beta2"]), round(share * BATCH)
    for t in range(STEPS):
        now = np.concatenate([drawn(generator, count), stream.next_index(BATCH - count).numpy()])
        optimizer.step(weights, gradients(weights, x[now], y[now]), hp["lr"] * rate(t), hp["wd"])
    return weights


def l2rw(**hp):
    """Algorithm 1 of arXiv 1803.09050 with the closed form of its meta step."""
    (x, y), generator, stream = data(), nets.draws(), order()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    for t in range(STEPS):
        now, right = next(stream), drawn(generator)
        u = agreement(weights, x[now], y[now], gradients(weights, x[right], y[right]))
        u = np.maximum(u, 0)
        if u.sum():
            g = weighted(weights, x[now], y[now], u / u.sum())
            optimizer.step(weights, g, hp["lr"] * rate(t), hp["wd"])
    return weights


def mw_net(lr, wd, momentum, nesterov, net_lr):
    """Algorithm 1 of arXiv 1902.07379; the meta gradient by the chain rule."""
    (x, y), generator, stream = data(), nets.draws(), order()
    weights, buffers = nets.start(), {n: 0.0 for n in nets.start()}  # noqa: C420
    fans, shapes = (1, 1, 100, 100), ((100, 1), (100,), (1, 100), (1,))
    net = {
        i: ((2 * torch.rand(s, generator=generator) - 1) / f**0.5).numpy().astype(float)
        for i, (s, f) in enumerate(zip(shapes, fans))
    }
    adam = Adam(beta2=0.999)

    def weigh(losses):
        hidden = np.maximum(losses[:, None] @ net[0].T + net[1], 0)
        return hidden, 1 / (1 + np.exp(-(hidden @ net[2].T + net[3])))[:, 0]

    for t in range(STEPS):
        now, right = next(stream), drawn(generator)
        losses, step = nats(weights, x[now], y[now]), lr * rate(t)
        hidden, v = weigh(losses)

        def moved(v, now=now, step=step):
            g = weighted(weights, x[now], y[now], v / len(v))
            return {n: w - step * g[n] for n, w in weights.items()}

        g = gradients(moved(v), x[right], y[right])
        pull = -step / len(v) * agreement(weights, x[now], y[now], g)
        out = pull * v * (1 - v)
        below = out[:, None] * net[2] * (hidden > 0)
        adam.step(
            net,
            {
                0: below.T @ losses[:, None],
                1: below.sum(0),
                2: out[None] @ hidden,
                3: out.sum()[None],
            },
            net_lr,
        )
        g = weighted(weights, x[now], y[now], weigh(losses)[1] / len(v))
        for n in weights:
            u = g[n] + wd * weights[n]
            buffers[n] = momentum * buffers[n] + u
            weights[n] = weights[n] - step * (u + momentum * buffers[n] if nesterov else buffers[n])
    return weights


def co_teaching(noise, epochs, **hp):
    """Algorithm 1 of arXiv 1804.06872."""
    (x, y), generator, stream = data(), nets.draws(), order()
    first = nets.start()
    second = {
        n: w.ravel()[torch.randperm(w.size, generator=generator).numpy()].reshape(w.shape)
        for n, w in first.items()
    }
    pair, optimizers = [first, second], [Adam(beta2=hp["beta2"]) for _ in range(2)]
    for t in range(STEPS):
        now = next(stream)
        kept = int((1 - noise * min(t * BATCH / EXAMPLES / epochs, 1)) * BATCH)
        picks = [now[np.argsort(nats(w, x[now], y[now]), kind="stable")[:kept]] for w in pair]
        for weights, optimizer, pick in zip(pair, optimizers, picks[::-1]):
            g = gradients(weights, x[pick], y[pick])
            optimizer.step(weights, g, hp["lr"] * rate(t), hp["wd"])
    return first


def mixup(alpha, **hp):
    """arXiv 1710.09412 with the targets mixed, not the losses: they are linear in each other."""
    generator, weights, optimizer = nets.draws(), nets.start(), Adam(beta2=hp["beta2"])
    stream = list(zip(range(STEPS), nets.batches()))
    torch.manual_seed(3)
    for t, (x, y) in stream:
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        partner = torch.randperm(len(y), generator=generator).numpy()
        mixed = share * x + (1 - share) * x[partner]
        target = share * np.eye(CLASSES)[y] + (1 - share) * np.eye(CLASSES)[y[partner]]
        scores, kept = forward(weights, mixed)
        grads = backward(weights, kept, (softmax(scores) - target) / len(y))
        optimizer.step(weights, grads, hp["lr"] * rate(t), hp["wd"])
    return weights


def f2sa(penalty, logit_lr, rising, **hp):
    """Algorithm 1 of arXiv 2301.10945 for example weights σ(x_i)."""
    (x, y), generator, stream = data(), nets.draws(), order()
    upper, lower, logits = nets.start(), nets.start(), np.zeros(EXAMPLES)
    optimizers = [Adam(beta2=hp["beta2"]) for _ in range(2)]
    for t in range(STEPS):
        now, right = next(stream), drawn(generator)
        factor = 1 + (penalty - 1) * (t + 0.5) / STEPS if rising else penalty
        share = 1 / (1 + np.exp(-logits[now]))
        apart = nats(upper, x[now], y[now]) - nats(lower, x[now], y[now])
        noisy = weighted(upper, x[now], y[now], share / BATCH)
        clean = gradients(upper, x[right], y[right])
        grads = [
            {n: clean[n] + factor * noisy[n] for n in clean},
            weighted(lower, x[now], y[now], share / BATCH),
        ]
        for weights, optimizer, g in zip((upper, lower), optimizers, grads):
            optimizer.step(weights, g, hp["lr"] * rate(t), hp["wd"])
        logits[now] -= logit_lr * factor * share * (1 - share) * apart / BATCH
    return upper


LABELS = [
    *[
        Row("robust_loss", robust(kind, s), {**ADAMW, "kind": kind, "strength": s}, label=kind)
        for kind, s in (("gce", 0.7), ("sce", 0.1), ("label_smoothing", 0.1), ("focal", 2.0))
    ],
    Row("robust_loss", robust("gce", 0.5), {**ADAMW, "kind": "gce", "strength": 0.5}, package=""),
    Row("trusted_mix", trusted_mix, {**ADAMW, "share": 0.5}, package=""),
    Row("l2rw", l2rw, ADAMW, package=""),
    Row("mw_net", mw_net, {**SGD, "net_lr": 0.05}, package=""),
    Row("co_teaching", co_teaching, {**ADAMW, "noise": 0.5, "epochs": 1.5}, package=""),
    Row("mixup", mixup, {**ADAMW, "alpha": 1.0}, package=""),
    Row("f2sa", f2sa, {**ADAMW, "penalty": 5.0, "logit_lr": 100.0, "rising": True}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", LABELS, ids=str)
def test_label_method_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, labelled_task(), **row.hp)
    torch.manual_seed(3)
    second = row.second(**row.hp)
    torch.manual_seed(3)
    assert nets.difference(nets.run(submission), second) <= 1e-9
