"""ADELE: AdamW that corrects the labels of a class once the model begins to memorise wrong ones.

Liu et al., "Adaptive Early-Learning Correction for Segmentation from Noisy Annotations",
arXiv 2110.03740, for the recognition of whole images.

    u_c(t): agreement of predictions with the given labels of class c in epoch t, an intersection
    over union; f(t) = a·(1 − exp(−t^b/c)), a, b in [0, 1], c ≥ 0, is fitted to u_c(1), ..., u_c(t)
    class c is corrected once |f'(1) − f'(t)| > r·|f'(1)|
    an example with a given label of such a class gets the predicted one where that has p > τ

Early epochs weigh less in the fit: their deviations go from 1 to 0.1, in a geometric series.
State: AdamW's m and v, two words per parameter; a label for each example; u.
Departures from the paper: its consistency over rescaled inputs is left out; predictions are those
of the training passes, and a label is corrected at a visit, not at the end of an epoch.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import labels
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "slowing": {"linear": [0.5, 0.99], "default": 0.9},
    "confidence": {"linear": [0.5, 0.99], "default": 0.8},
}
# Epochs before the first fit: it has three unknowns.
LEAST = 3
NONE = -1


def fit(curve):
    """Return a, b and c of f fitted to a curve of agreements by epoch, from 1 on."""
    import numpy as np
    from scipy.optimize import least_squares

    epochs = np.arange(1.0, len(curve) + 1)
    deviations = np.geomspace(1.0, 0.1, len(curve))

    def errors(values):
        a, b, c = values
        return (a * (1 - np.exp(-(epochs**b) / c)) - curve) / deviations

    bounds = ((0, 0, 1e-9), (1, 1, np.inf))
    return least_squares(errors, (1.0, 1.0, 1.0), bounds=bounds).x


def slope(t, a, b, c):
    """Return f'(t)."""
    import math

    return a * b / c * t ** (b - 1) * math.exp(-(t**b) / c)


def slowed(curve, share):
    """Return True if the fitted curve's slope has changed by more than this share since epoch 1."""
    if len(curve) < LEAST:
        return False
    known = fit(curve)
    first, now = slope(1.0, *known), slope(float(len(curve)), *known)
    return abs(first - now) > share * abs(first)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        # Corrected labels; counts of this epoch; agreements of each class; whether it is corrected.
        self.labels = {"own": torch.full((task.examples,), NONE), "curves": [], "on": []}

    def count(self, predicted, given, classes):
        """Count intersections and unions of the present epoch, for each class."""
        if "both" not in self.labels:
            zeros = torch.zeros(classes, dtype=torch.float64)
            self.labels |= {"both": zeros.clone(), "either": zeros.clone()}
            self.labels |= {"curves": [[] for _ in range(classes)], "on": [False] * classes}
        p, y = F.one_hot(predicted, classes).bool(), F.one_hot(given, classes).bool()
        self.labels["both"] += (p & y).sum(dim=0).cpu()
        self.labels["either"] += (p | y).sum(dim=0).cpu()

    def end_epoch(self):
        """Add the epoch to the curves, and decide which classes are corrected from now on."""
        shares = self.labels["both"] / self.labels["either"].clamp_min(1)
        for c, share in enumerate(shares.tolist()):
            self.labels["curves"][c].append(share)
            if not self.labels["on"][c]:
                self.labels["on"][c] = slowed(self.labels["curves"][c], self.hp.slowing)
        self.labels["both"].zero_()
        self.labels["either"].zero_()

    def step(self):
        task, hp, index = self.task, self.hp, self.task.next_index()
        batch = task.gather(index)

        def loss(*_):
            logits, given = task.logits(batch), labels(batch)
            p, predicted = logits.detach().softmax(dim=1).max(dim=1)
            self.count(predicted, given, logits.shape[1])
            open_class = torch.tensor(self.labels["on"], device=given.device)[given]
            own = self.labels["own"][index].to(given)
            own = torch.where(open_class & (p > hp.confidence), predicted, own)
            self.labels["own"][index] = own.cpu()
            return F.cross_entropy(logits, torch.where(own == NONE, given, own))

        value = task.backward(batch, loss)
        before, after = (s * task.batch_size // task.examples for s in (task.step, task.step + 1))
        if after > before:
            self.end_epoch()
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return value

    def state_dict(self):
        return {"adam": self.state, "labels": self.labels}

    def load_state_dict(self, state):
        self.state, self.labels = state["adam"], state["labels"]
