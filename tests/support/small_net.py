"""small_net: a network of 1,606 parameters learns where a token lies, for tests of the race itself.

Data: drawn here, 400 triples of tokens to train on and 60 to validate on. A race of twelve steps
takes milliseconds. The model has what a language model has: an embedding, a norm, a hidden matrix,
biases and a readout.
"""

import torch
import torch.nn.functional as F
from torch import nn

TOKENS, CLASSES = 32, 8


def data(config, split):
    """Return the split's triples, int64 [N, 3], and classes of their first tokens, int64 [N]."""
    generator = torch.Generator().manual_seed(int(split == "val"))
    count = config.data.train if split == "train" else config.data.validation
    triples = torch.randint(TOKENS, (count, 3), generator=generator)
    return {"triples": triples, "classes": (triples[:, 0] - 20).clamp(0, CLASSES - 1)}


def size(data, config):
    """Return the number of triples."""
    return len(data["triples"])


def batch(data, index, config):
    """Return these triples and their classes."""
    return {"inputs": data["triples"][index], "targets": data["classes"][index]}


def model(config):
    """Return the network with its initial weights."""
    width, hidden = config.model.width, config.model.hidden
    readout = nn.Linear(hidden, CLASSES)
    readout.role = "readout"
    return nn.Sequential(
        nn.Embedding(TOKENS, width),
        nn.Flatten(),
        nn.LayerNorm(3 * width),
        nn.Linear(3 * width, hidden),
        nn.GELU(),
        readout,
    )


def loss(model, batch):
    """Return the mean nats per triple."""
    return F.cross_entropy(model(batch["inputs"]), batch["targets"])


def metric(model, batch):
    """Return the sum of the nats, and the number of triples."""
    nats = F.cross_entropy(model(batch["inputs"]), batch["targets"], reduction="sum")
    return {"nats": nats, "count": torch.tensor(len(batch["targets"]))}


def score(sums):
    """Return the mean nats per triple."""
    return {"loss": sums["nats"] / sums["count"]}
