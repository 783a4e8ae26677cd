"""What a runner says is a claim: every message has a schema, and every number a bound."""

import ctypes
import json
import math
import socket
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.race import claims, limits, message_schema
from harness.race.message_schema import SCHEMA, FalseClaim
from harness.system.files import remove_tree
from harness.system.messages import Channel, Malformed, TimedOut
from harness.train import checkpoint, predictor
from harness.train.failure import failure

HAND_OVER = {
    "kind": "handover",
    "step": 3,
    "samples": 12,
    "state_bytes": 100,
    "trainable": 10,
    "training_memory": 0,
    "counts": {"forward_backward": 3},
    "passes": {"forward_backward": 3},
    "inside": {"forward_backward": 0.3},
    "outside": 0.01,
    "own": 0.001,
    "anchor": 0.1,
    "merged": False,
    "hooked": None,
    "active": None,
    "paused": False,
    "passed": [],
    "train_loss": 1.5,
}
HONEST = {
    "built": {"kind": "built", "anchor": 0.1, "cpu": 2.0, "layers": ["limits"]},
    "ready": {k: v for k, v in HAND_OVER.items() if k not in ("paused", "passed", "train_loss")}
    | {"kind": "ready", "layout": [["w", "float32", [2, 3]]], "setup": 0.1, "warnings": []},
    "handover": HAND_OVER,
    "saved": {"kind": "saved", "own": 0.01},
    "reveal": {"kind": "reveal", "index": [3, 5]},
    "predicted": {"kind": "predicted", "dtype": "float32", "shape": [1, 2], "data": "AAAA"},
    "failed": {"kind": "failed", "outcome": "oom", "error": "no room", "traceback": ""},
}
TRIAL = SimpleNamespace(
    horizon=10,
    passes={"forward_backward": 1},
    definition=SimpleNamespace(block={"batch": 4}),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def test_every_kind_of_message_has_an_honest_example():
    assert HONEST.keys() == SCHEMA.keys()
    for message in HONEST.values():
        message_schema.check(message)


@pytest.mark.parametrize("kind", SCHEMA)
def test_a_message_that_lacks_a_field_or_has_one_more_is_refused(kind):
    for name in SCHEMA[kind].keys() - message_schema.MAY_LACK:
        with pytest.raises(FalseClaim, match=name):
            message_schema.check({k: v for k, v in HONEST[kind].items() if k != name})
    with pytest.raises(FalseClaim, match="goal_reached"):
        message_schema.check(HONEST[kind] | {"goal_reached": True})


@pytest.mark.parametrize(
    "name, value",
    [
        ("step", -1), ("step", True), ("step", 1.0), ("step", 1 << 60), ("step", "3"),
        ("own", math.nan), ("own", math.inf), ("own", -1.0), ("own", 1e300), ("own", None),
        ("anchor", 0.0), ("inside", [1.0]), ("inside", {"forward_backward": "1"}),
        ("counts", {"forward_backward": -1}), ("hooked", 7), ("merged", 1), ("active", [2]),
        ("train_loss", "low"), ("passed", [-1]), ("hooked", "x" * 10_000),
    ],
)  # fmt: skip
def test_a_number_out_of_range_and_a_wrong_type_are_refused(name, value):
    with pytest.raises(FalseClaim, match=name):
        message_schema.check(HAND_OVER | {name: value})


def answered(kind, data):
    """Check a message with other values in one to three fields, as the referee does."""
    message = dict(HONEST[kind])
    for name in data.draw(st.lists(st.sampled_from(sorted(SCHEMA[kind])), min_size=1, max_size=3)):
        message[name] = data.draw(ANYTHING)
    try:
        message_schema.check(message)
        if kind == "ready":
            claims.ClaimChecker(TRIAL, every=0).first(dict(message), spent=0.31)
        if kind == "handover":
            checker = claims.ClaimChecker(TRIAL, every=0)
            checker.next(dict(message), until=3, asked=False, spent=0.31)
        if kind == "predicted":
            predictor.unpack(message)
    except ValueError:
        # FalseClaim is one; the referee makes `invalid` of both.
        return
    json.dumps(message)


@pytest.mark.parametrize("kind", sorted(SCHEMA))
@settings(max_examples=40)
@given(data=st.data())
def test_whatever_stands_in_a_field_the_answer_is_yes_or_a_false_claim(kind, data):
    answered(kind, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(SCHEMA))
@settings(max_examples=200)
@given(data=st.data())
def test_two_hundred_messages_of_each_kind_are_accepted_or_false(kind, data):
    answered(kind, data)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_named(content):
    here, there = socket.socketpair()
    with here, there:
        there.sendall(len(content).to_bytes(4, "big") + content)
        with pytest.raises(Malformed):
            Channel(here).receive(1.0)


@pytest.mark.parametrize(
    "content",
    [
        b'{"kind": "saved", "own": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"kind": "saved", "own": ' + b"[" * 20 + b"]" * 20 + b"}",
        b'{"kind": "saved", "own": ' + b"9" * 5000 + b"}",
        b'{"kind": 7}',
        b"[]",
    ],
)
def test_deep_and_huge_content_is_not_a_message(content):
    here, there = socket.socketpair()
    with here, there:
        there.sendall(len(content).to_bytes(4, "big") + content)
        with pytest.raises(Malformed):
            Channel(here).receive(1.0)


def hand_over(**changes):
    return json.loads(json.dumps(HAND_OVER | changes))


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"step": 4}, "step 4"),
        ({"paused": True}, "a pause"),
        ({"counts": {}, "passes": {}}, "examples in passes"),
        ({"samples": 13}, "13 examples"),
        ({"counts": {"hvp": 3}}, "PASSES does not declare"),
        ({"inside": {"forward_backward": 9.0}}, "9.000 s in passes"),
    ],
)
def test_a_hand_over_must_agree_with_what_is_known(changes, what):
    checker = claims.ClaimChecker(TRIAL, every=0)
    with pytest.raises(FalseClaim, match=what):
        checker.next(hand_over(**changes), until=3, asked=False, spent=0.31)
    reply = claims.ClaimChecker(TRIAL, every=0).next(hand_over(), 3, False, 0.31)
    assert reply["passes"] == {"forward_backward": 3}


