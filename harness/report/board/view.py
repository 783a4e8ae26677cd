"""The page of a report: what its template shows, from boards and figures."""

import json
import math
from pathlib import Path

from harness.records.collect import Collection
from harness.records.run import RecordedRun, varied
from harness.report import palette
from harness.report.board.cells import Choice
from harness.report.board.curves import small
from harness.report.board.drawing import Figures
from harness.report.board.marks import MARKS
from harness.report.board.panels import short
from harness.report.board.rows import Board, Row, Workload
from harness.report.board.tables import (
    about,
    account,
    answer,
    interval_text,
    score_text,
    share,
    size,
)
from harness.report.run.text import number, seconds, spoken
from harness.system.terminal import printable

LEADING = ("ranking", "runs", "times", "curves")  # the first of these opens a board
WIDE = (
    "runs", "times", "curves", "at_reference", "by_target", "streams", "gaps", "matrices", "heat",
    "pareto",
)  # fmt: skip
OCTAVES = (-2.3, 2.3)  # ends of the scale of scores: about a fifth and five times the reference
BADGES = {
    "reference": "a test shows that it takes the same path as a trusted package",
    "formula": "a test compares it with a loop that was written from the paper",
    "self-consistent": "tests check properties that the paper states",
    "verified": "every run was made in isolation, and its log's chain or digest is intact",
}
COLUMNS = {
    "rank": "by speed-up; a range is a tie: the intervals do not separate the submissions",
    "speed-up": "reference time over its time, the geometric mean over workloads; a miss counts as "
    "four times the reference's time. The strip shows it from 1/5× to 5×, the line is 1×",
    "AlgoPerf": "AlgoPerf's score: area under the performance profile, relative to the submissions "
    "here",
    "reached": "workloads whose goal was reached, of those that count",
    "seeds": "seeds (or studies) a workload, at least",
    "trials": "tuning trials a workload, at most",
    "state": "bytes of optimizer state",
    "steps": "steps to the goal as a share of the budget's",
    "robust": "variants of these workloads whose goal was reached, of those that were raced at the "
    "points tuned on the base, and how many times as long that took",
}


def html(boards: list[Board], collection: Collection, drawn: list[Figures]) -> str:
    """Return the page: one file that asks nothing of the network; its only links are papers."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "size": size,
        "score_text": score_text,
        "interval_text": interval_text,
        "about": about,
        "answer": answer,
        "MARKS": MARKS,
        "BADGES": BADGES,
        "COLUMNS": COLUMNS,
        "bar": bar,
        "palette": palette,
    }
    environment.filters |= {"share": share}
    views = [_board(board, found) for board, found in zip(boards, drawn, strict=True)]
    tracks: dict[str, list[int]] = {}
    for i, board in enumerate(boards):
        tracks.setdefault(_track(board), []).append(i)
    page = environment.get_template("page.html.j2").render(
        boards=views, tracks=tracks, collection=collection, account=account(collection)
    )
    return page + "\n"


def _shown(value):
    """Return a value of the template; text of a record without control characters."""
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _track(board: Board) -> str:
    """Return the first level of a board's name: its track without the constraint."""
    return board.track.replace(f"-{board.constraint}", "", 1) if board.constraint else board.track


def _board(board: Board, found: Figures) -> dict:
    from markupsafe import Markup

    figures = [
        {"name": name, "svg": Markup(svg), "caption": caption, "wide": name in WIDE}
        for name, (svg, caption) in found.items()
    ]
    order = [name for name in LEADING if name in found]
    if board.own and "runs" in found:
        order.insert(0, "runs")
    lead = next((figure for figure in figures if order and figure["name"] == order[0]), None)
    return {
        "board": board,
        "label": board.constraint.replace("_", " ") or "main goal",
        "lead": lead,
        "figures": [figure for figure in figures if figure is not lead],
        "rows": [_row(board, row) for row in board.rows],
    }


def bar(row: Row) -> dict | None:
    """Return the places of the score, its interval and 1 on the scale, in per cent.

    A score beyond the scale is at its end, and `beyond` is true.
    """
    if not row.headline:
        return None
    low, high = OCTAVES

    def place(x: float) -> float:
        octaves = min(max(math.log2(x), low), high)
        return round(100 * (octaves - low) / (high - low), 2)

    h = row.headline
    return {
        "at": place(h.score),
        "low": place(h.low or h.score),
        "high": place(h.high or h.score),
        "one": place(1.0),
        "beyond": not low <= math.log2(h.score) <= high,
    }


