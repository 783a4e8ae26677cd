"""harness sync: replay the logs of runs into a tracker, each run once."""

from pathlib import Path
from types import SimpleNamespace

from harness.cli.arguments import parser
from harness.errors import UserError
from harness.system.paths import ROOT


def run(arguments: list[str]) -> int:
    """Bring a tracker up to date with the logs of runs."""
    reader = parser(
        "sync",
        "Bring a tracker up to date with the logs of runs; what it has already is not sent again.",
    )
    reader.add_argument(
        "paths", nargs="*", default=["results"], help="run folders, or folders of runs (results)"
    )
    reader.add_argument("--tracker", default="wandb", choices=["wandb", "tensorboard"])
    asked = reader.parse_args(arguments)
    for path in asked.paths:
        if not Path(path).exists():
            raise UserError(f"there is no folder {path}", do="harness sync FOLDER")
    import yaml

    from harness.report.run import mirror

    settings = yaml.safe_load((ROOT / "conf" / "tracker" / f"{asked.tracker}.yaml").read_text())
    count = mirror.sync(asked.paths, SimpleNamespace(**settings))
    print(f"{count} runs brought up to date with {asked.tracker}")
    return 0
