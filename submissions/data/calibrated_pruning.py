"""Calibrated pruning: AdamW on examples kept by score, and others kept at random with more weight.

Ayed and Hayou, "Data pruning and neural scaling laws: fundamental limitations of score-based
algorithms", arXiv 2302.06960, with scores of Paul et al., arXiv 2107.07075 (el2n), and Toneva et
al., arXiv 1812.05159 (forgetting).

    of N examples a share r is kept: k₁ = α·r·N by score with weight 1, and k₂ = (1 − α)·r·N at
    random of the others with weight (N − k₁)/k₂, so that the weights sum to N
    el2n        ‖softmax − onehot‖₂ at the last visit
    forgetting  times that an example was right and then wrong; one that was never right comes first
    none        α = 0: a random subset

The variants have α = 1: nothing is drawn, and all weights are 1.

The first quarter of the budget is ordinary training, and gives the scores.
State: AdamW's m and v, two words per parameter; four numbers for each example.
Departures from the paper: scores come from one run's ordinary steps, not from ten initialisations,
and training goes on from there. Examples without a visit have the lowest score.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import labels
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "score": {"choice": ["el2n", "forgetting", "none"], "tuned": False},
    "share": {"linear": [0.1, 1.0], "default": 0.5},
    "by_score": {"linear": [0.0, 1.0], "default": 0.1},
}
VARIANTS = {
    "el2n_pruning": {"score": "el2n", "by_score": 1.0},
    "forgetting_pruning": {"score": "forgetting", "by_score": 1.0},
}
SCORING = 0.25


def chosen(scores, share, by_score, generator):
    """Return the numbers of the kept examples, and a weight for each; the weights sum to N."""
    count = len(scores)
    first = round(by_score * share * count)
    rest = max(round(share * count) - first, 0)
    order = torch.argsort(scores, descending=True, stable=True)
    others = order[first:][torch.randperm(count - first, generator=generator)[:rest]]
    weight = (count - first) / max(rest, 1)
    weights = torch.cat([torch.ones(first), torch.full((len(others),), weight)])
    return torch.cat([order[:first], others]), weights


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        none, zero = torch.empty(0, dtype=torch.int64), torch.zeros(task.examples)
        self.kept = {"index": none, "weights": torch.empty(0), "left": none}
        self.seen = {"score": zero - 1, "right": zero.bool(), "ever": zero.bool()}

    def take(self, count):
        """Return positions among the kept examples, in rounds without replacement."""
        left, total = self.kept["left"], len(self.kept["index"])
        while len(left) < count:
            left = torch.cat([left, torch.randperm(total, generator=self.task.rng)])
        self.kept["left"] = left[count:]
        return left[:count]

    def score(self):
        """Return the scores, [N]: larger ones are kept."""
        if self.hp.score == "forgetting":
            never = (self.seen["score"] >= 0) & ~self.seen["ever"]
            return self.seen["score"].masked_fill(never, torch.inf)
        return self.seen["score"]

    def note(self, index, logits, targets):
        """Update the scores of these examples by the scores that the model gives its classes."""
        seen, right = self.seen, logits.argmax(dim=1) == targets
        if self.hp.score == "forgetting":
            forgot = (seen["right"][index] & ~right).float()
            seen["score"][index] = seen["score"][index].clamp(min=0) + forgot
            seen["right"][index], seen["ever"][index] = right, seen["ever"][index] | right
        else:
            hot = F.one_hot(targets, logits.shape[1]).to(logits)
            seen["score"][index] = (logits.softmax(dim=1) - hot).norm(dim=1).float()

    def step(self):
        task, hp, scoring = self.task, self.hp, self.task.progress < SCORING
        weights = torch.ones(task.batch_size)
        if scoring:
            index = task.next_index()
        else:
            if not len(self.kept["index"]):
                by_score = 0.0 if hp.score == "none" else hp.by_score
                self.kept["index"], self.kept["weights"] = chosen(
                    self.score(), hp.share, by_score, task.rng
                )
            places = self.take(task.batch_size)
            # The mean over the kept examples is that over all, so weights are shares of N.
            weights = self.kept["weights"][places] * len(self.kept["index"]) / task.examples
            index = self.kept["index"][places]
        batch = task.gather(index)

        def loss(*_):
            logits = task.logits(batch)
            if scoring:
                self.note(index, logits.detach(), labels(batch))
            losses = F.cross_entropy(logits, labels(batch), reduction="none")
            return (weights.to(losses) * losses).mean()

        value = task.backward(batch, loss)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return value

    def state_dict(self):
        return {"adam": self.state, "kept": self.kept, "seen": self.seen}

    def load_state_dict(self, state):
        self.state, self.kept, self.seen = state["adam"], state["kept"], state["seen"]
