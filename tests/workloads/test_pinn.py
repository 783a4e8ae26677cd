"""Laws of the physics-informed workloads, their reference solutions and the samplers."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benches import workloads
from benches.workloads import plain as straightforward
from harness.catalog import definition, discover, space
from harness.catalog.definition import define, load_workload
from harness.derivatives import jacobian, mean_squares
from harness.errors import UserError
from harness.train.submission import Submission
from harness.train.task import Task
from submissions.samplers import causal_r3, r3, rad, uniform
from workloads.models.mlp import MLP
from workloads.pde import exact, spectral
from workloads.pde.collocation import spread

NAMES = ("convection", "reaction", "burgers", "poisson", "allen_cahn")
SAMPLERS = ("fixed", "uniform", "rad", "rar_d", "r3", "causal_r3")
VISCOSITY = 0.01 / np.pi


def tree_of(name):
    return definition.tree_of(f"pinn_{name}")


def configured(name, **changes):
    tree = tree_of(name)
    scale = "mini" if "mini" in tree else "base"
    definition = define(f"pinn_{name}", tree, scale, None)
    block = definition.block
    for key, value in changes.items():
        block[key] = block[key] | value if isinstance(value, dict) else value
    block["data"]["points"] = 2000
    return load_workload(definition), definition.config


def task_of(name, seed=0, steps=100, dtype=torch.float32, **changes):
    module, config = configured(name, **changes)
    data = {k: v.to(dtype) for k, v in module.data(config, "train", seed).items()}
    torch.manual_seed(seed)
    return Task(module, config, data, module.model(config).to(dtype), seed, steps)


def at_work(task, submission, **hp):
    card = discover.read(discover.find(submission))
    return Submission(card, space.default(card.literals["SPACE"]) | hp, task)


def workload_of(task):
    return sys.modules[task._workload.__name__]


def error_of(task, val):
    with torch.no_grad():
        sums = {k: float(v) for k, v in workload_of(task).metric(task.model, val).items()}
    return workload_of(task).score(sums)["relative_error"]


def at(*values):
    return np.array(values, dtype=float)


# Reference solutions


def test_exact_solutions_have_their_known_values():
    assert exact.convection(at(1), at(0.5), 30.0)[0, 0] == pytest.approx(-0.9906073557, abs=1e-10)
    assert exact.reaction(at(np.pi / 2), at(0.5), 5.0)[0, 0] == pytest.approx(
        0.6559761529, abs=1e-10
    )
    assert exact.poisson(at(0.5), at(0.5), 1.2)[0, 0] == pytest.approx(1.2)


@pytest.mark.parametrize(
    "t, x, u",
    [(0.25, -0.5, 0.8031984208), (0.5, -0.25, 0.8473545245),
     (0.75, 0.25, -0.6794667968), (1, 0.5, -0.3761813957)],
)  # fmt: skip
def test_burgers_by_cole_and_hopf_has_its_known_values(t, x, u):
    assert exact.burgers(at(x), at(t), VISCOSITY)[0, 0] == pytest.approx(u, abs=1e-10)


def test_two_methods_agree_on_burgers():
    """Cole-Hopf quadrature and a spectral solver share nothing."""
    x, t, nu = at(-0.7, -0.1, 0.3), at(0.25, 0.5), 3 * VISCOSITY
    other = spectral.burgers(x, t, nu, modes=512, step=1e-3)
    np.testing.assert_allclose(other, exact.burgers(x, t, nu), atol=1e-9)


def test_allen_cahn_has_its_known_values():
    found = spectral.allen_cahn(at(0, 0.5, -1), at(0.5, 1), 1e-4, modes=1024, step=1e-3)
    known = [[0.0012164451, -0.0038079628], [0.0295797210, -0.0640767977]]
    np.testing.assert_allclose(found[:, :2], known, atol=2e-6)
    assert found[1, 2] == pytest.approx(-0.9999988838, abs=1e-6)


@pytest.mark.slow
def test_allen_cahn_converges_to_its_known_values():
    """With 4,096 modes to ten digits; the 2,048 that workloads use are 7e-7 away, relative."""
    x, t = spread(-1, 1, 256), at(0.5, 1)
    places = np.concatenate([at(0, 0.5, -1), x])
    fine = spectral.allen_cahn(places, t, 1e-4, modes=4096, step=2.5e-4)
    known = [[0.0012164451, -0.0038079628], [0.0295797210, -0.0640767977]]
    np.testing.assert_allclose(fine[:, :2], known, atol=1e-9)
    assert fine[1, 2] == pytest.approx(-0.9999988838, abs=1e-9)
    used = spectral.allen_cahn(places, t, 1e-4)
    assert np.linalg.norm(used - fine) < 1e-6 * np.linalg.norm(fine)


def test_what_a_network_that_stands_still_scores():
    """u(x, 0) for all times: the error of the classic failure, in closed form for a wave."""
    x, t = np.linspace(0, 2 * np.pi, 512, endpoint=False), np.linspace(0, 1, 251)
    for speed, published in ((30.0, 1.4356), (50.0, 1.4151)):
        u = exact.convection(x, t, speed)
        error = np.linalg.norm(u - u[0]) / np.linalg.norm(u)
        assert error == pytest.approx(published, abs=1e-4)
        assert error == pytest.approx((2 - 2 * math.sin(speed) / speed) ** 0.5, abs=0.004)


def test_burgers_has_its_known_maximum():
    x = np.linspace(-1, 1, 257)
    u = exact.burgers(x, at(1), VISCOSITY)[0]
    assert u.max() == pytest.approx(0.7117751624, abs=1e-10)
    assert abs(x[u.argmax()]) == 1 / 32
    np.testing.assert_allclose(u, -u[::-1], atol=1e-12)


@pytest.mark.parametrize("scale", ["mini", pytest.param("base", marks=pytest.mark.slow)])
def test_no_network_without_diffusion_meets_the_goal_of_allen_cahn(scale):
    """Then u = u0 e^{5t} / sqrt(1 + u0² (e^{10t} - 1)), whose error is above the goal."""
    block = tree_of("allen_cahn")[scale]
    wide, high = block["data"]["grid"]
    x, t = spread(-1, 1, wide), spread(0, block["data"]["duration"], high)
    start = x**2 * np.cos(np.pi * x)
    without = start * np.exp(5 * t[:, None])
    without = without / np.sqrt(1 + start**2 * (np.exp(10 * t[:, None]) - 1))
    least = block["data"]["diffusion"] * (1 - block["data"]["spread"])
    u = spectral.allen_cahn(x, t, least, modes=1024, step=1e-3)
    error = np.linalg.norm(without - u) / np.linalg.norm(u)
    assert error > block["goal"]["relative_error"]["at_most"]


def test_two_methods_agree_on_allen_cahn():
    """A smooth stretch of the equation against finite differences and scipy's implicit solver."""
    from scipy.integrate import solve_ivp

    n, diffusion = 800, 1e-2
    x = -1 + 2 * np.arange(n) / n

    def slope(_, u):
        curvature = (np.roll(u, 1) - 2 * u + np.roll(u, -1)) * (n / 2) ** 2
        return diffusion * curvature + 5 * (u - u**3)

    solved = solve_ivp(slope, (0, 0.5), x**2 * np.cos(np.pi * x), "LSODA", at(0.5), rtol=1e-8,
                       atol=1e-10, lband=1, uband=1)  # fmt: skip
    ours = spectral.allen_cahn(x[100::100], at(0.5), diffusion, modes=1024, step=1e-3)[0]
    np.testing.assert_allclose(solved.y[100::100, 0], ours, atol=2e-4)


