"""Laws of the matrix workloads and of the methods for them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness import roles
from harness.catalog import discover, space
from harness.catalog.definition import define, load_workload, tree_of
from harness.errors import UserError
from harness.train.submission import Submission
from harness.train.task import Task
from submissions.matrix import scaled_gd_lambda
from workloads.matrix_sensing import pack

NAMES = ("matrix_sensing", "matrix_robust", "matrix_asymmetric", "matrix_completion")
SMALL = {
    "matrix_sensing": {"data": {"size": 20, "kappa": 10.0, "measurements": 600}, "batch": 600},
    "matrix_robust": {"data": {"size": 20, "measurements": 600}, "batch": 600},
    "matrix_asymmetric": {
        "data": {"rows": 14, "columns": 10, "kappa": 5.0, "measurements": 500},
        "batch": 500,
    },
    "matrix_completion": {
        "data": {"rows": 60, "columns": 60, "rank": 2, "kappa": 5.0, "share": 0.5},
        "model": {"rank": 2},
        "batch": 60,
    },
}
FITTING = [  # every method where it belongs: workload, submission, steps, changes, factor of error
    ("matrix_sensing", "gd", 300, {}, 0.2),
    ("matrix_sensing", "scaled_gd_lambda", 300, {"damping": 0.1}, 1e-2),
    ("matrix_sensing", "scaled_gd", 60, {}, 0.5),
    ("matrix_sensing", "precgd", 150, {}, 1e-6),
    ("matrix_robust", "subgm", 800, {"final": 1e-3}, 1e-2),
    ("matrix_asymmetric", "gd", 300, {}, 0.2),
    ("matrix_asymmetric", "scaled_gd_lambda", 200, {"shrink": 1.0, "damping": 0.2}, 0.2),
    ("matrix_asymmetric", "precgd", 150, {}, 1e-4),
    ("matrix_asymmetric", "alternating_minimisation", 30, {}, 1e-4),
    ("matrix_completion", "scaled_gd", 80, {}, 1e-4),
    ("matrix_completion", "alternating_minimisation", 20, {}, 1e-4),
]


def configured(name, scale="mini", variant=None, **changes):
    definition = define(name, tree_of(name), scale, variant)
    block = definition.block
    for key, value in (
        SMALL[name] | changes if scale == "mini" and variant is None else {}
    ).items():
        block[key] = block[key] | value if isinstance(value, dict) else value
    return load_workload(definition), definition.config


def task_of(name, steps=100, **changes):
    module, config = configured(name, **changes)
    data = module.data(config, "train")
    torch.manual_seed(0)
    return Task(module, config, data, module.model(config), 0, steps)


def at_work(task, submission, **hp):
    card = discover.read(discover.find(submission))
    return Submission(card, space.default(card.literals["SPACE"]) | hp, task)


def workload_of(task):
    return sys.modules[task._workload.__name__]


def error_of(task):
    module, config = workload_of(task), task._config
    val = module.data(config, "val")
    batch = module.batch(val, torch.arange(module.size(val, config)), config)
    with torch.no_grad():
        sums = {k: float(v) for k, v in module.metric(task.model, batch).items()}
    return module.score(sums)["relative_error"]


def put_truth(task):
    """Make the model the true matrix."""
    val = workload_of(task).data(task._config, "val")["truth"]
    u, s, vh = torch.linalg.svd(val.reshape(-1, val.shape[-1]), full_matrices=False)
    s = torch.where(s > 1e-9, s, 0)
    for p, side in zip(task.params, (u, vh.T), strict=False):
        p.data.zero_()
        k = min(p.shape[1], 5)
        p.data[:, :k] = (side * s.sqrt())[:, :k]


def bare(task):
    """A second implementation, numpy and dense: factors -> loss, gradients."""
    data = {k: v.numpy() for k, v in task._data.items()}
    name, dense = task._workload.__name__.rpartition(".")[2], data.get("design")
    if len(task.params) == 1:
        dense = np.array([unpack(row, len(task.params[0])) for row in dense]).reshape(
            len(dense), -1
        )

    def gradient(factors):
        left, right = factors[0], factors[-1]
        matrix = left @ right.T
        if name == "matrix_completion":
            g = data["seen"] * (matrix - data["values"]) / task._config.data.share
            loss = (g**2).sum() * task._config.data.share / 2
        else:
            r = dense @ matrix.ravel() - data["measurements"]
            if name == "matrix_robust":
                loss, r = np.abs(r).mean() / 2, np.sign(r)
            else:
                loss = (r**2).mean() / (4 if len(factors) == 1 else 2)
            g = (dense.T @ r / len(r)).reshape(matrix.shape)
        return loss, [g @ left] if len(factors) == 1 else [g @ right, g.T @ left]

    return gradient


def unpack(row, n):
    """The symmetric matrix whose dot product with S is that of the packed vectors."""
    upper = np.zeros((n, n))
    upper[np.triu_indices(n)] = row
    off = np.triu(upper, 1) / np.sqrt(2)
    return np.diag(np.diag(upper)) + off + off.T


def test_packing_keeps_the_inner_product():
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, 7, dtype=torch.float64)
    a, b = a + a.T, b + b.T
    torch.testing.assert_close(pack(a) @ pack(b), (a * b).sum())
    assert np.allclose(unpack(pack(a).numpy(), 7), a)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_a_bare_numpy_loop(name):
    task = task_of(name)
    for p in task.params:
        p.data.normal_(generator=task.rng)
    loss = task.forward_backward(task.next_batch())
    expected, gradients = bare(task)([p.detach().numpy() for p in task.params])
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    for p, g in zip(task.params, gradients, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_per_example_losses_average_to_the_loss_and_can_be_minibatches(name):
    task = task_of(name)
    torch.testing.assert_close(
        task.losses(task.next_batch()).mean(), task.forward(task.next_batch())
    )
    batch = task.next_batch(7)
    assert task.losses(batch).shape == (7,)
    each = task.per_example_grads(batch)
    task.forward_backward(batch)
    for p, g in zip(task.params, each, strict=True):
        torch.testing.assert_close(g.mean(0), p.grad)


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_has_no_error_and_the_runner_does_not_hold_it(name):
    task = task_of(name)
    put_truth(task)
    assert error_of(task) < 1e-12
    loss = task.forward(task.next_batch())
    assert loss > 0.1 if name == "matrix_robust" else loss < 1e-24
    assert "truth" not in task._data


def test_design_is_nearly_an_isometry_on_low_rank_matrices():
    module, config = configured("matrix_sensing")
    design = module.data(config, "train")["design"]
    for seed in range(5):
        x = module.orthonormal(20, 6, torch.Generator().manual_seed(seed))
        s = pack(x[:, :3] @ x[:, :3].T - x[:, 3:] @ x[:, 3:].T)
        assert (design @ s).square().mean() / s.square().sum() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_can_be_built(name):
    tree = tree_of(name)
    for scale in ("mini", "base"):
        for variant in (None, *tree[scale].get("variants", {})):
            module, config = configured(name, scale, variant)
            with torch.device("meta"):
                model = module.model(config)
            assert {r.kind for r in roles.of(model).values()} == {"factor"}


def follow(task, sub, rule, steps):
    """Run the submission and a numpy rule(factors, loss, gradients, step) side by side."""
    factors, gradient = [p.detach().numpy().copy() for p in task.params], bare(task)
    for step in range(steps):
        sub.step()
        task.step += 1
        factors = rule(factors, *gradient(factors), step)
        for p, expected in zip(task.params, factors, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-9, atol=1e-11)


def grams(factors):
    return [f.T @ f for f in reversed(factors)]


@pytest.mark.parametrize("name", ["matrix_sensing", "matrix_asymmetric"])
@pytest.mark.parametrize("method", ["gd", "scaled_gd_lambda", "precgd"])
def test_method_equals_its_transcription(name, method):
    changes = {"model": {"init_scale": 0.7}}
    hp = {"shrink": 1.0} if method == "scaled_gd_lambda" else {}
    task = task_of(name, **changes)
    sub = at_work(task, method, **hp)

    def rule(factors, loss, gradients, step):
        if method == "gd":
            return [f - 0.5 * g for f, g in zip(factors, gradients, strict=True)]
        lr, damping = (0.3, 1e-2) if method == "scaled_gd_lambda" else (0.5, np.sqrt(loss))
        return [
            f - lr * g @ np.linalg.inv(gram + damping * np.eye(len(gram)))
            for f, g, gram in zip(factors, gradients, grams(factors), strict=True)
        ]

    follow(task, sub, rule, 8)


def test_subgm_equals_its_transcription():
    task = task_of("matrix_robust", steps=10, model={"init_scale": 0.5})
    sub = at_work(task, "subgm")

    def rule(factors, loss, gradients, step):
        return [factors[0] - 0.3 * 1e-6 ** ((step + 0.5) / 10) * gradients[0]]

    follow(task, sub, rule, 8)


@pytest.mark.parametrize("name", ["matrix_sensing", "matrix_asymmetric", "matrix_completion"])
def test_scaled_gd_equals_its_transcription_after_a_spectral_start(name):
    rank = 2 if name == "matrix_completion" else 3
    task = task_of(name, model={"rank": rank})
    sub = at_work(task, "scaled_gd", power=60)
    for _ in range(60):
        sub.step()
        task.step += 1
    zeros = [np.zeros(p.shape) for p in task.params]
    gradient, columns = bare(task), []
    for j in range(zeros[-1].shape[0]):  # -∇_L f at L = 0, R = e_j eᵀ: column j of A*(y)
        probe = [z.copy() for z in zeros]
        probe[-1][j, 0] = 1e-6
        columns.append(-gradient(probe)[1][0][:, 0] / 1e-6)
    back = np.stack(columns, axis=1)
    u, s, vh = np.linalg.svd(back)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    np.testing.assert_allclose(task.model().detach().numpy(), best, atol=2e-3 * s[0])

    def rule(factors, loss, gradients, step):
        scaled = zip(factors, gradients, grams(factors), strict=True)
        return [f - 0.5 * g @ np.linalg.inv(gram) for f, g, gram in scaled]

    follow(task, sub, rule, 4)


@pytest.mark.parametrize("name", ["matrix_asymmetric", "matrix_completion"])
def test_alternating_minimisation_solves_each_regression(name):
    task = task_of(name, model={"rank": 2, "init_scale": 1.0})
    sub = at_work(task, "alternating_minimisation", inner=60)
    for step in range(3):
        sub.step()
        task.step += 1
        task.forward_backward(task.next_batch())
        assert task.params[step % 2].grad.norm() < 1e-8
        other = task.params[1 - step % 2].detach()
        torch.testing.assert_close(other.T @ other, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["matrix_asymmetric", "matrix_completion"])
def test_alternating_minimisation_equals_its_formula(name):
    """After n iterations of conjugate gradients f is least in the span of g, Hg, ..., Hⁿ⁻¹g."""
    task = task_of(name, model={"rank": 2, "init_scale": 1.0})
    sub, gradient = at_work(task, "alternating_minimisation", inner=4), bare(task)

    def rule(factors, loss, gradients, step):
        mine, other = step % 2, 1 - step % 2
        q, t = np.linalg.qr(factors[other])
        start = factors[mine] @ t.T

        def slope(x):
            both = [q, q]
            both[mine] = x.reshape(start.shape)
            return gradient(both)[1][mine].ravel()

        # f is quadratic: columns of its Hessian are differences of gradients.
        g, zero = slope(start), slope(0 * start)
        hessian = np.array([slope(e) - zero for e in np.eye(start.size)])
        basis = np.zeros((start.size, 0))
        for _ in range(4):
            new = hessian @ basis[:, -1] if basis.size else g
            for _ in range(2):
                new = new - basis @ (basis.T @ new)
            basis = np.column_stack([basis, new / np.linalg.norm(new)])
        moved = basis @ np.linalg.solve(basis.T @ hessian @ basis, basis.T @ g)
        assert np.linalg.norm(hessian @ moved - g) > 1e-4 * np.linalg.norm(g), "not yet solved"
        new = [q, q]
        new[mine] = start - moved.reshape(start.shape)
        return new

    follow(task, sub, rule, 4)


def test_scaled_steps_do_not_depend_on_the_basis_of_the_factors():
    """(L, R) -> (LQ, RQ⁻ᵀ) leaves L Rᵀ alone, and without damping the step leaves it so."""
    torch.manual_seed(1)
    left, right, turn = (torch.randn(n, 3, dtype=torch.float64) for n in (8, 6, 3))
    slope = torch.randn(8, 6, dtype=torch.float64)
    products = []
    for q in (torch.eye(3, dtype=torch.float64), turn + 2 * torch.eye(3, dtype=torch.float64)):
        pair = [left @ q, right @ torch.linalg.inv(q).T]
        moves = scaled_gd_lambda.precondition(pair, [slope @ pair[1], slope.T @ pair[0]], 0.0)
        products.append((pair[0] - 0.1 * moves[0]) @ (pair[1] - 0.1 * moves[1]).T)
    torch.testing.assert_close(products[0], products[1], rtol=1e-10, atol=1e-10)


def test_infinite_damping_is_gradient_descent():
    torch.manual_seed(1)
    x, g = torch.randn(2, 9, 4, dtype=torch.float64)
    (scaled,) = scaled_gd_lambda.precondition([x], [g], 1e9)
    torch.testing.assert_close(1e9 * scaled, g, rtol=1e-7, atol=1e-7)


def test_precgd_stays_at_the_truth():
    task = task_of("matrix_sensing")
    put_truth(task)
    before = task.params[0].detach().clone()
    sub = at_work(task, "precgd")
    for _ in range(5):
        sub.step()
    torch.testing.assert_close(task.params[0].detach(), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name, method, steps, hp, factor", FITTING)
def test_every_method_makes_the_error_smaller(name, method, steps, hp, factor):
    changes = {"model": {"rank": 3, "init_scale": 1e-3}} if name in ("matrix_robust",) else {}
    if method == "scaled_gd" and name != "matrix_completion":
        changes = {"model": {"rank": 3}}
    task = task_of(name, steps=steps, **changes)
    start, sub = error_of(task), at_work(task, method, **hp)
    for _ in range(steps):
        sub.step()
        task.step += 1
    assert error_of(task) < factor * start


def test_methods_for_factors_refuse_other_models():
    plain = torch.nn.Linear(3, 2)
    task = SimpleNamespace(params=list(plain.parameters()), roles=list(roles.of(plain).values()))
    for method in ("precgd", "alternating_minimisation"):
        module = discover.load(discover.find(method))
        with pytest.raises(UserError, match="factors"):
            module.Algorithm(task, None)
