"""harness refine: find a finished trial's crossing on a finer grid."""

from pathlib import Path

from harness.cli.arguments import parser
from harness.errors import UserError
from harness.race.replay import refined
from harness.records import run_folder
from harness.records.log import Log
from harness.system.files import read_json


def run(arguments: list[str]) -> int:
    """Find a finished trial's crossing on a finer grid, add it to its record and print it."""
    reader = parser("refine", "Replay the segment in which a trial met its goal, on a finer grid.")
    reader.add_argument(
        "folder", type=Path, help="a run's folder, results/runs/WORKLOAD/SUBMISSION/ID"
    )
    reader.add_argument("--points", type=int, default=10, help="evaluations in the segment")
    asked = reader.parse_args(arguments)
    folder = asked.folder.resolve()
    result = run_folder.finished(folder)
    if not result or not result.get("crossing") or not result["verified"]:
        raise UserError(f"{asked.folder} is not the record of a verified trial that met its goal")
    found = refined(folder, result, asked.points)
    chain = Log(folder / "log.jsonl").append({"event": "refined"} | found)["chain"]
    run_folder.finish(folder, read_json(folder / "run.json") | {"refined": found, "chain": chain})
    was = result["crossing"]
    print(
        f"goal met in ({found['after']:.4g}, {found['time']:.4g}] s, by step {found['step']}; "
        f"before in ({was['after']:.4g}, {result['time']:.4g}] s, by step {was['step']}"
    )
    return 0
