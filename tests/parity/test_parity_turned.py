"""Rotations, codebooks, shrinking patterns, factors and parts follow their rules.

On the language model of tests/support/transformer.py, in float64, with gradients of its own loss.
"""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch

from harness import structure, surgery
from harness.catalog import discover, space
from harness.errors import UserError
from harness.laws.small_workloads import small_workloads
from harness.race import reduction, stored_bits, weight_metrics
from harness.train.submission import Submission
from submissions.peft import apt
from submissions.quantized import aqlm, lorc, quarot, spinquant
from submissions.sparse import pela
from tests.parity.test_parity import Row
from tests.parity.test_parity_sparse import block_inputs, calibration, grid, nearest, surgeon
from tests.support import nets
from tests.support import transformer as t
from tests.support.nets import rate
from workloads.models.parts import in_parts as sums
from workloads.models.vit import ViT

STEPS = 12


def at_work(name, task, **hp):
    card = discover.read(discover.find(name))
    return Submission(card, space.default(card.literals["SPACE"]) | hp, task)


def unrounded(monkeypatch):
    monkeypatch.setattr("submissions.quantized.int8_ste.adapt", lambda *rest: None)


# Rotations


@pytest.mark.parametrize("name", ["quarot", "spinquant"])
def test_a_turn_alone_changes_no_output(name, monkeypatch):
    unrounded(monkeypatch)
    made, x = t.task(), t.task().calibration(3)
    before = made.model(x)
    t.submitted(name, made, **({"turns": 0.1, "turn_lr": 0.3} if name == "spinquant" else {}))
    after = made.model.state_dict()
    for key in (*t.HIDDEN, "tokens.weight", "positions.weight", "readout.weight"):
        assert not torch.allclose(after[key], made.start[key], atol=1e-3), key
    torch.testing.assert_close(made.model(x), before, rtol=1e-9, atol=1e-9)


