"""Fine-tuning of a language model: from presidents' English to Wikipedia in another language.

    mini    0.34 M parameters, pretrained on the State of the Union addresses, to French

Training starts from a checkpoint of workloads/pretrain/checkpoint.py, pinned by hash and the same
for every submission and seed. The readout is not tied to the embedding: it is the head. Every
method trains the head, and the budget of trained parameters does not count it. Variants bound the
share of the other parameters that train, or the training memory.
Data: lead sections of Wikipedia articles (CC BY-SA 4.0), in the tokens of the pretraining corpus;
documents are split by hash. Windows, loss and metric are those of the gpt2 workload.

Goal at mini: the loss of the tuned reference (full fine-tuning, or one that meets the variant's
bound) at three quarters of the budget, rule `share` of conf/targets.yaml. Budget: `horizon`
reference steps.
"""

from types import SimpleNamespace

from torch import Tensor

from workloads import gpt2
from workloads.gpt2 import batch, inputs, loss, losses, metric, model, sample, score, size
from workloads.pretrain.checkpoint import checkpoint, origin

__all__ = [
    "batch",
    "data",
    "inputs",
    "loss",
    "losses",
    "metric",
    "model",
    "pretrained",
    "sample",
    "score",
    "size",
]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return gpt2's kind of data, of articles in data.language, in the pretraining's tokens."""
    from workloads.data import text

    articles = text.wiki(split).items()
    texts = [article for name, article in articles if name.startswith(config.data.language)]
    return gpt2.tokenised(texts, gpt2.encoder(origin(config)), config, split)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the weights that training starts from, by name."""
    return checkpoint(config, gpt2)
