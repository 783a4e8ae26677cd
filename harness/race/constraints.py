"""What a goal asks of weights besides their score: which measures it names, and how each is taken.

    sparsity, two_four, bits             measured on every compressed model (weight_metrics.py)
    pattern_N_M, block_A_B               zeros in a pattern (weight_metrics.py)
    stored_bits                          bits with their format's description (stored_bits.py)
    size, flops                          without dead structure (reduction.py)
    delta                                bytes of the change (weight_metrics.py)
    activation_bits                      imposed: the inputs of hidden matrices are rounded to as
                                         many bits as the goal allows (harness/activations.py)
    METRIC_first_K                       the metric of the first K % of the heads and neurons of
                                         every block, the others being zero
    METRIC_rounded_B                     the metric once hidden matrices are rounded to nearest, to
                                         grids of B bits in each row
    retained                             the metric of another workload, named in the block under
                                         `retain`, for the same weights

All but the first line are measured where a goal names them. The score under rounded inputs is the
only one that such a goal has.
"""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from harness import activations, structure, surgery
from harness.catalog.definition import Definition, define, merge, tree_of
from harness.errors import UserError
from harness.race import reduction, stored_bits, weight_metrics

MATRICES = ("sparsity", "two_four", "bits", "stored_bits")
REDUCTIONS = ("size", "flops")
ACTIVATIONS, RETAINED, RETAIN = "activation_bits", "retained", "retain"
RELATIVE = re.compile(r"(.+)_(first|rounded)_([1-9]\d*)")


def needs_matrices(goal: dict) -> bool:
    """Return True if a goal names a measure of the hidden matrices."""
    return any(name in MATRICES or weight_metrics.PATTERN.fullmatch(name) for name in goal)


def retained(definition: Definition) -> Definition | None:
    """Return the workload that the same weights are also scored on, or None.

    The block's `retain` names it, and changes of its numbers beside the name.

    Raises:
        UserError: the goal names `retained` and the block names no workload, or the other way
            round; or there is no such workload.
    """
    given, asked = definition.block.get(RETAIN), RETAINED in definition.block["goal"]
    if (given is None) != (not asked):
        raise UserError(
            f"{definition.key}: a goal on {RETAINED} and a workload under {RETAIN} need each other",
            f"goal: {{{RETAINED}: {{at_most: X}}}} and {RETAIN}: {{workload: NAME}}",
        )
    if given is None:
        return None
    name, changes = given["workload"], {k: v for k, v in given.items() if k != "workload"}
    tree = tree_of(name)
    tree[definition.scale] = merge(tree[definition.scale], changes, f"{definition.key}.{RETAIN}")
    return define(name, tree, definition.scale, None)


class Constraints:
    """The measures that one goal names."""

    def __init__(self, goal: dict):
        self._goal = goal
        self.reduced = [name for name in REDUCTIONS if name in goal]
        self._relatives = {name: match for name in goal if (match := RELATIVE.fullmatch(name))}
        self._bits = self._activation_bits()

    def _activation_bits(self) -> int | None:
        condition = self._goal.get(ACTIVATIONS)
        if condition is None:
            return None
        bits = condition.get("at_most")
        if len(condition) != 1 or bits is None or bits != int(bits):
            raise UserError(
                f"the goal's {ACTIVATIONS} is {condition}",
                f"{{at_most: B}} with a whole number B, {min(activations.BITS)} to "
                f"{max(activations.BITS)}",
            )
        return int(bits)

    def impose(self, model: nn.Module) -> None:
        """Let the model that is evaluated round its inputs, where the goal asks for it."""
        if self._bits is not None:
            activations.round_inputs(model, self._bits)

    def of_matrices(
        self, matrices: list[Tensor], parts: Sequence[tuple[Tensor, Tensor, Tensor]] = ()
    ) -> dict[str, float]:
        """Return the named measures of hidden matrices.

        Args:
            parts: what is added to them, where they are sums of parts; `stored_bits` counts it.
        """
        measured = {name: weight_metrics.named_pattern(name, matrices) for name in self._goal}
        result = {name: value for name, value in measured.items() if value is not None}
        if "stored_bits" in self._goal:
            result["stored_bits"] = stored_bits.stored_bits(matrices, parts)
        return result

    def of_change(
        self, tensors: dict[str, Tensor], start: dict[str, Tensor] | None, head: set[str]
    ) -> dict[str, float]:
        """Return `delta` and `activation_bits`, where the goal names them."""
        result = {} if self._bits is None else {ACTIVATIONS: float(self._bits)}
        if "delta" in self._goal and start is not None:
            result["delta"] = weight_metrics.delta(tensors, start, head)
        return result

    def shares(self, model: nn.Module, run: Callable[[nn.Module], Tensor]) -> dict[str, float]:
        """Return `size` and `flops`, those that the goal names."""
        found = reduction.shares(model, run)
        return {name: found[name] for name in self.reduced}

    def relatives(
        self, model: nn.Module, tensors: dict[str, Tensor]
    ) -> dict[str, tuple[str, dict[str, Tensor]]]:
        """Return the metric and the weights of each relative that the goal names."""
        return {
            name: (match[1], _RELATIVES[match[2]](model, tensors, int(match[3])))
            for name, match in self._relatives.items()
        }


def first(model: nn.Module, tensors: dict[str, Tensor], percent: int) -> dict[str, Tensor]:
    """Return the weights with all but the first share of heads and neurons at zero.

    Raises:
        UserError: the share is above 100 %, or the model has no heads and neurons.
    """
    if percent > 100:
        raise UserError(f"the goal names the first {percent} %", "1 to 100")
    names = {id(p): name for name, p in model.named_parameters()}
    masks = _Zeroed({name: t.clone() for name, t in tensors.items()}, names)
    for block in structure.blocks(model):
        heads, neurons = block.heads, structure.neurons(block)
        kept = [torch.arange(n) < math.ceil(n * percent / 100) for n in (heads, neurons)]
        structure.keep(masks, block, *kept)
    return masks.tensors


class _Zeroed:
    """Zeroes handed-over tensors where `structure` would mask a model's parameters."""

    def __init__(self, tensors: dict[str, Tensor], names: dict[int, str]):
        self.tensors, self._names = tensors, names

    def set(self, parameter: nn.Parameter, kept: Tensor) -> None:
        tensor = self.tensors[self._names[id(parameter)]]
        tensor.mul_(kept.to(tensor.device, tensor.dtype))


def rounded(model: nn.Module, tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Return the weights with hidden matrices on each row's grid from its least to its largest.

    Raises:
        UserError: more than 8 bits.
    """
    if bits > 8:
        raise UserError(f"the goal rounds to {bits} bits", "1 to 8")
    changed = dict(tensors)
    for name in (f"{name}.weight" for name in surgery.matrices(model)):
        w = tensors[name]
        low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
        step = ((high - low) / (2**bits - 1)).clamp(min=torch.finfo(w.dtype).tiny)
        changed[name] = low + step * ((w - low) / step).round()
    return changed


_RELATIVES = {"first": first, "rounded": rounded}