def _row(board: Board, row: Row) -> dict:
    workloads = {w.key: w for w in board.workloads}
    machines = {
        json.dumps(run.environment, sort_keys=True): run.environment
        for run in row.runs
        if run.environment
    }
    return {
        "row": row,
        "details": [_cell(board, workloads[key], choice) for key, choice in row.choices.items()],
        "machines": [_machine(m) for _, m in sorted(machines.items())],
        "close": _close(board, row),
    }


def _cell(board: Board, workload: Workload, choice: Choice) -> dict:
    """Return what the page shows of one submission on one workload."""
    from markupsafe import Markup

    time, known = choice.cell.time, workload.time
    rest = [(run, use) for run, use in choice.every if use != "counts"]
    settings = varied([run for run, _ in choice.every])
    return {
        "label": workload.key.replace(f".{board.scale}", "", 1),
        "goal": spoken(workload.goal),
        "time": f"{seconds(time)} s" if math.isfinite(time) else "miss",
        "ratio": f"{known / time:.2f}×" if known and math.isfinite(time) else "",
        "faster": bool(known and time < known),
        "curve": Markup(small(workload, choice)),
        "hp": _point(choice),
        "how": _how(choice),
        "trials": len(choice.tuning),
        "won": sum(math.isfinite(r.time) for r in choice.tuning),
        "runs": [_run(run) for run in choice.runs],
        "settings": settings,
        "rest": [
            _run(run)
            | {"use": use, "point": [short(run.record["hp"].get(key, "")) for key in settings]}
            for run, use in rest
        ],
    }


def _point(choice: Choice) -> list[tuple[str, str]]:
    """Return the names and values of a cell's point, with the budget where it is not 1."""
    point = choice.hp if choice.budget == 1 else choice.hp | {"budget": choice.budget}
    return [(key, short(value)) for key, value in point.items()]


def _how(choice: Choice) -> str:
    """Return how the point of a cell was chosen."""
    if choice.cell.evidence == "unfit":
        return "it fails there: a miss"
    if choice.cell.evidence == "tuning":
        return "best trial of each study, not run again"
    if choice.tuned:
        return "best point of the tuning trials, run again over seeds"
    if choice.selected:
        return "the fastest of several points with as many runs"
    return "default or hand-set point"


def _run(run: RecordedRun) -> dict:
    rec = run.record
    best = next(iter((rec.get("best") or {}).values()), None)
    met = math.isfinite(run.time)
    return {
        "seed": rec["seed"],
        "trial": rec["trial"],
        "outcome": rec["outcome"].replace("_", " "),
        "time": f"{seconds(run.interpolated)} s" if met else "–",
        "by": f"{seconds(run.time)} s" if met else "",
        "after": seconds(rec["crossing"]["after"]) if rec.get("crossing") and met else "",
        "best": number(best),
        "id": rec["run_id"],
        "reason": rec.get("reason") or "",
    }


def _machine(environment: dict) -> str:
    packages = environment.get("packages")
    torch = packages.get("torch") if isinstance(packages, dict) else None
    parts = [
        environment.get("cpu"),
        f"{environment['cores']} cores" if environment.get("cores") else None,
        f"Python {environment.get('python')}",
        f"torch {torch}" if torch else None,
    ]
    return ", ".join(str(p) for p in parts if p)


def _close(board: Board, row: Row) -> list[dict]:
    """Return the comparisons with the submissions next to this one in the table."""
    names = [r.name for r in board.rows if r.headline]
    if row.name not in names:
        return []
    i = names.index(row.name)
    found = []
    for other in names[max(0, i - 2) : i] + names[i + 1 : i + 3]:
        c = board.compared[row.name, other]
        interval = f"{c.low:.2f}–{c.high:.2f}" if c.low and c.high else "no interval"
        more = (
            f"; about {c.more} more seeds would separate them"
            if c.verdict == "not separable" and c.more
            else ""
        )
        found.append(
            {
                "other": other,
                "ratio": f"{c.ratio:.2f}×",
                "interval": interval,
                "verdict": c.verdict + more,
            }
        )
    return found
