"""Whatever a checkpoint's file holds, reading it ends in its state, a skip or a named problem."""

import hashlib
import json
import warnings
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.race import checkpoint_metrics
from harness.race.checkpoint_metrics import Held
from harness.race.runner_base import TrialEnded
from harness.race.runner_process import crafted_words
from harness.train import checkpoint
from tests.records.test_fuzz import changed, places, values

MODEL = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}
META = {"submission": {"m": [torch.zeros(2, 3)], "step": 3}, "losses": [1.5, 2]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a checkpoint, and its name."""
    path = checkpoint.save(tmp_path_factory.mktemp("whole"), 3, MODEL, META)
    return path.read_bytes(), path.name


def damaged(data, content):
    """Return the bytes of a checkpoint with a bit, a part or a value of its header changed."""
    way = data.draw(st.sampled_from(["bit", "cut", "header", "size", "anything"]))
    size = 8 + int.from_bytes(content[:8], "little")
    if way == "anything":
        return data.draw(st.binary(max_size=200))
    if way == "cut":
        return content[: data.draw(st.integers(0, len(content) - 1))]
    if way == "size":
        return data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + content[8:]
    if way == "bit":
        at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    header = json.loads(content[8:size])
    place = data.draw(st.sampled_from(list(places(header))))
    header = changed(header, place, data.draw(values | st.just(places)))
    if isinstance(header.get("__metadata__"), dict) and data.draw(st.booleans()):
        tree = json.loads(json.loads(content[8:size])["__metadata__"]["tree"])
        place = data.draw(st.sampled_from(list(places(tree))))
        tree = changed(tree, place, data.draw(values | st.just(places)))
        header["__metadata__"]["tree"] = json.dumps(tree)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[size:]


def read_as_everyone_does(data, whole, folder):
    """Read a damaged checkpoint under the old name, and under one that has its own checksum."""
    content = damaged(data, whole[0])
    name = f"step-000000003-{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    for file in (whole[1], name):
        for path in folder.iterdir():
            path.unlink()
        path = folder / file
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", checkpoint.CorruptCheckpoint)
            loaded = checkpoint.load(folder)
        assert loaded is None or file == name or content == whole[0]
        assert (checkpoint.problem(path) is None) == (file == name or content == whole[0])
        for read in (checkpoint_metrics.kept, Held().take):
            # Whatever else is raised fails this test.
            with suppress(TrialEnded), crafted_words():
                read(path)
    # The next attempt begins anew, whatever was there.
    checkpoint.keep_only(folder, ())
    assert checkpoint.load(folder) is None
    checkpoint.save(folder, 3, MODEL, META)
    step, tensors, meta = checkpoint.load(folder)
    assert step == 3
    assert torch.equal(tensors["layer.bias"], MODEL["layer.bias"])
    assert meta["losses"] == META["losses"]


FIXTURES = [HealthCheck.function_scoped_fixture]


@settings(max_examples=60, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_no_damaged_checkpoint_crashes_a_reader(whole, tmp_path, data):
    read_as_everyone_does(data, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@settings(max_examples=500, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_no_damaged_checkpoint_of_five_hundred_crashes_a_reader(whole, tmp_path, data):
    read_as_everyone_does(data, whole, tmp_path)
