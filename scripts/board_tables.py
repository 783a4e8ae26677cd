"""Write the tables of the boards into README.md and docs/findings.md, and a picture.

    python scripts/board_tables.py            # write them
    python scripts/board_tables.py --check    # write nothing; exit 1 if one is out of date

A table stands between `<!-- NAME -->` and `<!-- end -->`. README has the ranked rows of the board
of the core, docs/findings.md the times on each of its workloads and the stability gaps of split
digits. docs/board.png shows the ranked rows with their intervals; equal records give equal bytes.
All come from results/board/.
"""

import argparse
import io
import math
import re
import sys
from functools import cache
from statistics import fmean

from harness.catalog.discover import ROOT
from harness.errors import UserError
from harness.records.collect import Collection, collect
from harness.records.references import references
from harness.report.board.board import boards
from harness.report.board.cells import Choice
from harness.report.board.figures import ranking
from harness.report.board.fronts import metric_of
from harness.report.board.rows import Board, Row
from harness.report.board.style import STYLE
from harness.system.files import atomic_write

BOARD = ROOT / "results" / "board"
PICTURE = ROOT / "docs" / "board.png"
# 200 dots an inch are twice the size that it is shown at.
SAVED = {"dpi": 200, "facecolor": "white", "bbox_inches": "tight", "metadata": {"Software": None}}
FINDINGS = ROOT / "docs" / "findings.md"
STREAM = "stream_split.mini"
# Metrics of a stream (harness/records/stream_metrics.py), and how a table names them.
GAPS = {
    "average": "ACC",
    "worst_case": "WC-ACC",
    "minimum": "min-ACC",
    "gap_depth": "gap depth",
    "gap_area": "gap area",
    "gap_recovery": "recovery",
}


@cache
def committed() -> Collection:
    """Return the committed records, read once a process.

    Runs of this machine, in results/runs/, are not among them.
    """
    return collect(sorted(BOARD.glob("*.jsonl")))


@cache
def by_track() -> dict[str, Board]:
    """Return the boards at mini by their track, from the committed records."""
    every = boards(committed(), references())
    return {board.track: board for board in every if board.scale == "mini"}


def train() -> Board:
    """Return the board of training from scratch at mini."""
    return by_track()["train"]


def shown(board: Board) -> list[Row]:
    """Return the rows that have a rank, then those that were tuned on two workloads of the core."""
    keys = board.references.keys()
    tuned = [
        row
        for row in board.rows
        if not row.rank and sum(row.choices[key].tuned for key in keys & row.choices.keys()) > 1
    ]
    return [row for row in board.rows if row.rank] + tuned


def ranked(board: Board) -> list[str]:
    """Return the table of ranks, speed-ups and intervals."""
    lines = [
        "| rank | submission | speed-up | 95 % interval | goals reached |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for row in shown(board):
        h = row.headline
        score = f"{h.score:.2f}×" if h else "–"
        interval = f"{h.low:.2f}–{h.high:.2f}" if h and h.low is not None else "–"
        reached = f"{row.reached}/{len(row.counted)}"
        lines.append(f"| {row.rank_text()} | {row.name} | {score} | {interval} | {reached} |")
    return lines


def times(board: Board) -> list[str]:
    """Return the table of times on the core, in reference seconds."""
    keys = list(board.references)
    names = [f"`{key.removesuffix('.mini')}`" for key in keys]
    lines = [
        f"| submission | rank | {' | '.join(names)} |",
        f"| --- | --- |{' ---: |' * len(keys)}",
    ]
    for row in shown(board):
        cells = [cell(row.choices.get(key)) for key in keys]
        lines.append(f"| {row.name} | {row.rank_text()} | {' | '.join(cells)} |")
    reference = [f"{time:.1f}" for time in board.references.values()]
    return [*lines, f"| *reference* | | {' | '.join(reference)} |"]


def cell(choice: Choice | None) -> str:
    """Return a time, with the number of seeds that reached the goal where not all did."""
    if choice is None:
        return "not raced"
    if not choice.runs:
        return "cannot"
    reached = sum(math.isfinite(run.time) for run in choice.runs)
    some = f" ({reached})" if 0 < reached < len(choice.runs) else ""
    return (f"{choice.cell.time:.1f}" if choice.cell.met else "miss") + some


def gaps(board: Board, key: str = STREAM) -> list[str]:
    """Return the table of stability gaps on a stream: means over the seeds that count.

    The highest worst case comes first. A metric that no seed has is a dash: a method whose tasks
    never fell below nine tenths has no recovery, and one that fell and stayed there neither.
    """
    lines = [
        f"| submission | goals | {' | '.join(GAPS.values())} |",
        f"| --- | ---: |{' ---: |' * len(GAPS)}",
    ]
    rows = []
    for row in board.rows:
        choice = row.choices.get(key)
        if choice is None or not choice.runs:
            continue
        values = {name: metric_of(choice.runs, name) for name in GAPS}
        means = {name: fmean(some) if some else None for name, some in values.items()}
        reached = sum(math.isfinite(run.time) for run in choice.runs)
        rows.append((means, row.name, f"{reached}/{len(choice.runs)}"))
    worst = "worst_case"
    rows.sort(key=lambda row: -math.inf if row[0][worst] is None else row[0][worst], reverse=True)
    for means, name, reached in rows:
        cells = [_number(means[metric], metric) for metric in GAPS]
        lines.append(f"| {name} | {reached} | {' | '.join(cells)} |")
    return lines


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if metric in ("gap_area", "gap_recovery") else f"{value:.2f}"


def picture(board: Board) -> bytes:
    """Return the ranked rows with their intervals, as PNG at twice the size that it is shown at.

    Raises:
        UserError: fewer than two rows have a rank.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.use("agg")
        matplotlib.rcParams.update(STYLE)  # type: ignore
        figure = ranking(board)
        if figure is None:
            raise UserError("no picture: fewer than two submissions have a rank")
        file = io.BytesIO()
        figure.savefig(file, format="png", **SAVED)
    return file.getvalue()


def contents() -> dict:
    """Return the new content of each file by its path.

    Raises:
        UserError: a file has no place for its table.
    """
    every = by_track()
    board = every["train"]
    tables = {
        (ROOT / "README.md", "ranked"): ranked(board),
        (FINDINGS, "times"): times(board),
        (FINDINGS, "gaps"): gaps(every["continual"]),
    }
    texts = {path: path.read_text() for path, _ in tables}
    for (path, name), lines in tables.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.S)
        if not place.search(texts[path]):
            raise UserError(f"{path} has no place for its table", f"<!-- {name} --> <!-- end -->")
        texts[path] = place.sub(
            lambda found, lines=lines: found[1] + "\n".join(lines) + found[2], texts[path]
        )
    return {PICTURE: picture(board)} | {path: text.encode() for path, text in texts.items()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the tables of the train board.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args(arguments)
    made = contents()
    if asked.check:
        old = [p for p, content in made.items() if not p.exists() or content != p.read_bytes()]
        print("\n".join(f"{path.relative_to(ROOT)} is out of date" for path in old))
        return 1 if old else 0
    for path, content in made.items():
        atomic_write(path, content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
