"""Methods for streams from trained weights follow a second implementation, step by step.

slca and dkvb on the network of tests/support/nets.py, l2p on a small transformer, all in float64:
loops written from the papers' rules.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.catalog import discover, space
from harness.errors import UserError
from harness.laws.small_workloads import small_workloads
from harness.seeds import derive
from harness.train import predictor
from harness.train.submission import Submission
from harness.train.task import Task
from submissions.continual import l2p, slca
from tests.parity.test_parity_continual import Memory, Momentum
from tests.support import nets
from tests.support.nets import BATCH, CLASSES, STEPS, backward, forward, gradients, softmax
from tests.support.transformer import gelu, norm
from workloads.models.vit import ViT

TASKS, LENGTH = 4, STEPS // 4
OF_READOUT = ("readout.weight", "readout.bias")


def slow(lr, slower, late, epochs, drawn, momentum, wd, ridge, temperature):
    """Two rates; then the readout on Gaussian features of every class so far (2303.05118)."""
    weights, m, generator = nets.start(), {}, nets.draws()
    came, seen = {}, {}
    for t, (x, y) in zip(range(STEPS), nets.batches(TASKS)):
        for c in y:
            came.setdefault(int(c), t // LENGTH)
        scores, kept = forward(weights, x)
        scores[:, [c for c in range(CLASSES) if came.get(c) != t // LENGTH]] = -1e9
        # A score that is hidden has no gradient, also where it is the label's.
        mask = np.array([float(came.get(c) == t // LENGTH) for c in range(CLASSES)])
        d = (softmax(scores) - np.eye(CLASSES)[y]) / len(y) * mask
        g = backward(weights, kept, d)
        for name in weights:
            rate = lr if name in OF_READOUT else lr / slower
            m[name] = momentum * m.get(name, 0.0) + g[name] + wd * weights[name]
            weights[name] = weights[name] - rate * m[name]
        if t % LENGTH >= (1 - late) * LENGTH:
            for f, c in zip(kept[-1], y):
                seen.setdefault(int(c), []).append(f)
        if t % LENGTH == LENGTH - 1:
            align(weights, seen, came, t // LENGTH + 1, generator,
                  lr, epochs, drawn, momentum, wd, ridge, temperature)  # fmt: skip
    return weights


def align(
    weights, seen, came, count, generator, lr, epochs, drawn, momentum, wd, ridge, temperature
):
    known, m = sorted(seen), {}
    normal = []
    for c in known:
        x = np.array(seen[c])
        covariance = x.T @ x / len(x) - np.outer(x.mean(0), x.mean(0))
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0) + ridge) @ vectors.T
        normal.append(((0.9 + 0.1 * (came[c] + 1) / count) * x.mean(0), root))
    groups = [[c for c in sorted(came) if came[c] == k] for k in range(count)]
    groups = [g for g in groups if g]
    for epoch in range(epochs):
        parts = [
            mean + torch.randn(drawn, len(mean), generator=generator).numpy().astype(float) @ root.T
            for mean, root in normal
        ]
        order = torch.randperm(drawn * len(known), generator=generator).numpy()
        x, y = np.concatenate(parts)[order], np.repeat(known, drawn)[order]
        rate = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for i in range(0, len(x), drawn):
            # The gradient by central differences: none of the formula is written twice.
            def loss(w, b, x=x[i : i + drawn], y=y[i : i + drawn]):
                s = x @ w.T + b
                size = np.mean([np.sqrt((s[:, g] ** 2).sum(1)) + 1e-7 for g in groups], axis=0)
                s = s / size[:, None] / temperature
                s[:, [c for c in range(CLASSES) if c not in known]] = -1e9
                return -np.log(softmax(s)[np.arange(len(y)), y]).mean()

            g = slopes(loss, weights["readout.weight"], weights["readout.bias"])
            for name, slope in zip(OF_READOUT, g):
                m[name] = momentum * m.get(name, 0.0) + slope + wd * weights[name]
                weights[name] = weights[name] - rate * m[name]


def slopes(function, *arrays, step=1e-6):
    """Return the gradient by each array, by central differences."""
    found = []
    for array in arrays:
        slope = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            old = array[place]
            array[place] = old + step
            up = function(*arrays)
            array[place] = old - step
            slope[place] = (up - function(*arrays)) / (2 * step)
            array[place] = old
        found.append(slope)
    return found


def test_slca_equals_its_formula():
    hp = {
        "lr": 0.02, "slower": 10, "late": 0.5, "epochs": 2, "drawn": 16, "momentum": 0.9,
        "wd": 5e-4, "ridge": 1e-2, "temperature": 0.5,
    }  # fmt: skip
    found = nets.run(nets.submitted("slca", nets.task(tasks=TASKS), **hp))
    expected = slow(**hp)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_scores_are_over_the_mean_norm_of_a_task():
    scores = torch.tensor([[3.0, 4.0, 2.0]])
    found = slca.decoupled(scores, [[0, 1], [2]], 0.1)
    torch.testing.assert_close(found, scores / ((5 + 2) / 2) / 0.1)


def books(lr, books, keys, width, settle, decay):
    """Nearest keys, moved by an average at first; values by the gradient (2207.11240)."""
    weights, generator, stream = nets.start(), nets.draws(), nets.batches(TASKS)
    features = nets.WIDTHS[-1][1]
    shape = (books, features, width)
    projection = torch.randn(shape, generator=generator).numpy().astype(float)
    projection *= math.sqrt(2 / (features + width))
    chosen = torch.randint(BATCH, (books, keys), generator=generator).numpy()
    noise = torch.randn(books, keys, width, generator=generator).numpy().astype(float)
    code, values, mass = None, np.zeros((books, keys, CLASSES)), np.ones((books, keys))
    for t, (x, y) in zip(range(STEPS), stream):
        z = forward(weights, x)[1][-1] @ projection  # [books, B, width]
        if code is None:
            code = np.array([z[k][chosen[k]] for k in range(books)])
            code = code + 0.1 * z.std(ddof=1) * noise
        near = np.array([((z[k][:, None] - code[k]) ** 2).sum(-1).argmin(1) for k in range(books)])
        if (t + 0.5) / STEPS < settle:
            for k in range(books):
                for n in range(keys):
                    mine = z[k][near[k] == n]
                    fresh = decay * mass[k, n] + (1 - decay) * len(mine)
                    code[k, n] = (
                        decay * mass[k, n] * code[k, n] + (1 - decay) * mine.sum(0)
                    ) / fresh
                    mass[k, n] = fresh
        scores = np.mean([values[k][near[k]] for k in range(books)], axis=0)
        d = (softmax(scores) - np.eye(CLASSES)[y]) / len(y) / books
        for k in range(books):
            for b, n in enumerate(near[k]):
                values[k, n] -= lr * d[b]
    return code, values


def test_dkvb_equals_its_formula():
    hp = {"lr": 5.0, "books": 3, "keys": 40, "width": 4, "settle": 0.3, "decay": 0.8}
    submission = nets.submitted("dkvb", nets.task(tasks=TASKS), **hp)
    before = nets.start()
    after = nets.run(submission)
    keys, values = books(**hp)
    np.testing.assert_allclose(submission.algorithm.state["keys"], keys, atol=1e-10)
    np.testing.assert_allclose(submission.algorithm.state["values"], values, atol=1e-10)
    assert all(np.array_equal(before[name], after[name]) for name in before), "the encoder stays"
    changed = np.any(values != 0, axis=2).sum()
    assert 0 < changed < values[..., 0].size, "values that were not read stay"


def small():
    workload = next(w for w in small_workloads() if w.name == "stream_vit")
    card = discover.read(discover.find("l2p"))
    task = workload.task()
    torch.manual_seed(derive(0, "setup"))
    return task, Submission(card, space.default(card.literals["SPACE"]) | {"top": 2}, task)


def test_the_most_similar_keys_are_chosen_and_drawn_nearer():
    query = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    keys = torch.tensor([[2.0, 0.1], [-1.0, 0.0], [1.0, 1.0]])
    index, alike = l2p.chosen(query, keys, 2)
    assert index.tolist() == [[0, 2], [2, 0]]
    assert float(alike[0, 1]) == pytest.approx(-1.0)
    assert float(alike[1, 2]) == pytest.approx(math.sqrt(0.5))


def test_l2p_trains_prompts_keys_and_readout_alone():
    task, submission = small()
    before = {n: t.clone() for n, t in task.model.state_dict().items()}
    state = submission.algorithm.state
    prompts, keys = state["prompts"].clone(), state["keys"].clone()
    for _ in range(4):
        submission.step()
        task.step += 1
    after, state = task.model.state_dict(), submission.algorithm.state
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {"readout.weight", "readout.bias"}
    assert not torch.equal(state["prompts"], prompts)
    assert not torch.equal(state["keys"], keys)
    # Rows of classes that are not of the present task get no gradient but momentum's: none yet.
    others = [c for c in range(10) if c not in state["classes"]]
    assert torch.equal(before["readout.weight"][others], after["readout.weight"][others])


def test_l2p_answers_with_prompts_before_the_tokens():
    task, submission = small()
    a, model = submission.algorithm, task.model
    inputs = task.next_batch()["inputs"]
    found = predictor.answers(submission, inputs)
    with torch.no_grad():
        scaled = (inputs.float() / 255 - model.mean) / model.std
        tokens = model.embed(model.tokens(scaled.view(-1, 1, model.side, model.side)))
        tokens = tokens + model.positions.weight
        x = tokens
        for block in model.blocks:
            x = block(x)
        query = model.norm(x).mean(1)
        index, _ = l2p.chosen(query, a.state["keys"], 2)
        prompts = a.state["prompts"][index].flatten(1, 2)
        x = torch.cat([prompts, tokens], dim=1)
        for block in model.blocks:
            x = block(x)
        expected = model.readout(model.norm(x[:, : prompts.shape[1]]).mean(1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in model.blocks)


def test_l2p_says_what_it_needs():
    card = discover.read(discover.find("l2p"))
    task = next(w for w in small_workloads() if w.name == "stream_split").task()
    point = space.default(card.literals["SPACE"])
    with pytest.raises(UserError, match="transformer"):
        Submission(card, point, task)


class Pictures(ViT):
    """A transformer in float64 on images [B, 1, 4, 4], with separate features and readout."""

    def features(self, x):
        x = self.embed(self.tokens(x)) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(dim=1)

    def forward(self, x):
        return self.readout(self.features(x))


def pictures():
    """Return a stream of four tasks, each of two of the four classes."""
    config = {"side": 4, "channels": 1, "patch": 2, "classes": 4, "depth": 2, "heads": 2}
    config |= {"width": 8, "norm": "pre", "activation": "gelu", "init_scale": 2.0}
    torch.manual_seed(3)
    model = Pictures(SimpleNamespace(**config)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    random, count = np.random.default_rng(6), STEPS * BATCH
    group = np.arange(count) // (LENGTH * BATCH)
    data = {
        "inputs": torch.from_numpy(random.standard_normal((count, 1, 4, 4))),
        "targets": torch.from_numpy((group + random.integers(0, 2, count)) % 4),
    }
    own = {"stream": lambda data, config, seed: torch.arange(count)}
    workload = SimpleNamespace(**vars(nets.WORKLOAD) | own)
    stream = SimpleNamespace(tasks=TASKS, boundaries="shown", passes=1, memory=1, recurring=False)
    return Task(
        workload, SimpleNamespace(batch=BATCH, horizon=STEPS, stream=stream), data, model, 0, STEPS
    )


def blocks_of(w, x):
    """Return the tokens behind both blocks, where every token sees all."""
    for b in ("blocks.0", "blocks.1"):
        linear = lambda n, x, b=b: x @ w[f"{b}.{n}.weight"].T + w[f"{b}.{n}.bias"]  # noqa: E731
        parts = linear("qkv", norm(x, w[f"{b}.norm1.weight"], w[f"{b}.norm1.bias"])).split(4, -1)
        heads = []
        for q, k, v in zip(parts[:2], parts[2:4], parts[4:]):
            heads.append((q @ k.transpose(1, 2) / 2).softmax(-1) @ v)
        x = x + linear("project", torch.cat(heads, -1))
        y = norm(x, w[f"{b}.norm2.weight"], w[f"{b}.norm2.bias"])
        x = x + linear("down", gelu(linear("up", y)))
    return norm(x, w["norm.weight"], w["norm.bias"])


def test_l2p_equals_its_formula():
    """Prompts are chosen by cosine; Adam trains them, keys and readout (2112.08654)."""
    hp = {"lr": 0.03, "pool": 6, "top": 2, "length": 3, "pull": 0.5, "clip": 1.0}
    made, stream, draws = pictures(), pictures(), nets.draws()
    w = {n: p.detach().clone() for n, p in stream.model.named_parameters()}
    shapes = {"prompts": (6, 3, 8), "keys": (6, 8)}
    own = {n: 2 * torch.rand(shape, generator=draws).double() - 1 for n, shape in shapes.items()}
    own |= {n: w.pop(n) for n in OF_READOUT}
    adam, now, cuts = nets.Adam(beta2=0.999), set(), []
    for step in range(STEPS):
        batch = stream.next_batch()
        stream.step += 1
        x, y = batch["inputs"], batch["targets"]
        now = {*(now if step % LENGTH else ()), *y.tolist()}
        # Patches row by row: the quarters of the image.
        quarters = [x[:, 0, i : i + 2, j : j + 2].flatten(1) for i in (0, 2) for j in (0, 2)]
        tokens = torch.stack(quarters, 1) @ w["embed.weight"].T + w["embed.bias"]
        tokens = tokens + w["positions.weight"]
        query = blocks_of(w, tokens).mean(1)
        leaves = {n: v.clone().requires_grad_() for n, v in own.items()}
        alike = torch.cosine_similarity(query[:, None], leaves["keys"][None], dim=2)
        nearest = np.argsort(-alike.detach().numpy(), 1)[:, :2]
        loss = 0.0
        for i, some in enumerate(nearest):
            before = torch.cat([leaves["prompts"][k] for k in some])
            seen = blocks_of(w, torch.cat([before, tokens[i]])[None])[0, : len(before)].mean(0)
            scores = leaves["readout.weight"] @ seen + leaves["readout.bias"]
            chances = scores[sorted(now)].softmax(0)
            nats = -chances[sorted(now).index(int(y[i]))].log()
            loss = loss + (nats - 0.5 * sum(alike[i, k] for k in some)) / len(y)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        length = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
        cuts.append(min(1.0, 1.0 / (length + 1e-6)))
        arrays = {n: v.numpy() for n, v in own.items()}
        adam.step(arrays, {n: g.numpy() * cuts[-1] for n, g in grads.items()}, 0.03)
        own = {n: torch.from_numpy(v) for n, v in arrays.items()}
    assert min(cuts) < 1.0, "some gradients are clipped"
    submission = nets.submitted("l2p", made, **hp)
    found = {n: torch.from_numpy(v) for n, v in nets.run(submission).items()}
    found |= {n: submission.algorithm.state[n].detach() for n in shapes}
    for name, value in (w | own).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("kind", ["start", "first"])
def test_merge_equals_its_formula(kind):
    """er's step; the weights before a task enter into those after it (2408.14471)."""
    hp = {"lr": 0.05, "momentum": 0.8, "share": 0.3}
    weights, optimizer, memory = nets.start(), Momentum(0.05, 0.8), Memory(nets.draws())
    before = dict(weights)
    for t, (x, y) in zip(range(STEPS), nets.batches(TASKS)):
        g = gradients(weights, x, y)
        if t:
            replay = gradients(weights, *memory.draw())
            g = {n: 0.3 * g[n] + 0.7 * replay[n] for n in g}
        optimizer.step(weights, g)
        memory.add(x, y)
        if t % LENGTH == LENGTH - 1:
            if t >= LENGTH:
                weights = {n: 0.4 * before[n] + 0.6 * weights[n] for n in weights}
                optimizer = Momentum(0.05, 0.8)
            if kind == "start" or t < LENGTH:
                before = dict(weights)
    submission = nets.submitted("merge", nets.task(tasks=TASKS), **hp, weight=0.6, kind=kind)
    assert nets.difference(nets.run(submission), weights) < 1e-11
