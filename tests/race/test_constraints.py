"""What the referee measures on handed-over weights: met, just missed, cheated, measured twice."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness import activations, structure
from harness.errors import UserError
from harness.race import constraints, reduction, stored_bits, weight_metrics
from workloads.models.gpt import GPT

MODEL = {"vocabulary": 24, "context": 8, "depth": 2, "heads": 4, "width": 32, "norm": "pre"}
INNER, EACH = 128, 8
TOKENS = torch.arange(16).view(2, 8)


def model(**changes):
    """A small language model in which no weight, bias or gain is zero or one."""
    torch.manual_seed(0)
    settings = MODEL | {"activation": "gelu", "tied": False, "init_scale": 10.0} | changes
    made = GPT(SimpleNamespace(**settings)).requires_grad_(False)
    for p in made.parameters():
        p.add_(0.1 * torch.randn_like(p))
    return made


def shares(made):
    return reduction.shares(made, lambda m: m(TOKENS))


class Zeroed:
    """Zeroes a model's own weights where `structure` sets a mask."""

    def set(self, parameter, kept):
        parameter.mul_(kept)


def keep(block, heads=(), neurons=()):
    """Remove all but these heads and neurons of a block."""
    keeps = [torch.zeros(n, dtype=torch.bool) for n in (block.heads, INNER)]
    for kept, which in zip(keeps, (heads, neurons)):
        kept[list(which)] = True
    structure.keep(Zeroed(), block, *keeps)


# size, flops


def by_hand(heads, neurons, factors=None):
    """Parameters and multiply-adds of a window, from the numbers of heads and neurons by block."""
    width, length, vocabulary = MODEL["width"], MODEL["context"], MODEL["vocabulary"]
    parameters = (2 * vocabulary + length) * width + 2 * width
    operations = length * width * vocabulary
    for h, n in zip(heads, neurons):
        maps = 4 * h * EACH * width + 2 * n * width
        biases = 3 * h * EACH + n + (h > 0) * width + (n > 0) * width
        norms = 2 * width * ((h > 0) + (n > 0))
        parameters += maps + biases + norms
        operations += length * maps + 2 * length * length * h * EACH
    return parameters, operations


def test_a_dense_model_has_all_of_its_size():
    made = model()
    assert shares(made) == {"size": 1.0, "flops": 1.0}
    assert sum(p.numel() for p in made.parameters()) == by_hand([4, 4], [INNER] * 2)[0]


def test_dead_heads_and_neurons_count_as_by_hand():
    made = model()
    keep(made.blocks[0], heads=[1, 3], neurons=range(40))
    keep(made.blocks[1], heads=[0, 1, 2, 3], neurons=[7])
    found, dense = shares(made), by_hand([4, 4], [INNER] * 2)
    parameters, operations = by_hand([2, 4], [40, 1])
    assert found["size"] == parameters / dense[0]
    assert found["flops"] == operations / dense[1]


def test_flops_are_those_that_torch_counts_for_the_smaller_model():
    """A second measurement: torch's own layers, with its own attention, of the smaller widths."""
    made, small = model(), model()
    for block in made.blocks:
        keep(block, heads=range(4), neurons=range(32))
    for block in small.blocks:
        block.up, block.down = nn.Linear(32, 32), nn.Linear(32, 32)
    counts = []
    for each in (small, model()):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            each(TOKENS)
        counts.append(counter.get_total_flops())
    assert shares(made)["flops"] == pytest.approx(counts[0] / counts[1], rel=1e-12)


def test_one_weight_or_bias_brings_a_neuron_back():
    made = model()
    keep(made.blocks[0], heads=range(4), neurons=range(64))
    least = shares(made)["size"]
    made.blocks[0].up.bias[100] = 1e-30
    assert shares(made)["size"] == least  # its column of down is zero: it is still unread
    made.blocks[0].down.weight[5, 100] = 1e-30
    one = (2 * 32 + 1) / sum(p.numel() for p in made.parameters())
    assert shares(made)["size"] == pytest.approx(least + one)
    # A constant neuron is not dead: its bias must have been folded first.
    made.blocks[0].up.weight[100] = 0.0
    assert shares(made)["size"] == pytest.approx(least + one)
    made.blocks[0].up.bias[100] = 0.0
    assert shares(made)["size"] == least


