"""A stream whose tasks have unequal lengths, and the few-shot stream that has them."""

from types import SimpleNamespace

import pytest
import torch

from harness.catalog import streams
from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from harness.records import stream_metrics
from workloads import stream_fscil

STREAM = {"tasks": 3, "boundaries": "shown", "passes": 9, "memory": 0, "recurring": False}
BLOCK = {"horizon": 10, "stream": STREAM | {"lengths": [6, 1, 3]}, "evaluate": {"every": 1}}


def test_tasks_begin_where_the_lengths_say():
    config = SimpleNamespace(horizon=10, stream=SimpleNamespace(**BLOCK["stream"]))
    streams.check(BLOCK, "here")
    assert streams.starts(BLOCK) == [0, 6, 7]
    assert streams.starts({"horizon": 12, "stream": STREAM}) == [0, 4, 8]
    found = [streams.segment(config, step) for step in range(10)]
    assert found == [(0, 6)] * 6 + [(6, 1)] + [(7, 3)] * 3
    assert [streams.watched(BLOCK, step) for step in (0, 5, 6, 7, 10)] == [1, 1, 2, 3, 3]


@pytest.mark.parametrize("lengths", [[6, 4], [6, 1, 2], [7, 0, 3], "6", [6.0, 1, 3]])
def test_lengths_that_are_not_those_of_the_stream_are_refused(lengths):
    block = BLOCK | {"stream": STREAM | {"lengths": lengths}}
    with pytest.raises(UserError, match="3 numbers of steps that add up to the horizon, 10"):
        streams.check(block, "here")


def rows():
    """After the tasks: group i has 10 images, of which some are right."""
    found = {6: [8], 7: [7, 3], 10: [6, 2, 4]}
    return [
        {"event": "evaluation", "step": step, "tasks": [[right, 10] for right in tasks]}
        for step, tasks in found.items()
    ]


def test_harmonic_is_of_the_first_and_the_mean_of_the_later_tasks():
    block = BLOCK | {"goal": {"harmonic": {"at_least": 0.5}}}
    assert stream_metrics.running(block, rows()) == {"harmonic": pytest.approx(0.4)}
    assert stream_metrics.running(block, rows(), 7) == {"harmonic": pytest.approx(0.42)}
    assert stream_metrics.running(block, rows(), 6) == {"harmonic": pytest.approx(0.8)}
    strict = stream_metrics.report(block, rows())["strict"]
    assert strict["harmonic"] == {"value": pytest.approx(0.4)}
    assert strict["forgetting"] == {"value": pytest.approx((0.2 + 0.1) / 2)}
    assert strict["minimum"] == {"value": pytest.approx((0.6 + 0.2) / 2)}


def test_later_classes_have_few_images_each_in_its_own_task():
    config = define("stream_fscil", tree_of("stream_fscil"), "mini", None).config
    data = stream_fscil.data(config, "train")
    assert data["labels"].bincount().tolist() == [400] * 6 + [5] * 4
    order = stream_fscil.stream(data, config, 0)
    classes = data["labels"][order].view(config.horizon, config.batch)
    assert int(classes[:600].max()) == 5
    for k in range(4):
        assert set(classes[600 + 20 * k : 620 + 20 * k].unique().tolist()) == {6 + k}
    held = stream_fscil.data(config, "val")
    assert held["group"].bincount().tolist() == [300, 50, 50, 50, 50]
    assert torch.equal(held["group"], held["group"].sort().values)
