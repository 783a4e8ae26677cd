"""Methods of labels, clients and attacks, of later papers, follow a second loop in float64.

On the network of tests/support/nets.py. What is drawn at random is drawn again from an equal
generator.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import curve_fit
from torch.func import functional_call

from harness.catalog import discover
from harness.laws import small_workloads
from harness.laws.small_run import SmallRun
from submissions.data import adele, random_ltd
from submissions.distributed import gossip, token_walk
from tests.kit.test_surgery import CONFIG
from tests.parity.test_parity import Row
from tests.parity.test_parity_clients import (
    CLIENTS,
    boxed_task,
    local,
    many_task,
    mean,
    uphill,
    zeros,
)
from tests.parity.test_parity_labels import (
    ADAMW,
    agreement,
    data,
    drawn,
    labelled_task,
    nats,
    order,
    weighted,
)
from tests.support import nets, transformer
from tests.support.nets import (
    BATCH,
    CLASSES,
    EXAMPLES,
    Adam,
    backward,
    forward,
    gradients,
    rate,
    softmax,
)

# ADELE


def curve(t, a, b, c):
    return a * (1 - np.exp(-(t**b) / c))


def adele_loop(slowing, confidence, **hp):
    (x, y), stream, steps = data(), order(), 120
    weights, optimizer, own = nets.start(), Adam(beta2=hp["beta2"]), y.copy()
    seen, on = [[] for _ in range(CLASSES)], [False] * CLASSES
    both, either, changed = np.zeros(CLASSES), np.zeros(CLASSES), 0
    for t in range(steps):
        now = next(stream)
        scores, kept = forward(weights, x[now])
        p = softmax(scores)
        for i, row in zip(now, p):
            for c in range(CLASSES):
                both[c] += row.argmax() == c == y[i]
                either[c] += row.argmax() == c or y[i] == c
            if on[y[i]] and row.max() > confidence:
                changed += own[i] != row.argmax()
                own[i] = row.argmax()
        grads = backward(weights, kept, (p - np.eye(CLASSES)[own[now]]) / BATCH)
        if (t + 1) * BATCH // EXAMPLES > t * BATCH // EXAMPLES:
            for c in range(CLASSES):
                seen[c].append(both[c] / max(either[c], 1))
                on[c] = on[c] or adele.slowed(seen[c], slowing)
            both[:], either[:] = 0, 0
        optimizer.step(weights, grads, hp["lr"] * rate(t, steps), hp["wd"])
    assert any(on)
    assert changed
    return weights


def test_adele_equals_its_second_loop():
    hp = {**ADAMW, "slowing": 0.5, "confidence": 0.5}
    submission = nets.submitted("adele", nets.task(120), **hp)
    assert nets.difference(nets.run(submission, 120), adele_loop(**hp)) <= 1e-9


def test_adele_finds_where_a_curve_of_its_kind_has_slowed_down():
    a, b, c = 0.9, 0.8, 3.0
    t = np.arange(1.0, 41)
    slopes = a * b / c * t ** (b - 1) * np.exp(-(t**b) / c)
    expected = int(np.argmax(np.abs(slopes[0] - slopes) > 0.9 * slopes[0])) + 1
    seen = curve(t, a, b, c).tolist()
    first = next(n for n in range(3, 41) if adele.slowed(seen[:n], 0.9))
    assert first == expected
    assert adele.slope(4.0, a, b, c) == pytest.approx(slopes[3])


def test_adele_fits_as_the_package_does():
    t, deviations = np.arange(1.0, 13), np.geomspace(1, 0.1, 12)
    noisy = curve(t, 0.8, 0.7, 2.0) + 0.02 * np.random.default_rng(0).standard_normal(12)
    bounds = ((0, 0, 1e-9), (1, 1, np.inf))
    theirs = curve_fit(curve, t, noisy, (1, 1, 1), deviations, bounds=bounds)[0]
    assert np.allclose(adele.fit(noisy.tolist()), theirs, rtol=1e-3)


# EMLC


def test_emlc_equals_its_second_loop():
    """The teacher's gradient by autograd through the student's unrolled step."""
    hp = {"lr": 0.1, "wd": 0.01, "momentum": 0.9, "nesterov": True, "teacher_lr": 0.05}
    submission = nets.submitted("emlc", labelled_task(), **hp)
    generator, stream = nets.draws(), labelled_task()
    model = stream.model
    student = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {n: torch.zeros_like(p) for n, p in student.items()}
    teacher, net, speed = {n: p.clone() for n, p in student.items()}, None, None
    half = torch.arange(BATCH) % 2 == 0

    def scores(weights, batch):
        return functional_call(model, weights, (batch["inputs"],))

    def keeping(net, z, y):
        e, a, b, w, c = net
        hidden = torch.relu(F.linear(torch.cat([z, e[y]], 1), a, b))
        return F.linear(hidden, w, c)[:, 0]

    for t in range(nets.STEPS):
        batch = stream.next_batch()
        right = stream.gather(torch.from_numpy(drawn(generator)))
        if net is None:
            fans = (1, CLASSES + 128, CLASSES + 128, 128, 128)
            shapes = ((CLASSES, 128), (128, CLASSES + 128), (128,), (1, 128), (1,))
            net = [
                ((2 * torch.rand(s, generator=generator) - 1) / f**0.5).double()
                for s, f in zip(shapes, fans)
            ]
            speed = [torch.zeros_like(w) for w in [*teacher.values(), *net]]
        learnt = {n: p.clone().requires_grad_() for n, p in teacher.items()}
        own = [w.clone().requires_grad_() for w in net]
        lr, y = hp["lr"] * rate(t), batch["targets"]
        z = scores(learnt, batch)
        rho = torch.sigmoid(keeping(own, z, y))[:, None]
        q = rho * F.one_hot(y, CLASSES) + (1 - rho) * z.softmax(1)
        moving = {n: p.clone().requires_grad_() for n, p in student.items()}
        soft = -(q * scores(moving, batch).log_softmax(1)).sum(1).mean()
        slopes = torch.autograd.grad(soft, list(moving.values()), create_graph=True)
        plain = {n: g.detach() for n, g in zip(student, slopes)}
        new = {}
        for n, p in student.items():
            u = plain[n] + hp["wd"] * p
            buffers[n] = hp["momentum"] * buffers[n] + u
            new[n] = p - lr * (u + hp["momentum"] * buffers[n])
        # The trusted loss is differentiated where the step has led, along a plain step's way.
        at = {n: p.clone().requires_grad_() for n, p in new.items()}
        clean = F.cross_entropy(scores(at, right), right["targets"])
        g = torch.autograd.grad(clean, list(at.values()))
        meta = sum((-lr * s * v).sum() for s, v in zip(slopes, g))
        theirs, truth = scores(learnt, right), right["targets"]
        others = theirs.detach().masked_fill(F.one_hot(truth, CLASSES).bool(), -1e9).argmax(1)
        logit = keeping(own, theirs, torch.where(half, truth, others))
        bce = -torch.where(half, F.logsigmoid(logit), F.logsigmoid(-logit)).mean()
        total = meta + F.cross_entropy(theirs, truth) + bce
        for w, v, d in zip(
            [*teacher.values(), *net], speed, torch.autograd.grad(total, [*learnt.values(), *own])
        ):
            v.mul_(0.9).add_(d)
            w.sub_(hp["teacher_lr"] * v)
        student = new
    second = {n: p.numpy() for n, p in student.items()}
    assert nets.difference(nets.run(submission), second) <= 1e-8


# BO-REP


def norm(weights):
    return math.sqrt(sum((w**2).sum() for w in weights.values()))


def bo_rep_loop(lr, mu, inverse_lr, logit_lr, momentum):
    (x, y), generator, stream = data(), nets.draws(), order()
    weights, z = nets.start(), zeros()
    logits, m = np.zeros(EXAMPLES), np.zeros(EXAMPLES)
    for t in range(nets.STEPS):
        now, right = next(stream), drawn(generator)
        share = 1 / (1 + np.exp(-logits[now]))

        def slope(w, now=now, share=share):
            g = weighted(w, x[now], y[now], share / BATCH)
            return {n: g[n] + mu * w[n] for n in w}

        here, trusted, hz = slope(weights), gradients(weights, x[right], y[right]), zeros()
        if norm(z) > 0:
            reach = 1e-2 * max(norm(weights), 1) / norm(z)
            ahead = slope({n: w + reach * z[n] for n, w in weights.items()})
            hz = {n: (ahead[n] - here[n]) / reach for n in z}
        z = {n: z[n] - inverse_lr * (hz[n] - trusted[n]) for n in z}
        z = {n: v * min(1, 10 / norm(z)) for n, v in z.items()}
        hyper = np.zeros(EXAMPLES)
        hyper[now] = -share * (1 - share) * agreement(weights, x[now], y[now], z) / BATCH
        m = momentum * m + (1 - momentum) * hyper
        logits = logits - logit_lr * m / np.linalg.norm(m)
        weights = {n: w - lr * rate(t) * here[n] for n, w in weights.items()}
    return weights


# Clients


def token_walk_loop(lr, wd, repulsion):
    x, y = data()
    generator, weights = nets.draws(), nets.start()
    own = [np.flatnonzero(k == CLIENTS) for k in range(4)]
    at, visits, share, steps = 0, 0, np.full(4, 0.25), 50
    for t in range(steps):
        now = own[at][torch.randint(16, (BATCH,), generator=generator).numpy()]
        g = gradients(weights, x[now], y[now])
        weights = {n: w - lr * rate(t, steps) * (g[n] + wd * w) for n, w in weights.items()}
        if (t + 1) % 5 == 0:
            visits += 1
            share = share + (visits + 1) ** -0.8 * (np.eye(4)[at] - share)
            p = np.zeros(4)
            for j in ((at - 1) % 4, (at + 1) % 4):
                p[j] = (share[j] / 0.25) ** -repulsion
            at = int(torch.multinomial(torch.from_numpy(p / p.sum()), 1, generator=generator))
    return weights


def gossip_loop(graph, **hp):
    ways = {"ring": [(0, 1), (0, 3), (1, 2), (2, 3)]}
    ways["complete"] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    generator, steps = nets.draws(), 90
    models, seen = [nets.start() for _ in range(4)], nets.start()
    optimizers, parts = [Adam(beta2=hp["beta2"]) for _ in range(4)], local(generator)
    for t in range(steps):
        for _ in range(4):
            k, x, y = next(parts)
            g = gradients(models[k], x, y)
            optimizers[k].step(models[k], g, hp["lr"] * rate(t, steps), hp["wd"])
        if (t + 1) % 10 == 0:
            i, j = ways[graph][int(torch.randint(len(ways[graph]), (), generator=generator))]
            models[i] = mean([models[i], models[j]])
            models[j] = dict(models[i])
        if (t + 1) % 40 == 0:
            seen = mean(models)
    return seen


def doubly_robust_loop(radius, stride, temperature, memory, **hp):
    generator, stream, steps, u = nets.draws(), boxed_task(), 50, None
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    for t in range(steps):
        batch = stream.next_batch()
        x, y = batch["inputs"].numpy(), batch["targets"].numpy()
        start = torch.rand(x.shape, generator=generator, dtype=torch.float64).numpy()
        moved, hot = np.clip(x + radius * (2 * start - 1), 0, 1), np.eye(CLASSES)[y]
        for _ in range(3):
            moved = uphill(weights, x, moved, lambda p, h=hot: p - h, radius * stride, radius)
        grown = np.exp(nats(weights, moved, y) / temperature)
        u = grown.mean() if u is None else memory * u + (1 - memory) * grown.mean()
        g = weighted(weights, moved, y, grown / u / BATCH)
        optimizer.step(weights, g, hp["lr"] * rate(t, steps), hp["wd"])
    return weights


LATER = [
    Row("bo_rep", bo_rep_loop, {"lr": 0.1, "mu": 1e-3, "inverse_lr": 0.3, "logit_lr": 1.0,
        "momentum": 0.9}, package="", float64=1e-8),
    Row("token_walk", token_walk_loop, {"lr": 0.1, "wd": 1e-3, "repulsion": 5.0}, package=""),
    Row("token_walk", token_walk_loop, {"lr": 0.1, "wd": 1e-3, "repulsion": 0.0}, package="",
        label="plain"),
    Row("gossip", gossip_loop, {**ADAMW, "graph": "ring"}, package=""),
    Row("gossip", gossip_loop, {**ADAMW, "graph": "complete"}, package="", label="complete"),
    Row("doubly_robust", doubly_robust_loop,
        {**ADAMW, "radius": 0.1, "stride": 0.6, "temperature": 1.0, "memory": 0.9}, package=""),
]  # fmt: skip
MADE = {"bo_rep": (labelled_task, nets.STEPS), "token_walk": (many_task, 50),
        "doubly_robust": (boxed_task, 50)}  # fmt: skip


@pytest.mark.parametrize("row", LATER, ids=str)
def test_later_method_equals_its_second_loop(row, monkeypatch):
    make, steps = MADE.get(row.submission, (None, 90))
    if make is None:
        monkeypatch.setattr("tests.parity.test_parity_clients.STEPS", steps)
        make = many_task
    submission = nets.submitted(row.submission, make(), **row.hp)
    assert nets.difference(nets.run(submission, steps), row.second(**row.hp)) <= max(
        row.float64, 1e-9
    )


def test_a_repelled_token_visits_clients_more_evenly():
    """On a ring of four, 60 walks of 60 moves: the spread of the visits falls with repulsion."""

    def spread(repulsion):
        counts = torch.zeros(60, 4)
        for row in range(60):
            generator, at = torch.Generator().manual_seed(row), 0
            share = torch.full((4,), 0.25, dtype=torch.float64)
            for move in range(60):
                counts[row, at] += 1
                here = torch.zeros(4, dtype=torch.float64)
                here[at] = 1
                share = torch.lerp(share, here, (move + 2) ** -0.8)
                p = token_walk.chances(share, at, repulsion)
                at = int(torch.multinomial(p, 1, generator=generator))
        assert torch.allclose(counts.mean(0), torch.full((4,), 15.0), atol=1.5)
        return float(counts.std(dim=0).mean())

    plain, repelled = spread(0.0), spread(10.0)
    assert repelled < 0.5 * plain


def test_a_walks_chances_on_a_ring():
    share = torch.tensor([0.1, 0.4, 0.1, 0.4], dtype=torch.float64)
    assert token_walk.chances(share, 1, 3.0).tolist() == [0.5, 0, 0.5, 0]
    uneven = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64)
    p = token_walk.chances(uneven, 1, 2.0)
    assert torch.allclose(p, torch.tensor([0.2, 0, 0.8, 0], dtype=torch.float64))


def test_gossip_pairs_are_the_edges_of_the_graph():
    assert gossip.pairs(4, "ring") == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert len(gossip.pairs(4, "complete")) == 6


# Errors of a first run


def jtt_loop(times, **hp):
    (x, y), generator, stream = data(), nets.draws(), order()
    wrong = np.zeros(EXAMPLES, dtype=bool)
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    for t in range(12):
        now = next(stream)
        wrong[now] = forward(weights, x[now])[0].argmax(1) != y[now]
        optimizer.step(
            weights, gradients(weights, x[now], y[now]), hp["lr"] * rate(t, 12), hp["wd"]
        )
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    assert wrong.any()
    for t in range(48):
        chances = torch.from_numpy(np.where(wrong, times, 1.0))
        now = torch.multinomial(chances, BATCH, True, generator=generator).numpy()
        optimizer.step(
            weights, gradients(weights, x[now], y[now]), hp["lr"] * rate(t, 48), hp["wd"]
        )
    return weights


def test_jtt_equals_its_second_loop():
    hp = {**ADAMW, "times": 5.0}
    submission = nets.submitted("jtt", nets.task(60), **hp)
    assert nets.difference(nets.run(submission, 60), jtt_loop(**hp)) <= 1e-9


# Tokens


def test_random_ltd_passes_by_the_positions_that_are_not_chosen():
    from workloads.models.gpt import Block

    torch.manual_seed(0)
    config = SimpleNamespace(width=8, heads=2, norm="pre", activation="gelu")
    block, x = Block(config), torch.randn(3, 10, 8)
    whole, index = block(x), torch.tensor([0, 2, 3, 7, 9])
    seen = random_ltd.partly(block, lambda length: index)(x)
    rest = torch.tensor([1, 4, 5, 6, 8])
    assert torch.equal(seen[:, rest], x[:, rest])
    assert torch.allclose(seen[:, index], block(x[:, index]))
    # Position 2 sees 0 and itself: the causal order of the chosen is that of all.
    assert torch.allclose(seen[:, 2], block(x[:, [0, 2]])[:, 1], atol=1e-6)
    assert torch.equal(random_ltd.partly(block, lambda length: None)(x), whole)


def test_random_ltd_equals_its_formula(monkeypatch):
    """Of four blocks the middle two see four of eight positions, in 8 of 12 steps."""
    monkeypatch.setattr(CONFIG, "model", SimpleNamespace(**vars(CONFIG.model) | {"depth": 4}))
    stream, draw, w, optimizer = (
        transformer.task(12),
        nets.draws(),
        transformer.start(),
        transformer.AdamW(beta2=0.95),
    )
    for step in range(12):
        batch = stream.next_batch()
        stream.step += 1
        partly = {}
        if 3 * (step + 0.5) < 2 * 12:
            # Each block draws for itself, in their order.
            partly = {i: sorted(torch.randperm(8, generator=draw).tolist()[:4]) for i in (1, 2)}
        leaves = {n: v.clone().requires_grad_() for n, v in w.items()}
        scores = transformer.forward(leaves, batch["inputs"], partly=partly, depth=4)
        scores = scores.log_softmax(-1)
        loss = -scores.gather(-1, batch["targets"][..., None]).mean()
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        optimizer.step(w, grads, ADAMW["lr"] * rate(step, 12), ADAMW["wd"])
    found = transformer.run(transformer.submitted("random_ltd", transformer.task(12), **ADAMW), 12)
    assert "blocks.3.up.weight" in found
    assert transformer.difference(found, w) < 1e-9


def test_random_ltd_counts_its_steps_and_is_whole_when_it_is_handed_over():
    run = SmallRun(discover.read(discover.find("random_ltd")), small_workloads.read("gpt2"))
    training = run.begin()
    task = training.task
    run.advance(training, 3)
    assert dict(task.meter.counts) == {"forward_backward@depth=3/4": 3}
    assert task.model.active == [True] * len(task.model.active)
    plain = small_workloads.read("gpt2").task()
    plain.model.load_state_dict(task.model.state_dict())
    small = run.workload
    assert small.loss(task.model) == small.loss(plain.model)
