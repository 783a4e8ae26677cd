"""Laws of spending: seeds go to undecided neighbours near the top until these are decided."""

import math
import random
from types import SimpleNamespace

import pytest

from harness.campaign import spending
from harness.records.collect import collect
from harness.records.references import references
from harness.report.board.board import boards
from tests.support import records
from tests.support.racing import typed

WORKLOADS = {"alpha": 0.01, "beta": 0.05}


class Simulated:
    """A campaign of which every seed is drawn: `speeds` by submission, scatter by workload."""

    def __init__(self, results, speeds, more_helps=True):
        self.results, self.speeds, self.raced = results, speeds, []
        self.pairs = [
            SimpleNamespace(
                definition=SimpleNamespace(key=f"{workload}.mini"), workload=workload,
                submission=name, ruleset={"seeds": 3}, more=0, failed=None, found={},
                more_helps=more_helps,
            )
            for workload in WORKLOADS
            for name in speeds
        ]  # fmt: skip
        for workload in WORKLOADS:
            records.reference(results, workload)
        self.run(self.pairs)
        self.raced.clear()

    def run(self, pairs, *_) -> bool:
        for pair in pairs:
            for seed in range(1, pair.ruleset["seeds"] + pair.more + 1):
                if seed in pair.found:
                    continue
                draw = random.Random(f"{pair.workload} {pair.submission} {seed}")
                scatter = math.exp(WORKLOADS[pair.workload] * draw.gauss(0, 1))
                price = 2.5 * scatter / self.speeds[pair.submission]
                made = records.record(
                    pair.submission, pair.workload, seed, crossing=12, price=price,
                    isolation="strict",
                )  # fmt: skip
                pair.found[seed] = records.folder(self.results, *made)
                self.raced.append((pair.workload, pair.submission, seed))
        return True

    def boards(self):
        return boards(collect([self.results]), references([self.results]))

    def spend(self, monkeypatch, hours=1.0):
        lines = []
        monkeypatch.setattr(spending, "commit", lambda *_: [])
        done = spending.spend(self.pairs, self.results, self.run, lines.append, hours)
        return done, lines


def test_seeds_go_to_the_undecided_near_the_top_where_the_scatter_is_large(tmp_path, monkeypatch):
    race = Simulated(tmp_path, {"a": 1.30, "b": 1.28, "c": 0.8})
    done, lines = race.spend(monkeypatch)
    assert done
    assert race.raced
    assert {name for _, name, _ in race.raced} == {"a", "b"}
    assert race.raced[0][0] == "beta"
    assert "places 1 and 2 of train mini are undecided" in lines[0]
    assert "seed 4 of both on beta.mini" in lines[0]
    first, second, *_ = race.boards()[0].rows
    seeds = {w: first.cells[f"{w}.mini"].n for w in WORKLOADS}
    assert {w: second.cells[f"{w}.mini"].n for w in WORKLOADS} == seeds
    separable = race.boards()[0].compared[first.name, second.name].verdict != "not separable"
    assert separable or max(seeds.values()) == spending.MOST


def test_what_is_decided_gets_no_seed(tmp_path, monkeypatch):
    race = Simulated(tmp_path, {"a": 2.0, "b": 1.0})
    assert race.spend(monkeypatch) == (True, [
        "every order that further seeds could decide is decided"
    ])  # fmt: skip
    assert race.raced == []


def test_after_the_hours_nothing_is_raced_and_the_next_is_named(tmp_path, monkeypatch):
    race = Simulated(tmp_path, {"a": 1.30, "b": 1.28})
    done, lines = race.spend(monkeypatch, hours=1e-12)
    assert not done
    assert "would be next" in lines[-1]
    assert race.raced == []


def test_a_pair_that_missed_with_all_trials_gets_no_further_seed(tmp_path):
    race = Simulated(tmp_path, {"a": 1.30, "b": 1.28}, more_helps=False)
    assert spending.decide(race.pairs, race.boards()) is None


@pytest.mark.parametrize("hours", ["0", "-1", "nan"])
def test_hours_that_are_not_positive_are_an_error(tmp_path, hours):
    (tmp_path / "plan.yaml").write_text("submissions: [adamw]\nworkloads: [gpt2]\n")
    code, _, err = typed("campaign", tmp_path / "plan.yaml", f"--spend={hours}")
    assert code == 2
    assert f"--spend: '{hours}' is not a number above 0" in err
