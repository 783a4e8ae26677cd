"""Pivotal sampling: AdamW, and every 20 steps the labels of a spread sample by leverage scores.

Shimizu, Cheng, Musco and Weare, "Improved Active Learning via Dependent Leverage Score Sampling",
arXiv 2310.04966, on the features of the network's last linear map.

    τᵢ = fᵢᵀ(FᵀF)⁺fᵢ;  pᵢ = min(1, c·τᵢ) with Σp = `size`
    pivotal: neighbours i and j meet, one pair after the other. If pᵢ + pⱼ ≤ 1, i takes the sum with
    chance pᵢ/(pᵢ + pⱼ), and j gets 0. Else i gets 1 with chance (1 − pⱼ)/(2 − pᵢ − pⱼ), and j the
    rest pᵢ + pⱼ − 1. Otherwise i and j change roles. Who has 1 at the end is bought.

Each example is bought with chance pᵢ, and neighbours seldom together. It stops at `labels`.
State: AdamW's m and v, two words per parameter.
Departures from the paper: it is about linear regression with weighted examples, and here a network
trains without weights; neighbours are those along the first principal component, not in a binary
tree of several; not compared with the paper's text.
"""

import torch

from submissions.data import margin
from submissions.first_order import adamw

CANDIDATES = 8
PASSES = {"forward_backward": 1, "forward@batch=8": 0.05}
SPACE = {
    **adamw.SPACE,
    "labels": {"int": [60, 1000], "default": 300, "goal": "labels"},
    "size": {"int": [5, 50], "default": 10},
}


def leverage(features):
    """Return the leverage scores of the rows of [B, D], [B], and their order along the first axis.

    The axis is that of the largest singular value of the centred rows, in the direction in which
    its largest entry is positive.
    """
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    kept = values > 1e-6 * values[0]
    centred = features - features.mean(dim=0)
    first = torch.linalg.svd(centred, full_matrices=False)[2][0]
    first = first * first[first.abs().argmax()].sign()
    return left[:, kept].square().sum(dim=1), (centred @ first).argsort()


def probabilities(scores, count):
    """Return min(1, c·scores) with c such that the sum is `count`."""
    sure = torch.zeros_like(scores, dtype=torch.bool)
    while True:
        left = count - int(sure.sum())
        rest = scores[~sure].sum()
        p = torch.where(sure, 1.0, left * scores / rest.clamp_min(1e-30))
        if not bool(((p >= 1) & ~sure).any()) or left <= 0:
            return p.clamp(0, 1)
        sure |= p >= 1


def pivotal(p, order, generator):
    """Return the places that a pivotal sample of probabilities `p` takes, meeting in `order`."""
    p = p.tolist()
    chances = torch.rand(len(p), generator=generator).tolist()
    places = order.tolist()
    open_place, chosen = places[0], []
    for other, chance in zip(places[1:], chances):
        i, j = open_place, other
        total = p[i] + p[j]
        if total <= 1:
            stays = total > 0 and chance < p[i] / total
            open_place, gone = (i, j) if stays else (j, i)
            p[open_place], p[gone] = total, 0.0
        else:
            wins = chance < (1 - p[j]) / max(2 - total, 1e-12)
            winner, open_place = (i, j) if wins else (j, i)
            p[winner], p[open_place] = 1.0, total - 1
            chosen.append(winner)
    # The probabilities add up to a whole number, so the last is 0 or 1 up to rounding.
    return torch.tensor(chosen + [open_place] * (p[open_place] > 0.5), dtype=torch.int64)


class Algorithm(margin.Algorithm):
    def buy(self, count):
        task, index = self.task, margin.drawn(self.task)
        passed = torch.cat([index, task.labelled])[: CANDIDATES * task.batch_size]
        features = task.features_of([p.data for p in task.params], task.gather(passed))
        features = features[: len(index)].double().cpu()
        chosen = torch.arange(len(features))
        if len(features) > count:
            scores, order = leverage(features)
            chosen = pivotal(probabilities(scores, count), order, task.rng)
        task.reveal(passed[chosen])
