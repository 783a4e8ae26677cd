"""harness new submission NAME: write a file to start from."""

from pathlib import Path

from harness.catalog import discover
from harness.cli.arguments import parser
from harness.errors import UserError
from harness.system.command_line import harness, race

TEMPLATE = Path(__file__).with_name("new_submission.txt")
# what the template has in place of the name
NAME = "@NAME@"


def run(arguments: list[str]) -> int:
    """Write a file to start from, and print what to type next."""
    reader = parser("new", "Write a file to start from.")
    reader.add_argument("what", choices=["submission"])
    reader.add_argument("name", help="its name: a Python identifier")
    name = reader.parse_args(arguments).name.removesuffix(".py")
    if not name.isidentifier():
        raise UserError(
            f"{name!r} cannot name a submission",
            "letters, digits and _",
            "harness new submission my_idea",
        )
    if name in discover.submissions():
        raise UserError(
            f"{name} is the name of a shipped submission: {discover.submissions()[name].path}",
            do="choose another name",
        )
    path = Path(f"{name}.py")
    text = TEMPLATE.read_text(encoding="utf-8").replace(NAME, name)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(
            f"{path} exists already and was not changed", do="choose another name"
        ) from None
    print(f"wrote {path}; try it in seconds, then race it:\n")
    print(f"  {harness('check', path)}")
    print(f"  {race(['workload=gpt2', f'submission=./{path}'])}")
    return 0
