"""Methods that act at boundaries follow a second implementation, as in test_parity_continual.

The numpy loops are written from the papers' rules, on the stream of that file.
"""

import numpy as np
import pytest
import torch

from harness.laws import small_workloads
from tests.parity.test_parity import Row
from tests.parity.test_parity_continual import (
    LENGTH,
    SGD,
    TASKS,
    Memory,
    Momentum,
    anchored,
    per_task,
    steps,
)
from tests.support import nets
from tests.support.nets import BATCH, CLASSES, HEAD, HIDDEN, Adam, backward, forward, softmax

NORMS_AND_BIASES = [n for n, w in nets.start().items() if w.ndim == 1 and n not in HEAD]


def own(weights, x, y, taught, number):
    """Gradients of the loss over the classes that task `number` has taught so far."""
    mine = taught.setdefault(number, set())
    mine |= set(y.tolist())
    scores, kept = forward(weights, x)
    scores[:, [c for c in range(CLASSES) if c not in mine]] = -1e9
    return backward(weights, kept, (softmax(scores) - np.eye(CLASSES)[y]) / len(y))


@pytest.fixture
def apart(monkeypatch):
    """A stream of two tasks of two classes each, which have no example in common."""
    made, index = nets.task, torch.arange(nets.EXAMPLES)
    order = torch.arange(nets.STEPS * BATCH)
    monkeypatch.setattr(nets, "CLASSES", 4)
    monkeypatch.setattr(nets.WORKLOAD, "stream", lambda *_: order // 80 * 32 + order % 32)

    def task():
        result = made(tasks=2)
        result._data["targets"] = index // 32 * 2 + index % 2
        return result

    return task


def packnet(lr, momentum, train):
    weights, taught = nets.start(), {}
    owner = {n: np.zeros(weights[n].shape, dtype=int) for n in HIDDEN}
    late = round(train * LENGTH)
    for t, (x, y) in steps():
        number, place = t // LENGTH + 1, t % LENGTH
        if place in (0, late):
            optimizer = Momentum(lr, momentum)
        if place == late:
            for n in HIDDEN:
                free = np.flatnonzero(owner[n].ravel() == 0)
                order = free[np.argsort(-np.abs(weights[n].ravel()[free]), kind="stable")]
                keep = -(-len(free) // (TASKS - number + 1))
                owner[n].ravel()[order[:keep]] = number
                weights[n] = np.where(owner[n] == 0, 0.0, weights[n])
        g = own(weights, x, y, taught, number)
        for n in HIDDEN:
            g[n] = g[n] * (owner[n] == (number if place >= late else 0))
        if number > 1:
            g |= {n: 0 * g[n] for n in NORMS_AND_BIASES}
        optimizer.step(weights, g)
    return weights


def exssnet(lr, weight_lr, beta1, beta2, share, search):
    first, generator, taught = nets.start(), nets.draws(), {}
    names = [n for n, w in first.items() if w.ndim > 1]
    fixed = {n: np.sign(first[n]) * np.sqrt(2 / first[n].shape[1]) for n in names}
    weights = {n: 0 * w if n.endswith("bias") else w for n, w in first.items()}
    masks = []

    def top(s):
        bound = np.sort(np.abs(s).ravel())[-max(1, round(share * s.size))]
        return np.abs(s) >= bound

    for t, (x, y) in steps():
        if t % LENGTH == 0:
            scores, optimizer = {}, Adam(beta1, beta2)
            for n in names:
                drawn = torch.rand(fixed[n].shape, generator=generator, dtype=torch.float64).numpy()
                scores[n] = (2 * drawn - 1) / np.sqrt(fixed[n].shape[1])
            masks.append({n: top(scores[n]) for n in names})
        if t % LENGTH == round(search * LENGTH):
            optimizer = Adam(beta1, beta2)
        used = weights | {n: fixed[n] * masks[-1][n] for n in names}
        g = own(used, x, y, taught, len(masks))
        if t % LENGTH < round(search * LENGTH):
            # the mask is of |S|, whose slope is the sign of S
            optimizer.step(scores, {n: g[n] * fixed[n] * np.sign(scores[n]) for n in names}, lr)
            masks[-1] = {n: top(scores[n]) for n in names}
        else:
            free = {n: masks[-1][n] & ~np.any([m[n] for m in masks[:-1]], axis=0) for n in names}
            optimizer.step(fixed, {n: g[n] * free[n] for n in names}, weight_lr)
    return weights | {n: fixed[n] * masks[-1][n] for n in names}


def hat(lr, lam, smax, ramps, clip):
    raw, generator, taught = nets.start(), nets.draws(), {}
    layers = [n.removesuffix(".weight") for n in HIDDEN]
    used, gates = [np.zeros(len(raw[n])) for n in HIDDEN], []
    sigma = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731

    def gated(a):
        folded = {f"{n}.weight": raw[f"{n}.weight"] * g[:, None] for n, g in zip(layers, a)}
        return raw | folded | {f"{n}.bias": raw[f"{n}.bias"] * g for n, g in zip(layers, a)}

    for t, (x, y) in steps():
        place, part = t % LENGTH, max(1, LENGTH // ramps)
        if place == 0:
            if t:
                used = [np.maximum(u, sigma(smax * e)) for u, e in zip(used, gates)]
            gates = [torch.randn(len(u), generator=generator, dtype=torch.float64).numpy()
                     for u in used]  # fmt: skip
        s = 1 / smax + (smax - 1 / smax) * (place % part) / max(1, part - 1)
        a = [sigma(s * e) for e in gates]
        g = own(gated(a), x, y, taught, t // LENGTH + 1)
        total, before = sum((1 - u).sum() for u in used), np.ones(raw[HIDDEN[0]].shape[1])
        slopes = []
        for n, gate, u in zip(layers, a, used):
            w, b = g[f"{n}.weight"], g[f"{n}.bias"]
            slope = (w * raw[f"{n}.weight"]).sum(1) + b * raw[f"{n}.bias"]
            slopes.append(slope + lam * (1 - u) / total)
            g[f"{n}.weight"] = w * gate[:, None] * (1 - np.minimum.outer(u, before))
            g[f"{n}.bias"] = b * gate * (1 - u)
            before = u
        norm = np.sqrt(sum((v**2).sum() for v in g.values()))
        raw = {n: w - lr * min(1, clip / norm) * g[n] for n, w in raw.items()}
        for i, (e, gate, slope) in enumerate(zip(gates, a, slopes)):
            more = smax / s * (np.cosh(np.clip(s * e, -50, 50)) + 1) / (np.cosh(e) + 1)
            gates[i] = np.clip(e - lr * more * s * gate * (1 - gate) * slope, -6, 6)
    return gated([sigma(smax * e) for e in gates])


HATS = {"lr": 0.02, "lam": 0.75, "smax": 20.0, "ramps": 2, "clip": 0.5}
SUPERMASKS = {"lr": 0.05, "weight_lr": 0.02, "beta1": 0.9, "beta2": 0.99, "share": 0.3,
              "search": 0.4}  # fmt: skip
OWNERS = [
    Row("packnet", packnet, {**SGD, "train": 0.6}, package=""),
    Row("exssnet", exssnet, SUPERMASKS, package=""),
    Row("hat", hat, HATS, package="", float64=1e-9),
]


@pytest.mark.parametrize("row", OWNERS, ids=str)
def test_method_with_weights_of_tasks_equals_its_formula(row):
    submission = nets.submitted(row.submission, nets.task(tasks=TASKS), **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


def test_exssnet_raises_the_size_of_the_scores_of_weights_that_help():
    """A weight whose presence lowers the loss gains |S|, whatever the sign of its S."""
    made, generator, lr = nets.task(tasks=TASKS), nets.draws(), 1e-3
    submission = nets.submitted("exssnet", made, **SUPERMASKS | {"lr": lr})
    batch = nets.task(tasks=TASKS).next_batch()
    fixed = submission.algorithm.fixed
    scores = [torch.rand(w.shape, generator=generator, dtype=torch.float64) for w in fixed]
    scores = [(2 * s - 1) / w.shape[1] ** 0.5 for s, w in zip(scores, fixed)]
    masks = [(s.abs() >= s.abs().flatten().sort().values[-max(1, round(0.3 * s.numel()))]).double()
             .requires_grad_() for s in scores]  # fmt: skip
    weights = {n: w * m for n, w, m in zip(submission.algorithm.names, fixed, masks)}
    answers = torch.func.functional_call(made.model, weights, (batch["inputs"],))
    absent = ~torch.isin(torch.arange(CLASSES), batch["targets"])
    masked = answers.masked_fill(absent, -torch.inf)
    torch.nn.functional.cross_entropy(masked, batch["targets"]).backward()
    nets.run(submission, 1)
    for before, after, m in zip(scores, submission.algorithm.state["scores"], masks):
        grown, clear = after.abs() - before.abs(), (before.abs() > 2 * lr) & (m.grad.abs() > 1e-6)
        assert clear.sum() > 4
        assert torch.equal(grown[clear].sign(), -m.grad[clear].sign())


@pytest.mark.parametrize("name", ["packnet", "exssnet"])
def test_answers_of_a_finished_task_never_change(name, apart):
    task = apart()
    submission = nets.submitted(name, task)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(3)).double()
    predict, half = submission.module.predict, nets.STEPS // 2
    nets.run(submission, half)
    first = predict(submission.algorithm, x)
    assert submission.algorithm.taught.tolist() == [[True, True, False, False]]
    nets.run(submission, half)
    later = predict(submission.algorithm, x)
    assert torch.equal(first[:, :2], later[:, :2])
    assert later[:, 2:].exp().std() > 0


def icarl(lr, momentum):
    """Binary cross-entropies with the old model's answers, exemplars by herding (1611.07725)."""
    weights, optimizer, generator = nets.start(), Momentum(lr, momentum), nets.draws()
    old, known, kept, present = None, [], [], []
    capacity = (1 << 19) // (8 * 8 + 8)
    for t, (x, y) in steps():
        if t and t % LENGTH == 0:
            px, py = (np.concatenate(v) for v in zip(*present))
            new = [c for c in sorted(set(py.tolist())) if c not in known]
            share = capacity // len(known + new)
            parts = [(kx[:share], ky[:share]) for kx, ky in kept]
            for c in new:
                mine, order = px[py == c], []
                f = forward(weights, mine)[1][-1]
                f = f / np.linalg.norm(f, axis=1, keepdims=True)
                for _ in range(min(share, len(mine))):
                    far = [
                        np.linalg.norm(f.mean(0) - f[[*order, i]].mean(0)) if i not in order else 9
                        for i in range(len(mine))
                    ]
                    order.append(int(np.argmin(far)))
                parts.append((mine[order], np.full(len(order), c)))
            known, kept, present, old = known + new, parts, [], dict(weights)
        present.append((x, y))
        target = np.eye(CLASSES)
        if old:
            ex, ey = (np.concatenate(v) for v in zip(*kept))
            c = torch.randint(len(ey), (BATCH,), generator=generator).numpy()
            x, y = np.concatenate([x, ex[c]]), np.concatenate([y, ey[c]])
        scores, inside = forward(weights, x)
        target = np.eye(CLASSES)[y]
        if old:
            target[:, known] = 1 / (1 + np.exp(-forward(old, x)[0][:, known]))
        d = (1 / (1 + np.exp(-scores)) - target) / scores.size
        optimizer.step(weights, backward(weights, inside, d))
    return weights


def test_icarl_equals_its_formula():
    submission = nets.submitted("icarl", nets.task(tasks=TASKS), **SGD)
    assert nets.difference(nets.run(submission), icarl(**SGD)) <= 1e-10


def unit(f):
    return f / np.linalg.norm(f, axis=1, keepdims=True)


def simplex(lr, momentum, weight, mu):
    """A fixed readout on the corners of a simplex, and the loss HOC (2405.02581)."""
    weights, memory, old = nets.start(), Memory(nets.draws()), None
    optimizer, width = Momentum(lr, momentum), weights[HEAD[0]].shape[1]
    gram = np.full((CLASSES, CLASSES), -1 / width) + np.eye(CLASSES) * (1 + 1 / width)
    submission = nets.submitted("simplex", nets.task(tasks=TASKS))
    weights[HEAD[0]] = submission.task.model.readout.weight.numpy().copy()
    weights[HEAD[1]] = np.zeros(CLASSES)
    assert np.abs(weights[HEAD[0]] @ weights[HEAD[0]].T - gram).max() < 1e-12
    for t, (x, y) in steps():
        if t and t % LENGTH == 0:
            old = dict(weights)
        new = x, y
        if t:
            x, y = (np.concatenate(pair) for pair in zip(new, memory.draw()))
        scores, kept = forward(weights, x)
        d, below = (softmax(scores) - np.eye(CLASSES)[y]) / len(y), 0.0
        if old:
            f, before = kept[-1], unit(forward(old, x)[1][-1])
            close = mu * unit(f) @ before.T
            q = np.exp(close) * (y[:, None] != y)
            slope = mu * (q / q.sum(1, keepdims=True) - np.eye(len(y))) @ before / len(y)
            length = np.linalg.norm(f, axis=1, keepdims=True)
            slope = (slope - (slope * unit(f)).sum(1, keepdims=True) * unit(f)) / length
            d, below = weight * d, (1 - weight) * slope
        g = backward(weights, kept, d, below)
        optimizer.step(weights, {n: v for n, v in g.items() if n not in HEAD})
        memory.add(*new)
    return weights


def gpm(lr, threshold, growth):
    """g − g·M·Mᵀ, M of the inputs' leading directions (2103.09762)."""
    weights, generator = nets.start(), nets.draws()
    memory, bases = Memory(generator), {}
    for t, (x, y) in steps():
        if t and t % LENGTH == 0:
            number, (old, _) = t // LENGTH - 1, memory.draw()
            kept = forward(weights, old)[1]
            for n, inputs in zip([*HIDDEN, HEAD[0]], [kept[0][0], kept[1][0], kept[2]]):
                r = inputs.T
                m = bases.get(n, np.zeros((len(r), 0)))
                left, limit = r - m @ m.T @ r, min(1, threshold + growth * number)
                u = np.linalg.svd(left, full_matrices=False)[0]
                count = 0
                while True:
                    b = np.hstack([m, u[:, :count]])
                    if np.linalg.norm(b @ b.T @ r) ** 2 >= limit * np.linalg.norm(r) ** 2:
                        break
                    count += 1
                bases[n] = b
            memory = Memory(generator)
        g = nets.gradients(weights, x, y)
        for n, m in bases.items():
            g[n] = g[n] - g[n] @ m @ m.T
        moving = bases or g
        weights |= {n: weights[n] - lr * g[n] for n in moving}
        memory.add(x, y)
    return weights


def coso(lr, rank, sketch, every, energy, beta1, beta2):
    """Adam in the leading subspace of G − M·Mᵀ·G, sketches by frequent directions (2505.11816)."""
    weights = nets.start()
    memory = {n: np.zeros((len(weights[n]), 0)) for n in HIDDEN}
    sketches, basis = dict(memory), {}
    for t, (x, y) in steps():
        if t and t % LENGTH == 0:
            for n in HIDDEN:
                u, s, _ = np.linalg.svd(sketches[n], full_matrices=False)
                count = (np.cumsum(s**2) / (s**2).sum() < energy).sum()
                memory[n] = np.linalg.qr(np.hstack([memory[n], u[:, :count]]))[0]
                sketches[n] = np.zeros((len(u), 0))
        if t % LENGTH == 0:
            inner, rest = Adam(beta1, beta2), Adam(beta1, beta2)
        g, small, basis = nets.gradients(weights, x, y), {}, {} if t % LENGTH == 0 else basis
        for n in HIDDEN:
            g[n] = g[n] - memory[n] @ memory[n].T @ g[n]
            if t % LENGTH % every == 0:
                u, s, _ = (v.numpy() for v in torch.linalg.svd(torch.from_numpy(g[n]), False))
                basis[n] = u[:, :rank]
                both = np.hstack([sketches[n], (u * s)[:, :sketch]])
                v, e, _ = np.linalg.svd(both, full_matrices=False)
                cut = e[sketch] ** 2 if len(e) > sketch else 0.0
                sketches[n] = (v * np.sqrt(np.maximum(e**2 - cut, 0)))[:, :sketch]
            small[n] = basis[n].T @ g[n]
        moved = {n: np.zeros_like(v) for n, v in small.items()}
        inner.step(moved, small, lr)
        weights |= {n: weights[n] + basis[n] @ u for n, u in moved.items()}
        rest.step(weights, {n: v for n, v in g.items() if n not in HIDDEN}, lr)
    return weights


def grcl(lr, momentum, lam, share, batches):
    """The union of the largest entries of every past task's Fisher matrix, as a gate."""
    generator, fishers = nets.draws(), []

    def gate(old, weights, anchor):
        new = fishers[0](None, weights, None)
        chosen = {}
        for n, f in new.items():
            bound = np.sort(f.ravel())[-max(1, round(share * f.size))]
            chosen[n] = (f >= bound) | (old[n] if old else False)
        return chosen

    def squares(weights, x):
        scores, kept = forward(weights, x)
        drawn = torch.multinomial(torch.from_numpy(softmax(scores)), 1, generator=generator)[:, 0]
        d = (softmax(scores) - np.eye(CLASSES)[drawn.numpy()]) / BATCH
        return {n: BATCH * v**2 for n, v in backward(weights, kept, d).items()}

    fishers.append(per_task(generator, squares, 1.0, batches))
    return anchored(lr, momentum, lam, gate)


def etf(lr, momentum, later, scale):
    """Scaled cosines to fixed corners, replay, a smaller rate after the first task (2302.03004)."""
    weights, memory = nets.start(), Memory(nets.draws())
    submission = nets.submitted("etf", nets.task(tasks=TASKS))
    weights[HEAD[0]] = submission.task.model.readout.weight.numpy().copy()
    weights[HEAD[1]], optimizer = np.zeros(CLASSES), Momentum(lr, momentum)
    for t, new in steps():
        optimizer.lr = lr * (later if t >= LENGTH else 1)
        x, y = (np.concatenate(pair) for pair in zip(new, memory.draw())) if t else new
        kept = forward(weights, x)[1]
        f = kept[-1]
        length, w = np.linalg.norm(f, axis=1, keepdims=True), weights[HEAD[0]]
        cosines = unit(f) @ w.T
        d = scale * (softmax(scale * cosines) - np.eye(CLASSES)[y]) / len(y)
        below = (d @ w - (d * cosines).sum(1, keepdims=True) * unit(f)) / length
        g = backward(weights, kept, np.zeros((len(y), CLASSES)), below)
        optimizer.step(weights, {n: v for n, v in g.items() if n not in HEAD})
        memory.add(*new)
    return weights


def test_frozen_means_equals_its_formula():
    """Training in the first task alone; sums of features of length 1 from its end on."""
    submission = nets.submitted("frozen_means", nets.task(tasks=TASKS), **SGD, late=0.4)
    found = nets.run(submission)
    weights, optimizer, sums = nets.start(), Momentum(**SGD), np.zeros((CLASSES, 8))
    for t, (x, y) in steps():
        if t >= 0.6 * LENGTH:
            np.add.at(sums, y, unit(forward(weights, x)[1][-1]))
        if t < LENGTH:
            optimizer.step(weights, nets.gradients(weights, x, y))
    assert nets.difference(found, weights) < 1e-12
    x = np.random.default_rng(2).standard_normal((9, 8))
    cosines = unit(forward(weights, x)[1][-1]) @ unit(sums).T
    answers = submission.module.predict(submission.algorithm, torch.from_numpy(x)).numpy()
    assert np.abs(answers - cosines).max() < 1e-10


FORMULAS = [
    Row("etf", etf, {**SGD, "later": 0.3, "scale": 5.0}, package=""),
    Row("simplex", simplex, {**SGD, "weight": 0.5, "mu": 5.0}, package=""),
    Row("gpm", gpm, {"lr": 0.05, "threshold": 0.8, "growth": 0.003}, package=""),
    Row("coso", coso, {"lr": 0.02, "rank": 3, "sketch": 5, "every": 2, "energy": 0.6,
        "beta1": 0.9, "beta2": 0.99}, package="", float64=1e-8),
    Row("grcl", grcl, {**SGD, "lam": 0.7, "share": 0.2, "batches": 3}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_method_at_boundaries_equals_its_formula(row):
    submission = nets.submitted(row.submission, nets.task(tasks=TASKS), **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


def test_gpm_leaves_what_a_layer_says_of_stored_inputs():
    task = nets.task(tasks=TASKS)
    submission = nets.submitted("gpm", task, threshold=0.99)
    nets.run(submission, LENGTH + 1)
    basis = submission.algorithm.bases["blocks.0.linear"]
    before = task.model.blocks[0].linear.weight.detach() @ basis
    nets.run(submission, LENGTH - 1)
    after = task.model.blocks[0].linear.weight.detach() @ basis
    assert (after - before).abs().max() < 1e-12
    assert basis.shape[1] < 8


def test_l2_attention_equals_its_formula():
    """The pull of `l2` on the matrices of queries, keys and values alone (2203.17269)."""
    made, second = (small_workloads.read("stream_text").task() for _ in range(2))
    lr, lam, length = 0.1, 0.7, made.horizon // 4
    hp = {"lr": lr, "momentum": 0.0, "adaptive": False, "lam": lam}
    submission = nets.submitted("l2_attention", made, **hp)
    weights = nets.run(submission, 3 * length)
    attention, anchor = [block.qkv.weight for block in second.model.blocks], []
    for t in range(3 * length):
        if t and t % length == 0:
            anchor = [w.detach().clone() for w in attention]
        second.forward_backward(second.next_batch())
        for w, old in zip(attention, anchor):
            w.grad += lam * (w.detach() - old)
        for p in second.params:
            p.data -= lr * p.grad
        second.step += 1
    found = {name: p.detach().numpy() for name, p in second.model.named_parameters()}
    assert nets.difference({n: weights[n] for n in found}, found) < 1e-5
