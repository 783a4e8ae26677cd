"""Laws of the scores: they equal what is published or worked by hand, and need no bystanders."""

import csv
import itertools
import math
import random
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches import precision
from harness.catalog.discover import ROOT
from harness.records.collect import collect
from harness.records.judging import crossing, interpolated_time
from harness.report.board import score, stats
from harness.report.board.cells import Choice
from harness.report.board.rows import robust
from harness.report.board.stats import Cell, Sample
from scripts import board_tables

FIXTURE = Path(__file__).parents[1] / "fixtures" / "algoperf_v05_external.csv"
GOAL = {"loss": {"at_most": 1.0}}
REFERENCES = {"a.mini": 40.0, "b.mini": 50.0, "c.mini": 60.0}


def cell(*times: float, reference: float | None = None) -> Cell:
    return Cell((tuple(Sample(i, t) for i, t in enumerate(times)),), reference=reference)


def published() -> tuple[dict, dict, list, dict]:
    """AlgoPerf v0.5 external: scores, times, base workloads and their held-out variants."""
    rows = list(csv.DictReader(FIXTURE.read_text().splitlines()))
    columns = [c for c in rows[0] if c not in ("submission", "score")]
    bases = [
        "criteo1tb", "fastmri", "imagenet_resnet", "imagenet_vit", "librispeech_conformer",
        "librispeech_deepspeech", "ogbg", "wmt",
    ]  # fmt: skip
    gates = {b: c for b in bases for c in columns if c.startswith(f"{b}_")}
    times = {r["submission"]: {c: float(r[c]) for c in columns if r[c]} for r in rows}
    return {r["submission"]: float(r["score"]) for r in rows}, times, bases, gates


def test_algoperf_v05_external_is_reproduced_on_the_grid():
    scores, times, bases, gates = published()
    found = score.ratios(times, bases, gates)
    for name, stated in scores.items():
        assert score.algoperf_grid(found[name]) == pytest.approx(stated, abs=1e-6)
        assert score.algoperf(found[name]) == pytest.approx(stated, abs=1.6e-3)


def test_algoperf_in_closed_form_is_the_area_under_the_profile():
    r = [1.0, 1.7, 3.2, math.inf, 4.0]
    taus = np.linspace(1, 4, 300_001)
    area = sum(float(np.mean(x <= taus)) for x in r) / len(r)
    assert score.algoperf(r) == pytest.approx(area, abs=1e-5)
    assert score.algoperf(r) == pytest.approx((3 + 2.3 + 0.8) / 3 / 5)


def test_a_gate_closes_a_base_and_a_missed_base_its_variant():
    times = {
        "a": {"x": 10.0, "x_held": math.inf},
        "b": {"x": 20.0, "x_held": 5.0},
        "c": {"x_held": 1.0},
    }
    assert score.ratios(times, ["x"], {"x": "x_held"}) == {
        "a": [math.inf],
        "b": [1.0],
        "c": [math.inf],
    }
    assert score.ratios(times, ["x"]) == {"a": [1.0], "b": [2.0], "c": [math.inf]}


def test_the_headline_by_hand():
    """docs/score.md: 40/20 = 2, 50/50 = 1, a miss = 1/4: the cube root of 1/2."""
    cells = {"a.mini": cell(20.0), "b.mini": cell(50.0), "c.mini": cell(math.inf)}
    found = score.headline(cells, REFERENCES)
    assert found.score == pytest.approx(0.5 ** (1 / 3))
    assert (found.low, found.high, found.misses) == (None, None, 1)
    assert score.speedup(1000.0, 40.0) == pytest.approx(0.25)  # slower than a miss counts as one


@pytest.mark.parametrize(
    "times, expected",
    [
        ([3.0, 1.0, 2.0], 2.0),
        ([1.0, 3.0], 2.0),
        ([1.0, math.inf], math.inf),
        ([1.0, 2.0, math.inf], 2.0),
        ([math.inf] * 2, math.inf),
    ],
)
def test_medians_treat_a_miss_as_later_than_any_time(times, expected):
    assert stats.median(times) == expected


seconds = st.one_of(st.floats(1, 500), st.just(math.inf))
submission = st.dictionaries(
    st.sampled_from(sorted(REFERENCES)), st.lists(seconds, min_size=1, max_size=4), min_size=1
)


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), submission, min_size=2, max_size=5),
    st.data(),
)
def test_removing_a_submission_changes_no_other_headline(pool, data):
    cells = {name: {k: cell(*t) for k, t in row.items()} for name, row in pool.items()}
    gone = data.draw(st.sampled_from(sorted(cells)))
    before = {name: score.headline(row, REFERENCES) for name, row in cells.items() if name != gone}
    del cells[gone]
    assert before == {name: score.headline(row, REFERENCES) for name, row in cells.items()}


