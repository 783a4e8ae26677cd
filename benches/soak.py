"""Disturb random trials with random faults, and compare them with undisturbed trials.

    python benches/soak.py --minutes 5 --tally soak.json    # a second run adds to the tally
    python benches/soak.py --faults 1000

Most trials are small ones in a forked process that is referee and runner in one, so that imports
are made once. Of every hundred faults, `--apart` hit trials as a user starts them, with a runner
process. These faults happen to a trial repeatedly until it ends:

    kill     SIGKILL at any moment (apart: to the referee, the runner, or both)
    signal   SIGTERM, SIGUSR1, SIGINT or two SIGINTs at any moment
    pause    SIGSTOP for a short time, then SIGCONT
    write    one open, write, fsync or rename fails: an I/O error, or a full disk
    crash    the process ends in the middle of one of them, with half of a write written
    damage   between two attempts: a checkpoint with a wrong bit or cut, half a line, half a record

The bench checks that each attempt ends with a documented status, no process is left, and other
results keep every byte. The trial must end with the weights, counts, curve and outcome of the
undisturbed one, keep all rules of `harness comply`, and be charged every step that was lost.
"""

import argparse
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.errors import UserError  # noqa: E402
from harness.race import referee  # noqa: E402
from harness.records import run_folder  # noqa: E402
from harness.records.log import rows  # noqa: E402
from harness.records.rules.verdict import examine  # noqa: E402
from harness.report.run import picture  # noqa: E402
from harness.system.files import atomic_json, read_json  # noqa: E402
from tests.support import tiny  # noqa: E402
from tests.support.racing import Watcher  # noqa: E402

SUBMISSIONS = ("gd", "precgd", "lion", "adamw", "schedule_free_adamw", "torch_adamw", "own_step")
# A small trial makes slightly fewer calls that write.
WRITES = 80
# Documented exit statuses. An attempt that ends with a traceback has 99.
STATUS = {0, 1, 2, 75}
# Exit status of an attempt that ends in the middle of a call.
CUT = 77
LINUX = sys.platform == "linux"
CALLS = ("open", "write", "fsync", "replace")
KEPT = ("step", "samples", "counts", "metrics", "train_loss", "weights", "goal")
HORIZON = 60  # steps of an apart trial
APART = [
    sys.executable, "-m", "harness", "workload=gpt2", "submission=lion", "tracker=none",
    "workload.mini.batch=2", f"workload.mini.horizon={HORIZON}",
    "workload.mini.evaluate={points: 6, batch: 80}",
]  # fmt: skip


@dataclass
class Tally:
    """Counts of faults and statuses, and the problems, over any number of calls."""

    faults: Counter = field(default_factory=Counter)
    statuses: Counter = field(default_factory=Counter)
    trials: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path | None) -> "Tally":
        """Return the tally in a file; an empty one if there is no file."""
        if path is None or not path.exists():
            return cls()
        content = read_json(path)
        counts = {name: Counter(content.pop(name)) for name in ("faults", "statuses")}
        return cls(**counts, **content)

    def write(self, path: Path | None) -> None:
        """Write the tally into a file, if there is one."""
        if path:
            atomic_json(path, vars(self))

    def text(self) -> str:
        """Return the tally in one line."""
        faults = ", ".join(f"{name} {n}" for name, n in sorted(self.faults.items()))
        summary = f"{sum(self.faults.values())} faults in {self.trials} trials"
        return (
            f"{summary}, {self.seconds / 60:.1f} minutes ({faults}): {len(self.problems)} problems"
        )


def folder_of(results: Path) -> Path | None:
    """Return the run's folder in a results folder, or None."""
    return next(iter(results.glob("runs/*/*/*")), None)


def progress(results: Path) -> int:
    """Return the number of steps that the trial has finished."""
    folder = folder_of(results)
    path = folder / "progress" if folder else None
    return int.from_bytes(path.read_bytes()[:8], "little") if path and path.exists() else 0


# Small trials, in a forked process


