"""Every submission keeps the laws of harness/laws/laws.py; each law finds the mistake it is for."""

import os
import re
import subprocess
import sys
from functools import lru_cache

import pytest
import torch

from harness.catalog import discover
from harness.errors import UserError
from harness.laws import laws
from harness.laws.small_run import SmallRun
from harness.laws.space_laws import choices, corners
from harness.laws.verdicts import BROKEN, KEPT, NOT_APPLICABLE, Violation, try_law
from tests.support.racing import environment, typed

NAMES = sorted(discover.submissions())


@lru_cache(maxsize=1)  # tests come name by name
def subject(name):
    torch.set_num_threads(1)
    return SmallRun(discover.read(discover.find(name)))


# The law `values` takes these three to ten seconds: each point rounds a model, or finds a noise.
LONG = {"adaround", "brecq", "cbq", "omniquant"}


# Where the law `values` has more points than this, it is a slow test.
MANY = 10


def points_of(name):
    """How many points the law `values` trains."""
    declared = discover.read(discover.find(name)).literals["SPACE"]
    return len([*choices(declared), *corners(declared)])


# A variant's code is its file's, which keeps the others; those are slow tests of the variant.
OF_VARIANTS = {"points", "runs", "descends", "acts", "resumes", "exports"}


def laws_of_all():
    for name in NAMES:
        variant = discover.find(name).path.stem != name
        for law in laws.LAWS:
            long = law == "values" and (name in LONG or points_of(name) > MANY)
            slow = long or (variant and law not in OF_VARIANTS)
            yield pytest.param(name, law, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name, law", list(laws_of_all()))
def test_submission_keeps_the_law(name, law):
    """An exemption is for a law that is broken: none that is kept may be listed."""
    exempt = law in laws.skips(discover.read(discover.find(name)))
    verdict = try_law(laws.LAWS[law], subject(name))
    assert (verdict.outcome == BROKEN) == exempt, verdict.text


# Each law against a file with one mistake.

GOOD = '''"""Momentum, as it should be."""
import torch
TRACKS = ["train"]
SPACE = {"lr": 0.5, "beta": 0.9}
def init(params, hp):
    return {"m": [torch.zeros_like(p) for p in params]}
def update(params, grads, state, hp, progress):
    for p, g, m in zip(params, grads, state["m"]):
        m.lerp_(g, 1 - hp.beta)
        p.add_(m, alpha=-hp.lr)
'''
OWN = '''"""Gradient descent that owns its step."""
import torch
SPACE = {"lr": 0.1}
class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.count = task, hp, 0
    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        self.count += 1
        for p in self.task.params:
            p.data.sub_(p.grad, alpha=self.hp.lr)
        return loss
    def state_dict(self):
        return {"count": self.count}
    def load_state_dict(self, state):
        self.count = state["count"]
'''
MISTAKES = [  # law, file, what is replaced by what, what is said
    ("points", GOOD, '"lr": 0.5', '"lr": float("inf")', "is not a literal"),
    ("runs", GOOD, "alpha=-hp.lr", "alpha=-hp.lr, beta=1", "beta"),
    ("descends", GOOD, "alpha=-hp.lr", "alpha=hp.lr", "the loss went from"),
    ("acts", GOOD, "p.add_(m, alpha=-hp.lr)", "p.add(m, alpha=-hp.lr)", "nothing was changed"),
    ("acts", GOOD, "alpha=-hp.lr", "alpha=-hp.lr / 0.0 if hp.lr else 0.0", "ZeroDivision"),
    ("acts", GOOD, "m.lerp_(g, 1 - hp.beta)", "m.div_(m.abs() * hp.beta)", "is not finite"),
    ("repeats", OWN, "alpha=self.hp.lr", "alpha=self.hp.lr * __import__('random').random()",
     "differs between two runs"),
    ("stores", GOOD, "return {", 'return {"set": lambda: 1, ', "cannot store a"),
    ("resumes", OWN, "alpha=self.hp.lr", "alpha=self.hp.lr / (1 + self.late)", "not in the state"),
    ("gradients", GOOD, "m.lerp_(g,", "m.lerp_(g.mul_(0.5),", "overwrites the gradients"),
    ("zeros", GOOD, "p.add_(m,", "p.add_(m / m.norm(),", "not finite"),
    ("missing", GOOD, "m.lerp_(g, 1 - hp.beta)",
     "m.lerp_(g, 1 - hp.beta) if len(params) > 52 else m.mul_(float('nan'))", "not finite"),
    ("passes", OWN, "        self.count += 1",
     "        if self.task.step % 2:\n            self.task.forward_backward("
     "self.task.next_batch())\n        self.count += 1", "36 passes 'forward_backward'"),
    ("passes", OWN, "        self.count += 1", "        self.task.forward(self.task.next_batch())",
     "which PASSES does not declare"),
    ("passes", OWN, "class Algorithm", "def adapt(model, task, hp):\n    for _ in range(40):\n"
     "        task.forward_backward(task.next_batch())\nclass Algorithm",
     "set-up makes up to 40 passes beside"),
    ("hooks", OWN, "class Algorithm", "def evaluate_view(params, state):\n    return params\n"
     "class Algorithm", "evaluate_view"),
    ("masks", OWN, "p.data.sub_(p.grad, alpha=self.hp.lr)", "p.data = p.data - self.hp.lr * p.grad",
     ""),
]  # fmt: skip


def written(tmp_path, text, name="mine"):
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    return discover.read(discover.Plugin(name, path, "", None))


def broken(tmp_path, law, text):
    """What is said of a file: by its reading, its first step, or the law; '' where all is well."""
    try:
        laws.LAWS[law](SmallRun(written(tmp_path, text)))
    except (UserError, Violation) as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("text", [GOOD, OWN])
@pytest.mark.parametrize("law", laws.LAWS)
def test_a_right_file_keeps_every_law(law, text, tmp_path):
    verdict = try_law(laws.LAWS[law], SmallRun(written(tmp_path, text)))
    idle = law == "values" or (law in ("gradients", "zeros", "missing") and text is OWN)
    assert verdict.outcome == (NOT_APPLICABLE if idle else KEPT), verdict.text


@pytest.mark.parametrize("law, text, old, new, said", MISTAKES)
def test_a_law_finds_its_mistake(law, text, old, new, said, tmp_path):
    assert old in text
    changed = text.replace(old, new)
    if law == "resumes":
        changed = changed.replace("self.count = task, hp, 0", "self.count = task, hp, 0\n"
                                  "        self.late = 0").replace(
                                      "self.count += 1", "self.late += 1")  # fmt: skip
    found = broken(tmp_path, law, changed)
    assert said in found
    assert bool(found) == bool(said)


def test_an_export_that_hands_over_something_else_is_found(tmp_path):
    half = "def export(model):\n    return {k: 0.5 * v for k, v in model.state_dict().items()}\n"
    assert "once handed over" in broken(tmp_path, "exports", GOOD + half)


def test_a_sparse_mask_that_leaks_is_found(tmp_path, monkeypatch):
    """Without the harness's enforcement momentum and decay move what is masked."""
    monkeypatch.setattr("harness.train.submission.Submission._enforce_masks", lambda self: None)
    assert "masked weight is not zero" in broken(tmp_path, "masks", GOOD)


def test_an_exemption_names_a_law_and_gives_a_reason(tmp_path):
    with pytest.raises(UserError, match="did you mean resumes"):
        laws.skips(written(tmp_path, GOOD + 'SKIPS = {"resume": "no"}\n'))
    with pytest.raises(UserError, match="gives no reason"):
        laws.skips(written(tmp_path, GOOD + 'SKIPS = {"resumes": " "}\n', "other"))


# The command


def checked(tmp_path, text):
    """What `harness check` says of a file, and the CPU seconds that it takes."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "harness", "check", "mine.py"],
        capture_output=True, text=True, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    after = os.times()
    spent = after.children_user + after.children_system
    return done, spent - before.children_user - before.children_system


def test_check_says_a_line_a_law(tmp_path):
    done, seconds = checked(tmp_path, GOOD)
    assert seconds < 10  # of CPU; about 4 on an idle machine
    assert (done.returncode, done.stderr) == (0, "")
    rows = done.stdout.splitlines()
    assert [row.split()[1] for row in rows[1:-1]] == list(laws.LAWS)
    assert rows[-1].startswith("all well")
    assert rows[-1].endswith(" submission=./mine.py")


def check(tmp_path, monkeypatch, text):
    """Run `harness check` on a file in this process: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    return typed("check", "mine.py")


def test_check_says_what_is_broken_and_where(tmp_path, monkeypatch):
    bad = GOOD.replace("m.lerp_(g,", "m.lerp_(g.mul_(0.5),") + 'SKIPS = {"masks": "a trial"}\n'
    code, out, _ = check(tmp_path, monkeypatch, bad)
    assert code == 1
    (row,) = [row for row in out.splitlines() if row.startswith("FAIL")]
    line = bad.splitlines().index("def update(params, grads, state, hp, progress):") + 1
    assert f"mine.py:{line})" in row
    assert re.search(r"^skip  masks +a trial$", out, re.MULTILINE)


def test_check_ends_at_a_file_that_does_not_run(tmp_path, monkeypatch):
    code, _, err = check(tmp_path, monkeypatch, GOOD.replace("hp.beta)", "hp.bta)"))
    assert code == 2  # SPACE has beta, which nothing reads
    assert "nothing reads hp.beta" in err
    code, out, err = check(tmp_path, monkeypatch, GOOD.replace("zip(params", "zap(params"))
    line = GOOD.splitlines().index('    for p, g, m in zip(params, grads, state["m"]):') + 1
    assert code == 1
    assert f"mine.py:{line}, in update)" in out
    assert "Traceback" not in out + err
