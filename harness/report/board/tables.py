"""The leaderboard as Markdown and as rows of CSV and Parquet."""

import csv
import re
from io import StringIO

from harness.records.collect import Collection
from harness.records.tables import Table, curve_table, run_table, task_table
from harness.report.board.drawing import Figures, file_of
from harness.report.board.marks import MARKS
from harness.report.board.rows import Board, Row
from harness.system.terminal import printable

COLUMNS = (
    "track", "scale", "rank_best", "rank_worst", "submission", "score", "score_low", "score_high",
    "algoperf", "reached", "workloads", "seeds", "tuning_trials", "state_bytes", "step_share",
    "variants_reached", "variants", "variants_slower", "marks", "badge", "arxiv", "submission_hash",
)  # fmt: skip
LISTED = 50  # records left out that LEADERBOARD.md names
FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs text that begins so
SPECIAL = re.compile(r"[\\|`\[]")  # Markdown would read these


def tables(boards: list[Board]) -> dict[str, Table]:
    """Return the tables of a report by file name.

    `leaderboard` has one row a submission of a board; `runs`, `curves` and `tasks` have every run,
    evaluation and point of a stream's task, without loss.
    """
    runs, tracks, uses = [], [], []
    for board in boards:
        for choice in (choice for row in board.rows for choice in row.choices.values()):
            for run, use in choice.every:
                runs.append(run)
                tracks.append(board.track)
                uses.append(use)
    rows = [_flat(board, row) for board in boards for row in board.rows]
    return {
        "leaderboard": (list(COLUMNS), rows),
        "runs": run_table(runs, board=tracks, use=uses),
        "curves": curve_table(runs),
        "tasks": task_table(runs),
    }


def _flat(board: Board, row: Row) -> list:
    h = row.headline
    rank = row.rank or (None, None)
    robust = (row.robust.met, row.robust.raced, row.robust.slower) if row.robust else [None] * 3
    score = (h.score, h.low, h.high) if h else (None, None, None)
    marks = " ".join(m.replace(" ", "_") for m in row.marks)
    return [
        board.track, board.scale, *rank, row.name, *score, row.algoperf, row.reached,
        len(row.counted), row.n, row.trials, row.memory, row.steps, *robust, marks,
        row.badge, row.arxiv, row.source,
    ]  # fmt: skip


def as_csv(table: Table) -> str:
    """Return a table as CSV: floats with all their digits, nothing for None.

    Text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    columns, rows = table
    paper = StringIO()
    writer = csv.writer(paper, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow([_inert(v) if isinstance(v, str) else v for v in row])
    return paper.getvalue()


def _inert(text: str) -> str:
    """Return text of a cell that no spreadsheet runs and no terminal obeys."""
    text = printable(text)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def size(count: float | None) -> str:
    """Return a number of bytes for people."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""


def score_text(row: Row) -> str:
    """Return a row's speed-up: 1.23×."""
    return f"{row.headline.score:.2f}×" if row.headline else "–"


def interval_text(row: Row) -> str:
    """Return the ends of a score's interval, or nothing without one."""
    h = row.headline
    return f"{h.low:.2f}–{h.high:.2f}" if h and h.low is not None and h.high is not None else ""


def markdown(boards: list[Board], collection: Collection, drawn: list[Figures]) -> str:
    """Return LEADERBOARD.md: a table for each board, the marks, and the records left out."""
    lines = [
        "# Leaderboard",
        "",
        "Written by `harness report` from run records; "
        "[docs/score.md](docs/score.md) defines every number.",
        "",
        account(collection),
        "",
    ]
    for board, found in zip(boards, drawn, strict=True):
        lines += [f"## {board.track}, {board.scale}", "", about(board), "", *_table(board), ""]
        for name, (_, caption) in found.items():
            lines += [f"![{name}](figures/{file_of(board, name)})", "", caption, ""]
    used = [m for m in MARKS if any(m in row.marks for board in boards for row in board.rows)]
    if used:
        lines += ["## Marks", "", *(f"- **{m}**: {MARKS[m]}" for m in used), ""]
    pairs = [(f"{p.submission} on {p.key}", p.reason) for p in collection.unfit]
    for title, places in (
        ("Records left out", collection.left_out),
        ("Pairs that cannot be raced", pairs),
    ):
        if places:
            lines += [f"## {title}", "", *(f"- {_text(p)}: {_text(r)}" for p, r in places[:LISTED])]
            lines += [f"- and {len(places) - LISTED} more"] if len(places) > LISTED else []
            lines.append("")
    return "\n".join(lines)


