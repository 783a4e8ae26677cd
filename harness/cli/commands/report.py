"""From run records to a leaderboard: `harness report`; it reads records only."""

from pathlib import Path

from harness.cli.arguments import parser, results_folders


def run(arguments: list[str]) -> int:
    """harness report [RESULTS ...] [--out FOLDER]: a leaderboard from records."""
    reader = parser("report", "Make a leaderboard (page, Markdown, CSV, figures) from run records.")
    reader.add_argument(
        "results",
        nargs="*",
        default=results_folders(),
        help="results folders, run folders or compact .jsonl files (results, and our own)",
    )
    reader.add_argument("--out", default="report", metavar="FOLDER", help="where to (report)")
    asked = reader.parse_args(arguments)
    from harness.report.board.page import report

    print("\n".join(report(asked.results, Path(asked.out))))
    return 0
