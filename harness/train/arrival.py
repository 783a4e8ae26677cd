"""The examples of a stream arrive at the runner when their task begins.

The referee draws the order of a stream and writes one file a task, a part: the order of its steps,
and the examples that they use. The runner has the examples of the present task alone; those of
earlier tasks are cleared, and those of later ones do not exist in its process.
"""

import time
from pathlib import Path

import torch
from torch import Tensor

from harness.system.files import atomic_write

WAIT = 0.01  # seconds between two looks for a part
EXAMPLES = "example."  # prefix of the tensors that have one row an example


def by_example(data: dict, size: int) -> dict[str, Tensor]:
    """Return the tensors that have one row for each of `size` examples."""
    tensors = {name: value for name, value in data.items() if isinstance(value, Tensor)}
    return {name: value for name, value in tensors.items() if value.ndim and len(value) == size}


def write(path: Path, data: dict, size: int, order: Tensor, step: int) -> None:
    """Write the part of a task.

    Args:
        data: the whole training data, of `size` examples.
        order: the numbers of the task's examples, step by step.
        step: the task's first step.
    """
    from safetensors.torch import save

    rows = order.unique()
    part = {EXAMPLES + name: value[rows] for name, value in by_example(data, size).items()}
    part |= {"rows": rows, "order": order.clone(), "numbers": torch.tensor([size, step])}
    atomic_write(path, save(part))


def wait(path: Path) -> None:
    """Wait until a part is there; the referee's deadline ends a wait in vain."""
    while not path.exists():
        time.sleep(WAIT)


def receive(path: Path, data: dict, device: torch.device) -> tuple[Tensor, int]:
    """Put a part's examples into `data`, in place of those of the part before.

    Returns:
        The order of the task's examples, and its first step.
    """
    from safetensors.torch import load_file

    part = load_file(path)
    size, step = part["numbers"].tolist()
    for name, values in part.items():
        if not name.startswith(EXAMPLES):
            continue
        name = name.removeprefix(EXAMPLES)
        if name in data:
            data[name].zero_()
        else:
            data[name] = torch.zeros(size, *values.shape[1:], dtype=values.dtype, device=device)
        data[name][part["rows"].to(device)] = values.to(device)
    return part["order"], step