def test_noise_counts_as_weights():
    made = model()
    keep(made.blocks[0], heads=[0], neurons=[])
    smaller = shares(made)["size"]
    for p in made.blocks[0].parameters():
        p.add_(1e-12 * torch.randn_like(p))
    assert shares(made)["size"] > smaller + 0.3


def test_what_is_hidden_in_biases_norms_and_embeddings_counts():
    made = model()
    for block in made.blocks:
        structure.remove(Zeroed(), block)
    rest = sum(p.numel() for n, p in made.named_parameters() if not n.startswith("blocks"))
    whole = sum(p.numel() for p in made.parameters())
    assert shares(made)["size"] == rest / whole
    made.blocks[0].down.bias[3] = 1.0
    assert shares(made)["size"] == (rest + 32) / whole


def test_a_block_that_is_switched_off_is_gone():
    off, zero = model(), model()
    off.active[1] = False
    structure.remove(Zeroed(), zero.blocks[1])
    assert shares(off) == shares(zero)


def test_after_a_norm_only_the_maps_of_a_block_are_gone():
    made = model(norm="post")
    structure.remove(Zeroed(), made.blocks[1])
    block = sum(p.numel() for n, p in made.blocks[1].named_parameters() if "norm" not in n)
    whole = sum(p.numel() for p in made.parameters())
    assert shares(made)["size"] == (whole - block) / whole


def test_channels_of_values_and_scores_are_removed_one_by_one():
    made, width = model(), MODEL["width"]
    block, whole = made.blocks[0], sum(p.numel() for p in model().parameters())
    block.qkv.weight[2 * width + 5] = block.qkv.bias[2 * width + 5] = 0.0
    assert shares(made)["size"] == pytest.approx(1 - (2 * width + 1) / whole)
    # A query without its key: the product is zero, and the key is unread.
    block.qkv.weight[9] = block.qkv.bias[9] = 0.0
    assert shares(made)["size"] == pytest.approx(1 - (4 * width + 3) / whole)


@pytest.mark.parametrize("rank", [2, 9])
def test_a_merged_product_of_two_factors_has_their_size(rank):
    made = model()
    weight = made.blocks[0].up.weight
    weight.copy_(torch.randn(INNER, rank) @ torch.randn(rank, 32))
    whole = sum(p.numel() for p in made.parameters())
    saved = INNER * 32 - rank * (INNER + 32)
    assert shares(made)["size"] == (whole - saved) / whole
    weight[3, 4] += 0.01
    assert shares(made)["size"] == (whole - saved + INNER + 32) / whole


def hidden_rank():
    """Return a model with a matrix that looks of rank 1, and is not on what it is given.

    Behind a norm without shift, inputs have no part along the ones vector: anything hides there.
    """
    made = model()
    block = made.blocks[0]
    block.norm2.weight.fill_(1.0)
    block.norm2.bias.zero_()
    block.up.weight.add_(1e5 * torch.ones(INNER, 1))
    return made


def test_a_rank_that_only_looks_small_counts_as_dense():
    made = hidden_rank()
    block = made.blocks[0]
    spectrum = torch.linalg.svdvals(block.up.weight.double())
    assert spectrum[1] < reduction.RANK * spectrum[0]
    assert shares(made) == {"size": 1.0, "flops": 1.0}


def test_one_huge_score_does_not_allow_more():
    """The score of a token that never occurs costs no loss, whatever it is."""
    made = hidden_rank()
    made.norm.weight[7], made.norm.bias[7] = 0.0, 1e4
    made.readout.weight[:, 7] = 0.0
    made.readout.weight[3, 7] = -1e5
    assert float(made(TOKENS).abs().max()) > 1e8
    assert shares(made) == {"size": 1.0, "flops": 1.0}


def test_a_model_of_another_form_is_an_error():
    with pytest.raises(UserError, match="no blocks"):
        reduction.shares(nn.Linear(3, 3), lambda m: m(torch.ones(3)))


# bits


def with_outlier(rows=32, columns=64, size=1e7):
    """Any weights, beside one that is never read and makes them look like one point of a grid."""
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    w[:, 5] = size
    return w


def test_grids_of_rows_are_counted_as_they_are():
    w = (codes(8) * 0.037 * scales(32) - scales(32, 2)).float()
    assert weight_metrics.bits([w]) == 3
    w[4] = 0.25
    assert weight_metrics.bits([w]) == 3 * 31 / 32
    w[5, 7] += 0.02
    assert weight_metrics.bits([w]) > 3.0
    assert weight_metrics.bits([torch.where(w > 0, 1.0, -1.0)]) <= 1


