"""Compare trials of several processes with one process, and with a bare DDP loop.

    python -m benches.ranks overhead [--plain] [--pairs 5] [--steps 200]
    python -m benches.ranks methods [--steps 20] [adamw lion ...]
    python -m benches.ranks shards [--steps 20] [adamw lion ...]

    overhead  CPU seconds of a step of a race of two ranks (gpt2 mini, torch's fused AdamW) over
              those of a loop of two processes with torch's DistributedDataParallel, which trains
              the same model on as many examples. Both are sums over the processes. Loop and race
              of a pair run at the same time, each on a core of its own, and change cores from pair
              to pair. The median may be 1.03 at most. The loop has the settings of engine=cpu: it
              keeps freed memory, and is deterministic. With --plain it has torch's own settings
    methods   short races on one, two and four ranks: how far their losses are apart
    shards    short races on one process and on two ranks that divide weights and state
              (engine.shard=true): how far their losses are apart, and bytes of state a rank

The last two print a table in Markdown. A difference is relative, and the largest over the
evaluations: of the metric, and of the mean training loss between two evaluations.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benches.overhead import race as timed_race
from harness.catalog.discover import ROOT

METHODS = ("adamw", "lion", "muon", "shampoo", "sam", "lora", "er")
SHARDED = ("adamw", "lion", "muon", "adafactor", "soap")
# Where a method races; the others race on gpt2.
WORKLOADS = {"lora": "ft_gpt2", "er": "stream_split"}
BOUND = 1.03
POINTS = 4

BARE = """
import json, os, sys, time, yaml, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from harness.catalog.data import open_data, prepare
from harness.catalog.definition import define, load_workload
from harness.seeds import derive
from harness.system.processes import keep_freed_memory
rank, place, steps, warm, tree, plain = sys.argv[1:]
rank, steps, warm = int(rank), int(steps), int(warm)
if plain != "plain":
    keep_freed_memory()
    torch.set_deterministic_debug_mode("error")
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
definition = define("gpt2", yaml.safe_load(open(tree)), "mini", None)
module, config = load_workload(definition), definition.config
data = open_data(prepare(definition, "train"))
torch.manual_seed(derive(0, "init"))
model = DistributedDataParallel(module.model(config))
optimizer = torch.optim.AdamW(
    model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
)
order = torch.randperm(module.size(data, config), generator=torch.Generator().manual_seed(0))
half = config.batch // 2
start = 0.0
for step in range(warm + steps):
    if step == warm:
        start = time.process_time()
    first = step * config.batch + rank * half
    batch = module.batch(data, order[first : first + half], config)
    loss = module.loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
seconds = torch.tensor((time.process_time() - start) / steps, dtype=torch.float64)
dist.all_reduce(seconds)
if rank == 0:
    print(float(seconds))
