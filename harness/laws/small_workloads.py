"""Small problems, one of each kind, on which the laws try a submission: milliseconds a step.

They are shipped workloads with small numbers and, where data would have to be prepared, examples
made here; the task and the submission around them are those of a race.
"""

import copy
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from harness.catalog.data import PRETRAINED
from harness.catalog.definition import Definition, define, load_workload, namespace, tree_of
from harness.seeds import derive
from harness.train.task import Task


def sentences(vocabulary: int = 24, count: int = 64, length: int = 8) -> dict[str, Tensor]:
    """Windows of `length` + 1 tokens, each token 5 more than the one before it."""
    first = torch.arange(count).mul(7)[:, None]
    return {"windows": ((first + 5 * torch.arange(length + 1)) % vocabulary).int()}


def pictures(per_class: int = 20, pixels: int = 36) -> dict[str, Tensor]:
    """Noisy pictures of ten classes, uint8, alike but for the pattern of their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat_interleave(per_class)
    patterns = 230 * torch.rand(10, pixels, generator=generator)
    images = patterns[labels] + 25 * torch.rand(len(labels), pixels, generator=generator)
    return {"images": images.byte(), "labels": labels, "group": labels // 2}


def squares() -> dict[str, Tensor]:
    """The pictures in rows and columns, without the groups."""
    made = pictures()
    return {"images": made["images"].view(-1, 1, 6, 6), "labels": made["labels"]}


GPT = {"vocabulary": 24, "context": 8, "depth": 4, "heads": 2, "width": 16, "tied": False}
LANGUAGE = {"model": {**GPT, "init_scale": 4.0}, "batch": 8, "horizon": 24}


@dataclass(frozen=True)
class Problem:
    """A shipped workload made small.

    Attributes:
        title: what it is, in words.
        source: the workload's name.
        changes: to the numbers of the workload's mini scale.
        made: the training data, where it is made here.
    """

    title: str
    source: str
    changes: dict
    made: Callable[[], dict] | None = None

    @property
    def track(self) -> str:
        return _definition(self.source).track

    @property
    def horizon(self) -> int:
        return self.changes["horizon"]

    def task(self, kinds: Collection[str] | None = None, seed: int = 0) -> Task:
        """The task as a runner makes it, on its own copy of the data."""
        module, config, data = _loaded(self.source, self.title)
        torch.manual_seed(derive(seed, "init"))
        model, own = module.model(config), dict(data)
        task = Task(module, config, own, model, seed, self.horizon, kinds)
        if hasattr(module, PRETRAINED):
            task.start = copy.deepcopy(model.state_dict())
        return task

    def judge(self, tensors: dict[str, Tensor], active: list[bool] | None) -> float:
        """The loss of the workload's own model with these weights, as a referee would take it.

        On a fixed batch of training examples: of a stream, of what is learnt last.
        """
        model = self.task().model
        model.load_state_dict(tensors)
        if active is not None:
            model.active = active  # type: ignore[assignment]
        return self.loss(model)

    def loss(self, model: nn.Module) -> float:
        """The loss of any model of the workload on the same batch; no pass of a run is counted."""
        task = self.task()
        task.model, index = model, torch.arange(task.examples)
        index = index[-40:] if self.track == "continual" else index[:64]
        return float(task.forward(task._gather(index)))


PROBLEMS = (
    Problem("a small language model", "gpt2", LANGUAGE, sentences),
    Problem(
        "completion of a 40 x 40 matrix of rank 2",
        "matrix_completion",
        {
            "data": {"rows": 40, "columns": 40, "rank": 2, "kappa": 2.0, "share": 0.6},
            "model": {"rank": 2, "init_scale": 0.3},
            "batch": 40,
            "horizon": 40,
        },
    ),
    Problem(
        "classification of small pictures",
        "vit",
        {
            "model": {"side": 6, "patch": 3, "depth": 4, "heads": 2, "width": 16},
            "batch": 8,
            "horizon": 24,
        },
        squares,
    ),
    Problem(
        "the Poisson equation",
        "pinn_poisson",
        {"data": {"points": 2000}, "model": {"width": 12, "depth": 2}, "batch": 64, "horizon": 40},
    ),
    Problem("fine-tuning of a small language model", "ft_gpt2", LANGUAGE, sentences),
    Problem("compression of a small language model", "compress_gpt2", LANGUAGE, sentences),
    Problem(
        "a stream of five tasks",
        "stream_split",
        {
            "model": {"width": 24, "depth": 1, "side": 6},
            "stream": {"memory": 40 * 44, "tasks": 5},
            "batch": 10,
            "horizon": 100,
        },
        pictures,
    ),
)


@cache
def _definition(name: str) -> Definition:
    return define(name, tree_of(name), "mini", None)


@cache
def _loaded(name: str, title: str) -> tuple[ModuleType, SimpleNamespace, dict]:
    """A problem's module, its numbers as the runner gets them, and its data."""
    (problem,) = (p for p in PROBLEMS if p.title == title)
    definition = _definition(name)
    block = copy.deepcopy({k: v for k, v in definition.block.items() if k != "goal"})
    for key, value in problem.changes.items():
        block[key] = block[key] | value if isinstance(value, dict) else value
    module, config = load_workload(definition), namespace(block)
    if problem.made:
        return module, config, problem.made()
    drawn = (0,) if "seed" in inspect.signature(module.data).parameters else ()
    return module, config, module.data(config, "train", *drawn)
