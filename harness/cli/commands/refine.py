"""harness refine: find a finished trial's crossing on a finer grid."""

from pathlib import Path

from harness.cli.arguments import parser, whole
from harness.errors import UserError
from harness.race.replay import refined
from harness.records import run_folder
from harness.records.collect import read_folder
from harness.records.log import Log
from harness.records.schema import DAMAGED
from harness.system.files import BadFile, read_json

ALLOWED = "a run's folder, results/runs/WORKLOAD/SUBMISSION/ID"


def run(arguments: list[str]) -> int:
    """Find a finished trial's crossing on a finer grid, add it to its record and print it."""
    reader = parser("refine", "Replay the segment in which a trial met its goal, on a finer grid.")
    reader.add_argument("folder", type=Path, help=ALLOWED)
    reader.add_argument(
        "--points", type=whole(), default=10, help="evaluations in the segment (10)"
    )
    asked = reader.parse_args(arguments)
    folder = asked.folder.resolve()
    if not folder.is_dir():
        raise UserError(f"there is no folder {asked.folder}", ALLOWED)
    result = run_folder.finished(folder)
    if not result or not result.get("crossing") or not result["verified"]:
        raise UserError(
            f"{asked.folder} is not the record of a verified trial that met its goal", ALLOWED
        )
    try:
        read_folder(folder)
    except (*DAMAGED, BadFile, OSError) as error:
        raise UserError(f"{asked.folder} has a damaged record: {error}", ALLOWED) from None
    found = refined(folder, result, asked.points)
    chain = Log(folder / "log.jsonl").append({"event": "refined"} | found)["chain"]
    run_folder.finish(folder, read_json(folder / "run.json") | {"refined": found, "chain": chain})
    was = result["crossing"]
    print(
        f"goal met in ({found['after']:.4g}, {found['time']:.4g}] s, by step {found['step']}; "
        f"before in ({was['after']:.4g}, {result['time']:.4g}] s, by step {was['step']}"
    )
    return 0
