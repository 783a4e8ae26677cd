"""Random faults against random trials, for minutes or hours; compared with undisturbed trials.

    python benches/soak.py --minutes 5 --tally soak.json    # again: adds to the tally
    python benches/soak.py --faults 1000

Most trials are small ones in a forked process that is referee and runner in one (imports, which
would be most of the time, are paid once); of every hundred faults `--apart` hit trials as a user
starts them, with a runner of its own. What may happen to a trial, again and again until it ends:

    kill     SIGKILL at any moment (apart: to the referee, the runner, or both)
    signal   SIGTERM, SIGUSR1, SIGINT or two SIGINTs at any moment
    pause    SIGSTOP for a while, then SIGCONT
    write    one open, write, fsync or rename fails: an I/O error, or no room
    crash    the process ends in the middle of one of them, half of a write written
    damage   between two attempts: a checkpoint flipped or cut, a torn line, half a record

Law: each attempt ends with a status that has a name; no process is left; other results keep every
byte; and the trial ends with the weights, counts, curve and outcome of the undisturbed one, keeps
all rules of `harness comply`, and is charged every step that was lost.
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
WRITES = 80  # calls that write in a small trial, and some
STATUS = {0, 1, 2, 75}  # named ends; 99 is a traceback
CUT = 77  # how an attempt ends that dies in the middle of a call
LINUX = sys.platform == "linux"
CALLS = ("open", "write", "fsync", "replace")
KEPT = ("step", "samples", "counts", "metrics", "train_loss", "weights", "goal")
HORIZON = 60  # steps of a trial as a user starts it
APART = [
    sys.executable, "-m", "harness", "workload=gpt2", "submission=lion", "tracker=none",
    "workload.mini.batch=2", f"workload.mini.horizon={HORIZON}",
    "workload.mini.evaluate={points: 6, batch: 80}",
]  # fmt: skip


@dataclass
class Tally:
    """What was done and what was found, over any number of calls."""

    faults: Counter = field(default_factory=Counter)
    statuses: Counter = field(default_factory=Counter)
    trials: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path | None) -> "Tally":
        if path is None or not path.exists():
            return cls()
        kept = read_json(path)
        counts = {name: Counter(kept.pop(name)) for name in ("faults", "statuses")}
        return cls(**counts, **kept)

    def write(self, path: Path | None) -> None:
        if path:
            atomic_json(path, vars(self))

    def told(self) -> str:
        faults = ", ".join(f"{name} {n}" for name, n in sorted(self.faults.items()))
        head = f"{sum(self.faults.values())} faults in {self.trials} trials"
        return f"{head}, {self.seconds / 60:.1f} minutes ({faults}): {len(self.problems)} problems"


def folder_of(results: Path) -> Path | None:
    return next(iter(results.glob("runs/*/*/*")), None)


def progress(results: Path) -> int:
    """The number of steps the trial has come to."""
    folder = folder_of(results)
    path = folder / "progress" if folder else None
    return int.from_bytes(path.read_bytes()[:8], "little") if path and path.exists() else 0


# Small trials, in a forked process


def attempt(planned, prepare=lambda: None) -> int:
    """Fork a process that races the trial; returns its pid. `prepare` runs in it first.

    Signals wait until the child has its own handlers: with ours, Ctrl-C would unwind a copy of us.
    """
    asking = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asking)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    status = 99
    try:
        os.setsid()
        for number in asking:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with open(planned.results / "errors", "a") as errors:
            os.dup2(errors.fileno(), 2)
        write, steps = (
            os.write,
            os.open(planned.results / "steps", os.O_CREAT | os.O_APPEND | os.O_WRONLY),
        )
        prepare()
        watcher = Watcher(lambda step: write(steps, b"."))  # a byte for every step that is begun
        status = referee.race(planned, watcher).exit_code
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
    """The exit status of an attempt; minus the signal's number where one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def failing(at: int, code: int | None):
    """Let call `at` that writes fail with an error code, or with None end the process in it."""

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


def damaged(folder: Path, chance: random.Random) -> None:
    """Damage a trial's files as crashes and bad disks do."""
    found = sorted((folder / "checkpoint").glob("step-*"))
    what = chance.choice(("flip", "cut", "torn", "half", "leftover"))
    if what in ("flip", "cut") and found:
        content = bytearray(found[-1].read_bytes())
        at = chance.randrange(len(content))
        content[at] ^= 1 << chance.randrange(8)
        found[-1].write_bytes(content if what == "flip" else content[:at])
    elif what == "torn" and (folder / "log.jsonl").exists():
        with open(folder / "log.jsonl", "a") as file:
            file.write('{"event": "evaluation", "st')
    elif what == "half" and folder.exists():
        (folder / "run.json").write_text('{"schema": 1, "outcome": "rea')
    elif what == "leftover" and found:
        (folder / "checkpoint" / ".step-000000003-00.safetensors.aa.tmp").write_bytes(b"half")


