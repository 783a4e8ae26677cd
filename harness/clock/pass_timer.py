"""A fresh process that times passes of one workload: run by harness.calibrate, answers in JSON."""

import json
import os
import random
import sys
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.catalog.data import open_data
from harness.catalog.definition import Definition, load_workload
from harness.catalog.kinds import REFERENCE_STEP, parse_kind
from harness.clock.measure import YARDSTICK
from harness.depth import depth as depth_of
from harness.depth import set_depth
from harness.errors import UserError
from harness.system import processes
from harness.train.task import Task

METHODS = {"per_example_gradients": "per_example_grads"}
BLOCK = 0.2  # seconds that a block of one kind is to last


class Bench:
    """A workload's task, able to make any kind of pass."""

    def __init__(self, definition: dict, train: str, device: str, seed: int):
        known = Definition(**definition)
        module, config = load_workload(known), known.config
        data = open_data(Path(train), device)
        torch.manual_seed(seed)
        model = module.model(config).to(device)
        self.task = Task(module, config, data, model, seed, 1)

    def fits(self, kind: str) -> bool:
        """Whether the workload can make this pass: of whole examples that it has, and blocks."""
        _, batch, depth = parse_kind("forward_backward@batch=1/2" if kind == "split" else kind)
        blocks = len(depth_of(self.task.model) or [True])
        examples, passed = batch * self.task.batch_size, depth * blocks
        if examples.denominator != 1 or passed.denominator != 1 or examples > self.task.examples:
            return False
        try:
            self.make(kind)
        except (RuntimeError, ValueError, UserError):  # there is no such derivative
            return False
        return True

    def make(self, kind: str) -> float:
        """Make one pass; returns its seconds on the meter's clock."""
        task = self.task
        operation, batch, depth = parse_kind(
            "forward_backward@batch=1/2" if kind == "split" else kind
        )
        blocks = len(depth_of(task.model) or ())
        set_depth(task.model, [block < depth * blocks for block in range(blocks)])
        data = task._gather(torch.arange(int(batch * task.batch_size)) % task.examples)
        extra = self._extra(operation, data)
        before = sum(task.meter.inside().values())
        getattr(task, METHODS.get(operation, operation))(data, *extra)
        if kind == "split":
            task.forward_backward(data, accumulate=True)
        return sum(task.meter.inside().values()) - before

    def _extra(self, operation: str, data: dict) -> list:
        """What the operation is given besides the batch."""
        if operation in ("hvp", "jvp"):
            return [[torch.randn_like(p) for p in self.task.params]]
        return [torch.randn_like(self.task.residuals(data))] if operation == "vjp" else []

    def flops(self, kind: str) -> int | None:
        """FLOPs of one pass as torch counts them, and those of matrix times vector.

        With plain attention, for torch's count misses the fused one.
        """
        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mv: _mv})
        try:
            with sdpa_kernel(SDPBackend.MATH), counter:
                self.make(kind)
        except RuntimeError:
            return None
        return counter.get_total_flops() or None


def _mv(matrix: torch.Size, vector: torch.Size, **_) -> int:
    """FLOPs of a matrix times a vector, by their shapes."""
    return 2 * matrix.numel()


def main(order: dict) -> dict:
    """Time every kind in interleaved blocks; one pass before each block warms up."""
    processes.keep_freed_memory()  # as a runner does
    engine, seed = order["engine"], order["seed"]
    if engine["threads"] == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(engine["threads"])
    torch.set_deterministic_debug_mode("error" if engine["deterministic"] else "default")
    bench = Bench(**order["workload"], device=engine["device"], seed=seed)
    timed = {kind: (bench, kind) for kind in order["kinds"] if bench.fits(kind)}
    kinds = list(timed)
    if order["yardstick"]:
        other = Bench(**order["yardstick"], device=engine["device"], seed=seed)
        timed[YARDSTICK] = other, REFERENCE_STEP
    lengths = {
        name: max(1, min(100, round(BLOCK / max(1e-4, owner.make(kind)))))
        for name, (owner, kind) in timed.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in timed}
    rng, wall, cpu = random.Random(seed), -time.perf_counter(), -time.process_time()
    for _ in range(order["rounds"]):
        for name in rng.sample(list(timed), len(timed)):
            owner, kind = timed[name]
            owner.task.model.zero_grad(set_to_none=True)
            owner.make(kind)  # brings code and data of this kind into the caches
            samples[name] += [owner.make(kind) for _ in range(lengths[name])]
    wall, cpu = wall + time.perf_counter(), cpu + time.process_time()
    first, cuda = seed == 0, engine["device"].startswith("cuda")
    return {
        "samples": samples,
        "waited": 1.0 if cuda else wall / cpu,
        "flops": {kind: bench.flops(kind) if first and kind != "split" else None for kind in kinds},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }


if __name__ == "__main__":
    processes.die_with_parent()
    print(json.dumps(main(json.loads(sys.argv[1]))))
