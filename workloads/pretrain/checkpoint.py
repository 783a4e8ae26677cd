"""The checkpoints that fine-tuning and compression start from, made once and pinned by hash.

    python -m workloads.pretrain.checkpoint WORKLOAD CONFIG.json OUT.safetensors

AdamW on the training data of a workload, cosine schedule, one thread. It runs in a process of its
own whose math libraries are held to AVX2 code, so that newer processors give the same bits; its
sha256 is pinned in the numbers of the workloads that start from it, and others are refused.
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
    """Weights by name of the model trained on `workload`; trained first where the cache lacks them.

    Args:
        config: needs model and pretrain (data, steps, batch, lr, wd, warmup, seed, sha256).
        workload: its data, batch, model and loss.

    Raises:
        UserError: training failed, or the weights are not those of pretrain.sha256.
    """
    numbers = {"pretrain": vars(config.pretrain) | {"sha256": None}, "model": config.model}
    given = json.dumps(numbers, default=vars, sort_keys=True)
    known = hashlib.sha256(f"{workload.__name__} {given}".encode()).hexdigest()[:16]
    kept = fetch.cache() / "pretrained" / f"{known}.safetensors"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if not kept.exists():
                _train_apart(workload.__name__, given, kept)
    weights = load_file(kept)
    if (found := fingerprint(weights)) != config.pretrain.sha256:
        raise UserError(
            f"{kept} has sha256 {found}, the goals were set on {config.pretrain.sha256}",
            "the same torch on a processor of the same family gives the same weights",
            f"to race from yours, as another version of the workload: pretrain.sha256={found}",
        )
    return weights


def fingerprint(weights: dict[str, Tensor]) -> str:
    """The first 16 digits of sha256 over names and bytes."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode() + b"\0" + weights[name].contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def train(config: SimpleNamespace, workload: ModuleType) -> dict[str, Tensor]:
    """Train from scratch: a function of the numbers in `config` alone."""
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
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


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