@pytest.mark.parametrize("size", [1e3, 1e5, 1e7])
def test_a_weight_that_nothing_reads_does_not_make_a_grid(size):
    """As where a norm's gain and shift, or a neuron's row and bias, are zero."""
    w = with_outlier(size=size)
    assert weight_metrics.bits([w]) == 32
    assert bits(w) == 32
    on_grid = (w * 3).round() / 3
    assert len(on_grid[0].unique()) > 4
    assert weight_metrics.bits([on_grid]) == 32


def test_a_fine_grid_with_few_points_in_use_counts_as_its_steps():
    w = torch.tensor([[0.0, 1.0, 2.0, 200.0]])
    assert weight_metrics.bits([w]) == 8
    assert weight_metrics.bits([torch.tensor([[0.0, 1.0, 2.0, 2000.0]])]) == 32


# stored bits


def bits(w):
    return stored_bits.stored_bits([w])


def codes(count, shape=(32, 64), seed=0):
    """Random codes that all occur, in every row's first places too."""
    made = torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))
    made[:, :count] = torch.arange(count)[: shape[1]]
    return made


def scales(rows, seed=1):
    return 0.5 + torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed))


def test_a_random_matrix_takes_floats():
    w = torch.randn(32, 64)
    assert bits(w) == 32
    assert bits(w.half().float()) == 16
    assert bits(w.bfloat16().float()) == 16


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_grid_of_rows_costs_its_steps_and_offsets(width):
    w = (codes(2**width) * 0.037 * scales(32) - scales(32, 2)).float()
    assert stored_bits.formats(w)["grid"] == width + 32 / 64
    w[3, 5] += 0.01
    assert stored_bits.formats(w).get("grid", 32) > width + 32 / 64


def test_a_grid_of_groups_costs_one_scale_for_each():
    groups = codes(16, (128, 16))
    w = (groups * 0.037 * scales(128) - scales(128, 2)).float().view(32, 64)
    assert bits(w) == 4 + 32 / 16


def test_three_values_in_a_row_cost_less_than_two_bits():
    w = (codes(3) - 1.0) * scales(32)
    assert bits(w) == math.log2(3) + 16 / 64
    w = torch.where(w > 0, w, -w.abs().amax(1, keepdim=True))  # two values
    assert bits(w) == pytest.approx(1 + 16 / 64, abs=0.6)


def test_powers_of_two_have_short_codes():
    w = torch.exp2(-(codes(3) % 3).float()) * scales(32)
    w[:, ::2] *= -1
    assert stored_bits.formats(w)["powers"] == 3 + 16 / 64


TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@pytest.mark.parametrize("name", TYPES)
def test_small_floats_are_those_of_torch(name):
    table = stored_bits._table(name)
    raw = torch.arange(256, dtype=torch.uint8).view(TYPES[name]).double()
    expected = raw[raw.isfinite() & (raw >= 0)].unique()
    assert torch.equal(table, expected)
    w = torch.randn(64, 64).to(TYPES[name]).float() * scales(64)
    assert stored_bits.formats(w)[name] == 8 + 16 / 64
    power = torch.exp2(torch.randint(-3, 3, (64, 1)).float())
    w = torch.randn(64, 64).to(TYPES[name]).float() * power
    assert stored_bits.formats(w)[name] == 8 + 8 / 64


def test_four_bit_floats_are_found_in_groups():
    table = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    assert torch.equal(stored_bits._table("e2m1").float(), table)
    sign = torch.where(torch.rand(128, 16) > 0.5, 1.0, -1.0)
    groups = table[torch.randint(8, (128, 16))] * sign
    assert stored_bits.formats((groups * scales(128)).view(32, 64))["e2m1"] == 4 + 16 / 16
    power = torch.exp2(torch.randint(-5, 2, (128, 1)).float())
    assert stored_bits.formats((groups * power).view(32, 64))["e2m1"] == 4 + 8 / 16


def test_block_floating_point_counts_the_mantissas_that_occur():
    whole = torch.randint(-31, 32, (128, 16))
    whole[:, 0], whole[:, 1] = 31, 1
    w = (whole * torch.exp2(torch.randint(-9, 0, (128, 1)))).float().view(32, 64)
    assert stored_bits.formats(w)["block"] == 6 + 8 / 16
    w[0, 2] += 2.0**-12
    assert stored_bits.formats(w)["block"] > 7


