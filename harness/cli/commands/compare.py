"""harness compare: two submissions compared by their records."""

from harness.cli.arguments import key_values, parser, results_folders
from harness.report.board.compare import versus
from harness.system.command_line import harness


def run(arguments: list[str]) -> int:
    """harness compare A B [workload=NAME] [scale=] [results=]: which is faster, and how sure."""
    reader = parser(
        "compare",
        "Compare two submissions by their records: harness compare lion adamw workload=gpt2",
    )
    one = "a submission's name; NAME:KEY=VALUE,KEY=VALUE for one of its points"
    reader.add_argument("first", help=one)
    reader.add_argument("second", help=one)
    reader.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="workload=NAME (all), scale=NAME (mini), results=FOLDER (results)",
    )
    asked = reader.parse_args(arguments)
    options = key_values(
        asked.settings,
        {"workload": "", "scale": "mini", "results": results_folders()[0]},
        harness("compare", asked.first, asked.second, "workload=gpt2"),
    )
    print(
        versus(asked.first, asked.second, options["workload"], options["scale"], options["results"])
    )
    return 0
