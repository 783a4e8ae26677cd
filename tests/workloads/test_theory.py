"""Laws of the workloads that theory is about, and of the methods for them.

Formulas are float64 loops in numpy, written from the papers' rules.
"""

import numpy as np
import pytest
import torch

from harness.catalog import discover, space
from harness.catalog.definition import define, load_workload, tree_of
from harness.errors import UserError
from harness.laws import small_workloads
from harness.train.submission import Submission
from harness.train.task import Task
from tests.support.racing import planned
from workloads import blackbox, game, logreg
from workloads.data import convex
from workloads.models.players import Robust

STEPS = 30


def task_of(name):
    return small_workloads.read(name).task()


def at_work(task, submission, **hp):
    card = discover.read(discover.find(submission))
    return Submission(card, space.default(card.literals["SPACE"]) | hp, task)


def advance(task, sub, steps=1):
    for _ in range(steps):
        sub.step()
        task.step += 1


def flat(tensors):
    return np.concatenate([t.detach().numpy().ravel() for t in tensors])


def evaluated(task, sub):
    with sub.evaluated():
        return flat(task.params).copy()


def put(task, values):
    with torch.no_grad():
        for p, part in zip(
            task.params, torch.from_numpy(values).split([p.numel() for p in task.params])
        ):
            p.copy_(part.view_as(p))


@torch.no_grad()
def scored(module, model, batch):
    """The metrics of a model on one batch of validation examples."""
    return module.score({k: float(v) for k, v in module.metric(model, batch).items()})


class Logistic:
    """Logistic regression in numpy: the loss's smooth part, and its gradient, on some examples."""

    def __init__(self, task, bias):
        data, self.model = task._data, task._config.model
        ones = np.ones((len(data["targets"]), 1))
        self.rows, self.signs = data["inputs"].numpy(), data["targets"].numpy()
        self.rows = np.hstack([self.rows, ones]) if bias else self.rows

    def loss(self, w, index=slice(None)):
        margins = self.signs[index] * (self.rows[index] @ w)
        return np.log1p(np.exp(-margins)).mean() + self.model.ridge / 2 * w @ w

    def gradient(self, w, index=slice(None)):
        rows, signs = self.rows[index], self.signs[index]
        pull = -signs / (1 + np.exp(signs * (rows @ w)))
        return rows.T @ pull / len(signs) + self.model.ridge * w


def soft(w, threshold):
    """Soft thresholding of all but the bias."""
    new = np.sign(w) * np.maximum(np.abs(w) - threshold, 0)
    return np.append(new[:-1], w[-1])


def ball(w, radius):
    """The nearest point of an l1 ball, by bisection of the threshold."""
    if np.abs(w).sum() <= radius:
        return w
    low, high = 0.0, np.abs(w).max()
    for _ in range(200):
        middle = (low + high) / 2
        inside = np.maximum(np.abs(w) - middle, 0).sum() < radius
        low, high = (low, middle) if inside else (middle, high)
    return np.sign(w) * np.maximum(np.abs(w) - high, 0)


# Workloads


@pytest.mark.parametrize(("name", "bias"), [("logreg", True), ("constrained", False)])
def test_loss_and_gradient_are_those_of_numpy(name, bias):
    task = task_of(name)
    w = np.random.default_rng(0).standard_normal(len(flat(task.params))) / 10
    put(task, w)
    smooth = Logistic(task, bias)
    index = task.next_index()
    loss = task.backward(task.gather(index), task.composite.smooth)
    assert loss.item() == pytest.approx(smooth.loss(w, index.numpy()), rel=1e-12)
    grads = flat([p.grad for p in task.params])
    np.testing.assert_allclose(grads, smooth.gradient(w, index.numpy()), rtol=1e-10, atol=1e-13)
    if name == "logreg":
        assert float(task.forward(task.gather(index))) == pytest.approx(loss.item(), rel=1e-12)


