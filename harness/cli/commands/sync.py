"""harness sync: replay the logs of runs into a tracker, each run once."""

from pathlib import Path
from types import SimpleNamespace

from harness.cli.arguments import parser
from harness.errors import EXIT_FAILED, EXIT_OK, UserError
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
        if not Path(path).is_dir():
            raise UserError(f"there is no folder {path}", do="harness sync FOLDER")
    import yaml

    from harness.report.run import mirror

    settings = yaml.safe_load((ROOT / "conf" / "tracker" / f"{asked.tracker}.yaml").read_text())
    done = mirror.sync(asked.paths, SimpleNamespace(**settings))
    print(f"{done.updated} runs brought up to date with {asked.tracker}")
    if done.failed:
        names = ", ".join(str(folder) for folder in done.failed[:3])
        more = f" and {len(done.failed) - 3} more" if len(done.failed) > 3 else ""
        print(f"{len(done.failed)} failed: {names}{more}; mirror.log in each has the reason")
    for text in done.damaged:
        print(f"not sent: {text}")
    return EXIT_FAILED if done.failed or done.damaged else EXIT_OK
