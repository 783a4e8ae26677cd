"""Methods for losses of several terms follow a second implementation, in float64.

u(x) = c·tanh(W x + b) is fitted to sin(x₁) + x₂² on points (residual), and to 0 on the lower edge
(boundary). Residuals and their derivatives are written out in numpy below; so are the rules, from
the papers.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness.derivatives import mean_squares
from harness.errors import UserError
from harness.train.task import Task
from submissions.physics import balanced_terms as balanced
from submissions.physics import config_grad, nncg, ssbroyden
from tests.parity.test_parity import Row
from tests.support import nets
from tests.support.nets import rate

WIDTH, BATCH, STEPS, EDGE, SCALE = 5, 12, 12, 6, 3.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.readout = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 1, bias=False)
        self.readout.role = "readout"

    def forward(self, x):
        return self.readout(torch.tanh(self.layer(x)))[:, 0]


def terms(model, batch):
    x = batch["points"]
    target = x[:, 0].sin() + x[:, 1] ** 2
    return {"residual": model(x) - target, "boundary": SCALE * model(batch["boundary"])}


EDGES = torch.stack([torch.linspace(0, 1, EDGE), torch.zeros(EDGE)], 1).double()
WORKLOAD = SimpleNamespace(
    __name__="fit",
    size=lambda data, config: 64,
    batch=lambda data, index, config: WORKLOAD.batch_of(data, data["points"][index], config),
    batch_of=lambda data, points, config: {"points": points, "boundary": EDGES},
    box=lambda config: torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64),
    terms=terms,
    loss=lambda model, batch: mean_squares(terms(model, batch)),
)


def task():
    torch.manual_seed(0)
    config = SimpleNamespace(batch=BATCH, horizon=STEPS)
    data = {"points": torch.rand(64, 2).double()}
    return Task(WORKLOAD, config, data, Net().double(), 0, STEPS)


def start():
    """The parameters as one vector: W, b, c."""
    return torch.cat([p.detach().flatten() for p in task().model.parameters()]).numpy()


def fit(p, x):
    """u(x), and its derivatives by the parameters [n, P]."""
    w, b, c = p[: 2 * WIDTH].reshape(WIDTH, 2), p[2 * WIDTH : 3 * WIDTH], p[3 * WIDTH :]
    h = np.tanh(x @ w.T + b)
    back = c * (1 - h**2)
    return h @ c, np.hstack([(back[:, :, None] * x[:, None]).reshape(len(x), -1), back, h])


def apart(p, x):
    """Each term's values and Jacobian, by name."""
    u, j = fit(p, x)
    edge, k = fit(p, EDGES.numpy())
    target = np.sin(x[:, 0]) + x[:, 1] ** 2
    return {"residual": (u - target, j), "boundary": (SCALE * edge, SCALE * k)}


def slope(found, weights=None):
    """The gradient of the sum of the terms' mean (weight·value)²."""
    weights = weights or {}
    return sum(
        2 * j.T @ (r * np.broadcast_to(weights.get(n, 1.0), r.shape) ** 2) / len(r)
        for n, (r, j) in found.items()
    )


def loss(p, x):
    return sum((r**2).mean() for r, _ in apart(p, x).values())


def stacked(p, x):
    """The vector of all terms, each over the root of its length, and its Jacobian."""
    found = apart(p, x).values()
    r = np.concatenate([r / np.sqrt(len(r)) for r, _ in found])
    return r, np.vstack([j / np.sqrt(len(r)) for r, j in found])


class Draws:
    """The submission's random numbers."""

    def __init__(self):
        self.generator = nets.draws()

    def points(self):
        u = torch.rand(BATCH, 2, generator=self.generator).double().numpy()
        return u * np.array([1.0, 2.0])


class Adam:
    def __init__(self, size, beta1=0.9, beta2=0.999):
        self.betas, self.m, self.v, self.t = (beta1, beta2), np.zeros(size), np.zeros(size), 0

    def step(self, p, g, lr):
        self.t += 1
        self.m = self.betas[0] * self.m + (1 - self.betas[0]) * g
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * g * g
        root = np.sqrt(self.v / (1 - self.betas[1] ** self.t)) + 1e-8
        return p - lr * self.m / (1 - self.betas[0] ** self.t) / root


def warm(t, lr):
    return lr * rate(t, STEPS, 0.02)