def test_the_minimum_of_logreg_is_that_of_newton_steps():
    task = task_of("logreg")
    problem, w = Logistic(task, True), np.zeros(13)
    for _ in range(20):
        p = 1 / (1 + np.exp(-problem.signs * (problem.rows @ w)))
        hessian = (problem.rows * (p * (1 - p))[:, None]).T @ problem.rows / len(p)
        hessian += problem.model.ridge * np.eye(13)
        w -= np.linalg.solve(hessian, problem.gradient(w))
    assert np.abs(problem.gradient(w)).max() < 1e-14
    found = float(logreg.optimum(task._data, task._config))
    assert found == pytest.approx(problem.loss(w), abs=1e-13)


def test_the_minimum_with_a_lasso_has_a_subgradient_of_zero():
    task = task_of("logreg")
    task._config.model.lasso = 0.02
    try:
        problem = Logistic(task, True)
        rows, ridge = torch.from_numpy(problem.rows), problem.model.ridge
        signs = task._data["targets"]

        def function(w):
            logs = -torch.nn.functional.logsigmoid(signs * (rows @ w))
            return logs.mean() + ridge / 2 * w.square().sum()

        def prox(v, step):
            return torch.cat([convex.soft_threshold(v[:-1], 0.02 * step), v[-1:]])

        start, constant = torch.zeros(13, dtype=torch.float64), logreg.smoothness(rows) + ridge
        w = convex.minimise(function, prox, start, constant, ridge).numpy()
        g = problem.gradient(w)
        used = w[:-1] != 0
        assert 0 < used.sum() < 12, "some weights are zero and some are not"
        np.testing.assert_allclose(g[:-1][used], -0.02 * np.sign(w[:-1][used]), atol=1e-6)
        assert np.abs(g[:-1]).max() <= 0.02 + 1e-6
        total = problem.loss(w) + 0.02 * np.abs(w[:-1]).sum()
        assert float(logreg.optimum(task._data, task._config)) == pytest.approx(total, abs=1e-12)
    finally:
        task._config.model.lasso = 0.0


@pytest.mark.parametrize("radius", [0.5, 2.0, 50.0])
def test_the_projection_is_the_nearest_point_of_the_ball(radius):
    v = np.random.default_rng(1).standard_normal(40)
    mine = convex.onto_l1_ball(torch.from_numpy(v), radius).numpy()
    np.testing.assert_allclose(mine, ball(v, radius), atol=1e-12)


def test_prox_and_oracle_of_the_ball_agree():
    task = task_of("constrained")
    radius = task._config.model.radius
    (d,) = [torch.from_numpy(np.random.default_rng(2).standard_normal((1, 12)))]
    (vertex,) = task.composite.lmo([d])
    assert float(vertex.abs().sum()) == pytest.approx(radius)
    assert float((d * vertex).sum()) == pytest.approx(-radius * float(d.abs().max()))
    torch.testing.assert_close(task.composite.prox([vertex], 0.1)[0], vertex)
    # A far point in the direction -d is projected to the vertex.
    torch.testing.assert_close(task.composite.prox([-1e6 * d], 0.1)[0], vertex)


def test_a_workload_without_a_set_or_penalty_offers_the_whole_loss():
    task = task_of("gpt2")
    batch = task.next_batch()
    smooth = task.backward(batch, task.composite.smooth)
    torch.testing.assert_close(smooth, task.forward(batch))
    same = task.composite.prox(task.params, 0.1)
    for p, q in zip(task.params, same, strict=True):
        assert torch.equal(p, q)
        assert p.data_ptr() != q.data_ptr()
    with pytest.raises(UserError, match="offers no lmo"):
        task.composite.lmo(task.params)


def present(name, variant=None, **data):
    definition = define(name, tree_of(name), "mini", variant)
    for key, value in data.items():
        definition.block["data"][key] = value
    return load_workload(definition), definition.config


