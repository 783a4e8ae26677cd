"""Compare trials of several processes with one process, and with a bare DDP loop.

    python -m benches.ranks overhead [--plain] [--pairs 5] [--steps 200]
    python -m benches.ranks turns [--steps 200]
    python -m benches.ranks methods [--steps 20] [adamw lion ...]
    python -m benches.ranks shards [--steps 20] [adamw lion ...]

    overhead  CPU seconds of a step of a race of two ranks (gpt2 mini, torch's fused AdamW) over
              those of a loop of two processes with torch's DistributedDataParallel, which trains
              the same model on as many examples. Both are sums over the processes. Loop and race
              of a pair run at the same time, each on a core of its own, and change cores from pair
              to pair. The median may be 1.03 at most. The loop has the settings of engine=cpu: it
              keeps freed memory, and is deterministic. With --plain it has torch's own settings
    turns     the same two steps, made by the same two processes in turns of four steps, on one
              core: other load slows both. It leaves out what a race does at an evaluation
    methods   short races on one, two and four ranks: how far their losses are apart
    shards    short races on one process and on two ranks that divide weights and state
              (engine.shard=true): how far their losses are apart, and bytes of state a rank

The last two print a table in Markdown. A difference is relative, and the largest over the
evaluations: of the metric, and of the mean training loss between two evaluations.
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
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from benches.overhead import SUBMISSION
from benches.overhead import race as timed_race
from harness.catalog import discover
from harness.catalog.data import open_data, prepare
from harness.catalog.definition import define, load_workload, tree_of
from harness.catalog.discover import ROOT
from harness.catalog.space import default
from harness.seeds import derive
from harness.system.processes import keep_freed_memory
from harness.train.group import Group
from harness.train.opening import task_of
from harness.train.ranks import RankChannel
from harness.train.submission import Submission

METHODS = ("adamw", "lion", "muon", "shampoo", "sam", "lora", "er")
SHARDED = ("adamw", "lion", "muon", "adafactor", "soap")
# Where a method races; the others race on gpt2.
WORKLOADS = {"lora": "ft_gpt2", "er": "stream_split"}
BOUND = 1.03
POINTS = 4

# Steps of a block, and steps of each kind before the first block, of `turns`.
BLOCK, WARM = 4, 8


def bare_step(rank: int) -> Callable[[], object]:
    """Return a step of a plain loop of two processes: gpt2 mini, torch's fused AdamW.

    The processes are connected already. The step is one of PyTorch's documentation, with torch's
    own settings of DistributedDataParallel.
    """
    module, config, data = gpt2()
    torch.manual_seed(derive(0, "init"))
    model = DistributedDataParallel(module.model(config))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    order = torch.randperm(module.size(data, config), generator=torch.Generator().manual_seed(0))
    half, firsts = config.batch // 2, itertools.count(rank * (config.batch // 2), config.batch)

    def step() -> None:
        first = next(firsts)
        batch = module.batch(data, order[first : first + half], config)
        loss = module.loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def ranks_step(group: Group, folder: Path) -> Callable[[], object]:
    """Return a step of a race of two ranks: what a runner does from one step to the next."""
    engine = {"device": "cpu", "threads": 1, "deterministic": True, "processes": 2}
    module, config, data = gpt2()
    torch.manual_seed(derive(0, "init"))
    values = module, config, data, module.model(config), 0, 10**6
    task = task_of(values, None, None, engine, group)
    card = discover.read(discover.find(str(folder / "torch_adamw.py")))
    submission = Submission(card, default(card.literals["SPACE"]), task)
    channel, losses = RankChannel(group, None, -1, 0.0), [torch.zeros(())]

    def step() -> None:
        channel.poll()
        torch.default_generator.manual_seed(derive(0, "step", task.step))
        loss = submission.step()
        assert loss is not None
        losses[0] = losses[0] + loss
        task.step += 1

    return step


def gpt2() -> tuple:
    """Return the module, the numbers and the training data of gpt2 mini."""
    definition = define("gpt2", tree_of("gpt2"), "mini", None)
    folder = prepare(definition, "train")
    assert folder is not None
    return load_workload(definition), definition.config, open_data(folder)


def bare_loop(rank: str, place: str, steps: str, warm: str, plain: str) -> None:
    """Be one of two processes of a plain loop; the first prints CPU seconds a step of both."""
    if plain != "plain":
        keep_freed_memory()
        torch.set_deterministic_debug_mode("error")
    torch.set_num_threads(1)
    group = Group(int(rank), 2)
    group.join(place, "cpu")
    step = bare_step(group.rank)
    for _ in range(int(warm)):
        step()
    start = time.process_time()
    for _ in range(int(steps)):
        step()
    seconds = torch.tensor((time.process_time() - start) / int(steps), dtype=torch.float64)
    (total,) = group.total([seconds])
    if group.leads:
        print(float(total))
    dist.destroy_process_group()


def bare(folder: Path, steps: int, warm: int, core: int, plain: bool) -> list[subprocess.Popen]:
    """Start the two processes of a plain loop on a core; the first prints CPU seconds a step."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    memory = "plain" if plain else "kept"
    place = folder / f"meeting-{time.time_ns()}"
    program = "import sys; from benches.ranks import bare_loop; bare_loop(*sys.argv[1:])"
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, (rank, place, steps, warm)), memory],
            env=env, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        for rank in (0, 1)
    ]  # fmt: skip


def turns(asked: argparse.Namespace, folder: Path) -> int:
    """Print the CPU seconds of both steps, made in turns; return 1 if the bound is broken."""
    (folder / "torch_adamw.py").write_text(SUBMISSION)
    mp.start_processes(_turns, (folder, asked.steps // BLOCK), 2, start_method="fork")
    ratio = float((folder / "ratio").read_text())
    return 0 if ratio <= BOUND else 1


def _turns(rank: int, folder: Path, blocks: int) -> None:
    """Be one of the two processes of `turns`."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    group = Group(rank, 2)
    group.join(folder / "ranks", "cpu")
    steps = {"bare": bare_step(rank), "ranks": ranks_step(group, folder)}
    for step in steps.values():
        for _ in range(WARM):
            step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for block in range(blocks):
        for name in list(steps)[:: 1 if block % 2 else -1]:
            start = time.process_time()
            for _ in range(BLOCK):
                steps[name]()
            seconds = (time.process_time() - start) / BLOCK
            taken[name].append(float(group.total([torch.tensor(seconds)])[0]))
    ratios = [ours / bare for ours, bare in zip(taken["ranks"], taken["bare"], strict=True)]
    quarters, middle = statistics.quantiles(ratios, n=4), statistics.median(ratios)
    if group.leads:
        for name, values in taken.items():
            print(f"{name}: median {1e3 * statistics.median(values):.2f} ms")
        print(
            f"ratio: median x{middle:.3f} of {blocks} blocks, quarters x{quarters[0]:.3f} and "
            f"x{quarters[2]:.3f} (at most {BOUND})"
        )
        (folder / "ratio").write_text(str(middle))
    sys.stdout.flush()
    os._exit(0)


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
    parser.add_argument("what", choices=["overhead", "turns", "methods", "shards"])
    parser.add_argument("names", nargs="*", metavar="METHOD")
    parser.add_argument("--plain", action="store_true", help="of overhead")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_intermixed_args()
    asked.steps = asked.steps or (200 if asked.what in ("overhead", "turns") else 20)
    if asked.what == "overhead":
        return overhead(asked)
    with tempfile.TemporaryDirectory() as name:
        if asked.what == "turns":
            return turns(asked, Path(name))
        (methods if asked.what == "methods" else shards)(asked, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
