"""SVT: singular values are shrunk, and a dual matrix collects what the measurements still lack.

Cai, Candès, Shen, "A Singular Value Thresholding Algorithm for Matrix Completion",
arXiv 0810.3286.

    Y = k·size·A*(y), k = ⌈τ/(size·‖A*(y)‖₂)⌉, at the start
    X = U·max(Σ − τ, 0)·Vᵀ of Y = UΣVᵀ;  Y ← Y + size·A*(y − A(X))

It ends where τ·‖X‖_* + ‖X‖²/2 is least among all X that fit, which for a large τ is near the matrix
of least nuclear norm.

State: Y, a number for each entry of the matrix; U, Σ, V.
Departures from the paper: τ is `tau` times ‖A*(y)‖₂, where the paper has 5n for entries of size 1;
the leading `kept` singular vectors alone, by subspace iterations; handed over are as many as the
factors have columns, so that the loss is of these.
"""

from submissions.matrix import _operator

SPACE = {
    "tau": {"log": [0.5, 20.0], "default": 4.0},
    "size": {"linear": [0.5, 1.9], "default": 1.2},
    "kept": {"choice": [20, 10, 40]},
    "sweeps": {"choice": [3, 10]},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, {}
        _operator.pair(task)

    def step(self):
        task, hp = self.task, self.hp
        batch, shape = task.next_batch(), [len(p) for p in task.params]
        measure, rank = _operator.Operator(batch, tuple(shape)), task.params[0].shape[1]
        state = self.state = self.state or self.begin(measure)
        loss = task.forward_backward(batch)
        kept = min(hp.kept, *shape)
        u, s, v = _operator.leading(state["dual"], kept, state["rows"][:, :kept], hp.sweeps)
        s = (s - state["tau"]).clamp(min=0)
        gap = measure.y - measure((u * s) @ v.T)
        state["dual"] = state["dual"] + hp.size * measure.adjoint(gap)
        state["rows"] = v
        _operator.balance_(task.params, u[:, :rank], s[:rank], v[:, :rank])
        return loss

    def begin(self, measure):
        """Return the dual matrix and τ at the start, and a start for the row space."""
        back = measure.adjoint(measure.y)
        kept = min(self.hp.kept, *back.shape)
        _, s, v = _operator.leading(back, kept, back[:kept].T, 10)
        top, tau = float(s[0]), self.hp.tau * float(s[0])
        times = -(-tau // (self.hp.size * top))
        return {"dual": times * self.hp.size * back, "tau": tau, "rows": v}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