@pytest.mark.parametrize("variant", [None, "equality"])
def test_the_penalty_is_exact_and_the_minimum_is_in_the_set(variant):
    """Beyond the multipliers a penalty has the constrained problem's minimiser."""
    module, config = present("constrained", variant, limit=300)
    held = module.data(config, "val")
    problem = Logistic(type("T", (), {"_data": held, "_config": config}), False)
    rows = held["rows"].numpy()
    w = torch.zeros(196, dtype=torch.float64)
    constant = logreg.smoothness(held["inputs"]) + config.model.ridge
    for _ in range(1500):
        step = w - torch.from_numpy(problem.gradient(w.numpy())) / constant
        (w,) = (x[0] for x in module.prox(held, [step[None]], 1 / constant, config))
    g = problem.gradient(w.numpy())
    assert problem.loss(w.numpy()) == pytest.approx(float(held["optimum"]), abs=1e-8)
    if variant:
        assert np.abs(rows @ w.numpy() - 1).max() < 1e-9
        multipliers = np.linalg.lstsq(rows.T, g, rcond=None)[0]
        with pytest.raises(UserError, match="not bounded"):
            module.lmo(held, [w[None]], config)
    else:
        assert float(w.abs().sum()) == pytest.approx(config.model.radius)
        multipliers = g
        assert g @ w.numpy() + config.model.radius * np.abs(g).max() < 1e-7, "the dual gap"
    assert np.abs(multipliers).max() < config.model.penalty
    model = module.model(config)
    with torch.no_grad():
        model.weight.copy_(w[None])
    batch = module.batch(held, torch.arange(300), config)
    found = scored(module, model, batch)
    assert found["gap"] < 1e-7
    assert found["violation"] < 1e-9
    with torch.no_grad():
        model.weight.mul_(1.1)
    if not variant:
        violation = scored(module, model, batch)["violation"]
        assert violation == pytest.approx(0.1, abs=1e-6)


def field(task):
    """The operator F of the bilinear game in numpy, and its solution."""
    data, mu = {k: v.numpy() for k, v in task._data.items()}, task._config.data.mu
    matrix, a, b = data["matrices"].mean(0), data["a"].mean(0), data["b"].mean(0)
    half = len(a)

    def operator(z):
        x, y = z[:half], z[half:]
        return np.concatenate([matrix @ y + a + mu * x, -(matrix.T @ x - b - mu * y)])

    return operator


def test_gradients_of_the_game_are_its_operator_and_vanish_at_the_solution():
    task = task_of("game")
    operator = field(task)
    z = np.random.default_rng(3).standard_normal(12)
    put(task, z)
    task.forward_backward(task.next_batch())
    np.testing.assert_allclose(flat([p.grad for p in task.params]), operator(z), atol=1e-13)
    assert "solution" not in task._data
    held = game.data(task._config, "val")
    found = held["solution"][0].numpy().ravel()
    assert np.abs(operator(found)).max() < 1e-12
    put(task, found)
    assert scored(game, task.model, held)["distance"] == 0.0


def test_the_duality_gap_of_the_robust_game_is_exact():
    torch.manual_seed(0)
    n, mu, ridge = 30, 0.3, 0.05
    batch = {
        "inputs": torch.randn(n, 4, dtype=torch.float64),
        "targets": torch.randn(n).sign().double(),
        "number": torch.arange(n),
    }
    model = Robust(4, n, ridge, mu, 0.5)

    def value(w, q):
        cost = torch.nn.functional.softplus(-batch["targets"] * (batch["inputs"] @ w), threshold=40)
        return q @ cost + ridge / 2 * w @ w - mu * (q * (n * q).log()).sum()

    with torch.no_grad():
        q, w = model.theta.softmax(0), model.w
        gap = float(model.duality_gap(batch))
        assert float(model(batch).mean()) == pytest.approx(float(value(w, q)), rel=1e-12)
        cost = torch.nn.functional.softplus(-batch["targets"] * (batch["inputs"] @ w), threshold=40)
        most = value(w, (cost / mu).softmax(0))
    v = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([v], max_iter=200, tolerance_grad=1e-14, tolerance_change=0)

    def closure():
        solver.zero_grad()
        loss = value(v, q)
        loss.backward()
        return loss

    solver.step(closure)
    assert gap == pytest.approx(float(most - value(v.detach(), q)), rel=1e-9)
    # Extragradient brings it to zero, where both players answer each other.
    for _ in range(600):
        z = [p.detach().clone() for p in model.parameters()]
        for _ in range(2):
            model.zero_grad()
            model(batch).mean().backward()
            with torch.no_grad():
                for p, start, rate in zip(model.parameters(), z, (0.5, 5.0)):
                    p.copy_(start - rate * p.grad)
    assert 0 <= float(model.duality_gap(batch).detach()) < 1e-4


