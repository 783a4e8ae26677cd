"""AQLM: a few consecutive weights are one entry of a codebook, chosen by their map's outputs.

Egiazarian et al., "Extreme Compression of Large Language Models via Additive Quantization",
arXiv 2401.06118.

    n consecutive inputs of a row are an entry of a book of 2^b;  k-means, then `rounds` of
        codes: group after group of each row, the entry of the least tr (W − Ŵ)H(W − Ŵ)ᵀ,
            H = XᵀX + damp·mean(diag XᵀX)·I
        book: the least squares solution for these codes
    then the book trains: an entry's gradient is the sum of those of the groups that share it
    entries have 16 bits;  n and b are such that codes and book take what the goal allows

State: AdamW's two words per entry and per other parameter.
Departures from the paper: one codebook and no scales of rows, because a second book's sums are
stored as a larger book here; codes by one pass at a time in place of a beam; books train on the
loss, where the paper fits the outputs of a block.
"""

import math

import torch
from torch import nn

from harness import ops, surgery
from harness.errors import UserError

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [1e-4, 3e-3]},
    "base_wd": 0.0,
    "stored": {"linear": [1.5, 9.0], "default": 4.6, "goal": "stored_bits"},
    "group": {"choice": [2, 4]},
    "examples": 16,
    "rounds": {"int": [1, 4], "default": 2},
    "damp": 0.01,
}
ENTRY, LLOYD = 16, 6  # bits of an entry's weight; iterations of k-means


def bits_of(shape, n, stored):
    """Return the largest b at which codes and a book of 2^b entries fit into the stored bits.

    Raises:
        UserError: not even one bit does.
    """

    def cost(b):
        return b / n + ENTRY * n * 2**b / math.prod(shape)

    if cost(1) > stored:
        raise UserError(f"{stored:g} stored bits hold no codebook of {n} weights", f"{cost(1):.1f}")
    return max(b for b in range(1, 13) if cost(b) <= stored)


def nearest(points, book):
    return torch.cdist(points, book).argmin(1)


def clustered(points, count, rounds, rng):
    """Return a book [count, n] of the points [N, n] by Lloyd's iteration, from random points."""
    book = points[torch.randperm(len(points), generator=rng)[:count].to(points.device)].clone()
    for _ in range(rounds):
        codes = nearest(points, book)
        total = torch.zeros_like(book).index_add_(0, codes, points)
        hits = torch.bincount(codes, minlength=len(book))[:, None]
        book = torch.where(hits > 0, total / hits.clamp(min=1), book)
    return book


def recoded(w, h, book, codes):
    """Return codes [out, groups], each chosen in turn for the least (w − ŵ)·H·(w − ŵ)ᵀ."""
    n, codes = book.shape[1], codes.clone()
    gap = book[codes].flatten(1) - w
    for j in range(codes.shape[1]):
        place = slice(j * n, (j + 1) * n)
        move = book[None] - book[codes[:, j]][:, None]  # [out, entries, n]
        slope = gap @ h[:, place]
        change = 2 * (move @ slope[:, :, None])[..., 0]
        change += (move @ h[place, place] * move).sum(-1)
        best = change.argmin(1)
        gap[:, place] += book[best] - book[codes[:, j]]
        codes[:, j] = best
    return codes


def fitted(w, h, codes, count, n):
    """Return the book [count, n] of the least error for these codes."""
    groups = codes.shape[1]
    blocks = h.view(groups, n, groups, n).permute(0, 2, 1, 3)  # H of a pair of groups
    pairs = (codes[:, :, None] * count + codes[:, None, :]).flatten()
    square = h.new_zeros(count * count, n, n)
    square.index_add_(0, pairs, blocks.reshape(-1, n, n).repeat(len(codes), 1, 1))
    right = h.new_zeros(count, n).index_add_(0, codes.flatten(), (w @ h).reshape(-1, n))
    full = square.view(count, count, n, n).permute(0, 2, 1, 3).reshape(count * n, count * n)
    full.diagonal().add_(1e-9 * full.diagonal().mean() + 1e-30)
    return torch.linalg.solve(full, right.flatten()).view(count, n)


def coded(weight, x, n, bits, hp, rng):
    """Return the book [2^bits, n] and the codes [out, groups] of a matrix with inputs x."""
    w, x = weight.detach().double(), x.double()
    h = x.T @ x / len(x)
    h.diagonal().add_(hp.damp * h.diagonal().mean() + 1e-12)
    points = w.reshape(-1, n)
    book = clustered(points, min(2**bits, len(points)), LLOYD, rng)
    codes = nearest(points, book).view(len(w), -1)
    for _ in range(hp.rounds):
        codes = recoded(w, h, book, codes)
        book = fitted(w, h, codes, len(book), n)
    return book, recoded(w, h, book, codes)


class Booked(surgery.Adapted):
    def __init__(self, linear, book, codes):
        super().__init__(linear)
        self.book = nn.Parameter(book.to(linear.weight))
        self.register_buffer("codes", codes)

    def dense(self):
        halves = self.book.detach().to(torch.float16).to(self.book)
        return ops.straight_through(self.book, halves)[self.codes].flatten(1)


def adapt(model, task, hp):
    found = {}
    with torch.no_grad():
        for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
            n = hp.group if module.weight.shape[1] % hp.group == 0 else 1
            bits = bits_of(module.weight.shape, n, hp.stored)
            found[module] = coded(module.weight, x, n, bits, hp, task.rng)
            book, codes = found[module]
            module.weight.copy_(book[codes].flatten(1))
    surgery.replace(model, lambda linear: Booked(linear, *found[linear]))
