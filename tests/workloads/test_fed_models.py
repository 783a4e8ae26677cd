"""The federated forms of gpt2 and vit: their clients differ, and they train as gpt2 and vit do."""

import pytest
import torch

from harness.catalog.data import open_data, prepare
from harness.catalog.definition import define, load_workload, tree_of
from workloads.data import text


def loaded(name: str, variant: str | None = None):
    definition = define(name, tree_of(name), "mini", variant)
    return load_workload(definition), definition.config


def prepared(name: str, split: str) -> dict:
    """The data as a race reads it: made once a machine."""
    return open_data(prepare(define(name, tree_of(name), "mini", None), split))


@pytest.fixture(scope="module")
def language():
    return *loaded("gpt2_fed"), prepared("gpt2_fed", "train")


@pytest.fixture(scope="module")
def images():
    return *loaded("vit_fed"), prepared("vit_fed", "train")


def test_a_client_of_text_has_a_quarter_of_the_windows_in_order(language):
    module, config, data = language
    owner = module.clients(data, config)
    assert owner.tolist() == sorted(owner.tolist())
    counts = torch.bincount(owner)
    assert len(counts) == config.fed.clients
    assert counts.max() - counts.min() <= 1


def test_the_texts_are_in_the_order_of_their_years():
    years = [int(key.partition("-")[0]) for key in text.CORPORA["sotu"]("train")]
    assert years == sorted(years)


def test_the_text_is_that_of_gpt2(language):
    assert torch.equal(language[2]["windows"], prepared("gpt2", "train")["windows"])


def test_clients_of_images_have_classes_of_their_own(images):
    module, config, data = images
    owner = module.clients(data, config)
    shares = torch.stack(
        [torch.bincount(data["labels"][owner == client], minlength=10) for client in range(4)]
    ).float()
    assert shares.sum() == 24_000
    # Equal shares would be a quarter of each class.
    assert (shares.amax(dim=0) / shares.sum(dim=0)).mean() > 0.5
    even = loaded("vit_fed", "even")
    counts = torch.bincount(even[0].clients(even[0].data(even[1], "train"), even[1]))
    assert counts.max() - counts.min() <= 20


@pytest.mark.parametrize("name", ["gpt2_fed", "vit_fed"])
def test_held_out_examples_belong_to_nobody(name):
    assert "client" not in prepared(name, "val")


@pytest.mark.parametrize("name", ["language", "images"])
def test_a_batch_says_whose_its_examples_are(name, request):
    module, config, data = request.getfixturevalue(name)
    chosen = torch.tensor([5, 0, len(data["client"]) - 1])
    made = module.batch(data, chosen, config)
    assert torch.equal(made["client"], data["client"][chosen])
    model = module.model(config)
    assert torch.isfinite(module.loss(model, made))
