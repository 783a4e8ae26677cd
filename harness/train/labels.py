"""Labels that cost: a few examples have theirs from the start, and a submission buys others.

The referee has the labels and answers (harness/race/label_office.py). In the training data of a
runner a label that was not bought is HIDDEN, and a workload's batch that has such an example has no
targets. A submission that buys none itself is given random ones in rounds.
"""

from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from harness.errors import UserError
from harness.seeds import derive

HIDDEN = -1


def first(examples: int, count: int, seed: int) -> Tensor:
    """Return the numbers of the examples whose labels are there from the start, int64 [count]."""
    return _order(examples, seed, "labels")[:count]


def hidden(labels: Tensor, known: Tensor) -> Tensor:
    """Return a copy of the labels in which those of other examples than `known` are HIDDEN."""
    shown = torch.full_like(labels, HIDDEN)
    shown[known] = labels[known]
    return shown


def refuse(index: Tensor) -> Tensor:
    """Stand for `Labels.ask` in a runner that does not train yet."""
    raise UserError("labels are sold while a submission trains", do="task.reveal in step()")


class Labels:
    """The labels that a trial has bought, and the training data that shows them.

    Args:
        data: the training data; labels that are not known are hidden in it.
        examples: number of training examples.
        seed: the trial's seed.

    Attributes:
        known: numbers of the examples that have a label, int64, in the order in which they got it.
        ask: returns the labels of examples by number; in a runner the referee answers.
    """

    def __init__(self, data: dict, config: SimpleNamespace, examples: int, seed: int):
        self._data, self._block, self._seed = data, config.labels, seed
        self._examples, whole = examples, data[config.labels.tensor]
        self.known = first(examples, config.labels.start, seed)
        data[config.labels.tensor] = hidden(whole, self.known)
        self.ask = lambda index: whole[index]
        # Whether the submission buys by itself; rounds made for one that does not.
        self._own, self._rounds = False, 0

    @property
    def unknown(self) -> Tensor:
        """Return the numbers of the examples without a label, int64, in order."""
        without = torch.ones(self._examples, dtype=torch.bool)
        without[self.known] = False
        return without.nonzero()[:, 0]

    def buy(self, index: Tensor) -> int:
        """Buy the labels of these examples. Return how many of them were not known before.

        Raises:
            UserError: there is no such example.
        """
        index = torch.as_tensor(index, dtype=torch.int64).flatten().cpu()
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self._examples:
            raise UserError(
                f"reveal: examples {int(index.min())} to {int(index.max())}",
                f"numbers from 0 to {self._examples - 1}",
            )
        self._own = True
        new = index[~torch.isin(index, self.known)].unique()
        if len(new):
            self._show(new, self.ask(new))
        return len(new)

    def due(self, step: int, horizon: int) -> Tensor:
        """Return random examples to buy now for a submission that buys none itself, int64."""
        rounds, size = self._block.rounds, self._block.size
        passed = min(rounds, step * (rounds + 1) // horizon)
        count, self._rounds = size * max(0, passed - self._rounds), max(passed, self._rounds)
        if self._own or not count:
            return self.known[:0]
        order = _order(self._examples, self._seed, "random labels")
        return order[~torch.isin(order, self.known)][:count]

    def keep_up(self, step: int, horizon: int) -> int:
        """Buy what is due; return how many labels that were."""
        index = self.due(step, horizon)
        if len(index):
            self._show(index, self.ask(index))
        return len(index)

    def _show(self, index: Tensor, values: Tensor) -> None:
        shown = self._data[self._block.tensor]
        shown[index.to(shown.device)] = values.to(shown)
        self.known = torch.cat([self.known, index])

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps: the known examples and their labels."""
        shown = self._data[self._block.tensor].cpu()
        return {
            "known": self.known,
            "values": shown[self.known],
            "own": self._own,
            "rounds": self._rounds,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.known = self.known[:0]
        self._show(state["known"], state["values"])
        self._own, self._rounds = state["own"], state["rounds"]


def labels_of(
    workload: ModuleType, config: SimpleNamespace, data: dict, seed: int
) -> Labels | None:
    """Return the labels of a workload that sells them, or None for any other."""
    if not hasattr(config, "labels"):
        return None
    return Labels(data, config, workload.size(data, config), seed)


def _order(examples: int, seed: int, use: str) -> Tensor:
    generator = torch.Generator().manual_seed(derive(seed, use))
    return torch.randperm(examples, generator=generator)
