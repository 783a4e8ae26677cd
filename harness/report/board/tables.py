"""The leaderboard as Markdown and as rows of CSV and Parquet."""

import csv
from io import StringIO

from harness.report.board.marks import MARKS
from harness.report.board.rows import Board, Row
from harness.system.hashing import canonical

COLUMNS = (
    "track", "scale", "rank_best", "rank_worst", "submission", "score", "score_low", "score_high",
    "algoperf", "reached", "workloads", "seeds", "tuning_trials", "state_bytes", "step_share",
    "marks", "badge", "arxiv", "submission_hash",
)  # fmt: skip
RUN_COLUMNS = (
    "track", "workload", "scale", "variant", "submission", "study", "trial", "seed", "outcome",
    "time", "after", "end", "best", "final", "step", "samples", "state_bytes", "provisional",
    "verified", "hp", "workload_hash", "submission_hash", "run_id",
)  # fmt: skip


def flat(board: Board, row: Row) -> list:
    h = row.headline
    rank = row.rank or (None, None)
    score = (h.score, h.low, h.high) if h else (None, None, None)
    marks = " ".join(m.replace(" ", "_") for m in row.marks)
    return [
        board.track, board.scale, *rank, row.name, *score, row.algoperf, row.reached,
        len(row.counted), row.n, row.trials, row.memory, row.steps, marks, row.badge, row.arxiv,
        row.source,
    ]  # fmt: skip


def run_rows(boards: list[Board]) -> list[list]:
    rows = []
    for board in boards:
        for row in board.rows:
            for choice in row.choices.values():
                for run in [*choice.runs, *(r for r in choice.tuning if r not in choice.runs)]:
                    r = run.record
                    best = next(iter((r.get("best") or {}).values()), None)
                    given = {
                        "time": r["time"],
                        "after": (r.get("crossing") or {}).get("after"),
                        "end": (r.get("end") or {}).get("total"),
                        "best": best,
                        "final": canonical(r.get("final") or {}),
                        "hp": canonical(r["hp"]),
                    }
                    rows.append([given[c] if c in given else r.get(c) for c in RUN_COLUMNS])
    return rows


def as_csv(columns, rows) -> str:
    paper = StringIO()
    writer = csv.writer(paper, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [
            ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in row]
            for row in rows
        ]
    )
    return paper.getvalue()


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""


def score_text(row: Row) -> str:
    return f"{row.headline.score:.2f}×" if row.headline else "–"


def interval_text(row: Row) -> str:
    h = row.headline
    return f"{h.low:.2f}–{h.high:.2f}" if h and h.low is not None and h.high is not None else ""


def markdown(boards: list[Board], left_out: list, drawn: list[dict]) -> str:
    """LEADERBOARD.md: one table a board, marks explained, what was left out counted by reason."""
    lines = [
        "# Leaderboard",
        "",
        "Written by `harness report` from run records; "
        "[docs/score.md](docs/score.md) defines every number.",
        "",
    ]
    if not boards:
        lines += [
            "No records count yet. `python -m harness workload=gpt2 submission=adamw` makes one.",
            "",
        ]
    for board, found in zip(boards, drawn):
        lines += [f"## {board.track}, {board.scale}", "", about(board), ""]
        lines += [
            "| rank | submission | speed-up | 95 % interval | AlgoPerf | reached | seeds | trials "
            "| state | steps | marks | paper |",
            "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
        ]
        for row in board.rows:
            paper = f"[{row.arxiv}](https://arxiv.org/abs/{row.arxiv})" if row.arxiv else ""
            cells = [
                row.rank_text(),
                row.name.replace("|", "\\|"),
                score_text(row),
                interval_text(row),
                share(row.algoperf),
                f"{row.reached}/{len(row.counted)}",
                str(row.n),
                str(row.trials),
                size(row.memory),
                f"{row.steps:.0%}" if row.steps else "–",
                ", ".join([*([row.badge] if row.badge else []), *row.marks]),
                paper,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
        for name, (_, caption) in found.items():
            lines += [f"![{name}](figures/{board.track}-{board.scale}-{name}.svg)", "", caption, ""]
    used = [m for m in MARKS if any(m in row.marks for board in boards for row in board.rows)]
    if used:
        lines += ["## Marks", "", *(f"- **{m}**: {MARKS[m]}" for m in used), ""]
    if left_out:
        lines += [
            "## Records left out",
            "",
            *(f"- {where}: {reason}" for where, reason in left_out[:50]),
        ]
        lines += [f"- and {len(left_out) - 50} more"] if len(left_out) > 50 else []
        lines.append("")
    return "\n".join(lines)


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def about(board: Board) -> str:
    n, scored = len(board.workloads), list(board.references)
    text = f"{len(board.rows)} submissions, {n} workload{'s' * (n != 1)}."
    if not scored:
        return text + " No workload has a frozen reference: there is no score."
    names = ", ".join(key.removesuffix(f".{board.scale}") for key in scored)
    core = any(w.core for w in board.bases)
    return f"{text} Score: geometric-mean speed-up over the frozen reference on " + (
        f"the core, {names}." if core else f"{len(scored)} of them."
    )
