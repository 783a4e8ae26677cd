"""Laws of what a user sees: a live line on a terminal, plain lines elsewhere, a clear verdict."""

import io
import math
import os
import pty
import re
import threading

import pytest

from harness.report.run import live
from harness.report.run.text import table, verdict_lines
from harness.system.terminal import coloured

GOAL = {"loss": {"at_most": 3.28}}
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")


def evaluation(step: int, loss: float) -> dict:
    seconds = step / 20
    return {"step": step, "reference_seconds": seconds, "metrics": {"loss": loss}, "goal": False}


def on_a_terminal(show) -> str:
    """What `show(stream)` writes to a terminal of 80 columns."""
    leader, follower = pty.openpty()
    said: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(leader, 65536):
                said.append(chunk)
        except OSError:
            pass  # the terminal is closed

    reader = threading.Thread(target=read)
    reader.start()
    with open(follower, "w", encoding="utf-8") as stream:
        show(stream)
    reader.join(10)
    os.close(leader)
    return b"".join(said).decode()


def race(stream) -> None:
    line = live.Live(2000, "gpt2/lion", GOAL, stream)
    try:
        for step, loss in [(0, 5.0), (400, 4.0), (800, 3.7), (1200, 3.4)]:
            line.update(evaluation(step, loss))
            line.drawn = -math.inf  # as if time had passed
            line.tick(step + 50)
        line.note("a note")
    finally:
        line.close()


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def test_a_terminal_gets_one_coloured_line_that_is_drawn_again():
    text = on_a_terminal(race)
    assert "loss 3.40 -> 3.28" in text
    assert "1,250/2,000 steps" in text
    assert "62.5 s" in text
    assert re.search(r"target ~\d+ s if the trend holds", text)
    assert any(bar in text for bar in live.BARS)
    assert COLOUR.search(text)
    assert "\r\x1b[2K" in text
    assert text.count("\n") <= 3  # the notes and the last line


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_a_terminal(race)
    assert "loss 3.40 -> 3.28" in text
    assert not COLOUR.search(text)
    lines: list[str] = []
    on_a_terminal(lambda stream: lines.append(str(coloured(stream))))
    assert lines == ["False"]


def test_a_narrow_terminal_keeps_the_estimate(monkeypatch):
    monkeypatch.setenv("COLUMNS", "92")
    assert "trend holds" in on_a_terminal(race)


def test_plain_lines_are_the_first_and_the_last_and_rare():
    stream = io.StringIO()
    line = live.Live(2000, "gpt2/lion", GOAL, stream)
    for step in range(0, 2000, 10):
        line.update(evaluation(step, 5.0 - step / 1000))
        line.tick(step + 5)
    line.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("gpt2/lion  loss 5.00 -> 3.28  0/2,000 steps")
    assert lines[1].startswith("gpt2/lion  loss 3.01 -> 3.28  1,995/2,000 steps")
    assert "\x1b" not in stream.getvalue()


def test_a_closed_line_says_nothing_twice():
    stream = io.StringIO()
    line = live.Live(2000, "gpt2/lion", GOAL, stream)
    line.update(evaluation(0, 5.0))
    line.close()
    line.close()
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("target", [3.2, 2.9])
def test_the_estimate_is_exact_for_a_power_law(target):
    points = [(float(s), 6.0 * s**-0.2) for s in range(1, 15)]
    assert live.estimate(points, target, "at_most") == pytest.approx((6.0 / target) ** 5)


def test_the_estimate_handles_shares_and_says_when_it_cannot_know():
    shares = [(float(s), 1 - 0.9 * s**-0.5) for s in range(1, 15)]
    assert live.estimate(shares, 0.9, "at_least") == pytest.approx(81.0)
    assert live.estimate(shares[:2], 0.9, "at_least") is None
    rising = [(float(s), 3.0 + s) for s in range(1, 9)]
    assert live.estimate(rising, 2.0, "at_most") == math.inf
    broken = [(float(s), math.nan) for s in range(1, 9)]
    assert live.estimate(broken, 2.0, "at_most") is None


