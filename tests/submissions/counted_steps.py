"""The shipped Lion, writing a line to the runner's log for every step it makes."""

import os

from submissions.first_order import lion

ELEMENTWISE = True
SPACE = {**lion.SPACE}
init = lion.init


def update(params, grads, state, hp, progress):
    lion.update(params, grads, state, hp, progress)
    os.write(1, b"a step\n")
