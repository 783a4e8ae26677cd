"""harness comply: check records against the rules."""

from pathlib import Path

from harness.cli.arguments import parser
from harness.errors import EXIT_DISQUALIFIED, EXIT_OK, UserError
from harness.records.rules import RULES
from harness.records.rules.verdict import DO, examine, sentence, summary
from harness.system.terminal import printable


def run(arguments: list[str]) -> int:
    """Print each record's verdict; return 3 if one breaks a rule."""
    reader = parser(
        "comply", "Check run records against the rules; status 3 where one breaks a rule."
    )
    reader.add_argument(
        "paths",
        nargs="*",
        default=["results"],
        help="results folders, run folders or compact .jsonl files (results)",
    )
    reader.add_argument("--why", action="store_true", help="say of every mark why")
    reader.add_argument("--rules", action="store_true", help="list the rules and end")
    asked = reader.parse_args(arguments)
    if asked.rules:
        print("\n".join(sentence(rule) for rule in RULES))
        return EXIT_OK
    found = examine(list(map(Path, asked.paths)))
    if not found:
        raise UserError(f"there are no records in {' '.join(asked.paths)}", do=DO)
    for line in [
        *(line for verdict in found for line in verdict.lines(asked.why)),
        *summary(found),
    ]:
        print(printable(line))
    return EXIT_DISQUALIFIED if any(verdict.fails for verdict in found) else EXIT_OK