def test_a_codebook_costs_its_entries():
    entries = torch.randn(16).half().float()
    w = entries[codes(16, (64, 64))]
    assert bits(w) == 4 + 16 * 16 / 4096
    w[3, 7] = 0.125
    assert bits(w) == 5 + 16 * 17 / 4096
    w[3, 7] = 0.1234  # an entry that needs 32 bits
    assert bits(w) == 5 + 32 * 17 / 4096


def test_scaled_levels_cost_one_book_and_the_scales():
    levels = torch.sort(torch.randn(16)).values
    levels = levels / levels.abs().max()
    groups = levels[codes(16, (64, 64), 3)]
    w = groups * scales(64)
    assert bits(w) == 4 + 16 / 64 + 16 * 16 / 4096


def test_tuples_of_inputs_have_a_book():
    book = torch.randn(16, 4).bfloat16().float()
    w = book[torch.randint(16, (256, 16))].reshape(256, 64)
    assert bits(w) == 4 / 4 + 16 * 4 * 16 / w.numel()


def test_zeros_cost_a_mask():
    w = torch.randn(32, 64)
    off = torch.rand(32, 64) < 0.5
    share = float((~off).float().mean())
    assert bits(w * ~off) == pytest.approx(1 + 32 * share)
    patterned = w.view(-1, 4).clone()
    patterned[:, :2] = 0
    assert bits(patterned.view(32, 64)) == math.log2(6) / 4 + 16.0
    grid = (1 + codes(8) % 8) * 0.031 * scales(32)
    off = torch.rand(32, 64) < 0.5
    off[:, :8] = False
    share = float((~off).float().mean())
    assert bits(grid * ~off) == pytest.approx(1 + 3 * share + 32 / 64)


def test_many_close_values_are_not_one():
    """Values within float32's rounding of each other may not be chained to one entry."""
    w = torch.linspace(0.5, 0.502, 64 * 64).view(64, 64)[:, torch.randperm(64)]
    w[:, 0] = 1.0
    assert stored_bits._scaled_values(w) is None or bits(w) > 11


def test_values_of_a_second_count_by_python_sets():
    w = torch.randn(9)[codes(9, (64, 64))]
    seen = len({float(v) for v in w.flatten()})
    assert bits(w) == math.ceil(math.log2(seen)) + 32 * seen / w.numel()


# zeros


def test_zeros_are_exact_and_counted_over_all_matrices():
    w, other = torch.ones(4, 5), torch.ones(2, 5)
    w[0], w[1, 0] = 0.0, -0.0
    assert weight_metrics.sparsity([w, other]) == 6 / 30
    w[0, 0] = 1e-45  # the least number of float32
    assert weight_metrics.sparsity([w, other]) == 5 / 30
    w[0, 1] = math.nan
    assert weight_metrics.sparsity([w, other]) == 4 / 30


def test_two_of_four_counts_groups_of_a_row():
    w = torch.ones(2, 8)
    w[:, ::2] = 0.0
    assert weight_metrics.two_four([w]) == 1.0
    w[0, 0], w[0, 3] = 1.0, 0.0  # another pattern of the group
    assert weight_metrics.two_four([w]) == 1.0
    w[0, 3], w[0, 5] = 1.0, 0.0  # three zeros in the next group do not help this one
    assert weight_metrics.two_four([w]) == 3 / 4


# patterns


def test_patterns_and_tiles_by_loops():
    w = torch.where(torch.rand(10, 19) > 0.6, torch.randn(10, 19), 0.0)
    groups = [w[i, j : j + 4] for i in range(10) for j in range(0, 16, 4)]
    expected = np.mean([int((g != 0).sum()) <= 1 for g in groups])
    assert weight_metrics.named_pattern("pattern_1_4", [w]) == pytest.approx(expected)
    assert weight_metrics.named_pattern("pattern_2_4", [w]) == weight_metrics.two_four([w])
    tiles = [w[i : i + 2, j : j + 3] for i in range(0, 10, 2) for j in range(0, 18, 3)]
    expected = np.mean([not t.any() for t in tiles])
    assert weight_metrics.named_pattern("block_2_3", [w]) == pytest.approx(expected)
    assert weight_metrics.named_pattern("sparsity", [w]) is None