def balanced_terms(rule, every, keep, lr):
    p, draws = start(), Draws()
    adam, w, x = Adam(len(p)), {"residual": 1.0, "boundary": 1.0}, draws.points()
    for t in range(STEPS):
        found = apart(p, x)
        if t % every == 0:
            g = {n: 2 * j.T @ r / len(r) for n, (r, j) in found.items()}
            if rule == "annealing":
                new = {
                    "residual": 1.0,
                    "boundary": np.abs(g["residual"]).max() / np.abs(g["boundary"]).mean(),
                }
            else:
                size = {n: np.linalg.norm(v) for n, v in g.items()}
                if rule == "ntk":
                    for n, (r, j) in found.items():
                        drawn = torch.randint(2, (len(r),), generator=draws.generator).numpy()
                        signs = 2.0 * drawn - 1
                        size[n] = ((signs @ j / np.sqrt(len(r))) ** 2).sum()
                new = {n: np.mean(list(size.values())) / s for n, s in size.items()}
            w = {n: keep * w[n] + (1 - keep) * new[n] for n in w}
        # the weights are float32 tensors
        root = {n: float(np.float32(v**0.5)) for n, v in w.items()}
        p = adam.step(p, slope(found, root), warm(t, lr))
        x = draws.points()
    return p


def relobralo(rule, temperature, keep, chance, lr):
    p, draws = start(), Draws()
    adam, weights, x, losses = Adam(len(p)), None, draws.points(), []

    def hat(now, past):
        e = np.exp(now / (temperature * past + 1e-12))
        return 2 * e / e.sum()

    for t in range(STEPS):
        found = apart(p, x)
        root = None if weights is None else dict(zip(found, np.sqrt(weights)))
        p = adam.step(p, slope(found, root), warm(t, lr))
        x = draws.points()
        losses.append(np.array([(r**2).mean() for r, _ in found.values()]))
        if t and rule == "softadapt":
            e = np.exp((losses[t] - losses[t - 1]) / temperature)
            weights = 2 * e / e.sum()
        elif t:
            drawn = torch.rand((), generator=draws.generator, dtype=torch.float64)
            rho, a = float(drawn < chance), 0.0 if t == 1 else keep
            old = 0.0 if weights is None else weights
            past = rho * old + (1 - rho) * hat(losses[t], losses[0])
            weights = a * past + (1 - a) * hat(losses[t], losses[t - 1])
    return p


def sa_pinn(weight_lr, lr):
    p, draws = start(), Draws()
    adam, x = Adam(len(p)), draws.points()
    lengths = {"residual": BATCH, "boundary": EDGE}
    w = {n: torch.rand(k, generator=draws.generator).double().numpy() for n, k in lengths.items()}
    ascent = {n: Adam(k) for n, k in lengths.items()}
    for t in range(STEPS):
        found = apart(p, x)
        g = {n: -2 * w[n] * r**2 / len(r) for n, (r, _) in found.items()}
        p = adam.step(p, slope(found, w), warm(t, lr))
        w = {n: ascent[n].step(w[n], g[n], weight_lr) for n in w}
    return p


def causal_weights(chunks, tolerance, lr):
    p, draws = start(), Draws()
    adam, x, means = Adam(len(p)), draws.points(), None
    for t in range(STEPS):
        found = apart(p, x)
        chunk = np.empty(BATCH, dtype=int)
        chunk[np.argsort(x[:, 1])] = np.arange(BATCH) * chunks // BATCH
        weights = {}
        if means is not None:
            w = [np.exp(-tolerance * sum(means[:m])) for m in range(chunks)]
            weights = {"residual": np.sqrt(np.array(w)[chunk])}
        p = adam.step(p, slope(found, weights), warm(t, lr))
        means = [(found["residual"][0][chunk == m] ** 2).mean() for m in range(chunks)]
        x = draws.points()
    return p


def multiadam(lr, beta1, beta2):
    p, draws = start(), Draws()
    groups = {n: Adam(len(p), beta1, beta2) for n in ("residual", "boundary")}
    for t in range(STEPS):
        found = apart(p, draws.points())
        steps = [
            groups[n].step(0 * p, 2 * j.T @ r / len(r), warm(t, lr) / 2)
            for n, (r, j) in found.items()
        ]
        p = p + sum(steps)
    return p


