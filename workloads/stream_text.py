"""Text stream: continual pretraining, presidents' addresses then Wikipedia in three languages.

    mini    a GPT of 0.24 M parameters, State of the Union > English > French > Spanish
    base    the same corpora, a GPT of 6 M parameters

Each task is one corpus, in windows of `context` tokens of one byte-level BPE, which is learnt from
the training text of all tasks. Quality is the mean loss of a task's windows in nats per token. Less
is better, so forgetting is a rise, and a stability gap a peak. The shift grows from task to task.
For re-warming and replay see Gupta et al., arXiv 2308.04014, and Ibrahim et al., arXiv 2403.08763.
Licences: addresses public domain, Wikipedia CC BY-SA 4.0.

Goal at mini: the tuned reference's median over three seeds at the end of the stream, 3 % easier,
rule `stream` of conf/targets.yaml. The reference is er or rewarm_replay. The goal at base is
provisional. Budget: the whole stream, `horizon` steps.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.stream import visits
from workloads.data import text
from workloads.models.gpt import GPT

CORPORA = ["sotu", "wiki"]
LANGUAGES = ("en-us", "fr-fr", "es-es")


def _documents(split: str) -> list[list[str]]:
    """Return the texts of each task."""
    wiki = text.wiki(split)
    each = [[v for k, v in wiki.items() if k.startswith(f"{name}/")] for name in LANGUAGES]
    return [list(text.sotu(split).values()), *each]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return windows int32 [N, context + 1] and group int64 [N], the task of each window.

    Validation has `data.subset` windows of each task, at even distances over its held-out text.
    """
    encoder, context = text.trained(CORPORA, config.model.vocabulary), config.model.context
    windows = []
    for documents in _documents(split):
        found = torch.from_numpy(encoder.encode(documents)).unfold(0, context + 1, context)
        wanted = config.data.subset if split == "val" else config.data.train
        windows.append(found[torch.arange(wanted) * len(found) // wanted])
    sizes = torch.tensor([len(w) for w in windows])
    group = torch.arange(len(windows)).repeat_interleave(sizes)
    return {"windows": torch.cat(windows), "group": group}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of windows."""
    return len(data["group"])


def stream(data: dict[str, Tensor], config: SimpleNamespace, seed: int) -> Tensor:
    """Return example numbers in the order of training, int64 [horizon * batch]."""
    tasks = range(config.stream.tasks)
    return visits([(data["group"] == i).nonzero()[:, 0] for i in tasks], config, seed)


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return windows int32 [B, context + 1], as a memory of examples stores them."""
    return {"windows": data["windows"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    return GPT(config.model)


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of all tokens, [B, context, vocabulary]."""
    return model(batch["windows"][:, :-1].long())


def nats(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per token of every window by the scores of its tokens, [B]."""
    targets = batch["windows"][:, 1:].long()
    each = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(len(scores), -1).mean(dim=1)


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per token of every window, [B]."""
    return nats(logits(model, batch), batch)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per token."""
    return losses(model, batch).mean()


def sample(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the mean nats per token against tokens drawn from the model."""
    scores = logits(model, batch).flatten(0, 1)
    share = scores.detach().softmax(dim=1).to(generator.device)
    drawn = torch.multinomial(share, 1, generator=generator).squeeze(1)
    return F.cross_entropy(scores, drawn.to(scores.device))


def quality(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per token of every window, [B]; less is better."""
    return losses(model, batch).double()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return nats per token, summed over windows, and the number of windows, over all tasks."""
    each = losses(model, batch)
    return {"nats": each.sum(), "count": torch.tensor(len(each))}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return pooled_loss, nats per token over all windows."""
    return {"pooled_loss": sums["nats"] / sums["count"]}
