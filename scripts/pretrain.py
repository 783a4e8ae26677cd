"""Pretrain the checkpoint that a workload starts from, and hold it against the one shipped.

    python scripts/pretrain.py compress_vit            # train here (a minute or two), compare
    python scripts/pretrain.py compress_vit --write    # ship it: workloads/pretrain/, its sha256

Prints what both are worth on the held-out part of the data that they were trained on. They agree
closely, though not to the bit where the processor is of another family.
"""

import argparse
import shutil
import sys
from collections import Counter
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

# The workload that a checkpoint is trained on, by the workload that starts from it.
ORIGINS = {"ft_gpt2": gpt2, "compress_gpt2": gpt2, "ft_vit": vit, "compress_vit": vit}


def measured(name: str, weights: dict[str, Tensor]) -> dict[str, float]:
    """Return the metrics of the weights on the validation data of their pretraining."""
    module, config = ORIGINS[name], numbers(name)
    before = checkpoint.origin(config)
    if hasattr(config.data, "digest") and not hasattr(before.data, "validation"):
        before = numbers("compress_gpt2")  # pretraining names no validation windows
    data, model = module.data(before, "val"), module.model(before)
    model.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    sums = Counter()
    with torch.inference_mode():
        for index in torch.arange(module.size(data, before)).split(100):
            found = module.metric(model, module.batch(data, index, before))
            sums.update({key: float(value) for key, value in found.items()})
    return {key: round(value, 4) for key, value in module.score(sums).items()}


def numbers(name: str) -> SimpleNamespace:
    """The numbers of a workload at scale mini."""
    return definition.define(name, tree_of(name), "mini", None).config


def pin(name: str, sha256: str, old: str) -> None:
    """Write the new hash of a workload's checkpoint; remove the old file if no other pins it."""
    path = ROOT / "conf" / "workload" / f"{name}.yaml"
    path.write_text(path.read_text().replace(f"sha256: {old}", f"sha256: {sha256}"))
    if old not in {numbers(each).pretrain.sha256 for each in ORIGINS}:
        checkpoint.shipped(old).unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=ORIGINS)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    config = numbers(asked.name)
    made = checkpoint.trained(config, ORIGINS[asked.name])
    weights = load_file(made)
    sha256, pinned = checkpoint.fingerprint(weights), config.pretrain.sha256
    print(f"trained here  {sha256}  {measured(asked.name, weights)}")
    if checkpoint.shipped(pinned).exists():
        theirs = load_file(checkpoint.shipped(pinned))
        print(f"shipped       {pinned}  {measured(asked.name, theirs)}")
    if asked.write and sha256 != pinned:
        shutil.copyfile(made, checkpoint.shipped(sha256))
        pin(asked.name, sha256, pinned)
        print(f"pinned in conf/workload/{asked.name}.yaml")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        sys.exit(2)
