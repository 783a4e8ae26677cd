"""A workload at the numbers of one scale, with its data and a reference submission to train it."""

import math
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType, SimpleNamespace

import torch
import yaml
from torch import Tensor, nn

from harness import surgery
from harness.catalog import data, discover, space
from harness.catalog.card import Card
from harness.catalog.definition import Definition, load_workload
from harness.seeds import seed_cpu
from harness.system.paths import ROOT
from harness.train.submission import Submission
from harness.train.task import Task

SPLITS = ("train", "val")


def reference() -> Card:
    """Return the submission that a race without one takes: it trains a workload for its laws."""
    listed = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())["defaults"]
    (name,) = (entry["submission"] for entry in listed if "submission" in entry)
    return discover.read(discover.find(name))


class WorkloadRun:
    """A workload, at the numbers of one scale, whose laws are tried."""

    def __init__(self, definition: Definition):
        self.definition, self.reference = definition, reference()
        self.config: SimpleNamespace = definition.config

    @cached_property
    def module(self) -> ModuleType:
        return load_workload(self.definition)

    def draw(self, split: str) -> dict:
        """Return the split as the workload's own function makes it, now."""
        seeded = "seed" in discover.functions(self.definition.plugin)["data"]
        return self.module.data(self.config, split, *((0,) if seeded else ()))

    @cached_property
    def splits(self) -> dict[str, dict]:
        """Both splits as a race opens them, prepared once and cached."""
        folders = {split: data.prepare(self.definition, split) for split in SPLITS}
        return {split: data.open_data(folder) for split, folder in folders.items() if folder}

    def size(self, split: str) -> int:
        """Return the number of examples of a split."""
        return self.module.size(self.splits[split], self.config)

    def batches(self, split: str, size: int, most: int | None = None) -> Iterator[dict]:
        """Yield a split in batches of `size`, up to `most` examples of it."""
        count = min(self.size(split), most or self.size(split))
        for index in torch.arange(count).split(size):
            yield self.module.batch(self.splits[split], index, self.config)

    def model(self, seed: int = 0) -> nn.Module:
        """Return the model at its start, pretrained weights included."""
        seed_cpu(seed, "init")
        model = self.module.model(self.config)
        if folder := data.prepare(self.definition, data.PRETRAINED):
            surgery.begin(model, data.open_data(folder))
        return model

    @torch.inference_mode()
    def metrics(self, model: nn.Module, size: int | None = None) -> dict[str, float]:
        """Return the scores of a model on the validation split, as a referee computes them.

        Args:
            size: examples at a time; the number in the YAML without it.
        """
        training = model.training
        model.eval()
        sums: dict[str, float] = {}
        for batch in self.batches("val", size or self.config.evaluate.batch):
            for name, value in self.module.metric(model, batch).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        model.train(training)
        try:
            return {name: float(value) for name, value in self.module.score(sums).items()}
        except (OverflowError, ValueError):
            return dict.fromkeys(sums, math.nan)

    def begin(self) -> tuple[Task, Submission]:
        """Return a task and the reference at work on it, seeded as a trial is."""
        model = self.model()
        start = {name: t.clone() for name, t in model.state_dict().items()}
        train, horizon = self.splits["train"], self.definition.block["horizon"]
        task = Task(self.module, self.config, dict(train), model, 0, horizon)
        if hasattr(self.module, data.PRETRAINED):
            task.start = start
        seed_cpu(0, "setup")
        point = space.default(self.reference.literals["SPACE"])
        return task, Submission(self.reference, point, task)


def advance(task: Task, submission: Submission) -> Tensor | None:
    """Make one step, seeded as in a trial, and return its training loss."""
    seed_cpu(0, "step", task.step)
    loss = submission.step()
    task.step += 1
    return loss
