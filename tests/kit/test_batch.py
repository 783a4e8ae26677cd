"""What a submission reads of a batch, and the words where a workload has none of it."""

import pytest
import torch

from harness import batch as batches
from harness import derivatives
from harness.errors import UserError

PIXELS = {"inputs": torch.rand(3, 4), "targets": torch.tensor([2, 0, 1])}
TOKENS = {"inputs": torch.zeros(3, 4, dtype=torch.int64), "targets": torch.zeros(3, 4)}


def test_a_part_that_is_there_is_that_tensor():
    assert batches.part(PIXELS, "inputs") is PIXELS["inputs"]
    assert batches.labels(PIXELS) is PIXELS["targets"]


def test_a_part_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UserError, match="have no 'points'; they have inputs, targets"):
        batches.part(PIXELS, "points")


@pytest.mark.parametrize(
    "batch", [TOKENS, {"inputs": torch.rand(3)}, {"targets": torch.rand(3)}, {}]
)
def test_examples_without_a_class_each_are_refused(batch):
    with pytest.raises(UserError, match="do not have one label each"):
        batches.labels(batch)


def test_gradients_of_single_examples_refuse_a_batch_and_a_model_that_have_none():
    model = torch.nn.Linear(4, 1)

    def loss(model, batch):
        return model(batch["x"]).square().mean()

    def counting(model, batch):
        return model(batch["x"]).sum() * len(batch["x"].nonzero())

    x = torch.rand(3, 4)
    (weight, bias) = derivatives.per_example(loss, model, {"x": x})
    assert (weight.shape, bias.shape) == ((3, 1, 4), (3, 1))
    with pytest.raises(UserError, match="'step' of the batch belongs to no example"):
        derivatives.per_example(loss, model, {"x": x, "step": torch.tensor(1)})
    with pytest.raises(UserError, match="a shape in this model depends on the example"):
        derivatives.per_example(counting, model, {"x": x})