def config_rule(rule, lr):
    p, draws = start(), Draws()
    adam = Adam(len(p))
    for t in range(STEPS):
        found = apart(p, draws.points())
        g = np.stack([2 * j.T @ r / len(r) for r, j in found.values()])
        if rule == "config":
            # of two gradients the bisector of their directions
            unit = g / np.linalg.norm(g, axis=1, keepdims=True)
            d = unit.sum(0) / np.linalg.norm(unit.sum(0))
            g = (g @ d).sum() * d
        else:
            for _ in range(2):
                torch.randperm(2, generator=draws.generator)
            along = min(g[0] @ g[1], 0)
            g = g[0] - along / (g[1] @ g[1]) * g[1] + g[1] - along / (g[0] @ g[0]) * g[0]
        p = adam.step(p, g, warm(t, lr))
    return p


def m_config(lr, beta1, beta2):
    """One term a step; Adam by the gradient that would have given the merged momentum."""
    p, draws = start(), Draws()
    names = ["residual", "boundary"]
    m, count = dict.fromkeys(names, 0 * p), dict.fromkeys(names, 0)
    before, v = 0 * p, 0 * p
    for t in range(STEPS):
        name = names[t % 2]
        r, j = apart(p, draws.points())[name]
        m[name] = beta1 * m[name] + (1 - beta1) * 2 * j.T @ r / len(r)
        count[name] += 1
        g = np.stack([m[n] / (1 - beta1 ** count[n]) for n in names if count[n]])
        unit = g / np.linalg.norm(g, axis=1, keepdims=True)
        d = unit.sum(0) / np.linalg.norm(unit.sum(0))
        d = (g @ d).sum() * d
        moved = d * (1 - beta1 ** (t + 1))
        pseudo = (moved - beta1 * before) / (1 - beta1)
        before, v = moved, beta2 * v + (1 - beta2) * pseudo**2
        p = p - warm(t, lr) * d / (np.sqrt(v / (1 - beta2 ** (t + 1))) + 1e-8)
    return p


def levenberg_marquardt(mu, hold):
    p, draws, refused = start(), Draws(), 0
    x = draws.points()
    for t in range(STEPS):
        if t and t % hold == 0:
            x = draws.points()
        r, j = stacked(p, x)
        new = p - np.linalg.solve(j.T @ j + mu * np.eye(len(p)), j.T @ r)
        if loss(new, x) < loss(p, x):
            p, mu = new, mu / 3
        else:
            mu, refused = 2 * mu, refused + 1
    assert refused
    return p


def engd(cut):
    p, draws = start(), Draws()
    for _ in range(STEPS):
        x = draws.points()
        r, j = stacked(p, x)
        d = np.linalg.pinv(j.T @ j, rcond=cut**2, hermitian=True) @ (j.T @ r)
        p = min((p, *(p - 0.5**k * d for k in range(16))), key=lambda q, x=x: loss(q, x))
    return p


BASE = {"lr": 0.02}
ROWS = [
    Row("balanced_terms", balanced_terms, {**BASE, "rule": "grad_norm", "every": 4, "keep": 0.6}),
    Row("balanced_terms", balanced_terms, {**BASE, "rule": "annealing", "every": 4, "keep": 0.6},
        label="annealing"),
    Row("balanced_terms", balanced_terms, {**BASE, "rule": "ntk", "every": 4, "keep": 0.6},
        label="ntk"),
    Row("relobralo", relobralo, {**BASE, "rule": "relobralo", "temperature": 0.5, "keep": 0.8,
        "chance": 0.6}),
    Row("relobralo", relobralo, {**BASE, "rule": "softadapt", "temperature": 0.5, "keep": 0.8,
        "chance": 0.6}, label="softadapt"),
    Row("sa_pinn", sa_pinn, {**BASE, "weight_lr": 0.05}),
    Row("causal_weights", causal_weights, {**BASE, "chunks": 4, "tolerance": 2.0}),
    Row("multiadam", multiadam, {**BASE, "beta1": 0.9, "beta2": 0.95}),
    Row("config_grad", config_rule, {**BASE, "rule": "config"}),
    Row("config_grad", config_rule, {**BASE, "rule": "pcgrad"}, label="pcgrad"),
    Row("m_config", m_config, {**BASE, "beta1": 0.8, "beta2": 0.95}),
    Row("levenberg_marquardt", levenberg_marquardt, {"mu": 1e-6, "hold": 5}, float64=1e-6),
    Row("engd", engd, {"cut": 1e-4}, float64=1e-6),
]  # fmt: skip


