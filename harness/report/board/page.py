"""Write a report: LEADERBOARD.md, a page that opens from disk, CSV and Parquet tables, figures."""

from io import BytesIO
from pathlib import Path

from harness.errors import UserError
from harness.records.collect import Collection, collect
from harness.records.references import references
from harness.records.tables import Table
from harness.report.board.board import boards
from harness.report.board.drawing import figures
from harness.report.board.tables import account, as_csv, markdown, tables
from harness.report.board.view import html
from harness.system.files import atomic_write


def report(paths: list[str], out: Path) -> list[str]:
    """Write the report on the records under `paths` into `out`; return lines for the user.

    Raises:
        UserError: there are no records, a path does not exist, or `out` cannot be written.
    """
    collection = collect(paths)
    if not collection.read:
        raise UserError(
            f"there are no run records in {', '.join(paths)}",
            "a results folder, a run folder or a compact .jsonl file",
            "python -m harness workload=gpt2 submission=adamw",
        )
    try:
        return write(collection, references(paths), out)
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror}", do="--out FOLDER") from None


def write(collection: Collection, frozen: dict[str, dict], out: Path) -> list[str]:
    """Write everything into the folder `out`; return what was written, and the numbers of records.

    Args:
        frozen: the references by workload key.
    """
    made = boards(collection, frozen)
    drawn = figures(made, out / "figures")
    atomic_write(out / "LEADERBOARD.md", markdown(made, collection, drawn))
    atomic_write(out / "index.html", html(made, collection, drawn))
    every = tables(made)
    for name, table in every.items():
        atomic_write(out / f"{name}.csv", as_csv(table))
    names = ", ".join(f"{name}.csv" for name in every)
    lines = [f"wrote {out}/index.html, LEADERBOARD.md, {names}, {sum(map(len, drawn))} figures"]
    lines.append(_parquet(every, out))
    named = " The page names those left out, with reasons." * bool(collection.left_out)
    lines.append(account(collection) + named)
    return lines


def _parquet(every: dict[str, Table], out: Path) -> str:
    """Write the tables as Parquet where pyarrow is installed; return a line for the user."""
    try:
        import pyarrow  # type: ignore # noqa: F401
    except ImportError:
        return "no Parquet: pyarrow is not installed (pip install 'training-race[parquet]')"
    import pandas

    for name, (columns, rows) in every.items():
        paper = BytesIO()
        frame = pandas.DataFrame(rows, columns=columns).convert_dtypes(convert_floating=False)
        for column in frame.select_dtypes("object"):  # of several types: as text
            frame[column] = frame[column].map(lambda v: None if v is None else str(v))
        frame.to_parquet(paper, index=False)
        atomic_write(out / f"{name}.parquet", paper.getvalue())
    return f"wrote {', '.join(f'{name}.parquet' for name in every)}"