def _table(board: Board) -> list[str]:
    lines = [
        "| rank | submission | speed-up | 95 % interval | AlgoPerf | reached | seeds | trials "
        "| state | steps | robust | marks | paper |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for row in board.rows:
        paper = f"[{row.arxiv}](https://arxiv.org/abs/{row.arxiv})" if row.arxiv else ""
        cells = [
            row.rank_text(),
            _text(row.name),
            score_text(row),
            interval_text(row),
            share(row.algoperf),
            f"{row.reached}/{len(row.counted)}",
            str(row.n),
            str(row.trials),
            size(row.memory),
            f"{row.steps:.0%}" if row.steps else "–",
            str(row.robust or "–"),
            ", ".join([*([row.badge] if row.badge else []), *row.marks]),
            paper,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _text(text: str) -> str:
    """Return text that Markdown shows as it is: on one line, without tags, columns and code."""
    plain = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    # A slash as an entity: an address stays text.
    return SPECIAL.sub(r"\\\g<0>", plain).replace("://", ":&#47;/")


def account(collection: Collection) -> str:
    """Return the numbers of records, which add up, in a sentence."""
    parts = [f"{len(collection.runs)} in the tables"]
    parts += [f"{len(collection.left_out)} left out"]
    copies = len(collection.copies)
    parts += [f"{copies} second cop{'y' if copies == 1 else 'ies'} of the same run"] * bool(copies)
    read = collection.read
    return f"{read} record{'s' * (read != 1)} read: {', '.join(parts)}."


def share(value: float | None) -> str:
    """Return a share with three digits, a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def about(board: Board) -> str:
    """Return what a board is about: submissions, workloads, what the score is over."""
    n, scored = len(board.workloads), list(board.references)
    submissions = f"{len(board.rows)} submission{'s' * (len(board.rows) != 1)}"
    text = f"{submissions}, {n} workload{'s' * (n != 1)}."
    if not scored:
        return text + " No workload has a frozen reference: there is no score."
    names = ", ".join(key.removesuffix(f".{board.scale}") for key in scored)
    core = any(w.core for w in board.bases)
    return f"{text} Score: geometric-mean speed-up over the frozen reference on " + (
        f"the core, {names}." if core else f"{len(scored)} of them."
    )


def answer(board: Board) -> str:
    """Return the result of a board in a sentence or two."""
    ranked = [row for row in board.rows if row.rank]
    if not board.references:
        return "No workload here has a frozen reference, so there are times but no speed-ups."
    if not ranked:
        scored = [(row.headline.score, row) for row in board.rows if row.headline]
        if not scored:
            return "No submission was raced on a workload with a frozen reference."
        best = max(scored, key=lambda item: item[0])[1]
        return (
            f"No submission can be ranked yet. The highest score is {best.name}'s, "
            f"{score_text(best)} the reference's speed; its marks say what is missing."
        )
    first = ranked[0]
    others = [row.name for row in ranked[1:] if row.rank and row.rank[0] == 1]
    word = "has the highest score," if others else "comes first, at"
    text = f"{first.name} {word} {score_text(first)} the speed of the frozen reference"
    interval = interval_text(first)
    text += f" ({interval})." if interval else "."
    if not others:
        return text + (" The intervals separate it from all others." if len(ranked) > 1 else "")
    names = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
    return f"{text} The records do not separate it from {names}."
