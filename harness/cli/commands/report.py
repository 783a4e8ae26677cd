"""From run records to a leaderboard: `harness report`; it reads records only."""

from pathlib import Path

from harness.cli.arguments import parser
from harness.errors import UserError


def run(arguments: list[str]) -> int:
    """harness report [RESULTS ...] [--out FOLDER]: a leaderboard from records."""
    reader = parser("report", "Make a leaderboard (page, Markdown, CSV, figures) from run records.")
    reader.add_argument(
        "results",
        nargs="*",
        default=["results"],
        help="results folders, run folders or compact .jsonl files (results)",
    )
    reader.add_argument("--out", default="report", metavar="FOLDER", help="where to (report)")
    asked = reader.parse_args(arguments)
    from harness.records.collect import collect
    from harness.records.references import references
    from harness.report.board.board import boards
    from harness.report.board.page import write

    found = collect(asked.results)
    made = boards(found, references(asked.results))
    left_out = sorted(set(found.left_out))
    try:
        told = write(made, left_out, Path(asked.out))
    except OSError as error:
        raise UserError(
            f"cannot write into {asked.out}: {error.strerror}", do="--out FOLDER"
        ) from None
    print("\n".join(told))
    print(
        f"{len(found.runs)} records read, {len(left_out)} left out"
        + (" (the page says why)" if left_out else "")
    )
    return 0
