"""Laws of the referee's own clocks: a wall clock that jumps changes nothing but a date."""

import itertools
import time

import pytest

from harness.clock import prices
from harness.records import judging, run_folder
from harness.records.rules.verdict import examine
from tests.support import racing, tiny


@pytest.mark.parametrize("jump", [1e9, -1e9, 3e7])
@pytest.mark.parametrize("isolation", ["inline", pytest.param("process", marks=pytest.mark.slow)])
def test_a_wall_clock_that_jumps_changes_no_second(jump, isolation, tmp_path, monkeypatch):
    """The honest twin is the same trial by a clock that does not jump."""
    honest = tiny.race(tiny.trial("gd", tmp_path / "honest", isolation=isolation))
    count, true = itertools.count(1), time.time
    monkeypatch.setattr(time, "time", lambda: true() + jump * next(count))
    jumped = tiny.race(tiny.trial("gd", tmp_path / "jumped", isolation=isolation))
    assert jumped.outcome == honest.outcome
    assert jumped.record["weights"] == honest.record["weights"]
    rows = run_folder.evaluations(racing.log_of(jumped.folder))
    for row in rows:
        assert 0 <= row["setup_seconds"] < 100
        assert 0 <= row["wall_seconds"] < 100
        assert 0 <= row["outside"] < 100
    assert all(0 <= seconds < 100 for seconds in jumped.record["wall"].values())
    assert jumped.record["end"]["total"] < 100


def test_ten_times_the_budget_beside_the_passes_ends_a_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "PATIENCE", 0.0)
    run = racing.race(racing.trial("laborious", tmp_path))
    assert run.outcome == "out_of_budget"
    assert run.record["step"] < racing.HORIZON
    assert "times its budget" in run.record["reason"]
    assert not [verdict.fails for verdict in examine([run.folder]) if verdict.fails]


def test_no_trial_of_less_than_a_minute_is_ended_for_its_seconds(tmp_path):
    run = racing.race(racing.trial("laborious", tmp_path))
    assert run.outcome == "out_of_budget"
    assert run.record["step"] == racing.HORIZON
    assert run.record["reason"] is None


def test_set_up_and_lost_steps_end_no_trial():
    row = {"step": 10, "counts": {"forward_backward": 10}, "passes": {"forward_backward": 10}}
    row |= {"inside": {"forward_backward": 1.0}, "outside": 0.5, "anchor": 0.1, "hooked": []}
    row |= {"anchor_seconds": 0.1, "setup_seconds": 1000.0, "lost_steps": 9000}
    row |= {"metrics": {"loss": 2.0}, "train_loss": 2.0, "goal": False, "progress": 0.5}
    table = prices.Table({"forward_backward": prices.Price(0.1, 0.1, 0.1)}, "a test")
    terms = judging.Terms({"goal": {"loss": {"at_most": 1.0}}}, 20, 20)
    assert judging.ending(terms, [row, row | {"step": 11}], table, None) is None
    slow = row | {"step": 11, "outside": 1000.0}
    assert judging.ending(terms, [row, slow], table, None)[0] == "out_of_budget"
