"""The click stream, and its metric: each slice is judged before it is learnt."""

import numpy as np
import pytest
import torch

from harness.catalog import streams
from harness.catalog.definition import define, tree_of
from harness.records import stream_metrics
from workloads import stream_click


def config_of(**data):
    config = define("stream_click", tree_of("stream_click"), "mini", None).config
    vars(config.data).update(data)
    return config


def test_prequential_is_the_loss_of_the_next_task_before_it_begins():
    block = {
        "goal": {"prequential": {"at_most": 0.5}},
        "horizon": 8,
        "stream": {"tasks": 4, "recurring": False},
        "evaluate": {"every": 0},
    }
    table = {2: [9, 8], 4: [9, 7, 6], 6: [9, 9, 5, 4], 8: [9, 9, 9, 1]}
    rows = [
        {"event": "evaluation", "step": step, "tasks": [[loss, 10] for loss in losses]}
        for step, losses in table.items()
    ]
    assert [streams.watched(block, step) for step in table] == [len(v) for v in table.values()]
    # tasks 3 and 4 are the last half: 0.6 after task 2, and 0.4 after task 3
    assert stream_metrics.running(block, rows) == {"prequential": pytest.approx(0.5)}
    assert stream_metrics.running(block, rows, 4) == {"prequential": pytest.approx(0.6)}
    assert stream_metrics.running(block, rows, 2) == {"prequential": pytest.approx(0.9)}
    strict = stream_metrics.report(block, rows)["strict"]
    assert strict["prequential"] == {"value": pytest.approx(0.5)}


def test_clicks_follow_the_truth_of_their_slice():
    """With a truth that stands still, click rates by category of the past tell of the future."""
    config = config_of(drift=0.0, jumps=0, subset=2000)
    config.horizon = 2000
    data = stream_click.data(config, "train", 3)
    assert data["group"].bincount().tolist() == [2560] * 50
    x, y, score = data["fields"].numpy(), data["clicks"].numpy(), 0.0
    for field in x.T:
        sums = np.bincount(field[:100000], y[:100000], minlength=100)
        score = score + (sums / np.bincount(field[:100000], minlength=100))[field]
    assert np.corrcoef(score[100000:], y[100000:])[0, 1] > 0.5
    assert np.corrcoef(score[:100000], y[:100000])[0, 1] > 0.5
    held = stream_click.data(config, "val", 3)
    assert torch.equal(held["fields"][:2000], data["fields"][:2000])
    assert torch.equal(held["clicks"][-2000:], data["clicks"][-2560:-560])


def test_the_truth_jumps():
    still, jumping = (stream_click.data(config_of(drift=0.0, jumps=j), "val", 0) for j in (0, 2))
    same = (still["clicks"] == jumping["clicks"]).view(50, -1).double().mean(1)
    assert bool((same[:16] == 1).all())
    assert same[17:].max() < 0.9


def test_the_network_reads_each_field_by_its_own_table():
    config = config_of()
    torch.manual_seed(0)
    net = stream_click.model(config)
    batch = stream_click.batch(stream_click.data(config, "val", 0), torch.arange(4), config)
    rows = net.table.weight.view(20, 100, 8)
    for fields, logit in zip(batch["inputs"].long(), net(batch["inputs"])):
        x = torch.cat([rows[f, int(c)] for f, c in enumerate(fields)])
        assert torch.allclose(net.readout(torch.relu(net.up(x)))[0], logit, atol=1e-6)
    assert sum(p.numel() for p in net.parameters()) == 26_369
    nats = stream_click.losses(net, batch)
    chance = torch.sigmoid(net(batch["inputs"]))
    right = torch.where(batch["targets"] > 0, chance, 1 - chance)
    assert torch.allclose(nats, -right.log(), atol=1e-6)
