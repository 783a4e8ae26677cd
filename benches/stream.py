"""Measure what it costs to evaluate a stream after every step.

    python benches/stream.py [stream_split ...]

The bench prints CPU milliseconds on one thread, as lower quartiles of interleaved rounds, of
  step          a reference step
  evaluation    an evaluation of the subset by the referee's Evaluator
  DataLoader    new DataLoaders, one for each group, as in continual-learning libraries, over the
                same examples and, for images, over all 1,000 held-out digits (of each angle)
`mean` is the mean evaluation of the stream, which has only the groups of the tasks begun. `stream`
is all evaluations over all reference steps; with replay, which makes two passes a step, it is half.
"""

import statistics
import sys
import time

import torch
from torch.utils.data import DataLoader, Subset

from harness.catalog.data import open_data, prepare
from harness.catalog.definition import define, load_workload, namespace, tree_of
from harness.catalog.discover import ROOT
from harness.catalog.streams import watched
from harness.race.evaluator import Evaluator

ROUNDS = 15
HELD_OUT = 100  # digits of each class


class Examples(torch.utils.data.Dataset):
    """Validation examples one by one, as a DataLoader reads them."""

    def __init__(self, module, data, config):
        self.module, self.data, self.config = module, data, config

    def __len__(self):
        return self.module.size(self.data, self.config)

    def __getitem__(self, number):
        example = self.module.batch(self.data, torch.tensor([number]), self.config)
        return {k: v[0] for k, v in example.items()}


def milliseconds(function) -> float:
    """Return the CPU milliseconds of one call."""
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start)


def bench(name: str) -> dict[str, float]:
    """Return the milliseconds of each side, and `mean` and `stream` as described above."""
    definition = define(name, tree_of(name), "mini", None)
    module, config, block = load_workload(definition), definition.config, definition.block
    train = open_data(prepare(definition, "train"))
    folder = prepare(definition, "val")
    evaluator, validation = Evaluator(definition, folder, "cpu", 0), open_data(folder)
    model = module.model(config)
    tensors = dict(model.state_dict())
    batch = module.batch(train, torch.arange(config.batch), config)
    groups = int(validation["group"].max()) + 1

    all_held_out = dict(block["data"], subset=HELD_OUT)
    held_out = (
        module.data(namespace(block | {"data": all_held_out}), "val")
        if "source" in all_held_out
        else None
    )

    def step():
        module.loss(model, batch).backward()

    def fused():
        evaluator.groups(tensors, getattr(model, "active", None), groups)

    @torch.no_grad()
    def loaders(data):
        examples = Examples(module, data, config)
        for g in range(groups):
            chosen = Subset(examples, (data["group"] == g).nonzero()[:, 0].tolist())
            for part in DataLoader(chosen, batch_size=config.batch):
                float(module.quality(model, part).sum())

    timed = {"step": step, "fused": fused, "loaders": lambda: loaders(validation)}
    if held_out:
        timed["every"] = lambda: loaders(held_out)
    for function in timed.values():
        function()
    milliseconds_by_side = {key: [] for key in timed}
    for _ in range(ROUNDS):
        for key, function in timed.items():
            milliseconds_by_side[key].append(milliseconds(function))
    quartiles = {
        key: statistics.quantiles(values, n=4)[0] for key, values in milliseconds_by_side.items()
    }
    steps = range(block["evaluate"]["every"], block["horizon"] + 1, block["evaluate"]["every"])
    shares = [min(watched(block, n), groups) / groups for n in steps]
    total = sum(shares) * quartiles["fused"]
    mean = total / len(shares)
    return quartiles | {"mean": mean, "stream": total / (block["horizon"] * quartiles["step"])}


def line_of(name: str, quartiles: dict[str, float]) -> str:
    """Return the line to print for a stream."""
    line = f"{name:15} step {quartiles['step']:5.2f}  evaluation {quartiles['fused']:5.2f}"
    line += f", mean {quartiles['mean']:5.2f}"
    for key, title in (("loaders", "same examples"), ("every", "held-out set")):
        if key in quartiles:
            times = quartiles[key] / quartiles["mean"]
            line += f"  DataLoader, {title} {quartiles[key]:6.2f} = {times:4.1f} times"
    return f"{line}  stream {quartiles['stream']:.2f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    streams = sorted(p.stem for p in (ROOT / "conf/workload").glob("stream_*.yaml"))
    for chosen in sys.argv[1:] or streams:
        print(line_of(chosen, bench(chosen)), flush=True)
