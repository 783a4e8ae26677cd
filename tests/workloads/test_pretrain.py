"""Laws of the checkpoints that fine-tuning and compression start from."""

import shutil

import pytest
import torch

from harness.catalog.discover import ROOT
from harness.errors import UserError
from harness.records.judging import conditions_hold
from scripts import pretrain
from workloads import vit
from workloads.pretrain import checkpoint

NAMES = list(pretrain.ORIGINS)
MADE = {"weight": torch.tensor([1.0, 2.0]).half()}


def trained_here(name, numbers, kept):
    """In the place of a minute of training."""
    checkpoint.save_file(MADE, kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_starts_from_the_shipped_weights(name, monkeypatch):
    monkeypatch.setattr(checkpoint, "trained", None)  # training here would be an error
    numbers, module = pretrain.numbers(name), pretrain.ORIGINS[name]
    weights = checkpoint.checkpoint(numbers, module)
    model = module.model(numbers)
    model.load_state_dict(weights)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_every_shipped_file_is_pinned_by_a_workload():
    files = {p.stem for p in (ROOT / "workloads" / "pretrain").glob("*.safetensors")}
    assert files == {pretrain.numbers(name).pretrain.sha256 for name in NAMES}


@pytest.mark.parametrize(
    "name, learnt",
    [
        ("ft_gpt2", {"loss": {"at_most": 4.2}}),
        ("ft_vit", {"accuracy": {"at_least": 0.92}}),
        ("compress_vit", {"loss": {"at_most": 0.45}}),
    ],
)
def test_shipped_weights_have_learnt(name, learnt):
    sha256 = pretrain.numbers(name).pretrain.sha256
    weights = checkpoint.load_file(checkpoint.shipped(sha256))
    assert conditions_hold(learnt, pretrain.measured(name, weights))


def test_other_bytes_and_other_numbers_are_refused(tmp_path, monkeypatch):
    numbers = pretrain.numbers("ft_vit")
    sha256 = numbers.pretrain.sha256
    whole = checkpoint.shipped(sha256)
    cut = tmp_path / whole.name
    shutil.copyfile(whole, cut)
    with open(cut, "r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x12\x34")
    monkeypatch.setattr(checkpoint, "shipped", lambda sha256: cut)
    with pytest.raises(UserError, match=rf"not {sha256}; .*pretrain.sha256="):
        checkpoint.checkpoint(numbers, vit)
    cut.unlink()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoint, "_train_apart", trained_here)
    with pytest.raises(UserError, match=rf"not {sha256}"):
        checkpoint.checkpoint(numbers, vit)
    numbers.pretrain.sha256 = checkpoint.fingerprint(MADE)
    again = checkpoint.checkpoint(numbers, vit)
    assert all(torch.equal(again[k], v.float()) for k, v in MADE.items())