def attempt(trial, prepare=lambda: None) -> int:
    """Fork a process that calls `prepare` and races the trial. Return its pid.

    Signals are blocked until the child has its own handlers. With the parent's handlers, Ctrl-C
    would run the parent's code in the child.
    """
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    status = 99
    try:
        os.setsid()
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with open(trial.results / "errors", "a") as errors:
            os.dup2(errors.fileno(), 2)
        write, steps = (
            os.write,
            os.open(trial.results / "steps", os.O_CREAT | os.O_APPEND | os.O_WRONLY),
        )
        prepare()
        # The file gets a byte for every step that is begun.
        watcher = Watcher(lambda step: write(steps, b"."))
        status = referee.race(trial, watcher).exit_code
    except UserError as error:
        status = 2
        print(f"harness: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def waited(pid: int) -> int:
    """Return the exit status of an attempt; minus the signal's number if one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def failing(at: int, code: int | None):
    """Return a function that makes the call number `at` that writes fail.

    Args:
        code: the call's error; None to end the process in the middle of the call.
    """

    def prepare() -> None:
        left = at

        def wrap(name: str, real):
            def call(*arguments, **options):
                nonlocal left
                left -= 1
                if left:
                    return real(*arguments, **options)
                if code is not None:
                    raise OSError(code, os.strerror(code))
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(CUT)

            return call

        for name in CALLS:
            setattr(os, name, wrap(name, getattr(os, name)))

    return prepare


def damaged(folder: Path, rng: random.Random) -> None:
    """Damage a trial's files, as crashes and bad disks do."""
    checkpoints = sorted((folder / "checkpoint").glob("step-*"))
    kind = rng.choice(("flip", "cut", "torn", "half", "leftover"))
    if kind in ("flip", "cut") and checkpoints:
        content = bytearray(checkpoints[-1].read_bytes())
        position = rng.randrange(len(content))
        content[position] ^= 1 << rng.randrange(8)
        checkpoints[-1].write_bytes(content if kind == "flip" else content[:position])
    elif kind == "torn" and (folder / "log.jsonl").exists():
        with open(folder / "log.jsonl", "a") as file:
            file.write('{"event": "evaluation", "st')
    elif kind == "half" and folder.exists():
        (folder / "run.json").write_text('{"schema": 1, "outcome": "rea')
    elif kind == "leftover" and checkpoints:
        (folder / "checkpoint" / ".step-000000003-00.safetensors.aa.tmp").write_bytes(b"half")


def disturb(trial, rng: random.Random, seconds: float) -> tuple[str, int]:
    """Make one attempt at the trial with one fault. Return the fault and the attempt's status."""
    kind = rng.choice(("kill", "signal", "pause", "write", "crash", "damage"))
    if kind in ("write", "crash"):
        code = rng.choice((errno.EIO, errno.ENOSPC)) if kind == "write" else None
        return kind, waited(attempt(trial, failing(rng.randint(1, WRITES), code)))
    pid = attempt(trial)
    time.sleep(rng.uniform(0, seconds))
    with suppress(ProcessLookupError):
        if kind == "signal":
            names = rng.choice(("TERM", "USR1", "INT", "INT INT")).split()
            for name in names:
                os.kill(pid, getattr(signal, f"SIG{name}"))
                time.sleep(rng.uniform(0, 0.002))
        elif kind == "pause":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(rng.uniform(0, 0.05))
            os.kill(pid, signal.SIGCONT)
        else:
            os.kill(pid, signal.SIGKILL)
    status = waited(pid)
    if kind == "damage" and not run_folder.finished(trial.folder):
        damaged(trial.folder, rng)
    return kind, status


def fine(status: int, kind: str) -> bool:
    """Return True if an attempt ended with a documented status, or by the signal it was sent."""
    killed = {"kill": {-9}, "damage": {-9}, "crash": {CUT}, "signal": {-15, -10, -2, 130}}
    return status in STATUS | killed.get(kind, set())


def note(tally: Tally, kind: str, status: int, title: str, results: Path) -> None:
    """Count a fault, and note a problem if the attempt did not end as it should."""
    tally.faults[kind] += 1
    tally.statuses[str(status)] += 1
    if not fine(status, kind):
        errors = (results / "errors").read_text()[-800:] if (results / "errors").exists() else ""
        tally.problems.append(f"{title}: {kind} ended with status {status}: {errors}")


def small(tally: Tally, results: Path, rng: random.Random, most: int) -> None:
    """Race a small trial with at most `most` faults, and compare it with an undisturbed one."""
    name, seed, bound = rng.choice(SUBMISSIONS), rng.randrange(3), rng.choice((0.9, 1e-6))
    title, numbers = f"{name} seed {seed} goal {bound}", {"relative_error": {"at_most": bound}}
    trial_in = lambda where: tiny.trial(name, where, seed=seed, numbers={"goal": numbers})  # noqa: E731
    undisturbed = trial_in(results / "whole" / f"{name}-{bound}")
    undisturbed.results.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    waited(attempt(undisturbed))
    seconds = max(0.06, time.monotonic() - start)
    disturbed, statuses = trial_in(results / f"trial-{tally.trials}"), []
    disturbed.results.mkdir()
    for _ in range(min(most, rng.randint(1, 12))):
        if run_folder.finished(disturbed.folder):
            break
        kind, status = disturb(disturbed, rng, seconds)
        note(tally, kind, status, title, disturbed.results)
        statuses.append(status)
    waited(attempt(disturbed))
    # Each of these attempts may have begun a step and not finished it.
    cut_short = sum(status != 0 for status in statuses)
    repeated = (
        (disturbed.results / "steps").stat().st_size - progress(disturbed.results) - cut_short
    )
    found = differences(disturbed.results, undisturbed.folder, repeated)
    found += [(disturbed.results / "errors").read_text()[-500:]] if found else []
    tally.problems += [f"trial {tally.trials} ({title}, ends {statuses}): {text}" for text in found]
    tally.trials += 1


# Trials as a user starts them


def start(results: Path) -> subprocess.Popen:
    """Start the trial as a user does, in a session of its own."""
    return subprocess.Popen(
        [*APART, f"results={results}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip


def workers(results: Path) -> list[int]:
    """Return the processes inside the results folder: a runner, and those that it started."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(results.resolve()):
                pids.append(int(process.name))
    return pids


def orphans(results: Path) -> list[int]:
    """Return the workers that still run five seconds after their referee has ended."""
    deadline = time.monotonic() + 5
    while (pids := workers(results)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return pids


def strike(results: Path, rng: random.Random, seconds: float) -> tuple[str, int, str] | None:
    """Start or continue the trial, and disturb it. Return the fault, the status and stderr.

    Return None if the trial ended before the fault.

    Args:
        seconds: how long the undisturbed trial took.
    """
    steps_before, race = progress(results), start(results)
    if rng.random() < 0.6:
        # Disturb it while it trains.
        step = rng.randint(steps_before + 1, max(steps_before + 1, HORIZON - 5))
        is_due = lambda: progress(results) >= step  # noqa: E731
    else:
        moment = time.monotonic() + rng.uniform(0, seconds)
        is_due = lambda: time.monotonic() >= moment  # noqa: E731
    while race.poll() is None and not is_due():
        time.sleep(0.001)
    if race.poll() is not None:
        race.communicate()
        return None
    kind = rng.choice(("referee", "runner", "both", "signal"))
    number = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
    with suppress(ProcessLookupError):
        if kind == "signal":
            os.killpg(race.pid, number)
        if kind in ("referee", "both"):
            os.kill(race.pid, signal.SIGKILL)
    for pid in workers(results) * (kind in ("runner", "both")):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, stderr = race.communicate(timeout=120)
    return kind, race.returncode, stderr


def apart(tally: Tally, folder: Path, rng: random.Random, most: int) -> None:
    """Race a trial with a runner process and at most `most` faults, and compare it as `small`."""
    undisturbed, results = folder / "undisturbed", folder / f"apart-{tally.trials}"
    start_time = time.monotonic()
    _, stderr_of_undisturbed = start(undisturbed).communicate()
    whole, seconds = folder_of(undisturbed), max(4.0, time.monotonic() - start_time)
    if whole is None or not run_folder.finished(whole):
        tally.problems.append(f"the undisturbed trial failed: {stderr_of_undisturbed}")
        return
    for _ in range(most):
        strike_result = strike(results, rng, seconds)
        if strike_result is None:
            break
        kind, status, stderr = strike_result
        tally.faults[f"apart: {kind}"] += 1
        tally.statuses[str(status)] += 1
        # The signal came before the trial had anything to save.
        early = status in (-15, -10, 130) and kind == "signal"
        killed = status == -9 and kind in ("referee", "both")
        if not (status in STATUS or early or killed) or "Traceback" in stderr:
            tally.problems.append(f"apart: {kind} ended with status {status}: {stderr[-800:]}")
        if left := orphans(results):
            tally.problems.append(f"apart: {kind} left processes {left}")
    start(results).communicate()
    tally.problems += [f"apart: {text}" for text in differences(results, whole, 0)]
    tally.trials += 1


def differences(results: Path, whole: Path, repeated: int) -> list[str]:
    """Return what must be equal in the records of a disturbed and an undisturbed trial, and is not.

    Args:
        repeated: steps that were certainly made twice; at least as many must be charged.
    """
    folder = folder_of(results)
    disturbed, undisturbed = (
        run_folder.finished(path) if path else None for path in (folder, whole)
    )
    if not disturbed or not undisturbed or not folder:
        return ["it did not end"]
    names = ("run_id", "outcome", "weights", "final", "counts", "samples", "state_bytes", "step")
    problems = [
        f"{k}: {disturbed.get(k)}, undisturbed {undisturbed.get(k)}"
        for k in names
        if disturbed.get(k) != undisturbed.get(k)
    ]
    curves = [
        [
            {key: row[key] for key in KEPT}
            for row in run_folder.evaluations(rows(path / "log.jsonl"))
        ]
        for path in (folder, whole)
    ]
    problems += ["the curves differ"] * (curves[0] != curves[1])
    (verdict,) = examine([folder])
    problems += [f"it breaks: {rule} ({why})" for rule, why in verdict.fails]
    if disturbed["lost_steps"] < repeated:
        problems.append(f"{repeated} steps were repeated, {disturbed['lost_steps']} were charged")
    return problems


def run(
    tally: Tally, folder: Path, faults: float, minutes: float, share: float, report=print
) -> None:
    """Race trials until there are `faults` more faults, or `minutes` have passed."""
    rng = random.Random(f"{tally.trials} {sum(tally.faults.values())}")
    start, faults_before, seconds_before = (
        time.monotonic(),
        sum(tally.faults.values()),
        tally.seconds,
    )
    for name in SUBMISSIONS:  # here, once: what it imports, the forked processes have
        assert tiny.race(tiny.trial(name, folder / "warm")).exit_code == 0, name
    neighbour = tiny.trial("gd", folder / "neighbour")
    neighbour.results.mkdir(parents=True)
    waited(attempt(neighbour))
    content, last_report = tiny.content(neighbour.folder), start
    while True:
        faults_done = sum(tally.faults.values()) - faults_before
        tally.seconds = seconds_before + time.monotonic() - start
        if faults_done >= faults or time.monotonic() - start >= 60 * minutes:
            break
        if time.monotonic() - last_report > 30:
            last_report = time.monotonic()
            report(tally.text())
        # An apart trial has about four faults.
        race_one = apart if rng.random() < share / 4 else small
        race_one(tally, folder, rng, int(min(faults - faults_done, 12 if race_one is small else 4)))
    if tiny.content(neighbour.folder) != content:
        tally.problems.append("another result has changed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--faults", type=float, default=float("inf"))
    parser.add_argument("--apart", type=float, default=1.0, metavar="PERCENT",
                        help="of the faults hit trials with their own runner (1)")  # fmt: skip
    parser.add_argument("--tally", type=Path, help="a JSON file to add to")
    arguments = parser.parse_args()
    if arguments.minutes == arguments.faults == float("inf"):
        parser.error("say when to end: --minutes or --faults")
    picture.draw_trial = lambda *_: None  # drawing would be most of a small trial
    tally, before = Tally.read(arguments.tally), 0
    before = len(tally.problems)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(tally, Path(folder), arguments.faults, arguments.minutes, arguments.apart / 100)
        except KeyboardInterrupt:
            print("stopped")
        tally.write(arguments.tally)
    print(
        "\n".join(tally.problems[before:])
        or "OK: nothing was lost, left behind or judged otherwise"
    )
    print(tally.text())
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