@given(submission, st.floats(1.0, 3.0))
def test_a_faster_submission_never_scores_less(row, factor):
    slow = {k: cell(*t) for k, t in row.items()}
    fast = {k: cell(*(x / factor for x in t)) for k, t in row.items()}
    assert score.headline(fast, REFERENCES).score >= score.headline(slow, REFERENCES).score * (
        1 - 1e-12
    )


@given(submission)
def test_the_interval_holds_the_score_and_is_the_same_again(row):
    cells = {k: cell(*t) for k, t in row.items()}
    found = score.headline(cells, REFERENCES)
    assert found == score.headline(cells, REFERENCES)
    assert (found.low is None) == any(len(t) == 1 for t in row.values())
    assert found.low is None or 0.25 - 1e-9 <= found.low <= found.score <= found.high


@given(submission, submission)
def test_a_comparison_turned_around_is_its_inverse(first, second):
    a, b = ({k: cell(*t) for k, t in row.items()} for row in (first, second))
    there, back = stats.compare(a, b, REFERENCES), stats.compare(b, a, REFERENCES)
    if there.workloads:
        assert there.ratio * back.ratio == pytest.approx(1)
    assert {there.verdict, back.verdict} in ({"faster", "slower"}, {"not separable"})
    assert stats.compare(a, a, REFERENCES).verdict == "not separable"


def test_three_equal_signs_are_not_evidence_but_a_steady_difference_is():
    a, noisy, steady = cell(10.0, 11.0, 12.0), cell(10.1, 12.0, 16.0), cell(13.0, 14.4, 15.5)
    result = stats.compare({"a.mini": a}, {"a.mini": noisy}, REFERENCES)
    assert (result.verdict, result.paired) == ("not separable", True)
    assert result.more
    assert result.more > 0
    assert stats.compare({"a.mini": a}, {"a.mini": steady}, REFERENCES).verdict == "faster"


def test_the_paired_interval_is_students():
    from scipy.stats import ttest_rel

    x, y = [10.0, 11.0, 12.5, 9.0], [12.0, 12.5, 13.0, 11.0]
    result = stats.compare({"a.mini": cell(*x)}, {"a.mini": cell(*y)}, REFERENCES)
    expected = ttest_rel(np.log(y), np.log(x)).confidence_interval(0.95)
    assert (math.log(result.low), math.log(result.high)) == pytest.approx(
        (expected.low, expected.high)
    )


def test_a_time_is_the_geometric_mean_and_a_miss_four_times_the_references():
    """docs/score.md: 30, 32 and 35 s; 30 s, 32 s and a miss, where the reference takes 40 s."""
    assert cell(30.0, 32.0, 35.0, reference=40.0).time == pytest.approx(32.27, abs=0.005)
    assert cell(30.0, 32.0, math.inf, reference=40.0).time == pytest.approx(53.55, abs=0.005)
    missed = cell(30.0, math.inf, math.inf, reference=40.0)
    assert (missed.met, missed.time) == (False, math.inf)
    assert missed.cost(40.0) == pytest.approx((math.log(0.75) + 2 * math.log(4)) / 3)
    # without a reference, the median
    assert cell(30.0, 32.0, math.inf).time == 32.0


# of gpt2 mini's records: the fall of the logarithm of the loss per logarithm of time at the goal,
# its scatter between seeds and between evaluations (test_the_noise_of_the_simulation_is_measured)
SLOPE, SEEDS, EVALUATIONS = 0.08, 0.0025, 0.0011


def crossed(draw, speed: float, seed_level: float, width: float = 2.5) -> float:
    """Return the interpolated time of a noisy curve that meets its goal at 45 s / speed."""
    seconds = width * np.arange(1, 33)
    level = -SLOPE * np.log(seconds * speed / 45) + seed_level
    values = np.exp(level + EVALUATIONS * draw.standard_normal(len(seconds)))
    rows = [
        {"seconds": float(s), "metrics": {"loss": float(v)}, "goal": bool(v <= 1)}
        for s, v in zip(seconds, values, strict=True)
    ]
    at = crossing(rows)
    return interpolated_time(rows, GOAL, at) if at else math.inf


