"""The crossing of a finished trial on a finer grid: replayed from the checkpoint before it."""

import json
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

from harness.clock import prices, reading
from harness.errors import UserError
from harness.race import plan
from harness.race.observer import Quiet
from harness.race.recorded import settings_of, source_of
from harness.race.referee import race
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
    """Return the trial whose record is in `folder`, to be judged at `steps` in `place`.

    Raises:
        UserError: the code that is installed would not make the same trial.
    """
    trial = plan.make(settings_of(result, source_of(result, folder, place), place))
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
    """Return step and time of the crossing when the segment before it is judged `points` times.

    The replay says which step crossed. The time is read off the trial's own clock: between the two
    evaluations around the crossing it runs evenly with the counted work, so the refined time lies
    between theirs however fast this machine is now.

    Raises:
        UserError: no checkpoint was kept before the crossing, or the replay went another way.
    """
    rows = run_folder.evaluations(list(read_rows(folder / "log.jsonl")))
    at = crossing(rows)
    assert at is not None
    before, after = rows[at - 1], rows[at]
    start, end = before["step"], after["step"]
    if start and not any((folder / BEFORE_CROSSING).glob("*.safetensors")):
        raise UserError(f"{folder} has kept no checkpoint of step {start}")
    inner = evaluation_steps(end - start, min(points, end - start))[1:]
    steps = [start + step for step in inner] + [rows[at + 1]["step"]]
    with tempfile.TemporaryDirectory() as place:
        trial = replay_of(folder, result, steps, Path(place))
        replayed = _replay(folder, trial, start)
    known = {row["step"]: row["metrics"] for row in rows}
    first = crossing(replayed)
    if first is None or any(
        row["metrics"] != known.get(row["step"], row["metrics"]) for row in replayed
    ):
        raise UserError(
            f"the replay of {folder} went another way",
            "it is exact on the same kind of machine, with engine.deterministic=true",
        )
    clock = [reading.read(rows[:i], trial.table).total for i in (at, at + 1)]
    work = [prices.counted(row["counts"], trial.table) for row in (before, after)]

    def time(row: dict) -> float:
        done = prices.counted(row["counts"], trial.table) - work[0]
        return clock[0] + (clock[1] - clock[0]) * done / (work[1] - work[0])

    return {
        "step": replayed[first]["step"],
        "time": time(replayed[first]),
        "after_step": replayed[first - 1]["step"],
        "after": time(replayed[first - 1]),
        "points": len(inner),
    }


def _replay(folder: Path, trial: Replay, start: int) -> list[dict]:
    """Continue a copy of the trial from step `start`; return all its evaluations.

    Raises:
        UserError: the log does not tell of a checkpoint at `start`, or the replay fails.
    """
    (trial.folder / "checkpoint").mkdir(parents=True)
    for path in (folder / BEFORE_CROSSING).glob("*.safetensors"):
        shutil.copyfile(path, trial.folder / "checkpoint" / path.name)
    lines, last = [], "saved" if start else "evaluation"
    for line in (folder / "log.jsonl").read_text().splitlines():
        lines.append(line)
        row = json.loads(line)
        if row["event"] == last and row["step"] == start:
            break
    else:
        raise UserError(f"the log of {folder} does not tell of a checkpoint at step {start}")
    (trial.folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    outcome = race(trial, Quiet(trial.label))
    if outcome.outcome != "reached":
        raise UserError(f"the replay ended as {outcome.outcome}: {outcome.record.get('reason')}")
    return run_folder.evaluations(list(read_rows(trial.folder / "log.jsonl")))