def test_macro_f1_is_that_of_a_plain_count_and_its_gradient_is_zero():
    torch.manual_seed(0)
    config = present("blackbox")[1]
    model = blackbox.model(config)
    batch = {"inputs": torch.randn(50, 20, dtype=torch.float64), "targets": torch.arange(50) % 9}
    guesses = model(batch["inputs"]).argmax(1).tolist()
    each = []
    for c in range(10):
        right = sum(g == c == t for g, t in zip(guesses, batch["targets"].tolist()))
        total = guesses.count(c) + batch["targets"].tolist().count(c)
        each.append(2 * right / total if total else 0.0)
    loss = blackbox.loss(model, batch)
    assert loss.item() == pytest.approx(1 - np.mean(each))
    loss.backward()
    assert all(not p.grad.any() for p in model.parameters())
    assert scored(blackbox, model, batch)["f1"] == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "forward_backward"), ("sophia_h", "hvp")])
def test_a_derivative_is_refused_by_name_on_the_black_box(name, kind, tmp_path):
    with pytest.raises(UserError, match=rf"{name} makes passes of the kind [a-z_]+, and blackbox"):
        planned("blackbox", name, tmp_path)


def test_line_searches_are_refused_by_name_on_the_game(tmp_path):
    with pytest.raises(UserError, match=r"lbfgs is for the track train; game\.mini"):
        planned("game", "lbfgs", tmp_path)
    assert "game" in discover.tracks(discover.read(discover.find("adam")))


# Methods


@pytest.mark.parametrize("name", ["fista", "proximal_gradient"])
def test_fista_equals_its_formula(name):
    task = task_of("logreg")
    task._config.model.lasso = 0.01
    try:
        sub, problem = at_work(task, name, lr=0.8), Logistic(task, True)
        x = y = flat(task.params)
        t, restarts = 1.0, 0
        for _ in range(STEPS):
            advance(task, sub, 3)
            new = soft(y - 0.8 * problem.gradient(y), 0.8 * 0.01)
            if name == "fista" and (y - new) @ (new - x) > 0:
                t, restarts = 1.0, restarts + 1
            following = (1 + np.sqrt(1 + 4 * t * t)) / 2 if name == "fista" else 1.0
            y, x, t = new + (t - 1) / following * (new - x), new, following
            np.testing.assert_allclose(evaluated(task, sub), x, rtol=1e-9, atol=1e-12)
        assert 0 < (x[:-1] == 0).sum() < 12
    finally:
        task._config.model.lasso = 0.0


def test_svrg_equals_its_formula():
    task, other = task_of("logreg"), task_of("logreg")
    task._config.model.lasso = 0.01
    try:
        sub, problem = at_work(task, "svrg", lr=0.3), Logistic(task, True)
        w = flat(task.params)
        for _ in range(4):
            snapshot, mean = w, problem.gradient(w)
            for _ in range(3):
                other.next_index()
            advance(task, sub, 3)
            for _ in range(6):
                i = other.next_index().numpy()
                v = problem.gradient(w, i) - problem.gradient(snapshot, i) + mean
                w = soft(w - 0.3 * v, 0.3 * 0.01)
                advance(task, sub)
                np.testing.assert_allclose(flat(task.params), w, rtol=1e-9, atol=1e-12)
    finally:
        task._config.model.lasso = 0.0


def test_dual_averaging_equals_its_formula():
    task, other = task_of("logreg"), task_of("logreg")
    task._config.model.lasso = 0.01
    try:
        sub, problem = at_work(task, "dual_averaging", lr=0.5), Logistic(task, True)
        start = w = flat(task.params)
        mean = np.zeros(13)
        for t in range(1, STEPS):
            mean += (problem.gradient(w, other.next_index().numpy()) - mean) / t
            reach = 0.5 * np.sqrt(t)
            w = soft(start - reach * mean, reach * 0.01)
            advance(task, sub)
            np.testing.assert_allclose(flat(task.params), w, rtol=1e-9, atol=1e-12)
    finally:
        task._config.model.lasso = 0.0


