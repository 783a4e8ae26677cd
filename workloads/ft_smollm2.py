"""Fine-tuning of a published language model: from English to French.

    base    SmolLM2-135M-Instruct, 134.5 M parameters, on 1.2 M tokens of French

The start is the model as the file of workloads/pretrain/smollm2.py has it (Apache-2.0), pinned by
hash: its matrices are dequantised from 4 bits (Q4_1), so they are a fixed start and not the
original checkpoint. The readout is the embedding, as in the original: there is no head, and the
variants' budgets count all that is trained. Where `untied` gives it a readout of its own, that is
the head, which every method trains and no budget counts.
Data: lead sections of Wikipedia articles (CC BY-SA 4.0), in the model's own tokens; documents are
split by hash. Windows, loss and metric are those of the gpt2 workload.
There is no scale for a CPU core. The package gguf reads the file: pip install gguf==0.19.0.
"""

from types import SimpleNamespace

from torch import Tensor, nn

from workloads import gpt2
from workloads.gpt2 import batch, inputs, loss, losses, metric, sample, score, size
from workloads.models.llama import Llama

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

ORIGIN = "smollm2"  # of workloads/pretrain/published.py


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """As gpt2, of articles in data.language and in the model's own tokens."""
    from workloads.data import text  # only here: a runner is given tensors, and starts faster
    from workloads.pretrain import smollm2

    articles = text.wiki(split).items()
    texts = [article for name, article in articles if name.startswith(config.data.language)]
    return gpt2.tokenised(texts, smollm2.encoder(), config, split)


def model(config: SimpleNamespace) -> nn.Module:
    return Llama(config.model)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """The weights that training starts from, by name."""
    from workloads.pretrain import smollm2

    weights = smollm2.weights(config.model.depth)
    if not config.model.tied:
        weights["readout.weight"] = weights["tokens.weight"].clone()
    return weights