def test_a_turn_alone_changes_no_output_of_a_vision_transformer():
    config = {"side": 8, "channels": 1, "patch": 4, "classes": 10, "depth": 2, "heads": 2}
    config |= {"width": 16, "norm": "pre", "activation": "gelu", "init_scale": 4.0}
    torch.manual_seed(0)
    model = ViT(SimpleNamespace(**config)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    before = model(x)
    last, head = quarot.fold(model)
    torch.testing.assert_close(model(x), before)
    rotations = quarot.Rotations(structure.blocks(model), torch.Generator().manual_seed(1))
    quarot.turn(model, last, head, rotations)
    torch.testing.assert_close(model(x), before)


def test_the_stream_turns_around_the_ones_vector():
    rotations = quarot.Rotations(structure.blocks(t.task().model), torch.Generator())
    q, eye = rotations.stream(), torch.eye(t.WIDTH, dtype=torch.float64)
    torch.testing.assert_close(q.T @ q, eye)
    torch.testing.assert_close(q.sum(1), torch.ones(t.WIDTH, dtype=torch.float64))
    assert float((q - eye).abs().max()) > 0.3


def test_turned_weights_are_handed_over_on_grids():
    found = t.run(t.submitted("quarot", t.task(), bits=4), 2)
    assert weight_metrics.bits([found[n].float() for n in t.HIDDEN]) <= 4


def test_a_tied_model_cannot_be_turned():
    made = t.task()
    made.model.readout = None
    with pytest.raises(UserError, match="readout of its own"):
        quarot.fold(made.model)


def test_a_turned_map_is_the_rounded_map_of_the_turned_model():
    """Learning sees what will be handed over: rounding in the turned basis, then back."""
    made = t.task()
    quarot.fold(made.model)
    rotations = quarot.Rotations(structure.blocks(made.model), torch.Generator().manual_seed(1))
    x = t.task().calibration(3)
    spinquant.wrap(made.model, rotations, 4)
    inside = made.model(x)
    other = t.task()
    last, head = quarot.fold(other.model)
    quarot.turn(other.model, last, head, rotations)
    for w in surgery.weights(other.model):
        step = w.detach().abs().amax(1, keepdim=True) / 7
        w.data.copy_(step * (w / step).round())
    torch.testing.assert_close(inside, other.model(x), rtol=1e-9, atol=1e-9)


def test_cayley_stays_orthogonal_and_goes_downhill():
    draws = torch.Generator().manual_seed(0)
    q = torch.stack([quarot.orthogonal(5, draws) for _ in range(2)])
    aim = torch.stack([quarot.orthogonal(5, draws) for _ in range(2)])

    def loss(q):
        return (q - aim).square().sum()

    slope = 2 * (q - aim)
    moved = spinquant.cayley(q, slope, 0.05)
    eye = torch.eye(5, dtype=torch.float64).expand(2, 5, 5)
    torch.testing.assert_close(moved @ moved.mT, eye)
    assert loss(moved) < loss(q)
    # To first order the step is −η·A·Q with A = G·Qᵀ − Q·Gᵀ.
    small = spinquant.cayley(q, slope, 1e-6)
    first = q - 1e-6 * (slope @ q.mT - q @ slope.mT) @ q
    torch.testing.assert_close(small, first, rtol=0, atol=1e-10)


def test_rotations_follow_the_slope_of_what_rounding_adds():
    """W' = W + L·E·Rᵀ with E the rounding's error, held fixed: along turns the slopes agree."""
    made = t.task()
    quarot.fold(made.model)
    blocks = structure.blocks(made.model)
    rotations = quarot.Rotations(blocks, torch.Generator().manual_seed(1))
    w = {n: v.clone() for n, v in made.model.state_dict().items()}
    spinquant.wrap(made.model, rotations, 3)
    rotations.inner.requires_grad_(True)
    batch = made.next_batch()
    made.forward_backward(batch)
    found = rotations.inner.grad

    inner = rotations.inner.detach().clone().requires_grad_()
    first, others = rotations.basis[:, :1], rotations.basis[:, 1:]
    q = first @ first.T + others @ inner @ others.T
    changed = dict(w)
    for i in range(t.DEPTH):
        values, eye = rotations.values(i), torch.eye(2 * t.WIDTH).double()
        sides = {
            "qkv": (torch.block_diag(eye, values), q),
            "project": (q, values),
            "up": (torch.eye(t.INNER).double(), q),
            "down": (q, torch.eye(t.INNER).double()),
        }
        for name, (left, right) in sides.items():
            key = f"blocks.{i}.{name}.weight"
            turned = (left.T @ w[key] @ right).detach()
            step = turned.abs().amax(1, keepdim=True) / 3
            gap = step * (turned / step).round() - turned
            changed[key] = w[key] + left @ gap @ right.T
    scores = t.forward(changed, batch["inputs"]).log_softmax(-1)
    (slope,) = torch.autograd.grad(-scores.gather(-1, batch["targets"][..., None]).mean(), inner)

    def skew(g):
        m = rotations.inner.detach()
        return g @ m.T - m @ g.T

    torch.testing.assert_close(skew(found), skew(slope), rtol=1e-6, atol=1e-9)
    assert float(skew(slope).abs().max()) > 1e-5


def drawn(size, draws):
    """A random orthogonal matrix: Q of a Gaussian one whose R has a positive diagonal."""
    normal = torch.randn(size, size, generator=draws, dtype=torch.float64).numpy()
    q, r = np.linalg.qr(normal)
    return torch.from_numpy(q * np.where(np.diag(r) < 0, -1.0, 1.0))


def drawn_rotations():
    """Return the matrix that acts beside the ones vector, and each block's R_h."""
    draws = nets.draws()
    inner = drawn(t.WIDTH - 1, draws)
    return inner, [[drawn(t.EACH, draws) for _ in range(t.HEADS)] for _ in range(t.DEPTH)]


def around_ones(inner):
    """Return Q: the ones vector stays, the directions beside it turn by `inner`."""
    columns = np.eye(t.WIDTH)
    columns[:, 0] = 1.0
    beside = torch.from_numpy(np.linalg.qr(columns)[0][:, 1:])
    return torch.full((t.WIDTH, t.WIDTH), 1 / t.WIDTH).double() + beside @ inner @ beside.T


def turned(w, q, heads):
    """Return all weights of the turned model, each written out from the start's.

    A reader of a norm with gain a and shift s has W·diag(a)·Q and the bias b + W·s. The readout has
    no bias, so the last norm keeps s/a, turned.
    """
    new = {}
    for name in ("tokens.weight", "positions.weight"):
        new[name] = w[name] @ q
    for i in range(t.DEPTH):
        b = f"blocks.{i}"
        for norm, reader in (("norm1", "qkv"), ("norm2", "up")):
            gain, shift = w[f"{b}.{norm}.weight"], w[f"{b}.{norm}.bias"]
            new[f"{b}.{norm}.weight"] = torch.ones_like(gain)
            new[f"{b}.{norm}.bias"] = torch.zeros_like(gain)
            new[f"{b}.{reader}.weight"] = w[f"{b}.{reader}.weight"] @ torch.diag(gain) @ q
            bias = w[f"{b}.{reader}.bias"] + w[f"{b}.{reader}.weight"] @ shift
            new[f"{b}.{reader}.bias"] = bias
        project = []
        for part in ("weight", "bias"):
            rows = list(new[f"{b}.qkv.{part}"].split(t.EACH))
            for h in range(t.HEADS):
                # Behind the rows of all queries and keys.
                rows[2 * t.HEADS + h] = heads[i][h].T @ rows[2 * t.HEADS + h]
            new[f"{b}.qkv.{part}"] = torch.cat(rows)
        for h, part in enumerate(w[f"{b}.project.weight"].split(t.EACH, dim=1)):
            project.append(q.T @ part @ heads[i][h])
        new[f"{b}.project.weight"] = torch.cat(project, 1)
        new[f"{b}.down.weight"] = q.T @ w[f"{b}.down.weight"]
        for writer in ("project", "down"):
            new[f"{b}.{writer}.bias"] = w[f"{b}.{writer}.bias"] @ q
    gain, shift = w["norm.weight"], w["norm.bias"]
    new |= {"norm.weight": torch.ones_like(gain), "norm.bias": (shift / gain) @ q}
    return new | {"readout.weight": w["readout.weight"] @ torch.diag(gain) @ q}


def rounded(w, bits):
    """Return all weights, the hidden ones rounded to symmetric grids of their rows."""
    new = dict(w)
    for n in t.HIDDEN:
        unit = w[n].detach().abs().max(1, keepdim=True).values / (2 ** (bits - 1) - 1)
        new[n] = w[n] + (unit * torch.round(w[n] / unit) - w[n]).detach()
    return new


def trained_through_rounding(w, stream, steps, bits):
    """Return what AdamW with gradients straight through the rounding ends with, rounded."""
    optimizer, horizon = t.AdamW(), stream.horizon
    for step in range(steps):
        batch = stream.next_batch()
        stream.step += 1
        g = t.gradients(w, batch, change=lambda w: rounded(w, bits))
        optimizer.step(w, g, 0.01 * rate(step, horizon), 0.1)
    return rounded(w, bits)


THROUGH = {"base_lr": 0.01, "base_wd": 0.1, "bits": 4}


def test_quarot_equals_its_formula():
    """Random rotations around the ones vector, then int8_ste's training (2404.00456)."""
    inner, heads = drawn_rotations()
    w = turned(t.start(), around_ones(inner), heads)
    expected = trained_through_rounding(w, t.task(STEPS), STEPS, 4)
    found = t.run(t.submitted("quarot", t.task(STEPS), **THROUGH), STEPS)
    assert t.difference(found, expected) < 1e-9


def moved(matrix, slope, eta):
    """Cayley's transform of η/2·A with A = G·Qᵀ − Q·Gᵀ, by the eigenvalues of the Hermitian iA."""
    a = (slope @ matrix.T - matrix @ slope.T).numpy()
    values, vectors = np.linalg.eigh(1j * a)
    # A has the eigenvalues −i·values.
    turn = (1 + 0.5j * eta * values) / (1 - 0.5j * eta * values)
    whole = (vectors * turn) @ vectors.conj().T @ matrix.numpy()
    assert np.abs(whole.imag).max() < 1e-12
    return torch.from_numpy(whole.real.copy())


def test_spinquant_equals_its_formula():
    """Rotations go down the loss of the model that is turned and rounded whole (2405.16406).

    The gradient by Q differs from that of the submission, which turns the weights forth and back,
    but not along orthogonal matrices: A is the same.
    """
    inner, heads = drawn_rotations()
    first, stream, turns = t.start(), t.task(STEPS), 3
    for k in range(turns):
        batch = stream.next_batch()
        own = [inner, *(r for block in heads for r in block)]
        leaves = [m.clone().requires_grad_() for m in own]
        blocks = [leaves[1 + i * t.HEADS :][: t.HEADS] for i in range(t.DEPTH)]
        w = rounded(turned(first, around_ones(leaves[0]), blocks), 4)
        scores = t.forward(w, batch["inputs"]).log_softmax(-1)
        loss = -scores.gather(-1, batch["targets"][..., None]).mean()
        eta = 1.5 * (1 + math.cos(math.pi * k / turns)) / 2
        new = [moved(m, g, eta) for m, g in zip(own, torch.autograd.grad(loss, leaves))]
        inner, heads = new[0], [new[1 + i * t.HEADS :][: t.HEADS] for i in range(t.DEPTH)]
    assert float((inner - drawn_rotations()[0]).abs().max()) > 1e-3
    w = turned(first, around_ones(inner), heads)
    expected = trained_through_rounding(w, stream, STEPS, 4)
    hp = {**THROUGH, "turns": turns / STEPS, "turn_lr": 1.5}
    found = t.run(t.submitted("spinquant", t.task(STEPS), **hp), STEPS)
    assert t.difference(found, expected) < 1e-9


# Codebooks


def problem(out=6, inputs=8, n=2, count=4):
    draw = torch.Generator().manual_seed(3)
    w = torch.randn(out, inputs, generator=draw, dtype=torch.float64)
    x = torch.randn(50, inputs, generator=draw, dtype=torch.float64)
    book = torch.randn(count, n, generator=draw, dtype=torch.float64)
    codes = torch.randint(count, (out, inputs // n), generator=draw)
    return w, x, book, codes


def error(w, x, book, codes):
    return float((x @ (book[codes].flatten(1) - w).T).square().sum())


def test_codes_are_the_best_ones_group_after_group():
    w, x, book, codes = problem()
    found = aqlm.recoded(w, x.T @ x, book, codes)
    for i in range(len(w)):
        for j in range(codes.shape[1]):
            tried = []
            for k in range(len(book)):
                codes[i, j] = k
                tried.append(error(w[i : i + 1], x, book, codes[i : i + 1]))
            codes[i, j] = int(np.argmin(tried))
    assert torch.equal(found, codes)


def test_the_book_is_the_least_squares_solution():
    w, x, book, codes = problem()
    design, aim = [], []
    for row, chosen in zip(w, codes, strict=True):
        hot = torch.nn.functional.one_hot(chosen, len(book)).double()  # [groups, entries]
        spread = torch.einsum("gk,ij->gikj", hot, torch.eye(2).double()).reshape(len(row), -1)
        design.append(x @ spread)
        aim.append(x @ row)
    best = np.linalg.lstsq(torch.cat(design).numpy(), torch.cat(aim).numpy(), rcond=None)[0]
    found = aqlm.fitted(w, x.T @ x, codes, len(book), 2)
    np.testing.assert_allclose(found.flatten(), best, atol=1e-6)


def test_rounds_never_raise_the_error():
    w, x, book, codes = problem(out=16, inputs=16, count=8)
    errors, h = [error(w, x, book, torch.randint(8, (16, 8)))], x.T @ x
    for _ in range(4):
        codes = aqlm.recoded(w, h, book, codes if len(errors) > 1 else torch.zeros(16, 8).long())
        errors.append(error(w, x, book, codes))
        book = aqlm.fitted(w, h, codes, 8, 2)
        errors.append(error(w, x, book, codes))
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(errors[1:]))
    assert errors[-1] < 0.5 * errors[1]


def test_aqlm_hands_over_what_the_goal_allows():
    made = t.task()
    found = t.run(t.submitted("aqlm", made, stored=4.6, group=2, examples=4), 2)
    for name in t.HIDDEN:
        formats = stored_bits.formats(found[name].float())
        assert formats["vectors"] <= 4.6, name
    with pytest.raises(UserError, match="no codebook"):
        aqlm.bits_of((4, 4), 2, 1.5)


def k_means(points, count, draws):
    """Six of Lloyd's iterations from random points; a centre without points stays."""
    order = torch.randperm(len(points), generator=draws).numpy()
    book = points[order[:count]].copy()
    for _ in range(6):
        near = ((points[:, None] - book) ** 2).sum(2).argmin(1)
        for k in set(near.tolist()):
            book[k] = points[near == k].mean(0)
    return book, ((points[:, None] - book) ** 2).sum(2).argmin(1)


def best_codes(w, h, book, codes):
    """Try every entry in every group, one group after the other, by the whole error."""
    n, codes = book.shape[1], codes.copy()
    for j in range(codes.shape[1]):
        lost = []
        for entry in book:
            gap = book[codes].reshape(w.shape) - w
            gap[:, j * n : (j + 1) * n] = entry - w[:, j * n : (j + 1) * n]
            lost.append(((gap @ h) * gap).sum(1))
        codes[:, j] = np.argmin(lost, 0)
    return codes


def best_book(w, h, codes, shape):
    """Least squares of the rows ‖Lᵀ(w − ŵ)‖ with H = L·Lᵀ, where ŵ is linear in the entries."""
    root, rows = np.linalg.cholesky(h).T, []
    for chosen in codes:
        spread = np.zeros((w.shape[1], *shape))
        for j, k in enumerate(chosen):
            for i in range(shape[1]):
                spread[j * shape[1] + i, k, i] = 1.0
        rows.append(root @ spread.reshape(w.shape[1], -1))
    aim = (w @ root.T).ravel()
    return np.linalg.lstsq(np.concatenate(rows), aim, rcond=None)[0].reshape(shape)


def test_aqlm_equals_its_formula():
    """Codes and books block after block; then books train through 16 bits (2401.06118)."""
    stored, n, w, draws, found = 4.6, 2, t.start(), nets.draws(), {}
    for i in range(t.DEPTH):
        seen = {}
        t.forward(w, t.task().calibration(4), inputs=seen)
        for name in (n for n in t.HIDDEN if f"blocks.{i}." in n):
            weight, x = w[name].numpy(), seen[name].numpy()
            h = x.T @ x / len(x)
            h = h + 0.01 * np.trace(h) / len(h) * np.eye(len(h))
            bits = max(b for b in range(1, 13) if b / n + 16 * n * 2**b / weight.size <= stored)
            book, codes = k_means(weight.reshape(-1, n), 2**bits, draws)
            codes = codes.reshape(len(weight), -1)
            for _ in range(2):
                codes = best_codes(weight, h, book, codes)
                book = best_book(weight, h, codes, book.shape)
            found[name] = codes = best_codes(weight, h, book, codes)
            w[f"{name}:book"] = torch.from_numpy(book)
            w[name] = torch.from_numpy(book[codes].reshape(weight.shape))

    def dense(w):
        new = {k: v for k, v in w.items() if ":" not in k and k not in t.HIDDEN}
        for name, codes in found.items():
            book = w[f"{name}:book"]
            half = torch.from_numpy(book.detach().numpy().astype(np.float16).astype(float))
            new[name] = (book + (half - book).detach())[codes].flatten(1)
        return new

    made = t.task(STEPS)
    submission = t.submitted("aqlm", made, stored=4.6, group=2, examples=4, base_lr=0.01)
    for name, module in surgery.matrices(made.model).items():
        assert np.array_equal(module.codes, found[f"{name}.weight"]), name
        gap = module.book.detach() - w[f"{name}.weight:book"]
        assert float(gap.abs().max()) < 1e-7, name
    optimizer, stream = t.AdamW(), t.task(STEPS)
    w = {k: v for k, v in w.items() if k not in t.HIDDEN}
    for step in range(STEPS):
        batch = stream.next_batch()
        stream.step += 1
        optimizer.step(w, t.gradients(w, batch, change=dense), 0.01 * rate(step, STEPS))
    assert t.difference(t.run(submission, STEPS), dense(w)) < 1e-6


# A pattern that shrinks


def test_cast_equals_its_formula():
    """AdamW on loss + KL; what is outside the pattern moves to zero by lr·λ_t (2509.25996)."""
    hp = {
        "lr": 0.01,
        "wd": 0.0,
        "beta2": 0.95,
        "decay": 2.0,
        "end": 0.7,
        "period": 3,
        "weight": 0.5,
    }
    first, w, optimizer = t.start(), t.start(), t.AdamW(beta2=0.95)
    w |= {f"{n}:scale": torch.ones(len(w[n]), 1, dtype=torch.float64) for n in t.HIDDEN}
    stream, kept, end = t.task(), {}, round(0.7 * STEPS)

    def dense(w):
        return {n: v * w[f"{n}:scale"] if n in t.HIDDEN else v for n, v in w.items()}

    for step in range(STEPS):
        batch = stream.next_batch()
        stream.step += 1
        leaves = {n: v.clone().requires_grad_() for n, v in w.items()}
        scores = t.forward(dense(leaves), batch["inputs"]).log_softmax(-1)
        with torch.no_grad():
            teacher = t.forward(first, batch["inputs"]).log_softmax(-1)
        loss = -scores.gather(-1, batch["targets"][..., None]).mean()
        loss = loss + 0.5 * (teacher.exp() * (teacher - scores)).sum(-1).mean()
        g = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        if step > end:
            g |= {n: g[n] * kept[n] for n in t.HIDDEN}
        optimizer.step(w, g, 0.01 * rate(step, STEPS))
        for n in t.HIDDEN:
            if step <= end and step % 3 == 0:
                groups = w[n].abs().reshape(-1, 4)
                least = groups.sort(dim=1).values[:, 2:3]
                kept[n] = (groups >= least).view_as(w[n])
            if step < end:
                less = 0.01 * rate(step, STEPS) * 2.0 * step / end
                smaller = w[n].sign() * (w[n].abs() - less).clamp(min=0)
                w[n] = torch.where(kept[n], w[n], smaller)
            else:
                w[n] = w[n] * kept[n]
    found = t.run(t.submitted("cast", t.task(STEPS), **hp), STEPS)
    expected = {n: v for n, v in dense(w).items() if ":" not in n}
    assert t.difference(found, expected) < 1e-9
    assert weight_metrics.two_four([found[n] for n in t.HIDDEN]) == 1.0


# Products of two


def test_pela_begins_at_the_truncated_decomposition_and_meets_the_size():
    made = t.task()
    submission = t.submitted("pela", made, size=0.7)
    found = t.run(submission, 0)
    for name in t.HIDDEN:
        if "project" in name:
            assert torch.equal(found[name], made.start[name])
            continue
        map_ = made.model.get_submodule(name.removesuffix(".weight"))
        u, s, v = np.linalg.svd(made.start[name].numpy(), full_matrices=False)
        r = map_.b.shape[1]
        np.testing.assert_allclose(found[name], (u[:, :r] * s[:r]) @ v[:r], atol=1e-12)
    after = t.run(submission, STEPS)
    model = t.task().model
    model.load_state_dict(after)
    inputs = t.task().calibration(2)
    shares = reduction.shares(model, lambda m: m(inputs))
    assert shares["size"] <= 0.7 + 1e-9


def test_ranks_of_one_c_are_the_largest_that_fit():
    weights = [torch.zeros(48, 16), torch.zeros(16, 64)]
    found = pela.ranks(weights, 600)
    assert sum(r * sum(w.shape) for r, w in zip(found, weights)) <= 600
    assert found == [4, 4]  # 4·64 + 4·80 = 576; one more of either is too many


def test_pela_imitates_the_dense_model_at_first():
    made = t.task(20)
    submission = t.submitted("pela", made, size=0.7, warm=0.5, weight=1.0, bound=0.0, lr=3e-3)
    x, aim = made.calibration(16), t.forward(t.start(), made.calibration(16))
    before = float((made.model(x).detach() - aim).square().mean())
    t.run(submission, 10)
    assert float((made.model(x).detach() - aim).square().mean()) < before


def test_pela_equals_its_formula():
    """Factors learn to imitate the dense model for half of the steps (2310.10700)."""
    hp = {"lr": 0.01, "wd": 0.1, "beta2": 0.95, "size": 0.7, "warm": 0.5, "weight": 0.4}
    hp |= {"bound": 5.0, "slack": 0.01}
    first, w, optimizer, stream = t.start(), t.start(), t.AdamW(beta2=0.95), t.task(STEPS)
    maps = [n for n in t.HIDDEN if "project" not in n]
    sides = {n: (w[n].numel(), sum(w[n].shape)) for n in maps}

    def counts(c):
        return {
            n: max(1, math.floor(size / (c * both) + 1e-9)) for n, (size, both) in sides.items()
        }

    # Ranks change at c = in·out/(r·(in + out)): the least of these at which the model is small.
    steps = sorted(size / (r * both) for size, both in sides.values() for r in range(1, 65))
    whole = sum(v.numel() for v in first.values())
    dense_maps = sum(size for size, _ in sides.values())
    best = next(
        c for c in steps if c >= 1 and
        whole - dense_maps + sum(r * sides[n][1] for n, r in counts(c).items()) <= 0.7 * whole
    )  # fmt: skip
    for n, r in counts(best).items():
        u, s, v = np.linalg.svd(w.pop(n).numpy(), full_matrices=False)
        w[f"{n}:b"] = torch.from_numpy(u[:, :r] * np.sqrt(s[:r]))
        w[f"{n}:a"] = torch.from_numpy(np.sqrt(s[:r])[:, None] * v[:r])

    def dense(w):
        products = {n: w[f"{n}:b"] @ w[f"{n}:a"] for n in maps}
        return {n: v for n, v in w.items() if ":" not in n} | products

    for step in range(STEPS):
        batch = stream.next_batch()
        stream.step += 1
        leaves = {n: v.clone().requires_grad_() for n, v in w.items()}
        ours, theirs, now = [], [], dense(leaves)
        scores = t.forward(now, batch["inputs"], outputs=ours)
        loss = -scores.log_softmax(-1).gather(-1, batch["targets"][..., None]).mean()
        if (step + 0.5) / STEPS < 0.5:
            teacher = t.forward(first, batch["inputs"], outputs=theirs)
            loss = loss + 0.4 * ((scores - teacher) ** 2).mean()
            loss = loss + 0.4 * ((ours[-1] - theirs[-1]) ** 2).mean()
            for n in maps:
                over = (now[n] - first[n]).abs() - 0.01 * first[n].abs().max()
                loss = loss + 5.0 / len(maps) * torch.where(over > 0, over, 0.0).mean()
        g = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        optimizer.step(w, g, 0.01 * rate(step, STEPS), 0.1)
    found = t.run(t.submitted("pela", t.task(STEPS), **hp), STEPS)
    assert t.difference(found, dense(w)) < 1e-9


# Sums of parts


def in_parts(**hp):
    workload = next(w for w in small_workloads() if w.name == "compress_parts")
    task = workload.task()
    start = {n: v.clone() for n, v in task.model.state_dict().items()}
    return task, at_work("lorc", task, **hp), start


@pytest.mark.parametrize("element", ["grid", "e2m1"])
def test_a_correction_takes_what_rank_can_take(element):
    task, _, start = in_parts(element=element, rank=2, stored=9.0)
    for name, module in surgery.matrices(task.model).items():
        gap = (start[f"{name}.weight"] - module.weight).double().detach()
        s = torch.linalg.svdvals(gap)
        parts = module.parts
        left = gap - parts.left.double() @ parts.right.double()
        tail = float(s[2:].square().sum())
        assert float(left.square().sum()) == pytest.approx(tail, rel=0.02), name
        assert tail < float(gap.square().sum())


@pytest.mark.parametrize(
    ("element", "powers", "stored"),
    [("grid", False, 9.0), ("e2m1", False, 9.0), ("e2m1", True, 9.0)],
)
def test_parts_take_what_the_goal_allows(element, powers, stored):
    task, _, _ = in_parts(element=element, powers=powers, stored=stored, rank=1)
    maps = surgery.matrices(task.model).values()
    weights = [m.weight.detach() for m in maps]
    parts = [(m.parts.left, m.parts.right, m.parts.rest) for m in maps]
    alone = stored_bits.stored_bits(weights)
    both = stored_bits.stored_bits(weights, parts)
    assert alone < both <= stored + 1e-9
    name = "grid" if element == "grid" else "e2m1"
    assert all(name in stored_bits.formats(w) for w in weights)


def affordable(shape, stored, element, powers, rank):
    """Return the largest rank beside which a code has bits enough, and its bits, for a matrix."""
    (out, inputs), least = shape, 2 if element == "grid" else 4
    groups = out * max(1, inputs // 64)
    described = groups * (32 if element == "grid" else 8 if powers else 16)
    for r in range(rank, 0, -1):
        bits = (stored * out * inputs - described - 16 * r * (out + inputs)) // (out * inputs)
        if bits >= least:
            return r, int(bits)
    raise AssertionError("no rank fits")


def parts(submission, stored, rank, examples, damp, element="e2m1", powers=True):
    """GPTQ on groups of 64 inputs, then the gap's largest singular parts (2303.08302, 2307.09782).

    Brain surgery by a shrinking inverse, and nearest points among all points of a group.
    """
    weights, x, chosen = nets.start(), calibration(examples), []
    whole, values = dict(weights), np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for name in nets.HIDDEN:
        w, own = weights[name], name.removesuffix("weight") + "parts."
        used, bits = affordable(w.shape, stored, element, powers, rank)

        def choose(block, diagonal, bits=bits):
            if element == "grid":
                points = grid(block, bits)
            else:
                scale = np.abs(block).max(1, keepdims=True) / 6
                scale = 2.0 ** np.ceil(np.log2(scale)) if powers else np.float16(scale)
                points = scale.astype(float) * np.concatenate([-values, values])
            return lambda j, column: nearest(points, column)

        new = surgeon(w, block_inputs(whole, x)[name], damp, min(64, w.shape[1]), choose)
        u, s, v = scipy.linalg.svd(w - new, full_matrices=False, lapack_driver="gesvd")
        left, right = np.zeros((len(w), rank)), np.zeros((rank, w.shape[1]))
        left[:, :used] = np.float16(u[:, :used] * np.sqrt(s[:used]))
        right[:used] = np.float16(np.sqrt(s[:used])[:, None] * v[:used])
        weights[name], whole[name] = new, new + left @ right
        weights |= {f"{own}left": left, f"{own}right": right, f"{own}rest": np.zeros(w.shape)}
        chosen.append((used, bits))
    assert chosen[0] != chosen[1]
    return weights


SUMMED = {"stored": 9.0, "rank": 2, "examples": 24, "damp": 0.05}
SUMS = [
    Row("lorc", parts, {**SUMMED, "element": "grid", "powers": False}, package="", label="grid"),
    Row("lorc", parts, {**SUMMED, "element": "e2m1", "powers": False}, package="", label="e2m1"),
    Row("zeroquant_fp", parts, SUMMED, package=""),
]


@pytest.mark.parametrize("row", SUMS, ids=str)
def test_a_sum_of_parts_equals_its_formula(row, monkeypatch):
    """On a net whose second matrix has two groups of inputs; a singular vector's sign is free."""
    monkeypatch.setattr(nets, "WIDTHS", [(8, 128), (128, 16)])
    made = nets.task()
    made.model = sums(made.model, SUMMED["rank"])
    submission = nets.submitted(row.submission, made, **row.hp)
    found, second = nets.run(submission, 2), row.second(submission, **row.hp)
    for name in [n for n in second if n.endswith("left")]:
        sign = np.where((found[name] * second[name]).sum(0) < 0, -1.0, 1.0)
        right = name.removesuffix("left") + "right"
        second[name], second[right] = sign * second[name], sign[:, None] * second[right]
    assert nets.difference(found, second) <= 1e-9


def test_a_scale_is_a_power_of_two_where_asked():
    column = torch.tensor([0.9, -0.31, 0.02], dtype=torch.float64)
    group = torch.stack([column, 0.5 * column], dim=1)
    found = lorc.rounding(group, "e2m1", 4, True)(group[:, 0])
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for w, q in zip(column.tolist(), found.tolist(), strict=True):
        scale = 2.0 ** math.ceil(math.log2(abs(w) / 6))
        assert abs(q) == scale * values[np.abs(values - abs(w) / scale).argmin()]


def test_a_model_without_parts_is_an_error():
    with pytest.raises(UserError, match="stores a matrix as one part"):
        t.submitted("lorc", t.task())


def test_the_sum_is_what_the_model_computes():
    task, _, _ = in_parts(rank=2, stored=9.0)
    x = task.calibration(2)
    found = task.model(x)
    with torch.no_grad():
        for module in surgery.matrices(task.model).values():
            parts = module.parts
            module.weight.add_(parts.left @ parts.right + parts.rest)
            for part in (parts.left, parts.right, parts.rest):
                part.zero_()
    torch.testing.assert_close(task.model(x), found, rtol=1e-4, atol=1e-5)


# Adapters that grow while units go


def test_salience_is_activation_times_gradient():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(9, 6, generator=draw, dtype=torch.float64).requires_grad_()
    w = torch.randn(4, 6, generator=draw, dtype=torch.float64).requires_grad_()
    (x @ w.T).tanh().square().sum().backward()
    expected = (x * x.grad).sum(0).view(3, 2).sum(1).abs()
    torch.testing.assert_close(apt.salience(w, w.grad, 3), expected.detach())


def test_units_go_by_a_cubic_and_the_referee_counts_them():
    workload = next(w for w in small_workloads() if w.name == "ft_gpt2")
    task = workload.task()
    x, dense = task.calibration(2), workload.task().model
    submission = at_work("apt", task, flops=0.6, end=0.5, every=0.125)
    whole = structure.operations(dense, x)[0]
    assert submission.algorithm.whole == whole
    steps = task.horizon
    for step in range(1, steps + 1):
        torch.manual_seed(step)
        submission.step()
        task.step += 1
        done = min(1.0, step / (steps / 2))
        if step % (steps // 8) == 0:
            gone = sum(
                int(c) for c, on in zip(
                    submission.algorithm.cost, torch.cat(list(submission.algorithm.on.values())),
                    strict=True,
                ) if not on
            )  # fmt: skip
            needed = (1 - (1 - done) ** 3) * 0.4 * whole
            assert needed <= gone < needed + int(submission.algorithm.cost.max())
    model = workload.task().model
    model.load_state_dict(surgery.export(task.model))
    shares = reduction.shares(model, lambda m: m(x))
    assert shares["flops"] <= 0.6 + 1e-9


def priced(length, words):
    """Return the operations of each head and neuron, block by block, and of the whole model."""
    cost = {}
    for i in range(t.DEPTH):
        # A head's rows and columns of four maps; its scores, and the sums of its values.
        head = 2 * length * t.EACH * (3 * t.WIDTH + t.WIDTH) + 2 * 2 * length**2 * t.EACH
        cost |= {(f"blocks.{i}.project", k): head for k in range(t.HEADS)}
        cost |= {(f"blocks.{i}.down", k): 2 * 2 * length * t.WIDTH for k in range(t.INNER)}
    return cost, sum(cost.values()) + 2 * length * t.WIDTH * words


def without(w, gone):
    """Return all weights, with zeros where a head or a neuron has gone."""
    w = dict(w)
    for reader, source, count, each in (
        ("project", "qkv", t.HEADS, t.EACH),
        ("down", "up", t.INNER, 1),
    ):
        for b in (f"blocks.{i}" for i in range(t.DEPTH)):
            kept = [float((f"{b}.{reader}", k) not in gone) for k in range(count)]
            kept = torch.tensor(kept).double().repeat_interleave(each)
            rows = kept.repeat(3) if source == "qkv" else kept
            w[f"{b}.{source}.weight"] = torch.diag(rows) @ w[f"{b}.{source}.weight"]
            w[f"{b}.{source}.bias"] = rows * w[f"{b}.{source}.bias"]
            w[f"{b}.{reader}.weight"] = w[f"{b}.{reader}.weight"] @ torch.diag(kept)
    return w


def test_apt_equals_its_formula():
    """IncreLoRA's growth; heads and neurons go by activation times gradient (2401.12200)."""
    hp = {"lr": 0.02, "wd": 0.1, "beta2": 0.95, "head_lr": 0.01, "rank": 2, "alpha": 6.0}
    hp |= {"gamma": 0.3, "smooth": 0.8, "settle": 0.1, "period": 0.15, "top": 2}
    hp |= {"flops": 0.6, "keep": 0.7, "every": 0.1, "end": 0.6}
    steps, last, room, head = 20, 12, 4, "readout.weight"
    submission, stream = t.submitted("apt", t.task(steps), **hp), t.task(steps)
    first, optimizer = t.start(), t.AdamW(beta2=0.95)
    names, own = [n.removesuffix(".weight") for n in t.HIDDEN], {head: first.pop(head)}
    for name, m in surgery.matrices(submission.task.model).items():
        own |= {(name, k): getattr(m, k).detach().clone() for k in "PQ"}
        own[name, "E"] = torch.tensor([[0.0], [1e-5], [0.0], [0.0]]).double()
    granted, mean, spread = (dict.fromkeys(names, v) for v in (1, 0.0, 0.0))
    cost, whole = priced(8, len(first["tokens.weight"]))
    salience, gone, units = dict.fromkeys(cost, 0.0), set(), list(cost)

    def change(own, n):
        return 6.0 / granted[n] * own[n, "P"] @ (own[n, "E"] * own[n, "Q"])

    def dense(own, apart):
        w = {f"{n}.weight": first[f"{n}.weight"] + apart[n] + change(own, n) for n in names}
        return without(first | w | {head: own[head]}, gone)

    for step in range(steps):
        batch, read = stream.next_batch(), []
        stream.step += 1
        leaves = {k: v.clone().requires_grad_() for k, v in own.items()}
        # What is added to the frozen matrices has their gradient.
        apart = {n: torch.zeros_like(first[f"{n}.weight"]).requires_grad_() for n in names}

        def reading(x, read=read):
            read.append(x if x.requires_grad else x.requires_grad_())
            return x

        scores = t.forward(dense(leaves, apart), batch["inputs"], before=reading).log_softmax(-1)
        loss = -scores.gather(-1, batch["targets"][..., None]).mean()
        for n in names:
            for a in (leaves[n, "P"].T, leaves[n, "Q"]):
                live = a[: granted[n] + 1]
                gap = live @ live.T - torch.eye(len(live))
                loss = loss + 0.3 / (2 * len(names)) * (gap**2).sum().sqrt()
        slopes = iter(torch.autograd.grad(loss, [*leaves.values(), *apart.values(), *read]))
        g, frozen = dict(zip(leaves, slopes)), dict(zip(names, slopes))
        for n, x, slope in zip(names, read, slopes, strict=True):
            if n.endswith(("project", "down")):
                both = (x.detach() * slope).sum((0, 1))
                for k, part in enumerate(both.split(1 if "down" in n else t.EACH)):
                    salience[n, k] = 0.7 * salience[n, k] + 0.3 * abs(float(part.sum()))
            s = float((change(own, n) * frozen[n]).abs().sum()) / math.sqrt(frozen[n].numel())
            mean[n] = 0.8 * mean[n] + 0.2 * s
            spread[n] = 0.8 * spread[n] + 0.2 * abs(s - mean[n])
            g[n, "E"] = g[n, "E"] * (torch.arange(room) < granted[n])[:, None]
        rates = {k: (0.01 if k == head else 0.02) * rate(step, steps) for k in own}
        optimizer.step(own, g, rates, 0.1)
        if step >= 2 and (step - 2) % 3 == 2:
            order = sorted(names, key=lambda n: -mean[n] * spread[n])
            for n in [n for n in order if granted[n] < room][:2]:
                granted[n] += sum(granted.values()) < 2 * len(names)
            for n in names:
                own[n, "E"][granted[n] : granted[n] + 1] = 1e-5
        done = step + 1
        if done <= last and done % 2 == 0:
            needed = 0.4 * (1 - (1 - done / last) ** 3) * whole
            left = sorted((salience[u] / cost[u], k) for k, u in enumerate(units) if u not in gone)
            while sum(cost[u] for u in gone) < needed:
                gone.add(units[left.pop(0)[1]])
            salience |= dict.fromkeys(gone, 0.0)
    for n in names:
        own[n, "E"][granted[n] :] = 0.0
    assert {n.split(".")[-1] for n, _ in gone} == {"project", "down"}, "heads and neurons went"
    assert max(granted.values()) > 1
    expected = dense(own, dict.fromkeys(names, 0.0))
    assert t.difference(t.run(submission, steps), expected) < 1e-9