class Exact(torch.nn.Module):
    """A workload's solution in torch, as a model: derivatives by autograd, twice."""

    def __init__(self, u):
        super().__init__()
        self.u, self.unused = u, torch.nn.Parameter(torch.zeros(()))

    def forward(self, points):
        return self.u(points[:, 0], points[:, 1])

    def slopes(self, points):
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            u = self(points)
            return u, torch.autograd.grad(u.sum(), points, create_graph=True)[0]

    def curvatures(self, points, axes):
        return straightforward(self, points, axes)


def solution(name, c, angle):
    pi = math.pi
    if name == "convection":
        return lambda x, t: torch.sin(x - angle - c * t)
    if name == "reaction":
        start = lambda x: torch.exp(-((x - pi) ** 2) / (2 * (pi / 4) ** 2))  # noqa: E731
        return lambda x, t: 1 / (1 + (1 / start(x) - 1) * torch.exp(-c * t))
    if name == "poisson":
        return lambda x, y: c * torch.sin(pi * x) * torch.sin(pi * y)
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite.hermgauss(200))

    def burgers(x, t):
        y = x[:, None] - 2 * torch.sqrt(c * t)[:, None] * nodes
        power = -torch.cos(pi * y) / (2 * pi * c)
        density = weights * torch.exp(power - power.detach().amax(1, keepdim=True))
        return -(torch.sin(pi * y) * density).sum(1) / density.sum(1)

    return burgers