def test_intervals_keep_their_promise():
    """Coverage of the headline's interval and of a comparison's, three seeds, noise as measured."""
    draw = np.random.default_rng(1)
    keys = [f"{i}.mini" for i in range(4)]
    speeds = {"a": 1.05, "b": 1.0}
    mean = {
        name: np.mean(
            [math.log(crossed(draw, v, SEEDS * draw.standard_normal())) for _ in range(2000)]
        )
        for name, v in speeds.items()
    }
    references = dict.fromkeys(keys, math.exp(mean["b"]))
    covered = compared = biased = 0
    for _ in range(100):
        boards = {name: {} for name in speeds}
        for key in keys:
            # model and data order of a seed are the same for both
            levels = SEEDS * draw.standard_normal(3)
            for name, speed in speeds.items():
                boards[name][key] = cell(*(crossed(draw, speed, level) for level in levels))
        headline = score.headline(boards["a"], references)
        covered += headline.low <= math.exp(mean["b"] - mean["a"]) <= headline.high
        result = stats.compare(boards["a"], boards["b"], references)
        compared += result.low <= 1.05 <= result.high
        biased += result.verdict == "slower"
    assert covered >= 90
    assert compared >= 90
    assert biased == 0


def test_the_noise_of_the_simulation_is_measured():
    """SLOPE, SEEDS and EVALUATIONS are those of the five fastest on gpt2 mini, three seeds each."""
    runs = collect([ROOT / "results" / "board" / "gpt2.mini.jsonl"]).runs
    slopes, levels, noise = [], [], []
    for name in ("adam", "adamw", "muon", "nadamw", "soap"):
        mine = [r for r in runs if r.record["submission"] == name and r.record["trial"] is None]
        points = Counter(run.point for run in mine)
        curves = [r.curve for r in mine if r.point == max(points, key=lambda p: points[p])]
        common = sorted(set.intersection(*({step for step, *_ in c} for c in curves)))[-6:]
        logs = np.log([[v for step, _, v in c if step in common] for c in curves])
        times = np.log([s for step, s, _ in curves[0] if step in common])
        fits = [np.polyfit(times, each, 2) for each in logs]
        slopes.append(-np.mean((logs[:, -1] - logs[:, 0]) / (times[-1] - times[0])))
        levels.append(logs.mean(1).std(ddof=1))
        rest = [each - np.polyval(fit, times) for fit, each in zip(fits, logs, strict=True)]
        noise.append(np.sqrt(np.sum(np.square(rest)) / (3 * len(rest))))
    measured = (
        np.mean(slopes),
        np.sqrt(np.mean(np.square(levels))),
        np.sqrt(np.mean(np.square(noise))),
    )
    assert measured == pytest.approx((SLOPE, SEEDS, EVALUATIONS), rel=0.3)


@pytest.fixture(scope="module")
def train():
    """The board of training from scratch by the committed records."""
    return board_tables.train()


def test_docs_score_works_on_the_committed_records(train):
    text = (ROOT / "docs" / "score.md").read_text()
    muon, adamw = (
        next(row for row in train.rows if row.name == name).choices["gpt2.mini"]
        for name in ("muon", "adamw")
    )
    for choice in (muon, adamw):
        seconds = [f"{sample.time:.2f}" for sample in choice.cell.studies[0]]
        assert f"{seconds[0]}, {seconds[1]} and {seconds[2]} s" in text
        assert f"{choice.cell.time:.2f} s" in text
    assert f"{train.references['gpt2.mini']:.2f} s" in text
    first = muon.runs[0].record
    at = first["evaluations"]["step"].index(first["crossing"]["step"])
    for column in (first["evaluations"]["metrics"]["loss"], first["evaluations"]["seconds"]):
        for value in column[at - 1 : at + 1]:
            assert re.search(rf"\b({value:.5f}|{value:.2f})\b", text), value
    records = [str(file) for file in board_tables.BOARD.glob("*.jsonl")]
    found = board_tables.committed()
    assert [line for line in precision.cost(found, records)[:6] if line not in text] == []
    assert [line for line in precision.table(found, records)[:6] if line not in text] == []


def test_the_seeds_needed_are_the_fewest_that_are_enough():
    variances = [0.0004, 0.0009]
    needed = precision.seeds_needed(variances)
    assert needed
    assert precision.width(variances, needed) <= 0.05 < precision.width(variances, needed - 1)
    assert precision.seeds_needed([]) is None


def test_the_tables_of_the_board_are_those_of_the_records():
    for path, content in board_tables.contents().items():
        assert content == path.read_bytes(), f"python scripts/board_tables.py: {path}"


def test_a_time_says_how_many_seeds_reached_the_goal():
    def choice(*times):
        runs = [SimpleNamespace(time=t) for t in times]
        return Choice(cell(*times, reference=40.0), runs, [], {}, True)

    assert board_tables.cell(choice(20.0, 20.0, 20.0)) == "20.0"
    assert board_tables.cell(choice(20.0, math.inf, math.inf)) == "miss (1)"
    assert board_tables.cell(choice(math.inf)) == "miss"
    assert board_tables.cell(Choice(cell(math.inf), [], [], {}, True)) == "cannot"
    assert board_tables.cell(None) == "not raced"


