"""Laws of the shared math and of the schedules."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import ops, schedules

SHAPES = [(6, 4), (4, 6), (5,)]


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]


@given(step=st.integers(1, 10_000), wd=st.floats(0, 1), eps=st.floats(1e-12, 1e-2))
def test_adam_is_its_formula(step, wd, eps):
    p, g, m, v = (tensors(i) for i in range(4))
    v = [x.square() for x in v]
    for i, x in enumerate(p):
        mean = (0.9 * m[i] + 0.1 * g[i]) / (1 - 0.9**step)
        square = (0.99 * v[i] + 0.01 * g[i] ** 2) / (1 - 0.99**step)
        p[i] = x * (1 - 0.1 * wd) - 0.1 * mean / (square.sqrt() + eps)
    q = tensors(0)
    ops.adam_(q, g, m, v, step, 0.1, (0.9, 0.99), eps, wd)
    torch.testing.assert_close(q, p)


def test_adam_without_bias_correction():
    p, g, m, v = [torch.zeros(3)], [torch.ones(3)], [torch.zeros(3)], [torch.zeros(3)]
    ops.adam_(p, g, m, v, math.inf, 1.0, (0.0, 0.75), 0.0)
    torch.testing.assert_close(p[0], torch.full((3,), -2.0))


def test_strides_do_not_matter():
    """Torch's fused CPU kernels walk memory: tensors of other strides must be laid out first."""
    for p in (torch.zeros(4, 3), torch.zeros(3, 4).mT):
        for g in (torch.arange(12.0).view(4, 3), torch.arange(12.0).view(3, 4).mT):
            q = p.clone()
            ops.sgd_([q], [g], 1.0)
            assert torch.equal(q, -g)
            q, m, v = p.clone(), torch.zeros_like(p), torch.zeros_like(p)
            ops.adam_([q], [g], [m], [v], 1, 1.0, (0.0, 0.0), 1.0)
            torch.testing.assert_close(q, -g / (g + 1))


LAYOUTS = {
    "gaps": lambda x: torch.zeros(*x.shape, 2)[..., 0].copy_(x),
    "transposed gaps": lambda x: torch.zeros(x.shape[1], 2, x.shape[0])[:, 0].T.copy_(x),
    "turned": lambda x: torch.zeros(x.shape[::-1]).T.copy_(x),
    "rows apart": lambda x: torch.zeros(2 * x.shape[0], x.shape[1])[::2].copy_(x),
}


@pytest.mark.parametrize("state", [*LAYOUTS, "contiguous"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_what_contiguous_tensors_give(layout, state):
    """D1: and nothing outside of the tensor is written, which a fused kernel would do."""
    x, g = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    laid = LAYOUTS.get(state, torch.clone)
    for kernel in (
        lambda p, a, b, c: ops.adam_(p, [g], a, b, 3, 0.1, (0.9, 0.99), 1e-8, 0.2),
        lambda p, a, b, c: ops.adam_(p, [g], a, b, 3, 0.1, (0.9, 0.99), 1e-8, 0.2, c),
        lambda p, a, b, c: ops.adam_(p, [g], a, b, math.inf, 0.1, (0.9, 0.99), 1e-8),
        lambda p, a, b, c: ops.sgd_(p, [g], 0.1, 0.2),
        lambda p, a, b, c: ops.sgd_(p, [g], 0.1, 0.2, 0.9, a),
        lambda p, a, b, c: ops.sgd_(p, [g], 0.1, 0.2, 0.9, a, nesterov=True),
    ):
        parts = [x.abs() + 1, x.square() + 0.5, x.square()]
        plain, odd = [x.clone()], [LAYOUTS[layout](x)]
        memory = odd[0].untyped_storage()
        around = torch.tensor([], dtype=x.dtype).set_(memory)
        outside = around == 0
        kernel(plain, *([part.clone()] for part in parts))
        kernel(odd, *([laid(part)] for part in parts))
        torch.testing.assert_close(odd[0], plain[0])
        assert not around[outside].any()


def test_empty_and_mixed_lists_are_split():
    whole, empty, gaps = torch.ones(3), torch.zeros(0, 3), torch.zeros(3, 2)[:, 0]
    ops.sgd_([whole, empty, gaps], [torch.ones(3), empty, torch.ones(3)], 0.5)
    assert whole.tolist() == [0.5] * 3
    assert gaps.tolist() == [-0.5] * 3
    ops.adam_([empty], [empty], [empty], [empty], 1, 0.1, (0.9, 0.99), 1e-8)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_zero_ignores_its_buffers(nesterov):
    """C1: a value in clip_sgd's own SPACE ended in an error of the kernel."""
    p, q, buffer = torch.ones(3), torch.ones(3), torch.full((3,), 7.0)
    ops.sgd_([p], [torch.ones(3)], 0.1, 0.5, 0.0, [buffer], nesterov)
    ops.sgd_([q], [torch.ones(3)], 0.1, 0.5)
    assert torch.equal(p, q)
    assert buffer.tolist() == [7.0] * 3


@given(lr=st.floats(0, 1), wd=st.floats(0, 1))
def test_sgd_decays_as_it_steps(lr, wd):
    p, u = tensors(0), tensors(1)
    expected = [x - lr * (y + wd * x) for x, y in zip(p, u)]
    ops.sgd_(p, u, lr, wd)
    torch.testing.assert_close(p, expected)


def test_nothing_to_do_is_allowed():
    ops.adam_([], [], [], [], 1, 0.1, (0.9, 0.99), 1e-8)
    ops.sgd_([], [], 0.1)
    assert ops.global_norm([]) == 0.0


def test_global_norm_is_of_one_vector():
    whole = torch.cat([x.flatten() for x in tensors(3)])
    assert ops.global_norm(tensors(3)) == pytest.approx(float(whole.norm()))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 8), (2, 8, 32)], ids=str)