def test_no_estimate_is_shown_beyond_the_budget():
    """A curve that would meet the target at 1.5 budgets says nothing; one at 0.8 does."""
    for meets, shown in [(150.0, False), (80.0, True)]:
        line = live.Live(2000, "gpt2/lion", GOAL, io.StringIO())
        for step in range(200, 1000, 100):
            line.update(evaluation(step, 3.28 * (step / 20 / meets) ** -0.2))
        words = " ".join(part for part, _ in line.parts())
        assert ("if the trend holds" in words) == shown, words


def test_no_estimate_is_shown_once_the_target_is_met():
    """Noise may put the fitted curve above the target when the last value is below it."""
    line = live.Live(2000, "gpt2/lion", GOAL, io.StringIO())
    for step, loss in [(200, 4.0), (400, 3.8), (600, 3.6), (800, 3.27)]:
        line.update(evaluation(step, loss))
    assert line.points[-1][0] < live.estimate(line.points, 3.28, "at_most") < 100
    assert "trend" not in " ".join(part for part, _ in line.parts())


@pytest.mark.parametrize(
    "result, reference, words",
    [
        ({"outcome": "reached", "time": 41.2}, {"time": 54.1}, "1.31x faster than the frozen"),
        ({"outcome": "reached", "time": 54.1}, {"time": 41.2}, "1.31x slower than the frozen"),
        ({"outcome": "reached", "time": 54.1}, {"time": 54.1}, "as fast as the frozen"),
        ({"outcome": "reached", "time": 54.1}, {"time": None}, "did not get there"),
        ({"outcome": "reached", "time": 54.1}, None, "no frozen reference"),
        ({"outcome": "out_of_budget", "best": {"loss": 3.31}}, None, "0.03 above the target 3.28"),
        (
            {"outcome": "out_of_budget", "best": {"loss": 3.2}},
            None,
            "not at two evaluations in a row",
        ),
        (
            {
                "outcome": "out_of_budget",
                "best": {"loss": 3.2},
                "final": {"sparsity": 0.5},
                "goal": GOAL | {"sparsity": {"at_least": 0.8}},
            },
            None,
            "met the target 3.28, but sparsity was 0.5 at the end: the goal is sparsity >= 0.8",
        ),
        ({"outcome": "hopeless", "best": {"loss": 4.28}}, None, "ended early: best loss 4.28"),
        ({"outcome": "out of budget", "best": {}}, None, "no loss was measured"),
        ({"outcome": "diverged", "reason": "the loss is nan"}, None, "diverged: the loss is nan"),
        ({"outcome": "failed", "reason": "KeyError: 'x'"}, None, "failed: KeyError: 'x'"),
        (
            {
                "outcome": "out_of_budget",
                "best": {"accuracy": 0.716667},
                "goal": {"accuracy": {"at_least": 0.717}},
            },
            None,
            "best accuracy 0.7167, 0.000333 below the target 0.717",
        ),
        (
            {"outcome": "reached", "time": 0.0234, "goal": {"memory": {"at_most": 2e6}}},
            {"time": 0.0117},
            "memory <= 2,000,000 in 0.023 reference seconds: 2.00x slower",
        ),
    ],
)
def test_a_verdict_says_what_happened_where_and_what_next(result, reference, words):
    about = {"goal": GOAL, "folder": "results/x", "next": ["python -m harness seed=1"]}
    text = "\n".join(verdict_lines(about | result, reference, colour=False))
    assert words in text
    assert "results/x" in text
    assert "next    python -m harness seed=1" in text
    assert "\x1b" not in text
    assert "\x1b" in "\n".join(verdict_lines(about | result, reference, colour=True))


def test_a_table_is_plain_in_a_file_and_drawn_on_a_terminal():
    about = {"goal": GOAL, "workload": "gpt2", "submission": "lion", "seed": 0, "trial": None}
    reached = {"outcome": "reached", "time": 41.2, "best": {"loss": 3.27}}
    outcomes = [about | reached | {"reference": {"time": 54.1}}, about | {"outcome": "failed"}]
    plain = table(outcomes, io.StringIO())
    cells = plain.splitlines()[1].split()
    assert cells == ["gpt2", "lion", "0", "-", "reached", "41.2", "1.31x", "loss", "3.27"]
    assert len(plain.splitlines()) == 3
    drawn = on_a_terminal(lambda stream: stream.write(table(outcomes, stream)))
    assert "1.31x" in drawn
    assert COLOUR.search(drawn)