def test_one_weight_more_breaks_a_pattern():
    w = torch.zeros(4, 8)
    w[:, ::4] = 1.0
    assert weight_metrics.named_pattern("pattern_1_4", [w]) == 1.0
    w[2, 3] = 1e-30
    assert weight_metrics.named_pattern("pattern_1_4", [w]) == 7 / 8
    assert weight_metrics.named_pattern("block_4_4", [torch.zeros(4, 8)]) == 1.0


@pytest.mark.parametrize("name", ["pattern_4_4", "pattern_1_64", "block_8_1"])
def test_a_pattern_that_cannot_be_is_an_error(name):
    with pytest.raises(UserError):
        weight_metrics.named_pattern(name, [torch.ones(4, 8)])


# change


def test_delta_is_the_least_of_three_ways():
    start = {"a": torch.randn(64, 48), "b": torch.randn(9), "head": torch.randn(5, 5)}
    now = {name: t.clone() for name, t in start.items()}
    now["head"] += 1
    assert weight_metrics.delta(now, start, {"head"}) == 0
    now["a"][3, 4] += 1
    assert weight_metrics.delta(now, start, {"head"}) == 8
    now["a"] = start["a"] + 0.3 * torch.randn(64, 2) @ torch.randn(2, 48)
    assert weight_metrics.delta(now, start, {"head"}) == 4 * 2 * (64 + 48)
    now["b"] += 1
    assert weight_metrics.delta(now, start, {"head"}) == 4 * (2 * (64 + 48) + 9)
    now["a"] = now["a"] + 0.01 * torch.randn(64, 48)  # a full-rank change of few scalars is dense
    assert weight_metrics.delta(now, start, {"head"}) == 4 * (64 * 48 + 9)


def test_a_small_change_of_everything_is_a_change():
    """What merging leaves by rounding is not; a hundred-thousandth of the weights everywhere is."""
    start = {"a": torch.randn(64, 48)}
    merged = start["a"].double() + 0.1 * torch.randn(64, 2).double() @ torch.randn(2, 48).double()
    assert weight_metrics.delta({"a": merged.float()}, start, set()) == 4 * 2 * (64 + 48)
    hidden = merged.float() + 1e-5 * torch.randn(64, 48)
    assert weight_metrics.delta({"a": hidden}, start, set()) == 4 * 64 * 48


# rounded inputs


def test_inputs_are_rounded_token_by_token():
    x = torch.randn(3, 5, 7)
    found = activations.rounded(x, 4)
    for token, seen in zip(x.view(-1, 7).double().numpy(), found.view(-1, 7).numpy()):
        step = np.abs(token).max() / 7
        np.testing.assert_allclose(seen, step * np.rint(token / step), rtol=1e-5, atol=1e-7)
    assert len(found[0, 0].unique()) <= 15


def test_gradients_pass_straight_through_and_stop_at_a_limit():
    x = torch.tensor([[0.2, -3.0, 0.9]], requires_grad=True)
    activations.rounded(x, 3).sum().backward()
    assert torch.equal(x.grad, torch.ones(1, 3))
    x.grad, limit = None, torch.tensor(1.0, requires_grad=True)
    activations.rounded(x, 3, limit).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0, 1.0]]))


@pytest.mark.parametrize("wanted", [1, 17, 4.5])
def test_bits_of_inputs_have_bounds(wanted):
    with pytest.raises(UserError, match="activation_bits"):
        activations.round_inputs(model(), wanted)


def test_a_goal_on_activations_rounds_what_is_evaluated():
    goal = {"loss": {"at_most": 1.0}, "activation_bits": {"at_most": 3}}
    plain, imposed = model(), model()
    constraints.Constraints(goal).impose(imposed)
    assert not torch.allclose(plain(TOKENS), imposed(TOKENS), rtol=1e-2)
    for module in (imposed.blocks[0].up, imposed.blocks[1].down):
        seen = []
        module.register_forward_hook(lambda m, args, out, seen=seen: seen.append(args[0]))
        imposed(TOKENS)
        assert max(len(row.unique()) for row in seen[0].flatten(0, 1)) <= 7
    with pytest.raises(UserError, match="whole number"):
        constraints.Constraints({"activation_bits": {"at_least": 4}})


# families


def tensors_of(made):
    return {name: t.clone() for name, t in made.state_dict().items()}