@pytest.mark.parametrize("rule", ["classic", "short", "pairwise"])
def test_frank_wolfe_equals_its_formula(rule):
    task = task_of("constrained")
    sub, problem = at_work(task, "frank_wolfe", rule=rule, lr=2.0), Logistic(task, False)
    w, radius = flat(task.params), task._config.model.radius
    share = np.zeros((2, 12))  # of the vertices +radius and -radius in each coordinate
    for t in range(STEPS):
        g = problem.gradient(w)
        place = np.abs(g).argmax()
        side = int(g[place] > 0)
        v = np.zeros(12)
        v[place] = radius * (1 - 2 * side)
        if t == 0:
            w = v
            share[side, place] = 1
        elif rule == "pairwise":
            slopes = np.where(share > 0, np.stack([g, -g]), -np.inf)
            worst = np.unravel_index(slopes.argmax(), slopes.shape)
            a = np.zeros(12)
            a[worst[1]] = radius * (1 - 2 * worst[0])
            d = v - a
            if d.any():
                gamma = min(share[worst], 2.0 * -(g @ d) / (d @ d))
                share[worst] -= gamma
                share[side, place] += gamma
                w = w + gamma * d
        else:
            d = v - w
            short = min(1.0, 2.0 * -(g @ d) / (d @ d))
            w = w + (2 / (t + 2) if rule == "classic" else short) * d
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), w, rtol=1e-9, atol=1e-12)
        assert np.abs(w).sum() <= radius * (1 + 1e-12)


def test_pairwise_frank_wolfe_keeps_its_point_a_mean_of_the_vertices_in_use():
    task = task_of("constrained")
    sub = at_work(task, "frank_wolfe", rule="pairwise", lr=2.0)
    advance(task, sub, STEPS)
    inside = sub.algorithm
    assert float(inside.weights.sum()) == pytest.approx(1.0)
    mean = inside.weights @ inside.vertices
    np.testing.assert_allclose(mean.numpy(), flat(task.params), atol=1e-12)


def test_mirror_descent_equals_its_formula():
    module = discover.load(discover.find("mirror_descent"))
    rng = np.random.default_rng(5)
    p, hp = rng.standard_normal(7), space.namespace({"lr": 0.3, "beta": 0.05, "warmup": 0.0})
    params = [torch.from_numpy(p.copy())]
    for _ in range(STEPS):
        g = rng.standard_normal(7) + p
        module.update(params, [torch.from_numpy(g)], module.init(params, hp), hp, 0.0)
        dual = np.log(p / 0.05 + np.sqrt((p / 0.05) ** 2 + 1)) - 0.3 * g
        p = 0.05 * (np.exp(dual) - np.exp(-dual)) / 2
        np.testing.assert_allclose(params[0].numpy(), p, rtol=1e-7)


def test_mirror_descent_with_a_wide_map_is_gradient_descent():
    module = discover.load(discover.find("mirror_descent"))
    hp = space.namespace({"lr": 1e-7, "beta": 1e6, "warmup": 0.0})
    p = torch.tensor([1.0, -2.0], dtype=torch.float64)
    module.update([p], [torch.tensor([0.5, 1.0], dtype=torch.float64)], {}, hp, 0.0)
    torch.testing.assert_close(p, torch.tensor([0.95, -2.1], dtype=torch.float64))


GAMES = {  # z of this step and of what is kept -> the next, by the rules of the papers
    "extragradient": lambda F, z, kept, t: (z - 0.3 * F(z - 0.3 * F(z)), kept),
    "past_extragradient": lambda F, z, kept, t: _past(F, z, kept),
    "reflected_gradient": lambda F, z, kept, t: (
        z - 0.3 * F(2 * z - (z if kept is None else kept)), z,
    ),
    "optimistic_gradient": lambda F, z, kept, t: (
        z - 0.6 * F(z) + 0.3 * (0 if kept is None else kept), F(z),
    ),
    "halpern": lambda F, z, kept, t: _anchored(F, z, z if kept is None else kept, t),
}  # fmt: skip


