"""Write a report: LEADERBOARD.md, a page that opens from disk, CSV and Parquet tables, figures."""

import json
import math
from io import BytesIO
from pathlib import Path

from harness.report.board.curves import small
from harness.report.board.figures import figures
from harness.report.board.marks import MARKS
from harness.report.board.rows import Board, Row, Workload
from harness.report.board.style import standalone
from harness.report.board.tables import (
    COLUMNS,
    RUN_COLUMNS,
    about,
    as_csv,
    flat,
    interval_text,
    markdown,
    run_rows,
    score_text,
    share,
    size,
)
from harness.report.run.text import number, spoken
from harness.system.files import atomic_write


def write(boards: list[Board], left_out: list[tuple[str, str]], out: Path) -> list[str]:
    """Write everything into the folder `out`; returns what was and was not written, and why."""
    (out / "figures").mkdir(parents=True, exist_ok=True)
    told, drawn = [], figures(boards)
    for board, found in zip(boards, drawn, strict=True):
        for name, (svg, _) in found.items():
            atomic_write(
                out / "figures" / f"{board.track}-{board.scale}-{name}.svg", standalone(svg)
            )
    stale = {f"{b.track}-{b.scale}-{name}.svg" for b, found in zip(boards, drawn) for name in found}
    for path in (out / "figures").glob("*-*-*.svg"):
        if path.name not in stale:
            path.unlink()
    atomic_write(out / "LEADERBOARD.md", markdown(boards, left_out, drawn))
    atomic_write(out / "index.html", html(boards, left_out, drawn))
    tables = {
        "leaderboard": (COLUMNS, [flat(board, row) for board in boards for row in board.rows]),
        "runs": (RUN_COLUMNS, run_rows(boards)),
    }
    for name, (columns, rows) in tables.items():
        atomic_write(out / f"{name}.csv", as_csv(columns, rows))
    told.append(
        f"wrote {out}/index.html, LEADERBOARD.md, leaderboard.csv, runs.csv "
        f"and {sum(map(len, drawn))} figures"
    )
    try:
        import pyarrow  # type: ignore # noqa: F401
    except ImportError:
        told.append("no Parquet: pyarrow is not installed (pip install pyarrow)")
        return told
    import pandas

    for name, (columns, rows) in tables.items():
        paper = BytesIO()
        pandas.DataFrame(rows, columns=list(columns)).to_parquet(paper, index=False)
        atomic_write(out / f"{name}.parquet", paper.getvalue())
    return told


def html(boards: list[Board], left_out: list, drawn: list[dict]) -> str:
    """The page: one file without any reference to the network but the links to papers."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "size": size,
        "score_text": score_text,
        "interval_text": interval_text,
        "about": about,
        "MARKS": MARKS,
        "bar": bar,
    }
    environment.filters |= {"share": share}
    view = [
        {
            "board": board,
            "figures": [(name, Markup(svg), caption) for name, (svg, caption) in found.items()],
            "axis": axis(board),
            "rows": [_view(board, row) for row in board.rows],
        }
        for board, found in zip(boards, drawn)
    ]
    return environment.get_template("page.html.j2").render(boards=view, left_out=left_out) + "\n"


def axis(board: Board) -> tuple[float, float]:
    """Ends of the scale on which a board's scores are drawn, in octaves."""
    ends = [
        x
        for row in board.rows
        if row.headline
        for x in (row.headline.low, row.headline.high, row.headline.score)
        if x
    ]
    octaves = [math.log2(x) for x in ends]
    return min([*octaves, -0.2]) - 0.1, max([*octaves, 0.2]) + 0.1


def bar(row: Row, ends: tuple[float, float]) -> dict | None:
    """Places of the score, its interval and 1 on that scale, in per cent."""
    if not row.headline:
        return None

    def place(x: float) -> float:
        return round(100 * (math.log2(x) - ends[0]) / (ends[1] - ends[0]), 2)

    h = row.headline
    return {
        "at": place(h.score),
        "low": place(h.low or h.score),
        "high": place(h.high or h.score),
        "one": place(1.0),
    }


def _view(board: Board, row: Row) -> dict:
    from markupsafe import Markup

    workloads = {w.key: w for w in board.workloads}
    details = []
    for key, choice in row.choices.items():
        workload: Workload = workloads[key]
        time, known = choice.cell.time, workload.time
        details.append(
            {
                "label": key.removesuffix(f".{board.scale}"),
                "goal": spoken(workload.goal),
                "time": f"{time:.1f} s" if math.isfinite(time) else "miss",
                "ratio": f"{known / time:.2f}×" if known and math.isfinite(time) else "",
                "faster": bool(known and time < known),
                "curve": Markup(small(workload, choice)),
                "hp": [(k, _value(v)) for k, v in choice.hp.items()],
                "tuned": choice.tuned,
                "trials": len(choice.tuning),
                "won": sum(math.isfinite(r.time) for r in choice.tuning),
                "evidence": choice.cell.evidence,
                "runs": [_run(run) for run in choice.runs],
            }
        )
    machines = {
        json.dumps(run.environment, sort_keys=True): run.environment
        for run in row.runs
        if run.environment
    }
    return {
        "row": row,
        "details": details,
        "machines": [_machine(m) for _, m in sorted(machines.items())],
        "close": _close(board, row),
    }


def _run(run) -> dict:
    r = run.record
    best = next(iter((r.get("best") or {}).values()), None)
    met = math.isfinite(run.time)
    return {
        "seed": r["seed"],
        "trial": r["trial"],
        "outcome": r["outcome"].replace("_", " "),
        "time": f"{run.time:.1f} s" if met else "–",
        "after": f"{r['crossing']['after']:.1f}" if r.get("crossing") and met else "",
        "best": number(best),
        "id": r["run_id"],
        "reason": r.get("reason") or "",
    }


def _value(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine(environment: dict) -> str:
    packages = environment.get("packages") or {}
    parts = [
        environment.get("cpu"),
        f"{environment['cores']} cores" if environment.get("cores") else None,
        f"Python {environment.get('python')}",
        *(f"{k} {v}" for k, v in packages.items() if v and k == "torch"),
    ]
    return ", ".join(str(p) for p in parts if p)


def _close(board: Board, row: Row) -> list[dict]:
    """The comparisons with the submissions next to this one in the table."""
    names = [r.name for r in board.rows if r.headline]
    if row.name not in names:
        return []
    i = names.index(row.name)
    found = []
    for other in names[max(0, i - 2) : i] + names[i + 1 : i + 3]:
        c = board.compared[row.name, other]
        interval = f"{c.low:.2f}–{c.high:.2f}" if c.low and c.high else "no interval"
        more = (
            f"; about {c.more} more seeds would tell"
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
