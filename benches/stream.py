"""What evaluating a stream after every step costs, beside a step and beside a fresh DataLoader.

    python benches/stream.py [stream_split ...]

CPU milliseconds on one thread, lower quartiles of interleaved rounds: a reference step; an
evaluation of the subset by the referee's Evaluator; DataLoaders made for the occasion, one for each
group, as continual-learning libraries do, over the same examples and, for images, over all 1,000
held-out digits (of each angle). `mean` is the mean evaluation of the stream, of the groups seen so
far alone; `stream` all of them over the stream's reference steps. Replay, two passes a step, halves
that.
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
    """Validation examples one by one, as a DataLoader wants them."""

    def __init__(self, module, data, config):
        self.module, self.data, self.config = module, data, config

    def __len__(self):
        return self.module.size(self.data, self.config)

    def __getitem__(self, number):
        one = self.module.batch(self.data, torch.tensor([number]), self.config)
        return {k: v[0] for k, v in one.items()}


def milliseconds(function) -> float:
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start)


def bench(name: str) -> dict[str, float]:
    """Milliseconds of each side, `mean` and `stream`, as the text above has them."""
    definition = define(name, tree_of(name), "mini", None)
    module, config, block = load_workload(definition), definition.config, definition.block
    train = open_data(prepare(definition, "train"))
    folder = prepare(definition, "val")
    judge, held = Evaluator(definition, folder, "cpu", 0), open_data(folder)
    model = module.model(config)
    tensors = dict(model.state_dict())
    batch = module.batch(train, torch.arange(config.batch), config)
    groups = int(held["group"].max()) + 1

    whole = dict(block["data"], subset=HELD_OUT)
    every = module.data(namespace(block | {"data": whole}), "val") if "source" in whole else None

    def step():
        module.loss(model, batch).backward()

    def fused():
        judge.groups(tensors, getattr(model, "active", None), groups)

    @torch.no_grad()
    def loaders(data):
        examples = Examples(module, data, config)
        for g in range(groups):
            chosen = Subset(examples, (data["group"] == g).nonzero()[:, 0].tolist())
            for part in DataLoader(chosen, batch_size=config.batch):
                float(module.quality(model, part).sum())

    timed = {"step": step, "fused": fused, "loaders": lambda: loaders(held)}
    if every:
        timed["every"] = lambda: loaders(every)
    for function in timed.values():
        function()
    taken = {key: [] for key in timed}
    for _ in range(ROUNDS):
        for key, function in timed.items():
            taken[key].append(milliseconds(function))
    found = {key: statistics.quantiles(values, n=4)[0] for key, values in taken.items()}
    steps = range(block["evaluate"]["every"], block["horizon"] + 1, block["evaluate"]["every"])
    shares = [min(watched(block, n), groups) / groups for n in steps]
    total = sum(shares) * found["fused"]
    mean = total / len(shares)
    return found | {"mean": mean, "stream": total / (block["horizon"] * found["step"])}


def told(name: str, found: dict[str, float]) -> str:
    """One line."""
    line = f"{name:15} step {found['step']:5.2f}  evaluation {found['fused']:5.2f}"
    line += f", mean {found['mean']:5.2f}"
    for key, words in (("loaders", "same examples"), ("every", "held-out set")):
        if key in found:
            times = found[key] / found["mean"]
            line += f"  DataLoader, {words} {found[key]:6.2f} = {times:4.1f} times"
    return f"{line}  stream {found['stream']:.2f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    streams = sorted(p.stem for p in (ROOT / "conf/workload").glob("stream_*.yaml"))
    for chosen in sys.argv[1:] or streams:
        print(told(chosen, bench(chosen)), flush=True)
