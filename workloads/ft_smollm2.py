"""Fine-tuning of a published language model: from English to French.

    base    SmolLM2-135M-Instruct, 134.5 M parameters, on 1.2 M tokens of French

Training starts from a published model (Apache-2.0), pinned by hash: workloads/pretrain/smollm2.py.
Its matrices are dequantised from 4 bits (Q4_1), so the start is fixed, but it is not the original
checkpoint. The readout is the embedding, as in the original: there is no head, and the variants'
budgets count all trained parameters. Variant `untied` has a readout of its own. It is the head:
every method trains it, and no budget counts it.
Data: lead sections of Wikipedia articles (CC BY-SA 4.0), in the model's own tokens; documents are
split by hash. Windows, loss and metric are those of the gpt2 workload.
The goals are provisional, because no race has set them. Budget: `horizon` reference steps. There is
no scale for a CPU core. The package gguf reads the file: pip install gguf==0.19.0.
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

# The name of the model in workloads/pretrain/published.py.
ORIGIN = "smollm2"


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return gpt2's kind of data, of articles in data.language, in the model's own tokens."""
    # Imported here: a runner gets tensors and starts faster without it.
    from workloads.data import text
    from workloads.pretrain import smollm2

    articles = text.wiki(split).items()
    texts = [article for name, article in articles if name.startswith(config.data.language)]
    return gpt2.tokenised(texts, smollm2.encoder(), config, split)


def model(config: SimpleNamespace) -> nn.Module:
    return Llama(config.model)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the weights that training starts from, by name."""
    from workloads.pretrain import smollm2

    weights = smollm2.weights(config.model.depth)
    if not config.model.tied:
        weights["readout.weight"] = weights["tokens.weight"].clone()
    return weights
