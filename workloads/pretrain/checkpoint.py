"""The checkpoints that fine-tuning and compression start from: shipped, and pinned by hash.

    python -m workloads.pretrain.checkpoint WORKLOAD CONFIG.json OUT.safetensors

AdamW on the training data of a workload, cosine schedule, one thread; the weights are rounded to
half precision. Training gives the same bits on processors of one family alone, even with the math
libraries held to AVX2 code, as they are here. So the weights that all trials start from lie beside
this file, named by the sha256 that the numbers of a workload pin; scripts/pretrain.py makes them,
and shows what training again gives. Other numbers are trained where they are raced, and cached.
"""

import hashlib
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import UserError
from harness.schedules import warmup_cosine
from workloads.data import fetch

SAME_BITS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def origin(config: SimpleNamespace) -> SimpleNamespace:
    """The numbers of the workload that the checkpoint was trained on: its data, the same model."""
    return SimpleNamespace(data=config.pretrain.data, model=config.model)


def checkpoint(config: SimpleNamespace, workload: ModuleType) -> dict[str, Tensor]:
    """float32 weights by name of the model trained on `workload`, those of pretrain.sha256.

    Args:
        config: needs model and pretrain (data, steps, batch, lr, wd, warmup, seed, sha256).
        workload: its data, batch, model and loss.

    Raises:
        UserError: training failed, or the weights are not those of pretrain.sha256.
    """
    kept = shipped(config.pretrain.sha256)
    if not kept.exists():
        kept = trained(config, workload)
    weights = load_file(kept)
    if (found := fingerprint(weights)) != config.pretrain.sha256:
        raise UserError(
            f"{kept} has sha256 {found}, not {config.pretrain.sha256}",
            f"to race from it, as another version of the workload: pretrain.sha256={found}",
        )
    return {name: tensor.float() for name, tensor in weights.items()}


def shipped(sha256: str) -> Path:
    """The file of the weights with this hash, if the project brings them."""
    return Path(__file__).with_name(f"{sha256}.safetensors")


def trained(config: SimpleNamespace, workload: ModuleType) -> Path:
    """The file of the weights as this machine trains them, in the cache."""
    numbers = {"pretrain": vars(config.pretrain) | {"sha256": None}, "model": config.model}
    given = json.dumps(numbers, default=vars, sort_keys=True)
    known = hashlib.sha256(f"half {workload.__name__} {given}".encode()).hexdigest()[:16]
    kept = fetch.cache() / "pretrained" / f"{known}.safetensors"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if not kept.exists():
                _train_apart(workload.__name__, given, kept)
    return kept


def fingerprint(weights: dict[str, Tensor]) -> str:
    """The first 16 digits of sha256 over names and bytes."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode() + b"\0" + weights[name].contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def train(config: SimpleNamespace, workload: ModuleType) -> dict[str, Tensor]:
    """float16 weights by name, trained from scratch: a function of the numbers in `config`."""
    recipe, before = config.pretrain, origin(config)
    data = workload.data(before, "train")
    torch.manual_seed(recipe.seed)
    model, order = workload.model(before), torch.randperm(workload.size(data, before))
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.wd},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * warmup_cosine((step + 0.5) / recipe.steps, recipe.warmup)
        index = order[torch.arange(step * recipe.batch, (step + 1) * recipe.batch) % len(order)]
        optimizer.zero_grad()
        loss = workload.loss(model, workload.batch(data, index, before))
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(
                f"pretraining: step {step + 1} of {recipe.steps}, loss {float(loss.detach()):.3f}",
                file=sys.stderr,
                flush=True,
            )
    assert math.isfinite(float(loss.detach()))
    return {name: tensor.detach().half() for name, tensor in model.state_dict().items()}


def _train_apart(workload: str, numbers: str, kept: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | SAME_BITS
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".train-") as scratch:
        given, made = Path(scratch) / "config.json", Path(scratch) / "weights.safetensors"
        given.write_text(numbers)
        here = "workloads.pretrain.checkpoint"
        command = [sys.executable, "-m", here, workload, str(given), str(made)]
        if subprocess.run(command, env=environment, cwd=root).returncode:
            raise UserError(
                "pretraining failed", do="its error is above; the same command tries again"
            )
        os.replace(made, kept)


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    _, workload, given, made = sys.argv
    numbers = json.loads(Path(given).read_text(), object_hook=lambda d: SimpleNamespace(**d))
    save_file(train(numbers, importlib.import_module(workload)), made)


if __name__ == "__main__":
    main()