def disturb(planned, chance: random.Random, seconds: float) -> tuple[str, int]:
    """One attempt at the trial and one fault; returns the fault and the attempt's status."""
    kind = chance.choice(("kill", "signal", "pause", "write", "crash", "damage"))
    if kind in ("write", "crash"):
        code = chance.choice((errno.EIO, errno.ENOSPC)) if kind == "write" else None
        return kind, waited(attempt(planned, failing(chance.randint(1, WRITES), code)))
    pid = attempt(planned)
    time.sleep(chance.uniform(0, seconds))
    with suppress(ProcessLookupError):
        if kind == "signal":
            numbers = chance.choice(("TERM", "USR1", "INT", "INT INT")).split()
            for name in numbers:
                os.kill(pid, getattr(signal, f"SIG{name}"))
                time.sleep(chance.uniform(0, 0.002))
        elif kind == "pause":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, signal.SIGCONT)
        else:
            os.kill(pid, signal.SIGKILL)
    status = waited(pid)
    if kind == "damage" and not run_folder.finished(planned.folder):
        damaged(planned.folder, chance)
    return kind, status


def fine(status: int, kind: str) -> bool:
    """Whether an attempt's end has a name: a status of ours, or the signal that we sent."""
    killed = {"kill": {-9}, "damage": {-9}, "crash": {CUT}, "signal": {-15, -10, -2, 130}}
    return status in STATUS | killed.get(kind, set())


def note(tally: Tally, kind: str, status: int, who: str, results: Path) -> None:
    """Count a fault; say what is wrong with how the attempt ended."""
    tally.faults[kind] += 1
    tally.statuses[str(status)] += 1
    if not fine(status, kind):
        errors = (results / "errors").read_text()[-800:] if (results / "errors").exists() else ""
        tally.problems.append(f"{who}: {kind} ended with status {status}: {errors}")


def small(tally: Tally, results: Path, chance: random.Random, most: int) -> None:
    """One small trial with at most `most` faults, compared with the same trial undisturbed."""
    name, seed, bound = chance.choice(SUBMISSIONS), chance.randrange(3), chance.choice((0.9, 1e-6))
    who, numbers = f"{name} seed {seed} goal {bound}", {"relative_error": {"at_most": bound}}
    make = lambda where: tiny.trial(name, where, seed=seed, numbers={"goal": numbers})  # noqa: E731
    whole = make(results / "whole" / f"{name}-{bound}")
    whole.results.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    waited(attempt(whole))
    seconds = max(0.06, time.monotonic() - begun)
    planned, ends = make(results / f"trial-{tally.trials}"), []
    planned.results.mkdir()
    for _ in range(min(most, chance.randint(1, 12))):
        if run_folder.finished(planned.folder):
            break
        kind, status = disturb(planned, chance, seconds)
        note(tally, kind, status, who, planned.results)
        ends.append(status)
    waited(attempt(planned))
    cut = sum(status != 0 for status in ends)  # each may have begun a step and not finished it
    repeated = (planned.results / "steps").stat().st_size - progress(planned.results) - cut
    told = differences(planned.results, whole.folder, repeated)
    told += [(planned.results / "errors").read_text()[-500:]] if told else []
    tally.problems += [f"trial {tally.trials} ({who}, ends {ends}): {text}" for text in told]
    tally.trials += 1


# Trials as a user starts them


