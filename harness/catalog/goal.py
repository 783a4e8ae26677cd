"""A workload's goal: conditions on metrics."""


def primary(goal: dict) -> tuple[str, str, float]:
    """The goal's first condition: metric, direction (at_most or at_least), bound."""
    metric, condition = next(iter(goal.items()))
    direction, bound = next(iter(condition.items()))
    return metric, direction, bound


def meets(goal: dict, metrics: dict) -> bool:
    """True when every condition of the goal holds; a missing or non-finite value holds nothing."""
    for metric, condition in goal.items():
        value = metrics.get(metric)
        for direction, bound in condition.items():
            if value is None or not (value <= bound if direction == "at_most" else value >= bound):
                return False
    return True
