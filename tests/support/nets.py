"""A network with gradients by hand: its task for submissions, its gradients and AdamW in numpy.

x → ReLU(LayerNorm(W x + b)), twice → readout; softmax cross-entropy. A test lets a submission make
STEPS steps on `task()`. It compares the weights with those that a second implementation computes
from `start()` and `batches()`. Both are dictionaries of float64 arrays by the parameter's name.
"""

import math
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from harness.catalog import discover, space
from harness.seeds import derive
from harness.train.submission import Submission
from harness.train.task import Task

STEPS, BATCH, EXAMPLES = 20, 8, 64
# inputs and outputs of each hidden matrix
WIDTHS = [(8, 12), (12, 8)]
CLASSES, EPS = 3, 1e-5
HIDDEN = ["blocks.0.linear.weight", "blocks.1.linear.weight"]
HEAD = ["readout.weight", "readout.bias"]


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs), nn.LayerNorm(outputs, eps=EPS)

    def forward(self, x):
        return F.relu(self.norm(self.linear(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(*widths) for widths in WIDTHS)
        self.readout = nn.Linear(WIDTHS[-1][1], CLASSES)
        self.readout.role = "readout"

    def features(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x):
        return self.readout(self.features(x))


WORKLOAD = SimpleNamespace(
    __name__="net",
    size=lambda data, config: len(data["targets"]),
    batch=lambda data, index, config: {k: v[index] for k, v in data.items()},
    inputs=lambda batch: batch["inputs"],
    logits=lambda model, batch: model(batch["inputs"]),
    losses=lambda model, batch: F.cross_entropy(
        model(batch["inputs"]), batch["targets"], reduction="none"
    ),
    loss=lambda model, batch: F.cross_entropy(model(batch["inputs"]), batch["targets"]),
    features=lambda model, batch: model.features(batch["inputs"]),
    nats=lambda scores, batch: F.cross_entropy(scores, batch["targets"], reduction="none"),
    sample=lambda model, batch, generator: sampled(model(batch["inputs"]), generator),
    stream=lambda data, config, seed: torch.arange(STEPS * BATCH) % EXAMPLES,
)


def sampled(scores, generator):
    """Return the mean nats against labels drawn from the model."""
    drawn = torch.multinomial(scores.detach().softmax(1), 1, generator=generator)[:, 0]
    return F.cross_entropy(scores, drawn)


def task(steps=STEPS, tasks=0, memory=1 << 20, labels=None):
    """Return the same task each time, in float64; training starts from 'pretrained' weights.

    Args:
        tasks: the number of tasks of a stream; 0 for no stream.
        memory: bytes that a stream's method may keep of examples.
        labels: the block of a workload that sells labels; all are free without it.
    """
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        # No bias is zero and no gain is one, so that all of them affect the result.
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    random = np.random.default_rng(5)
    data = {
        "inputs": torch.from_numpy(random.standard_normal((EXAMPLES, WIDTHS[0][0]))),
        "targets": torch.from_numpy(random.integers(0, CLASSES, EXAMPLES)),
    }
    config = SimpleNamespace(batch=BATCH, horizon=steps)
    if labels:
        config.labels = labels
    if tasks:
        config.stream = SimpleNamespace(
            tasks=tasks, boundaries="shown", passes=3, memory=memory, recurring=False
        )
    result = Task(WORKLOAD, config, data, model, 0, steps)
    result.start = {name: value.clone() for name, value in model.state_dict().items()}
    return result


def start():
    """Return the weights that training starts from."""
    return {name: p.detach().numpy().copy() for name, p in task().model.named_parameters()}


def batches(tasks=0):
    """Yield the batches of a run in order: x [B, inputs], y [B]."""
    stream = task(tasks=tasks)
    while True:
        batch = stream.next_batch()
        stream.step += 1
        yield batch["inputs"].numpy(), batch["targets"].numpy()


def draws():
    """Return the submission's own random generator."""
    return torch.Generator().manual_seed(derive(0, "submission"))


def submitted(name, made=None, **hp):
    """Return a submission that trains on the task `made`, with its defaults and `hp`."""
    card = discover.read(discover.find(name))
    known = space.default(card.literals["SPACE"])
    assert set(hp) <= set(known), f"{name} has no {set(hp) - set(known)}"
    torch.manual_seed(1)
    return Submission(card, known | hp, made or task())


def run(submission, steps=STEPS):
    """Return the weights that are handed over after the steps."""
    for _ in range(steps):
        submission.step()
        submission.task.step += 1
    with submission.evaluated():
        return {
            name: value.numpy().copy()
            for name, value in surgery.export(submission.task.model).items()
        }


def rate(t, steps=STEPS, warmup=0.05):
    """Return the rate in the middle of step t: linear warm-up, then half a cosine."""
    p = (t + 0.5) / steps
    return p / warmup if p < warmup else 0.5 + 0.5 * math.cos(math.pi * (p - warmup) / (1 - warmup))


def forward(weights, x):
    """Return scores [B, C], and for `backward` each block's inputs and norm, and the features."""
    kept = []
    for i in range(len(WIDTHS)):
        u = x @ weights[f"blocks.{i}.linear.weight"].T + weights[f"blocks.{i}.linear.bias"]
        scale = np.sqrt(u.var(1, keepdims=True) + EPS)
        n = (u - u.mean(1, keepdims=True)) / scale
        a = n * weights[f"blocks.{i}.norm.weight"] + weights[f"blocks.{i}.norm.bias"]
        kept.append((x, n, scale, a > 0))
        x = np.maximum(a, 0)
    return x @ weights["readout.weight"].T + weights["readout.bias"], [*kept, x]


def backward(weights, kept, d, below=0.0):
    """Return the gradients of all parameters by the chain rule.

    Args:
        d: ∂L/∂scores, [B, C].
        below: the part of ∂L/∂features that does not come through the readout.
    """
    grads = {"readout.weight": d.T @ kept[-1], "readout.bias": d.sum(0)}
    d = d @ weights["readout.weight"] + below
    for i in reversed(range(len(WIDTHS))):
        x, n, scale, on = kept[i]
        d = d * on
        grads[f"blocks.{i}.norm.weight"] = (d * n).sum(0)
        grads[f"blocks.{i}.norm.bias"] = d.sum(0)
        d = d * weights[f"blocks.{i}.norm.weight"]
        d = (d - d.mean(1, keepdims=True) - n * (d * n).mean(1, keepdims=True)) / scale
        grads[f"blocks.{i}.linear.weight"] = d.T @ x
        grads[f"blocks.{i}.linear.bias"] = d.sum(0)
        d = d @ weights[f"blocks.{i}.linear.weight"]
    return grads


def softmax(scores):
    q = np.exp(scores - scores.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def gradients(weights, x, y):
    """Return the gradient of the mean cross-entropy for every parameter."""
    scores, kept = forward(weights, x)
    return backward(weights, kept, (softmax(scores) - np.eye(CLASSES)[y]) / len(y))


class Adam:
    """AdamW on a dictionary of arrays, one step at a time (arXiv 1711.05101)."""

    def __init__(self, beta1=0.9, beta2=0.95, eps=1e-8):
        self.betas, self.eps, self.t, self.m, self.v = (beta1, beta2), eps, 0, {}, {}

    def step(self, weights, grads, lr, wd=0.0):
        """Update `weights` in place where there are `grads`; lr is a number, or one by name."""
        self.t += 1
        for name, g in grads.items():
            b1, b2 = self.betas
            self.m[name] = b1 * self.m.get(name, 0.0) + (1 - b1) * g
            self.v[name] = b2 * self.v.get(name, 0.0) + (1 - b2) * g * g
            u = self.m[name] / (1 - b1**self.t)
            u = u / (np.sqrt(self.v[name] / (1 - b2**self.t)) + self.eps)
            own = lr[name] if isinstance(lr, dict) else lr
            weights[name] = weights[name] * (1 - own * wd) - own * u


def difference(a, b):
    """Return the largest difference of two sets of weights, relative to the largest weight."""
    assert a.keys() == b.keys()
    return max(np.abs(a[n] - b[n]).max() for n in b) / max(np.abs(v).max() for v in b.values())