@pytest.mark.parametrize("name", ["convection", "reaction", "burgers", "poisson"])
def test_the_solution_has_no_residual_no_error_and_meets_the_conditions(name):
    from workloads.pde.collocation import draw

    module, config = configured(name)
    number = {
        "convection": "speed",
        "reaction": "rate",
        "burgers": "viscosity",
        "poisson": "amplitude",
    }
    c, angle = draw(config, 3, getattr(config.data, number[name]))
    model = Exact(solution(name, c, angle))
    train, val = (module.data(config, split, 3) for split in ("train", "val"))
    train = {k: v.double() for k, v in train.items()}
    if name == "burgers":  # t = 0 is a limit of the quadrature
        train["initial"][:, 1] += 1e-12
        train["points"][:, 1].clamp_(min=1e-3)
    train["coefficient"] = torch.tensor(c, dtype=torch.float64)
    batch = module.batch(train, torch.arange(300), config)
    scale = {"poisson": 20.0}.get(name, c if name != "burgers" else 10.0)
    for term, values in module.terms(model, batch).items():
        weight = getattr(config.loss, term, 1.0) ** 0.5
        assert values.abs().max() < 1e-5 * weight * scale, term
    val = module.batch(val, torch.arange(len(val["points"])), config)
    sums = {k: float(v) for k, v in module.metric(model, val).items()}
    assert module.score(sums)["relative_error"] < 2e-5


def test_allen_cahn_residual_is_that_of_finite_differences():
    """Residual of a network, against differences of its values in float64."""
    task = task_of("allen_cahn", dtype=torch.float64)
    low, high = task.box.double()
    points = low + (high - low) * (torch.rand(50, 2, dtype=torch.float64) * 0.8 + 0.1)
    residual = task.terms(task.batch_at(points))["residual"]
    u = lambda dx=0.0, dt=0.0: task.model(points + torch.tensor([dx, dt]).double())  # noqa: E731
    h, d = 1e-4, task._data["coefficient"]
    with torch.no_grad():
        u_t, u_xx = (u(0, h) - u(0, -h)) / (2 * h), (u(h) - 2 * u() + u(-h)) / h**2
        expected = u_t - d * u_xx - 5 * u() + 5 * u() ** 3
    torch.testing.assert_close(residual, expected, rtol=1e-5, atol=1e-5)


# Problems drawn from seeds