def _past(F, z, kept):
    h = z - 0.3 * (0 if kept is None else kept)
    return z - 0.3 * F(h), F(h)


def _anchored(F, z, start, k):
    pull = z + (start - z) / (k + 2)
    return pull - 0.3 * F(pull - 0.3 * F(z)), start


@pytest.mark.parametrize(
    "name",
    [
        "extragradient",
        "past_extragradient",
        "reflected_gradient",
        "optimistic_gradient",
        "halpern",
    ],
)
def test_method_of_games_equals_its_formula(name):
    task = task_of("game")
    sub, operator = at_work(task, name, lr=0.3), field(task)
    z, kept = flat(task.params), None
    for t in range(STEPS):
        z, kept = GAMES[name](operator, z, kept, t)
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), z, rtol=1e-10, atol=1e-13)


def test_one_call_forms_are_one_path_seen_at_two_points():
    """f = xy from (1, 1) with a step of 0.3: hand-made numbers of extragradient's fourth point."""
    F = lambda z: np.array([z[1], -z[0]])  # noqa: E731
    z = h = np.ones(2)
    for _ in range(4):
        z, _ = GAMES["extragradient"](F, z, None, 0)
    np.testing.assert_allclose(z, [-0.559, 1.053], atol=1e-3)
    z = np.ones(2)
    before = np.zeros(2)
    for _ in range(6):
        np.testing.assert_allclose(h, z - 0.3 * before, atol=1e-12)
        h = h - 0.6 * F(h) + 0.3 * before
        before = F(z - 0.3 * before)
        z = z - 0.3 * before


def test_descent_and_ascent_moves_away_where_extragradient_comes_nearer():
    away = {}
    for name, hp in (("extragradient", {"lr": 0.3}), ("halpern", {"lr": 0.3}), ("sgd", SGD)):
        task = task_of("game")
        task._config.data.mu = task.model.mu = 0.0
        try:
            held = game.data(task._config, "val")
            sub = at_work(task, name, **hp)
            advance(task, sub, 4 * STEPS)
            away[name] = scored(game, task.model, held)["distance"]
        finally:
            task._config.data.mu = 1e-3
    assert away["sgd"] > 3 * away["extragradient"]
    assert away["sgd"] > 3 * away["halpern"]


SGD = {"lr": 0.3, "momentum": 0.0, "nesterov": False, "wd": 0.0, "warmup": 0.0}


def drawn(task, shapes, count):
    """What a submission will draw from task.rng, on a copy of it: `count` lists of arrays."""
    source = torch.Generator()
    source.set_state(task.rng.get_state())
    return [
        [torch.randn(s, generator=source, dtype=torch.float64).numpy() for s in shapes]
        for _ in range(count)
    ]


def joined(parts):
    return np.concatenate([p.ravel() for p in parts])


@pytest.mark.parametrize("sphere", [False, True])
def test_two_point_equals_its_formula(sphere):
    task, other = task_of("logreg"), task_of("logreg")
    sub = at_work(task, "two_point", sphere=sphere, lr=0.1, u=0.05, noise=0.2)
    problem, w = Logistic(task, True), flat(task.params)
    for step in range(8):
        source = torch.Generator()
        source.set_state(task.rng.get_state())
        seeds = torch.randint(2**62, (5,), generator=source).tolist()
        z = []
        for seed in seeds:
            own = torch.Generator().manual_seed(seed)
            parts = [torch.randn(s, generator=own, dtype=torch.float64) for s in ((1, 12), (1,))]
            z.append(joined([p.numpy() for p in parts]))
            z[-1] = z[-1] / np.sqrt(z[-1] @ z[-1]) if sphere else z[-1]
        i = other.next_index().numpy()
        g = np.zeros(13)
        for e in z[:4]:
            slope = (problem.loss(w + 0.05 * e, i) - problem.loss(w - 0.05 * e, i)) / 0.1
            g += (13 if sphere else 1) * slope * e / 4
        rate = 0.1 * (1 + np.cos(np.pi * (step + 0.5) / 60)) / 2
        w = w - rate * (g + 0.2 * z[4])
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), w, rtol=1e-9, atol=1e-11)


