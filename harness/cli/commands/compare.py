"""harness compare: two submissions compared by their records."""

import argparse

from harness.errors import UserError, nearest
from harness.report.board.compare import versus


def compare(arguments: list[str]) -> int:
    """harness compare A B [workload=NAME] [scale=] [results=]: which is faster, and how sure."""
    parser = argparse.ArgumentParser(
        prog="harness compare",
        description="Compare two submissions by their records: "
        "harness compare lion adamw workload=gpt2",
    )
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="workload=NAME (all), scale=NAME (mini), results=FOLDER (results)",
    )
    asked = parser.parse_args(arguments)
    options = {"workload": "", "scale": "mini", "results": "results"}
    for setting in asked.settings:
        key, _, value = setting.partition("=")
        if key not in options or not value:
            raise UserError(
                f"{setting!r} is no setting of compare",
                nearest(key, options),
                "harness compare lion adamw workload=gpt2",
            )
        options[key] = value
    print(
        versus(asked.first, asked.second, options["workload"], options["scale"], options["results"])
    )
    return 0