@pytest.mark.parametrize("name", ["convection", "reaction", "burgers", "poisson"])
def test_each_seed_is_a_problem_of_its_own_and_the_grid_is_not_in_the_pool(name):
    module, config = configured(name)
    a, again, b = (module.data(config, "train", seed) for seed in (0, 0, 1))
    assert all(torch.equal(a[k], again[k]) for k in a)
    assert a["coefficient"] != b["coefficient"]
    batch = module.batch(a, torch.arange(3), config)
    values = [v for v in batch.values() if not torch.equal(v, v.round())]
    assert not any((v == a["coefficient"]).any() for v in values), "a batch tells the coefficient"
    assert "values" not in a
    one, other = (module.data(config, "val", seed) for seed in (0, 1))
    assert torch.equal(one["points"], other["points"])
    assert (one["values"] - other["values"]).norm() > 1e-3 * one["values"].norm()
    pool = {tuple(p) for p in a["points"].tolist()}
    assert not pool & {tuple(p) for p in one["points"].tolist()}


# Derivatives and hooks


@pytest.mark.parametrize("harmonics", [0, 3])
def test_derivatives_equal_straightforward_nested_autograd(harmonics):
    torch.manual_seed(0)
    model = MLP(9, 3, harmonics, period=2.0, initialisation="glorot").double()
    points = torch.rand(40, 2, dtype=torch.float64)
    ours, second = model.slopes(points), model.curvatures(points, (0, 1))
    theirs = straightforward(model, points, (0, 1))
    assert_close = torch.testing.assert_close
    for found in (ours, second[:2]):
        assert_close(found[0], theirs[0])
        assert_close(found[1], theirs[1])
    for a, b in zip(second[2], theirs[2], strict=True):
        assert_close(a, b)
    weights = [p for n, p in model.named_parameters()]
    loss = lambda parts: parts[1].square().sum() + parts[2][0].square().sum()  # noqa: E731
    for a, b in zip(
        torch.autograd.grad(loss(second), weights, allow_unused=True),
        torch.autograd.grad(loss(theirs), weights, allow_unused=True),
        strict=True,
    ):
        if a is None or b is None:
            assert a is b or (b if a is None else a).abs().max() == 0  # the last bias has no slope
        else:
            assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convection", "burgers"])
