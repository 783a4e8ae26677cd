"""Imposed arithmetic: the casts are torch's own, every product is rounded, nothing escapes."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from harness.catalog.definition import define, tree_of
from harness.catalog.numbers import ARITHMETIC
from harness.errors import UserError
from harness.train import arithmetic

FP8, INT8 = SimpleNamespace(arithmetic="fp8"), SimpleNamespace(arithmetic="int8")


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_floats_are_the_nearest_of_all_values_of_the_format():
    x = draw(50, 7)
    for use, form in (("input", torch.float8_e4m3fn), ("gradient", torch.float8_e5m2)):
        values = torch.arange(256, dtype=torch.uint8).view(form).double()
        values = values[values.isfinite()].unique().numpy()
        scale = float(x.abs().max()) / values.max()
        place = np.abs(x.double().numpy()[..., None] / scale - values).argmin(-1)
        found = arithmetic.rounded(x, "fp8", use)
        np.testing.assert_allclose(found, values[place] * scale, rtol=1e-6, atol=1e-7)


def test_whole_numbers_are_to_nearest_and_right_in_the_mean():
    x = draw(6, 5)
    step = float(x.abs().max()) / 127
    expected = step * np.rint(x.double().numpy() / step)
    np.testing.assert_allclose(
        arithmetic.rounded(x, "int8", "input"), expected, rtol=1e-5, atol=1e-6
    )
    torch.manual_seed(0)
    drawn = torch.stack([arithmetic.rounded(x, "int8", "gradient") for _ in range(4000)])
    assert float((drawn - x).abs().max()) <= step * 1.001
    np.testing.assert_allclose(drawn.double().mean(0), x, atol=5 * step / 4000**0.5)


def nearest(x, step, most):
    """Whole multiples of a step, by numpy."""
    return step * np.clip(np.rint(x / step), -most, most)


def test_every_tile_has_a_grid_of_its_own():
    x = draw(3, 17, 40).double()  # 51 rows, 40 columns: tiles of 32 x 32 and their rests
    flat = x.view(51, 40).numpy()
    expected = np.zeros_like(flat)
    for i in (slice(0, 32), slice(32, 51)):
        for j in (slice(0, 32), slice(32, 40)):
            expected[i, j] = nearest(flat[i, j], np.abs(flat[i, j]).max() / 127, 127)
    found = arithmetic.rounded(x, "jetfire", "input")
    np.testing.assert_allclose(found.view(51, 40), expected, rtol=1e-12)


def test_integer_mantissas_share_a_power_of_two():
    x = 3.7 * draw(6, 5).double() / draw(6, 5).abs().max()
    assert 2 < float(x.abs().max()) < 4
    expected = nearest(x.numpy(), 2.0 ** (2 - 7), 127)  # eight bits, sign and 2² included
    np.testing.assert_array_equal(arithmetic.rounded(x, "integer", "weight"), expected)


def test_four_bits_have_fifteen_points_a_row():
    x = draw(6, 50).double()
    found = arithmetic.rounded(x, "int4", "input").numpy()
    for row, rounded in zip(x.numpy(), found, strict=True):
        np.testing.assert_allclose(rounded, nearest(row, np.abs(row).max() / 7, 7), rtol=1e-12)
        assert len(np.unique(rounded)) <= 15


def test_static_scales_do_not_follow_the_values():
    x = draw(4, 16)
    for use, scale in (("input", 1.0), ("weight", 0.25), ("gradient", 0.25)):
        once, twice = (arithmetic.rounded(f * x, "fp8_static", use) for f in (1, 1.25))
        form = torch.float8_e5m2 if use == "gradient" else torch.float8_e4m3fn
        assert torch.equal(once, (x / scale).to(form).float() * scale)
        assert not torch.equal(1.25 * once, twice)
    huge = arithmetic.rounded(torch.full((1, 4), 1e6), "fp8_static", "input")
    assert torch.equal(huge, torch.full((1, 4), 448.0)), "it saturates"


@pytest.mark.parametrize("kind", ["jetfire", "integer", "int4"])
def test_gradients_are_right_in_the_mean(kind):
    x = draw(6, 5).double()
    torch.manual_seed(0)
    drawn = torch.stack([arithmetic.rounded(x, kind, "gradient") for _ in range(4000)])
    step = float((drawn - x).abs().max())
    inside = x.abs() < x.abs().amax(-1, keepdim=True)  # the largest is where the grid ends
    error = (drawn.mean(0) - x).abs()[inside]
    assert float(error.max()) < 5 * step / 4000**0.5


@pytest.mark.parametrize("kind", ARITHMETIC)
def test_three_products_are_those_of_rounded_factors(kind):
    config = SimpleNamespace(arithmetic=kind)
    model = nn.Sequential(nn.Linear(5, 4))
    arithmetic.impose(model, config)
    x, g = draw(3, 2, 5).requires_grad_(), draw(3, 2, 4, seed=1)
    torch.manual_seed(3)
    y = model(x)
    y.backward(g)
    torch.manual_seed(3)
    a = arithmetic.rounded(x.detach(), kind, "input")
    w = arithmetic.rounded(model[0].weight.detach(), kind, "weight")
    r = arithmetic.rounded(g, kind, "gradient")
    torch.testing.assert_close(y, F.linear(a, w, model[0].bias))
    torch.testing.assert_close(x.grad, r @ w)
    torch.testing.assert_close(model[0].weight.grad, r.view(-1, 4).T @ a.view(-1, 5))
    torch.testing.assert_close(model[0].bias.grad, g.view(-1, 4).sum(0))
    assert not torch.allclose(y, F.linear(x, model[0].weight, model[0].bias), rtol=1e-3, atol=1e-3)


def test_a_copy_computes_with_its_own_weights():
    model = nn.Sequential(nn.Linear(5, 4))
    arithmetic.impose(model, FP8)
    twin, x = copy.deepcopy(model), draw(2, 5)
    before = twin(x)
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(twin(x), before)
    arithmetic.check(twin, FP8)


def test_a_block_without_arithmetic_is_left_alone():
    model = nn.Sequential(nn.Linear(5, 4))
    arithmetic.impose(model, SimpleNamespace())
    assert "forward" not in model[0].__dict__
    arithmetic.check(model, SimpleNamespace())


def test_a_map_of_ones_own_is_refused():
    class Own(surgery.Adapted):
        def dense(self):
            return self.weight

    for escape in (
        lambda m: surgery.replace(m, Own),
        lambda m: m[0].__dict__.pop("forward"),
        lambda m: setattr(m[0], "forward", nn.Linear(5, 4).forward),
        lambda m: arithmetic.impose(m, INT8),
    ):
        model = nn.Sequential(nn.Linear(5, 4))
        arithmetic.impose(model, FP8)
        arithmetic.check(model, FP8)
        escape(model)
        with pytest.raises(UserError, match="imposes its arithmetic"):
            arithmetic.check(model, FP8)


def test_a_kind_that_does_not_exist_is_an_error():
    tree = tree_of("gpt2")
    assert define("gpt2", tree, "mini", "fp8").config.arithmetic == "fp8"
    tree["mini"]["variants"]["fp8"] = {"arithmetic": "fp9"}
    with pytest.raises(UserError, match="fp9"):
        define("gpt2", tree, "mini", "fp8")
