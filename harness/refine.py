"""The crossing of a finished trial on a finer grid: replayed from the checkpoint before it."""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

from harness import clock, discover, plan, record
from harness.checkpoint import BEFORE_CROSSING
from harness.errors import UserError
from harness.files import read_json
from harness.plan import Trial
from harness.record_log import Log
from harness.record_log import rows as read_rows
from harness.result import crossing


@dataclass(frozen=True)
class Replay(Trial):
    """A trial that is judged at other steps than its workload's, in a folder of its own."""

    steps: tuple[int, ...] = ()

    @property
    def grid(self) -> list[int]:
        return list(self.steps)


def replay_of(folder: Path, result: dict, steps: list[int], place: Path) -> Replay:
    """The trial whose record is in `folder`, to be judged at `steps` in `place`.

    Raises:
        UserError: the code that is installed would not make the same trial.
    """
    name = result["submission"]
    path = place / f"{name}.py"
    if name not in discover.submissions():
        shutil.copyfile(next((folder / "source").rglob(f"{name}.py")), path)
    config = {
        "workload": {
            "name": result["workload"], "track": result["track"], result["scale"]: result["config"],
        },
        "submission": {"name": name, "path": str(path) if path.exists() else None} | result["hp"],
        "scale": result["scale"], "variant": None, "engine": result["engine"],
        "seed": result["seed"], "trial": None, "study": 0, "tuned": False,
        "isolation": result["isolation"],
        "until": "goal", "results": str(place),
    }  # fmt: skip
    if result["variant"]:  # the block has its changes already
        config["variant"] = result["variant"]
        config["workload"][result["scale"]] = result["config"] | {
            "variants": {result["variant"]: {}}
        }
    trial = plan.make(config)
    if trial.run_id != result["run_id"]:
        raise UserError(
            f"the code or the prices have changed since {folder} was run",
            do="refine with the version it was run with",
        )
    own = {field.name: getattr(trial, field.name) for field in fields(Trial)}
    return Replay(
        **own | {"table": clock.table_of(result), "folder": place / "run"}, steps=tuple(steps)
    )


def refine(arguments: list[str]) -> int:
    """harness refine: find a finished trial's crossing on a finer grid and add it to its record."""
    parser = argparse.ArgumentParser(
        "harness refine",
        description="Replay the segment in which a trial met its goal, on a finer grid.",
    )
    parser.add_argument(
        "folder", type=Path, help="a run's folder, results/runs/WORKLOAD/SUBMISSION/ID"
    )
    parser.add_argument("--points", type=int, default=10, help="evaluations in the segment")
    asked = parser.parse_args(arguments)
    folder = asked.folder.resolve()
    result = record.finished(folder)
    if not result or not result.get("crossing") or not result["verified"]:
        raise UserError(f"{asked.folder} is not the record of a verified trial that met its goal")
    found = refined(folder, result, asked.points)
    chain = Log(folder / "log.jsonl").append({"event": "refined"} | found)["chain"]
    record.finish(folder, read_json(folder / "run.json") | {"refined": found, "chain": chain})
    was = result["crossing"]
    print(
        f"goal met in ({found['after']:.2f}, {found['time']:.2f}] s, by step {found['step']}; "
        f"before in ({was['after']:.2f}, {result['time']:.2f}] s, by step {was['step']}"
    )
    return 0


def refined(folder: Path, result: dict, points: int) -> dict:
    """Step and time of the crossing when the segment before it is judged `points` times."""
    seen = record.evaluations(list(read_rows(folder / "log.jsonl")))
    at = crossing(seen)
    assert at is not None
    start, end = seen[at - 1]["step"], seen[at]["step"]
    if start and not any((folder / BEFORE_CROSSING).glob("*.safetensors")):
        raise UserError(f"{folder} has kept no checkpoint of step {start}")
    inner = plan.evaluation_steps(end - start, min(points, end - start))[1:]
    with tempfile.TemporaryDirectory() as place:
        trial = replay_of(
            folder, result, [start + s for s in inner] + [seen[at + 1]["step"]], Path(place)
        )
        rows = _replay(folder, trial, start)
    first = crossing(rows)
    if first is None or any(
        row["metrics"] != old["metrics"]
        for row in rows
        for old in seen
        if row["step"] == old["step"]
    ):
        raise UserError(
            f"the replay of {folder} went another way",
            "it is exact on the same kind of machine, with engine.deterministic=true",
        )
    times = [clock.read(rows[: i + 1], trial.table).total for i in (first - 1, first)]
    steps = [rows[i]["step"] for i in (first - 1, first)]
    return {
        "step": steps[1],
        "time": times[1],
        "after_step": steps[0],
        "after": times[0],
        "points": len(inner),
    }


def _replay(folder: Path, trial: Replay, start: int) -> list[dict]:
    """Continue a copy of the trial from step `start`; returns all its evaluations."""
    from harness.launch import Quiet
    from harness.referee import race

    (trial.folder / "checkpoint").mkdir(parents=True)
    for path in (folder / BEFORE_CROSSING).glob("*.safetensors"):
        shutil.copyfile(path, trial.folder / "checkpoint" / path.name)
    kept = []
    for line in (folder / "log.jsonl").read_text().splitlines():
        kept.append(line)
        row = json.loads(line)
        if row["event"] == "evaluation" and row["step"] == start:
            break
    (trial.folder / "log.jsonl").write_text("\n".join(kept) + "\n")
    outcome = race(trial, {"name": "none"}, Quiet(trial.label))
    if outcome.outcome != "reached":
        raise UserError(f"the replay ended as {outcome.outcome}: {outcome.record.get('reason')}")
    return record.evaluations(list(read_rows(trial.folder / "log.jsonl")))
