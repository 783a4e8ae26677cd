"""Laws of the vit workload, its model and its loaders."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness import roles
from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from workloads import vit
from workloads.data import folder

SCALES = ("mini", "base", "full")


def configured(scale, variant=None):
    return define("vit", tree_of("vit"), scale, variant).config


MINI = configured("mini")


@pytest.fixture(scope="module")
def val():
    return vit.data(MINI, "val")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vit.model(MINI)


@pytest.fixture
def rough():
    """A model far from its smooth start, so that mistakes show."""
    torch.manual_seed(0)
    return vit.model(configured("mini", "init_scale"))


def test_held_out_images_are_of_every_class_and_never_trained_on(val):
    train = vit.data(MINI, "train")
    assert (vit.size(train, MINI), vit.size(val, MINI)) == (24000, 5000)
    assert min(val["labels"].bincount()) > 450
    assert min(train["labels"].bincount()) > 2300
    seen = {image.numpy().tobytes() for image in train["images"]}
    again = sum(image.numpy().tobytes() in seen for image in val["images"])
    assert again == 0


def test_of_a_source_without_a_test_set_every_fifth_image_is_held_out():
    digits = SimpleNamespace(**vars(MINI.data) | {"source": "mnist"})
    config = SimpleNamespace(**vars(MINI) | {"data": digits})
    train, val = vit.data(config, "train"), vit.data(config, "val")
    assert val["labels"].bincount().tolist() == [100] * 10
    assert train["labels"].bincount().tolist() == [400] * 10
    both = torch.cat([train["images"], val["images"]]).flatten(1)
    assert len({bytes(image.tolist()) for image in both}) == 5000


def test_a_batch_is_normalised_and_a_function_of_the_numbers_alone(val):
    index = torch.arange(1000)
    batch = vit.batch(val, index, MINI)
    assert batch["inputs"].shape == (1000, 1, 28, 28)
    assert batch["inputs"].mean().abs() < 0.05
    assert batch["inputs"].std() == pytest.approx(1.0, abs=0.05)
    again = vit.batch(val, index[300:310], MINI)
    assert torch.equal(again["inputs"], batch["inputs"][300:310])
    assert torch.equal(again["targets"], batch["targets"][300:310])


def test_label_noise_strikes_a_fixed_share_of_the_training_labels_only(val):
    noisy = configured("mini", "label_noise")
    clean, struck = vit.data(MINI, "train")["labels"], vit.data(noisy, "train")["labels"]
    assert (clean != struck).float().mean().item() == pytest.approx(0.2 * 0.9, abs=0.02)
    assert torch.equal(struck, vit.data(noisy, "train")["labels"])
    assert torch.equal(vit.data(noisy, "val")["labels"], val["labels"])


def test_score_is_the_mean_over_all_images_however_they_are_batched(val, rough):
    sums = dict.fromkeys(("nats", "right", "count"), 0.0)
    every = torch.arange(0, 1000, 4)
    with torch.no_grad():
        for index in every.split(90):
            for key, value in vit.metric(rough, vit.batch(val, index, MINI)).items():
                sums[key] += float(value)
        logp = rough(vit.batch(val, every, MINI)["inputs"]).double().log_softmax(1)
    found, labels = vit.score(sums), val["labels"][every]
    mean = -logp[torch.arange(len(every)), labels].mean().item()
    assert found["loss"] == pytest.approx(mean, rel=1e-5)
    assert found["accuracy"] == (logp.argmax(1) == labels).double().mean().item()


def test_losses_and_sampled_labels_agree_with_the_loss(val, rough):
    batch = vit.batch(val, torch.arange(0, 1000, 5), MINI)
    with torch.no_grad():
        losses = vit.losses(rough, batch)
        torch.testing.assert_close(losses.mean(), vit.loss(rough, batch))
        logp = vit.logits(rough, batch).log_softmax(1)
        entropy = -(logp.exp() * logp).sum(1).mean()
        draws = [vit.sample(rough, batch, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0].item() == pytest.approx(entropy.item(), rel=0.2)


def test_start_is_near_the_uniform_guess_and_training_learns(model, val):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    batch = vit.batch(val, torch.arange(0, 1000, 40), MINI)
    first = vit.loss(model, batch).item()
    assert first == pytest.approx(math.log(10), abs=0.1)
    for _ in range(25):
        optimizer.zero_grad()
        loss = vit.loss(model, batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < first - 0.5


def test_model_equals_plain_attention_written_out(rough, val):
    images = vit.batch(val, torch.tensor([3, 500]), MINI)["inputs"]
    with torch.no_grad():
        rows = []
        for image in images:
            cut = [
                image[:, 7 * r : 7 * r + 7, 7 * c : 7 * c + 7] for r in range(4) for c in range(4)
            ]
            rows.append(torch.stack([patch.flatten() for patch in cut]))
        x = rough.embed(torch.stack(rows)) + rough.positions(torch.arange(16))
        for b in rough.blocks:
            q, k, v = b.qkv(b.norm1(x)).view(2, 16, 3, 4, 16).permute(2, 0, 3, 1, 4)
            mixed = (q @ k.mT / 4).softmax(-1) @ v
            x = x + b.project(mixed.transpose(1, 2).reshape(2, 16, 64))
            x = x + b.down(nn.functional.gelu(b.up(b.norm2(x)), approximate="tanh"))
        expected = rough.readout(rough.norm(x).mean(1))
        torch.testing.assert_close(rough(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", [None, "post_norm"])
def test_an_inactive_block_is_the_identity(variant):
    torch.manual_seed(0)
    model = vit.model(configured("mini", variant))
    images = torch.randn(2, 1, 28, 28)
    without = copy.deepcopy(model)
    del without.blocks[1]
    without.active = [True] * 3
    with torch.no_grad():
        full = model(images)
        model.active[1] = False
        assert torch.equal(model(images), without(images))
        assert not torch.equal(model(images), full)


def test_roles_come_from_the_modules(model):
    kinds = {name: role.kind for name, role in roles.of(model).items()}
    assert kinds["embed.weight"] == kinds["positions.weight"] == "embedding"
    assert kinds["readout.weight"] == "readout"
    hidden = [name for name, kind in kinds.items() if kind == "hidden"]
    assert len(hidden) == 16
    assert all(name.startswith("blocks.") for name in hidden)


def test_the_first_step_moves_every_hidden_matrix(model, val):
    vit.loss(model, vit.batch(val, torch.arange(0, 1000, 50), MINI)).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_full_scale_has_the_parameters_of_a_vit_s_16():
    with torch.device("meta"):
        found = sum(p.numel() for p in vit.model(configured("full")).parameters())
    assert found == 22_049_896  # 22.05 M less the class token of Dosovitskiy et al.


@pytest.mark.parametrize("scale", SCALES)
def test_every_variant_can_be_built_and_run(scale):
    for variant in (None, *tree_of("vit")[scale]["variants"]):
        config = configured(scale, variant)
        c = config.model
        c.depth = min(c.depth, 2)
        with torch.device("meta"):
            logits = vit.model(config)(torch.zeros(2, c.channels, c.side, c.side))
        assert logits.shape == (2, c.classes)


def test_newton_schulz_costs_at_most_15_percent_of_a_mini_step():
    """Five iterations on an m x n matrix, m <= n, take 5 (4 m^2 n + 2 m^3) FLOPs; a step 6 FLOPs a
    token and weight, and 12 T d a token and block for attention."""
    config = MINI.model
    count = (config.side // config.patch) ** 2
    hidden = [
        m.weight.shape
        for b in vit.model(MINI).blocks
        for m in b.modules()
        if isinstance(m, nn.Linear)
    ]
    weights = sum(a * b for a, b in hidden) + config.patch**2 * config.width
    step = MINI.batch * count * (6 * weights + 12 * config.depth * count * config.width)
    extra = sum(5 * (4 * m**2 * n + 2 * m**3) for m, n in map(sorted, hidden))
    assert 0.05 < extra / step < 0.15


def test_unknown_choices_and_missing_folders_are_errors_that_help(tmp_path):
    for block, key, wrong, hint in (
        ("data", "source", "mnits", "mnist"),
        ("model", "activation", "relo", "relu"),
        ("model", "norm", "past", "post"),
        ("model", "patch", 5, "divisible"),
    ):
        config = configured("mini")
        setattr(getattr(config, block), key, wrong)
        with pytest.raises(UserError, match=hint):
            vit.data(config, "train") if block == "data" else vit.model(config)
    with pytest.raises(UserError, match="folder"):
        vit.data(configured("full"), "train")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="classes"):
        folder.index(str(tmp_path), "train", 2)
    with pytest.raises(UserError, match="no image"):
        folder.index(str(tmp_path), "train", 1)
    with pytest.raises(UserError, match="data_batch_1"):
        folder.cifar10(str(tmp_path), "train")


def test_full_scale_reads_a_folder_of_images(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    colours = {"ant": (200, 0, 0), "bee": (0, 200, 0)}
    for split, count in {"train": 3, "val": 1}.items():
        for name, colour in colours.items():
            place = tmp_path / split / name / "deep"
            place.mkdir(parents=True)
            for i in range(count):
                image.new("RGB", (300 + 40 * i, 260), colour).save(place / f"{i}é.png")
            (place / "notes.txt").write_text("no image")
    image.new("L", (50, 400), 90).save(tmp_path / "train" / "bee" / "grey.jpg")
    config = configured("full")
    config.data.folder, config.model.classes = str(tmp_path), 2
    data = vit.data(config, "train")
    assert isinstance(data["folder"], Path)
    assert data["labels"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    batch = vit.batch(data, torch.tensor([6, 0, 5]), config)
    assert batch["inputs"].shape == (3, 3, 224, 224)
    assert batch["targets"].tolist() == [1, 0, 1]
    pixels = batch["inputs"] * config.data.std + config.data.mean
    torch.testing.assert_close(
        pixels[1, :, 100, 100] * 255, torch.tensor([200.0, 0.0, 0.0]), atol=1e-3, rtol=0
    )
    assert vit.size(vit.data(config, "val"), config) == 2
    (tmp_path / "train" / "bee" / "grey.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match="grey"):
        vit.batch(data, torch.tensor([6]), config)


def test_cifar10_is_read_from_its_binary_files(tmp_path):
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (60, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    for i in range(5):
        rows[10 * i : 10 * i + 10].tofile(tmp_path / f"data_batch_{i + 1}.bin")
    rows[50:].tofile(tmp_path / "test_batch.bin")
    config = configured("base", "cifar10")
    config.data.folder = str(tmp_path)
    train, held = vit.data(config, "train"), vit.data(config, "val")
    assert train["images"].shape == (50, 3, 32, 32)
    assert held["labels"].tolist() == rows[50:, 0].tolist()
    assert train["images"][13, 2, 31, 31] == rows[13, -1]