def test_the_first_half_is_the_model_of_half_the_heads_and_neurons():
    made = model()
    before = tensors_of(made)
    relatives = constraints.Constraints({"loss_first_50": {"at_most": 1}})
    ((metric, half),) = relatives.relatives(made, before).values()
    assert metric == "loss"
    expected = copy.deepcopy(made)
    for block in expected.blocks:
        keep(block, heads=[0, 1], neurons=range(64))
    made.load_state_dict(half)
    torch.testing.assert_close(made(TOKENS), expected(TOKENS))
    assert all(torch.equal(before[n], model().state_dict()[n]) for n in before)
    assert shares(made)["size"] == by_hand([2, 2], [64, 64])[0] / by_hand([4, 4], [128] * 2)[0]


def test_the_whole_of_a_family_is_the_model():
    made = model()
    whole = constraints.first(made, tensors_of(made), 100)
    assert all(torch.equal(whole[n], t) for n, t in tensors_of(made).items())
    with pytest.raises(UserError, match="1 to 100"):
        constraints.first(made, tensors_of(made), 101)


@pytest.mark.parametrize("width", [2, 4])
def test_a_rounded_relative_is_on_its_grid(width):
    made = model()
    rounded = constraints.rounded(made, tensors_of(made), width)
    matrices = [rounded[f"blocks.0.{name}.weight"] for name in structure.MAPS]
    assert weight_metrics.bits(matrices) == width
    for old, new in zip((made.blocks[0].up.weight,), (rounded["blocks.0.up.weight"],)):
        step = (old.amax(1) - old.amin(1)) / (2**width - 1)
        assert bool(((old - new).abs() <= step[:, None] * 0.5001).all())


def test_a_family_takes_all_of_its_goals_at_once():
    """A weight that only the whole model reads does not help the half of it."""
    made = model()
    state = tensors_of(made)
    state["blocks.0.down.weight"][:, 100] += 5.0
    one = constraints.first(made, tensors_of(made), 50)
    other = constraints.first(made, state, 50)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_retained_workload_and_its_bound_need_each_other():
    definition = SimpleNamespace(key="ft", scale="mini", block={"goal": {"retained": {}}})
    with pytest.raises(UserError, match="need each other"):
        constraints.retained(definition)
    definition.block = {"goal": {"loss": {}}}
    assert constraints.retained(definition) is None
    given = {"goal": {"retained": {}}, "retain": {"workload": "compress_gpt2", "batch": 3}}
    definition.block = given
    other = constraints.retained(definition)
    assert (other.name, other.block["batch"]) == ("compress_gpt2", 3)


def test_metrics_that_no_goal_names_are_not_measured():
    found = constraints.Constraints({"loss": {"at_most": 1}})
    assert found.of_matrices([torch.ones(4, 4)]) == {}
    assert found.of_change({}, {}, set()) == {}
    assert found.relatives(model(), {}) == {}
    assert not found.reduced


# Sums of parts


def test_parts_count_what_they_use():
    """Factors by the rank that they use, the rest by its entries and their places."""
    left, right, rest = torch.zeros(6, 3), torch.zeros(3, 16), torch.zeros(6, 16)
    assert stored_bits.of_parts(left, right, rest) == 0
    left[:, 0], right[0] = 0.5, 0.25
    left[:, 2] = 1.0  # without a row of right it adds nothing
    assert stored_bits.of_parts(left, right, rest) == 16 * (6 + 16)
    left[0, 0] = 0.1  # not a half: every entry of the factors has 32 bits
    assert stored_bits.of_parts(left, right, rest) == 32 * (6 + 16)
    left.zero_()
    rest[2, 5] = rest[4, 1] = 0.5
    assert stored_bits.of_parts(left, right, rest) == 2 * (16 + 4) + 6 * 2
    rest[0, 0] = float("nan")
    assert stored_bits.of_parts(left, right, rest) == 32 * (18 + 48 + 96)


def test_an_evaluation_adds_the_bits_of_parts():
    weights, zero = [torch.randn(8, 16)], torch.zeros
    parts = [(torch.ones(8, 1), torch.ones(1, 16), zero(8, 16))]
    asked = constraints.Constraints({"stored_bits": {"at_most": 4.0}})
    alone = asked.of_matrices(weights)["stored_bits"]
    both = asked.of_matrices(weights, parts)["stored_bits"]
    assert both - alone == pytest.approx(16 * 24 / 128)