def test_what_was_done_in_set_up_must_agree_with_what_is_known():
    ready, checker = HONEST["ready"], claims.ClaimChecker(TRIAL, every=0)
    assert checker.first(ready | {"passes": {}}, 0.31)["passes"] == {"forward_backward": 3}
    for changes, spent in (({}, 0.1), ({"samples": 13}, 0.31), ({"counts": {}}, 0.31)):
        with pytest.raises(FalseClaim, match="in set-up"):
            claims.ClaimChecker(TRIAL, every=0).first(ready | changes, spent)


def test_the_runner_cannot_foresee_when_a_reference_step_is_timed():
    trial = SimpleNamespace(horizon=100, engine={"device": "cpu"})
    patterns = set()
    for _ in range(40):
        check, asked = claims.StepTimeCheck(trial, None, 0.1, 0), []
        for step in range(5, 101, 5):
            if check.ask(step):
                asked.append(step)
                check._timed = step
        patterns.add(tuple(asked))
        assert 2 <= len(asked) <= 14
        assert max(b - a for a, b in zip([0, *asked], [*asked, 100], strict=True)) <= 45
    assert len(patterns) > 20


def test_seconds_in_passes_before_training_are_those_that_the_passes_explain():
    table = SimpleNamespace(of=lambda kind: SimpleNamespace(seconds=2.0))
    trial = SimpleNamespace(table=table)
    reply = {"counts": {"forward_backward": 2}, "inside": {"forward_backward": 10.0}}
    assert claims.credible_inside(trial, reply, 0.1) == pytest.approx(1.5 * 0.1 * 2)
    reply["inside"] = {"forward_backward": 0.2}
    assert claims.credible_inside(trial, reply, 0.1) == 0.2
    assert claims.credible_inside(trial, {"counts": {}, "inside": {"forward": 5.0}}, 0.1) == 0.0


