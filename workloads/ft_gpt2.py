"""Fine-tuning of a language model: presidents' English to Wikipedia in another language.

    mini    0.34 M parameters, pretrained on the State of the Union addresses, to French

The start is a checkpoint that workloads/pretrain/checkpoint.py makes: deterministic, pinned by
hash, the same for every submission and seed. The readout is not tied to the embedding: it is the
head, which every method trains and no budget counts. Variants bound the share of the other
parameters.
Data: lead sections of Wikipedia articles (CC BY-SA 4.0), in the tokens of the pretraining corpus;
documents are split by hash. Windows, loss and metric are those of the gpt2 workload.
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
    """As gpt2, of articles in data.language and in the tokens of the pretraining."""
    from workloads.data import text

    articles = text.wiki(split).items()
    texts = [article for name, article in articles if name.startswith(config.data.language)]
    return gpt2.tokenised(texts, gpt2.encoder(origin(config)), config, split)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """The weights that training starts from, by name."""
    return checkpoint(config, gpt2)
