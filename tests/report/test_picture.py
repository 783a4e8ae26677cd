"""Laws of the picture: the same rows give the same bytes, and it shows the log's own crossing."""

import math
import struct

import pytest

from harness.report.run import picture

GOAL = {"loss": {"at_most": 3.28}}


def rows(last: float, scale: float = 1.0) -> list[dict]:
    """A plausible run: a loss that falls from 5.5 towards `last`."""
    losses = [last + (5.5 - last) * math.exp(-i / 5) for i in range(25)]
    return [
        {"step": 40 * i, "reference_seconds": 2.0 * i * scale, "metrics": {"loss": loss}}
        for i, loss in enumerate(losses)
    ]


def test_the_same_rows_give_the_same_bytes_whatever_the_users_style(tmp_path, monkeypatch):
    import matplotlib

    first, second = tmp_path / "a.png", tmp_path / "b.png"
    picture.draw(rows(3.1), GOAL, rows(3.15, 1.2), first, "gpt2.mini / lion")
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "savefig.dpi", 30)
    picture.draw(rows(3.1), GOAL, rows(3.15, 1.2), second, "gpt2.mini / lion")
    assert first.read_bytes() == second.read_bytes()
    assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert struct.unpack(">II", first.read_bytes()[16:24]) == (1280, 720)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "made, reference",
    [
        ([], None),
        (rows(3.1)[:1], []),
        (rows(3.6), rows(3.1)),
        (rows(3.1), rows(3.6)),
        ([row | {"metrics": {"loss": math.nan}} for row in rows(3.1)], None),
        ([row | {"metrics": {"loss": None}} for row in rows(3.1)], None),
    ],
    ids=["no rows", "one row", "missed", "reference missed", "nan", "null"],
)
def test_any_log_can_be_drawn(tmp_path, made, reference):
    picture.draw(made, GOAL, reference, tmp_path / "a.png", "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_crossing_is_the_first_of_two_evaluations_that_hold_the_goal():
    made = rows(3.1)
    for row, holds in zip(made, [False, True, False, True, True, True]):
        row["metrics"] = {"loss": 3.2 if holds else 3.4}
    points, crossing = picture.curve(made, GOAL)
    assert len(points) == len(made)
    assert crossing == points[3]


def test_a_constraint_that_does_not_hold_is_no_crossing():
    made = rows(3.1)
    for row in made:
        row["metrics"]["sparsity"] = 0.5
    assert picture.curve(made, GOAL | {"sparsity": {"at_least": 0.8}})[1] is None
    assert picture.curve(made, GOAL | {"sparsity": {"at_least": 0.4}})[1] is not None