def test_studies_are_resampled_before_seeds():
    """Two studies that differ much give a wider interval than their four seeds as one study."""
    studies = Cell(
        ((Sample(1, 20.0), Sample(2, 21.0)), (Sample(1, 40.0), Sample(2, 41.0))), reference=40.0
    )
    assert studies.time == pytest.approx((math.sqrt(20 * 21) + math.sqrt(40 * 41)) / 2)
    assert studies.n == 2
    wide = stats.quantiles(stats.resample(studies, 40.0, "k"))
    narrow = stats.quantiles(stats.resample(cell(20.0, 21.0, 40.0, 41.0), 40.0, "k"))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_submissions_with_the_same_seeds_are_resampled_together():
    a, b = cell(10.0, 12.0, 15.0), cell(20.0, 24.0, 30.0)
    difference = stats.resample(b, 40.0, "k") - stats.resample(a, 40.0, "k")
    assert difference == pytest.approx(math.log(2))
    assert stats.resample(a, 40.0, "k") == pytest.approx(stats.resample(a, 40.0, "k"))


def test_ranks_are_ties_unless_the_intervals_separate():
    cells = {
        "fast": cell(10.0, 10.2, 10.4),
        "near": cell(10.1, 10.3, 10.2),
        "slow": cell(20.0, 20.4, 20.9),
    }
    compared = score.pairs({n: {"a.mini": c} for n, c in cells.items()}, REFERENCES)
    assert score.ranks(list(cells), compared) == {"fast": (1, 2), "near": (1, 2), "slow": (3, 3)}


def test_best_of_k_is_the_mean_over_all_subsets():
    times = [10.0, 35.0, math.inf, 22.0, 60.0]
    for k in range(1, 6):
        brute = [
            min(stats.log_cost(t, 40.0) for t in chosen)
            for chosen in itertools.combinations(times, k)
        ]
        assert score.best_of(times, 40.0, k) == pytest.approx(np.mean(brute))


def test_the_speedruns_tests():
    """Track 3, sigma 0.0013: 3.276 is not yet p < 0.001, nor are four of 3.278 (docs/score.md)."""
    from scipy.stats import ttest_1samp

    for values in ([3.276], [3.278] * 4):
        assert stats.claim(values, 3.28, "at_most", sigma=0.0013) == pytest.approx(
            1.05e-3, abs=5e-6
        )
    for needed, n in ((3.27598, 1), (3.27799, 4)):
        assert stats.claim([needed] * n, 3.28, "at_most", sigma=0.0013) < 1e-3
        assert stats.claim([needed + 1e-5] * n, 3.28, "at_most", sigma=0.0013) > 1e-3
    assert stats.claim([3.2759], 3.28, "at_most", sigma=0.0013) < 1e-3
    assert stats.claim([3.2765], 3.28, "at_most", sigma=0.0013) > 1e-3
    assert stats.claim([3.2779] * 4, 3.28, "at_most", sigma=0.0013) < 1e-3
    draws = random.Random(0)
    values = [draws.gauss(3.27, 0.01) for _ in range(5)]
    assert stats.claim(values, 3.28, "at_most") == pytest.approx(
        ttest_1samp(values, 3.28, alternative="less").pvalue
    )
    assert stats.claim([3.2], 3.28, "at_most") == 1.0
    assert stats.claim([0.9, 0.91], 0.8, "at_least") < 0.05


def test_robust_counts_variants_of_what_counts_and_how_much_longer_they_take():
    def choice(*times: float) -> Choice:
        return Choice(cell(*times, reference=40.0), [], [], {}, True)

    choices = {
        "gpt2.mini": choice(20.0, 20.0),
        "gpt2.mini.relu": choice(30.0, 30.0),
        "gpt2.mini.deep": choice(20.0, 20.0),
        "gpt2.mini.wide": choice(math.inf, math.inf),
        "gpt2.mini.relu@500": choice(5.0),  # another horizon
        "other.mini.relu": choice(5.0),  # its base does not count
        "vit.mini.relu": choice(5.0),  # its base was not raced: nothing to compare with
    }
    found = robust(choices, {"gpt2.mini", "vit.mini"})
    assert (found.met, found.raced) == (3, 4)
    assert found.slower == pytest.approx(math.sqrt(1.5))
    assert str(found) == "3/4, 1.22×"
    assert robust({"gpt2.mini": choices["gpt2.mini"]}, {"gpt2.mini"}) is None
