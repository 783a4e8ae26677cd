"""harness new: write the files of a submission or of a workload to start from."""

from pathlib import Path

from harness.catalog import discover
from harness.catalog.card import Plugin
from harness.cli.arguments import parser
from harness.errors import UserError
from harness.system.command_line import harness, race

HERE = Path(__file__).parent
# for each kind of plugin, the suffix of every file and the template of its text
TEMPLATES = {
    "submission": {".py": HERE / "new_submission.txt"},
    "workload": {".py": HERE / "new_workload.txt", ".yaml": HERE / "new_workload_numbers.txt"},
}
# what a template has in place of the name
NAME = "@NAME@"


def run(arguments: list[str]) -> int:
    """Write the files to start from, and print what to type next."""
    reader = parser("new", "Write files to start from: a submission's, or a workload's two.")
    reader.add_argument("what", choices=list(TEMPLATES))
    reader.add_argument("name", help="its name: a Python identifier")
    asked = reader.parse_args(arguments)
    name = asked.name.removesuffix(".py")
    shipped = discover.submissions() if asked.what == "submission" else discover.workloads()
    _check_name(name, asked.what, shipped)
    for path in _write(name, asked.what):
        print(f"wrote {path}")
    file = f"{name}.py"
    settings = {
        "submission": ["workload=gpt2", f"submission=./{file}"],
        "workload": [f"workload=./{file}", "submission=adamw"],
    }
    print("try it in seconds, then race:\n")
    print(f"  {harness('check', file)}")
    print(f"  {race(settings[asked.what])}")
    return 0


def _check_name(name: str, what: str, shipped: dict[str, Plugin]) -> None:
    """Raise UserError for a name that a plugin cannot have."""
    if not name.isidentifier():
        raise UserError(
            f"{name!r} cannot name a {what}",
            "letters, digits and _",
            f"harness new {what} {'my_idea' if what == 'submission' else 'my_problem'}",
        )
    if name == "harness":
        raise UserError(
            "a file harness.py of the current folder would run in our place",
            do="choose another name",
        )
    if name == "torch":
        raise UserError("the file imports torch, and would import itself", do="choose another name")
    if name in shipped:
        raise UserError(
            f"{name} is the name of a shipped {what}: {shipped[name].path}",
            do="choose another name",
        )


def _write(name: str, what: str) -> list[Path]:
    """Write every file of the plugin, and return their paths; none if one exists already."""
    texts = {
        Path(f"{name}{suffix}"): template.read_text(encoding="utf-8").replace(NAME, name)
        for suffix, template in TEMPLATES[what].items()
    }
    for path in texts:
        if path.exists():
            raise UserError(f"{path} exists already and was not changed", do="choose another name")
    for path, text in texts.items():
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    return list(texts)