def start(results: Path) -> subprocess.Popen:
    """The trial as a user starts it, in a session of its own."""
    return subprocess.Popen(
        [*APART, f"results={results}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip


def workers(results: Path) -> list[int]:
    """Processes at work inside the results folder: a runner, and whatever it started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(results.resolve()):
                found.append(int(process.name))
    return found


def orphans(results: Path) -> list[int]:
    """Workers that are still there five seconds after their referee has gone."""
    deadline = time.monotonic() + 5
    while (left := workers(results)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def strike(results: Path, chance: random.Random, seconds: float) -> tuple[str, int, str] | None:
    """Start or continue the trial, and strike; what was done, the status, what was said.

    None: the trial ended before.

    Args:
        seconds: how long the undisturbed trial took.
    """
    before, race = progress(results), start(results)
    if chance.random() < 0.6:  # while it trains
        step = chance.randint(before + 1, max(before + 1, HORIZON - 5))
        due = lambda: progress(results) >= step  # noqa: E731
    else:
        moment = time.monotonic() + chance.uniform(0, seconds)
        due = lambda: time.monotonic() >= moment  # noqa: E731
    while race.poll() is None and not due():
        time.sleep(0.001)
    if race.poll() is not None:
        race.communicate()
        return None
    kind = chance.choice(("referee", "runner", "both", "signal"))
    number = chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
    with suppress(ProcessLookupError):
        if kind == "signal":
            os.killpg(race.pid, number)
        if kind in ("referee", "both"):
            os.kill(race.pid, signal.SIGKILL)
    for pid in workers(results) * (kind in ("runner", "both")):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, said = race.communicate(timeout=120)
    return kind, race.returncode, said


def apart(tally: Tally, folder: Path, chance: random.Random, most: int) -> None:
    """One trial with a runner of its own and at most `most` faults; compared as above."""
    undisturbed, results = folder / "undisturbed", folder / f"apart-{tally.trials}"
    begun = time.monotonic()
    _, complaint = start(undisturbed).communicate()
    whole, seconds = folder_of(undisturbed), max(4.0, time.monotonic() - begun)
    if whole is None or not run_folder.finished(whole):
        tally.problems.append(f"the undisturbed trial failed: {complaint}")
        return
    for _ in range(most):
        struck = strike(results, chance, seconds)
        if struck is None:
            break
        kind, status, said = struck
        tally.faults[f"apart: {kind}"] += 1
        tally.statuses[str(status)] += 1
        early = status in (-15, -10, 130) and kind == "signal"  # before there was anything to save
        killed = status == -9 and kind in ("referee", "both")
        if not (status in STATUS or early or killed) or "Traceback" in said:
            tally.problems.append(f"apart: {kind} ended with status {status}: {said[-800:]}")
        if left := orphans(results):
            tally.problems.append(f"apart: {kind} left processes {left}")
    start(results).communicate()
    tally.problems += [f"apart: {text}" for text in differences(results, whole, 0)]
    tally.trials += 1


def differences(results: Path, whole: Path, repeated: int) -> list[str]:
    """What a disturbed trial's record differs in from the undisturbed one, where it must not.

    Args:
        repeated: steps that were certainly made twice; at least as many must be charged.
    """
    folder = folder_of(results)
    mine, other = (run_folder.finished(one) if one else None for one in (folder, whole))
    if not mine or not other or not folder:
        return ["it did not come to its end"]
    names = ("run_id", "outcome", "weights", "final", "counts", "samples", "state_bytes", "step")
    found = [
        f"{k}: {mine.get(k)}, undisturbed {other.get(k)}"
        for k in names
        if mine.get(k) != other.get(k)
    ]
    curves = [
        [{key: row[key] for key in KEPT} for row in run_folder.evaluations(rows(one / "log.jsonl"))]
        for one in (folder, whole)
    ]
    found += ["the curves differ"] * (curves[0] != curves[1])
    (verdict,) = examine([folder])
    found += [f"it breaks: {rule} ({why})" for rule, why in verdict.fails]
    if mine["lost_steps"] < repeated:
        found.append(f"{repeated} steps were repeated, {mine['lost_steps']} were charged")
    return found


def run(tally: Tally, folder: Path, faults: float, minutes: float, share: float, say=print) -> None:
    """Go on until there are `faults` more faults, or `minutes` are over."""
    chance = random.Random(f"{tally.trials} {sum(tally.faults.values())}")
    begun, first, spent = time.monotonic(), sum(tally.faults.values()), tally.seconds
    for name in SUBMISSIONS:  # here, once: what it imports, the forked processes have
        assert tiny.race(tiny.trial(name, folder / "warm")).exit_code == 0, name
    neighbour = tiny.trial("gd", folder / "neighbour")
    neighbour.results.mkdir(parents=True)
    waited(attempt(neighbour))
    kept, last = tiny.content(neighbour.folder), begun
    while True:
        done = sum(tally.faults.values()) - first
        tally.seconds = spent + time.monotonic() - begun
        if done >= faults or time.monotonic() - begun >= 60 * minutes:
            break
        if time.monotonic() - last > 30:
            last = time.monotonic()
            say(tally.told())
        kind = apart if chance.random() < share / 4 else small  # an apart trial has about four
        kind(tally, folder, chance, int(min(faults - done, 12 if kind is small else 4)))
    if tiny.content(neighbour.folder) != kept:
        tally.problems.append("another result has changed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--faults", type=float, default=float("inf"))
    parser.add_argument("--apart", type=float, default=1.0, metavar="PERCENT",
                        help="of the faults hit trials with their own runner (1)")  # fmt: skip
    parser.add_argument("--tally", type=Path, help="a JSON file to add to")
    asked = parser.parse_args()
    if asked.minutes == asked.faults == float("inf"):
        parser.error("say when to end: --minutes or --faults")
    picture.draw_trial = lambda *_: None  # drawing would be most of a small trial
    tally, before = Tally.read(asked.tally), 0
    before = len(tally.problems)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(tally, Path(folder), asked.faults, asked.minutes, asked.apart / 100)
        except KeyboardInterrupt:
            print("stopped")
        tally.write(asked.tally)
    print(
        "\n".join(tally.problems[before:])
        or "OK: nothing was lost, left behind or judged otherwise"
    )
    print(tally.told())
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
