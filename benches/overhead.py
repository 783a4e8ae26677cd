"""Measure what the harness costs: CPU time of a step of a race against a bare PyTorch loop.

    python benches/overhead.py [--pairs 3] [--steps 200]

Without --steps a race has the workload's own horizon and evaluations, as users run it. Race and
loop train the gpt2 mini model with torch's fused AdamW on the same batches, with one thread. The
bare loop is a process that only trains. Loop and race of a pair run at the same time, each on a
core of its own, so that other load slows both; they change cores from pair to pair. The bench
prints medians over pairs of the ratio of CPU seconds a step:
  training  those of the runner's process tree between two evaluations
  whole     the same plus the referee's evaluation, hand-over, checkpoint and logging
It also prints the wall time of set-up, from the command to the first step, and the harness's part
of it: the time beyond the import of torch and of what torch.optim imports for an optimizer.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from harness.catalog.discover import ROOT

SUBMISSION = '''"""AdamW of torch, fused: the same update as the bare loop's."""

import torch

SPACE = {"lr": 4e-3, "wd": 0.1}


def optimizer(params, hp):
    return torch.optim.AdamW(params, lr=hp.lr, betas=(0.9, 0.95), weight_decay=hp.wd, fused=True)
'''

BARE = """
import sys, time, yaml, torch
from harness.catalog.data import open_data, prepare
from harness.catalog.definition import define, load_workload
from harness.seeds import derive
torch.set_num_threads(1)
steps, warm = int(sys.argv[1]), int(sys.argv[2])
tree = yaml.safe_load(open(sys.argv[3]))
definition = define("gpt2", tree, "mini", None)
module, config = load_workload(definition), definition.config
data = open_data(prepare(definition, "train"))
torch.manual_seed(derive(0, "init"))
model = module.model(config)
optimizer = torch.optim.AdamW(
    model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
)
order = torch.randperm(module.size(data, config))
start = 0.0
for step in range(warm + steps):
    if step == warm:
        start = time.process_time()
    batch = module.batch(data, order[step * config.batch : (step + 1) * config.batch], config)
    loss = module.loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
print((time.process_time() - start) / steps)
"""


def bare(steps: int, warm: int, core: int) -> subprocess.Popen:
    """Start a plain loop in a fresh process on a core. It prints its CPU seconds a step."""
    tree = ROOT / "conf" / "workload" / "gpt2.yaml"
    arguments = [sys.executable, "-c", BARE, str(steps), str(warm), str(tree)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        arguments, env=env, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip


def race(folder: Path, steps: int, points: int, seed: int, core: int, *settings: str) -> dict:
    """Return the CPU seconds a step of a race on a core: in the runner, and with the referee."""
    file = folder / "torch_adamw.py"
    file.write_text(SUBMISSION)
    command = [
        sys.executable, "-m", "harness", "workload=gpt2", f"submission={file}",
        f"results={folder}", "tracker=none", f"seed={seed}", f"workload.mini.horizon={steps}",
        f"workload.mini.evaluate.points={points}", *settings,
    ]  # fmt: skip
    subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    run = max((folder / "runs").glob("*/*/*/run.json"), key=os.path.getmtime)
    rows = [json.loads(line) for line in (run.parent / "log.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["event"] == "evaluation"]

    def per_step(key: str, a: dict, b: dict) -> float:
        return (b[key] - a[key]) / (b["step"] - a["step"])

    # The first segment warms up, as in the bare loop.
    segments = evaluations[1:]
    per_segment = [per_step("cpu_seconds", a, b) for a, b in itertools.pairwise(segments)]
    training = statistics.mean(per_segment)
    evaluating = per_step("referee_cpu_seconds", segments[0], segments[-1])
    return {"training": training, "whole": training + evaluating}


def set_up(folder: Path) -> float:
    """Return the wall seconds from the command of a race to its first step, without other load."""
    command = [
        sys.executable, "-m", "harness", "workload=gpt2", f"submission={folder / 'torch_adamw.py'}",
        f"results={folder / 'short'}", "tracker=none", "workload.mini.horizon=4",
        "workload.mini.evaluate.points=2", f"seed={time.time_ns() % 10**6}",
    ]  # fmt: skip
    start = time.time()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    run = max((folder / "short/runs").glob("*/*/*/log.jsonl"), key=os.path.getmtime)
    rows = [json.loads(line) for line in run.read_text().splitlines()]
    return next(row["at"] for row in rows if row["event"] == "evaluation") - start


def importing() -> float:
    """Return the wall seconds of a process that imports torch and what its optimizers import."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch, torch._dynamo"], check=True)
    return time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    block = yaml.safe_load((ROOT / "conf" / "workload" / "gpt2.yaml").read_text())["mini"]
    # The usual number of steps between two evaluations.
    usual = block["horizon"] // block["evaluate"]["points"]
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=block["horizon"])
    arguments = parser.parse_args()
    points = max(2, arguments.steps // usual)
    cores, rows = sorted(os.sched_getaffinity(0))[:2], []
    if len(cores) < 2:
        raise SystemExit("benches/overhead.py: two cores are needed")
    with tempfile.TemporaryDirectory() as name:
        for pair in range(arguments.pairs):
            start, (core_of_loop, core_of_race) = time.monotonic(), cores[:: 1 if pair % 2 else -1]
            bare_loop = bare(arguments.steps, arguments.steps // points, core_of_loop)
            raced = race(Path(name), arguments.steps, points, pair, core_of_race)
            alone = float(bare_loop.communicate()[0])
            setup = set_up(Path(name))
            training, whole = raced["training"], raced["whole"]
            rows.append((training / alone, whole / alone, setup, setup - importing()))
            print(
                f"pair {pair}: bare {alone * 1e3:.2f} ms, "
                f"training {training * 1e3:.2f} ms ({rows[-1][0]:.3f}), "
                f"whole {whole * 1e3:.2f} ms ({rows[-1][1]:.3f}), "
                f"set-up {setup:.1f} s, own {rows[-1][3]:.2f} s, {time.monotonic() - start:.0f} s",
                flush=True,
            )
    training, whole, setup, own = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"median of {arguments.pairs} pairs: training x{training:.3f} (at most 1.02), "
        f"with evaluation and logging x{whole:.3f} (at most 1.10)"
    )
    print(
        f"set-up from command to first step {setup:.1f} s wall (at most 6), "
        f"the harness's part {own:.2f} s (at most 1 beyond importing torch)"
    )
    return 0 if training <= 1.02 and whole <= 1.10 else 1


if __name__ == "__main__":
    sys.exit(main())
