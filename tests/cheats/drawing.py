"""Cheat: let the workload's own functions draw the validation data."""

import gc
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import FunctionType

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "task", "modules", "objects", "source"]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if hp.way == "honest":
            return
        draw = drawer(hp.way, task)
        got = draw(task._config, "val") if draw else {}
        os.write(1, f"GOT {sorted(got)}".encode() if "truth" in got else b"REFUSED\n")

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        for p in self.task.params:
            p.data.sub_(p.grad, alpha=self.hp.lr)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def drawer(way, task):
    """The function `data` of the workload, or None."""
    if way == "task":
        return getattr(task._workload, "data", None)
    if way == "modules":
        return getattr(sys.modules[task._workload.__name__], "data", None)
    if way == "source":
        name = task._workload.__name__
        spec = spec_from_file_location("drawn", sys.modules[name].__file__)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.data
    functions = [f for f in gc.get_objects() if isinstance(f, FunctionType)]
    ours = [f for f in functions if f.__module__ == task._workload.__name__]
    return next((f for f in ours if f.__name__ == "data"), None)
