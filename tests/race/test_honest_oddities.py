"""Laws of honest work that looks odd: it passes in every isolation, or is refused at once by name.

Two importable copies of the harness are in tests/cli/test_packaging.py.
"""

import re
import sys

import pytest

from harness.system import sandbox
from tests.support import racing

HEAD = '"""Descent."""\nimport torch\nSPACE = {}\n'
# The place of `{begin}` is the start of training, that of `{after}` the end of a step.
FORM = """
class Algorithm:
    def __init__(self, task, hp):
        self.task, self.model = task, task.model
{begin}

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        with torch.no_grad():
            for p in self.task.params:
                p.sub_(p.grad, alpha=1e-4)
{after}
        return loss

    def state_dict(self):
        return {{}}

    def load_state_dict(self, state):
        pass
"""
GROUPS = """
def optimizer(params, hp):
    groups = [{"params": [p], "lr": 1e-4 * (i + 1)} for i, p in enumerate(params)]
    return torch.optim.Adam(groups)
"""
LOADER = """
        from torch.utils.data import DataLoader, TensorDataset
        loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=4, num_workers=1)
        print("SEEN", [part[0].tolist() for part in loader], flush=True)
"""
SOCKETS = """
        import torch.distributed as dist
        dist.init_process_group("gloo", init_method="file://" + str(__import__("pathlib").Path(
            "store").absolute()), rank=0, world_size=1)
        total = torch.ones(3)
        dist.all_reduce(total)
        print("SEEN", total.tolist(), flush=True)
        dist.destroy_process_group()
"""
COMPILED = """
        def double(x):
            return 2 * x + 1
        compiled = torch.compile(double, backend="{backend}")
        print("SEEN", compiled(torch.arange(3)).tolist(), flush=True)
"""
BAR = """
        if self.task.step == 0:
            from tqdm import tqdm
            self.bar = tqdm(total=self.task.horizon, mininterval=0)
        self.bar.update()
        if self.task.step == 5:
            self.bar.close()
            print("SEEN a bar", flush=True)
"""
LOGGING = """
        import logging, warnings
        from pathlib import Path
        if self.task.step == 0:
            self.log = logging.getLogger("mine")
            self.log.addHandler(logging.FileHandler(Path.home() / "mine.log"))
            self.log.addHandler(logging.StreamHandler())
            warnings.warn("a warning")
        self.log.warning("step %d of %d", self.task.step, self.task.horizon)
        if self.task.step == 5:
            print("SEEN", len((Path.home() / "mine.log").read_text().splitlines()), flush=True)
"""
HOOKS = """
        self.norms = []
        for p in self.task.params:
            p.register_hook(lambda g: self.norms.append(float(g.norm())))
        for module in self.model.modules():
            module.register_forward_hook(lambda m, i, o: None)
"""
HOOKED = """
        if self.task.step == 5:
            print("SEEN", len(self.norms) == 6 * len(self.task.params), flush=True)
"""
ODDITIES = {
    "workers": (FORM.format(begin=LOADER, after=""), "[[0, 1, 2, 3], [4, 5, 6, 7]]"),
    "sockets": (FORM.format(begin=SOCKETS, after=""), "[1.0, 1.0, 1.0]"),
    "compile": (FORM.format(begin=COMPILED.format(backend="eager"), after=""), "[1, 3, 5]"),
    "inductor": (FORM.format(begin=COMPILED.format(backend="inductor"), after=""), "[1, 3, 5]"),
    "tqdm": (FORM.format(begin="", after=BAR), "a bar"),
    "logging": (FORM.format(begin="", after=LOGGING), "6"),
    "hooks": (FORM.format(begin=HOOKS, after=HOOKED), "True"),
    "groups": (GROUPS, ""),
}
# Work that `strict` cannot allow: it needs new processes or sockets.
REFUSED = ("workers", "sockets", "inductor")
NUMBERS = {"horizon": 6, "evaluate": {"points": 2, "batch": 2500}}
LEVELS = ("inline", "process", "strict")
QUICK = (("tqdm", "inline"), ("hooks", "inline"), ("groups", "inline"), ("compile", "inline"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strict is of Linux")


def cases():
    for name in ODDITIES:
        for level in LEVELS:
            slow = () if (name, level) in QUICK else (pytest.mark.slow,)
            yield pytest.param(name, level, marks=slow, id=f"{name} {level}")


@pytest.mark.filterwarnings("default:a warning")
@pytest.mark.parametrize("name, level", list(cases()))
def test_odd_and_honest_work_passes_or_is_refused_by_name(name, level, tmp_path, capfd):
    if level == "strict" and not sandbox.offered():
        pytest.skip("this kernel has no Landlock")
    text, seen = ODDITIES[name]
    file = tmp_path / "odd.py"
    file.write_text(HEAD + text)
    trial = racing.planned("pinn_poisson", file, tmp_path, numbers=NUMBERS, isolation=level)
    outcome = racing.race(trial)
    reason = outcome.record.get("reason")
    if level == "strict" and name in REFUSED:
        assert outcome.outcome == "failed"
        assert "isolation=strict refuses" in reason
        return
    assert outcome.outcome == "out_of_budget", reason
    log = outcome.folder / "runner.log"
    said = log.read_text() if log.exists() else "".join(capfd.readouterr())
    assert not seen or re.search(f"SEEN {re.escape(seen)}", said)
    assert "isolation:" not in said
