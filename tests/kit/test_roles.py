"""Roles of parameters in models of other libraries."""

import pytest
import torch
from torch import nn

from harness import roles


class Conv1D(nn.Module):
    """As in transformers: a linear map whose weight is [inputs, outputs]."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inputs, outputs)),
            nn.Parameter(torch.zeros(outputs)),
        )

    def forward(self, x):
        return x @ self.weight + self.bias


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.map, self.attention = RMSNorm(4), Conv1D(8, 4), nn.MultiheadAttention(4, 2)


class Encoder(nn.Module):
    def __init__(self, head=True):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(nn.Sequential(Block(), nn.Linear(4, 4)) for _ in range(2))
        if head:
            self.classifier = nn.Linear(4, 3)


def kinds(model, find_head=True):
    return {name: role.kind for name, role in roles.of(model, find_head).items()}


def test_linear_maps_of_other_libraries_are_hidden_and_say_how_they_lie():
    found = roles.of(Encoder(), find_head=True)
    role = found["blocks.0.0.map.weight"]
    assert (role.kind, role.fan_in, role.fan_out, role.transposed) == ("hidden", 4, 8, True)
    assert found["blocks.0.0.attention.in_proj_weight"].kind == "hidden"
    assert found["blocks.0.0.attention.in_proj_bias"].kind == "bias"
    assert found["blocks.0.0.norm.weight"].kind == "norm"
    role = found["classifier.weight"]
    assert (role.kind, role.fan_in, role.fan_out) == ("readout", 4, 3)


def test_the_head_is_found_only_where_it_is_asked_for_and_where_there_is_one():
    assert kinds(Encoder(), find_head=False)["classifier.weight"] == "hidden"
    assert "readout" not in kinds(Encoder(head=False)).values()
    model = Encoder()
    model.embedding.role = "readout"  # what a model declares is left as it is
    assert kinds(model)["classifier.weight"] == "hidden"


def test_the_head_that_a_model_names_is_its_head():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.last = nn.Linear(4, 9), nn.Linear(9, 9)

        def get_output_embeddings(self):
            return self.head

    assert kinds(Named())["head.weight"] == "readout"


def test_a_shared_matrix_has_the_role_of_its_first_module():
    model = Encoder()
    model.classifier.weight = model.embedding.weight
    assert "classifier.weight" not in kinds(model)
    assert kinds(model)["embedding.weight"] == "embedding"


def test_an_empty_parameter_has_a_role():
    model = nn.Linear(3, 3)
    model.weight = nn.Parameter(torch.zeros(0, 3))
    assert roles.of(model)["weight"].fan_out == 0


def test_a_role_that_does_not_exist_is_refused():
    model = nn.Linear(2, 2)
    model.role = "hiden"
    with pytest.raises(ValueError, match="hiden"):
        roles.of(model)


def test_a_transposed_matrix_is_updated_as_its_transpose():
    """Muon's step is longer for matrices with more outputs than inputs."""
    from harness.optim import as_optimizer

    torch.manual_seed(0)
    turned, plain = Conv1D(8, 4), nn.Linear(4, 8)
    with torch.no_grad():
        plain.weight.copy_(turned.weight.T)
    for model in (turned, plain):
        optimizer = as_optimizer("muon", model, roles={"weight": "hidden"})
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            g = torch.randn(8, 4, generator=generator)
            model.weight.grad = g.T.contiguous() if model is turned else g
            optimizer.step()
    torch.testing.assert_close(turned.weight.T, plain.weight)
