"""What the harness costs: CPU time per step of a race against a bare PyTorch loop, in pairs.

    python scripts/bench_overhead.py [--pairs 3] [--steps 200]

Without --steps a race has the workload's own horizon and evaluations, as users run it. Both
train the gpt2 mini model with torch's fused AdamW on the same batches, one thread. The bare
loop is a process of its own that does nothing but train. Per pair (bare, race, in alternating
order) the ratio of CPU seconds per step is taken; quoted are medians over the pairs:
  training  what the runner's process tree spent between two evaluations, per step
  whole     the same plus the referee's evaluation, hand-over, checkpoint and logging
Set-up is the wall time from the command to the first step, and our own part of it: what goes beyond
the import of torch, and of what torch.optim imports when an optimizer is made.
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

from harness.discover import ROOT

SUBMISSION = '''"""AdamW of torch, fused: the same update as the bare loop's."""

import torch

SPACE = {"lr": 4e-3, "wd": 0.1}


def optimizer(params, hp):
    return torch.optim.AdamW(params, lr=hp.lr, betas=(0.9, 0.95), weight_decay=hp.wd, fused=True)
'''

BARE = """
import sys, time, yaml, torch
from harness import plan, workload
from harness.seeds import derive
torch.set_num_threads(1)
steps, warm = int(sys.argv[1]), int(sys.argv[2])
tree = yaml.safe_load(open(sys.argv[3]))
definition = workload.define("gpt2", tree, "mini", None)
module, config = workload.load(definition), definition.config
data = workload.open_data(workload.prepare(definition, "train"))
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


def bare(steps: int, warm: int) -> float:
    """CPU seconds per step of a plain loop in a fresh process."""
    tree = ROOT / "conf" / "workload" / "gpt2.yaml"
    arguments = [sys.executable, "-c", BARE, str(steps), str(warm), str(tree)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout)


def race(folder: Path, steps: int, points: int, seed: int) -> dict:
    """CPU seconds per step of a race: in the runner, and in all (referee included)."""
    file = folder / "torch_adamw.py"
    file.write_text(SUBMISSION)
    command = [
        sys.executable, "-m", "harness", "workload=gpt2", f"submission={file}",
        f"results={folder}", "tracker=none", f"seed={seed}", f"workload.mini.horizon={steps}",
        f"workload.mini.evaluate.points={points}",
    ]  # fmt: skip
    launched = time.time()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    run = max((folder / "runs").glob("*/*/*/run.json"), key=os.path.getmtime)
    rows = [json.loads(line) for line in (run.parent / "log.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["event"] == "evaluation"]

    def per_step(key: str, a: dict, b: dict) -> float:
        return (b[key] - a[key]) / (b["step"] - a["step"])

    timed = evaluations[1:]  # the first segment warms up, as the bare loop does
    each = [per_step("cpu_seconds", a, b) for a, b in itertools.pairwise(timed)]
    training = statistics.mean(each)
    judging = per_step("referee_cpu_seconds", timed[0], timed[-1])
    setup = evaluations[0]["at"] - launched
    return {"training": training, "whole": training + judging, "setup": setup}


def importing() -> float:
    """Wall seconds of a process that only imports torch, with what its optimizers import."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch, torch._dynamo"], check=True)
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    block = yaml.safe_load((ROOT / "conf" / "workload" / "gpt2.yaml").read_text())["mini"]
    usual = block["horizon"] // block["evaluate"]["points"]  # steps between two evaluations
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=block["horizon"])
    asked = parser.parse_args()
    points = max(2, asked.steps // usual)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for pair in range(asked.pairs):
            begun = time.monotonic()
            first = bare(asked.steps, asked.steps // points) if pair % 2 == 0 else None
            raced = race(Path(name), asked.steps, points, pair)
            alone = first or bare(asked.steps, asked.steps // points)
            training, whole, setup = raced["training"], raced["whole"], raced["setup"]
            rows.append((training / alone, whole / alone, setup, setup - importing()))
            print(
                f"pair {pair}: bare {alone * 1e3:.2f} ms, "
                f"training {training * 1e3:.2f} ms ({rows[-1][0]:.3f}), "
                f"whole {whole * 1e3:.2f} ms ({rows[-1][1]:.3f}), "
                f"set-up {setup:.1f} s, {time.monotonic() - begun:.0f} s"
            )
    training, whole, setup, own = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"median of {asked.pairs} pairs: training x{training:.3f} (at most 1.02), "
        f"with evaluation and logging x{whole:.3f} (at most 1.10)"
    )
    print(
        f"set-up from command to first step {setup:.1f} s wall (at most 6), "
        f"our own part {own:.2f} s (at most 1 beyond importing torch)"
    )
    return 0 if training <= 1.02 and whole <= 1.10 else 1


if __name__ == "__main__":
    sys.exit(main())
