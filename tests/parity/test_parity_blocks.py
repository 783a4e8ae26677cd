"""Coordinate methods and compressed games follow float64 loops in numpy, written from their papers.

They run on the small logistic regression and the small game of the laws. What is drawn at random is
drawn again from an equal generator.
"""

import numpy as np
import pytest
import torch

from tests.workloads.test_theory import Logistic, advance, at_work, flat, task_of

QUARTERS = [slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 13)]


def draws(task):
    """Return a copy of the generator that the submission draws from."""
    source = torch.Generator()
    source.set_state(task.rng.get_state())
    return source


@pytest.mark.parametrize("rule", ["gs", "gsl"])
def test_greedy_bcd_equals_its_formula(rule):
    """arXiv 1712.08859: a block's step of 1/L_b, L_b doubled where it was too small."""
    task, other = task_of("logreg"), task_of("logreg")
    sub, problem = at_work(task, "greedy_bcd", rule=rule, size=5, lr=8.0), Logistic(task, True)
    w, bound, wait = flat(task.params), np.full(3, 1 / 8.0), np.zeros(3)
    blocks, chosen, refused = [slice(0, 5), slice(5, 10), slice(10, 13)], set(), 0
    for _ in range(40):
        i = other.next_index().numpy()
        g = problem.gradient(w, i)
        squares = np.array([g[b] @ g[b] for b in blocks])
        b = int(np.argmax(squares / bound if rule == "gsl" else squares))
        there, wait[b] = w.copy(), wait[b] + 1
        there[blocks[b]] -= g[blocks[b]] / bound[b]
        if problem.loss(there, i) <= problem.loss(w, i) - squares[b] / (2 * bound[b]):
            w = there
            if wait[b] >= 10:
                bound[b], wait[b] = bound[b] / 2, 0
        else:
            bound[b], wait[b], refused = 2 * bound[b], 0, refused + 1
        chosen.add(b)
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), w, rtol=1e-10, atol=1e-12)
    assert len(chosen) > 1
    assert refused


def test_vr_ccd_equals_its_formula():
    """Gauss-Seidel sweeps with PAGE's estimator (arXiv 2212.05088)."""
    task, other = task_of("logreg"), task_of("logreg")
    sub, problem = at_work(task, "vr_ccd", lr=0.3, decay=False), Logistic(task, True)
    x, v = flat(task.params), np.zeros(13)
    last, cheap = x.copy(), 0
    for step in range(30):
        full = float(torch.rand((), generator=draws(task))) < 0.2 or step == 0
        i = other.next_index(20 if full else 5).numpy()
        old, cheap = x.copy(), cheap + (not full)
        for number, b in enumerate(QUARTERS):
            here, earlier = x.copy(), last.copy()
            for done in QUARTERS[:number]:
                earlier[done] = old[done]
            if full:
                v[b] = problem.gradient(here, i)[b]
            else:
                v[b] = v[b] + (problem.gradient(here, i) - problem.gradient(earlier, i))[b]
            x[b] = x[b] - 0.3 * v[b]
        last = old
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), x, rtol=1e-10, atol=1e-12)
    assert 0 < cheap < 29


def test_a_coder_equals_its_formula():
    """Algorithm 1 of arXiv 2303.16279 with γ = 0, blocks from the last to the first."""
    task, other = task_of("logreg"), task_of("logreg")
    sub, problem = at_work(task, "a_coder", lr=0.5), Logistic(task, True)
    x0 = flat(task.params)
    y, v, z, total, before = x0.copy(), x0.copy(), np.zeros(13), 0.0, 0.0
    p, whole = np.zeros(13), np.zeros(13)
    for _ in range(30):
        i = other.next_index().numpy()
        # a² = 0.4·lr·(A + a)
        a = max(np.roots([1.0, -0.2, -0.2 * total]).real)
        x = (total * y + a * v) / (total + a)
        new, old_y, old_p = y.copy(), y.copy(), p.copy()
        for number in reversed(range(4)):
            b, mixed = QUARTERS[number], x.copy()
            for later in QUARTERS[number + 1 :]:
                mixed[later] = new[later]
            p[b] = problem.gradient(mixed, i)[b]
            q = p[b] + before / a * (whole[b] - old_p[b])
            z[b] = z[b] + a * q
            v[b] = x0[b] - z[b]
            new[b] = (total * old_y[b] + a * v[b]) / (total + a)
        whole, y = problem.gradient(x, i), new
        total, before = total + a, a
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_masha_equals_its_formula(share):
    """MASHA1 of arXiv 2110.03313; on the game all terms are equally good for every worker."""
    task, other = task_of("game"), task_of("game")
    sub, source = at_work(task, "masha", lr=0.2, share=share), draws(task)
    data, mu = task._data, task._config.data.mu

    def operator(z, i):
        matrices, a, b = (data[n].numpy()[i].mean(0) for n in ("matrices", "a", "b"))
        x, y = np.split(z, 2)
        return np.concatenate([matrices @ y + a + mu * x, -(matrices.T @ x - b - mu * y)])

    z = flat(task.params)
    w, renewed = z.copy(), 0
    at_w = operator(w, other.next_index().numpy())
    for _ in range(30):
        h = 0.9 * z + 0.1 * w - 0.2 * at_w
        mean = np.zeros_like(z)
        for _ in range(4):
            i = other.next_index(5).numpy()
            mask = torch.cat([torch.rand(6, generator=source) for _ in range(2)]).numpy() < share
            mean += mask * (operator(h, i) - operator(w, i)) / share / 4
        z = h - 0.2 * mean
        if float(torch.rand((), generator=source)) >= 0.9:
            w, at_w, renewed = z.copy(), operator(z, other.next_index().numpy()), renewed + 1
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), z, rtol=1e-9, atol=1e-12)
    assert renewed