def test_a_step_is_at_least_as_fast_as_with_nested_autograd(name):
    """CPU time on one thread, blocks of both sides alternating; the best of three tries."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides = workloads.derivatives(f"pinn_{name}", straightforward)
        ratios = [workloads.paired(*sides)[2] for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    assert max(ratios) >= 1.0, ratios


def test_harmonic_inputs_make_the_network_periodic():
    model = MLP(8, 2, 4, period=2.0)
    points = torch.rand(20, 2)
    torch.testing.assert_close(
        model(points), model(points + torch.tensor([2.0, 0.0])), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_exact(name):
    """Against central differences of the loss in float64, along random directions."""
    task = task_of(name, dtype=torch.float64)
    batch = task.next_batch(30)
    task.forward_backward(batch)
    grads = [p.grad.clone() for p in task.params]
    with torch.no_grad():
        for trial in range(3):
            torch.manual_seed(trial)
            way = [torch.randn_like(p) for p in task.params]
            values = []
            for h in (1e-5, -2e-5):
                for p, d in zip(task.params, way, strict=True):
                    p.add_(d, alpha=h)
                values.append(task.forward(batch))
            for p, d in zip(task.params, way, strict=True):
                p.add_(d, alpha=1e-5)
            slope = sum((g * d).sum() for g, d in zip(grads, way, strict=True))
            torch.testing.assert_close((values[0] - values[1]) / 2e-5, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["convection", "poisson"])
def test_residual_vector_jacobian_products_and_loss_agree(name):
    task = task_of(name, dtype=torch.float64, model={"width": 6, "depth": 2})
    batch = task.next_batch(20)
    r = task.residuals(batch)
    loss = task.forward_backward(batch)
    torch.testing.assert_close(r.square().sum(), loss)
    torch.testing.assert_close(task.losses(batch).mean(), loss)
    for p, g in zip(task.params, task.vjp(batch, 2 * r), strict=True):
        torch.testing.assert_close(g, p.grad)
    torch.manual_seed(1)
    way = [torch.randn_like(p) for p in task.params]
    pushed = task.jvp(batch, way)
    pulled = task.vjp(batch, torch.ones_like(r))
    torch.testing.assert_close(
        pushed.sum(), sum((a * b).sum() for a, b in zip(way, pulled, strict=True))
    )
    assert {k.partition("@")[0]: n for k, n in task.meter.counts.items()} == {
        "forward": 2, "forward_backward": 1, "vjp": 2, "jvp": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, "obstacle"])
@pytest.mark.parametrize("count", [1, 64, 70])
def test_a_jacobian_by_parts_is_that_of_all_residuals(name, count):
    task = task_of(name, model={"width": 6, "depth": 2})
    low, high = task.box
    source = torch.Generator().manual_seed(0)
    points = low + (high - low) * torch.rand(count, len(low), generator=source)
    batch, sizes = task.batch_at(points), []
    whole = task._residuals(batch)
    second = jacobian(whole, task.params)
    terms = task._workload.terms
    task._workload = SimpleNamespace(
        get=lambda asked: lambda model, b: sizes.append(len(b["points"])) or terms(model, b)
    )
    r, j = task.jacobian(batch)
    torch.testing.assert_close(r, whole.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(j, second, rtol=1e-4, atol=1e-5)
    assert sizes == {1: [1, 1], 64: [1, 64], 70: [1, 64, 6]}[count]


def test_weights_of_terms_scale_them_and_unknown_ones_are_refused():
    task = task_of("convection")
    batch = task.next_batch()
    plain = task.forward_backward(batch)
    terms = dict(task.last_terms)
    assert terms["residual"].shape == (task.batch_size,)
    half = task.forward_backward(batch, weights={"residual": torch.full((task.batch_size,), 0.5)})
    torch.testing.assert_close(plain - half, 0.75 * terms["residual"].square().mean())
    torch.testing.assert_close(mean_squares(terms), plain)
    with pytest.raises(ValueError, match="residual"):
        task.forward_backward(batch, weights={"interior": torch.ones(1)})


def test_points_outside_the_box_are_an_error():
    task = task_of("convection")
    for points in (torch.tensor([[7.0, 0.5]]), torch.tensor([[1.0, math.nan]]), torch.rand(3, 3)):
        with pytest.raises(ValueError, match="box"):
            task.batch_at(points)
    assert len(task.batch_at(torch.tensor([[6.0, 0.5]]))["points"]) == 1


def test_a_workload_without_a_box_says_so():
    from workloads import matrix_completion

    data = {"row": torch.arange(3)}
    task = Task(matrix_completion, type("", (), {"batch": 3}), data, torch.nn.Linear(1, 1), 0, 1)
    with pytest.raises(UserError, match="box"):
        _ = task.box


def test_an_unknown_initialisation_is_an_error():
    with pytest.raises(UserError, match="glorot"):
        MLP(3, 1, initialisation="xavier")


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_can_be_built(name):
    tree = tree_of(name)
    for scale in [k for k, v in tree.items() if isinstance(v, dict)]:
        for variant in (None, *tree[scale].get("variants", {})):
            definition = define(f"pinn_{name}", tree, scale, variant)
            with torch.device("meta"):
                load_workload(definition).model(definition.config)


# Samplers


def test_retaining_ignores_the_scale_and_keeps_nothing_of_a_constant():
    fitness = torch.rand(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(r3.retained(fitness), r3.retained(7 * fitness))
    assert (fitness[r3.retained(fitness)] > fitness.mean()).all()
    assert not r3.retained(torch.ones(9)).any()


def test_r3_gathers_points_where_the_residual_is_large():
    """For F(x) = x the population mean climbs from .5 to .626 at once, to .953 in 200 rounds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1000, generator=generator)
    means = []
    for _ in range(200):
        x = torch.where(r3.retained(x), x, torch.rand(1000, generator=generator))
        means.append(x.mean().item())
    assert means[0] == pytest.approx(0.626, abs=0.02)
    assert means[4] == pytest.approx(0.757, abs=0.03)
    assert means[-1] == pytest.approx(0.953, abs=0.01)