@pytest.mark.parametrize("rule", ["grad_norm", "annealing", "ntk"])
def test_a_term_without_a_gradient_keeps_its_weight(rule):
    sizes = {"residual": (2.0, 3.0, 1.0), "boundary": (4.0, 1.0, 0.5), "holds": (0.0, 0.0, 0.0)}
    expected = {
        "grad_norm": {"residual": 1.5, "boundary": 0.75},
        "annealing": {"residual": 1.0, "boundary": 6.0},
        "ntk": {"residual": 1.5, "boundary": 0.75},
    }
    assert balanced.wanted(rule, sizes) == expected[rule]
    assert balanced.wanted(rule, {"holds": (0.0, 0.0, 0.0)}) == {}


def flat(weights):
    return np.concatenate([w.ravel() for w in weights.values()])


def trained(name, steps=STEPS, **hp):
    submission = nets.submitted(name, task(), **hp)
    return flat(nets.run(submission, steps)), submission


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_physics_method_equals_its_formula(row):
    found = trained(row.submission, **row.hp)[0]
    second = row.second(**row.hp)
    assert np.abs(found - second).max() <= row.float64 * 10 * np.abs(second).max()


def test_the_jacobian_is_that_of_the_residuals():
    made, x = task(), Draws().points()
    batch = made.batch_at(torch.from_numpy(x))
    r, j = made.jacobian(batch)
    second = stacked(start(), x)
    assert np.abs(r.numpy() - second[0]).max() < 1e-12
    assert np.abs(j.numpy() - second[1]).max() < 1e-12
    assert made.meter.counts == {"jacobian": 1}


def test_config_gives_every_gradient_the_same_cosine():
    rows = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).double()
    d = config_grad.config(torch.cat([rows, torch.zeros(1, 9)]))
    cosines = rows @ d / rows.norm(dim=1) / d.norm()
    assert (cosines - cosines[0]).abs().max() < 1e-12
    assert cosines[0] > 0
    assert torch.allclose(d.norm(), (rows @ d / d.norm()).sum())


def broyden(h, s, y, g, rate, first):
    """The update of arXiv 2405.04230, term by term, in plain numbers."""
    n, rho, hy = len(s), 1 / (y @ s), h @ y
    b, c = -rate * rho * (s @ g), rho * (y @ hy)
    a = b * c - 1
    low = min(1, c * (1 - np.sqrt(abs(a) / (1 + a))))
    theta = max((low - 1) / a, min(1 / low, (1 - b) / b))
    sigma = 1 + theta * a
    phi, v = (1 - theta) / sigma, rho * s - hy / (y @ hy)
    power = abs(sigma) ** (1 / (1 - n))
    if first:
        t = c / sigma
    elif theta > 0:
        t = min(1, 1 / b) * min(power, 1 / theta)
    else:
        t = min(min(1, 1 / b) * power, sigma)
    inner = h - np.outer(hy, hy) / (y @ hy) + phi * (y @ hy) * np.outer(v, v)
    return inner / t + rho * np.outer(s, s)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_ssbroyden_equals_its_formula(seed, first):
    source = np.random.default_rng(seed)
    a = source.standard_normal((6, 6))
    curvature, root = a @ a.T + np.eye(6), source.standard_normal((6, 6))
    h = np.eye(6) if first else root @ root.T / 6 + 0.1 * np.eye(6)
    g, step = source.standard_normal(6), 0.3
    s = -step * h @ g
    y = curvature @ s
    new = ssbroyden.updated(*(torch.from_numpy(t) for t in (h, s, y, g)), step, first).numpy()
    assert np.abs(new - broyden(h, s, y, g, step, first)).max() < 1e-10 * np.abs(new).max()
    assert np.abs(new @ y - s).max() < 1e-10  # the secant equation
    assert np.linalg.eigvalsh(new).min() > 0


def test_ssbroyden_draws_new_points_where_the_residual_is_large():
    made = task()
    submission = nets.submitted("ssbroyden", made, hold=1, k=2.0, c=0.0)
    nets.run(submission, 1)
    first = submission.algorithm.state["points"].clone()
    large = lambda batch: {"residual": torch.where(batch["points"][:, 0] > 0.9, 5.0, 0.0)}  # noqa: E731
    made.terms = large
    nets.run(submission, 1)
    second = submission.algorithm.state["points"]
    assert second.shape == first.shape
    assert bool((first[:, 0] < 0.9).any())
    assert bool((second[:, 0] > 0.9).all())


