"""Adapters of the second wave's rest follow a second implementation of their rule, step by step.

On the network of tests/support/nets.py, in float64: numpy loops written from the papers' rules, and
peft for SHiRA. What a method draws by the task's own stream of numbers is drawn again.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from harness import surgery
from harness.catalog import discover, space
from harness.errors import UserError
from harness.laws.small_workloads import small_workloads
from harness.race import stored_bits
from harness.train.submission import Submission
from submissions.peft import codyra as codyra_of
from submissions.peft import dsee as dsee_of
from submissions.peft import qlora as qlora_of
from submissions.peft import svft as svft_of
from tests.parity.test_parity import Row
from tests.parity.test_parity_peft import adapted, array, modules
from tests.support import nets
from tests.support.nets import HEAD, HIDDEN, STEPS, Adam, gradients, rate

BASE = {"base_lr": 0.02, "base_wd": 0.1, "head_lr": 0.01}
OWN = {"lr": 0.02, "wd": 0.1, "beta2": 0.95, "head_lr": 0.01}


def spread(shape, places, values):
    """Return a matrix that is zero but at these places of its rows, one after the other."""
    flat = np.zeros(math.prod(shape))
    flat[places] = values
    return flat.reshape(shape)


# Peers


# Sparse tensors warn where nobody says whether they are to be checked.
@torch.sparse.check_sparse_tensor_invariants()
def shira_of_peft(submission, share, lr, wd, beta2, head_lr):
    """peft's SHiRA at the places that ours has drawn, by torch's AdamW."""
    peft = pytest.importorskip("peft", reason="the peer peft is not installed")
    targets = [name.removesuffix(".weight") for name in HIDDEN]
    config = peft.ShiraConfig(r=1, target_modules=targets)
    made = peft.inject_adapter_in_model(config, nets.task().model)
    for name, ours in modules(submission).items():
        theirs = made.get_submodule(name.removesuffix(".weight"))
        inputs = ours.weight.shape[1]
        theirs.shira_indices["default"] = torch.stack([ours.places // inputs, ours.places % inputs])
        zeros = torch.zeros(len(ours.places), dtype=torch.float64)
        theirs.shira_weight["default"] = torch.nn.Parameter(zeros)
    head = list(made.readout.parameters())
    for p in head:
        p.requires_grad_(True)
    own = [p for p in made.parameters() if p.requires_grad and all(p is not q for q in head)]
    groups = [{"params": own}, {"params": head}]
    optimizer, stream = torch.optim.AdamW(groups, betas=(0.9, beta2), weight_decay=wd), nets.task()
    for t in range(STEPS):
        for group, peak in zip(optimizer.param_groups, [lr, head_lr], strict=True):
            group["lr"] = peak * rate(t)
        optimizer.zero_grad()
        nets.WORKLOAD.loss(made, stream.next_batch()).backward()
        optimizer.step()
    dense = {}
    for name, value in nets.start().items():
        module, kind = made.get_submodule(name.rpartition(".")[0]), name.split(".")[-1]
        dense[name] = array(getattr(getattr(module, "base_layer", module), kind))
        if name in HIDDEN:
            dense[name] = value + array(module.get_delta_weight("default").to_dense())
    return dense


PEERS = [Row("shira", shira_of_peft, {**OWN, "share": 0.1}, "peft")]


@pytest.mark.parametrize("row", PEERS, ids=str)
def test_a_sparse_adapter_equals_its_peer(row):
    submission = nets.submitted(row.submission, **row.hp)
    assert submission.hp.window == 0
    before = {n: m.places.clone() for n, m in modules(submission).items()}
    second = row.second(submission, **row.hp)
    assert nets.difference(nets.run(submission), second) <= row.float64
    assert all(torch.equal(m.places, before[n]) for n, m in modules(submission).items())


# Formulas


def dsee(submission, rank, alpha, places, rounds, **hp):
    """Low rank and single entries, both times α/r (arXiv 2111.00160, equation 2)."""
    first, s, at = nets.start(), alpha / rank, {}
    for n in HIDDEN:
        kept = np.zeros(first[n].shape)
        for _ in range(rounds):
            u, values, v = np.linalg.svd(first[n] - kept)
            low = sum(values[k] * np.outer(u[:, k], v[k]) for k in range(rank))
            gap = (first[n] - low).ravel()
            at[n] = np.sort(np.argsort(-np.abs(gap))[:places])
            kept = spread(first[n].shape, at[n], gap[at[n]])
    theta = {n: {"A": array(m.A), "B": array(m.B), "phi": np.zeros(places)}
             for n, m in modules(submission).items()}  # fmt: skip

    def dense(name, p):
        return first[name] + s * (p["B"] @ p["A"] + spread(first[name].shape, at[name], p["phi"]))

    def pull(name, p, g):
        return {"A": s * p["B"].T @ g, "B": s * g @ p["A"].T, "phi": s * g.ravel()[at[name]]}

    return adapted(theta, dense, pull, **hp)


def rosa(submission, rank, alpha, density, warm, batches, lr, wd, beta2, head_lr):
    """LoRA, the largest squared gradients, and both from the start (arXiv 2401.04679, 4.3)."""
    weights, first, s, generator = nets.start(), nets.start(), alpha / rank, nets.draws()
    own, at, optimizer = {}, {}, Adam(beta2=beta2)
    for n, m in modules(submission).items():
        own |= {(n, "A"): array(m.A), (n, "B"): array(m.B)}
    begin, squares = int(warm * STEPS), dict.fromkeys(HIDDEN, 0.0)

    def dense(n):
        found = first[n] + s * own[n, "B"] @ own[n, "A"]
        return found + spread(found.shape, at[n], own[n, "S"]) if at else found

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {n: dense(n) for n in HIDDEN}
        g = gradients(weights, *batch)
        grads = {(n, "A"): s * own[n, "B"].T @ g[n] for n in HIDDEN}
        grads |= {(n, "B"): s * g[n] @ own[n, "A"].T for n in HIDDEN}
        grads |= {(n, "S"): g[n].ravel()[at[n]] for n in at}
        optimizer.step(own, grads, lr * rate(t), wd)
        optimizer.t -= 1
        optimizer.step(weights, {n: g[n] for n in HEAD}, head_lr * rate(t), wd)
        if begin <= t < begin + batches:
            squares = {n: squares[n] + g[n] ** 2 for n in HIDDEN}
        if t != begin + batches - 1:
            continue
        for n in HIDDEN:
            count, shape = int(density * first[n].size), own[n, "A"].shape
            at[n] = np.argsort(-squares[n].ravel())[:count]
            drawn = shape[1] ** -0.5 * (2 * torch.rand(shape, generator=generator) - 1)
            own |= {(n, "A"): drawn.double().numpy(), (n, "B"): np.zeros_like(own[n, "B"])}
            own[n, "S"] = np.zeros(count)
        optimizer = Adam(beta2=beta2)
    return weights | {n: dense(n) for n in HIDDEN}


def codyra(submission, rank, alpha, dense, kappa, lr, wd, beta2, head_lr):
    """A proximal step on the weights of the ranks (arXiv 2412.01004, section 4)."""
    weights, first, s, optimizer = nets.start(), nets.start(), alpha / rank, Adam(beta2=beta2)
    own, counts = {}, []
    for n, m in modules(submission).items():
        own |= {(n, "A"): array(m.A), (n, "B"): array(m.B), (n, "w"): array(m.w)}

    def merged(n):
        return first[n] + s * own[n, "B"] @ np.diag(own[n, "w"]) @ own[n, "A"]

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {n: merged(n) for n in HIDDEN}
        g, grads = gradients(weights, *batch), {}
        gone = {n: own[n, "w"] == 0 for n in HIDDEN}
        for n in HIDDEN:
            a, b, w = (own[n, k] for k in "ABw")
            grads |= {(n, "A"): s * w[:, None] * (b.T @ g[n]), (n, "B"): s * g[n] @ a.T * w}
            grads[n, "w"] = np.array([s * b[:, k] @ g[n] @ a[k] for k in range(rank)])
        optimizer.step(own, grads, lr * rate(t), wd)
        optimizer.t -= 1
        optimizer.step(weights, {n: g[n] for n in HEAD}, head_lr * rate(t), wd)
        at = (t + 0.5) / STEPS
        if at > dense:
            threshold = lr * rate(t) * kappa * (at - dense) / (1 - dense)
            for n in HIDDEN:
                w = own[n, "w"]
                w = np.where(w > threshold, w - threshold, np.minimum(w + threshold, 0.0))
                own[n, "w"] = np.where(gone[n], 0.0, w)
        counts.append(sum(np.count_nonzero(own[n, "w"]) for n in HIDDEN))
    assert 0 < counts[-1] < counts[0]
    assert counts == sorted(counts, reverse=True)
    return weights | {n: merged(n) for n in HIDDEN}


def qlora(submission, rank, alpha, stored, **hp):
    """LoRA in 16 bits on the quantiles of the normal distribution (arXiv 2305.14314, section 3)."""
    edge, s = (1 / 32 + 1 / 30) / 2, alpha / rank
    places = np.linspace(1 - edge, 0.5, 9)[:-1], np.linspace(1 - edge, 0.5, 8)[:-1]
    points = np.concatenate([norm.ppf(places[0]), [0.0], -norm.ppf(places[1])])
    points, base = points / norm.ppf(1 - edge), {}
    for n in HIDDEN:
        w = nets.start()[n]
        largest = np.abs(w).max(1, keepdims=True)
        nearest = np.abs(points - (w / largest)[..., None]).argmin(-1)
        base[n] = largest * points[nearest]

    def half(value):
        return value.astype(np.float16).astype(np.float64)

    def dense(name, p):
        return base[name] + half(s * p["B"]) @ half(p["A"])

    def pull(name, p, g):
        return {"A": half(s * p["B"]).T @ g, "B": s * g @ half(p["A"]).T}

    theta = {n: {"A": array(m.A), "B": array(m.B)} for n, m in modules(submission).items()}
    return adapted(theta, dense, pull, **hp)


def svft(submission, band, pattern="banded", **hp):
    """U·M·Vᵀ beside W, M zero but at places near the diagonal, or drawn (arXiv 2405.19597)."""
    first, parts, theta, at, generator = nets.start(), {}, {}, {}, nets.draws()
    for n in HIDDEN:
        parts[n] = np.linalg.svd(first[n], full_matrices=False)
        side = len(parts[n][1])
        near = [(i, j) for i in range(side) for j in range(side) if abs(i - j) <= band]
        if pattern == "random":
            others = [(i, j) for i in range(side) for j in range(side) if i != j]
            drawn = torch.randperm(len(others), generator=generator)[: len(near) - side]
            near = [(i, i) for i in range(side)] + [others[k] for k in drawn.tolist()]
        at[n], theta[n] = near, {"m": np.zeros(len(near))}

    def dense(name, p):
        u, _, v = parts[name]
        outer = (c * np.outer(u[:, i], v[j]) for c, (i, j) in zip(p["m"], at[name], strict=True))
        return first[name] + sum(outer)

    def pull(name, p, g):
        u, _, v = parts[name]
        return {"m": np.array([u[:, i] @ g @ v[j] for i, j in at[name]])}

    return adapted(theta, dense, pull, **hp)


SIZE = {"rank": 3, "alpha": 6.0}
FORMULAS = [
    Row("dsee", dsee, {**BASE, **SIZE, "places": 16, "rounds": 5}, package=""),
    Row("rosa", rosa, {**OWN, **SIZE, "density": 0.1, "warm": 0.2, "batches": 2}, package=""),
    Row("codyra", codyra, {**OWN, "rank": 6, "alpha": 6.0, "dense": 0.3, "kappa": 15.0},
        package=""),
    Row("qlora", qlora, {**BASE, **SIZE, "stored": 32.0}, package="", float64=1e-6),
    Row("svft", svft, {**BASE, "band": 2, "pattern": "banded"}, package=""),
    Row("svft_plain", svft, {**BASE, "band": 0}, package=""),
    Row("svft_random", svft, {**BASE, "band": 2, "pattern": "random"}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_a_further_adapter_equals_its_formula(row):
    submission = nets.submitted(row.submission, **row.hp)
    second = row.second(submission, **row.hp)
    assert nets.difference(nets.run(submission), second) <= row.float64


# Properties


def test_a_sparse_rest_is_found_beside_a_low_rank():
    """Entries that were added to a matrix of rank 2 are those that the split finds."""
    random = np.random.default_rng(3)
    low = 3 * random.standard_normal((12, 2)) @ random.standard_normal((2, 10))
    places = np.sort(random.choice(120, 5, replace=False))
    weight = torch.from_numpy(low + spread((12, 10), places, 2.0))
    assert dsee_of.rest(weight, 2, 5, 20).tolist() == places.tolist()


def test_a_soft_threshold_is_the_proximal_point():
    w, kappa = torch.tensor([-2.0, -0.3, 0.0, 0.2, 1.0], dtype=torch.float64), 0.5
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    value = kappa * grid.abs() + 0.5 * (grid - w[:, None]) ** 2
    expected = grid[value.argmin(1)]
    torch.testing.assert_close(codyra_of.soft_threshold(w, kappa), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side, band", [(8, 0), (8, 2), (5, 9)])
def test_both_patterns_train_as_many_entries(side, band):
    generator = torch.Generator().manual_seed(0)
    sizes = {p: svft_of.chosen(side, band, p, generator) for p in ("banded", "random")}
    assert all(len(set(v.tolist())) == svft_of.trained(side, band) for v in sizes.values())
    assert all(set(range(0, side * side, side + 1)) <= set(v.tolist()) for v in sizes.values())


def in_parts(stored):
    workload = next(w for w in small_workloads() if w.name == "compress_parts")
    task = workload.task()
    card = discover.read(discover.find("qlora"))
    hp = space.default(card.literals["SPACE"]) | {"stored": stored, "rank": 2}
    return task, Submission(card, hp, task)


def test_qlora_hands_over_parts_within_the_bound():
    task, submission = in_parts(12.0)
    for _ in range(3):
        submission.step()
        task.step += 1
    inside = task.model(task.calibration(2))
    handed = submission.module.export(task.model)
    maps = surgery.matrices(task.model)
    parts = [(m.parts.left, m.parts.right, m.parts.rest) for m in maps.values()]
    weights = [handed[f"{n}.weight"] for n in maps]
    assert stored_bits.stored_bits(weights, parts) <= 12.0
    assert all("codebook" in stored_bits.formats(w) for w in weights)
    assert all(bool(left.any()) for left, _, _ in parts)
    second, _ = in_parts(12.0)
    plain = next(w for w in small_workloads() if w.name == "compress_parts").task().model
    plain.load_state_dict(handed)
    torch.testing.assert_close(plain(second.calibration(2)), inside, rtol=1e-4, atol=1e-5)


def test_qlora_takes_the_most_bits_and_then_the_most_ranks():
    weights = [torch.zeros(64, 64), torch.zeros(256, 64)]
    for bound in (5.1, 4.6, 3.9, 3.2):
        bits, rank = qlora_of.fitting(weights, bound, 8)
        assert qlora_of.stored(weights, bits, rank) <= bound
        assert rank == 8 or qlora_of.stored(weights, bits, rank + 1) > bound
        assert bits == 4 or qlora_of.stored(weights, bits + 1, 1) > bound
    with pytest.raises(UserError, match="stores a matrix as one part"):
        nets.submitted("qlora", stored=4.6)
