"""Greedy text: after fine-tuning, what the model writes by itself should not repeat itself.

    mini    ft_gpt2's model, checkpoint and French text; 64 tokens after each of 16 prompts of 32

The setting is that of Carlsson et al., "The Hyperfitting Phenomenon", arXiv 2412.04318: greedy text
of a well-fitted model falls into loops, and that of a model fitted to a few examples does not. Its
loss on other text grows meanwhile. Any method of fine-tuning may race it.

Metrics: diversity, the share of different tokens among those of a continuation, mean over prompts;
known, the share of neighbouring tokens in it that are neighbours somewhere in the training text,
because random tokens are diverse too; loss as in ft_gpt2, which the goal does not bound. Prompts
begin held-out windows. Text, licence and checkpoint are those of ft_gpt2. The goal is provisional:
no campaign has set it. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads import ft_gpt2 as base
from workloads.ft_gpt2 import inputs, loss, losses, model, pretrained, sample, size

__all__ = ["inputs", "loss", "losses", "model", "pretrained", "sample", "size"]

# Tokens of a prompt and of a continuation; prompts.
PROMPT, WRITTEN, PROMPTS = 32, 64, 16


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return ft_gpt2's data; validation also has the training text's pairs, bool [V, V]."""
    found = base.data(config, split)
    if split == "val":
        windows = base.data(config, "train")["windows"].long()
        known = torch.zeros(config.model.vocabulary, config.model.vocabulary, dtype=torch.bool)
        known[windows[:, :-1].flatten(), windows[:, 1:].flatten()] = True
        found = {**found, "known": known}
    return found


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return ft_gpt2's batch; validation also `prompts` int64 [P, 32] and the known pairs."""
    chosen = base.batch(data, index, config)
    if "known" not in data:
        return chosen
    prompts = chosen["inputs"][index < PROMPTS, :PROMPT]
    return chosen | {"prompts": prompts, "known": data["known"]}


def written(model: nn.Module, prompts: Tensor) -> Tensor:
    """Return the most likely tokens one after another, int64 [P, 64]."""
    text = prompts
    for _ in range(WRITTEN):
        text = torch.cat([text, model(text)[:, -1].argmax(dim=1, keepdim=True)], dim=1)
    return text[:, PROMPT:]


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ft_gpt2's sums, and those of the continuations."""
    sums = base.metric(model, batch)
    text = written(model, batch["prompts"])
    different = sum(len(row.unique()) for row in text)
    known = batch["known"][text[:, :-1], text[:, 1:]]
    return sums | {
        "different": torch.tensor(different),
        "written": torch.tensor(text.numel()),
        "known": known.sum(),
        "pairs": torch.tensor(known.numel()),
    }


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return diversity, known, and ft_gpt2's loss and bits_per_byte."""
    return {
        "diversity": sums["different"] / max(sums["written"], 1),
        "known": sums["known"] / max(sums["pairs"], 1),
    } | base.score(sums)
