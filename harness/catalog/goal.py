"""A workload's goal: conditions on metrics."""


def primary(goal: dict) -> tuple[str, str, float]:
    """Return the goal's first condition: metric, direction (at_most or at_least), bound."""
    metric, condition = next(iter(goal.items()))
    direction, bound = next(iter(condition.items()))
    return metric, direction, bound
