"""Count the passes of a step by kind, and measure how long they take on this machine.

A kind is an operation with its shape relative to the workload's own step. "forward_backward" is one
forward and backward pass of the workload's batch at full depth. "forward@batch=2" is a forward pass
of twice as many examples. "forward_backward@depth=1/2" is a pass through half of the blocks.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING

from harness.catalog.kinds import among
from harness.errors import UserError

if TYPE_CHECKING:
    import torch


# An attribute of the forward function that an engine gives a block; a copy of the model that no
# submission has seen has the same, so work that hides behind it shows in the time of the passes.
RECOMPUTED = "recomputes"


def modules_of(model: "torch.nn.Module") -> "list[torch.nn.Module]":
    """Return the modules of a model, each once, in the order of `model.modules()`.

    Every pass asks for them, and for the parameters. torch's own generators, which call each other,
    take nearly twice as long: 45 µs for the parameters of gpt2 mini, and these 26 µs.
    """
    found, seen, waiting = [], set(), [model]
    while waiting:
        module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            found.append(module)
            waiting += [m for m in reversed(module._modules.values()) if m is not None]
    return found


def parameters_of(model: "torch.nn.Module") -> "Iterator[torch.nn.Parameter]":
    """Yield the parameters of a model, each once, in the order of `model.parameters()`."""
    seen = set()
    for module in modules_of(model):
        for p in module._parameters.values():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                yield p


def clear_gradients(model: "torch.nn.Module") -> None:
    """Let no parameter have a gradient."""
    for p in parameters_of(model):
        p.grad = None


def touched(model: "torch.nn.Module") -> str | None:
    """Return where a model does more in a pass than the workload's own model, or None.

    This finds hooks on modules and parameters, and replaced forward functions. It does not find
    hooks on nodes of the graph or patched classes; the clock charges these by their seconds.
    """
    from torch.nn.modules.module import _has_any_global_hook

    if _has_any_global_hook():
        return "a hook on every module"
    for module in modules_of(model):
        forward = module._forward_hooks or module._forward_pre_hooks
        backward = module._backward_hooks or module._backward_pre_hooks
        replaced = module.__dict__.get("forward")
        if forward or backward or (replaced and not hasattr(replaced, RECOMPUTED)):
            return f"a hook on a {type(module).__name__} module"
        for name, p in module._parameters.items():
            if p is not None and (p._backward_hooks or p._post_accumulate_grad_hooks):
                return f"a hook on a parameter {name}"
    return None


def changed(before: "torch.nn.Module", after: "torch.nn.Module") -> str | None:
    """Return the first module that differs in place or class between two models, or None."""
    pairs = zip_longest(before.named_modules(), after.named_modules(), fillvalue=("", None))
    for (was, old), (name, new) in pairs:
        if was != name or type(old) is not type(new):
            return f"another module {name or was}"
    return None


class Meter:
    """Counts of passes by kind, and the seconds inside them: CPU, or device seconds on a GPU.

    With one thread, the seconds inside are those of the calling thread. Work of other threads at
    the same time counts as outside.

    Args:
        device: where the passes run.
        kinds: the kinds that are allowed; None allows all.
        ranks: the number of processes that share each pass. With several, the seconds are those of
            all threads, because other threads exchange the gradients.

    Attributes:
        counts: number of passes of each kind so far.
        samples: training examples used for gradients so far.
        hooked: the first result of `touched` that was not None, or None.
    """

    def __init__(
        self, device: "torch.device", kinds: Collection[str] | None = None, ranks: int = 1
    ):
        self.counts: Counter[str] = Counter()
        self.samples = 0
        self.hooked: str | None = None
        self.device = device
        self._kinds, self._ranks = kinds, ranks
        self._inside: Counter[str] = Counter()
        self._events: list = []
        import torch

        single = torch.get_num_threads() == 1 and ranks == 1
        self._clock = time.thread_time_ns if single else time.process_time_ns

    @contextmanager
    def kind(self, name: str, model: "torch.nn.Module | None" = None):
        """Count one pass of a kind, and measure the block.

        Raises:
            UserError: the kind is not allowed.
        """
        name = among(name, self._ranks)
        if self._kinds is not None and name not in self._kinds:
            raise UserError(
                f"a step made the pass {name!r}, which PASSES does not declare",
                f"declared: {', '.join(sorted(self._kinds))}",
                f"add {name!r} with its mean number per step to PASSES",
            )
        if model is not None and self.hooked is None:
            self.hooked = touched(model)
        if self.device.type == "cuda":
            import torch

            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            stream = torch.cuda.current_stream(self.device)
            begin.record(stream)
            try:
                yield
            finally:
                end.record(stream)
                self.counts[name] += 1
                self._events.append((name, begin, end))
            return
        start = self._clock()
        try:
            yield
        finally:
            self._inside[name] += self._clock() - start
            self.counts[name] += 1

    def now(self) -> float:
        """Return the CPU seconds of all threads of this process; with a GPU, wall seconds."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)
            return time.perf_counter_ns() / 1e9
        return time.process_time_ns() / 1e9

    def own(self) -> float:
        """Return the seconds of the calling thread, which measure the harness's own work."""
        return self.now() if self.device.type == "cuda" else self._clock() / 1e9

    def inside(self) -> dict[str, float]:
        """Return the seconds inside each kind so far."""
        if self._events:
            import torch

            torch.cuda.synchronize(self.device)
            for name, begin, end in self._events:
                self._inside[name] += int(begin.elapsed_time(end) * 1e6)
            self._events.clear()
        return {name: ns / 1e9 for name, ns in self._inside.items()}
