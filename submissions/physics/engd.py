"""ENGD: energy natural gradient descent, a least-squares step with a line search.

Müller and Zeinhofer, "Achieving High Accuracy with PINNs via Energy Natural Gradients",
arXiv 2302.13163.

    d = the least-norm solution of (Jᵀ·J)·d = Jᵀ·r, J the Jacobian of the residuals r
    p ← p − 2⁻ᵏ·d, k the one of 0, 1, ..., 15 with the least loss on the same points; p stays where
    none has less than p

For squared residuals the energy's Gram matrix is JᵀJ.

State: none.
Departures from the paper: new points in every step; d is solved for by the SVD of J in float64, of
which singular values below `cut` of the largest, or below the precision of the model's passes, are
left out; sixteen step sizes, where the authors have 31, of which the last is 2⁻³⁰.
"""

import torch

from submissions.physics import levenberg_marquardt
from submissions.samplers import uniform

PASSES = {"jacobian": 1, "forward": 16}
SPACE = {"cut": {"log": [1e-10, 1e-2], "default": 1e-6}}
TRIED = 16


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task = self.task
        batch = task.batch_at(uniform.draw(task, task.batch_size))
        r, j = (t.double() for t in task.jacobian(batch))
        precision = torch.finfo(task.params[0].dtype).eps
        d = torch.linalg.pinv(j, rtol=max(self.hp.cut, precision)) @ r
        before, losses = [p.data.clone() for p in task.params], []
        for k in range(TRIED):
            self.put(before, d, k)
            losses.append(task.forward(batch).double())
        found = torch.stack(losses).nan_to_num(torch.inf)
        if found.min() < r.square().sum():
            self.put(before, d, int(found.argmin()))
        else:
            torch._foreach_copy_([p.data for p in task.params], before)
        return r.square().sum()

    def put(self, before, d, k):
        torch._foreach_copy_([p.data for p in self.task.params], before)
        levenberg_marquardt.move_(self.task.params, d, -(0.5**k))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
