"""harness comply: check records against the rules."""

import argparse
from pathlib import Path

from harness.errors import EXIT_DISQUALIFIED, EXIT_OK, UserError
from harness.records.rules import RULES
from harness.records.rules.verdict import DO, examine, said, summary


def comply(arguments: list[str]) -> int:
    """harness comply [RESULTS or RUN_FOLDER ...]: check records against the rules."""
    parser = argparse.ArgumentParser(
        prog="harness comply",
        description="Check run records against the rules; status 3 where one breaks a rule.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        default=["results"],
        help="results folders, run folders or compact .jsonl files (results)",
    )
    parser.add_argument("--why", action="store_true", help="say of every mark why")
    parser.add_argument("--rules", action="store_true", help="list the rules and end")
    asked = parser.parse_args(arguments)
    if asked.rules:
        print("\n".join(said(rule) for rule in RULES))
        return EXIT_OK
    found = examine(list(map(Path, asked.paths)))
    if not found:
        raise UserError(f"there are no records in {' '.join(asked.paths)}", do=DO)
    print("\n".join(line for verdict in found for line in verdict.lines(asked.why)))
    print("\n".join(summary(found)))
    return EXIT_DISQUALIFIED if any(verdict.fails for verdict in found) else EXIT_OK