def test_ssbroyden_begins_anew_where_its_search_finds_no_step():
    """An H that is far too large for new points must not hold the weights for ever."""
    made = task()
    submission = nets.submitted("ssbroyden", made, hold=1000)
    algorithm, state = submission.algorithm, submission.algorithm.state
    nets.run(submission, 2)
    batch = made.batch_at(state["points"])
    before = float(made.forward(batch))
    state["h"] = 1e12 * torch.eye(algorithm.size, dtype=torch.float64)
    nets.run(submission, 1)
    assert state["h"] is None
    nets.run(submission, 3)
    assert float(made.forward(batch)) < before
    search, asked = algorithm.search, []
    state["h"] = None
    algorithm.search = lambda *a: asked.append(a[-1] * float(a[2].norm())) or (0.0, a[2])
    nets.run(submission, 3)
    assert asked == pytest.approx([1.0, 2.0**-8, 2.0**-16])
    algorithm.search = search
    nets.run(submission, 1)
    assert state["reach"] == 1.0
    assert state["h"] is not None


def test_ssbroyden_refuses_a_network_that_is_too_large(monkeypatch):
    monkeypatch.setattr(ssbroyden, "LARGEST", 10)
    with pytest.raises(UserError, match="at most 10"):
        nets.submitted("ssbroyden", task())


@pytest.mark.parametrize("name", ["ssbroyden", "adam_lbfgs", "nncg", "variable_projection"])
def test_the_loss_of_a_fixed_set_of_points_falls(name):
    found, _ = trained(name)
    x = torch.rand(400, 2, generator=torch.Generator().manual_seed(1)).double().numpy()
    x = x * np.array([1.0, 2.0])
    assert loss(found, x) < loss(start(), x)


def test_nncg_equals_its_formula():
    """With the whole space sketched and exact solves, its step is damped Newton's."""
    source = torch.Generator().manual_seed(0)
    a = torch.randn(8, 8, generator=source, dtype=torch.float64)
    hessian, g = a @ a.T, torch.randn(8, generator=source, dtype=torch.float64)
    u, s = nncg.nystrom(lambda v: hessian @ v, 8, 8, source, g)
    assert torch.allclose((u * s) @ u.T, hessian, atol=1e-6)
    d = nncg.solve(lambda v: hessian @ v, g, torch.zeros(8).double(), u, s, 0.1, 50)
    exact = np.linalg.solve(hessian.numpy() + 0.1 * np.eye(8), g.numpy())
    assert np.abs(d.numpy() - exact).max() < 1e-8 * np.abs(exact).max()
    few = nncg.solve(lambda v: hessian @ v, g, torch.zeros(8).double(), u[:, :3], s[:3], 0.1, 50)
    assert np.abs(few.numpy() - exact).max() < 1e-6 * np.abs(exact).max()


def test_nncg_stops_at_negative_curvature():
    saddle = torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64))
    g = torch.tensor([1.0, 1.0], dtype=torch.float64)
    none = torch.zeros(2, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    d = nncg.solve(lambda v: saddle @ v, g, torch.zeros(2).double(), *none, 0.1, 50)
    assert torch.isfinite(d).all()
    assert not d.any()


def test_nncg_preconditions_by_the_positive_part_of_an_indefinite_hessian():
    source = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=source, dtype=torch.float64)).Q.numpy()
    values = np.array([5.0, 3.0, 1.0, -0.5, -2.0, -4.0])
    hessian = torch.from_numpy(turn * values @ turn.T)
    u, s = nncg.nystrom(lambda v: hessian @ v, 6, 6, source, hessian)
    assert np.abs(s.numpy() - values.clip(0)).max() < 1e-6
    assert np.abs(((u * s) @ u.T).numpy() - turn * values.clip(0) @ turn.T).max() < 1e-6


