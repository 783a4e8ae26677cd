"""The crossing of a finished trial on a finer grid: replayed from the checkpoint before it."""

import json
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

from harness.catalog import discover
from harness.clock import prices, reading
from harness.errors import UserError
from harness.race import plan
from harness.race.trial import Trial, evaluation_steps
from harness.records import run_folder
from harness.records.judging import crossing
from harness.records.log import rows as read_rows
from harness.train.checkpoint import BEFORE_CROSSING


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
        **own | {"table": prices.recorded_table(result), "folder": place / "run"},
        steps=tuple(steps),
    )


def refined(folder: Path, result: dict, points: int) -> dict:
    """Step and time of the crossing when the segment before it is judged `points` times."""
    seen = run_folder.evaluations(list(read_rows(folder / "log.jsonl")))
    at = crossing(seen)
    assert at is not None
    start, end = seen[at - 1]["step"], seen[at]["step"]
    if start and not any((folder / BEFORE_CROSSING).glob("*.safetensors")):
        raise UserError(f"{folder} has kept no checkpoint of step {start}")
    inner = evaluation_steps(end - start, min(points, end - start))[1:]
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
    times = [reading.read(rows[: i + 1], trial.table).total for i in (first - 1, first)]
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
    from harness.race.observer import Quiet
    from harness.race.referee import race

    (trial.folder / "checkpoint").mkdir(parents=True)
    for path in (folder / BEFORE_CROSSING).glob("*.safetensors"):
        shutil.copyfile(path, trial.folder / "checkpoint" / path.name)
    kept = []
    for line in (folder / "log.jsonl").read_text().splitlines():
        kept.append(line)
        row = json.loads(line)
        if row["event"] == ("saved" if start else "evaluation") and row["step"] == start:
            break
    (trial.folder / "log.jsonl").write_text("\n".join(kept) + "\n")
    outcome = race(trial, Quiet(trial.label))
    if outcome.outcome != "reached":
        raise UserError(f"the replay ended as {outcome.outcome}: {outcome.record.get('reason')}")
    return run_folder.evaluations(list(read_rows(trial.folder / "log.jsonl")))
