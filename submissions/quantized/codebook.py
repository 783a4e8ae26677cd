"""Codebooks: the weights of a matrix are a few shared values, found by k-means and then trained.

Han et al., "Deep Compression", arXiv 1510.00149; weights of the Fisher information: Kim et al.,
"SqueezeLLM: Dense-and-Sparse Quantization", arXiv 2306.07629.

    minimise Σ f_i (w_i - c_{k(i)})² over 2^b values c of a matrix, from even places between its
    least and largest weight, by `rounds` of Lloyd's iteration
    f = 1;  or f = mean over batches of g², the diagonal of the Fisher information
    then c trains: its gradient is the sum of those of the weights that share it

State: AdamW's two words per shared value and per other parameter.
Departures from the paper: no pruning before and no Huffman code after; "fisher" has one codebook
for each matrix, without sparse outliers, and batches in place of examples: the paper's codebook of
each row would cost more than the weights here. A value that no weight takes stays where it is.
"""

import torch
from torch import nn

from harness import surgery
from submissions.quantized import nf4

BASE = "adamw"
TRACKS = ["compress"]
PASSES = {"forward_backward": 1.05}  # the batches of "fisher" included
SPACE = {
    **nf4.SPACE,
    "importance": {"choice": ["even", "fisher"], "tuned": False},
    "batches": 8,
    "rounds": 30,
}
VARIANTS = {"squeezellm": {"importance": "fisher"}}


def clustered(w, f, bits, rounds):
    """Return the values [2^bits] and each weight's place among them, given weights' importance."""
    values = torch.linspace(float(w.min()), float(w.max()), 2**bits).to(w)
    w, f = w.flatten(), f.flatten()
    for _ in range(rounds):
        codes = torch.bucketize(w, (values[1:] + values[:-1]) / 2)
        mass = torch.zeros_like(values).index_add_(0, codes, f)
        total = torch.zeros_like(values).index_add_(0, codes, f * w)
        values = torch.where(mass > 0, total / mass, values).sort().values
    return values, torch.bucketize(w, (values[1:] + values[:-1]) / 2)


class Shared(surgery.Adapted):
    def __init__(self, linear, f, hp):
        super().__init__(linear)
        values, codes = clustered(self.weight.detach(), f, nf4.bits_of(hp.stored), hp.rounds)
        self.book = nn.Parameter(values)
        self.register_buffer("codes", codes.view_as(self.weight))

    def dense(self):
        return self.book[self.codes]


def fisher(task, batches):
    """Return the mean squared gradient of each hidden matrix, by its map."""
    found = surgery.matrices(task.model).values()
    total = {m: torch.zeros_like(m.weight) for m in found}
    for _ in range(batches):
        task.forward_backward(task.next_batch())
        for m, square in total.items():
            square.add_(m.weight.grad.square(), alpha=1 / batches)
    return total


def adapt(model, task, hp):
    if hp.importance == "fisher":
        f = fisher(task, hp.batches)
    else:
        f = {m: torch.ones_like(m.weight) for m in surgery.matrices(model).values()}
    surgery.replace(model, lambda linear: Shared(linear, f[linear], hp))
