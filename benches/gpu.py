"""Parts of benches/gpu.sh: a slice of a race, and the overhead of a race over a bare loop.

    python -m benches.gpu race gpt2 adamw --scale base --engine gpu --steps 200 --points 4
    python -m benches.gpu overhead --scale base --engine gpu --steps 200
    python -m benches.gpu prepare gpt2 vit --scale base

Each prints one line of JSON. Seconds are wall seconds of a device that has finished its work.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benches.overhead import SUBMISSION
from harness.catalog.data import open_data, prepare
from harness.catalog.definition import define, load_workload, tree_of
from harness.catalog.discover import ROOT
from harness.race import configuration
from harness.seeds import derive

# Steps of the bare loop before it is timed, and the share of a race's steps that is not.
WARM = 3


def race(workload: str, submission: str, asked: argparse.Namespace, more: list[str]) -> dict:
    """Run a race for some steps; return its figures.

    Raises:
        SystemExit: the race failed.
    """
    block, stem = f"workload.{asked.scale}", Path(submission).stem
    # A folder of its own: the record found there is that of this race.
    results = Path(asked.results) / "-".join([workload, stem, *more]).replace("=", "-")
    command = [
        sys.executable, "-m", "harness", f"workload={workload}", f"submission={submission}",
        f"scale={asked.scale}", f"engine={asked.engine}", f"results={results}",
        "tracker=none", "until=budget", "tuned=false", f"{block}.horizon={asked.steps}",
        f"{block}.evaluate.points={asked.points}", *more,
    ]  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    runs = list(results.glob("runs/*/*/*/run.json"))
    # A slice of the budget seldom reaches a goal; that is status 1 and no failure here.
    newest = max(runs, key=os.path.getmtime) if runs else None
    record = json.loads(newest.read_text()) if newest else {"outcome": None}
    if newest is None or record["outcome"] not in ("out_of_budget", "reached"):
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    rows = [json.loads(line) for line in (newest.parent / "log.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["event"] == "evaluation"]
    # The first segment warms up.
    first, last = evaluations[1], evaluations[-1]
    steps = last["step"] - first["step"]
    segments = evaluations[2:]
    inside = sum(sum(row["inside"].values()) for row in segments)
    return {
        "workload": f"{workload}.{asked.scale}",
        "submission": submission,
        "settings": more,
        "seconds": round(time.monotonic() - begun, 1),
        "step_ms": 1e3 * (last["wall_seconds"] - first["wall_seconds"]) / steps,
        "inside_ms": 1e3 * inside / steps,
        "outside_ms": 1e3 * sum(row["outside"] for row in segments) / steps,
        "reference_step_ms": 1e3 * last["anchor"],
        "losses": [row["metrics"]["loss"] for row in evaluations],
        "reference_seconds": record["end"]["total"],
    }


def bare(scale: str, engine: dict, steps: int) -> float:
    """Return the seconds of a step of a plain loop: gpt2, torch's fused AdamW, the same batches."""
    definition = define("gpt2", tree_of("gpt2"), scale, None)
    module, config = load_workload(definition), definition.config
    torch.set_num_threads(engine["threads"])
    device = torch.device(engine["device"])
    data = open_data(prepare(definition, "train"), engine["device"])
    torch.manual_seed(derive(0, "init"))
    model = module.model(config).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    order = torch.randperm(module.size(data, config))
    begun = 0.0
    for step in range(WARM + steps):
        if step == WARM:
            finish(device)
            begun = time.perf_counter()
        index = order[step * config.batch : (step + 1) * config.batch]
        batch = {k: v.to(device) for k, v in module.batch(data, index, config).items()}
        optimizer.zero_grad(set_to_none=True)
        module.loss(model, batch).backward()
        optimizer.step()
    finish(device)
    return (time.perf_counter() - begun) / steps


def prepared(workloads: list[str], scale: str) -> dict:
    """Prepare the data of workloads; return the seconds that each took."""
    seconds = {}
    for name in workloads:
        begun = time.monotonic()
        for split in ("train", "val"):
            prepare(define(name, tree_of(name), scale, None), split)
        seconds[f"{name}.{scale}"] = round(time.monotonic() - begun, 1)
    return seconds


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def overhead(asked: argparse.Namespace) -> dict:
    """Return a race's step and a bare loop's, and their ratio."""
    engine = configuration.engine_for(configuration.engine_named(asked.engine), asked.scale)
    folder = Path(asked.results)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "torch_adamw.py"
    file.write_text(SUBMISSION)
    raced = race("gpt2", str(file), asked, [])
    alone = 1e3 * bare(asked.scale, engine, asked.steps)
    return {"bare_ms": alone, "race_ms": raced["step_ms"], "ratio": raced["step_ms"] / alone}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["race", "overhead", "prepare"])
    parser.add_argument("names", nargs="*", metavar="WORKLOAD SUBMISSION SETTING=VALUE")
    parser.add_argument("--scale", default="base")
    parser.add_argument("--engine", default="gpu")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--results", default="results")
    asked = parser.parse_intermixed_args()
    if asked.what == "prepare":
        result = prepared(asked.names, asked.scale)
    elif asked.what == "overhead":
        result = overhead(asked)
    else:
        workload, submission, *more = asked.names
        result = race(workload, submission, asked, more)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
