"""Nested state as tensors and a tree that JSON can hold, and back; nothing is pickled.

Beside tensors and plain values it takes what optimizers of other packages keep: sets, deques,
dtypes, generators, numpy values, and objects whose attributes are such values in turn. An object
comes back only as a class that is loaded already, and none of its code is run.
"""

import math
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
FACTORIES = {"dict": dict, "list": list, "set": set, "int": int, "float": float}
ALLOWED = "dicts, lists, tuples, sets, tensors, numbers, strings, and objects made of these"


def flatten_state(state: Any) -> tuple[dict[str, "Tensor"], Any]:
    """Split nested state into its tensors and a JSON-able tree that refers to them by path.

    Tensors are detached, made dense and moved to the CPU; the tree says which of them were not
    there. The order of their dimensions in memory
    is kept, since a product of matrices may round otherwise in another; entries that shared memory
    are restored as separate tensors.

    Raises:
        TypeError: something that cannot be stored, with its key.
    """
    flat = _Flattening()
    tree = flat.tree_of(state, "")
    return flat.tensors, tree


def restore_state(tensors: dict[str, "Tensor"], tree: Any, device: str = "cpu") -> Any:
    """Return what `flatten_state` was given.

    Args:
        device: where tensors go that were not on the CPU.

    Raises:
        ValueError: a kind of value, or a class, that is not known here.
    """
    if not isinstance(tree, list):
        return tree
    kind, *items = tree
    restore: Callable = lambda item: restore_state(tensors, item, device)  # noqa: E731
    match kind:
        case "tensor":
            return _in_order(tensors[items[0]], items[1:])
        case "placed":
            return restore(items[0]).to(device)
        case "list" | "tuple" | "set" | "frozenset":
            return SEQUENCES[kind](map(restore, items))
        case "deque":
            return deque(map(restore, items[1:]), maxlen=items[0])
        case "dict" | "ordered":
            pairs = [(restore(key), restore(item)) for key, item in items]
            return dict(pairs) if kind == "dict" else OrderedDict(pairs)
        case "defaultdict":
            pairs = [(restore(key), restore(item)) for key, item in items[1:]]
            return defaultdict(FACTORIES[items[0]] if items[0] else None, pairs)
        case "object" | "enum" | "named tuple":
            return _restored_object(kind, items[0], restore(items[1]))
        case "namespace":
            return SimpleNamespace(**restore(items[0]))
    return _restored_value(kind, items, restore)


def _in_order(tensor: "Tensor", order: list[int]) -> "Tensor":
    """Return the tensor whose dimensions lay in memory in this order; as it is without one."""
    if not order:
        return tensor
    if sorted(order) != list(range(tensor.ndim)):
        raise ValueError(f"{order} is no order of {tensor.ndim} dimensions")
    return tensor.permute([order.index(d) for d in range(tensor.ndim)])


def _restored_value(kind: str, items: list, restore: Callable) -> Any:
    """Return a value that is neither a container nor an object of a class."""
    import numpy as np
    import torch

    match kind:
        case "float":
            return float(items[0])
        case "complex":
            return complex(items[0])
        case "bytes":
            return bytes.fromhex(items[0])
        case "range" | "slice":
            return {"range": range, "slice": slice}[kind](*map(restore, items))
        case "dtype":
            return getattr(torch, items[0])
        case "device":
            return torch.device(items[0])
        case "size":
            return torch.Size(items)
        case "numpy":
            return np.dtype(items[0]).type(restore(items[1]))
        case "array":
            return restore(items[1]).numpy().astype(items[0])
        case "generator":
            generator = torch.Generator(items[0])
            generator.set_state(restore(items[1]))
            return generator
    raise ValueError(f"unknown kind of state: {kind!r}")


def _restored_object(kind: str, name: str, content: Any) -> Any:
    """Return an object of a class that this process has loaded."""
    home, _, path = name.partition(":")
    cls: Any = sys.modules.get(home)
    for part in path.split("."):
        cls = getattr(cls, part, None)
    if not isinstance(cls, type):
        raise ValueError(f"state has an object of {name}, a class that is not loaded")
    if kind == "enum" and issubclass(cls, Enum):
        return cls[content]
    if kind == "named tuple" and issubclass(cls, tuple):
        return tuple.__new__(cls, content)
    if kind == "object" and _is_plain_class(cls):
        result = object.__new__(cls)
        result.__dict__.update(content)
        return result
    raise ValueError(f"state has an object of {name}, which is not a {kind}")