def test_folders_and_lengths_of_sparse_files_are_counted_however_deep(tmp_path):
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(10_000_000_000)
    place = tmp_path
    for _ in range(50):
        place = place / "inner"
        place.mkdir()
    assert limits.usage([tmp_path]) == (51, 10_000_000_000)
    for i in range(limits.FILES):
        (tmp_path / f"{i}").touch()
    assert limits.usage([tmp_path])[0] == limits.FILES + 1


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ValueError("x" * 20_000_000), Mute(), ValueError("\ud800")])
def test_an_exception_of_any_text_is_a_message(error):
    told = failure(error)
    message_schema.check({"kind": "failed"} | told)
    assert type(error).__name__ in told["error"]
    assert len(told["error"]) < message_schema.TEXT


def test_blocks_behind_a_file_s_end_are_counted(tmp_path):
    with open(tmp_path / "short", "wb") as file:
        keep_size, libc = 1, ctypes.CDLL(None)
        if libc.fallocate64(file.fileno(), keep_size, ctypes.c_int64(0), ctypes.c_int64(1 << 20)):
            pytest.skip("this file system allocates no such blocks")
    assert (tmp_path / "short").stat().st_size == 0
    assert limits.usage([tmp_path])[1] >= 1 << 20


def test_a_message_that_nobody_takes_is_given_up():
    here, there = socket.socketpair()
    with here, there, pytest.raises(TimedOut):
        Channel(here, patience=0.05).send("predict", data="x" * 10_000_000)


def test_a_folder_that_nests_thousands_deep_is_removed(tmp_path):
    import os

    top, here = tmp_path / "top", os.getcwd()
    top.mkdir()
    (tmp_path / "kept").touch()
    os.chdir(top)
    try:
        for _ in range(3000):
            os.mkdir("inner")
            os.chdir("inner")
        open("file", "w").close()
        os.symlink(tmp_path / "kept", "link")
    finally:
        os.chdir(here)
    remove_tree(top)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_checkpoint_is_continued_only_under_the_name_that_the_log_has(tmp_path):
    import torch

    first = checkpoint.save(tmp_path, 1, {"w": torch.zeros(3)}, {})
    second = checkpoint.save(tmp_path, 2, {"w": torch.ones(3)}, {})
    assert checkpoint.newest(tmp_path) == second.name
    assert checkpoint.problem(second) is None
    assert "bytes" in checkpoint.problem(second, most=10)
    checkpoint.keep_only(tmp_path, {first.name})
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    first.write_bytes(first.read_bytes() + b"x")
    assert "hash" in checkpoint.problem(first)
    assert "no checkpoint" in checkpoint.problem(tmp_path / "step-000000009-0.safetensors")


def test_all_cpu_time_since_the_last_hand_over_is_charged_over_attempts(tmp_path):
    import os

    def monitor():
        return limits.ResourceMonitor(
            os.getpid(), 0, (), [tmp_path], tmp_path / "log", [], tmp_path / "spent", 1 << 50
        )

    def attempt(watching):
        watching.mark = watching.clock.read()
        sum(i * i for i in range(3_000_000))
        watching.check()

    for _ in range(3):
        attempt(monitor())
    last = monitor()
    spent = float((tmp_path / "spent").read_text())
    assert spent > 0.2
    assert last.lost_steps(0, 0.01) == math.ceil(spent / 0.01)
    assert last.lost_steps(10_000, 0.01) == 10_000
    last.mark = last.clock.read()
    last.settle()
    assert monitor().lost_steps(0, 0.01) == 0
    for damaged in ("1e300", "-5", "nan", "", "x"):
        (tmp_path / "spent").write_text(damaged)
        assert monitor().lost_steps(0, 0.01) == 0


def test_a_runner_is_not_charged_before_it_loads_the_submission(tmp_path):
    import os

    watching = limits.ResourceMonitor(
        os.getpid(), 0, (), [tmp_path], tmp_path / "log", [], tmp_path / "spent", 1 << 50
    )
    (tmp_path / "spent").write_text("0.0")
    watching.check()
    assert float((tmp_path / "spent").read_text()) == 0.0
    watching.mark = 1e-9  # when it is loaded
    watching.check()
    assert float((tmp_path / "spent").read_text()) > 0.0


def test_more_memory_than_there_is_ends_the_trial_by_name(tmp_path):
    import os

    watching = limits.ResourceMonitor(
        os.getpid(), 0, (), [tmp_path], tmp_path / "log", [], tmp_path / "spent", 1000
    )
    with pytest.raises(limits.LimitExceeded, match="bytes of memory"):
        watching.check()
