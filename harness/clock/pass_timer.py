"""Time passes of one workload. `measure` runs this as a fresh process, which answers in JSON."""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.catalog.data import open_data
from harness.catalog.definition import Definition, load_workload
from harness.catalog.kinds import REFERENCE_STEP, parse_kind, ranks_of
from harness.clock.measure import STANDARD
from harness.errors import UserError
from harness.system import processes
from harness.train import arithmetic
from harness.train.depth import depth as depth_of
from harness.train.depth import set_depth
from harness.train.engine import prepared
from harness.train.group import Group
from harness.train.opening import set_torch, task_of

# operation -> method of Task, where their names differ
METHODS = {"per_example_gradients": "per_example_grads"}
BLOCK = 0.2  # seconds of one block of a kind


class PassTimer:
    """A workload's task, which can make and time any kind of pass."""

    def __init__(
        self,
        definition: dict,
        train: str,
        engine: dict,
        seed: int,
        group: Group | None = None,
    ):
        workload = Definition(**definition)
        module, config = load_workload(workload), workload.config
        device = group.device(engine["device"]) if group else engine["device"]
        data = open_data(Path(train), device)
        torch.manual_seed(seed)
        model = module.model(config).to(device)
        arithmetic.impose(model, config)
        functions = prepared(module, model, engine, device.split(":")[0])
        values = functions, config, data, model, seed, 1
        self.task = task_of(values, None, None, engine, group)
        if group and engine.get("shard"):
            self.task.shard()  # type: ignore[attr-defined]

    def fits(self, kind: str) -> bool:
        """Return True if the workload can make this pass.

        It needs whole numbers of examples and blocks, enough examples, and the derivative.
        """
        _, batch, depth = parse_kind("forward_backward@batch=1/2" if kind == "split" else kind)
        blocks = len(depth_of(self.task.model) or [True])
        examples, passed = batch * self.task.batch_size, depth * blocks
        if examples.denominator != 1 or passed.denominator != 1 or examples > self.task.examples:
            return False
        try:
            self.make(kind)
        except (RuntimeError, ValueError, UserError):
            # The workload's operations do not have this derivative.
            return False
        return True

    def make(self, kind: str) -> float:
        """Make one pass. Return its seconds on the meter's clock."""
        task = self.task
        operation, batch, depth = parse_kind(
            "forward_backward@batch=1/2" if kind == "split" else kind
        )
        blocks = len(depth_of(task.model) or ())
        set_depth(task.model, [block < depth * blocks for block in range(blocks)])
        index = torch.arange(int(batch * task.batch_size)) % task.examples
        if task.labels is not None:
            # A loss needs labels, and few examples have one.
            index = task.labelled[index % len(task.labelled)]
        data = task._gather(index)
        extra = self._extra(operation, data)
        before = sum(task.meter.inside().values())
        method = METHODS.get(operation, operation)
        if operation == "jvp" and not hasattr(task._workload, "terms"):
            # Without residuals, the derivative is that of the scores.
            method = "jvp_logits"
        getattr(task, method)(data, *extra)
        if kind == "split":
            task.forward_backward(data, accumulate=True)
        return sum(task.meter.inside().values()) - before

    def _extra(self, operation: str, data: dict) -> list:
        """Return the arguments of the operation besides the batch."""
        if operation in ("hvp", "jvp"):
            return [[torch.randn_like(p) for p in self.task.params]]
        return [torch.randn_like(self.task.residuals(data))] if operation == "vjp" else []

    def flops(self, kind: str) -> int | None:
        """Return the FLOPs of one pass as torch counts them, or None if it cannot be counted.

        Products of a matrix and a vector are counted too. Attention is not fused here, because
        torch does not count the fused kernel.
        """
        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mv: _mv})
        try:
            with sdpa_kernel(SDPBackend.MATH), counter:
                self.make(kind)
        except RuntimeError:
            return None
        return counter.get_total_flops() or None


def _mv(matrix: torch.Size, vector: torch.Size, **_) -> int:
    """Return the FLOPs of a matrix times a vector, by their shapes."""
    return 2 * matrix.numel()


def main(message: dict) -> dict:
    """Time every kind in interleaved blocks. Return the times, as JSON values.

    A kind of several processes is timed by as many; a pass takes as long as the slowest of them.
    """
    device = message["engine"]["device"]
    if device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(f"torch sees no GPU for engine.device={device}")
    # A runner does the same.
    processes.keep_freed_memory()
    ranks = max(map(ranks_of, message["kinds"]))
    if ranks == 1:
        return timed(message)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        mp.start_processes(_rank, (ranks, place, message), ranks, start_method="fork")
        return json.loads((place / "timing.json").read_text())


def _rank(rank: int, ranks: int, folder: Path, message: dict) -> None:
    """Time the passes as one of several processes; the first writes the times to a file."""
    processes.die_with_parent(os.getppid())
    group = Group(rank, ranks)
    group.join(folder / "ranks", message["engine"]["device"])
    timing = timed(message, group)
    if group.leads:
        (folder / "timing.json").write_text(json.dumps(timing))
    sys.stdout.flush()
    os._exit(0)


def timed(message: dict, group: Group | None = None) -> dict:
    """Return the times of one process's passes, or of a group's.

    One pass before each block, which is not timed, warms up the caches.
    """
    engine, seed = message["engine"], message["seed"]
    if engine["threads"] == 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0), reverse=True)
        os.sched_setaffinity(0, {cores[(group.rank if group else 0) % len(cores)]})
    set_torch(engine)
    timer = PassTimer(**message["workload"], engine=engine, seed=seed)
    shared = timer
    if group:
        shared = PassTimer(**message["workload"], engine=engine, seed=seed, group=group)
    of = {kind: shared if ranks_of(kind) > 1 else timer for kind in message["kinds"]}
    made = {kind: (of[kind], kind) for kind in message["kinds"] if of[kind].fits(kind)}
    kinds = list(made)
    if message["yardstick"]:
        standard = PassTimer(**message["yardstick"], engine=engine, seed=seed)
        made[STANDARD] = standard, REFERENCE_STEP
    lengths = {
        name: max(1, min(100, round(BLOCK / max(1e-4, pass_timer.make(kind)))))
        for name, (pass_timer, kind) in made.items()
    }
    if group:
        # All ranks make the same passes.
        lengths = group.broadcast(lengths)
    samples: dict[str, list[float]] = {name: [] for name in made}
    rng, wall, cpu = random.Random(seed), -time.perf_counter(), -time.process_time()
    for _ in range(message["rounds"]):
        for name in rng.sample(list(made), len(made)):
            pass_timer, kind = made[name]
            pass_timer.task.model.zero_grad(set_to_none=True)
            pass_timer.make(kind)
            samples[name] += [pass_timer.make(kind) for _ in range(lengths[name])]
    if group:
        samples = {k: list(map(max, *group.gathered(s))) for k, s in samples.items()}
    wall, cpu = wall + time.perf_counter(), cpu + time.process_time()
    first, cuda = seed == 0, engine["device"].startswith("cuda")
    return {
        "samples": samples,
        "waited": 1.0 if cuda else wall / cpu,
        "flops": {kind: timer.flops(kind) if first and kind != "split" else None for kind in kinds},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }


if __name__ == "__main__":
    processes.die_with_parent()
    print(json.dumps(main(json.loads(sys.argv[1]))))
