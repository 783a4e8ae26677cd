"""Race methods at two scales with tuned learning rates, for scripts/transfer.py.

    python -m benches.transfer stream_split accuracy er derpp ewc ... --lrs 0.003 0.01 0.03 0.1

At each scale, each method first trains with every learning rate of --lrs on one seed; the rate with
the best last value of the metric is its own. With that rate it trains on --seeds further seeds. All
other hyperparameters have the defaults of SPACE, and all trials train to the end of the budget. The
trials run in this process (isolation=inline): their last values are compared, not their seconds.

It writes results/transfer/WORKLOAD.json. Trials that are in --results are not run again.
"""

import argparse
import sys
from pathlib import Path

import torch

from harness.cli import api
from harness.errors import UserError
from harness.system.files import atomic_json
from harness.system.paths import ROOT

SCALES = ("mini", "small")
# The seed of the tuning; the others count from 0.
TUNING = 100
PLACE = ROOT / "results" / "transfer"


def last(asked: argparse.Namespace, method: str, scale: str, lr: float, seed: int) -> float | None:
    """Return a trial's last value of the metric; None if it diverged."""
    result = api.race(
        asked.workload,
        method,
        hp={"lr": lr},
        scale=scale,
        seed=seed,
        quiet=True,
        results=str(asked.results),
        isolation="inline",
        until="budget",
        tracker="none",
        tuned=False,
        **({} if asked.budget is None else {"budget": asked.budget}),
    )
    if result.outcome not in ("reached", "out_of_budget", "diverged"):
        raise SystemExit(f"{method} at {scale}: {result.outcome}, {result.record['reason']}")
    done = result.outcome != "diverged"
    value = result.record["final"][asked.metric] if done else None
    print(f"{method} {scale} lr={lr:g} seed={seed}: {value}", flush=True)
    return value


def raced(asked: argparse.Namespace, method: str, scale: str) -> dict:
    """Return a method's tuning and its last values on the seeds at one scale."""
    sign = -1.0 if asked.least else 1.0
    tuning = {lr: last(asked, method, scale, lr, TUNING) for lr in asked.lrs}
    known = {lr: sign * value for lr, value in tuning.items() if value is not None}
    if not known:
        raise SystemExit(f"{method} diverged at {scale} with every rate of --lrs")
    lr = max(known, key=known.__getitem__)
    values = [last(asked, method, scale, lr, seed) for seed in range(asked.seeds)]
    return {"lr": lr, "tuning": [[rate, value] for rate, value in tuning.items()], "seeds": values}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload")
    parser.add_argument("metric", help="a metric of the workload: accuracy, loss, ...")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--lrs", nargs="+", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, help="share of the budget; default: the usual one")
    parser.add_argument("--least", action="store_true", help="the smallest value is the best")
    parser.add_argument("--results", type=Path, default=Path("results"))
    asked = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    PLACE.mkdir(parents=True, exist_ok=True)
    methods = {}
    for method in asked.methods:
        methods[method] = {scale: raced(asked, method, scale) for scale in SCALES}
        # After each method, so that a bench that is stopped has those before.
        atomic_json(
            PLACE / f"{asked.workload}.json",
            {
                "workload": asked.workload, "metric": asked.metric, "least": asked.least,
                "budget": asked.budget, "rates": asked.lrs, "seeds": asked.seeds,
                "methods": methods,
            },
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"transfer: {error}", file=sys.stderr)
        sys.exit(2)