class _Flattening:
    """The tensors met so far, by path, and the values that the present one lies in."""

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}
        self.memory: set[int] = set()
        self.around: list[int] = []

    def tree_of(self, value: Any, key: str) -> Any:
        """Return a value as tree: a scalar is itself, all else a list that begins with its kind."""
        # The exact type: a subclass would come back as something else.
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else ["float", repr(value)]
        if id(value) in self.around:
            raise TypeError(f"{key or 'state'}: a {kind.__name__} contains itself")
        self.around.append(id(value))
        tree = self._container(value, kind, key)
        tree = tree if tree is not None else self._value(value, kind, key)
        tree = tree if tree is not None else self._object(value, kind, key)
        self.around.pop()
        if tree is None:
            tree = self._tensor(value, key)
            tree = tree if value.device.type == "cpu" else ["placed", tree]
        return tree

    def _container(self, value: Any, kind: type, key: str) -> list | None:
        under = f"{key}." if key else ""
        if kind in (list, tuple):
            return [kind.__name__, *(self.tree_of(v, f"{under}{i}") for i, v in enumerate(value))]
        if kind in (set, frozenset):
            # A set has no order: this one does not depend on the process.
            items = [self.tree_of(v, f"{under}{i}") for i, v in enumerate(value)]
            return [kind.__name__, *sorted(items, key=repr)]
        if kind is deque:
            items = [self.tree_of(v, f"{under}{i}") for i, v in enumerate(value)]
            return ["deque", value.maxlen, *items]
        if kind not in (dict, OrderedDict, defaultdict):
            return None
        items = []
        for name, item in value.items():
            if not _is_key(name):
                allowed = "numbers, strings, None, and tuples of these"
                raise TypeError(f"{key or 'state'}: cannot store the key {name!r}; keys: {allowed}")
            items.append([self.tree_of(name, f"{under}key"), self.tree_of(item, f"{under}{name}")])
        if kind is defaultdict:
            factory = value.default_factory and value.default_factory.__name__
            if value.default_factory not in (None, *FACTORIES.values()):
                raise TypeError(f"{key or 'state'}: cannot store a defaultdict of {factory}")
            return ["defaultdict", factory, *items]
        return ["dict" if kind is dict else "ordered", *items]

    def _value(self, value: Any, kind: type, key: str) -> list | None:
        import numpy as np
        import torch

        if kind is complex:
            return ["complex", repr(value)]
        if kind is bytes:
            return ["bytes", value.hex()]
        if kind is range:
            return ["range", value.start, value.stop, value.step]
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return ["slice", *(self.tree_of(part, f"{key}.slice") for part in parts)]
        if kind is torch.dtype:
            return ["dtype", str(value).removeprefix("torch.")]
        if kind is torch.device:
            return ["device", str(value)]
        if kind is torch.Size:
            return ["size", *value]
        if kind is torch.Generator:
            return ["generator", str(value.device), self._tensor(value.get_state(), f"{key}.state")]
        if isinstance(value, np.generic) and value.dtype.kind in "biufc":
            return ["numpy", value.dtype.str, self.tree_of(value.item(), key)]
        if kind is np.ndarray and value.dtype.kind in "biuf":
            return ["array", value.dtype.str, self._tensor(torch.from_numpy(value.copy()), key)]
        return None

    def _object(self, value: Any, kind: type, key: str) -> list | None:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if kind is SimpleNamespace:
            return ["namespace", self.tree_of(vars(value), key)]
        if isinstance(value, Enum):
            return ["enum", name, value.name]
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ["named tuple", name, self.tree_of(tuple(value), key)]
        if _is_plain_class(kind):
            return ["object", name, self.tree_of(vars(value), key)]
        return None

    def _tensor(self, value: Any, key: str) -> list:
        name = key
        # 1 and "1", or "a.b" and "b" in "a", have the same path.
        while name in self.tensors:
            name += "'"
        order = _order_in_memory(value)
        value = value.permute(order) if order else value
        self.tensors[name] = _plain(value, key or "state", self.memory)
        return ["tensor", name, *order]


def _is_key(value: Any) -> bool:
    if type(value) is tuple:
        return all(_is_key(part) for part in value)
    return value is None or type(value) in (str, int, bool, float)


def _is_plain_class(kind: type) -> bool:
    """Return True for a class whose objects are their attributes and nothing else."""
    import torch

    refused = (torch.Tensor, torch.nn.Module, torch.optim.Optimizer, type, FunctionType, ModuleType)
    if (
        issubclass(kind, refused)
        or kind.__module__ == "builtins"
        or "<locals>" in kind.__qualname__
    ):
        return False
    own = [base for base in kind.__mro__ if base is not object]
    special = (
        "__reduce__",
        "__reduce_ex__",
        "__getstate__",
        "__setstate__",
        "__slots__",
        "__new__",
    )
    return (
        kind.__dictoffset__ != 0
        and issubclass(kind, object)
        and not any(name in vars(base) for base in own for name in special)
        and not issubclass(kind, dict | list | tuple | set | frozenset | str | int | float | bytes)
    )


def _order_in_memory(value: Any) -> list[int]:
    """Return the dimensions of a dense tensor from the outermost; [] if they lie as they stand."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return []
    if value.is_contiguous():
        return []
    order = sorted(range(value.ndim), key=lambda d: value.stride(d), reverse=True)
    return order if value.permute(order).is_contiguous() else []


def _plain(value: Any, key: str, memory: set[int]) -> "Tensor":
    """Return the tensor as safetensors stores it: dense, contiguous, on the CPU, its own memory."""
    import torch
    from safetensors.torch import _TYPES as storable

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise TypeError(f"{key}: cannot store a {type(value).__name__}; state is {ALLOWED}")
    if value.layout != torch.strided or value.is_meta or value.dtype not in storable.values():
        what = f"{value.layout}, {value.dtype}, {value.device}"
        raise TypeError(f"{key}: cannot store this tensor ({what}); it must be dense and real")
    tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    address = tensor.untyped_storage().data_ptr()
    if address in memory:
        tensor = tensor.clone()
    memory.add(tensor.untyped_storage().data_ptr())
    return tensor
