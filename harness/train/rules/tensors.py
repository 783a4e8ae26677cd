"""How a parameter, its gradient and its state are shown to a rule that `harness.optim` calls.

A rule is written for plain tensors of at least 32 bits, with matrices as [outputs, inputs]. Here
- tensors of 16 bits and fewer are shown as float32 copies, so that optimizer state is float32;
- a matrix stored as [inputs, outputs] (transformers' Conv1D) is shown transposed;
- a shard of FSDP2 (a DTensor) is shown as the part on this device, or as the whole tensor.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WIDE = (torch.float32, torch.float64)
# Operations that torch does not tag as pointwise, although each element depends on itself alone.
ELEMENT_BY_ELEMENT = {
    "_foreach_add", "_foreach_add_", "_foreach_addcdiv", "_foreach_addcdiv_", "_foreach_addcmul_",
    "_foreach_clamp_max_", "_foreach_clamp_min", "_foreach_clamp_min_", "_foreach_copy_",
    "_foreach_div", "_foreach_div_", "_foreach_lerp", "_foreach_lerp_", "_foreach_maximum_",
    "_foreach_mul", "_foreach_mul_", "_foreach_neg", "_foreach_pow", "_foreach_reciprocal_",
    "_foreach_sign", "_foreach_sign_", "_foreach_sqrt", "_foreach_sub", "_foreach_sub_",
    "_fused_adamw_", "_fused_sgd_", "_unsafe_view", "alias", "abs_", "clone", "copy_", "detach",
    "empty_like", "fill_", "full", "full_like", "lift_fresh", "ones_like", "view", "zero_",
    "zeros_like",
}  # fmt: skip


def is_sharded(t: Any) -> bool:
    """Return True if `t` is a DTensor; torch.distributed.tensor is not imported for that."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def shown(t: Tensor, whole: bool = False, transposed: bool = False) -> Tensor:
    """Return a tensor as a rule takes it: the same memory wherever that is possible.

    Args:
        whole: gather a sharded tensor; otherwise take this device's part of it.
    """
    t = t.detach()
    if is_sharded(t):
        t = t.full_tensor() if whole else t.to_local()  # type: ignore[attr-defined]
    if t.is_floating_point() and t.dtype not in WIDE:
        t = t.float()
    return t.mT if transposed else t


def put_back_(p: Tensor, value: Tensor, whole: bool = False, transposed: bool = False) -> None:
    """Copy what a rule left in a shown tensor into the parameter, unless it is the same memory."""
    value = value.mT if transposed else value
    target = p.detach()
    if is_sharded(target):
        value = _shard(value, target) if whole else value
        target = target.to_local()  # type: ignore[attr-defined]
    if target.data_ptr() != value.data_ptr() or target.dtype != value.dtype:
        target.copy_(value)


def stored(value: Any, p: Tensor, whole: bool = False, transposed: bool = False) -> Any:
    """Return a value of a rule's state as it is kept: in shards if the parameter is, and fits.

    A value of the parameter's shape is divided as the parameter is; another one (a basis, a factor)
    by its rows, if the rule is shown whole tensors.
    """
    if not is_sharded(p) or not isinstance(value, Tensor) or not value.ndim:
        return value
    turned = value.mT if transposed and value.ndim == 2 else value
    if whole and turned.shape == p.shape:
        return _distributed(_shard(turned, p), p)
    if whole and _by_rows(p) and len(turned) >= p.device_mesh.size():  # type: ignore[attr-defined]
        return _rows(turned, p)
    if not whole and turned.shape == p.to_local().shape:  # type: ignore[attr-defined]
        return _distributed(turned, p)
    return value


def unstored(value: Any, whole: bool = False, transposed: bool = False) -> Any:
    """Return a kept value of state as the rule made it."""
    return shown_state(value, whole, transposed) if is_sharded(value) else value


def shown_state(value: Tensor, whole: bool, transposed: bool) -> Tensor:
    """Return a sharded tensor of state without any change of its dtype."""
    part = value.full_tensor() if whole else value.to_local()  # type: ignore[attr-defined]
    return part.mT if transposed and part.ndim == 2 else part


def _shard(value: Tensor, like: Tensor) -> Tensor:
    """Return this device's part of a whole tensor that every device holds; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    everywhere = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=like.placements).to_local()  # type: ignore[attr-defined]


def _by_rows(p: Tensor) -> bool:
    """Return True if a sharded parameter is divided by rows over a single group of devices."""
    placements = p.placements  # type: ignore[attr-defined]
    return len(placements) == 1 and placements[0].is_shard(0)


def _rows(value: Tensor, like: Tensor) -> Tensor:
    """Return a DTensor of this device's rows of a whole tensor that every device holds."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    everywhere = DTensor.from_local(value.contiguous(), mesh, [Replicate()], run_check=False)
    return everywhere.redistribute(placements=like.placements)  # type: ignore[attr-defined]


def _distributed(local: Tensor, like: Tensor) -> Tensor:
    """Return a DTensor with the parameter's shape and placements around this device's part."""
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    shape, stride = like.shape, like.stride()
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=shape, stride=stride)


@contextmanager
def same_draws(seed: int, params: list[Tensor]) -> Iterator[None]:
    """Within the block, random numbers are the same on every process of a distributed run.

    A rule that draws would otherwise move the copies of a parameter apart. A single process keeps
    torch's own generators.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        yield
        return
    devices = sorted({p.device.index for p in params if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def operations(module: ModuleType, hp: SimpleNamespace) -> set[str]:
    """Return the names of torch's operations, but for pointwise ones, in a rule's steps."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(4, generator=generator)]
    recorder = _Recorder()
    state = module.init(params, hp)
    for step in range(4):
        g = torch.randn(4, generator=generator)
        with recorder:
            module.update(params, [g], state, hp, (step + 0.5) / 4)
    return recorder.names


class _Recorder(TorchDispatchMode):
    """Collects the names of operations that are not tagged as pointwise."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.pointwise not in func.tags:
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
