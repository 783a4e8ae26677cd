"""The memory-adjusted computation of a stream: what counts, and where a goal asks for it."""

import pytest

from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from harness.records import stream_budget

GOAL = {"loss": {"at_most": 1.0}, "adjusted_steps": {"at_most": 10.0}}


def row(passes, state, event="evaluation"):
    return {"event": event, "passes": passes, "state_bytes": state}


def test_passes_cost_their_share_of_a_reference_step():
    assert stream_budget.cost({"forward_backward": 3}) == 3
    assert stream_budget.cost({"forward": 3}) == pytest.approx(1)
    assert stream_budget.cost({"forward_backward@batch=2": 1, "forward@depth=1/2": 6}) == (
        pytest.approx(3)
    )
    assert stream_budget.cost({"exchange": 5}) == 0


def test_memory_weighs_the_steps_that_it_was_held_for():
    block = {"goal": GOAL, "adjust": {"bytes": 100}}
    rows = [
        row({"forward_backward": 4}, 0),
        row({"forward_backward": 4}, 50),
        row({"forward_backward": 4}, 50, event="resumed"),
    ]
    assert stream_budget.adjusted_steps(block, rows) == {"adjusted_steps": 4 + 4 * 1.5}


def test_it_is_measured_only_where_a_goal_names_it():
    assert stream_budget.adjusted_steps({"goal": {"loss": {"at_most": 1.0}}}, []) == {}
    with pytest.raises(UserError, match=r"adjust\.bytes"):
        stream_budget.adjusted_steps({"goal": GOAL}, [])


def test_the_variant_allows_replay_and_a_copy_of_the_weights_but_no_third_pass():
    block = define("stream_text", tree_of("stream_text"), "mini", "fomo").block
    words = block["adjust"]["bytes"] / 2  # bytes of the weights, and of a word for each of them
    bound = block["goal"]["adjusted_steps"]["at_most"]
    kept = block["stream"]["memory"]

    def steps(passes, state):
        rows = [row({"forward_backward": passes * block["horizon"]}, state)]
        return stream_budget.adjusted_steps(block, rows)["adjusted_steps"]

    assert steps(2, 2 * words + kept) <= bound  # momentum, a copy, replay
    assert steps(3, 2 * words + kept) > bound
