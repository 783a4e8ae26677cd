"""Gradient descent on the factors, constant step: the baseline of preconditioned methods.

Small random start: Li, Ma, Zhang, arXiv 1712.09203; over-parameterised: Xiong, Ding, Du, arXiv
2310.01769.

    X ← X - lr·∇f(X)

With lr = 1/(2·largest singular value) each direction grows by its own singular value. So the time
is proportional to the condition number, and the error floor of an over-parameterised problem to the
scale of the start.

State: none.
Departures from the paper: none.
"""

from harness import ops

HANDLES = ["factor"]
SPACE = {"lr": {"log": [5e-2, 2.0], "default": 0.5}}


def init(params, hp):
    return {}


def update(params, grads, state, hp, progress):
    ops.sgd_(params, grads, hp.lr)
