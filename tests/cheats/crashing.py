"""Cheat: work hard in one step, keep the fruit, and die before it is paid for, once or often.

Others leave what the next attempt would meet: another checkpoint, deep folders, a package, a note
behind the step count. `early` works in a set-up that never ends, `again` in that of a second life.
"""

import os
import sys
import time
from pathlib import Path

import torch

SPACE = {
    "lr": 0.1,
    "way": {
        "choice": [
            "honest", "crash", "loop", "swap", "nested", "package", "early", "again",
        ]
    },
}  # fmt: skip
BURNED = {"crash": 2.5, "loop": 0.6, "early": 2.5, "again": 2.5}  # CPU seconds of a life
MARK = 12345.0
FIRST, LIVES = [], []  # the first step of this life, and its number
CODE = 'import os; os.write(1, b"GOT a package\\n")'


def init(params, hp):
    # Not in the state, which a checkpoint would bring back. The log's length grows with each life.
    LIVES.append(1 + os.fstat(1).st_size)
    os.write(1, b".")
    if len(progress_file().read_bytes()) > 8:
        os.write(1, b"GOT what was kept\n")
    if LIVES == [1] and hp.way == "early":
        burn(BURNED["early"])
        with open(progress_file(), "ab") as file:
            file.write(b"weights" * 100)
        os._exit(1)
    if LIVES == [2] and hp.way == "again":
        burn(BURNED["again"])
    return {"step": 0, "mark": torch.zeros(())}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    if float(state["mark"]) == MARK:
        os.write(1, b"GOT another checkpoint\n")
    FIRST.append(state["step"])
    state["step"] += 1
    if hp.way == "loop" and state["step"] == FIRST[0] + 8 and state["step"] < 30:
        burn(BURNED["loop"])
        os._exit(1)
    if LIVES == [2] and hp.way == "again":
        os._exit(1)
    if state["step"] == 8 and LIVES == [1] and hp.way in ("swap", "nested", "package", "again"):
        if hp.way != "again":
            globals()[hp.way](state)
        os._exit(1)
    if state["step"] == 4 and hp.way == "crash":
        note = Path("note")
        if note.exists():
            os.write(1, b"GOT what was kept\n")
        if LIVES == [1]:
            burn(BURNED["crash"])
            note.write_bytes(b"weights")
            os._exit(1)


def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def swap(state):
    """Write the newest checkpoint anew, with another state and a hash that fits."""
    from harness.train import checkpoint

    folder = Path(message()["checkpoint"])
    step, tensors, meta = checkpoint.load(folder)
    marked(meta["submission"], state["mark"] + MARK)
    for path in folder.glob("step-*"):
        path.unlink()
    checkpoint.save(folder, step, tensors, meta)


def marked(inner, value):
    """Set each `mark` in a nested state."""
    for name, part in inner.items() if isinstance(inner, dict) else enumerate(inner):
        if name == "mark":
            inner[name] = value
        elif isinstance(part, dict | list):
            marked(part, value)


def nested(state):
    """Nest folders deeper than a path's name may be long, where the next attempt begins."""
    for place in (Path.cwd(), Path(message()["checkpoint"])):
        os.chdir(place)
        for _ in range(1000):
            os.mkdir("inner")
            os.chdir("inner")


def package(state):
    """Leave modules that an interpreter would import from the folder that it works in."""
    for place in (Path.cwd(), Path.home(), Path(message()["checkpoint"])):
        (place / "harness").mkdir(parents=True)
        (place / "harness" / "__init__.py").write_text(CODE)
        for name in ("sitecustomize.py", "usercustomize.py", "torch.py"):
            (place / name).write_text(CODE)


def progress_file():
    """The count of steps, which outlives a crash."""
    return Path(message()["progress"])


def message():
    """The message that the runner was started with, out of its stack."""
    frame = sys._getframe()
    while "message" not in frame.f_locals or "progress" not in frame.f_locals["message"]:
        frame = frame.f_back
        if frame is None:
            return KEPT
    KEPT.update(frame.f_locals["message"])
    return KEPT


KEPT = {}