def test_zo_smoothing_equals_its_formula():
    task, other = task_of("logreg"), task_of("logreg")
    sub = at_work(task, "zo_smoothing", lr=0.05, gamma=0.1, restart=5)
    problem, y = Logistic(task, True), flat(task.params)
    for step in range(12):
        if step % 5 == 0:
            z, total = y, 0.0
        alpha = (step % 5 + 2) * 0.05 / 2
        x = (total * y + alpha * z) / (total + alpha)
        i, g = other.next_index().numpy(), np.zeros(13)
        for parts in drawn(task, ((1, 12), (1,)), 4):
            e = joined(parts)
            e /= np.sqrt(e @ e)
            g += 13 * (problem.loss(x + 0.1 * e, i) - problem.loss(x - 0.1 * e, i)) / 0.2 * e / 4
        z = z - alpha * g
        y, total = (total * y + alpha * z) / (total + alpha), total + alpha
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), y, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("anisotropic", [True, False])
def test_cbo_equals_its_formula(anisotropic):
    task, other = task_of("logreg"), task_of("logreg")
    start = flat(task.params)
    (first,) = drawn(task, ((20, 13),), 1)
    hp = {"dt": 0.1, "sigma": 0.4, "alpha": 20.0, "heat": 1.05, "width": 0.5}
    sub = at_work(task, "cbo", anisotropic=anisotropic, **hp)
    problem, x, alpha = Logistic(task, True), start + 0.5 * first[0], 20.0
    for _ in range(10):
        i = other.next_index().numpy()
        values = np.array([problem.loss(particle, i) for particle in x])
        share = np.exp(-alpha * (values - values.min()))
        c = share @ x / share.sum()
        (noise,) = drawn(task, ((20, 13),), 1)
        size = np.abs(x - c)
        if not anisotropic:
            size = np.sqrt(((x - c) ** 2).sum(1, keepdims=True))
        x = x - 0.1 * (x - c) + 0.4 * np.sqrt(0.1) * size * noise[0]
        alpha *= 1.05
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), c, rtol=1e-8, atol=1e-10)


def test_cbo_without_noise_contracts_to_the_best_particle_and_refuses_large_models():
    task = task_of("logreg")
    sub = at_work(task, "cbo", sigma=0.1, alpha=1e3, dt=0.1, width=1.0)
    sub.algorithm.hp.sigma = 0.0
    spread = float(sub.algorithm.particles.std(dim=0).mean())
    advance(task, sub, 10)
    assert float(sub.algorithm.particles.std(dim=0).mean()) == pytest.approx(spread * 0.9**10)
    with pytest.raises(UserError, match="cbo is for up to 10,000 parameters"):
        at_work(task_of("gpt2"), "cbo")


def dense(task):
    """F and G of convex_admm as whole matrices, over the patterns it will draw, and y."""
    x, y = task._data["inputs"].numpy(), task._data["targets"].numpy()
    (directions,) = drawn(task, ((6, 10),), 1)
    active = (x @ directions[0] >= 0).T
    half = np.hstack([d[:, None] * x for d in active])
    F = np.hstack([half, -half])
    blocks = [(2.0 * d - 1)[:, None] * x for d in active] * 2
    G = np.zeros((20 * len(x), 20 * 6))
    for b, block in enumerate(blocks):
        G[b * len(x) : (b + 1) * len(x), b * 6 : (b + 1) * 6] = block
    return F, G, y