def test_newton_schulz_brings_singular_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = ops.newton_schulz(x)
    assert y.shape == x.shape
    assert torch.linalg.svdvals(ops.newton_schulz(x, 10)).sub(0.9).abs().max() < 0.35
    # The same singular vectors: x's polar factor turns the result symmetric and positive.
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    turned = y @ (u @ vh).mT if shape[1] <= shape[2] else (u @ vh).mT @ y
    torch.testing.assert_close(turned, turned.mT)
    assert torch.linalg.eigvalsh(turned).min() > 0


@pytest.mark.parametrize("shape", [(2, 16, 32), (3, 64, 8), (1, 64, 256)], ids=str)
@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_newton_schulz_of_a_long_matrix_is_the_iteration_as_written(shape, dtype, close):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :2] *= 30.0  # unequal singular values, as gradients have
    y = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        a = y @ y.mT
        y = 3.4445 * y + (-4.7750 * a + 2.0315 * a @ a) @ y
    torch.testing.assert_close(ops.newton_schulz(x.to(dtype)).double(), y, atol=close, rtol=0)


def test_newton_schulz_keeps_its_band_on_a_matrix_of_nearly_rank_one():
    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, 32, 1, generator=source) @ torch.randn(1, 1, 96, generator=source)
    x += 1e-4 * torch.randn(1, 32, 96, generator=source)
    assert torch.linalg.svdvals(ops.newton_schulz(x)).max() < 1.2


def test_newton_schulz_ignores_scale_and_accepts_zero():
    x = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ops.newton_schulz(x), ops.newton_schulz(1000 * x), atol=1e-4, rtol=0)
    assert torch.equal(ops.newton_schulz(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))


def signs(params, grads, state, hp, progress):
    """A base method for the cautious wrapper: its step is given, whatever the gradient."""
    for p, u in zip(params, state["u"]):
        p.mul_(1 - hp.lr * hp.wd).sub_(u, alpha=hp.lr)


@pytest.mark.parametrize("scale, gain", [("paper", 4 / 3), ("mean", 2.0)])
def test_cautious_moves_what_agrees_with_the_gradient(scale, gain):
    hp = SimpleNamespace(lr=0.5, wd=0.1, warmup=0.0)
    p = [torch.tensor([1.0, 1.0, 1.0, 1.0])]
    grads, state = (
        [torch.tensor([2.0, -2.0, 0.0, -3.0])],
        {"u": [torch.tensor([1.0, 1.0, 1.0, -1.0])]},
    )
    ops.cautious(signs, scale)(p, grads, state, hp, 0.0)
    moved = torch.tensor([-gain / 2, 0.0, 0.0, gain / 2])
    torch.testing.assert_close(p[0], 0.95 + moved)


def test_apply_leaves_parameters_without_gradient():
    p = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    for q in (p[0], p[2]):
        q.grad = torch.ones(2)
    state = {"m": [torch.zeros(2) for _ in p], "step": 0}

    def update(params, grads, state, hp, progress):
        state["step"] += 1
        for q, g, m in zip(params, grads, state["m"], strict=True):
            m.add_(g)
            q.sub_(g)

    ops.apply(update, p, state, None, 0.5)
    assert [float(m.sum()) for m in state["m"]] == [2.0, 0.0, 2.0]
    assert [float(q.detach().sum()) for q in p] == [0.0, 2.0, 0.0]
    assert state["step"] == 1


CURVES = {
    "constant": schedules.warmup_constant,
    "linear": schedules.warmup_linear,
    "cosine": schedules.warmup_cosine,
    "stable": lambda progress, warmup: schedules.warmup_stable_decay(progress, warmup, 0.2),
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.7))
def test_a_schedule_rises_to_one_and_never_leaves_the_unit_interval(curve, progress, warmup):
    assert 0.0 <= curve(progress, warmup) <= 1.0
    assert curve(warmup, warmup) == pytest.approx(1.0)
    assert curve(0.0, 0.0) == 1.0
    if warmup > 1e-6:
        assert curve(warmup / 2, warmup) == pytest.approx(0.5)


@given(floor=st.floats(0, 1), warmup=st.floats(0, 0.5))
def test_decaying_schedules_end_at_their_floor(floor, warmup):
    assert schedules.warmup_cosine(1.0, warmup, floor) == pytest.approx(floor)
    assert schedules.warmup_linear(1.0, warmup, floor) == pytest.approx(floor)
    assert schedules.warmup_stable_decay(1.0, warmup, 0.2, floor) == pytest.approx(floor)


def test_cosine_and_linear_are_half_way_in_the_middle():
    assert schedules.warmup_cosine(0.6, 0.2) == pytest.approx(0.5)
    assert schedules.warmup_linear(0.6, 0.2) == pytest.approx(0.5)
    assert schedules.warmup_stable_decay(0.9, 0.1, 0.2) == pytest.approx(0.5)
