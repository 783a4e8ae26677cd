"""The computation of a stream's method, weighed by the memory that it takes meanwhile.

    adjusted_steps   Σ over hand-overs of (passes · their cost) · (bytes + state)/bytes

A pass of forward_backward of the workload's batch costs 1, a forward pass a third of that. `state`
are the bytes of state and kept examples at the hand-over; `bytes` is `adjust.bytes` of the block,
what weights and gradients take. After the memory-adjusted FLOPs of Roth et al., arXiv 2408.14471.
"""

from harness.catalog.kinds import computes, parse_kind
from harness.errors import UserError

NAME, NUMBERS = "adjusted_steps", "adjust"
# Of one pass of the workload's batch at full depth, by arithmetic: a backward pass is two forward.
COSTS = {
    "forward_backward": 1.0,
    "forward": 1 / 3,
    "hvp": 2.0,
    "per_example_gradients": 1.0,
    "vjp": 1.0,
    "jvp": 5 / 3,
    "jacobian": 1.0,
}


def cost(passes: dict[str, int]) -> float:
    """Return the cost of counted passes, in reference steps."""
    total = 0.0
    for kind, count in passes.items():
        if computes(kind):
            operation, examples, depth = parse_kind(kind)
            total += count * COSTS[operation] * float(examples * depth)
    return total


def adjusted_steps(block: dict, rows: list[dict]) -> dict[str, float]:
    """Return `adjusted_steps` of a log's rows, where the goal names it; else nothing.

    Raises:
        UserError: the goal names it, and the block does not say what weights take.
    """
    if NAME not in block["goal"]:
        return {}
    taken = (block.get(NUMBERS) or {}).get("bytes")
    if not taken:
        raise UserError(
            f"the goal names {NAME}, and the block has no {NUMBERS}.bytes",
            "the bytes of the model's weights and gradients",
            f"{NUMBERS}: {{bytes: 1920000}}",
        )
    total = 0.0
    for row in rows:
        if row["event"] == "evaluation":
            total += cost(row["passes"]) * (1 + row["state_bytes"] / taken)
    return {NAME: total}