dist.destroy_process_group()
"""


def bare(folder: Path, steps: int, warm: int, core: int, plain: bool) -> list[subprocess.Popen]:
    """Start the two processes of a plain loop on a core; the first prints CPU seconds a step."""
    tree = ROOT / "conf" / "workload" / "gpt2.yaml"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    memory = "plain" if plain else "kept"
    place = folder / f"meeting-{time.time_ns()}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", BARE, *map(str, (rank, place, steps, warm, tree)), memory],
            env=env, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        for rank in (0, 1)
    ]  # fmt: skip


def overhead(asked: argparse.Namespace) -> int:
    """Print the ratio of each pair, and the median; return 1 if it is above the bound."""
    cores, ratios = sorted(os.sched_getaffinity(0))[:2], []
    if len(cores) < 2:
        raise SystemExit("benches/ranks.py: two cores are needed")
    ranks = "engine.processes=2"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The first race measures the price of the shared pass, which later ones know.
        timed_race(folder, 8, 2, asked.pairs, cores[0], ranks)
        for pair in range(asked.pairs):
            core_of_loop, core_of_race = cores[:: 1 if pair % 2 else -1]
            loop = bare(folder, asked.steps, asked.steps // POINTS, core_of_loop, asked.plain)
            raced = timed_race(folder, asked.steps, POINTS, pair, core_of_race, ranks)["training"]
            alone = float(loop[0].communicate()[0])
            loop[1].communicate()
            ratios.append(raced / alone)
            print(
                f"pair {pair}: bare {alone * 1e3:.2f} ms, ranks {raced * 1e3:.2f} ms "
                f"({ratios[-1]:.3f})",
                flush=True,
            )
    median = statistics.median(ratios)
    print(f"median of {asked.pairs} pairs: x{median:.3f} (at most {BOUND})")
    return 0 if median <= BOUND else 1


def raced(submission: str, steps: int, folder: Path, *settings: str) -> tuple[dict, list[dict]]:
    """Return the record and the evaluations of a short race.

    Raises:
        SystemExit: the race failed.
    """
    workload = WORKLOADS.get(submission, "gpt2")
    results = folder / "-".join([submission, *settings])
    command = [
        sys.executable, "-m", "harness", f"workload={workload}", f"submission={submission}",
        f"results={results}", "tracker=none", "until=budget", "tuned=false",
        f"workload.mini.horizon={steps}", f"workload.mini.evaluate.points={POINTS}", *settings,
    ]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    path = next(results.glob("runs/*/*/*/run.json"), None)
    record = json.loads(path.read_text()) if path else {"outcome": None}
    if path is None or record["outcome"] not in ("out_of_budget", "reached"):
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    rows = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    return record, [row for row in rows if row["event"] == "evaluation"]


def apart(one: list[dict], other: list[dict]) -> tuple[float, float]:
    """Return the largest relative differences of the first metric, and of the training loss."""
    first = next(iter(one[0]["metrics"]))
    pairs = [
        [(a["metrics"][first], b["metrics"][first]) for a, b in zip(one, other, strict=True)],
        [
            (a["train_loss"], b["train_loss"])
            for a, b in zip(one, other, strict=True)
            if a["train_loss"]
        ],
    ]
    metric, loss = (max(abs(a - b) / max(abs(a), 1e-12) for a, b in each) for each in pairs)
    return metric, loss


def methods(asked: argparse.Namespace, folder: Path) -> None:
    """Print a row for each method: its training loss, and how far two and four ranks are."""
    print("| method | workload | last training loss | two ranks | four ranks |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name in asked.names or METHODS:
        _, one = raced(name, asked.steps, folder)
        cells = [name, WORKLOADS.get(name, "gpt2"), f"{one[-1]['train_loss']:.5f}"]
        for ranks in (2, 4):
            _, several = raced(name, asked.steps, folder, f"engine.processes={ranks}")
            metric, loss = apart(one, several)
            cells.append(f"{metric:.0e}, {loss:.0e}")
        print(f"| {' | '.join(cells)} |", flush=True)


def shards(asked: argparse.Namespace, folder: Path) -> None:
    """Print a row for each method: how far divided weights are, and the bytes of state a rank."""
    print("| method | last training loss | two ranks with shards | state, one process | a rank |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in asked.names or SHARDED:
        whole, one = raced(name, asked.steps, folder)
        settings = "engine.processes=2", "engine.shard=true"
        parts, several = raced(name, asked.steps, folder, *settings)
        metric, loss = apart(one, several)
        bytes_of = [f"{record['state_bytes']:,}" for record in (whole, parts)]
        cells = [name, f"{one[-1]['train_loss']:.5f}", f"{metric:.0e}, {loss:.0e}", *bytes_of]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["overhead", "methods", "shards"])
    parser.add_argument("names", nargs="*", metavar="METHOD")
    parser.add_argument("--plain", action="store_true", help="of overhead")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_intermixed_args()
    asked.steps = asked.steps or (200 if asked.what == "overhead" else 20)
    if asked.what == "overhead":
        return overhead(asked)
    with tempfile.TemporaryDirectory() as name:
        (methods if asked.what == "methods" else shards)(asked, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