def test_nncg_never_goes_along_a_direction_that_rises():
    """Of a Hessian without positive curvature, an old direction that rises is not gone again."""
    g = torch.tensor([1.0, 1.0], dtype=torch.float64)
    none = torch.zeros(2, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert torch.equal(nncg.descent(lambda v: -2 * v, g, -g, *none, 0.1, 50), g)
    assert torch.allclose(nncg.descent(lambda v: 2 * v, g, -g, *none, 0.1, 50), g / 2.1)


def test_engd_stays_where_every_step_would_raise_the_loss():
    made = task()
    submission, forward = nets.submitted("engd", made, cut=1e-10), made.forward
    made.forward = lambda batch: forward(batch) + 1e9
    found = nets.run(submission, 1)
    assert np.array_equal(flat(found), start())


def test_engd_inverts_no_singular_value_below_the_precision_of_its_passes():
    made = task()
    submission = nets.submitted("engd", made, cut=1e-10)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1e-9]], dtype=torch.float32)
    kept = {}
    submission.algorithm.put = lambda before, d, k: kept.update(d=d)
    made.model.float()
    made.jacobian = lambda batch: (torch.ones(2), rows)
    made.forward = lambda batch: torch.tensor(0.0)
    submission.algorithm.step()
    assert torch.equal(kept["d"], torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_variable_projection_leaves_a_residual_orthogonal_to_the_last_layer():
    """After the solve, what is left is orthogonal to what the last layer can say."""
    made = task()
    submission = nets.submitted("variable_projection", made, ridge=1e-12)
    x = Draws().points()
    submission.algorithm.project(made.batch_at(torch.from_numpy(x)))
    p = flat({n: v.detach().numpy() for n, v in made.model.named_parameters()})
    r, j = stacked(p, x)
    assert np.abs(j[:, 3 * WIDTH :].T @ r).max() < 1e-9
    second = np.linalg.lstsq(*stacked(start(), x)[::-1], rcond=None)[0]
    assert len(second) == len(p)
    assert not np.allclose(p[3 * WIDTH :], start()[3 * WIDTH :])


@pytest.mark.parametrize("ridge", [1e-3, 10.0])
def test_variable_projection_equals_its_formula(ridge):
    """Least squares of the rows J_c and √ridge·I; then AdamW on the same points."""
    found = trained("variable_projection", every=3, ridge=ridge, lr=0.02)[0]
    p, draws, falls = start(), Draws(), []
    adam, last = Adam(len(p)), 3 * WIDTH
    for t in range(STEPS):
        x = draws.points()
        if t % 3 == 0:
            r, j = stacked(p, x)
            rows = np.vstack([j[:, last:], np.sqrt(ridge) * np.eye(WIDTH)])
            aim = np.concatenate([j[:, last:] @ p[last:] - r, np.zeros(WIDTH)])
            q = np.concatenate([p[:last], np.linalg.lstsq(rows, aim, rcond=None)[0]])
            falls.append(loss(q, x) < loss(p, x))
            p = q if falls[-1] else p
        p = adam.step(p, slope(apart(p, x)), warm(t, 0.02))
    assert falls[0]
    assert all(falls) == (ridge < 1), "a large ridge gives a readout that is refused"
    assert np.abs(found - p).max() < 1e-9


def test_adam_lbfgs_equals_its_formula():
    """AdamW on new points; then the steps of `lbfgs` on one set of them."""
    found = trained("adam_lbfgs", warm=0.5, hold=100, lr=0.02, pairs=3)[0]
    p, draws = start(), Draws()
    adam, half = Adam(len(p)), STEPS // 2
    for t in range(half):
        p = adam.step(p, slope(apart(p, draws.points())), warm(t, 0.02))
    x, tau, pairs = draws.points(), 1.0, []
    for _ in range(half):
        g = slope(apart(p, x))
        h = np.eye(len(p)) / (np.linalg.norm(g) + 1e-30)
        if pairs:
            s, y = pairs[-1]
            h = np.eye(len(p)) * (s @ y) / (y @ y)
            for s, y in pairs:
                v = np.eye(len(p)) - np.outer(y, s) / (y @ s)
                h = v.T @ h @ v + np.outer(s, s) / (y @ s)
        step = -tau * h @ g
        new = slope(apart(p + step, x))
        if loss(p + step, x) <= loss(p, x) + 1e-4 * g @ step:
            p, tau = p + step, min(1.0, 2 * tau)
            if step @ (new - g) > 1e-8 * (new - g) @ (new - g):
                pairs = [*pairs, (step, new - g)][-3:]
        else:
            tau /= 2
    assert np.abs(found - p).max() < 1e-8
