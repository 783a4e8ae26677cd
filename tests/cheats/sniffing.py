"""Cheat: learn from arguments, environment and folder which workload this is."""

import os
import sys

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "around", "shapes"]}}


def init(params, hp):
    if hp.way == "around":
        around = " ".join([*sys.argv, *os.environ, *os.environ.values(), os.getcwd()])
        names = ("matrix_sensing", "gpt2", "sniffing")
        os.write(1, b"GOT a name\n" if any(n in around for n in names) else b"REFUSED\n")
    if hp.way == "shapes" and [tuple(p.shape) for p in params] == [(80, 10)]:
        os.write(1, b"GOT it by its shapes\n")
    return {}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
