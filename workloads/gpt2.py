"""Language-model pretraining: GPT-2 models, next-token loss on held-out text.

    mini    0.27 M parameters on the State of the Union addresses, a BPE of 1,024 tokens
    base    41 M parameters on those, Wikipedia leads in three languages and SymPy's source
    full    GPT-2 124M (Radford et al. 2019) on token shards in a local folder

Licences: addresses public domain, Wikipedia CC BY-SA 4.0, SymPy BSD-3. The project stores none of
these texts.

Examples are non-overlapping windows of `context` tokens and their successors. Every document begins
with a separator: its nats count, its bytes do not. Validation windows are spread evenly over the
validation stream.

Goal at mini: the loss of the tuned reference (adamw, nadamw) at three quarters of the budget, rule
`share` of conf/targets.yaml. Goals at base and full are provisional, because no race has set them.
Budget: `horizon` reference steps.
"""

import hashlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError
from workloads.data import shards
from workloads.models.gpt import GPT

if TYPE_CHECKING:
    from workloads.data.text import Encoder


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor | Path]:
    """Return windows of the split, int32 [N, context + 1], or the folder of training shards.

    Validation data also has the bytes of every target, uint8 [N, context].
    """
    # Imported here: a runner gets tensors and starts faster without it.
    from workloads.data import text

    if config.data.corpora:
        texts = text.documents(config.data.corpora, split)
        return tokenised(texts, encoder(config), config, split)
    context = config.model.context
    folder = shards.locate(config.data.folder, split, config.model.vocabulary)
    if split != "val":
        return {"shards": folder}
    chosen = spread(shards.count(folder, context), config.data.validation)
    return _with_bytes(shards.windows(folder, chosen, context).int(), text.gpt2())


def tokenised(
    texts: list[str], encoder: "Encoder", config: SimpleNamespace, split: str
) -> dict[str, Tensor]:
    """Return the data of these texts in the encoder's tokens, as `data` does."""
    context = config.model.context
    stream = torch.from_numpy(encoder.encode(texts))
    windows = stream.unfold(0, context + 1, context)
    if split == "val":
        windows = windows[spread(len(windows), config.data.validation)]
    windows = windows.contiguous()
    check_digest(windows, config, split)
    return _with_bytes(windows, encoder) if split == "val" else {"windows": windows}


def _with_bytes(windows: Tensor, encoder: "Encoder") -> dict[str, Tensor]:
    return {"windows": windows, "bytes": torch.from_numpy(encoder.lengths())[windows[:, 1:].long()]}


def size(data: dict[str, Tensor | Path], config: SimpleNamespace) -> int:
    """Return the number of windows."""
    if "shards" in data:
        return shards.count(data["shards"], config.model.context)
    return len(data["windows"])


def tokens(config: SimpleNamespace) -> int:
    """Return the number of tokens in an example."""
    return config.model.context


def batch(
    data: dict[str, Tensor | Path], index: Tensor, config: SimpleNamespace
) -> dict[str, Tensor]:
    """Return inputs and targets, int64 [B, context]; validation: also bytes, uint8 [B, context]."""
    if "shards" in data:
        windows = shards.windows(data["shards"], index, config.model.context)
    else:
        windows = data["windows"][index].long()
    chosen = {"inputs": windows[:, :-1], "targets": windows[:, 1:]}
    return chosen | {"bytes": data["bytes"][index]} if "bytes" in data else chosen


def model(config: SimpleNamespace) -> nn.Module:
    return GPT(config.model)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per token."""
    logits = model(batch["inputs"])
    return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per token of every example, [B]."""
    return _nats(model(batch["inputs"]), batch["targets"]).mean(dim=1)


def sample(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the mean nats per token against targets drawn from the model, by inverse transform."""
    logits = model(batch["inputs"]).flatten(0, 1)
    below = logits.detach().softmax(dim=1).cumsum(dim=1)
    drawn = torch.rand(len(below), 1, generator=generator, device=generator.device)
    targets = torch.searchsorted(below, drawn.to(below)).clamp(max=below.shape[1] - 1)
    return F.cross_entropy(logits, targets.flatten())


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return nats, bytes and tokens (`count`) of the batch."""
    nats = _nats(model(batch["inputs"]), batch["targets"])
    count = torch.tensor(nats.numel())
    return {"nats": nats.sum(), "bytes": batch["bytes"].sum(), "count": count}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return loss, in nats per token, and bits_per_byte, the text's bits over its bytes."""
    return {
        "loss": float(sums["nats"] / sums["count"]),
        "bits_per_byte": float(sums["nats"] / sums["bytes"] / math.log(2)),
    }


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view_as(targets)


def encoder(config: SimpleNamespace) -> "Encoder":
    """Return the encoder of the tokens of data and model."""
    from workloads.data import text

    if config.data.tokenizer == "gpt2":
        return text.gpt2()
    if config.data.tokenizer == "trained":
        return text.trained(config.data.corpora, config.model.vocabulary)
    raise UserError(f"data.tokenizer={config.data.tokenizer!r} is unknown", "gpt2 or trained")


def spread(available: int, wanted: int) -> Tensor:
    """Return `wanted` of `available` window numbers at even distances, int64."""
    if wanted > available:
        raise UserError(f"data.validation={wanted} windows", f"the data has {available}")
    return torch.arange(wanted) * available // wanted


def check_digest(windows: Tensor, config: SimpleNamespace, split: str) -> None:
    """Check that the goal was set on these tokens; another library version may make others."""
    found = hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:16]
    pinned = getattr(config.data.digest, split)
    if found != pinned:
        raise UserError(
            f"the {split} tokens have digest {found}, the goal was set on {pinned}",
            "the same data settings and tokenizers version give the same tokens",
            f"to set a workload of your own: data.digest.{split}={found} and a new goal",
        )
