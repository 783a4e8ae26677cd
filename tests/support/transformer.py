"""A language model of 8,000 parameters in float64, and its loss written out a second time.

A test lets a submission act on `task()`. It compares the weights with those that a second
implementation computes from `start()`, a dictionary of tensors by the parameter's name, with the
gradients of `gradients`, which uses no module of the project.
"""

import copy
import math

import torch

from harness import surgery
from harness.catalog import discover, space
from harness.train.submission import Submission
from tests.kit.test_surgery import small_task
from tests.support.nets import Adam

DEPTH, HEADS, WIDTH, INNER, EACH = 2, 2, 16, 64, 8
MAPS = ("qkv", "project", "up", "down")
HIDDEN = [f"blocks.{i}.{name}.weight" for i in range(DEPTH) for name in MAPS]


def task(horizon=12):
    made = small_task(horizon)
    made.model.double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        # No bias is zero and no gain is one.
        for p in made.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    made.start = copy.deepcopy(made.model.state_dict())
    return made


def start():
    return {name: t.clone() for name, t in task().start.items()}


def submitted(name, made, **hp):
    card = discover.read(discover.find(name))
    return Submission(card, space.default(card.literals["SPACE"]) | hp, made)


def run(submission, steps):
    """Return the weights that are handed over after the steps."""
    for _ in range(steps):
        submission.step()
        submission.task.step += 1
    with submission.evaluated():
        return {n: t.clone() for n, t in surgery.export(submission.task.model).items()}


def norm(x, gain, shift):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + shift


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def forward(w, tokens, inputs=None, before=lambda x: x, outputs=None, partly=None, depth=DEPTH):
    """Return the logits [B, T, vocabulary].

    Args:
        inputs: a dictionary that gets the inputs of every hidden matrix [tokens, in], and those
            and the outputs of every block, by name.
        before: a function of what a hidden matrix is multiplied with.
        outputs: a list that gets the outputs of every block, with their graph.
        partly: the list of positions that alone go through a block, by its number; without one,
            all positions do.
    """
    seen = {} if inputs is None else inputs
    x = w["tokens.weight"][tokens] + w["positions.weight"][: tokens.shape[1]]

    def linear(name, x):
        seen[f"{name}.weight"] = x.detach().reshape(-1, x.shape[-1])
        return before(x) @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for i in range(depth):
        b, whole, some = f"blocks.{i}", x, (partly or {}).get(i)
        if some is not None:
            x = x[:, some]
        seen[b] = x.detach()
        y = linear(f"{b}.qkv", norm(x, w[f"{b}.norm1.weight"], w[f"{b}.norm1.bias"]))
        heads = []
        for h in range(HEADS):
            q, k, v = (y[..., j * WIDTH + h * EACH :][..., :EACH] for j in range(3))
            scores = q @ k.transpose(-1, -2) / math.sqrt(EACH)
            scores = scores + torch.full_like(scores, -math.inf).triu(1)
            heads.append(scores.softmax(-1) @ v)
        x = x + linear(f"{b}.project", torch.cat(heads, -1))
        y = norm(x, w[f"{b}.norm2.weight"], w[f"{b}.norm2.bias"])
        x = x + linear(f"{b}.down", gelu(linear(f"{b}.up", y)))
        if some is not None:
            rows = dict(zip(some, x.unbind(1), strict=True))
            x = torch.stack([rows.get(j, row) for j, row in enumerate(whole.unbind(1))], 1)
        seen[f"{b}.out"] = x.detach()
        if outputs is not None:
            outputs.append(x)
    return norm(x, w["norm.weight"], w["norm.bias"]) @ w["readout.weight"].T


def gradients(w, batch, change=lambda w: w, before=lambda x: x):
    """Return the loss's gradient for every weight, through a change of the weights."""
    leaves = {n: t.detach().clone().requires_grad_() for n, t in w.items()}
    scores = forward(change(leaves), batch["inputs"], before=before).log_softmax(-1)
    loss = -scores.gather(-1, batch["targets"][..., None]).mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


class AdamW(Adam):
    """The AdamW of nets.py on tensors."""

    def step(self, weights, grads, lr, wd=0.0):
        arrays = {n: weights[n].detach().numpy() for n in grads}
        super().step(arrays, {n: g.numpy() for n, g in grads.items()}, lr, wd)
        weights |= {n: torch.from_numpy(v) for n, v in arrays.items()}


def difference(a, b):
    """Return the largest difference of two sets of weights, relative to the largest weight."""
    assert a.keys() == b.keys()
    largest = max(float(t.abs().max()) for t in b.values())
    return max(float((a[n] - b[n]).abs().max()) for n in b) / largest
