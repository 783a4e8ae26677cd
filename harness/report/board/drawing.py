"""Draw the figures of boards as SVG: equal records give equal bytes, and are not drawn again."""

import multiprocessing
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from harness.report.board.figures import FIGURES
from harness.report.board.rows import Board
from harness.report.board.style import STYLE, inline, standalone, svg
from harness.system.files import atomic_json, atomic_write, read_json
from harness.system.hashing import canonical, digest

MOST_PROCESSES = 8
DIGESTS = "digests.json"  # of the records that each figure in the folder was drawn from
SOURCES = (Path(__file__).parent, Path(__file__).parents[1] / "palette.py")

Figures = dict[str, tuple[str, str]]  # name -> SVG, caption


def figures(boards: Sequence[Board], folder: Path) -> list[Figures]:
    """Write the figures that each board's records allow into `folder`, and return them.

    A figure is drawn only if the records of its board, or the code that draws, have changed since
    the one in the folder was drawn. Where the platform can fork, several processes draw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known, digests = _known(folder), {}
    pictures: dict[str, str | None] = {}
    jobs = []
    code = _code()
    for i, board in enumerate(boards):
        state = _state(board, code)
        for name in FIGURES:
            file = file_of(board, name)
            digests[file] = state
            if known.get(file) != state:
                jobs.append((i, name))
            elif (folder / file).exists():
                pictures[file] = inline((folder / file).read_text())
    for (i, name), picture in zip(jobs, draw(boards, jobs), strict=True):
        file = file_of(boards[i], name)
        pictures[file] = picture
        if picture is not None:
            atomic_write(folder / file, standalone(picture))
    for path in folder.glob("*-*-*.svg"):
        if pictures.get(path.name) is None:
            path.unlink()
    atomic_json(folder / DIGESTS, digests)
    return [
        {
            name: (picture, caption)
            for name, (_, caption) in FIGURES.items()
            if (picture := pictures.get(file_of(board, name))) is not None
        }
        for board in boards
    ]


def file_of(board: Board, name: str) -> str:
    """Return the file name of a board's figure."""
    return f"{board.track}-{board.scale}-{name}.svg"


def _known(folder: Path) -> dict:
    """Return the digests of the figures in a folder; none if there are none to read."""
    try:
        found = read_json(folder / DIGESTS)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _code() -> str:
    """Return the digest of the code that draws."""
    import matplotlib

    files = sorted(SOURCES[0].glob("*.py")) + [SOURCES[1]]
    return digest(matplotlib.__version__, *(file.read_text() for file in files))


def _state(board: Board, code: str) -> str:
    """Return the digest of what a board's figures are drawn from."""
    workloads = [
        [w.key, w.hash, w.goal, w.core, w.time, (w.reference or {}).get("curve")]
        for w in board.workloads
    ]
    rows = [
        [
            row.name,
            row.rank,
            vars(row.headline) if row.headline else None,
            [
                [key, use, run.record["run_id"], run.interpolated, run.record.get("final")]
                + [
                    run.curve,
                    run.share,
                    run.record.get("continual"),
                    run.record.get("stream"),
                    run.record["hp"],
                ]
                for key, choice in row.choices.items()
                for run, use in choice.every
            ],
        ]
        for row in board.rows
    ]
    return digest(code, canonical([workloads, rows, sorted(board.own)]))[:32]


def draw(boards: Sequence[Board], jobs: list[tuple[int, str]]) -> list[str | None]:
    """Return the SVG of each (number of the board, name of the figure)."""
    if not jobs:
        return []
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot

    _drawn_from[:] = boards
    cores = min(MOST_PROCESSES, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1
    if min(cores, len(jobs)) < 2:
        return [_figure(*job) for job in jobs]
    # A forked process inherits the boards: nothing is copied to it.
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        return pool.starmap(_figure, jobs, chunksize=1)


_drawn_from: list[Board] = []  # of a process that draws


def _figure(i: int, name: str) -> str | None:
    """Return one figure of one board as SVG; None where its records do not allow it."""
    import matplotlib

    board, draw = _drawn_from[i], FIGURES[name][0]
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matplotlib.rcdefaults()
        salt = {"svg.hashsalt": f"{board.track}-{board.scale}-{name}"}
        matplotlib.rcParams.update(STYLE | salt)  # type: ignore
        figure = draw(board)
        return None if figure is None else svg(figure)