def test_convex_admm_equals_its_formula():
    task = task_of("two_layer_relu")
    F, G, y = dense(task)
    rho, weight = 0.2, len(y) * task.model.ridge
    sub = at_work(task, "convex_admm", rho=rho)
    v, dual, s, slack = np.zeros(120), np.zeros(120), np.zeros(len(G)), np.zeros(len(G))
    system = np.eye(120) + F.T @ F / rho + G.T @ G
    for _ in range(15):
        u = np.linalg.solve(system, F.T @ y / rho + v - dual + G.T @ (s - slack))
        moved = (u + dual).reshape(20, 6)
        norms = np.sqrt((moved**2).sum(1, keepdims=True))
        v = (np.maximum(1 - weight / (rho * norms), 0) * moved).ravel()
        s = np.maximum(G @ u + slack, 0)
        dual, slack = dual + u - v, slack + G @ u - s
        advance(task, sub)
        np.testing.assert_allclose(sub.algorithm.v.numpy().ravel(), v, rtol=1e-8, atol=1e-11)


def test_convex_admm_ends_at_a_network_with_the_objective_of_the_convex_problem():
    task = task_of("two_layer_relu")
    F, G, y = dense(task)
    sub = at_work(task, "convex_admm", rho=0.2)
    advance(task, sub, 2000)
    v = sub.algorithm.v.numpy().ravel()
    assert (G @ v).min() > -1e-4, "every block is active where its pattern says"
    norms = np.sqrt((v.reshape(20, 6) ** 2).sum(1))
    convex_value = ((F @ v - y) ** 2).mean() / 2 + task.model.ridge * norms.sum()
    loss = float(task.forward(task.next_batch()))
    assert loss == pytest.approx(convex_value, abs=1e-4)
    assert loss < 0.5, "the network of zeros"
    other = task_of("two_layer_relu")
    with pytest.raises(UserError, match="convex_admm needs a two-layer ReLU model"):
        at_work(task_of("logreg"), "convex_admm")
    advance(other, at_work(other, "adam", lr=0.02), 40)
    assert loss < float(other.forward(other.next_batch()))


# Who wins, at the numbers of mini


def full_task(name, steps):
    module, config = present(name)
    torch.manual_seed(0)
    return Task(module, config, module.data(config, "train"), module.model(config), 0, steps)


def ends(name, metric, steps, methods):
    """The metric after so many forward-backward passes, by method."""
    module, config = present(name)
    held = module.data(config, "val")
    batch = module.batch(held, torch.arange(module.size(held, config)), config)
    found = {}
    for method, hp in methods.items():
        per_step = discover.read(discover.find(method)).literals.get("PASSES", {})
        count = int(steps / per_step.get("forward_backward", 1))
        task = full_task(name, count)
        sub = at_work(task, method, **hp)
        advance(task, sub, count)
        with sub.evaluated():
            found[method] = scored(module, task.model, batch)[metric]
    return found


MOMENTUM = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "wd": 1e-6}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_acceleration_and_variance_reduction_win_on_logistic_regression():
    methods = {"sgd": MOMENTUM, "svrg": {"lr": 0.2}, "fista": {"lr": 0.4}}
    gaps = ends("logreg", "gap", 7200, methods)
    assert gaps["fista"] < 0.1 * gaps["sgd"]
    assert gaps["svrg"] < 0.1 * gaps["sgd"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_projections_win_over_vertices_and_vertices_over_a_penalty():
    methods = {"fista": {"lr": 0.33}, "frank_wolfe": {}, "sgd": MOMENTUM | {"lr": 0.03}}
    gaps = ends("constrained", "gap", 2000, methods)
    assert gaps["fista"] < 1e-9
    assert gaps["frank_wolfe"] < 1e-3
    assert gaps["sgd"] > gaps["frank_wolfe"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_extragradient_and_anchors_win_on_the_game_where_descent_stalls():
    methods = {
        "extragradient": {"lr": 0.45}, "halpern": {"lr": 0.45}, "optimistic_gradient": {"lr": 0.25},
        "sgd": SGD | {"lr": 0.03}, "adam": {"lr": 3e-3, "wd": 0.0},
    }  # fmt: skip
    distance = ends("game", "distance", 6000, methods)
    assert distance["halpern"] < distance["extragradient"] < 0.6
    assert distance["optimistic_gradient"] < 0.6
    assert min(distance["sgd"], distance["adam"]) > 0.8
