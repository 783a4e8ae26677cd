"""Pretrain the checkpoint of ft_NAME and compress_NAME, and hold it against the one shipped.

    python scripts/pretrain.py vit            # train here (a minute or two), compare
    python scripts/pretrain.py vit --write    # ship it: workloads/pretrain/, pretrain.sha256

Prints what both are worth on the validation data of compress_NAME: they agree closely, though not
to the bit where the processor is of another family.
"""

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.campaign.plan import tree_of
from harness.catalog import definition
from harness.catalog.discover import ROOT
from harness.errors import UserError
from workloads import gpt2, vit
from workloads.pretrain import checkpoint

ORIGINS = {"gpt2": gpt2, "vit": vit}  # what checkpoints are trained on


def measured(name: str, weights: dict[str, Tensor]) -> dict[str, float]:
    """The metrics of the weights on the validation data of compress_NAME."""
    module, config = ORIGINS[name], numbers(f"compress_{name}")
    data, model = module.data(config, "val"), module.model(config)
    model.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    sums = Counter()
    with torch.inference_mode():
        for index in torch.arange(module.size(data, config)).split(100):
            found = module.metric(model, module.batch(data, index, config))
            sums.update({key: float(value) for key, value in found.items()})
    return {key: round(value, 4) for key, value in module.score(sums).items()}


def numbers(name: str) -> SimpleNamespace:
    """The numbers of a workload at scale mini."""
    return definition.define(name, tree_of(name), "mini", None).config


def pin(sha256: str, old: str) -> list[Path]:
    """Write the new hash wherever the old one stands in conf/workload; the files changed."""
    changed = []
    for path in sorted((ROOT / "conf" / "workload").glob("*.yaml")):
        text = path.read_text()
        if f"sha256: {old}" in text:
            path.write_text(text.replace(f"sha256: {old}", f"sha256: {sha256}"))
            changed.append(path)
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=ORIGINS)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    config = numbers(f"compress_{asked.name}")
    made = checkpoint.trained(config, ORIGINS[asked.name])
    weights = load_file(made)
    sha256, pinned = checkpoint.fingerprint(weights), config.pretrain.sha256
    print(f"trained here  {sha256}  {measured(asked.name, weights)}")
    if checkpoint.shipped(pinned).exists():
        theirs = load_file(checkpoint.shipped(pinned))
        print(f"shipped       {pinned}  {measured(asked.name, theirs)}")
    if asked.write and sha256 != pinned:
        shutil.copyfile(made, checkpoint.shipped(sha256))
        checkpoint.shipped(pinned).unlink(missing_ok=True)
        for path in pin(sha256, pinned):
            print(f"pinned in {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        sys.exit(2)