def test_r3_equals_its_transcription():
    task = task_of("convection")
    sub = at_work(task, "r3")
    before = sub.algorithm.state["points"].clone()
    sub.step()
    fitness = task.last_terms["residual"].abs().double()
    now = sub.algorithm.state["points"]
    kept = fitness > fitness.mean()
    assert torch.equal(now[kept], before[kept])
    assert not (now[~kept] == before[~kept]).all(1).any()


def test_an_open_gate_is_plain_r3_and_a_closed_one_trains_nothing_inside():
    times = torch.linspace(0, 1, 11)
    assert (causal_r3.gate(times, 50.0) == 1).all()
    assert causal_r3.gate(torch.tensor(0.0), -0.5) == pytest.approx(0.00669, abs=1e-5)
    assert causal_r3.gate(torch.tensor(0.3), 0.3) == 0.5
    runs = []
    for name, c in (("r3", None), ("causal_r3", 50.0)):
        task = task_of("convection")
        sub = at_work(task, name)
        if c:
            sub.algorithm.state["c"] = c
        for _ in range(3):
            sub.step()
        runs.append(torch.cat([p.flatten() for p in task.params]))
    torch.testing.assert_close(*runs)


def test_rad_density_follows_the_residual():
    r = torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(rad.density(r, 1.0, 1.0), torch.tensor([1.5, 2.0, 2.5]).double())
    flat = rad.density(r, 0.0, 2.0)
    assert (flat == flat[0]).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_resume_bit_exactly_and_count_their_passes(name):
    def steps(sub, count):
        for _ in range(count):
            sub.step()
            sub.task.step += 1

    tasks = [task_of("convection", batch=40, model={"width": 8}) for _ in range(2)]
    for task in tasks:
        task.step = 96
    whole, part = (at_work(task, name) for task in tasks)
    steps(whole, 8)
    steps(part, 5)
    resumed = task_of("convection", batch=40, model={"width": 8})
    sub = at_work(resumed, name)
    resumed.model.load_state_dict(tasks[1].model.state_dict())
    resumed.load_state_dict(tasks[1].state_dict())
    sub.load_state_dict(part.state_dict())
    steps(sub, 3)
    for a, b in zip(tasks[0].params, resumed.params, strict=True):
        assert torch.equal(a, b)
    dense = {"forward@batch=20": 1} if name in ("rad", "rar_d") else {}
    assert tasks[0].meter.counts == {"forward_backward": 8} | dense
    assert set(tasks[0].meter.counts) <= set(
        sub.card.literals.get("PASSES", {"forward_backward": 1})
    )


def test_uniform_points_change_and_fixed_ones_do_not():
    for name, moved in (("uniform", True), ("fixed", False)):
        task = task_of("convection")
        sub = at_work(task, name)
        before = sub.algorithm.state["points"]
        sub.step()
        assert moved != torch.equal(before, sub.algorithm.state["points"])
    assert uniform.draw(task, 500).mean(0).tolist() == pytest.approx([math.pi, 0.5], rel=0.1)


# The law `descends` is about each of them; here two that move their points by the residual.
FITTED = [("reaction", "causal_r3"), ("poisson", "r3")]


@pytest.mark.parametrize(
    "name, sampler",
    FITTED + [pytest.param("reaction", s, marks=pytest.mark.slow) for s in SAMPLERS[:-1]],
)
def test_every_sampler_makes_the_error_smaller(name, sampler):
    changes = {"data": {"rate": 2.0}} if name == "reaction" else {}
    task = task_of(name, steps=200, batch=50, **changes)
    val = workload_of(task).data(task._config, "val", 0)
    start, sub = error_of(task, val), at_work(task, sampler, lr=5e-3)
    for _ in range(200):
        sub.step()
        task.step += 1
    assert error_of(task, val) < 0.5 * start
