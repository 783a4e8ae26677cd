"""Kill a short trial at random moments, start it again each time; compare with an undisturbed one.

    python scripts/kill_loop.py --kills 40 --seed 0

Each kill is SIGKILL to the referee, to the runner, or to both at once: half of them at any moment
since the start, half of them while it trains. A trial that ends before the kills are used up is
compared, and the next one begins. The verdict is OK, or what differed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness import record  # noqa: E402
from harness.files import read_json  # noqa: E402
from harness.record_log import rows, verify  # noqa: E402

SUBMISSION = ROOT / "tests" / "submissions" / "counted_steps.py"
RACE = [
    sys.executable, "-m", "harness", f"submission={SUBMISSION}", "tracker=none",
    "workload.mini.batch=2", "workload.mini.horizon=60",
    "workload.mini.evaluate={points: 6, batch: 80}",
]  # fmt: skip
KEPT = ("step", "samples", "counts", "metrics", "train_loss", "weights", "goal")


def start(results: Path) -> subprocess.Popen:
    """The trial as a user starts it, in a session of its own."""
    return subprocess.Popen(
        [*RACE, f"results={results}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip


def folder_of(results: Path) -> Path | None:
    return next(iter(results.glob("runs/*/*/*")), None)


def workers(results: Path) -> list[int]:
    """Processes at work inside the results folder: a runner, and whatever it started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(results.resolve()):
                found.append(int(process.name))
    return found


def progress(results: Path) -> int:
    """The number of steps the trial has come to."""
    folder = folder_of(results)
    path = folder / "progress" if folder else None
    return int.from_bytes(path.read_bytes()[:8], "little") if path and path.exists() else 0


def disturb(results: Path, chance: random.Random, seconds: float) -> str | None:
    """Start or continue the trial and kill it; returns what was killed, or None if it ended before.

    Args:
        seconds: how long the undisturbed trial took.
    """
    before, race = progress(results), start(results)
    moment = time.monotonic() + chance.uniform(0, seconds)
    if chance.random() < 0.5:  # while it trains
        while race.poll() is None and progress(results) == before:
            time.sleep(0.002)
        moment = time.monotonic() + chance.uniform(0, seconds / 6)
    while race.poll() is None and time.monotonic() < moment:
        time.sleep(0.001)
    if race.poll() is not None:
        race.communicate()
        return None
    victim = chance.choice(("referee", "runner", "both"))
    targets = [race.pid] * (victim != "runner") + workers(results) * (victim != "referee")
    for pid in targets or [race.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    race.communicate(timeout=120)
    return victim


def orphans(results: Path) -> list[int]:
    """Workers that are still there five seconds after their referee has gone."""
    deadline = time.monotonic() + 5
    while (left := workers(results)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def differences(results: Path, undisturbed: Path, kills: int) -> list[str]:
    """What the two trials' records differ in, where they must not."""
    here, there = folder_of(results), folder_of(undisturbed)
    mine, other = read_json(here / "run.json"), read_json(there / "run.json")
    found = [
        f"{key}: {mine.get(key)} after {kills} kills, {other.get(key)} undisturbed"
        for key in ("run_id", "outcome", "weights", "final", "counts", "samples", "state_bytes")
        if mine.get(key) != other.get(key)
    ]
    curves = [
        [{key: row[key] for key in KEPT} for row in record.evaluations(rows(folder / "log.jsonl"))]
        for folder in (here, there)
    ]
    found += ["the curves differ"] * (curves[0] != curves[1])
    found += verify(here / "log.jsonl", mine["chain"])
    # Charged is at least what was done twice, but for the step each kill cut in two.
    repeated = (here / "runner.log").read_text().count("a step\n") - mine["horizon"]
    if not repeated - kills <= mine["lost_steps"]:
        found.append(f"{repeated} steps were repeated, {mine['lost_steps']} were charged")
    return found


def run(kills: int, seed: int, folder: Path, say=print) -> list[str]:
    """Kill `kills` times; returns everything that was wrong."""
    chance, began = random.Random(seed), time.monotonic()
    undisturbed = folder / "undisturbed"
    race = start(undisturbed)
    _, complaint = race.communicate()
    if race.returncode:
        return [f"the undisturbed trial failed: {complaint}"]
    seconds, problems, done, number = time.monotonic() - began, [], 0, 0
    while done < kills:
        number += 1
        results, here = folder / f"trial-{number}", 0
        while True:
            victim = disturb(results, chance, seconds) if done < kills else None
            if victim is None:
                start(results).communicate()  # to its end, if it has not come to it
                break
            done, here = done + 1, here + 1
            if left := orphans(results):
                problems.append(f"kill {done} ({victim}) left processes {left}")
            say(f"kill {done:3}: {victim:8} at step {progress(results)}")
        problems += [f"trial {number}: {text}" for text in differences(results, undisturbed, here)]
        lost = read_json(folder_of(results) / "run.json")["lost_steps"]
        say(f"trial {number} ended after {here} kills, {lost} steps lost and charged")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        problems = run(asked.kills, asked.seed, Path(folder))
    print("\n".join(problems) or f"OK: {asked.kills} kills changed nothing but the time")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
