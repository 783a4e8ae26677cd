"""DKVB: a frozen encoder, and a table of values that only the nearest keys of an example change.

Träuble et al., "Discrete Key-Value Bottleneck", arXiv 2207.11240.

    z = features of the trained weights, which stay;  for each of `books` fixed random projections:
    the nearest of `keys` keys to R·z, and its value, a score for each class
    scores = mean over books of the values found;  values: SGD on the cross-entropy
    in the first `settle` of the stream, keys follow R·z by a moving average; then they stay

State: books·keys·(width + classes) numbers, and the projections.
Departures from the paper: keys start near examples of the first batch and settle on the stream's
first images, where the authors have another unlabelled set; values train meanwhile. Not compared
with the paper's text.
"""

import torch
import torch.nn.functional as F

from harness import surgery
from harness.memory import labels

TRACKS = ["continual"]
PASSES = {"forward": 1}
SPACE = {
    "lr": {"log": [0.3, 300.0], "default": 30.0},
    "books": {"choice": [64, 32]},
    "keys": {"choice": [200, 100]},
    "width": {"choice": [8, 16]},
    "settle": {"choice": [0.05, 0.1, 0.2]},
    "decay": 0.95,
}
SKIPS = {"acts": "the answers are values of a table of its own; the model's weights stay"}


def nearest(points, keys):
    """Return the number of the nearest key, [books, B], of points [books, B, w]."""
    return torch.cdist(points, keys).argmin(dim=2)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.readout = surgery.readout(task.model)
        self.state = {}

    def begin(self, features, classes):
        """Draw projections (Glorot), put keys on projected examples, and values at zero."""
        hp, rng = self.hp, self.task.rng
        inputs = features.shape[1]
        drawn = torch.randn(hp.books, inputs, hp.width, generator=rng).to(features)
        projection = drawn * (2 / (inputs + hp.width)) ** 0.5
        chosen = torch.randint(len(features), (hp.books, hp.keys), generator=rng)
        points = torch.einsum("bi,kiw->kbw", features, projection)
        keys = points.gather(1, chosen.to(points.device)[:, :, None].expand(-1, -1, hp.width))
        noise = torch.randn(keys.shape, generator=rng).to(keys)
        self.state = {
            "projection": projection,
            "keys": keys + 0.1 * points.std() * noise,
            "mass": torch.ones(hp.books, hp.keys).to(keys),
            "values": features.new_zeros(hp.books, hp.keys, classes),
        }

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        features = task.features_of([p.data for p in task.params], batch)
        if not self.state:
            self.begin(features, self.readout.out_features)
        points = torch.einsum("bi,kiw->kbw", features, self.state["projection"])
        places = nearest(points, self.state["keys"])
        if task.progress < hp.settle:
            self.follow(points, places)
        found = self.read(places)
        return self.learn(places, found, labels(batch))

    def read(self, places):
        """Return the mean of the values in these places [books, B], as scores [B, classes]."""
        books = torch.arange(len(places), device=places.device)[:, None]
        return self.state["values"][books, places].mean(dim=0)

    def follow(self, points, places):
        """Move keys to the moving average of the points that they are nearest to."""
        hit = F.one_hot(places, self.hp.keys).to(points)  # [books, B, keys]
        count, total = hit.sum(1), torch.einsum("kbn,kbw->knw", hit, points)
        keys, mass, decay = self.state["keys"], self.state["mass"], self.hp.decay
        fresh = decay * mass + (1 - decay) * count
        moved = decay * mass[:, :, None] * keys + (1 - decay) * total
        keys.copy_(moved / fresh[:, :, None])
        mass.copy_(fresh)

    def learn(self, places, found, answers):
        """Step down the cross-entropy by the values that were read; return the loss."""
        slope = (found.softmax(1) - F.one_hot(answers, found.shape[1]).to(found)) / len(answers)
        change = slope.expand(len(places), -1, -1) / len(places)
        index = places[:, :, None].expand(-1, -1, found.shape[1])
        self.state["values"].scatter_add_(1, index, -self.hp.lr * change)
        return F.cross_entropy(found, answers)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


@torch.no_grad()
def predict(algorithm, inputs):
    """Return the scores that the table gives, [B, C]; before training, the model's own."""
    task = algorithm.task
    if not algorithm.state:
        return task.model(inputs)
    points = torch.einsum(
        "bi,kiw->kbw", task.features({"inputs": inputs}), algorithm.state["projection"]
    )
    return algorithm.read(nearest(points, algorithm.state["keys"]))
