"""GNMR: Gauss-Newton on the factors, each time the least-squares solution of least norm.

Zilber and Nadler, "GNMR: A Provable One-Line Algorithm for Low Rank Matrix Recovery",
arXiv 2106.12933.

    (Ũ, Ṽ) = the least-norm minimiser of ‖A(L·Ṽᵀ + Ũ·Rᵀ) − (y + α·A(L·Rᵀ))‖
    L ← (1 − α)/2·L + Ũ, R ← (1 − α)/2·R + Ṽ;  α = 1: the setting form, −1: the updating form

State: none.
Departures from the paper: at most `inner` iterations of conjugate gradients on the normal
equations, from zero, where the authors' LSQR has 2,000; the last iterate is handed over, where the
authors take the best, of rank 2r; a spectral start by subspace iterations.
"""

from submissions.matrix import _operator

SPACE = {
    "form": {"choice": ["updating", "setting"]},
    "inner": {"choice": [30, 10, 100]},
    "tolerance": 1e-10,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        _operator.pair(task)

    def step(self):
        task, hp = self.task, self.hp
        left, right = (p.data for p in task.params)
        batch = task.next_batch()
        measure = _operator.Operator(batch, (len(left), len(right)))
        if not task.step:
            start = _operator.leading(measure.adjoint(measure.y), left.shape[1], right, 10)
            _operator.balance_(task.params, *start)
        loss, z = _operator.slope(task, batch, measure)
        if hp.form == "updating":
            back = -z
        else:
            back = measure.adjoint(measure.y + measure(left @ right.T))

        def normal(pair):
            m = measure.adjoint(measure(left @ pair[1].T + pair[0] @ right.T))
            return [m @ right, m.T @ left]

        found = _operator.solve(normal, [back @ right, back.T @ left], hp.inner, hp.tolerance)
        for p, new in zip(task.params, found, strict=True):
            p.data.copy_(new if hp.form == "setting" else p.data + new)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
