"""Time passes of one workload. `measure` runs this as a fresh process, which answers in JSON."""

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
from harness.clock.measure import STANDARD
from harness.errors import UserError
from harness.system import processes
from harness.train import arithmetic
from harness.train.depth import depth as depth_of
from harness.train.depth import set_depth
from harness.train.task import Task

# operation -> method of Task, where their names differ
METHODS = {"per_example_gradients": "per_example_grads"}
BLOCK = 0.2  # seconds of one block of a kind


class PassTimer:
    """A workload's task, which can make and time any kind of pass."""

    def __init__(self, definition: dict, train: str, device: str, seed: int):
        workload = Definition(**definition)
        module, config = load_workload(workload), workload.config
        data = open_data(Path(train), device)
        torch.manual_seed(seed)
        model = module.model(config).to(device)
        arithmetic.impose(model, config)
        self.task = Task(module, config, data, model, seed, 1)

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
        data = task._gather(torch.arange(int(batch * task.batch_size)) % task.examples)
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

    One pass before each block, which is not timed, warms up the caches.
    """
    # A runner does the same.
    processes.keep_freed_memory()
    engine, seed = message["engine"], message["seed"]
    if engine["threads"] == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(engine["threads"])
    torch.set_deterministic_debug_mode("error" if engine["deterministic"] else "default")
    timer = PassTimer(**message["workload"], device=engine["device"], seed=seed)
    timed = {kind: (timer, kind) for kind in message["kinds"] if timer.fits(kind)}
    kinds = list(timed)
    if message["yardstick"]:
        standard = PassTimer(**message["yardstick"], device=engine["device"], seed=seed)
        timed[STANDARD] = standard, REFERENCE_STEP
    lengths = {
        name: max(1, min(100, round(BLOCK / max(1e-4, pass_timer.make(kind)))))
        for name, (pass_timer, kind) in timed.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in timed}
    rng, wall, cpu = random.Random(seed), -time.perf_counter(), -time.process_time()
    for _ in range(message["rounds"]):
        for name in rng.sample(list(timed), len(timed)):
            pass_timer, kind = timed[name]
            pass_timer.task.model.zero_grad(set_to_none=True)
            pass_timer.make(kind)
            samples[name] += [pass_timer.make(kind) for _ in range(lengths[name])]
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
