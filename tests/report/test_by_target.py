"""Laws of the speed-up by target: exact on curves of known speed, silent where a run stopped."""

import math

import pytest

from harness.records.collect import collect
from harness.records.references import references
from harness.report.board.board import boards
from harness.report.board.by_target import by_target, speedups, targets, time_to
from tests.support import records


def decay(speed: float, rate: float = 0.05, points: int = 41) -> list[tuple[float, float]]:
    return [(2.5 * i, 5 * math.exp(-rate * speed * 2.5 * i)) for i in range(points)]


def test_exact_for_a_curve_of_another_speed():
    found = speedups([decay(1.3), decay(1.3)], decay(1.0), "at_most")
    assert len(found) > 15
    assert [ratio for _, ratio in found] == pytest.approx([1.3] * len(found))
    assert found == sorted(found, reverse=True)
    mixed = speedups([decay(1.0), decay(4.0)], decay(1.0), "at_most")
    assert [ratio for _, ratio in mixed] == pytest.approx([2.0] * len(mixed))


def test_the_targets_are_from_40_per_cent_of_the_reference_to_its_last():
    reference = decay(1.0)
    found = targets(reference, "at_most")
    assert found[0] == reference[16][1]
    assert found == sorted(found, reverse=True)
    # the last value has no evaluation after it that could confirm it
    assert reference[-1][1] < found[-1]
    assert targets([(x, -y) for x, y in reference], "at_least") == pytest.approx(
        [-v for v in found]
    )
    assert targets(list(reversed(reference)), "at_most") == []
    assert targets(reference[:2], "at_most") == []


def test_a_target_that_one_seed_misses_is_left_out():
    short = [*decay(1.0)[:20], *((2.5 * i, decay(1.0)[19][1]) for i in range(20, 41))]
    found = speedups([decay(1.0), short], decay(1.0), "at_most")
    assert 0 < len(found) < len(targets(decay(1.0), "at_most"))
    assert time_to(short, "at_most", found[-1][0]) < math.inf


@pytest.mark.parametrize("whole", [True, False])
def test_the_figure_is_drawn_of_runs_to_the_end_alone(tmp_path, whole):
    records.reference(tmp_path)
    for name in ("adamw", "lion"):
        for seed in (1, 2):
            made, rows = records.record(name, seed=seed)
            made["horizon"] = made["step"] if whole else made["horizon"]
            records.folder(tmp_path, made, rows)
    (board,) = boards(collect([tmp_path]), references([tmp_path]))
    assert (by_target(board) is not None) == whole
