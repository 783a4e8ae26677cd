"""The convolutional vision transformer: its stem, its running statistics, and what is evaluated."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from harness import roles
from harness.catalog import data
from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from harness.race.evaluator import Evaluator
from harness.train import checkpoint
from tests.support import racing
from workloads.models.conv_vit import ConvViT, Stem

CONFIG = define("vit_conv", tree_of("vit_conv"), "mini", None).config


def images(count, seed=0):
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def test_the_stem_makes_tokens_row_by_row_of_normalised_convolutions():
    torch.manual_seed(0)
    stem, x = Stem(1, 16, 3, 1.0), images(5)
    first, second, last = (m for m in stem.layers if isinstance(m, torch.nn.Conv2d))
    made = stem(x)
    for convolution in (first, second):
        x = F.conv2d(x, convolution.weight, None, 2, 1)
        x = x - x.mean((0, 2, 3), keepdim=True)
        x = (x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()).clamp(min=0)
    x = F.conv2d(x, last.weight, last.bias, 2, 1)
    assert made.shape == (5, 16, 16)
    for row, column in ((0, 0), (1, 2), (3, 3)):
        torch.testing.assert_close(made[:, 4 * row + column], x[:, :, row, column])


def test_a_batch_matters_in_training_and_not_in_evaluation():
    torch.manual_seed(0)
    model = ConvViT(CONFIG.model)
    alone, others = images(4), torch.cat([images(4), 3 * images(4, 1)])
    assert not torch.allclose(model(alone), model(others)[:4], atol=1e-3)
    model.eval()
    torch.testing.assert_close(model(alone), model(others)[:4])


def test_roles_are_those_of_convolutions_and_norms():
    kinds = {name: role.kind for name, role in roles.of(ConvViT(CONFIG.model)).items()}
    stem = {name: kind for name, kind in kinds.items() if name.startswith("embed.layers")}
    assert sorted(stem.values()) == ["bias", "bias", "bias", *["convolution"] * 3, "norm", "norm"]


def test_a_stem_that_makes_other_tokens_than_the_patches_is_refused():
    for changes in ({"convolutions": 2}, {"convolutions": 3, "width": 62, "heads": 2}):
        numbers = SimpleNamespace(**{**vars(CONFIG.model), **changes})
        with pytest.raises(UserError, match=r"model\.convolutions"):
            ConvViT(numbers)


def test_running_statistics_are_evaluated(tmp_path):
    numbers = {"data": tree_of("vit_conv")["mini"]["data"] | {"train": 64, "validation": 250}}
    trial = racing.planned("vit_conv", "adamw", tmp_path, numbers=numbers, isolation="inline")
    held = data.prepare(trial.definition, "val", 0)
    evaluator = Evaluator(trial.definition, held, "cpu", 0)
    torch.manual_seed(0)
    tensors = dict(ConvViT(CONFIG.model).state_dict())
    first = evaluator(tensors, [True] * 4)["loss"]
    tensors["embed.layers.1.running_mean"] = tensors["embed.layers.1.running_mean"] + 1.0
    assert evaluator(tensors, [True] * 4)["loss"] != first


def test_training_moves_the_running_statistics(tmp_path):
    tree = tree_of("vit_conv")["mini"]
    changes = {"batch": 16, "horizon": 4, "evaluate": {"points": 2, "batch": 250}}
    changes["data"] = tree["data"] | {"train": 64, "validation": 250}
    trial = racing.planned("vit_conv", "adamw", tmp_path, numbers=changes, isolation="inline")
    folder = racing.race(trial).folder
    # The last checkpoint is that of the evaluation in the middle.
    step, tensors, _ = checkpoint.load(folder / "checkpoint")
    assert int(tensors["embed.layers.1.num_batches_tracked"]) == step == 2
    assert float(tensors["embed.layers.1.running_mean"].abs().max()) > 0
