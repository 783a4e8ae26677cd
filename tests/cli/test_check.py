"""`harness check` refuses what a race refuses, and says what to do."""

import shlex

import pytest

from tests.cli.test_cli import refused, typed

STATELESS = '''"""Plain gradient descent."""

{before}SPACE = {{"lr": {{"log": [1e-2, 10.0]}}}}


def init(params, hp):
    {init}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.add_(g, alpha=-hp.{lr})
'''
OWN_STEP = '''"""Plain gradient descent, with a step of its own."""

SPACE = {"lr": {"log": [1e-2, 10.0]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        for p in self.task.params:
            p.data.add_(p.grad, alpha=-self.hp.lr)
        return loss
'''


def own(init="return {}", before="", lr="lr") -> str:
    return STATELESS.format(init=init, before=before, lr=lr)


@pytest.mark.parametrize(
    "text, said",
    [
        (own("open('leak.txt', 'w').close()\n    return {}"), "a race refuses writing"),
        (
            own(
                "import socket\n    socket.create_connection(('127.0.0.1', 9))\n    return {}",
            ),
            "a race refuses the network",
        ),
        (own("pass"), "mine.py returned None; a dictionary"),
        (own(lr="lrr + hp.lr"), "hp has no 'lrr': SPACE does not declare it; did you mean lr?"),
        (OWN_STEP, "has no state_dict and no load_state_dict"),
    ],
)
def test_what_a_race_refuses_fails_the_check_with_its_reason(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    code, out, _ = typed("check", "./mine.py")
    assert code == 1
    assert said in out
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


def test_constants_of_ones_own_and_dollars_in_space_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = "SPENT = FAST = 1\nCACHED = 2\nSTATES_KEPT = 3\n"
    text = own(before=before).replace("10.0]}}", '10.0]}, "mode": "${x}"}')
    text = text.replace("for p, g", 'assert hp.mode == "${x}"\n    for p, g', 1)
    (tmp_path / "mine.py").write_text(text)
    code, out, err = typed("check", "./mine.py")
    assert code == 0, out + err
    assert out.splitlines()[-1].endswith("python -m harness workload=gpt2 submission=./mine.py")


def test_a_file_with_the_name_of_another_submission_is_refused(tmp_path):
    (tmp_path / "lion.py").write_text(own())
    assert "has the name of another submission" in refused("check", tmp_path / "lion.py")


def test_the_race_that_is_proposed_is_on_the_methods_track():
    out = typed("check", "wanda")[1]
    assert "race it:  python -m harness workload=compress_gpt2 submission=wanda" in out


def test_the_race_that_is_proposed_is_where_the_method_was_tried():
    """m_config needs points to choose from, which the default workload does not have."""
    out = typed("check", "m_config")[1]
    assert "race it:  python -m harness workload=pinn_poisson submission=m_config" in out


def test_the_race_of_a_class_that_is_proposed_can_be_typed():
    out = typed("check", "torch.optim.RAdam")[1]
    command = out.splitlines()[-1].partition("race it:  python -m harness ")[2]
    assert command.endswith("class=torch.optim.RAdam submission.lr=1e-3")
    code, out, err = typed(*shlex.split(command), "dry=true")
    assert code == 0, err
