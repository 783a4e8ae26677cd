"""Laws of the referee's own clocks: a wall clock that jumps changes nothing but a date."""

import itertools
import time

import pytest

from harness.records import run_folder
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
